"""Narrow weights: what they are rounded to, what is stored of them, and that every road computes the same."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import click
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from safetensors.torch import load_file
from torch import nn

from edgers import demo
from edgers.cli import cli
from edgers_engines import tensorrt_plan
from edgers_engines.bundle import Bundle
from edgers_engines.errors import InputError
from edgers_engines.graph_shapes import steps
from edgers_engines.manifest import CALIBRATED
from edgers_engines.memory_plan import plan_memory
from edgers_engines.onnx_graph import read_graph
from edgers_engines.plain_operators import PLAIN, plain
from edgers_engines.records import dump
from edgers_engines.tensorrt_plan import open_tensorrt
from edgers_export.bundle import export_bundle
from edgers_export.errors import ExportError
from edgers_export.quantization import BLOCKS, largest_inputs, quantize
from tests.conftest import CHECKPOINT
from tests.export.test_families import every_value
from tests.export.test_tensorrt_plan import build, lacking

STEPS = {"int8-weights": 127, "int4-weights": 7}
TYPES = {
    "int8": TensorProto.INT8,
    "fp8": TensorProto.FLOAT8E4M3FN,
    "int8-weights": TensorProto.INT8,
    "int4-weights": TensorProto.INT4,
}


@pytest.fixture(scope="module", params=["int8-weights", "int4-weights", "int8", "fp8"])
def case(request, exports, tmp_path_factory):
    """A checkpoint and its bundle: one with biases in fp32, the demo model in fp16 and in fp32."""
    kind, folder = request.param, tmp_path_factory.mktemp("narrow")
    if kind in CALIBRATED:
        images = demo.frames()[:2]
        return CHECKPOINT, export_bundle(CHECKPOINT, folder / "bundle", quantization=kind, calibration=images)
    if kind == "int8-weights":
        checkpoint = exports.checkpoint("llama 3 rotation, biases")
        return checkpoint, export_bundle(checkpoint, folder / "bundle", quantization=kind)
    return CHECKPOINT, export_bundle(CHECKPOINT, folder / "bundle", precision="fp16", quantization=kind)


@pytest.fixture(scope="module")
def bundle(case):
    return case[1]


def model_of(*layers):
    """The least that has a decoder with these layers."""
    blocks = nn.ModuleList([nn.ModuleDict({f"layer{i}": layer for i, layer in enumerate(layers)})])
    tower = SimpleNamespace(vision_model=SimpleNamespace(encoder=SimpleNamespace(layers=nn.ModuleList())))
    language_model = SimpleNamespace(layers=blocks)
    return SimpleNamespace(model=SimpleNamespace(language_model=language_model, vision_tower=tower))


def quantized(weight, kind, scale_type=torch.float32):
    """What a linear layer of this weight, [out, in], becomes."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    model = model_of(layer)
    quantize(model, kind, scale_type, {layer: 1.0})
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
    """And with nothing else rounded: in fp32 only the order of sums is left to differ.

    Where inputs are rounded too, a sum that ends a little otherwise may round to the next code.
    """
    parity, kind = bundle.manifest.parity, bundle.manifest.quantization
    assert parity.equal_tokens == parity.tokens == 128
    assert (
        parity.largest_logit_difference
        < {"int8-weights": 2e-5, "int4-weights": 0.1, "int8": 2, "fp8": 2}[kind]
    )


def test_the_manifest_says_what_is_narrow_and_nothing_where_nothing_is(bundle, demo_bundle):
    assert Bundle.load(bundle.path).manifest.quantization in TYPES
    assert dump(demo_bundle.manifest) == (demo_bundle.path / "manifest.json").read_bytes()


def test_of_the_decoders_layers_codes_and_scales_are_stored_and_of_each_once(bundle):
    stored = {tensor.name: tensor for tensor in onnx.load(bundle.path / "decoder.onnx").graph.initializer}
    graph = onnx.load_from_string(bundle.read("decoder.onnx")).graph
    widened = [node for node in graph.node if node.output[0] in _widened(bundle)]
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
    kind = bundle.manifest.quantization
    want = quantized(weight.float(), kind, scale_type)
    stored = {tensor.name: tensor for tensor in onnx.load(bundle.path / "decoder.onnx").graph.initializer}
    for part in ("codes", "scales"):
        found = numpy_helper.to_array(stored[f"language_model.layers.1.mlp.down_proj.{part}"])
        assert np.array_equal(found.astype(np.float32), getattr(want, part).detach().float().numpy())


