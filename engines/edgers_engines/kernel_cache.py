"""What TensorRT for RTX compiled of a plan's kernels, stored beside the plan so that later loads need not.

It is machine code, as the plan is. `edgers build` writes it once the self-tests have passed, and nobody else
does; its SHA-256 stands before it, and whoever loads it runs the self-tests on it. Where there is none, or
one that is damaged or of something else, kernels are compiled, and the next build stores them.
TensorRT itself compiles when it builds, and has no such cache.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgers_engines.files import read_regular

KERNELS = "kernels.bin"  # in the plan's folder
_MOST = 1 << 30
_DIGEST = hashlib.sha256().digest_size


class KernelCache:
    """The compiled kernels of one plan; they must outlive the contexts that run them.

    Args:
        cache: the library's, empty.
        folder: the plan's.

    Attributes:
        taken: SHA-256 of the stored kernels that the library took, if it did.
    """

    def __init__(self, cache: Any, folder: Path) -> None:  # noqa: ANN401  a library without types
        self._cache, self._file = cache, folder / KERNELS
        stored = _read(self._file)
        took = bool(stored) and bool(cache.deserialize(stored))
        self.taken = hashlib.sha256(stored).hexdigest() if took else None

    def attach(self, config: Any) -> None:  # noqa: ANN401  as above
        """Have contexts of this configuration take kernels from here, and leave here what they compile."""
        config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Store the kernels, unless they are those that were stored."""
        content = None if self.taken else self._cache.serialize()
        if content is None:
            return
        code = bytes(content)
        scratch = self._file.with_name(f".{secrets.token_hex(8)}")
        with suppress(OSError):  # a full disk costs time at the next load, and nothing else
            try:
                scratch.write_bytes(hashlib.sha256(code).digest() + code)
                scratch.replace(self._file)
            finally:
                scratch.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    """What is stored; empty where nothing is, or what is there is damaged."""
    with suppress(OSError):
        content = read_regular(path, _MOST)
        if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
            return content[_DIGEST:]
    return b""
