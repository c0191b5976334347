"""Protocol buffers' wire format, read strictly: what two parsers could read in two ways is refused.

The usual parsers are lenient: they skip fields they do not know, let a later value of a field win, merge
messages that occur twice, cut numbers to 32 bits. Here every field is on a list, with its one wire type and
the number of times it may occur, and numbers have their shortest form. Source:
https://protobuf.dev/programming-guides/encoding/.

Nothing recurses: a message inside a message is read when its reader asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

VARINT, DELIMITED, FIXED32 = 0, 2, 5
_WIRE_NAMES = {VARINT: "a number", 1: "8 bytes", DELIMITED: "a run of bytes", FIXED32: "4 bytes"}


class Kind(Enum):
    """What a field holds."""

    INTEGER = "integer"  # int32, int64 or an enum, in two's complement
    FLOAT = "float"
    TEXT = "text"  # UTF-8, also where ONNX declares bytes that hold text
    BYTES = "bytes"
    MESSAGE = "message"
    REFUSED = "refused"  # a field that exists, and whose name makes a better error than its number


_WIRE_TYPES = {
    Kind.INTEGER: VARINT,
    Kind.FLOAT: FIXED32,
    Kind.TEXT: DELIMITED,
    Kind.BYTES: DELIMITED,
    Kind.MESSAGE: DELIMITED,
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its name, what it holds, and how often it may occur."""

    name: str
    kind: Kind
    most: int = 1
    schema: Mapping[int, Field] | None = None


Schema = Mapping[int, Field]  # the fields a message may have, by number


class Message:
    """The fields of one message; a field that is absent reads as zero, "" or nothing, as protobuf has it.

    Args:
        content: the message's bytes; they are referred to, not copied, and must not change.
        where: the way to this message from the outermost one, for errors.
        schema: the fields it may have.

    Raises:
        ValueError: the bytes are not such a message in its one canonical spelling. The messages within it are
            checked when they are asked for.
    """

    __slots__ = ("_schema", "_values", "where")

    def __init__(self, content: memoryview, where: str, schema: Schema) -> None:
        self.where = where
        self._schema = schema
        self._values: dict[str, list[Any]] = {}
        position, end = 0, len(content)
        while position < end:
            key, position = _varint(content, position, where)
            field = self._field(key)
            values = self._values.setdefault(field.name, [])
            if len(values) == field.most:
                raise ValueError(f"{where}.{field.name} occurs more than {_times(field.most)}")
            value, position = _value(content, position, f"{where}.{field.name}", field.kind)
            values.append(value)

    def has(self, name: str) -> bool:
        """Whether the field occurs."""
        return name in self._values

    def integer(self, name: str) -> int:
        """A number, between -2**63 and 2**63; 0 when absent."""
        return next(iter(self._values.get(name, ())), 0)

    def integers(self, name: str) -> list[int]:
        """A repeated number."""
        return self._values.get(name, [])

    def text(self, name: str) -> str:
        """Text without null characters; "" when absent."""
        return next(iter(self._values.get(name, ())), "")

    def texts(self, name: str) -> list[str]:
        """A repeated text."""
        return self._values.get(name, [])

    def size(self, name: str) -> int:
        """How many bytes a field of bytes has; 0 when absent."""
        return sum(map(len, self._values.get(name, ())))

    def content(self, name: str) -> bytes:
        """The bytes of a field of bytes, or of a number of 4; none when absent."""
        return b"".join(self._values.get(name, ()))

    def message(self, name: str) -> Message:
        """The one message of this field.

        Raises:
            ValueError: it is absent, or malformed.
        """
        for message in self.messages(name):
            return message
        raise ValueError(f"{self.where} has no {name}")

    def messages(self, name: str) -> Iterator[Message]:
        """The messages of this field, each read as it is reached.

        Raises:
            ValueError: one is malformed.
        """
        contents = self._values.get(name)
        if contents is None:
            return
        field = next(field for field in self._schema.values() if field.name == name)
        for index, content in enumerate(contents):
            where = f"{self.where}.{name}" if field.most == 1 else f"{self.where}.{name}[{index}]"
            yield Message(content, where, field.schema or {})

    def _field(self, key: int) -> Field:
        number, wire = key >> 3, key & 7
        field = self._schema.get(number)
        if field is None:
            raise ValueError(
                f"{self.where} has a field of number {number}, which is not one of those allowed"
            )
        if field.kind is Kind.REFUSED:
            raise ValueError(f"{self.where} has {field.name}, which is not allowed")
        expected = _WIRE_TYPES[field.kind]
        if wire != expected:
            found = _WIRE_NAMES.get(wire, f"wire type {wire}")
            raise ValueError(f"{self.where}.{field.name} is {found}; expected {_WIRE_NAMES[expected]}")
        return field


