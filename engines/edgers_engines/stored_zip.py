"""A ZIP file in one fixed form: files stored as they are, fixed times and attributes, sizes in zip64 fields.

Names, sizes and CRCs determine every byte, so whoever reads one compares instead of interpreting. The headers
are spelled out because the standard library's differ between versions of Python. Sizes are in zip64 fields
however small they are: one form, and the one for more than 4 GB is the one that is always in use.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its
end), 4.5.3 (zip64).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

SIGNATURE = b"PK\3\4"
_VERSION, _UNIX = 45, 3 << 8  # the first version with zip64; attributes are those of Unix
_TIME, _DATE = 0, 1 << 5 | 1  # midnight of 1 January 1980, the first time that the format knows
_REGULAR_FILE = (stat.S_IFREG | 0o644) << 16
_IN_ZIP64 = 0xFFFFFFFF
_LOCAL, _CENTRAL = "<4s5H3I2H{}s2H2Q", "<4s6H3I5H2I{}s2H3Q"  # with the length of the name
_END64, _LOCATOR, _END = struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI"), struct.Struct("<4s4H2IH")
# The fields' names, for the error line.
_LOCAL_FIELDS = (
    "signature, version, flags, method, time, date, CRC, packed size field, size field, name length, "
    "extra length, name, extra kind, zip64 length, size, packed size"
)
_CENTRAL_FIELDS = (
    "signature, writer, version, flags, method, time, date, CRC, packed size field, size field, name length, "
    "extra length, comment length, disk, internal attributes, attributes, offset field, name, extra kind, "
    "zip64 length, size, packed size, offset"
)
_TELLING = ("signature", "flags", "method", "name")  # says most about a foreign file
_WHY = {
    "flags": " (encrypted, or its size comes after it)",
    "method": " (files must be stored, not compressed)",
    "attributes": " (a regular file)",
}


class Entry(NamedTuple):
    """One file of the archive.

    Attributes:
        name: ASCII, without folders.
        size: bytes.
        crc: CRC-32 of its bytes.
    """

    name: str
    size: int
    crc: int = 0

    def local_header(self) -> bytes:
        """What stands before the file's bytes; its length depends on the name alone."""
        name = self.name.encode("ascii")
        zip64 = (1, 16, self.size, self.size)
        return struct.pack(
            _LOCAL.format(len(name)),
            *(SIGNATURE, _VERSION, 0, 0, _TIME, _DATE, self.crc, _IN_ZIP64, _IN_ZIP64, len(name), 20),
            *(name, *zip64),
        )

    def _central_header(self, offset: int) -> bytes:
        name = self.name.encode("ascii")
        made = (_UNIX | _VERSION, _VERSION, 0, 0, _TIME, _DATE)
        zip64 = (1, 24, self.size, self.size, offset)
        return struct.pack(
            _CENTRAL.format(len(name)),
            *(b"PK\1\2", *made, self.crc, _IN_ZIP64, _IN_ZIP64, len(name), 28),
            *(0, 0, 0, _REGULAR_FILE, _IN_ZIP64, name, *zip64),
        )


def directory(entries: Sequence[Entry]) -> list[bytes]:
    """What follows the last file: one header for each entry, then the end of the directory."""
    offset, headers = 0, []
    for entry in entries:
        headers.append(entry._central_header(offset))
        offset += len(entry.local_header()) + entry.size
    size, count = sum(map(len, headers)), len(entries)
    end = (
        _END64.pack(b"PK\6\6", 44, _UNIX | _VERSION, _VERSION, 0, 0, count, count, size, offset),
        _LOCATOR.pack(b"PK\6\7", 0, offset + size, 1),
        _END.pack(b"PK\5\6", 0, 0, count, count, size, _IN_ZIP64, 0),
    )
    return [*headers, b"".join(end)]


def total_size(entries: Sequence[Entry]) -> int:
    """Bytes of the whole archive."""
    files = sum(len(entry.local_header()) + entry.size for entry in entries)
    return files + sum(map(len, directory(entries)))


def read_local(header: bytes, name: str) -> Entry:
    """What the local header of the file `name` says of its size and CRC.

    Raises:
        ValueError: the header is not in this form; names the first field that differs.
    """
    layout = _LOCAL.format(len(name))
    fields = _fields(header, layout, _LOCAL_FIELDS)
    entry = Entry(name, fields["size"], fields["CRC"])
    if header != (wanted := entry.local_header()):
        difference = _difference(fields, _fields(wanted, layout, _LOCAL_FIELDS))
        raise ValueError(f"the header of {name} has {difference}")
    return entry


def check_directory(found: bytes, entries: Sequence[Entry]) -> None:
    """Compare everything after the last file with what belongs there.

    Raises:
        ValueError: names the file and the field that differ.
    """
    *headers, end = directory(entries)
    for entry, wanted in zip(entries, headers, strict=True):
        header, found = found[: len(wanted)], found[len(wanted) :]
        if header != wanted:
            layout = _CENTRAL.format(len(entry.name))
            fields = (_fields(data, layout, _CENTRAL_FIELDS) for data in (header, wanted))
            raise ValueError(f"the directory's line for {entry.name} has {_difference(*fields)}")
    if found != end:
        raise ValueError("the end of the directory does not fit its files")


def _fields(header: bytes, layout: str, names: str) -> dict[str, Any]:
    return dict(zip(names.split(", "), struct.unpack(layout, header), strict=True))


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    field = next(field for field in (*_TELLING, *wanted) if found[field] != wanted[field])
    return f"{field} {found[field]!r}; expected {wanted[field]!r}{_WHY.get(field, '')}"
