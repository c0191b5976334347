"""The engine contract, and ONNX Runtime under it: what is checked, what is refused, what is never copied."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgers.cli import certify
from edgers_engines import onnxruntime as backend_module
from edgers_engines.device import Host
from edgers_engines.engine import BACKENDS, Engine, open_backend
from edgers_engines.errors import BackendError, InputError
from edgers_engines.graph_record import Graph, Tensor

NOWHERE = SimpleNamespace(folder=Path("nowhere"))  # the weights of graphs that have none outside

# y = x * scale + w, where w is a constant of the graph.
SIGNATURE = Graph(
    file="adder.onnx",
    inputs=(
        Tensor(name="x", dtype="float32", shape=("batch", "seq", 4)),
        Tensor(name="scale", dtype="float32", shape=("batch", 1, 4)),
    ),
    outputs=(Tensor(name="y", dtype="float32", shape=("batch", "seq", 4)),),
)


def adder(*, names=("x", "scale", "y"), operator="Add", domain=""):
    """The ONNX bytes of the graph above, or of one that differs from it."""
    x, scale, y = names
    graph = helper.make_graph(
        [
            helper.make_node("Mul", [x, scale], ["product"]),
            helper.make_node(operator, ["product", "w"], [y], domain=domain),
        ],
        "adder",
        [
            helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", "seq", 4]),
            helper.make_tensor_value_info(scale, TensorProto.FLOAT, ["batch", 1, 4]),
        ],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["batch", "seq", 4])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4], [1, 2, 3, 4])],
    )
    domains = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=domains, ir_version=8).SerializeToString()


def projector(location):
    """The graph above with a matrix in another file: y = (x * scale) @ w."""
    model = onnx.load_model_from_string(adder(operator="MatMul"))
    [weights] = model.graph.initializer
    weights.ClearField("float_data")
    weights.dims[:] = [4, 4]
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "64")):
        weights.external_data.add(key=key, value=value)
    return model.SerializeToString()


def arrays(batch=2, seq=3):
    x = np.arange(batch * seq * 4, dtype=np.float32).reshape(batch, seq, 4)
    scale = np.full((batch, 1, 4), 2, np.float32)
    return {"x": x, "scale": scale}, {"y": np.full((batch, seq, 4), -1, np.float32)}


class Recorder(Engine):
    """A backend's engine that only notes what reaches it."""

    def __init__(self):
        super().__init__(SIGNATURE)
        self.ran = []

    def _run(self, inputs, outputs):
        self.ran.append((inputs, outputs))


@pytest.fixture(scope="module")
def backend():
    return open_backend(threads=1)


@pytest.fixture(scope="module")
def engine(backend):
    return backend.load(adder(), SIGNATURE, NOWHERE)


def read_only(array):
    array.flags.writeable = False
    return array


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


