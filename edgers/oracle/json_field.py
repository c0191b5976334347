"""One field of the JSON object in an answer, or nothing: what is not plain to read is not guessed at."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

# From the first brace to the last, so a second object is an error of syntax, and no brace around them.
_OBJECT = re.compile(r"[^{}]*(\{.*\})[^{}]*", re.DOTALL)
_MAX_BRACKETS = 100  # so that no object is nested more deeply than every interpreter reads
_SPELLED = {True: "true", False: "false"}


def read_field(text: str, field: str) -> str | None:
    """The value of a field of the one JSON object in a text.

    Prose, or the fence of a code block, may stand around the object if it holds no brace. A text is read as
    it is, and true and false as words. A number is not read, for patterns see neither its sign nor its point;
    nor are null, lists and objects.

    Returns:
        The value; None where there is no such object or more than one, it is not JSON (NaN and Infinity are
        none), a key of any object in it repeats, it holds more than 100 opening brackets, or the field is
        missing, not to be read, or no valid Unicode.
    """
    match = _OBJECT.fullmatch(text)
    if match is None or match[1].count("{") + match[1].count("[") > _MAX_BRACKETS:
        return None
    try:
        value = _DECODER.decode(match[1])[field]
        spelled: str = _SPELLED[value] if isinstance(value, bool) else value
        spelled.encode()  # fails on the lone surrogates that JSON's escapes can spell
    except (ValueError, KeyError, AttributeError):
        return None
    return spelled


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key is there twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


# Integers as floats: one of thousands of digits takes long otherwise, or fails by a setting of Python's.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=float)
