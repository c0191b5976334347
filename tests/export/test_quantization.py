"""Narrow weights: what they are rounded to, what is stored of them, and that every road computes the same."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from safetensors.torch import load_file
from torch import nn

from edgers_engines import tensorrt_plan
from edgers_engines.bundle import Bundle
from edgers_engines.graph_shapes import steps
from edgers_engines.memory_plan import plan_memory
from edgers_engines.onnx_graph import read_graph
from edgers_engines.plain_operators import PLAIN, plain
from edgers_engines.records import dump
from edgers_engines.tensorrt_plan import open_tensorrt
from edgers_export.bundle import export_bundle
from edgers_export.errors import ExportError
from edgers_export.quantization import BLOCKS, quantize
from tests.checkpoints import MINIATURES, write
from tests.conftest import CHECKPOINT
from tests.export.test_families import every_value
from tests.export.test_tensorrt_plan import build, lacking

STEPS = {"int8-weights": 127, "int4-weights": 7}
TYPES = {"int8-weights": TensorProto.INT8, "int4-weights": TensorProto.INT4}


@pytest.fixture(scope="module", params=["int8-weights", "int4-weights"])
def case(request, tmp_path_factory):
    """A checkpoint and its bundle: one with biases in fp32 and the demo model in fp16."""
    kind, folder = request.param, tmp_path_factory.mktemp("narrow")
    if kind == "int8-weights":
        checkpoint = write(MINIATURES["llama 3 rotation, biases"], folder / "checkpoint")
        return checkpoint, export_bundle(checkpoint, folder / "bundle", quantization=kind)
    return CHECKPOINT, export_bundle(CHECKPOINT, folder / "bundle", precision="fp16", quantization=kind)


@pytest.fixture(scope="module")
def bundle(case):
    return case[1]


def model_of(*layers):
    """The least that has a decoder with these layers."""
    blocks = nn.ModuleList([nn.ModuleDict({f"layer{i}": layer for i, layer in enumerate(layers)})])
    return SimpleNamespace(model=SimpleNamespace(language_model=SimpleNamespace(layers=blocks)))


def quantized(weight, kind, scale_type=torch.float32):
    """What a linear layer of this weight, [out, in], becomes."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    model = model_of(layer)
    quantize(model, kind, scale_type)
    return model.model.language_model.layers[0]["layer0"]