Edit = Callable[[memoryview], "bytes | list[bytes] | None"]


def edited(content: memoryview, schema: Schema, edits: Mapping[str, Edit]) -> bytes:
    """A message with some of the messages in it changed; all else stays, byte for byte.

    Args:
        content: of a message that `Message` has read.
        schema: the fields it may have.
        edits: by a field's name: what becomes of each occurrence; several, or None where it is left out.
    """
    parts: list[bytes | memoryview] = []
    position = 0
    while position < len(content):
        start = position
        key, position = _varint(content, position, "message")
        known = schema[key >> 3]
        value, position = _value(content, position, known.name, known.kind)
        if known.name not in edits:
            parts.append(content[start:position])
            continue
        changed = edits[known.name](value)
        for one in [changed] if isinstance(changed, bytes) else changed or []:
            parts += [_number(key), _number(len(one)), one]
    return b"".join(parts)


def message(*fields: bytes) -> bytes:
    """A message of fields that `field` has written."""
    return b"".join(fields)


def field(number: int, value: int | str | bytes, *, fixed: bool = False) -> bytes:
    """A field of this number: a number, a text, a message, or, fixed, 4 bytes."""
    if isinstance(value, int):
        return _number(number << 3 | VARINT) + _number(value & (1 << 64) - 1)
    content = value.encode() if isinstance(value, str) else value
    if fixed:
        return _number(number << 3 | FIXED32) + content
    return _number(number << 3 | DELIMITED) + _number(len(content)) + content


def _number(value: int) -> bytes:
    """The shortest form of a number; see `_varint`."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _value(content: memoryview, position: int, where: str, kind: Kind) -> tuple[Any, int]:
    if kind is Kind.INTEGER:
        value, position = _varint(content, position, where)
        return (value if value < 1 << 63 else value - (1 << 64)), position
    length = 4
    if kind is not Kind.FLOAT:
        length, position = _varint(content, position, where)
    end = position + length
    if end > len(content):
        raise ValueError(f"{where} has {length} bytes by its own account, {len(content) - position} are left")
    inside = content[position:end]
    return (_text(inside, where) if kind is Kind.TEXT else inside), end


def _text(content: memoryview, where: str) -> str:
    try:
        text = str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 ({error.reason} at byte {error.start})") from None
    if "\0" in text:
        raise ValueError(f"{where} holds a null character, at which C libraries would end the text")
    return text


def _varint(content: memoryview, position: int, where: str) -> tuple[int, int]:
    """A number of 7 bits per byte, lowest first, the high bit set in all bytes but the last."""
    value = 0
    for shift in range(0, 70, 7):
        if position == len(content):
            raise ValueError(f"{where} ends inside a number")
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            if shift and not byte:
                raise ValueError(f"{where} holds a number that is longer than its shortest form")
            return value, position
    raise ValueError(f"{where} holds a number of more than 64 bits")


def _times(most: int) -> str:
    return "once" if most == 1 else f"{most} times"
