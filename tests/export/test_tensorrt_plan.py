"""TensorRT for RTX reads and builds what the exporter wrote: for that it needs no GPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from edgers_engines import tensorrt_plan
from edgers_engines.engine import Range
from edgers_engines.errors import BackendError
from edgers_engines.onnx_graph import read_graph
from edgers_engines.plain_operators import PLAIN
from edgers_engines.plan_builder import Sizes, profiles
from edgers_engines.tensorrt_graph import tensorrt_graph
from edgers_engines.tensorrt_plan import build_plan, open_tensorrt
from edgers_export.bundle import export_bundle
from tests.checkpoints import MINIATURES, Miniature, write

POSITIONS = 256
GRAPHS = ("vision", "embed", "decoder")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A miniature with heads of 64, in half precision."""
    options = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
    checkpoint = write(Miniature(text=options), tmp_path_factory.mktemp("wide") / "checkpoint")
    return export_bundle(checkpoint, checkpoint.parent / "bundle", precision="fp16")


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """A LLaVA-OneVision that shrinks and pads, in half precision."""
    made = MINIATURES["llava-onevision, qwen2, siglip, features of the grid shrunk"]
    checkpoint = write(made, tmp_path_factory.mktemp("tiled") / "checkpoint")
    return export_bundle(checkpoint, checkpoint.parent / "bundle", precision="fp16", frame=made.frame, pool=2)


def build(bundle, name, **options):
    """A plan of the bundle's graph of this name in the manifest, for the shapes that `edgers build` takes."""
    (loaded,) = (loaded for loaded in bundle.manifest.loaded if loaded.name == name)
    shapes = profiles(loaded, bundle.manifest, Sizes.of(bundle.manifest, None, None))
    content = bundle.read(loaded.graph.file)
    with bundle.weights(loaded.weights) as weights:
        return build_plan(content, loaded.graph, weights.folder, shapes, **options)


def like(library, **changed):
    """The library, but for these names."""

    class Like:
        def __getattr__(self, name):
            return changed[name] if name in changed else getattr(library, name)

    return Like()


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_of_the_demo_model_in_half_precision_becomes_a_plan(demo_half, name):
    assert len(build(demo_half, f"graphs.{name}").content) > 100_000


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_of_a_model_with_heads_of_64_becomes_a_plan(wide, name):
    assert wide.manifest.dimensions.head_dim == 64
    assert len(build(wide, f"graphs.{name}").content) > 100_000


def test_a_vision_graph_that_cuts_tiles_and_pools_becomes_a_plan(tiled):
    assert len(build(tiled, "graphs.vision").content) > 100_000


def test_the_demo_bundles_oracle_becomes_a_plan(demo_bundle):
    assert len(build(demo_bundle, "oracles.robot-action").content) > 1_000_000, "the weights are in it"


def test_a_build_tells_its_steps_and_can_be_ended(demo_half):
    steps = []

    def tell(phase, step, count):
        steps.append((phase, step, count))
        return len(steps) < 5

    with pytest.raises(BackendError, match=r"cannot build decoder\.onnx: .*[Cc]ancel"):
        build(demo_half, "graphs.decoder", progress=tell)
    assert len(steps) >= 5
    assert all(phase and 1 <= step <= count for phase, step, count in steps)


