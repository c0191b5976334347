"""TensorRT's road at run time, over an emulated library and GPU: what is computed, accepted and refused.

That the library's real parser and builder take the graphs is shown in tests/export/test_tensorrt_plan.py.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import click
import msgspec
import numpy as np
import pytest
from cuda.bindings import driver

from edgers import Certifier, demo
from edgers.cli import cli, doctor
from edgers.oracle.local_bundle import TextBundle
from edgers.verify import replay
from edgers_engines import captured_steps, cuda, peaks, self_test, tensorrt_plan
from edgers_engines.bfloat16 import floats
from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import BackendError, InputError
from edgers_engines.image import CameraImage, prepare
from edgers_engines.kv_cache import KVCache
from edgers_engines.noise import Stream, noisy_copies
from edgers_engines.plan_builder import Sizes, build_plans
from edgers_engines.plans import Plans
from edgers_engines.stages import question_sizes, time_stages
from edgers_engines.tensorrt import TensorRTBackend
from edgers_engines.text_graph import ROWS
from edgers_engines.vlm import Question, VisionLanguageModel
from tests.engines.emulated_tensorrt import Context, Emulated, OldParser

CAPTURING = "cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch"
OUT_OF_MEMORY = driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
PROMPT = "what should the robot do?"
BATCH = 8


@pytest.fixture
def library(emulated_driver, monkeypatch, tmp_path):
    """TensorRT, emulated, and an empty cache of plans."""
    emulated = Emulated(emulated_driver)
    monkeypatch.setitem(sys.modules, "tensorrt", emulated.module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return emulated


@pytest.fixture
def sizes(demo_bundle):
    return Sizes.of(demo_bundle.manifest, BATCH, None)


@pytest.fixture
def plans(library, demo_bundle, sizes):
    """The demo bundle's plans, built."""
    return [plan for plan, _ in build_plans(demo_bundle, "cuda:0", sizes)]


def load(bundle, backend="tensorrt"):
    """The bundle on its plans; no fixture, for the GPU's memory must be free again when a test has ended."""
    return VisionLanguageModel(bundle, open_backend(backend, device="cuda:0"))


def noisy(frame, rows):
    """Canvases of a frame that several answers are given to."""
    image = prepare(CameraImage.of(frame), demo.load_bundle().manifest.preparation)
    out = np.empty((rows, *image.shape), np.float32)
    noisy_copies(image, 0.5, seed=1, stream=Stream.SELECTION, first=0, out=out)
    return out


def ask(model, canvases, rows=BATCH, **options):
    question = Question(model, PROMPT, rows=rows, **options)
    return [
        (answer.text, answer.status)
        for start in range(0, len(canvases), rows)
        for answer in question.answers(canvases[start : start + rows])
    ]


def zeros(sizes):
    """Logits of two rows, to be written."""
    return np.zeros((2, sizes.vocabulary), np.float32)


