"""Bundles that several files of tests use: the demo's, and a random-weight one."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgers_engines.bundle import Bundle
from edgers_export.threads import torch_threads
from tests.export.exports import Exports


@pytest.fixture(scope="session", autouse=True)
def _(quick_exporter: None) -> None:
    """Every file here exports."""


@pytest.fixture(scope="module", autouse=True)
def seldom_collected() -> Iterator[None]:
    """Tracing makes millions of small objects: looking for cycles among them is a tenth of an export."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    yield
    gc.set_threshold(*before)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Bundles that are made once in a run."""
    own = tmp_path_factory.getbasetemp()
    return Exports((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exports")


@pytest.fixture(scope="session")
def miniature_checkpoint(exports: Exports) -> Path:
    """Random weights, 4 heads over 2 KV heads, features of the last layer but one."""
    return exports.checkpoint("llama, clip")


@pytest.fixture(scope="session")
def miniature(exports: Exports) -> Bundle:
    """The miniature, exported."""
    return exports.miniature("llama, clip")


@pytest.fixture(scope="session")
def demo_export(exports: Exports) -> Bundle:
    """The demo checkpoint, exported anew."""
    return exports.demo()


@pytest.fixture(scope="session")
def demo_half(exports: Exports) -> Bundle:
    """The demo checkpoint in half precision."""
    return exports.demo("fp16")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers of tiny encoders are slower on two."""
    with torch_threads(1):
        yield