def test_a_plan_keeps_the_graphs_precisions_and_serves_every_profile(demo_half, monkeypatch):
    library = open_tensorrt()
    networks, configs = [], []

    class Watched(library.Builder):
        def create_network(self, flags):
            networks.append(super().create_network(flags))
            return networks[-1]

        def create_builder_config(self):
            configs.append(super().create_builder_config())
            return configs[-1]

    monkeypatch.setattr(tensorrt_plan, "open_tensorrt", lambda: like(library, Builder=Watched))
    build(demo_half, "graphs.decoder")
    ((network,), (config,)) = networks, configs
    assert network.get_flag(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert not config.get_flag(library.BuilderFlag.TF32)
    assert config.num_optimization_profiles == 2


def test_the_cache_of_the_graph_for_tensorrt_has_a_fixed_length(demo_half):
    content = tensorrt_graph(demo_half.read("decoder.onnx"), "decoder.onnx", {"max_len": POSITIONS})
    facts = read_graph(content)
    shapes = {value.name: value.shape for value in (*facts.input_values, *facts.output_values)}
    assert shapes["past.0.key"] == shapes["present.1.value"] == ("batch", 2, POSITIONS, 24)
    assert shapes["mask"] == ("batch", 1, "seq", POSITIONS)
    assert shapes["embeddings"] == ("batch", "seq", 96)


def test_what_tensorrt_takes_as_it_is_stays_byte_for_byte(demo_half):
    content = demo_half.read("embed.onnx")
    assert tensorrt_graph(content, "embed.onnx", {"max_len": POSITIONS}) == content


def test_the_graph_for_tensorrt_computes_what_the_bundles_graph_computes(demo_bundle):
    """In float32, on ONNX Runtime, bit for bit: the softmax has the precision of its input anyway."""
    content = demo_bundle.read("decoder.onnx")
    rng = np.random.default_rng(3)
    graph = demo_bundle.manifest.graphs.decoder
    sizes = {"batch": 3, "seq": 5, "max_len": POSITIONS}
    shapes = {t.name: [sizes.get(size, size) for size in t.shape] for t in graph.inputs}
    draws = {t.name: rng.standard_normal(shapes[t.name]).astype(t.dtype) for t in graph.inputs}
    draws["write_index"] = np.full(3, 7, np.int64)
    draws["mask"] = np.broadcast_to(np.arange(POSITIONS) <= 7 + np.arange(5)[:, None], (3, 1, 5, POSITIONS))

    def run(graph_content):
        options = onnxruntime.SessionOptions()
        with demo_bundle.weights() as weights:
            key = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(key, str(weights.folder))
            return onnxruntime.InferenceSession(graph_content, options).run(None, draws)

    found, want = run(tensorrt_graph(content, "decoder.onnx", {"max_len": POSITIONS})), run(content)
    assert all(np.array_equal(a, b) for a, b in zip(found, want, strict=True))
    assert np.ptp(want[0]) > 1, "logits that are all alike would hide a difference"


def test_a_graph_that_gives_attention_its_lengths_by_nonpad_kv_seqlen_is_refused(demo_half):
    model = onnx.load(demo_half.path / "decoder.onnx", load_external_data=False)
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    attention.input.extend(["", "", "write_index"])  # the seventh, of the type that it has there
    content = model.SerializeToString()
    read_graph(content)
    with pytest.raises(BackendError, match="nonpad_kv_seqlen, which TensorRT's parser ignores"):
        tensorrt_graph(content, "decoder.onnx", {})


def lacking(library, *operators):
    """The library with a parser that takes none of these, as JetPack 6's does."""

    class Old(library.OnnxParser):
        def supports_operator(self, name):
            return name not in operators

        def parse(self, content, path):
            found = {node.op_type for node in onnx.load_from_string(content).graph.node}
            assert not found & set(operators)
            return super().parse(content, path)

    return like(library, OnnxParser=Old, __version__="10.3.0")


@pytest.mark.parametrize("name", ["vision", "decoder"])
def test_a_library_without_the_newest_operators_gets_them_written_out(demo_half, monkeypatch, name):
    old = lacking(open_tensorrt(), *PLAIN)
    monkeypatch.setattr(tensorrt_plan, "open_tensorrt", lambda: old)
    plan = build(demo_half, f"graphs.{name}")
    assert len(plan.content) > 100_000
    assert plan.in_place == (name == "vision")


def test_a_library_without_an_operator_that_has_no_other_form_is_told_before_it_fails(demo_half, monkeypatch):
    old = lacking(open_tensorrt(), "MatMul")
    monkeypatch.setattr(tensorrt_plan, "open_tensorrt", lambda: old)
    with pytest.raises(BackendError, match=r"decoder\.onnx needs MatMul, which .*10\.3\.0 does not have"):
        build(demo_half, "graphs.decoder")


def test_a_graph_that_the_library_cannot_read_is_refused_with_its_reason(demo_half):
    graph = demo_half.manifest.graphs.decoder
    free = {"batch": Range(1, 8, 32), "seq": Range(1, 64, POSITIONS), "max_len": Range(1, 64, POSITIONS)}
    with demo_half.weights() as weights, pytest.raises(BackendError, match="static sequence length"):
        build_plan(demo_half.read(graph.file), graph, weights.folder, [free])


def test_without_tensorrt_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(tensorrt_plan, "_MODULES", ("tensorrt_of_nobody",))
    with pytest.raises(
        BackendError, match=r"TensorRT cannot be imported .*apt install.*--backend onnxruntime"
    ):
        open_tensorrt()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("ICudaEngine", "create_runtime_config create_execution_context device_memory_size_v2"),
        (
            "IRuntimeConfig",
            "create_runtime_cache set_runtime_cache set_execution_context_allocation_strategy",
        ),
        ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
        ("IRuntimeCache", "serialize deserialize"),
        ("IExecutionContext", "is_stream_capturable execute_async_v3 device_memory set_tensor_address"),
    ],
)
def test_what_runs_plans_has_these_names(kind, names):
    """Nothing can be run without a GPU, and the emulated library has whatever names it is given."""
    assert set(names.split()) <= set(dir(getattr(open_tensorrt(), kind)))
