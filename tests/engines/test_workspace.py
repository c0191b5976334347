"""The first batch that is tried on a GPU fits, where the prediction of what computes it is right."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cuda.bindings import driver

from edgers import Certifier, demo
from edgers_engines import memory
from edgers_engines.engine import open_backend
from edgers_engines.memory_plan import computing_bytes, peak_bytes
from edgers_engines.plan_builder import Sizes, build_plans
from edgers_engines.tensorrt import TensorRTBackend, TensorRTEngine
from edgers_engines.workspace import Workspace
from tests.engines.emulated_tensorrt import Emulated

ROWS = 60


@pytest.fixture
def plans(emulated_driver, monkeypatch, tmp_path, demo_bundle):
    """The demo bundle's plans for ROWS rows, on an emulated library."""
    monkeypatch.setitem(sys.modules, "tensorrt", Emulated(emulated_driver).module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build_plans(demo_bundle, "cuda:0", Sizes.of(demo_bundle.manifest, ROWS, 72))


@pytest.fixture
def growing(plans, demo_bundle, monkeypatch):
    """Engines that take memory while they run, and keep it, as ONNX Runtime's do on CUDA: what each has."""
    real, kept, predicted = TensorRTEngine._run, {}, {}

    def run(engine, inputs, outputs):
        device, file = engine._backend.device, engine.graph.file
        sizes = {
            name: size
            for tensor in engine.graph.inputs
            for name, size in zip(tensor.shape, inputs[tensor.name].shape, strict=True)
        }
        key = file, *sizes.values()
        if key not in predicted:
            predicted[key] = peak_bytes(demo_bundle.read(file), sizes)
        need = max(predicted[key], 1)
        if file not in kept or kept[file].nbytes < need:
            kept.pop(file, None)
            kept[file] = device.empty((need,), np.uint8)
        real(engine, inputs, outputs)

    monkeypatch.setattr(TensorRTBackend, "grows", True)
    monkeypatch.setattr(TensorRTEngine, "_run", run)
    yield kept
    kept.clear()


@pytest.fixture
def refused(emulated_driver, monkeypatch):
    """Sizes of the allocations for which there was no memory."""
    sizes, allocate = [], emulated_driver.cuMemAlloc

    def noting(size):
        found = allocate(size)
        if found[0] != driver.CUresult.CUDA_SUCCESS:
            sizes.append(size)
        return found

    monkeypatch.setattr(emulated_driver, "cuMemAlloc", noting)
    return sizes


def ask(certifier):
    return certifier.certify(demo.frames()[9], demo.PROMPT, choices=demo.ACTIONS, seed="5" * 32)


@pytest.mark.parametrize(("megabytes", "rows"), [(80, 60), (20, 15), (7, 5)])
def test_the_first_chunk_that_is_tried_fits_and_the_votes_are_the_same(
    emulated_driver, growing, refused, megabytes, rows
):
    bundle = demo.load_bundle()
    certifier = Certifier(bundle, sigma=0.5, samples=ROWS, batch_size=ROWS, backend=open_backend("tensorrt"))
    growing.clear()  # the self-test ran as many rows as the plans take
    assert emulated_driver.allocated  # now that is free again
    emulated_driver.free = megabytes << 20
    found, again = ask(certifier), ask(certifier)
    assert refused == []
    assert found.batch_size == rows
    assert again.batch_size == rows, "what the runtime keeps, it has again"
    assert found.votes == again.votes == ask(Certifier(bundle, sigma=0.5, samples=ROWS)).votes


@pytest.mark.usefixtures("plans")
def test_what_was_taken_when_the_plans_were_loaded_is_not_counted_again(demo_bundle):
    model = SimpleNamespace(
        bundle=demo_bundle,
        backend=open_backend("tensorrt"),
        decoder_graph=SimpleNamespace(graph=demo_bundle.manifest.graphs.decoder),
    )
    free = 10 * held(demo_bundle, 96)
    model.backend.device.free_bytes = lambda: free
    Workspace(model).check(10, 60, 96)
    with pytest.raises(MemoryError, match=r"^11 rows of 96 positions need .* GiB with what computes them"):
        Workspace(model).check(11, 60, 96)


def held(bundle, length):
    """Bytes of a row: cache, features, embeddings, logits, and the noise of two chunks."""
    return memory.row_bytes(bundle.manifest, length) + 2 * 3 * 96 * 96 * 4


class Gpu:
    """A backend on a device with so much memory."""

    grows = True

    def __init__(self, free):
        self.device = SimpleNamespace(free_bytes=lambda: free)


def workspace(bundle, free):
    graph = SimpleNamespace(graph=bundle.manifest.graphs.decoder)
    return Workspace(SimpleNamespace(bundle=bundle, backend=Gpu(free), decoder_graph=graph))


def computed_in(bundle):
    graphs = bundle.manifest.graphs
    vision = computing_bytes(bundle, graphs.vision, {"batch": 1})
    return 2 * (vision + computing_bytes(bundle, graphs.decoder, {"batch": 1, "seq": 64, "max_len": 128}))


class TestCheck:
    def test_a_batch_that_just_fits_passes_and_one_byte_less_is_refused(self, demo_bundle):
        needed = 7 * (held(demo_bundle, 96) + computed_in(demo_bundle))
        workspace(demo_bundle, needed).check(7, 60, 96)
        with pytest.raises(MemoryError, match="7 rows of 96 positions"):
            workspace(demo_bundle, needed - 1).check(7, 60, 96)

    def test_what_ran_is_the_runtimes_already(self, demo_bundle):
        room = workspace(demo_bundle, 7 * held(demo_bundle, 96))
        with pytest.raises(MemoryError):
            room.check(7, 60, 96)
        room.ran(7, 60, 96)
        room.check(7, 60, 96)
        room.ran(1, 60, 96)
        room.check(7, 60, 96)
        with pytest.raises(MemoryError):
            room.check(8, 60, 96)

    def test_a_single_row_is_always_tried(self, demo_bundle):
        workspace(demo_bundle, 0).check(1, 60, 96)

    def test_where_the_device_does_not_say_what_is_free_no_graph_is_read(self, demo_bundle, monkeypatch):
        """As the host, which swaps."""
        monkeypatch.setattr("edgers_engines.workspace.computing_bytes", lambda *_: pytest.fail("it is read"))
        workspace(demo_bundle, None).check(1 << 30, 60, 96)

    def test_questions_of_about_one_length_read_the_graphs_once(self, demo_bundle, monkeypatch):
        read = []
        monkeypatch.setattr(
            "edgers_engines.workspace.computing_bytes", lambda _bundle, graph, _: read.append(graph.file) or 1
        )
        room = workspace(demo_bundle, math.inf)
        for new in (40, 41, 64):
            room.check(2, new, new + 32)
        assert read == ["vision.onnx", "decoder.onnx"]
        room.check(2, 65, 97)
        assert read == ["vision.onnx", "decoder.onnx", "decoder.onnx"]

    def test_a_graph_whose_shapes_are_not_known_is_tried(self, demo_bundle, monkeypatch):
        def unknown(*_, **__):
            raise ValueError("the shapes of Einsum are not known")

        monkeypatch.setattr("edgers_engines.memory_plan.peak_bytes", unknown)
        workspace(demo_bundle, 7 * held(demo_bundle, 96)).check(7, 60, 96)
