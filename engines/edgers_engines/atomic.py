"""New files and folders that are there whole or not at all, and never replace anything.

What is written goes under a scratch name beside the target, reaches the disk, and only then gets its name.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edgers_engines.errors import EdgersError, InputError


def check_new(path: Path) -> None:
    """Refuse a target before any work is done for it.

    Raises:
        InputError: something is there already, or its folder is not.
    """
    if "\0" in str(path):
        raise InputError(f"cannot write {path}: a path cannot hold a null byte")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder: make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write {path}: no permission to write into {path.parent}; choose another folder"
        )
    try:
        path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    raise InputError(f"{path} is there already: choose another name, or remove it first")


def check_space(path: Path, needed: int) -> None:
    """Refuse a target that its file system has no room for.

    Args:
        path: what is to be made.
        needed: bytes.

    Raises:
        EdgersError: less is free.
    """
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise EdgersError(
            f"{path} needs {needed} bytes; {free} are free there: make room, or choose another disk"
        )


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it gets its name when the block ends without an error.

    Raises:
        InputError: something has taken the name meanwhile.
        EdgersError: it cannot be written.
    """
    scratch = _scratch(path)
    with _naming(path):
        try:
            with create(scratch) as out:
                yield out
            _name(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into; it gets its name when the block ends without an error.

    Raises:
        InputError: something has taken the name meanwhile.
        EdgersError: it cannot be written.
    """
    scratch = _scratch(path)
    with _naming(path):
        try:
            scratch.mkdir()
            yield scratch
            _sync(scratch)
            check_new(path)
            scratch.rename(path)  # in a race, it fails on all but an empty folder
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


@contextmanager
def create(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which must not be there yet; its bytes are on the disk when the block has ended."""
    with path.open("xb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EdgersError(f"cannot write {path}: {error.strerror or error}") from None


def _name(scratch: Path, path: Path) -> None:
    with suppress(OSError):  # a file system without links, as on memory cards, or the name is taken
        path.hardlink_to(scratch)  # unlike a rename, this never replaces
        return
    check_new(path)
    scratch.rename(path)


def _scratch(path: Path) -> Path:
    return path.parent / f".edgers-{secrets.token_hex(8)}"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