def elsewhere(work):
    """What another thread finds, which has never entered the device."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


class TestAnswers:
    @pytest.mark.usefixtures("plans")
    def test_they_are_those_of_onnx_runtime(self, demo_model, demo_bundle):
        model = load(demo_bundle)
        canvases = self_test.canvases(model.bundle.manifest.preparation.canvas_size, 21)
        assert ask(model, canvases) == ask(demo_model, canvases)

    @pytest.mark.usefixtures("plans")
    def test_rows_that_end_leave_the_batch(self, library, demo_bundle, demo_model, sizes):
        model = load(demo_bundle)
        canvases = noisy(demo.frames()[9], BATCH)
        library.runs.clear()
        answers = ask(model, canvases)
        batches = [run["batch"] for run in library.runs if sizes.max_length in run and run["seq"] == 1]
        assert batches[0] == BATCH > batches[-1] > 0
        assert answers == ask(demo_model, canvases)

    @pytest.mark.usefixtures("plans")
    def test_a_cache_has_the_length_of_the_plan_whatever_the_question(self, library, sizes, demo_bundle):
        model = load(demo_bundle)
        library.runs.clear()
        ask(model, self_test.canvases(model.bundle.manifest.preparation.canvas_size, 1))
        decoded = [run for run in library.runs if "seq" in run and sizes.max_length in run]
        assert [run["seq"] == 1 for run in decoded] == [False, False, *[True] * (len(decoded) - 2)]
        assert len(decoded) > 3

    @pytest.mark.usefixtures("plans")
    def test_stages_are_timed_on_plans_with_their_cache(self, library, sizes, demo_bundle, monkeypatch):
        """Everything that a stage reads lies on the GPU, and the decoder gets what the plan takes."""
        monkeypatch.setattr(peaks, "_SECONDS", 0)
        model, asked = load(demo_bundle), question_sizes(demo_bundle, 3, tokens=4)
        library.runs.clear()
        times = time_stages(model, asked)
        assert [len(tries) for tries in times.values()] == [5, 5, 5]
        decoded = [run for run in library.runs if sizes.max_length in run]
        assert [run["seq"] for run in decoded] == [asked.new] * 7 + [1] * 7
        assert {run["batch"] for run in decoded} == {3}

    @pytest.mark.usefixtures("plans")
    def test_the_bundles_oracle_runs_there_too(self, demo_model, demo_bundle):
        model = load(demo_bundle)
        (record,) = model.bundle.manifest.classifiers
        texts = ["left, a box blocks the way.", "stop", "forward"]
        found, want = (one.classifier(record).logits(texts) for one in (model, demo_model))
        np.testing.assert_allclose(found, want, atol=1e-5)

    @pytest.mark.usefixtures("plans")
    def test_many_prompts_without_an_image_are_those_of_onnx_runtime_too(self, demo_bundle, demo_model):
        """Together they are longer than any plan takes."""
        prompts = [f"{20 * 'please '}is the door {side}?" for side in ("left", "right", "there", "shut")] * 5
        found, want = (
            TextBundle(model, ("yes", "no")).complete(prompts) for model in (load(demo_bundle), demo_model)
        )
        assert found == want
        assert set(found) <= {"yes", "no", ""}

    @pytest.mark.usefixtures("plans")
    def test_a_run_out_of_memory_is_a_memory_error_and_any_other_failure_is_the_backends(
        self, library, demo_bundle
    ):
        model = load(demo_bundle)
        canvases = self_test.canvases(model.bundle.manifest.preparation.canvas_size, 1)
        library.refuses = lambda _: "IExecutionContext::enqueueV3: Error Code 2: OutOfMemory"
        with pytest.raises(MemoryError, match=r"tensorrt 10\.3\.0 failed in \w+\.onnx: .*OutOfMemory"):
            ask(model, canvases)
        library.refuses = lambda _: "an illegal memory access was encountered"
        with pytest.raises(BackendError, match="illegal memory access"):
            ask(model, canvases)
        library.refuses = lambda _: ""
        assert ask(model, canvases)


class TestThreads:
    """CUDA's context is a thread's own: whoever calls must be brought into it."""

    @pytest.mark.usefixtures("plans")
    def test_another_thread_may_run_what_one_has_loaded(self, demo_bundle):
        """All its arrays lie on the device, so that nothing but the run itself can enter it."""
        model = load(demo_bundle)
        device, size = model.backend.device, model.bundle.manifest.preparation.canvas_size
        canvases, features = (
            device.put(array)
            for array in (self_test.canvases(size, 2), model.encode(self_test.canvases(size, 2)))
        )
        found = device.put(np.zeros(features.shape, features.dtype))
        elsewhere(lambda: model.vision.run({"canvas": canvases}, {"features": found}))
        np.testing.assert_array_equal(device.get(found), device.get(features))

    @pytest.mark.usefixtures("plans")
    def test_another_thread_may_load_on_a_backend_that_one_has_opened(self, demo_bundle, demo_model):
        backend = open_backend("tensorrt")
        model = elsewhere(lambda: VisionLanguageModel(demo_bundle, backend))
        canvases = noisy(demo.frames()[9], 2)
        assert elsewhere(lambda: ask(model, canvases)) == ask(demo_model, canvases)


@pytest.mark.usefixtures("plans")
class TestCudaGraphs:
    """Decode steps that were captured: they compute what the steps themselves compute, or are not used."""

    GRAPHS = "tensorrt-cuda-graphs"

    @pytest.fixture
    def canvases(self):
        """Of a frame whose answers are of several lengths, so that rows leave the batch; three chunks."""
        return noisy(demo.frames()[9], 2 * BATCH + 5)

    @pytest.fixture
    def want(self, demo_model, canvases):
        return ask(demo_model, canvases)

    def test_the_answers_are_those_of_onnx_runtime_and_most_steps_are_launched(
        self, library, demo_bundle, canvases, want
    ):
        model = load(demo_bundle, self.GRAPHS)
        runs, launched = len(library.runs), len(library.driver.launched)
        assert ask(model, canvases) == want
        assert len(library.driver.launched) - launched > len(library.runs) - runs > 0
        assert (model.embed.refused, model.decoder.refused) == ("", "")
        assert model.engine_record("").backend == self.GRAPHS

    def test_only_steps_of_one_token_are_captured(self, library, demo_bundle, canvases):
        model = load(demo_bundle, self.GRAPHS)
        ask(model, canvases)
        sizes = [sizes for ((_, (_, sizes, _)),) in library.driver.graphs.values()]
        assert {size["seq"] for size in sizes} == {1}
        assert len({size["batch"] for size in sizes}) > 1

    def test_a_launch_reads_what_lies_there_then(self, demo_bundle):
        model, plain = load(demo_bundle, self.GRAPHS), load(demo_bundle)
        launched = cuda.driver.launched
        launched.clear()
        for tokens in ([3, 4], [5, 6], [7, 8], [9, 3]):
            for one in (model, plain):
                one.found = np.empty((2, 1, demo_bundle.manifest.dimensions.hidden), np.float32)
                one.embed.run({"input_ids": np.array(tokens)[:, None]}, {"embeddings": one.found})
            np.testing.assert_array_equal(model.found, plain.found)
        assert len(launched) == 3, "one compared when it was captured, and two more"

    def test_the_self_test_goes_through_them_too(self, library, demo_bundle):
        """At a launch with other tokens than when the graph was captured and compared."""
        launches = itertools.count()
        library.spoil_captured["logits"] = lambda logits: logits + 100 * (next(launches) > 0)
        with pytest.raises(BackendError, match=r"self-test of .* failed on this machine"):
            load(demo_bundle, self.GRAPHS)

    def test_another_question_lies_elsewhere_and_has_graphs_of_its_own(
        self, library, demo_bundle, canvases, want
    ):
        model = load(demo_bundle, self.GRAPHS)
        first, second = (Question(model, PROMPT, rows=BATCH) for _ in range(2))
        for question in (first, second, first):
            before = set(library.driver.graphs)
            answers = question.answers(canvases[:BATCH])
            assert [(answer.text, answer.status) for answer in answers] == want[:BATCH]
            assert set(library.driver.graphs).isdisjoint(before)

    def test_after_their_memory_to_compute_in_has_moved_they_are_captured_anew(
        self, library, demo_bundle, canvases, want
    ):
        model = load(demo_bundle, self.GRAPHS)
        question = Question(model, PROMPT, rows=BATCH)
        for size in (0, 1 << 20):
            model.backend._scratch.hold(size)
            launched = len(library.driver.launched)
            answers = question.answers(canvases[:BATCH])
            assert [(answer.text, answer.status) for answer in answers] == want[:BATCH]
            assert len(library.driver.launched) > launched

    def test_they_go_when_their_work_is_done(self, demo_bundle):
        """All arrays lie on the device, so that nothing but the engine itself waits."""
        model, hidden = load(demo_bundle, self.GRAPHS), demo_bundle.manifest.dimensions.hidden
        device = model.backend.device
        ids = device.put(np.array([[3], [4]]))
        found = [device.empty((2, 1, hidden), np.float32) for _ in range(2)]
        for k in (0, 0, 0, 1):
            model.embed.run({"input_ids": ids}, {"embeddings": found[k]})
        np.testing.assert_array_equal(*map(device.get, found))

    def test_there_are_never_more_of_an_engine_than_a_few(
        self, library, demo_bundle, canvases, want, monkeypatch
    ):
        monkeypatch.setattr(captured_steps, "MOST", 1)
        model = load(demo_bundle, self.GRAPHS)
        assert ask(model, canvases) == want
        assert len(library.driver.graphs) == 2, "one of each of two engines"

    def test_they_go_with_their_model(self, library, demo_bundle, canvases):
        model = load(demo_bundle, self.GRAPHS)
        ask(model, canvases)
        assert library.driver.graphs
        del model
        gc.collect()
        assert not library.driver.graphs
        assert not library.driver.allocated

    def test_a_library_that_cannot_be_captured_is_asked_once_and_runs_without(
        self, library, demo_bundle, canvases, want
    ):
        asked = []
        library.captured = lambda: asked.append(True)
        model = load(demo_bundle, self.GRAPHS)
        assert ask(model, canvases) == want
        assert len(asked) == 2, "the steps of embed and decoder"
        assert "not permitted when stream is capturing" in model.decoder.refused
        assert model.engine_record("").backend == "tensorrt"
        assert not library.driver.launched

    def test_without_a_context_of_their_own_steps_run_without(self, library, demo_bundle, canvases, want):
        model = load(demo_bundle, self.GRAPHS)
        library.contexts = False
        assert ask(model, canvases) == want
        assert "has no context for profile 0 of decoder.onnx" in model.decoder.refused

    def test_a_context_that_says_it_cannot_be_captured_is_not(self, library, demo_bundle, monkeypatch):
        """TensorRT for RTX says so, and does not always fail."""
        monkeypatch.setattr(Context, "is_stream_capturable", lambda *_: False, raising=False)
        library.captured = lambda: pytest.fail("it was captured")
        model = load(demo_bundle, self.GRAPHS)
        assert "says that its steps cannot be captured" in model.decoder.refused

    @pytest.mark.parametrize("name", CAPTURING)
    @pytest.mark.parametrize("status", [driver.CUresult.CUDA_ERROR_NOT_SUPPORTED, OUT_OF_MEMORY])
    def test_where_the_driver_refuses_steps_run_without(
        self, library, demo_bundle, monkeypatch, name, status
    ):
        real = getattr(library.driver, name)

        def refused(*arguments):
            if name == "cuStreamEndCapture":
                library.driver.capture.valid = False
                real(*arguments)
            return status, None

        monkeypatch.setattr(library.driver, name, refused)
        model = load(demo_bundle, self.GRAPHS)
        assert name in model.decoder.refused
        assert not library.driver.launched

    def test_a_graph_that_computes_something_else_is_not_used(self, library, demo_bundle, canvases, want):
        library.spoil_captured["logits"] = lambda logits: np.nextafter(logits, np.float32(9))
        model = load(demo_bundle, self.GRAPHS)
        assert ask(model, canvases) == want
        assert model.decoder.refused == "a CUDA graph computes something else than it was captured from"

    def test_nor_is_one_that_computes_nothing(self, library, demo_bundle, canvases, want, monkeypatch):
        """What lies where it should write is right already, for the step was run before."""
        instantiate = library.driver.cuGraphInstantiate

        def emptied(graph, flags):
            library.driver.templates[graph].clear()
            return instantiate(graph, flags)

        monkeypatch.setattr(library.driver, "cuGraphInstantiate", emptied)
        model = load(demo_bundle, self.GRAPHS)
        assert ask(model, canvases) == want
        assert "something else" in model.decoder.refused

    @pytest.fixture(params=["in place", "copied"])
    def cached(self, request, library, demo_bundle, sizes):
        """A model whose self-test has passed, for each of the ways in which its cache is written."""
        if request.param == "copied":
            library.module.OnnxParser, library.module.__version__ = OldParser, "10.3.0.1"
            build_plans(demo_bundle, "cuda:0", sizes)
        return lambda: load(demo_bundle, self.GRAPHS)

    @pytest.mark.parametrize("name", ["present.0.key", "present.1.value"])
    def test_nor_is_one_that_loses_what_it_writes_into_the_cache(self, library, cached, canvases, want, name):
        """Its logits are right, and the next ones would not be."""
        model = cached()
        library.lost.add(name)
        assert ask(model, canvases) == want
        assert "something else" in model.decoder.refused
        assert model.engine_record("").backend == "tensorrt"

    def test_nor_is_one_that_writes_something_else_into_the_cache(self, library, cached, canvases, want):
        model = cached()
        library.spoil_captured["present.0.value"] = lambda found: np.nextafter(found, np.float32(9))
        assert ask(model, canvases) == want
        assert "something else" in model.decoder.refused

    @pytest.mark.parametrize("lost", [False, True], ids=["used", "refused"])
    def test_to_compare_a_graph_changes_no_other_position_of_the_cache(
        self, library, demo_bundle, cached, lost
    ):
        """Positions that were never written are masked, which NaNs would get through."""
        sizes, found, model, plain = demo_bundle.manifest.dimensions, [], cached(), load(demo_bundle)
        library.lost.update({"present.0.key"} if lost else ())
        for one in (model, plain):
            device, length = one.backend.device, one.decoder.limits["max_len"].most
            cache = KVCache(device, sizes, 3, length, "float32")
            cache.fill(self_test.POISON)
            one.decode(np.ones((2, 5, sizes.hidden), np.float32), 0, length, cache, logits := zeros(sizes))
            for position in range(5, 9):
                token = np.full((2, 1, sizes.hidden), position, np.float32)
                one.decode(token, position, length, cache, logits)
            found.append([logits, *map(device.get, cache.inputs(3).values())])
        assert bool(model.decoder.refused) is lost
        for mine, other in zip(*found, strict=True):
            np.testing.assert_array_equal(mine, other)

    @pytest.mark.parametrize(("held", "meant"), [("f4", np.float32), ("f2", np.float16), ("u2", floats)])
    def test_what_is_overwritten_is_nan(self, held, meant):
        """Also where an array holds the bits of bfloat16 numbers."""
        value = np.array([captured_steps._other_than_any(np.dtype(held))], held)
        assert np.isnan(meant(value)).all()

    def test_a_step_that_writes_each_row_elsewhere_is_not_captured(self, library, demo_bundle):
        """It could not be compared; no question has any."""
        model, sizes = load(demo_bundle, self.GRAPHS), demo_bundle.manifest.dimensions
        device, length = model.backend.device, model.decoder.limits["max_len"].most
        cache, launched = KVCache(device, sizes, 2, length, "float32"), len(library.driver.launched)
        positions = {"write_index": np.array([3, 4]), "mask": np.ones((2, 1, 1, length), np.bool_)}
        for _ in range(3):
            model.decoder.run(
                {"embeddings": np.ones((2, 1, sizes.hidden), np.float32), **positions, **cache.inputs(2)},
                {"logits": zeros(sizes), **cache.outputs(2)},
            )
        assert (len(library.driver.launched), model.decoder.refused) == (launched, "")

    def test_what_another_thread_enqueues_meanwhile_is_done_and_captured_by_nobody(
        self, library, demo_bundle, canvases, want
    ):
        """It draws the next noise, in memory of its own."""
        backend, numbers = open_backend(self.GRAPHS), np.arange(5)
        device = backend.device

        def meanwhile():
            return elsewhere(lambda: np.array_equal(device.get(device.put(numbers)), numbers))

        library.captured = meanwhile
        model = VisionLanguageModel(demo_bundle, backend)
        assert ask(model, canvases) == want
        assert (model.decoder.refused, len(library.driver.launched) > 0) == ("", True)

    def test_what_the_collector_frees_meanwhile_is_freed(self, library, demo_bundle):
        backend, rubbish = open_backend(self.GRAPHS), []
        library.captured = lambda: rubbish.clear() or True
        rubbish.append(backend.device.empty((1000,), np.float32))
        pointer = rubbish[0].pointer
        model = VisionLanguageModel(demo_bundle, backend)
        assert pointer not in library.driver.allocated
        assert model.embed.refused == model.decoder.refused == ""

    def test_a_library_that_allocates_meanwhile_is_refused(self, library, demo_bundle, canvases, want):
        """The graph would write where nothing is allocated any longer."""
        library.captured = lambda: library.driver.cuMemAlloc(8)[0] is driver.CUresult.CUDA_SUCCESS
        model = load(demo_bundle, self.GRAPHS)
        assert ask(model, canvases) == want
        assert not library.driver.launched

    def test_a_cache_that_is_copied_has_them_too(self, library, demo_bundle, sizes, canvases, want):
        library.module.OnnxParser, library.module.__version__ = OldParser, "10.3.0.1"
        build_plans(demo_bundle, "cuda:0", sizes)
        model = load(demo_bundle, self.GRAPHS)
        assert ask(model, canvases) == want
        assert model.decoder.refused == ""
        assert library.driver.launched

    def test_a_certificate_says_so_and_is_replayed_so(self, library, demo_bundle):
        (oracle,) = demo_bundle.manifest.classifiers
        found, want = (
            Certifier(demo.load_bundle(), sigma=0.5, samples=60, backend=open_backend(backend)).certify(
                demo.frames()[9], PROMPT, oracle=oracle.name, seed="5" * 32
            )
            for backend in (self.GRAPHS, "onnxruntime")
        )
        assert (found.votes, found.engine.backend) == (want.votes, self.GRAPHS)
        library.driver.launched.clear()
        assert replay(found, demo_bundle, demo.frames()[9]).votes == found.votes
        assert library.driver.launched


class TestSizes:
    @pytest.mark.usefixtures("plans")
    def test_more_rows_than_the_plans_take_are_refused_with_the_number(self, demo_bundle):
        model = load(demo_bundle)
        assert model.max_rows == BATCH
        with pytest.raises(InputError, match=f"batch size is 9; it must lie between 1 and {BATCH}"):
            Question(model, PROMPT, rows=BATCH + 1)

    @pytest.mark.usefixtures("plans", "library")
    def test_a_question_longer_than_the_plans_take_is_refused(self, demo_bundle):
        shorter = Sizes.of(demo_bundle.manifest, BATCH, 72)
        built = {plan.record.source: plan for plan, _ in build_plans(demo_bundle, "cuda:0", shorter)}
        model = VisionLanguageModel(demo_bundle, TensorRTBackend("cuda:0", lambda source, _: built[source]))
        with pytest.raises(InputError, match=r"max_len of at most 72; this takes \d+: .*edgers build"):
            Question(model, "please " * 40 + PROMPT, rows=1)

    @pytest.mark.usefixtures("plans")
    def test_a_cache_that_comes_out_elsewhere_than_it_went_in_is_refused(self, demo_bundle):
        model = load(demo_bundle)
        device, graph = model.backend.device, model.bundle.manifest.graphs.decoder
        shape = {"batch": 1, "seq": 1, "max_len": model.decoder.limits["max_len"].most}
        inputs, outputs = (
            {t.name: device.empty(tuple(shape.get(size, size) for size in t.shape), t.dtype) for t in tensors}
            for tensors in (graph.inputs, graph.outputs)
        )
        with pytest.raises(InputError, match=r"present\.\d\.\w+ and past\.\d\.\w+ must be the same memory"):
            model.decoder.run(inputs, outputs)

    @pytest.mark.parametrize(
        ("batch", "length", "says"),
        [
            (1, None, "--max-batch is 1; it must lie between"),
            (5000, None, "--max-batch is 5000"),
            (None, 8, "--max-length is 8; this model needs"),
            (None, 1 << 20, "--max-length is 1048576"),
        ],
    )
    def test_sizes_that_serve_no_question_are_refused(self, demo_bundle, batch, length, says):
        with pytest.raises(InputError, match=says):
            Sizes.of(demo_bundle.manifest, batch, length)


class TestBuild:
    def test_each_graph_is_built_once_and_never_again(self, plans, library, demo_bundle, sizes):
        assert library.built == ["features", "embeddings", "logits", "logits"]
        again = build_plans(demo_bundle, "cuda:0", sizes)
        assert len(library.built) == 4
        assert [(plan.record, new) for plan, new in again] == [(plan.record, False) for plan in plans]

    def test_what_does_not_compute_the_self_test_is_not_stored(self, library, demo_bundle, sizes):
        library.spoil["features"] = lambda features: features * np.float32(1.5)
        with pytest.raises(BackendError, match=r"self-test of .* failed on this machine"):
            build_plans(demo_bundle, "cuda:0", sizes)
        assert Plans().stored() == Plans(Plans().folder / ".unproven").stored() == []

    def test_a_plan_that_is_wrong_for_large_batches_only_is_not_stored(self, library, demo_bundle, sizes):
        def spoil(features):
            return features * np.float32(1.5) if len(features) == BATCH else features

        library.spoil["features"] = spoil
        with pytest.raises(BackendError, match=f"with {BATCH} rows together a logit is"):
            build_plans(demo_bundle, "cuda:0", sizes)
        assert Plans().stored() == []

    def test_an_oracle_that_computes_something_else_is_not_stored(self, library, demo_bundle, sizes):
        classes = len(demo_bundle.manifest.classifiers[0].labels)
        library.spoil["logits"] = lambda logits: logits[:, ::-1] if logits.shape[1] == classes else logits
        with pytest.raises(BackendError, match="self-test of the oracle robot-action failed"):
            build_plans(demo_bundle, "cuda:0", sizes)
        assert Plans().stored() == []

    def test_an_oracle_that_is_wrong_for_large_batches_only_is_not_stored(self, library, demo_bundle, sizes):
        classes = len(demo_bundle.manifest.classifiers[0].labels)

        def spoil(logits):
            return logits[:, ::-1] if logits.shape == (ROWS, classes) else logits

        library.spoil["logits"] = spoil
        with pytest.raises(BackendError, match="self-test of the oracle robot-action failed"):
            build_plans(demo_bundle, "cuda:0", sizes)

    def test_plans_of_another_bundle_are_compared_with_this_ones_self_test(
        self, plans, library, demo_bundle, sizes
    ):
        """The same graphs and weights may stand beside another self-test."""
        library.spoil["features"] = lambda features: features * np.float32(1.5)
        with pytest.raises(BackendError, match=r"self-test of .* failed"):
            build_plans(demo_bundle, "cuda:0", sizes)
        assert not any(plan.path.exists() for plan in plans)

    def test_too_little_memory_for_the_self_test_throws_nothing_away(self, library, demo_bundle, sizes):
        library.refuses = lambda sizes: "OutOfMemory" if sizes["batch"] == BATCH else ""
        with pytest.raises(BackendError, match=r"the plans are kept but not accepted: .*--max-batch 4"):
            build_plans(demo_bundle, "cuda:0", sizes)
        assert Plans().stored() == []
        library.refuses = lambda _: ""
        build_plans(demo_bundle, "cuda:0", sizes)
        assert library.built == ["features", "embeddings", "logits", "logits"]

    def test_a_plan_that_no_longer_loads_is_built_anew_the_next_time(
        self, plans, library, demo_bundle, sizes
    ):
        library.plans.clear()
        with pytest.raises(BackendError, match="magic tag"):
            build_plans(demo_bundle, "cuda:0", sizes)
        assert all(new for _, new in build_plans(demo_bundle, "cuda:0", sizes))
        assert len(plans) == 4

    def test_a_build_that_was_ended_goes_on_where_it_was(self, library, demo_bundle, sizes):
        with pytest.raises(BackendError, match=r"cannot build decoder\.onnx: the build was cancelled"):
            build_plans(demo_bundle, "cuda:0", sizes, lambda graph, *_: graph != "decoder.onnx")
        assert Plans().stored() == []
        assert library.built == ["features", "embeddings"]
        build_plans(demo_bundle, "cuda:0", sizes)
        assert library.built == ["features", "embeddings", "logits", "logits"]
        assert len(Plans().stored()) == 4

    def test_what_one_build_measured_the_next_one_has(self, plans):
        assert Plans().timings(plans[0].record.target) == b"t" * 4

    @pytest.mark.usefixtures("library")
    def test_a_plan_may_take_more_rows_than_it_has_positions(self, demo_bundle):
        (_, embed, *_) = build_plans(demo_bundle, "cuda:0", Sizes.of(demo_bundle.manifest, 200, None))
        assert [profile["seq"].most for profile in embed.plan.record.profiles] == [1, 200]

    @pytest.mark.usefixtures("library")
    def test_its_steps_are_told(self, demo_bundle, sizes):
        told = []
        build_plans(demo_bundle, "cuda:0", sizes, lambda *step: told.append(step) or True)
        assert told[:2] == [("vision.onnx", "Emulated building", step, 2) for step in (1, 2)]
        assert {graph for graph, *_ in told} == {loaded.graph.file for loaded in demo_bundle.manifest.loaded}

    @pytest.mark.usefixtures("library")
    def test_a_processor_is_no_device_for_it(self, demo_bundle, sizes):
        with pytest.raises(InputError, match="TensorRT computes on a GPU: use --device cuda:N"):
            build_plans(demo_bundle, "cpu", sizes)


@pytest.mark.usefixtures("plans")
class TestCertificate:
    @staticmethod
    def certifier(backend, **options):
        return Certifier(demo.load_bundle(), sigma=0.5, samples=60, backend=backend, **options)

    def certify(self, backend, frame, **options):
        return self.asked(self.certifier(backend, **options), frame)

    @staticmethod
    def asked(certifier, frame):
        return certifier.certify(frame, PROMPT, choices=("left", "right", "forward", "stop"), seed="5" * 32)

    @pytest.mark.parametrize("frame", [0, 9])
    def test_the_votes_are_those_of_onnx_runtime_and_the_plans_are_named(self, frame):
        frame = demo.frames()[frame]
        found = self.certify(open_backend("tensorrt"), frame)
        want = self.certify(open_backend(), frame)
        assert (found.votes, found.label, found.radius) == (want.votes, want.label, want.radius)
        assert (found.engine.backend, found.engine.device, len(found.engine.plans)) == (
            "tensorrt",
            "cuda:0",
            3,
        )
        assert found.sampler.name == f"{want.sampler.name}/cuda"
        assert want.engine.plans == ()

    def test_it_is_replayed_on_the_plans_that_it_names(self, demo_bundle):
        certificate = self.certify(open_backend("tensorrt"), demo.frames()[0])
        build_plans(demo_bundle, "cuda:0", Sizes.of(demo_bundle.manifest, 2 * BATCH, None))
        latest = self.certify(open_backend("tensorrt"), demo.frames()[0])
        again = replay(certificate, demo_bundle, demo.frames()[0])
        assert again.votes == certificate.votes
        assert again.engine.plans == certificate.engine.plans != latest.engine.plans

    def test_more_than_the_plans_take_is_answered_in_smaller_chunks_with_the_same_votes(self):
        found = self.certify(open_backend("tensorrt"), demo.frames()[9], batch_size=60)
        assert found.batch_size <= BATCH
        assert 60 % found.batch_size == 0
        assert found.votes == self.certify(open_backend(), demo.frames()[9]).votes

    def test_out_of_memory_halves_the_chunk_and_keeps_the_votes(self, library):
        most, certifier = BATCH // 4, self.certifier(open_backend("tensorrt"), batch_size=BATCH)
        library.refuses = lambda sizes: "OutOfMemory" if sizes["batch"] > most and 3 in sizes else ""
        found = self.asked(certifier, demo.frames()[9])
        assert found.batch_size == most
        assert found.votes == self.certify(open_backend(), demo.frames()[9]).votes

    def test_the_kth_allocation_may_fail_for_every_k_and_the_votes_are_the_same(
        self, emulated_driver, monkeypatch
    ):
        certifier = Certifier(
            demo.load_bundle(),
            sigma=0.5,
            samples=8,
            selection=4,
            batch_size=4,
            backend=open_backend("tensorrt"),
        )
        allocate = emulated_driver.cuMemAlloc

        def certificate(failing):
            """The certificate, and whether an allocation failed."""
            made = iter(range(1000))
            monkeypatch.setattr(
                emulated_driver,
                "cuMemAlloc",
                lambda size: (OUT_OF_MEMORY, None) if next(made) == failing else allocate(size),
            )
            found = certifier.certify(demo.frames()[9], PROMPT, choices=("forward", "stop"), seed="5" * 32)
            return found, next(made) > failing

        whole, _ = certificate(1000)
        for k in range(1000):
            found, failed = certificate(k)
            assert (found.votes, found.batch_size) == (whole.votes, 2 if failed else 4)
            if not failed:
                break
        assert k > 20


class TestOldLibrary:
    """One that lacks the operators of opset 23 and 24: the graphs are written out, the cache is copied."""

    def test_the_answers_are_those_of_onnx_runtime(self, library, demo_bundle, demo_model, sizes):
        library.module.OnnxParser = OldParser
        built = build_plans(demo_bundle, "cuda:0", sizes)
        assert [plan.record.in_place for plan, _ in built] == [True, True, False, True]
        model, canvases = load(demo_bundle), noisy(demo.frames()[9], 13)
        assert ask(model, canvases) == ask(demo_model, canvases)

    def test_an_operator_that_cannot_be_written_out_is_told_before_the_build(
        self, library, demo_bundle, sizes, monkeypatch
    ):
        monkeypatch.setattr(OldParser, "lacks", ("Gather", "Attention"))
        library.module.OnnxParser = OldParser
        with pytest.raises(BackendError, match=r"embed\.onnx needs Gather, which tensorrt 10\.3\.0 does not"):
            build_plans(demo_bundle, "cuda:0", sizes)


class TestKernelCache:
    """TensorRT for RTX compiles kernels when it loads a plan, which `edgers build` spares later loads."""

    @pytest.fixture
    def built(self, library, demo_bundle, sizes):
        """The plans of the model, whose kernels were compiled once; the fourth is the oracle's."""
        library.be_for_rtx()
        plans = [plan for plan, _ in build_plans(demo_bundle, "cuda:0", sizes)]
        assert len(library.compiled) == 4
        library.compiled.clear()
        return plans[:3]

    @pytest.mark.usefixtures("built")
    def test_what_a_build_compiled_is_not_compiled_again(self, library, demo_bundle, demo_model):
        model, canvases = load(demo_bundle), noisy(demo.frames()[9], 2)
        model.classifier(*demo_bundle.manifest.classifiers)
        assert library.compiled == []
        assert ask(model, canvases) == ask(demo_model, canvases)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(lambda _: None, id="none"),
            pytest.param(lambda _: b"", id="empty"),
            pytest.param(lambda old: old[:-1], id="cut off"),
            pytest.param(lambda old: old[:-1] + b"!", id="changed"),
            pytest.param(
                lambda _: hashlib.sha256(b"of another GPU").digest() + b"of another GPU", id="other"
            ),
        ],
    )
    def test_whatever_cannot_be_taken_is_compiled_and_stored_by_the_next_build(
        self, library, demo_bundle, sizes, built, content
    ):
        file = built[2].path / "kernels.bin"
        stored = file.read_bytes()
        new = content(stored)
        file.unlink() if new is None else file.write_bytes(new)
        before = sorted(path.name for path in file.parent.iterdir())
        load(demo_bundle)
        assert library.compiled == [b"plan 2"]
        assert sorted(path.name for path in file.parent.iterdir()) == before, "a load writes nothing"
        assert [new for _, new in build_plans(demo_bundle, "cuda:0", sizes)] == [False] * 4
        assert file.read_bytes() == stored

    def test_the_record_names_the_kernels_that_were_stored_and_taken(self, demo_bundle, built):
        files = [plan.path / "kernels.bin" for plan in built]
        digests = [hashlib.sha256(file.read_bytes()[32:]).hexdigest() for file in files]
        want = [(plan.record.sha256, digest) for plan, digest in zip(built, digests, strict=True)]
        assert load(demo_bundle).engine_record("").plans == tuple(itertools.chain(*want))
        files[1].unlink()
        want[1] = want[1][:1]
        assert load(demo_bundle).engine_record("").plans == tuple(itertools.chain(*want))

    def test_what_was_taken_is_not_written_again(self, demo_bundle, sizes, built):
        before = [(plan.path / "kernels.bin").stat().st_ino for plan in built]
        build_plans(demo_bundle, "cuda:0", sizes)
        assert [(plan.path / "kernels.bin").stat().st_ino for plan in built] == before

    def test_kernels_that_fail_the_self_test_go_with_their_plans(self, library, demo_bundle, sizes, built):
        library.spoil["features"] = lambda features: features * np.float32(1.5)
        with pytest.raises(BackendError, match=r"self-test of .* failed"):
            build_plans(demo_bundle, "cuda:0", sizes)
        assert not any(plan.path.exists() for plan in built)

    def test_a_full_disk_costs_the_next_load_its_time_and_nothing_else(
        self, library, demo_bundle, sizes, monkeypatch
    ):
        def full(*_):
            raise OSError(28, "No space left on device")

        library.be_for_rtx()
        monkeypatch.setattr("edgers_engines.kernel_cache.Path.replace", full)
        monkeypatch.setattr(Plans, "keep_timings", lambda *_: None)
        plans = build_plans(demo_bundle, "cuda:0", sizes)
        assert {path.name for path in plans[0].plan.path.iterdir()} == {"plan.json", "plan.bin"}
        assert load(demo_bundle)

    @pytest.mark.usefixtures("plans")
    def test_tensorrt_has_none(self, library):
        assert {path.name for plan in Plans().stored() for path in plan.path.iterdir()} == {
            "plan.json",
            "plan.bin",
        }
        assert library.compiled == []