@pytest.mark.parametrize("scale_type", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", STEPS)
def test_every_weight_is_rounded_to_the_nearest_step_of_its_column_or_block(kind, scale_type):
    weight = torch.randn(40, 192, generator=torch.Generator().manual_seed(1)) * torch.logspace(-2, 1, 192)
    layer = quantized(weight, kind, scale_type)
    block = 192 if kind == "int8-weights" else 64
    steps = weight.T.reshape(192 // block, block, 40).abs().amax(1) / STEPS[kind]
    assert torch.equal(layer.scales.reshape(-1, 40), steps.to(scale_type).float())
    assert layer.codes.abs().max() == STEPS[kind]
    rounding = steps.repeat_interleave(block, 0) * (0.5 + 2e-3 * STEPS[kind])
    assert ((layer.weight - weight.T).abs() <= rounding).all()
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", STEPS)
def test_weights_that_are_zero_stay_zero_and_tiny_ones_are_not_lost(kind):
    weight = torch.zeros(32, 64)
    weight[0, ::2], weight[0, 1::2] = 2e-5, -1e-5  # whose step is a subnormal number of float16
    layer = quantized(weight, kind, torch.float16)
    assert torch.equal(layer.scales.half().float(), layer.scales)
    assert (layer.scales > 0).all()
    assert (layer.weight[:, 1:] == 0).all()
    assert layer.weight[:, 0].tolist() == pytest.approx(weight[0].tolist(), rel=0.3)


@pytest.mark.parametrize("kind", STEPS)
def test_a_layer_is_a_linear_layer_of_the_rounded_weights(kind):
    linear, x = nn.Linear(64, 24), torch.randn(2, 3, 64)
    model = model_of(linear)
    quantize(model, kind, torch.float32)
    layer = model.model.language_model.layers[0]["layer0"]
    with torch.no_grad():
        want = nn.functional.linear(x, layer.weight.T, linear.bias)
        assert torch.allclose(layer(x), want, atol=1e-5)
    assert linear.bias.abs().min() > 1e-5, "or a lost bias would not show"


def test_blocks_are_as_large_as_fits_and_a_size_that_none_fits_is_refused():
    for size, block in ((256, 128), (192, 64), (96, 32)):
        assert block in BLOCKS
        assert len(quantized(torch.randn(8, size), "int4-weights").scales) == size // block
    with pytest.raises(ExportError, match=r"layer 0\.layer1 has 40 inputs, which are no multiple of 32"):
        quantize(model_of(nn.Linear(32, 8), nn.Linear(40, 8)), "int4-weights", torch.float32)
    quantize(model_of(nn.Linear(40, 8)), "int8-weights", torch.float32)


def test_its_graphs_compute_what_pytorch_computes_with_the_rounded_weights(bundle):
    """And with nothing else rounded: in fp32 only the order of sums is left to differ."""
    parity, precision = bundle.manifest.parity, bundle.manifest.precision
    assert parity.equal_tokens == parity.tokens == 128
    assert parity.largest_logit_difference < {"fp32": 2e-5, "fp16": 0.1}[precision]


def test_the_manifest_says_what_is_narrow_and_nothing_where_nothing_is(bundle, demo_bundle):
    assert Bundle.load(bundle.path).manifest.quantization in STEPS
    assert dump(demo_bundle.manifest) == (demo_bundle.path / "manifest.json").read_bytes()


def test_of_the_decoders_layers_codes_and_scales_are_stored_and_of_each_once(bundle):
    stored = {tensor.name: tensor for tensor in onnx.load(bundle.path / "decoder.onnx").graph.initializer}
    graph = onnx.load_from_string(bundle.read("decoder.onnx")).graph
    widened = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(widened) == 7 * bundle.manifest.dimensions.layers
    half = bundle.manifest.precision == "fp16"
    for codes, scales in (map(stored.get, node.input) for node in widened):
        assert codes.data_type == TYPES[bundle.manifest.quantization]
        assert scales.data_type == (TensorProto.FLOAT16 if half else TensorProto.FLOAT)
    products = {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    assert not products & {name for name, tensor in stored.items() if len(tensor.dims) == 2}
    pieces = {
        tensor.offset: tensor.length
        for name in ("vision.onnx", "embed.onnx", "decoder.onnx")
        for tensor in read_graph(bundle.read(name)).external
    }
    size = (bundle.path / "weights.bin").stat().st_size
    assert 0 <= size - sum(pieces.values()) < 64 * len(pieces)


def test_the_codes_are_those_of_the_checkpoints_weights(case):
    checkpoint, bundle = case
    (weight,) = (
        value
        for name, value in load_file(checkpoint / "model.safetensors").items()
        if name.endswith("layers.1.mlp.down_proj.weight")
    )
    scale_type = getattr(torch, bundle.manifest.activations)
    want = quantized(weight.float(), bundle.manifest.quantization, scale_type)
    stored = {tensor.name: tensor for tensor in onnx.load(bundle.path / "decoder.onnx").graph.initializer}
    for part in ("codes", "scales"):
        found = numpy_helper.to_array(stored[f"language_model.layers.1.mlp.down_proj.{part}"])
        assert np.array_equal(found.astype(np.float32), getattr(want, part).detach().numpy())


def test_types_and_shapes_are_known_and_the_widest_weight_counts_as_memory(bundle):
    sizes = {"batch": 3, "seq": 5, "max_len": 40}
    known = dict(pair for step in steps(bundle.read("decoder.onnx"), sizes) for pair in step.outputs)
    found = every_value(bundle, "decoder.onnx", sizes)
    assert {name: (value.dtype, value.shape) for name, value in known.items()} == {
        name: (str(array.dtype), array.shape) for name, array in found.items()
    }
    widest = max(array.nbytes for name, array in found.items() if name in _widened(bundle))
    files = sum(file.size for file in bundle.manifest.files)
    assert plan_memory(bundle).weights == files + widest > files


def _widened(bundle):
    nodes = onnx.load_from_string(bundle.read("decoder.onnx")).graph.node
    return {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}


def test_tensorrt_takes_them_also_without_the_newest_operators(bundle, monkeypatch):
    assert build(bundle, "graphs.decoder").in_place
    old = lacking(open_tensorrt(), *PLAIN)
    monkeypatch.setattr(tensorrt_plan, "open_tensorrt", lambda: old)
    assert not build(bundle, "graphs.decoder").in_place


def test_written_out_for_an_old_library_blocks_keep_the_opset_that_has_them(bundle, tmp_path):
    content = plain(bundle.read("decoder.onnx"), {"batch": 2, "seq": 2, "max_len": 16}, PLAIN)
    shutil.copy(bundle.path / "weights.bin", tmp_path)
    (tmp_path / "decoder.onnx").write_bytes(content)
    onnx.checker.check_model(tmp_path / "decoder.onnx", full_check=True)
    (opset,) = onnx.load_from_string(content).opset_import
    assert opset.version == {"int8-weights": 20, "int4-weights": 21}[bundle.manifest.quantization]
