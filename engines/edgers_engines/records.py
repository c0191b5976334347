"""JSON in and out: frozen, strictly typed records. Manifests and certificates are read by this alone."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every record that is stored as JSON: immutable, no unknown fields, no coercion of types."""


R = TypeVar("R", bound=Record)


def parse(data: bytes, kind: type[R]) -> R:
    """Read one record from JSON text.

    Args:
        data: UTF-8 JSON, one object.
        kind: the record's class.

    Raises:
        ValueError: not JSON, a repeated key, NaN or Infinity, nesting too deep, or not of the schema; the
            text names the path in the document, what was found and what was expected.
    """
    try:
        tree = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
        return msgspec.convert(tree, kind, strict=True)
    except RecursionError:
        raise ValueError("nested too deeply to be a record") from None


def dump(record: Record) -> bytes:
    """The record as UTF-8 JSON with two spaces of indentation and a final newline."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated!r} is there twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
