"""What the kernel says in files of a few bytes: sysfs. Any may be empty, forbidden, or gone by now."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edgers_engines.errors import EdgersError
from edgers_engines.files import read_regular

T = TypeVar("T")

_INTEGER = re.compile(r"-?[0-9]{1,20}")  # 64 bits
_LIMIT = 1 << 16  # sysfs gives a file's size as 4 KB, or 64 KB where pages are so large


class UnreadableError(EdgersError):
    """Something that the machine does not tell; the text is one clause that says why."""


def read_text(path: Path) -> str:
    """What a file of sysfs says, without the space around it.

    Raises:
        UnreadableError: it cannot be read, or is empty.
    """
    try:
        text = read_regular(path, _LIMIT).decode(errors="replace").strip()
    except OSError as error:
        raise UnreadableError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if not text:
        raise UnreadableError(f"{path} is empty")
    return text


def read_integer(path: Path) -> int:
    """The whole number in a file of sysfs.

    Raises:
        UnreadableError: it cannot be read, or holds something else.
    """
    text = read_text(path)
    if not _INTEGER.fullmatch(text):
        raise UnreadableError(f"{path} holds {text[:40]!r} instead of a whole number")
    return int(text)


def listing(folder: Path, pattern: str) -> list[Path]:
    """The paths that match, 10 after 9; none where they cannot be listed."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: (len(str(path)), str(path)))
    except OSError:  # a folder that vanishes while it is listed
        return []


def attempt(missing: dict[str, str], name: str, ask: Callable[[], T]) -> T | None:
    """What `ask` finds; or None, and the reason goes into `missing` under this name."""
    try:
        return ask()
    except UnreadableError as error:
        missing[name] = str(error)
        return None
