"""A bundle's weights: hashed in pieces, for they may be larger than the memory, and copied while they are."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edgers_engines.errors import BundleError
from edgers_engines.files import open_regular
from edgers_engines.manifest import File

_CHUNK = 1 << 20


class Weights:
    """A file of weights, as long as the block lasts that enters it.

    Runtimes map weights from a file, so that they never lie in memory twice; they keep the mapping when the
    copy is gone.
    """

    def __init__(self, root: Path, file: File) -> None:
        self._root, self._file, self._stack = root, file, ExitStack()

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def sha256(self) -> str:
        """The digest that the manifest states; `Bundle.load` has checked it."""
        return self._file.sha256

    @cached_property
    def folder(self) -> Path:
        """A private folder with a copy, whose digest is checked while it is made, when first asked for.

        Raises:
            BundleError: the weights are no longer what they were, or the folder for temporary files is full.
        """
        try:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="edgers-")))
            self._copy(folder)
        except OSError as error:
            raise BundleError(f"cannot make a private copy of the weights of {self._root}: {error}") from None
        return folder

    def _copy(self, folder: Path) -> None:
        root, file = self._root, self._file
        if (free := shutil.disk_usage(folder).free) < file.size:
            raise BundleError(
                f"loading {root} needs {file.size} bytes for a private copy of its weights; "
                f"{folder.parent} has {free}: set TMPDIR to a larger file system"
            )
        with _opened(root, file) as source, (folder / file.path).open("xb") as target:
            _hash(root, file, source, target)


def check_weights(root: Path, file: File) -> None:
    """Hash a bundle's file of weights.

    Raises:
        BundleError: it cannot be read, or is not what the manifest says.
    """
    with _opened(root, file) as source:
        _hash(root, file, source, None)


def check_digest(root: Path, file: File, digest: str) -> None:
    """Compare a file's digest with the manifest's.

    Raises:
        BundleError: it is another.
    """
    if digest != file.sha256:
        raise BundleError(f"{root / file.path} has SHA-256 {digest}; the manifest says {file.sha256}")


def _hash(root: Path, file: File, source: BinaryIO, target: BinaryIO | None) -> None:
    """Hash an open file of any size, and write what was hashed."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        if (size := size + len(chunk)) > file.size:
            break  # it grows while it is read
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    if size != file.size:
        raise BundleError(f"{root / file.path} has {size} bytes; the manifest says {file.size}")
    check_digest(root, file, digest.hexdigest())


def _opened(root: Path, file: File) -> BinaryIO:
    try:
        return open_regular(root / file.path, file.size, follow_links=False)
    except OSError as error:
        raise BundleError(f"cannot read {root / file.path}: {error.strerror}") from None
