"""Reading a file that somebody else may have chosen: regular files only, bounded, never waiting."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(path: Path, limit: int, *, follow_links: bool = True) -> bytes:
    """All bytes of a regular file.

    Args:
        path: the file.
        limit: the most bytes it may have.
        follow_links: whether `path` itself may be a symbolic link.

    Raises:
        OSError: it cannot be opened, is not a regular file, or is larger; `strerror` says which.
    """
    if "\0" in str(path):
        raise OSError(22, "a path cannot hold a null byte", str(path))
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    with os.fdopen(os.open(path, flags), "rb") as handle:
        status = os.fstat(handle.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(22, "not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(27, f"it has {status.st_size} bytes; at most {limit} are expected", str(path))
        return handle.read(limit)
