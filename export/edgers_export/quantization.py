"""Linear layers in small numbers: symmetric, each rounded to the nearest, all scales stored.

A quantized checkpoint is another model, the one with the rounded weights and, in "int8" and "fp8", the
rounded inputs of its layers; PyTorch in float32 with these is what its graphs are compared with. Nothing
about a batch is measured when it runs: no row's answer depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edgers_engines.manifest import CALIBRATED, Quantization
from edgers_export.errors import ExportError

# The sizes of block that TensorRT has kernels for, and a smaller one for small models; the first that fits.
BLOCKS = (128, 64, 32)
# Codes of weights are symmetric: the most negative integer is not used.
_LARGEST: dict[Quantization, int] = {"int8": 127, "int8-weights": 127, "int4-weights": 7, "fp8": 448}
FP8 = torch.float8_e4m3fn


class QuantizedLinear(nn.Module):
    """A linear layer of which codes and scales are stored: y = x · (codes * scales) + bias.

    codes: int8 or float8 [in, out]. scales: [in / block, out], or [out] where a column is one block.
    input_scale: [] where x is rounded too, to multiples of it by such codes.
    """

    codes: Tensor
    zero: Tensor

    def __init__(
        self, codes: Tensor, scales: Tensor, bias: nn.Parameter | None, input_scale: Tensor | None
    ) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("zero", torch.zeros((), dtype=codes.dtype))
        # Parameters, so that they follow the model to another type.
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.input_scale = None if input_scale is None else nn.Parameter(input_scale, requires_grad=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        traced, scale = torch.onnx.is_in_onnx_export(), self.input_scale
        if scale is not None:
            x = self._traced_input(x, scale) if traced else _rounded(x, scale, self.zero.dtype)
        product = x @ (self._traced_weight() if traced else self.weight)
        return product if self.bias is None else product + self.bias

    @property
    def rounds(self) -> bool:
        """Whether what it multiplies is rounded too."""
        return self.input_scale is not None

    @property
    def weight(self) -> Tensor:
        """What is multiplied by: [in, out], in the type of the scales."""
        scales = self.scales.repeat_interleave(self._block, 0) if self._block else self.scales
        return self.codes.to(scales.dtype) * scales

    @property
    def _block(self) -> int:
        """Rows that share a scale; 0 where all do."""
        return self.codes.shape[0] // self.scales.shape[0] if self.scales.dim() == 2 else 0

    def _traced_weight(self) -> Tensor:
        where = {"axis": 0, "block_size": self._block} if self._block else {"axis": 1}
        return _operator("DequantizeLinear", (self.codes, self.scales), self.scales.dtype, where)

    def _traced_input(self, x: Tensor, scale: Tensor) -> Tensor:
        codes = _operator("QuantizeLinear", (x, scale, self.zero), self.zero.dtype, {})
        return _operator("DequantizeLinear", (codes, scale, self.zero), x.dtype, {})


def _operator(
    name: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, attributes: dict[str, Any]
) -> Tensor:
    result: Tensor = torch.onnx.ops.symbolic(
        name, inputs, attributes, dtype=dtype, shape=inputs[0].shape, version=21
    )
    return result


def _rounded(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """QuantizeLinear and DequantizeLinear of inputs, whose most negative code is used."""
    least = -448 if dtype == FP8 else -128
    return _codes(x / scale, dtype, least, _LARGEST["fp8" if dtype == FP8 else "int8"]).to(x.dtype) * scale


def _codes(x: Tensor, dtype: torch.dtype, least: int, largest: int) -> Tensor:
    """Halves to the even neighbour, what is too large to the largest."""
    kept = x.clamp(least, largest) if dtype == FP8 else x.round().clamp(least, largest)
    return kept.to(dtype)


class _Place(NamedTuple):
    """A linear layer and where it hangs."""

    parent: nn.Module
    child: str
    layer: nn.Linear
    name: str


@contextmanager
def largest_inputs(model: Any) -> Iterator[dict[nn.Module, float]]:  # noqa: ANN401  transformers is untyped
    """The largest magnitude among the inputs of each layer that "int8" and "fp8" quantize, in the block.

    Args:
        model: `LlavaForConditionalGeneration` in float32, whose layers are still its own.
    """
    found: dict[nn.Module, float] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        found[layer] = max(found.get(layer, 0.0), float(inputs[0].abs().max()))

    with ExitStack() as stack:
        for place in _places(model, CALIBRATED[0]):
            stack.callback(place.layer.register_forward_pre_hook(look).remove)
        yield found


def quantize(
    model: Any,  # noqa: ANN401  transformers is untyped
    kind: Quantization,
    scale_type: torch.dtype,
    inputs: Mapping[nn.Module, float] | None = None,
) -> None:
    """Quantize the decoder's layers, in "int8" and "fp8" those of the vision tower too; all else stays.

    Args:
        model: `LlavaForConditionalGeneration` in float32.
        kind: what is rounded, and how far.
        scale_type: the activations' type in the bundle: scales are rounded to it, and then codes are chosen.
        inputs: for these two, what `largest_inputs` found; a layer that is not in it was never asked, and
            stays.

    Raises:
        ExportError: a layer has too odd a size for blocks.
    """
    for parent, child, layer, name in list(_places(model, kind)):
        if kind not in CALIBRATED:
            setattr(parent, child, _quantized(layer, kind, scale_type, None, name))
        elif inputs and layer in inputs:
            setattr(parent, child, _quantized(layer, kind, scale_type, inputs[layer], name))


def _places(model: Any, kind: Quantization) -> Iterator[_Place]:  # noqa: ANN401  as above
    parts = [("decoder", model.model.language_model.layers)]
    if kind in CALIBRATED:
        parts.append(("vision tower", model.model.vision_tower.vision_model.encoder.layers))
    for part, layers in parts:
        for name, parent in layers.named_modules():
            for child, layer in parent.named_children():
                if isinstance(layer, nn.Linear):
                    yield _Place(parent, child, layer, f"the {part}'s layer {name}.{child}")


def _quantized(
    layer: nn.Linear, kind: Quantization, scale_type: torch.dtype, largest_input: float | None, name: str
) -> QuantizedLinear:
    weight = layer.weight.detach().float().T  # [in, out]
    size, largest = weight.shape[0], _LARGEST[kind]
    block = _block(size, name) if kind == "int4-weights" else size
    blocks = weight.reshape(size // block, block, -1)
    scales = _scale(blocks.abs().amax(1) / largest, scale_type)
    codes = _codes(blocks / scales[:, None], FP8 if kind == "fp8" else torch.int8, -largest, largest)
    return QuantizedLinear(
        codes.reshape(weight.shape).contiguous(),
        scales if kind == "int4-weights" else scales[0].clone(),
        layer.bias,
        None if largest_input is None else _scale(torch.tensor(largest_input / largest), scale_type),
    )


def _scale(exact: Tensor, scale_type: torch.dtype) -> Tensor:
    """A number of this type, in float32; where all is zero, the least there is, a subnormal one."""
    limits = torch.finfo(scale_type)
    return exact.to(scale_type).float().clamp(limits.smallest_normal * limits.eps, limits.max)


def _block(size: int, name: str) -> int:
    for block in BLOCKS:
        if size % block == 0:
            return block
    raise ExportError(
        f"{name} has {size} inputs, which are no multiple of {BLOCKS[-1]}: export with int8-weights"
    )