REFUSED = (
    pytest.param({"x": None}, {}, "takes .*'x', 'scale'.*got .*'scale'", id="missing-input"),
    pytest.param({"z": zeros(1)}, {}, "takes .*'x', 'scale'.*'z'", id="unknown-input"),
    pytest.param({}, {"y": None}, "takes .*'y'.*got", id="missing-output"),
    pytest.param({}, {"z": zeros(1)}, "takes .*'y'.*'z'", id="unknown-output"),
    pytest.param({"x": zeros(2, 3, 4, dtype=np.float64)}, {}, "x is float32.*got float64", id="dtype"),
    pytest.param({"x": zeros(2, 3, 4, dtype=np.int32)}, {}, "x is float32.*got int32", id="integers"),
    pytest.param({"x": zeros(2, 3, 4, dtype=object)}, {}, "x is float32.*got object", id="objects"),
    pytest.param({"x": zeros(2, 3, 4, dtype=">f4")}, {}, "x is float32", id="input-of-other-byte-order"),
    pytest.param({}, {"y": zeros(2, 3, 4, dtype=np.float16)}, "y is float32.*got float16", id="output-dtype"),
    pytest.param({}, {"y": zeros(2, 3, 4, dtype=">f4")}, "y is float32", id="output-of-other-byte-order"),
    pytest.param({"x": zeros(2, 12)}, {}, r"x is .*got float32 \[2, 12\]", id="too-few-dimensions"),
    pytest.param({"x": zeros(2, 3, 4, 1)}, {}, r"x is .*\[2, 3, 4, 1\]", id="too-many-dimensions"),
    pytest.param({"x": zeros()}, {}, r"x is .*got float32 \[\]", id="no-dimensions"),
    pytest.param({"x": zeros(2, 3, 5)}, {}, r"x is .*\[2, 3, 5\]", id="fixed-dimension"),
    pytest.param({"scale": zeros(2, 3, 4)}, {}, r"scale is .*\[2, 3, 4\]", id="fixed-one"),
    pytest.param({"scale": zeros(3, 1, 4)}, {}, "scale is .*'batch': 2.*3, 1, 4", id="two-sizes-of-inputs"),
    pytest.param({}, {"y": zeros(3, 3, 4)}, "y is .*'batch': 2.*3, 3, 4", id="two-sizes-of-an-output"),
    pytest.param({}, {"y": zeros(2, 4, 4)}, "y is .*'seq': 3.*2, 4, 4", id="another-free-dimension"),
    pytest.param({"x": zeros(4, 3, 2).T}, {}, "x is not contiguous", id="transposed-input"),
    pytest.param({"x": zeros(2, 3, 8)[..., ::2]}, {}, "x is not contiguous", id="strided-input"),
    pytest.param(
        {"x": np.broadcast_to(zeros(4), (2, 3, 4))}, {}, "x is not contiguous", id="broadcast-input"
    ),
    pytest.param({}, {"y": zeros(4, 6, 4)[::2, ::2]}, "y is not contiguous", id="strided-output"),
    pytest.param({}, {"y": read_only(zeros(2, 3, 4))}, "y .*(read-only|writ)", id="read-only-output"),
)


class TestContract:
    @pytest.mark.parametrize(("inputs", "outputs", "says"), REFUSED)
    def test_what_is_not_of_the_signature_is_refused_and_never_runs(self, inputs, outputs, says):
        engine, given = Recorder(), arrays()
        for known, changed in zip(given, (inputs, outputs), strict=True):
            for name, array in changed.items():
                known[name] = array
                if array is None:
                    del known[name]
        with pytest.raises(InputError, match=says) as caught:
            engine.run(*given)
        assert str(caught.value).startswith("adder.onnx")
        assert str(caught.value).isprintable()
        assert engine.ran == []

    @pytest.mark.parametrize(("batch", "seq"), [(1, 1), (2, 3), (25, 1)])
    def test_what_is_of_the_signature_reaches_the_backend_as_the_very_same_arrays(self, batch, seq):
        engine, (inputs, outputs) = Recorder(), arrays(batch, seq)
        engine.run(inputs, outputs)
        [(ran_inputs, ran_outputs)] = engine.ran
        assert all(ran_inputs[name] is inputs[name] for name in ("x", "scale"))
        assert ran_outputs["y"] is outputs["y"]

    def test_sizes_of_one_run_do_not_bind_the_next(self):
        engine = Recorder()
        engine.run(*arrays(2, 3))
        engine.run(*arrays(5, 1))
        assert len(engine.ran) == 2

    def test_an_input_may_be_read_only(self):
        engine, (inputs, outputs) = Recorder(), arrays()
        read_only(inputs["x"])
        engine.run(inputs, outputs)
        assert len(engine.ran) == 1