class TestLoad:
    @pytest.mark.usefixtures("library")
    def test_without_a_plan_the_error_says_how_to_make_it(self, demo_bundle):
        with pytest.raises(
            BackendError,
            match=r"no plan of vision\.onnx for tensorrt 10\.3\.0 on Emulated GPU: `edgers build` makes it$",
        ):
            load(demo_bundle)

    @pytest.mark.usefixtures("plans")
    def test_another_library_is_told_from_the_one_that_built(self, library, demo_bundle):
        library.module.__version__ = "10.16.0"
        with pytest.raises(BackendError, match=r"built for library tensorrt 10\.3\.0 \(here tensorrt 10\.16"):
            load(demo_bundle)

    @pytest.mark.usefixtures("plans")
    def test_a_plan_of_other_weights_is_not_taken(self, demo_bundle, tmp_path):
        """The graph is the same to the last byte."""
        folder = shutil.copytree(demo_bundle.path, tmp_path / "other")
        content = bytearray((folder / "weights.bin").read_bytes())
        content[0] ^= 1
        (folder / "weights.bin").write_bytes(content)
        manifest = (folder / "manifest.json").read_text()
        old = next(file.sha256 for file in demo_bundle.manifest.files if file.path == "weights.bin")
        (folder / "manifest.json").write_text(manifest.replace(old, hashlib.sha256(content).hexdigest()))
        with pytest.raises(BackendError, match=r"no plan of vision\.onnx"):
            load(Bundle.load(folder))

    @pytest.mark.usefixtures("library")
    def test_a_plan_that_is_not_what_was_built_is_not_loaded_and_built_anew(self, plans, demo_bundle, sizes):
        file = plans[2].path / "plan.bin"
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        with pytest.raises(BackendError, match=r"plan of decoder\.onnx in .* is damaged: `edgers build`"):
            load(demo_bundle)
        assert [new for _, new in build_plans(demo_bundle, "cuda:0", sizes)] == [False, False, True, False]
        assert load(demo_bundle)

    @pytest.mark.usefixtures("plans")
    def test_a_plan_that_the_library_refuses_is_told_with_its_reason(self, demo_bundle, library):
        library.plans.clear()
        with pytest.raises(BackendError, match=r"cannot load the plan of vision\.onnx: .*magic tag"):
            load(demo_bundle)

    @pytest.mark.usefixtures("plans")
    def test_without_a_context_the_librarys_reason_is_told(self, demo_bundle, library):
        library.contexts = False
        with pytest.raises(
            BackendError, match=r"has no context for profile 0 of vision\.onnx: it gives no rea"
        ):
            load(demo_bundle)

    @pytest.mark.usefixtures("plans")
    def test_where_kernels_would_be_compiled_for_the_shapes_met_they_are_not(self, demo_bundle, library):
        """TensorRT for RTX does so by itself, and votes by other kernels than were tested."""
        library.be_for_rtx()
        assert load(demo_bundle)

    def test_the_record_names_the_plans(self, plans, demo_bundle):
        model = load(demo_bundle)
        model.classifier(*demo_bundle.manifest.classifiers)
        record = model.engine_record("choices")
        oracle = model.engine_record("robot-action")
        assert oracle.plans == (*record.plans, plans[3].record.sha256)
        assert (record.backend, record.provider, record.version) == ("tensorrt", "tensorrt", "10.3.0")
        assert record.plans == tuple(plan.record.sha256 for plan in plans[:3])
        assert msgspec.json.decode(msgspec.json.encode(record))["plans"] == list(record.plans)

    @pytest.mark.usefixtures("plans")
    def test_no_weights_are_copied_for_it(self, demo_bundle, monkeypatch):
        from edgers_engines.weights import Weights

        monkeypatch.setattr(Weights, "folder", property(lambda _: pytest.fail("they are in the plan")))
        load(demo_bundle)


