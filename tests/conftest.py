"""What many tests share: the demo bundle, its frames and checkpoint, and a copy of it to damage."""

from __future__ import annotations

import functools
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgers import demo
from edgers_engines.bundle import Bundle
from edgers_engines.vlm import VisionLanguageModel

if TYPE_CHECKING:
    from edgers_export.embedder import Embedder
    from edgers_export.student import Student

CHECKPOINT = Path(__file__).parent / "data" / "demo-checkpoint"

# Workers take whole files: when the longest are done first, all end at about the same time.
LONGEST = (
    "test_families.py",
    "test_quantization.py",
    "test_tensorrt.py",
    "test_gate.py",
    "test_distill.py",
    "test_certify.py",
    "test_export.py",
    "test_cuda_decoder.py",
    "test_wheel.py",
    "test_tensorrt_plan.py",
    "test_comparison.py",
    "test_verify.py",
    "test_judge.py",
    "test_fuzz.py",
    "test_attach.py",
    "test_encoder.py",
    "test_cli.py",
    "test_early.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they are."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Tests and libraries are no garbage: to look through them all takes half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def demo_bundle() -> Bundle:
    """The bundle that comes with edgers."""
    return demo.load_bundle()


@pytest.fixture(scope="session")
def demo_model(demo_bundle: Bundle) -> VisionLanguageModel:
    """The demo bundle, loaded on ONNX Runtime on the CPU."""
    return VisionLanguageModel(demo_bundle)


@pytest.fixture(scope="session")
def first_frame() -> Path:
    """The demo frame that certifies clearly."""
    return demo.frames()[0]


@pytest.fixture(scope="session")
def quick_exporter() -> Iterator[None]:
    """Torch's exporter fills its table of operators anew for every graph, a fifth of the time: here once."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    filled = functools.cache(ONNXRegistry.from_torchlib)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(filled))
        yield


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    return Path(shutil.copytree(demo.BUNDLE, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def student(quick_exporter: None) -> Student:
    """A text classifier that knows the demo's actions."""
    from tests.students import train

    return train()


@pytest.fixture(scope="session")
def taught_bundle(demo_bundle: Bundle, student: Student, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo bundle with that classifier as one more oracle, `learned`."""
    from edgers_export.attach import attach
    from tests.students import labelled_texts

    texts = [text for text, _ in labelled_texts()]
    return attach(demo_bundle, student, "learned", texts, tmp_path_factory.mktemp("taught") / "bundle")


@pytest.fixture(scope="session")
def embedder(student: Student) -> Embedder:
    """What that classifier finds in a text, as a sentence embedding."""
    from edgers_export.embedder import embedder_of
    from tests.students import labelled_texts

    return embedder_of(student, [text for text, _ in labelled_texts()[:240]])


@pytest.fixture(scope="session")
def clusters_bundle(
    demo_bundle: Bundle, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The demo bundle with clusters of that embedding as one more oracle, `meaning`."""
    from edgers_export.attach import attach_embedder
    from tests.students import labelled_texts

    held_out = dict(labelled_texts()[240:])
    return attach_embedder(
        demo_bundle, embedder, "meaning", held_out, tmp_path_factory.mktemp("clusters") / "bundle"
    )
