"""Reading a file that somebody else may have chosen: regular files only, bounded, never waiting."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def read_regular(path: Path, limit: int, *, follow_links: bool = True) -> bytes:
    """All bytes of a regular file.

    Args:
        path: the file.
        limit: the most bytes it may have.
        follow_links: whether `path` itself may be a symbolic link.

    Raises:
        OSError: it cannot be opened, is not a regular file, or is larger; `strerror` says which.
    """
    with open_regular(path, limit, follow_links=follow_links) as handle:
        return handle.read(limit)


def open_regular(path: Path, limit: int, *, follow_links: bool = True) -> BinaryIO:
    """A regular file, open for reading; arguments and errors are those of `read_regular`."""
    if "\0" in str(path):
        raise OSError(22, "a path cannot hold a null byte", str(path))
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        what = ": it is a folder" if stat.S_ISDIR(status.st_mode) else ""
        raise OSError(22, f"not a regular file{what}", str(path))
    raise OSError(27, f"it has {status.st_size} bytes; at most {limit} are expected", str(path))
