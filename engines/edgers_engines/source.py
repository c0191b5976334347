"""A file that somebody else may have chosen, read once from front to back, in pieces."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgers_engines.errors import BundleError
from edgers_engines.files import open_regular


class Source:
    """A stream of known size; bytes that are missing are an error.

    Attributes:
        path: the file that errors name.
        size: bytes that it had when it was opened.
    """

    def __init__(self, stream: BinaryIO, path: Path, size: int) -> None:
        self._stream = stream
        self.path = path
        self.size = size

    def read(self, size: int) -> bytes:
        """The next `size` bytes, exactly.

        Raises:
            BundleError: the file ends before, or cannot be read.
        """
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise BundleError(f"cannot read {self.path}: {error.strerror}") from None
        if len(data) != size:
            raise BundleError(f"{self.path} is cut short: it ends {size - len(data)} bytes too early")
        return data

    def rest(self) -> bytes:
        """Everything that has not been read yet, up to `size`."""
        return self.read(self.size - self._stream.tell())


@contextmanager
def open_source(path: Path, limit: int) -> Iterator[Source]:
    """Open a regular file of at most `limit` bytes, and never wait for it.

    Raises:
        BundleError: it is not there, larger, a link, a folder, a named pipe or a device.
    """
    try:
        stream = open_regular(path, limit, follow_links=False)
    except OSError as error:
        why = "it is a link, and links are not followed" if error.errno == errno.ELOOP else error.strerror
        raise BundleError(f"cannot read {path}: {why}") from None
    with stream:
        yield Source(stream, path, os.fstat(stream.fileno()).st_size)