class TestOpenBackend:
    def test_an_unknown_backend_is_refused_with_the_choices(self):
        with pytest.raises(InputError, match="no backend 'abacus'") as caught:
            open_backend("abacus")
        assert all(name in str(caught.value) for name in BACKENDS)

    def test_the_commands_offer_all_of_them(self):
        """They spell the names themselves, for to import this module takes time."""
        options = {option.name: option for option in certify.command.params}
        assert tuple(options["backend"].type.choices) == BACKENDS

    @pytest.mark.parametrize("name", ["tensorrt", "tensorrt-cuda-graphs"])
    def test_tensorrt_is_an_error_and_not_another_backend(self, name):
        with pytest.raises(InputError, match="TensorRT computes on a GPU"):
            open_backend(name, device="cpu")

    @pytest.mark.parametrize(
        "device", ["gpu", "cuda", "cuda:", "cuda:-1", "cuda:1x", "cuda:1234", "CPU", "", "cpu\n"]
    )
    def test_an_unknown_device_is_refused_with_the_choices(self, device):
        with pytest.raises(InputError, match="use cpu or cuda:N") as caught:
            open_backend(device=device)
        assert repr(device) in str(caught.value)

    @pytest.mark.parametrize("threads", [0, -1, 1025, 10**12])
    def test_a_senseless_number_of_threads_is_refused(self, threads):
        with pytest.raises(InputError, match=f"threads is {threads}"):
            open_backend(threads=threads)

    def test_cuda_without_its_provider_is_an_error_that_names_the_provider(self, monkeypatch):
        """Never the CPU instead."""
        monkeypatch.setattr(backend_module, "available_providers", lambda: ["CPUExecutionProvider"])
        with pytest.raises(
            BackendError, match=r"cuda:0 needs CUDAExecutionProvider.*has CPUExecutionProvider"
        ):
            open_backend(device="cuda:0")

    @staticmethod
    def pretend_cuda(monkeypatch):
        """All of CUDA but a GPU: arrays stay in the host's memory."""
        monkeypatch.setattr(backend_module, "available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(backend_module, "_open", lambda ordinal: (Host(), {"device_id": str(ordinal)}))

    def test_a_node_that_the_provider_leaves_to_the_cpu_is_an_error(self, monkeypatch):
        """But not a graph's arithmetic with sizes, which ONNX Runtime keeps there on purpose."""
        session = backend_module.ort.InferenceSession

        class Elsewhere:
            def __init__(self, content, options, **_):
                self.session = session(content, options, providers=["CPUExecutionProvider"])

            def get_providers(self):
                return ["CUDAExecutionProvider", "CPUExecutionProvider"]

            def __getattr__(self, name):
                return getattr(self.session, name)

        self.pretend_cuda(monkeypatch)
        monkeypatch.setattr(backend_module.ort, "InferenceSession", Elsewhere)
        with pytest.raises(BackendError, match=r"would run Add, Mul of adder.onnx on the CPU"):
            open_backend(device="cuda:1").load(adder(), SIGNATURE, NOWHERE)
        monkeypatch.setattr(backend_module, "_ON_SIZES", {"Add", "Mul"})
        open_backend(device="cuda:1").load(adder(), SIGNATURE, NOWHERE)

    def test_a_provider_that_is_there_but_does_not_load_is_an_error(self, monkeypatch):
        """ONNX Runtime itself only logs it, and goes on with the CPU."""

        class OnTheCpu:
            def __init__(self, _content, _options, providers):
                assert providers == [("CUDAExecutionProvider", {"device_id": "1"})]

            def get_providers(self):
                return ["CPUExecutionProvider"]

        self.pretend_cuda(monkeypatch)
        monkeypatch.setattr(backend_module.ort, "InferenceSession", OnTheCpu)
        with pytest.raises(BackendError, match=r"CUDAExecutionProvider was asked for.*CPUExecutionProvider"):
            open_backend(device="cuda:1").load(adder(), SIGNATURE, NOWHERE)

    @pytest.mark.usefixtures("emulated_driver")
    def test_cudas_libraries_are_loaded_first_and_what_that_prints_is_not_for_stdout(
        self, monkeypatch, capsys
    ):
        loaded = []

        def preload():
            print("Failed to load libcudnn.so.9")  # noqa: T201  as ONNX Runtime does
            loaded.append(True)

        monkeypatch.setattr(backend_module.ort, "preload_dlls", preload)
        monkeypatch.setattr(backend_module, "available_providers", lambda: ["CUDAExecutionProvider"])
        assert open_backend(device="cuda:0").device.sampler.endswith("/cuda")
        assert loaded == [True]
        assert capsys.readouterr().out == ""

    def test_the_record_says_what_runs(self, backend):
        record = backend.record("fp32")
        assert (record.backend, record.device, record.provider) == (
            "onnxruntime",
            "cpu",
            "CPUExecutionProvider",
        )
        assert record.version == backend_module.ort.__version__
        assert record.precision == "fp32"
        assert backend.record("fp16").precision == "fp16"

    def test_threads_are_those_asked_for_or_all_this_process_may_use(self, monkeypatch):
        assert open_backend(threads=3).threads == 3
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
        assert open_backend().threads == 5

    def test_a_session_computes_with_the_backends_threads(self, monkeypatch):
        seen = []

        def session(_content, options, **_):
            seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
            raise RuntimeError("seen enough")

        monkeypatch.setattr(backend_module.ort, "InferenceSession", session)
        with pytest.raises(BackendError, match="seen enough"):
            open_backend(threads=3).load(adder(), SIGNATURE, NOWHERE)
        assert seen == [(3, 1)]


class TestLoading:
    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"not a graph", id="text"),
            pytest.param(adder()[:100], id="truncated"),
            pytest.param(b"\0" * 5000, id="zeros"),
            pytest.param(adder(operator="Abracadabra"), id="unknown-operator"),
            pytest.param(adder(operator="Add", domain="com.example"), id="unknown-domain"),
        ],
    )
    def test_a_graph_that_cannot_be_loaded_is_named_in_one_line(self, backend, content):
        with pytest.raises(BackendError, match=r"cannot load adder\.onnx on cpu: ") as caught:
            backend.load(content, SIGNATURE, NOWHERE)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        "names",
        [
            pytest.param(("canvas", "scale", "y"), id="input"),
            pytest.param(("x", "scale", "logits"), id="output"),
            pytest.param(("scale", "x", "y"), id="order"),
        ],
    )
    def test_a_graph_whose_names_differ_from_the_manifest_is_refused_with_both(self, backend, names):
        with pytest.raises(BackendError, match=r"adder\.onnx has inputs and outputs") as caught:
            backend.load(adder(names=names), SIGNATURE, NOWHERE)
        assert str(list(names)) in str(caught.value)
        assert "['x', 'scale', 'y']" in str(caught.value)

    def test_weights_are_read_from_the_folder_that_is_given(self, backend, tmp_path):
        np.eye(4, dtype=np.float32).tofile(tmp_path / "weights.bin")
        engine = backend.load(projector("weights.bin"), SIGNATURE, SimpleNamespace(folder=tmp_path))
        inputs, outputs = arrays()
        engine.run(inputs, outputs)
        np.testing.assert_array_equal(outputs["y"], inputs["x"] * 2)

    def test_weights_may_vanish_once_the_graph_is_loaded(self, backend, tmp_path):
        np.eye(4, dtype=np.float32).tofile(tmp_path / "weights.bin")
        engine = backend.load(projector("weights.bin"), SIGNATURE, SimpleNamespace(folder=tmp_path))
        (tmp_path / "weights.bin").unlink()
        inputs, outputs = arrays()
        for _ in range(2):
            engine.run(inputs, outputs)
        np.testing.assert_array_equal(outputs["y"], inputs["x"] * 2)

    @pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "absolute"])
    def test_weights_outside_the_folder_that_is_given_are_never_read(
        self, backend, tmp_path, monkeypatch, location
    ):
        """The bundle's digests do not cover them: another file there would be another model."""
        (tmp_path / "here").mkdir()
        (tmp_path / "given").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        for folder in (tmp_path, tmp_path / "here"):
            np.eye(4, dtype=np.float32).tofile(folder / "weights.bin")
        path = str(tmp_path / "weights.bin") if location == "absolute" else location
        with pytest.raises(BackendError, match=r"adder\.onnx"):
            backend.load(projector(path), SIGNATURE, SimpleNamespace(folder=tmp_path / "given"))

    def test_weights_shorter_than_the_graph_says_are_refused(self, backend, tmp_path):
        (tmp_path / "weights.bin").write_bytes(b"\0" * 63)
        with pytest.raises(BackendError, match=r"cannot load adder\.onnx"):
            backend.load(projector("weights.bin"), SIGNATURE, SimpleNamespace(folder=tmp_path))