@pytest.mark.usefixtures("plans")
def test_doctor_says_what_there_is_of_it():
    assert doctor._tensorrt().startswith("tensorrt 10.3.0 is there, with 4 plans for this GPU")


def test_the_number_of_the_way_to_build_is_part_of_a_plans_key(plans, demo_bundle, library, monkeypatch):
    monkeypatch.setattr("edgers_engines.tensorrt.BUILDER", tensorrt_plan.BUILDER + 1)
    with pytest.raises(BackendError, match=r"the last was built for builder 1 \(here 2\)"):
        load(demo_bundle)


class TestCommands:
    @staticmethod
    def run(capsys, *arguments):
        code = cli.main([*arguments], standalone_mode=False)
        return code, capsys.readouterr().out

    @pytest.mark.usefixtures("library")
    def test_build_tells_what_it_built_and_then_what_was_there(self, capsys):
        code, out = self.run(capsys, "build", "--max-batch", str(BATCH))
        assert code == 0
        assert re.search(r"^decoder\.onnx: 0\.0 MB, built in \d+\.\d s$", out, re.M)
        assert f"They take up to {BATCH} samples at once and 176 positions" in " ".join(out.split())
        _, out = self.run(capsys, "build", "--max-batch", str(BATCH), "--json")
        report = json.loads(out)
        assert [plan["new"] for plan in report["plans"]] == [False] * 4
        assert report["folder"] == str(Plans().folder)

    @pytest.mark.parametrize("command", ["build", "engines prune"])
    @pytest.mark.usefixtures("plans")
    def test_who_waits_for_another_process_says_so_on_stderr(self, capsys, monkeypatch, command):
        flock = fcntl.flock
        with ExitStack() as other:
            other.enter_context(Plans().alone())

            def lock(file, how):
                if how == fcntl.LOCK_EX:  # without this the test would wait, too
                    other.close()
                flock(file, how)

            monkeypatch.setattr(fcntl, "flock", lock)
            cli.main([*command.split(), "--json"], standalone_mode=False)
        out, err = capsys.readouterr()
        assert err == f"process {os.getpid()} builds or removes plans in {Plans().folder}: waiting for it\n"
        assert json.loads(out)

    def test_engines_are_listed_and_removed(self, plans, capsys):
        _, out = self.run(capsys, "engines", "list", "--json")
        listed = {plan["key"] for plan in json.loads(out)["plans"]}
        assert listed == {plan.record.key for plan in plans}
        _, out = self.run(capsys, "engines", "list")
        assert all(plan.record.key[:12] in out for plan in plans)
        _, out = self.run(capsys, "engines", "prune", "--json")
        assert {plan["key"] for plan in json.loads(out)["removed"]} == listed
        assert Plans().stored() == []

    @pytest.mark.usefixtures("library")
    def test_an_interrupted_build_is_an_interruption_and_no_failure(self, monkeypatch, capsys):
        started = []

        def interrupt():
            started.append(True)
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr("tests.engines.emulated_tensorrt.begun", interrupt)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        try:
            with pytest.raises(click.Abort):
                self.run(capsys, "build")
        finally:
            signal.signal(signal.SIGINT, before)
        assert started == [True]
        assert Plans().stored() == []
