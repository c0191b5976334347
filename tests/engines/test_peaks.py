"""Peaks: products of the numbers that were asked for, and memory, with the threads of the backend."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from edgers_engines import peaks
from edgers_engines.bfloat16 import floats
from edgers_engines.device import Host
from edgers_engines.engine import open_backend
from edgers_engines.graph_shapes import steps
from edgers_engines.graph_work import graph_work
from edgers_engines.onnx_graph import read_graph
from edgers_engines.peaks import array_bytes, bandwidth, measure_peaks, product_rate, seconds
from edgers_engines.product_graph import operand, product

SIZE = 64
KINDS = ("float32", "float16", "bfloat16", "int8", "float8_e4m3fn")


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """As many tries as are needed, no more; but where it is looked at how many there are."""
    if request.cls is TestTries:
        return
    monkeypatch.setattr(peaks, "_SECONDS", 0)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the measured things move; `clock.now += 2` makes one take two seconds."""
    made = SimpleNamespace(now=0.0)
    monkeypatch.setattr(peaks, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


class TestProduct:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_a_valid_graph_of_one_product_of_these_numbers(self, kind):
        with product(SIZE, kind) as (content, graph, weights):
            file = weights.folder / graph.file
            file.write_bytes(content)
            onnx.checker.check_model(str(file), full_check=True)
            read_graph(content)
            assert graph_work(content, {}).flops == {kind: 2 * SIZE**3}

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_backend_computes_it(self, kind):
        with product(SIZE, kind) as (content, graph, weights):
            engine = open_backend().load(content, graph, weights)
            a = operand(SIZE, graph.inputs[0].dtype)
            y = np.zeros_like(a)
            engine.run({"a": a}, {"y": y})
            stored = np.fromfile(weights.folder / "product.bin", y.dtype) if kind in KINDS[:3] else None
        assert np.isfinite(floats(y)).all()
        assert np.abs(floats(y)).max() > 1
        if stored is not None:
            wanted = floats(a) @ floats(stored).reshape(SIZE, SIZE)
            np.testing.assert_allclose(floats(y), wanted, atol={"bfloat16": 0.3}.get(kind, 0.1))

    def test_its_weights_are_gone_behind_the_block(self):
        with product(SIZE, "float32") as (_, _, weights):
            folder = weights.folder
        assert not folder.exists()


class TestTries:
    def test_two_runs_are_not_kept_and_at_least_five_are(self, clock):
        runs = iter([100.0, 100.0, 3.0, 2.0, 1.0, 4.0, 5.0])

        def run():
            clock.now += next(runs)

        assert seconds(run) == [3, 2, 1, 4, 5]

    def test_short_runs_are_repeated_until_half_a_second_is_full(self, clock):
        def run():
            clock.now += 0.0625

        assert len(seconds(run)) == 8

    @pytest.mark.usefixtures("clock")
    def test_what_takes_no_time_is_repeated_200_times(self):
        assert len(seconds(lambda: None)) == 200


class TestRates:
    def test_a_product_is_rated_by_its_operations_and_the_best_size_counts(self, clock, monkeypatch):
        """128 takes twice as long as 64, for eight times the work."""
        sizes = iter([64, 128])
        monkeypatch.setattr(peaks, "PROCESSOR_SIZES", (64, 128))
        monkeypatch.setattr(peaks, "_loaded", lambda *_: tick(clock, next(sizes) / 64))
        monkeypatch.setattr(peaks, "_blas", lambda *_: [10.0, 20.0])
        rate = product_rate(open_backend(), "float32")
        assert (rate.best, rate.median, rate.tries) == (2 * 128**3 / 2, 2 * 128**3 / 2, 5)
        assert rate.by.endswith("128×128")

    def test_numpys_blas_counts_where_it_is_quicker(self, clock, monkeypatch):
        monkeypatch.setattr(peaks, "PROCESSOR_SIZES", (64,))
        monkeypatch.setattr(peaks, "_loaded", lambda *_: tick(clock, 1))
        monkeypatch.setattr(peaks, "_blas", lambda *_: [0.5, 2.0, 1.0])
        rate = product_rate(open_backend(), "float32")
        work = 2 * 64**3
        assert (rate.best, rate.median, rate.least, rate.tries) == (2 * work, work, work / 2, 3)
        assert rate.by == "NumPy's BLAS, 64×64"

    def test_blas_runs_with_the_backends_threads(self, monkeypatch):
        asked = []

        def run(command, env, **_):
            asked.append((command[0], {env[name] for name in peaks._THREAD_VARIABLES}))
            return SimpleNamespace(stdout="0.5 0.25")

        monkeypatch.setattr(peaks.subprocess, "run", run)
        assert peaks._blas(64, 3) == [0.5, 0.25]
        assert asked == [(sys.executable, {"3"})]

    def test_a_copied_byte_counts_twice_and_one_that_is_read_once(self, clock, monkeypatch):
        """A copy takes a second: a read is better in a quarter of it, and no better in three quarters."""

        class Slow(Host):
            def copy(self, source, target):
                super().copy(source, target)
                clock.now += 1

        monkeypatch.setattr(peaks, "array_bytes", lambda: 1 << 16)
        for spent, best, by in ((0.25, 4, "read"), (0.75, 2, "copy")):
            monkeypatch.setattr(peaks, "_read", partial(pass_time, clock, spent))
            rate = bandwidth(Slow(), 1)
            assert (rate.best, rate.by) == (best << 16, by)

    def test_every_thread_has_a_piece_of_its_own_and_no_byte_is_left_out(self, monkeypatch):
        pieces = []

        class Noting(Host):
            def copy(self, source, target):  # noqa: ARG002  nobody looks at what is written
                assert (source == 1).all()
                pieces.append((source.nbytes, source.ctypes.data))

        monkeypatch.setattr(peaks, "array_bytes", lambda: 3 << 12)
        bandwidth(Noting(), 3)
        first = sorted(set(pieces))
        assert [size for size, _ in first] == [1 << 12] * 3
        assert [place - first[0][1] for _, place in first] == [0, 1 << 12, 2 << 12]

    def test_arrays_are_larger_than_the_last_cache_within_reason(self, monkeypatch, tmp_path):
        monkeypatch.setattr(peaks, "Path", lambda _: tmp_path)
        for kibibytes, wanted in ((1024, 64), (32768, 128), (1 << 20, 512)):
            for level, size in enumerate((32, kibibytes)):
                (tmp_path / f"index{level}").mkdir(exist_ok=True)
                (tmp_path / f"index{level}" / "size").write_text(f"{size}K\n")
            assert array_bytes() == wanted << 20

    def test_the_whole_is_measured_in_the_end(self):
        found = measure_peaks(open_backend(threads=1), ["float32", "int8"], shrink=32)
        assert list(found.products) == ["float32", "int8"]
        for rate in (*found.products.values(), found.bandwidth):
            assert rate.best >= rate.median >= rate.least > 0


def pass_time(clock, spent, *_):
    clock.now += spent


def tick(clock, spent):
    """A loaded product that takes so long."""

    class Loaded:
        def __enter__(self):
            def run():
                clock.now += spent

            return run

        def __exit__(self, *_):
            pass

    return Loaded()


class TestGpu:
    def test_a_gpus_bandwidth_is_that_of_copies_within_it(self, emulated_gpu, monkeypatch):
        monkeypatch.setattr(peaks, "_GPU_BYTES", 1 << 16)
        rate = bandwidth(emulated_gpu, 4)
        assert rate.by == "copy"
        assert rate.tries == 5

    def test_its_products_are_computed_where_its_memory_is(self, emulated_gpu, monkeypatch):
        """By an engine that computes them on the emulated GPU, through the host."""
        monkeypatch.setattr(peaks, "GPU_SIZES", (32,))
        processor, shapes = open_backend(), []

        class Engine:
            def __init__(self, engine):
                self.engine = engine

            def run(self, inputs, outputs):
                shapes.append((inputs["a"].shape, outputs["y"].ordinal))
                a = emulated_gpu.get(inputs["a"])
                y = np.empty_like(a)
                self.engine.run({"a": a}, {"y": y})
                emulated_gpu.write(y, outputs["y"])

        backend = SimpleNamespace(
            device=emulated_gpu,
            threads=1,
            record=processor.record,
            load=lambda *given: Engine(processor.load(*given)),
        )
        rate = product_rate(backend, "float16")
        assert rate.by.endswith("32×32")
        assert shapes == [((1, 32, 32), 0)] * 7


def test_what_a_graph_looks_like_is_what_bundles_have():
    """Its one stored matrix lies outside, as theirs do."""
    with product(SIZE, "float16") as (content, _, weights):
        (external,) = read_graph(content).external
        assert external.length == (weights.folder / external.location).stat().st_size
        assert [step.operator for step in steps(content, {})] == ["MatMul"]