class TestRunning:
    @pytest.mark.parametrize(("batch", "seq"), [(1, 1), (2, 3), (25, 1), (0, 3)])
    def test_a_run_writes_every_element_of_the_callers_output(self, engine, batch, seq):
        inputs, outputs = arrays(batch, seq)
        place = outputs["y"].__array_interface__["data"]
        engine.run(inputs, outputs)
        np.testing.assert_array_equal(outputs["y"], inputs["x"] * 2 + [1, 2, 3, 4])
        assert outputs["y"].__array_interface__["data"] == place

    def test_a_run_only_reads_its_inputs(self, engine):
        inputs, outputs = arrays()
        read_only(inputs["x"])
        engine.run(inputs, outputs)
        np.testing.assert_array_equal(inputs["x"], arrays()[0]["x"])

    def test_a_view_of_the_first_rows_is_written_in_place_and_the_rest_left(self, engine):
        """As the KV cache is."""
        whole = np.full((5, 3, 4), -1, np.float32)
        inputs, _ = arrays()
        engine.run(inputs, {"y": whole[:2]})
        np.testing.assert_array_equal(whole[:2], inputs["x"] * 2 + [1, 2, 3, 4])
        assert np.all(whole[2:] == -1)

    def test_the_engine_keeps_no_array_after_a_run(self, engine):
        inputs, outputs = arrays()
        alive = [weakref.ref(array) for array in (*inputs.values(), *outputs.values())]
        engine.run(inputs, outputs)
        del inputs, outputs
        gc.collect()
        assert [reference() for reference in alive] == [None] * 3

    def test_a_graph_that_fails_while_running_is_named_in_one_line(self, backend):
        """Here the manifest promises a size that the graph does not take."""
        wrong = Graph(
            file="adder.onnx",
            inputs=(
                Tensor(name="x", dtype="float32", shape=("batch", "seq", 5)),
                Tensor(name="scale", dtype="float32", shape=("batch", 1, 5)),
            ),
            outputs=(Tensor(name="y", dtype="float32", shape=("batch", "seq", 5)),),
        )
        engine = backend.load(adder(), wrong, NOWHERE)
        inputs = {"x": zeros(2, 3, 5), "scale": zeros(2, 1, 5)}
        with pytest.raises(BackendError, match=r"failed in adder\.onnx: ") as caught:
            engine.run(inputs, {"y": zeros(2, 3, 5)})
        assert caught.value.__suppress_context__
        assert str(caught.value).isprintable()


