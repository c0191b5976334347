"""Every family and option that can be exported answers as transformers' `generate` does, token by token."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgers_engines.graph_shapes import steps
from edgers_engines.plain_operators import PLAIN, plain
from edgers_export.parity import compare
from tests.checkpoints import MINIATURES
from tests.export.case import PROMPTS, ROWS, STEPS, Case

CASES = [(name, precision) for name in MINIATURES for precision in ("fp32", "fp16")]


@pytest.fixture(scope="module", params=CASES, ids=", ".join)
def case(request, exports):
    """A family or option in one precision."""
    name, precision = request.param
    return Case(exports.miniature(name, precision), exports.checkpoint(name), MINIATURES[name].pool)


def test_all_greedy_tokens_equal_generate_and_in_half_precision_99_of_100(case):
    equal = 0
    lengths = set()
    for prompt in PROMPTS:
        want = case.want(prompt)
        assert len(np.unique(want.tokens, axis=1).T) > 1, "equal rows would hide a mixed-up one"
        equal += compare(case.runtime, want).equal_tokens
        lengths.add(len(case.runtime.prompts.suffix(prompt)))
    assert len(lengths) == len(PROMPTS)
    least = {"fp32": 1, "fp16": 0.99}[case.bundle.manifest.precision]
    assert equal >= least * len(PROMPTS) * ROWS * STEPS


def test_the_type_and_shape_of_every_value_are_known_before_the_graph_runs(case):
    bundle, sizes = case.bundle, {"batch": 3, "seq": 5, "max_len": 40}
    for _, graph in bundle.manifest.graphs.named():
        known = dict(pair for step in steps(bundle.read(graph.file), sizes) for pair in step.outputs)
        found = every_value(bundle, graph.file, sizes)
        assert {name: (value.dtype, value.shape) for name, value in known.items()} == {
            name: (str(array.dtype), array.shape) for name, array in found.items()
        }
        for name, value in known.items():
            assert value.numbers is None or np.array_equal(value.numbers, found[name])


@pytest.mark.parametrize("graph", ["vision", "decoder"])
def test_written_out_in_operators_of_opset_20_a_graph_computes_the_same(case, graph):
    """As a library takes it that lacks the newer ones; rows may even write at different positions."""
    rows, new, length = 3, 5, 40
    sizes = {"batch": rows, "seq": new, "max_len": length}
    rng, bundle = np.random.default_rng(5), case.bundle
    record = dict(bundle.manifest.graphs.named())[graph]
    shapes = {t.name: [sizes.get(size, size) for size in t.shape] for t in record.inputs}
    given = {t.name: rng.standard_normal(shapes[t.name]).astype(t.dtype) for t in record.inputs}
    if graph == "decoder":
        starts = given["write_index"] = np.array([7, 0, 31])
        visible = np.arange(length) <= starts[:, None, None] + np.arange(new)[:, None]
        given["mask"] = visible[:, None]
    content = bundle.read(record.file)
    old = plain(content, {"batch": 2, "seq": 2, "max_len": 16}, PLAIN)
    model = onnx.load_from_string(old)
    assert model.opset_import[0].version == 20
    assert not {node.op_type for node in model.graph.node} & PLAIN.keys()
    share = {"fp32": 1e-5, "fp16": 2e-2}[bundle.manifest.precision]
    for found, want in zip(run(bundle, old, given), run(bundle, content, given), strict=True):
        assert found.dtype == want.dtype
        assert abs(found - want).max() <= share * np.ptp(want)


def run(bundle, content, given):
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    key = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(key, str(bundle.path))
    return onnxruntime.InferenceSession(content, options).run(None, given)


def every_value(bundle, file, sizes, **given):
    """What each node of a graph writes, by ONNX Runtime, of inputs that are zero unless given."""
    model = onnx.load(bundle.path / file, load_external_data=False)
    written = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, written))
    (graph,) = (graph for _, graph in bundle.manifest.graphs.named() if graph.file == file)
    zeros = {t.name: np.zeros([sizes.get(size, size) for size in t.shape], t.dtype) for t in graph.inputs}
    return dict(zip(written, run(bundle, model.SerializeToString(), {**zeros, **given}), strict=True))


@pytest.fixture(scope="module")
def precisions(exports):
    """One checkpoint in both precisions."""
    return {precision: exports.miniature("llama, clip", precision) for precision in ("fp32", "fp16")}


def test_a_bundle_in_half_precision_is_half_as_large(precisions):
    sizes = []
    for precision, bundle in precisions.items():
        manifest = bundle.manifest
        assert manifest.precision == precision
        sizes.append(next(file.size for file in manifest.files if file.path == manifest.weights))
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)


def test_positions_are_rotated_by_the_same_frequencies_in_half_precision(precisions):
    """The frequencies of a Llama are 10,000^(-2i/d), rounded to float32 and no further."""
    want = (10_000.0 ** -(np.arange(0, 16, 2) / 16)).astype(np.float32)
    for precision, bundle in precisions.items():
        graph = onnx.load(bundle.path / "decoder.onnx").graph
        constants = [numpy_helper.to_array(t).ravel() for t in graph.initializer if np.prod(t.dims) == 8]
        assert any(np.allclose(found, want, rtol=1e-6, atol=0) for found in constants), precision


def test_tied_embeddings_are_stored_once(exports):
    name = "qwen2, tied, clip, linear rotation"
    manifest = exports.miniature(name).manifest
    weights = next(file.size for file in manifest.files if file.path == manifest.weights)
    assert weights < sum(path.stat().st_size for path in exports.checkpoint(name).glob("*.safetensors"))
