"""Bundles that several files of tests use: the demo's, and a random-weight one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgers_engines.bundle import Bundle
from edgers_export.bundle import export_bundle
from edgers_export.threads import torch_threads
from tests.checkpoints import MINIATURES, write
from tests.conftest import CHECKPOINT


@pytest.fixture(scope="session")
def miniature_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, 4 heads over 2 KV heads, features of the last layer but one."""
    return write(MINIATURES["llama, clip"], tmp_path_factory.mktemp("miniature") / "checkpoint")


@pytest.fixture(scope="session")
def miniature(miniature_checkpoint: Path) -> Bundle:
    """The miniature, exported."""
    return export_bundle(miniature_checkpoint, miniature_checkpoint.parent / "bundle")


@pytest.fixture(scope="session")
def demo_export(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo checkpoint, exported anew."""
    return export_bundle(CHECKPOINT, tmp_path_factory.mktemp("demo") / "demo bundle", max_new_tokens=12)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers of tiny encoders are slower on two."""
    with torch_threads(1):
        yield