COPIED = "in-place optimization not activated"
APART = "from here on, inputs and outputs are apart"
SCRIPT = f"""
import sys
import numpy as np
import onnxruntime

class Talkative(onnxruntime.SessionOptions):
    log_severity_level = property(lambda self: 2, lambda self, level: None)

onnxruntime.SessionOptions = Talkative
onnxruntime.set_default_logger_severity = lambda level: None

from edgers import demo
from edgers_engines.device import Host
from edgers_engines.kv_cache import KVCache
from edgers_engines.vlm import Question, VisionLanguageModel

model = VisionLanguageModel(demo.load_bundle())
question = Question(model, demo.PROMPT, rows=3)
height, width = model.bundle.manifest.preparation.canvas_size
canvases = np.random.default_rng(0).random((3, 3, height, width), np.float32)
for rows in (3, 2, 3):
    question.answers(canvases[:rows])
print({APART!r}, file=sys.stderr, flush=True)

dimensions, length = model.bundle.manifest.dimensions, 8
past, present = (KVCache(Host(), dimensions, 3, length, "float32") for _ in range(2))
model.decoder.run(
    {{
        "embeddings": np.zeros((3, 1, dimensions.hidden), np.float32),
        "write_index": np.zeros(3, np.int64),
        "mask": np.broadcast_to(np.arange(length) < 1, (3, 1, 1, length)).copy(),
        **past.inputs(3),
    }},
    {{"logits": np.empty((3, dimensions.vocabulary), np.float32), **present.outputs(3)}},
)
"""


def test_the_decoder_updates_the_kv_cache_in_place_and_never_copies_it():
    """ONNX Runtime warns when it copies; the second half shows that the warning would be seen."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    in_place, apart = done.stderr.split(APART)
    assert COPIED not in in_place
    assert COPIED in apart


def test_the_runtime_keeps_no_records_of_its_use(tmp_path):
    """Its telemetry writes an identifier into the home folder as soon as it is loaded, and sends it home."""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    script = "from edgers import Bundle, Certifier, demo; Certifier(Bundle.load(demo.BUNDLE), sigma=0.25)"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
    assert not list(tmp_path.iterdir())
