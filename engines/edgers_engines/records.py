"""JSON in and out: frozen, strictly typed records. Manifests and certificates are read by this alone."""

from __future__ import annotations

import json
import math
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
        tree = json.loads(
            data.decode(),  # json.loads would also take UTF-16, and surrogates
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        record = msgspec.convert(tree, kind, strict=True)
        msgspec.json.encode(record)  # fails on the lone surrogates that JSON's escapes can spell
    except UnicodeError as error:
        raise ValueError(f"not valid utf-8: {error.reason}") from None  # type: ignore[attr-defined]
    except RecursionError:
        raise ValueError("nested too deeply to be a record") from None
    return record


def dump(record: Record) -> bytes:
    """The record as UTF-8 JSON with two spaces of indentation and a final newline."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} is there twice in one object")
        found[name] = value
    return found


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