def test_types_and_shapes_are_known_and_the_widest_weight_counts_as_memory(bundle):
    sizes, widest = {"batch": 3, "seq": 5, "max_len": 40}, 0
    for graph in ("vision.onnx", "decoder.onnx"):
        known = dict(pair for step in steps(bundle.read(graph), sizes) for pair in step.outputs)
        found = every_value(bundle, graph, sizes)
        # ONNX Runtime hands out float8 as its bits.
        assert {n: (v.dtype.replace("float8_e4m3fn", "uint8"), v.shape) for n, v in known.items()} == {
            name: (str(array.dtype), array.shape) for name, array in found.items()
        }
        widest = max([widest, *(found[name].nbytes for name in _widened(bundle, graph))])
    files = sum(file.size for file in bundle.manifest.files)
    assert plan_memory(bundle).weights == files + widest > files


def _widened(bundle, graph="decoder.onnx"):
    """What becomes of stored codes."""
    nodes = onnx.load_from_string(bundle.read(graph)).graph.node
    stored = {node.input[0] for node in nodes} - {name for node in nodes for name in node.output}
    return {n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] in stored}


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
    assert opset.version == (21 if bundle.manifest.quantization == "int4-weights" else 20)


def test_inputs_are_rounded_to_the_scale_that_calibration_found():
    """By halves to the even neighbour, and to the ends of the range, as QuantizeLinear rounds."""
    linear = nn.Linear(4, 4, bias=False)
    linear.weight = nn.Parameter(torch.eye(4))
    model = model_of(linear, nn.Linear(4, 4))
    with largest_inputs(model) as inputs:
        linear(torch.tensor([[1.0, -12.7, 0.3, 0.0]]))
        linear(torch.tensor([[1.0, -2.0, 0.3, 0.0]]))
    assert list(inputs.values()) == [pytest.approx(12.7)]
    quantize(model, "int8", torch.float32, inputs)
    layers = model.model.language_model.layers[0]
    assert layers["layer0"].input_scale.item() == pytest.approx(0.1)
    assert type(layers["layer1"]) is nn.Linear, "calibration never saw its input"
    found = layers["layer0"](torch.tensor([[0.25, 0.349, 99.0, -99.0]]) + 1e-7)
    assert found.tolist()[0] == pytest.approx([0.3, 0.3, 12.7, -12.8], abs=1e-5)
    step = layers["layer0"].input_scale
    halves = layers["layer0"](step * torch.tensor([[0.5, 1.5, 2.5, -0.5]])) / step
    assert halves.round().tolist() == [[0, 2, 2, 0]]


def test_in_fp8_inputs_and_weights_are_the_nearest_of_eight_bits():
    linear, weights = nn.Linear(4, 4, bias=False), torch.tensor([448.0, 17.0, 0.3, 1.0])
    linear.weight = nn.Parameter(torch.diag(weights))
    model = model_of(linear)
    quantize(model, "fp8", torch.float32, {linear: 448.0})
    layer = model.model.language_model.layers[0]["layer0"]
    assert layer.input_scale.item() == 1
    assert torch.allclose(layer.scales, weights / 448)
    # Between 16 and 32 there is every second number, between 2 and 4 every quarter; 17 and 19 are halves.
    found = layer(torch.tensor([[17.0, 19.0, 500.0, -3.14]])) / weights
    assert found.tolist()[0] == pytest.approx([16, 20, 448, -3.25], rel=1e-6)


def test_integers_are_multiplied_in_the_decoder_and_in_the_vision_tower(case):
    _, bundle = case
    graphs = {name: read_graph(bundle.read(f"{name}.onnx")).operators for name in ("vision", "decoder")}
    rounded = bundle.manifest.quantization in CALIBRATED
    assert ("QuantizeLinear" in graphs["vision"]) == ("QuantizeLinear" in graphs["decoder"]) == rounded
    assert ("DequantizeLinear" in graphs["vision"]) == rounded


def test_the_command_asks_for_images_before_anything_else(tmp_path):
    arguments = ["export", str(CHECKPOINT), "--out", str(tmp_path / "out"), "--quantize", "int8"]
    with pytest.raises(click.UsageError, match="int8 and fp8 need --calibrate FOLDER"):
        cli.main(arguments, standalone_mode=False)


def test_int8_without_images_and_images_without_int8_are_refused(tmp_path):
    for kind, images in (("int8", ()), ("int8-weights", demo.frames()[:1]), (None, demo.frames()[:1])):
        with pytest.raises(InputError, match="int8 and fp8 need images"):
            export_bundle(CHECKPOINT, tmp_path / "out", quantization=kind, calibration=images)
