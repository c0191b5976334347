"""Checkpoints and bundles that several files of tests use: each is made once in a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from edgers_engines.bundle import Bundle
from edgers_engines.manifest import Precision
from edgers_export.bundle import export_bundle
from tests.checkpoints import MINIATURES, write
from tests.conftest import CHECKPOINT


class Exports:
    """Makes each when a test first asks for it, in a folder that all workers of the run share.

    Exporting takes many seconds: the worker that comes second waits for the first one's. Nobody may change
    what is here.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def checkpoint(self, name: str) -> Path:
        """The checkpoint of one of `MINIATURES`."""
        return _once(self._root / name / "checkpoint", lambda out: write(MINIATURES[name], out))

    def miniature(self, name: str, precision: Precision = "fp32") -> Bundle:
        """That checkpoint's bundle, with the frame and the pooling that it is meant for."""
        made, checkpoint = MINIATURES[name], self.checkpoint(name)
        options = {"precision": precision, "frame": made.frame, "pool": made.pool}
        out = self._root / name / precision
        return Bundle.load(_once(out, lambda out: export_bundle(checkpoint, out, **options)))

    def demo(self, precision: Precision = "fp32") -> Bundle:
        """The demo checkpoint, exported anew."""
        out = self._root / precision / "demo bundle"
        options = {"precision": precision, "max_new_tokens": 12}
        return Bundle.load(_once(out, lambda out: export_bundle(CHECKPOINT, out, **options)))


def _once(out: Path, make: Callable[[Path], object]) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{out}.lock"):
        if not out.exists():
            make(out)
    return out
