"""Weights of the decoder's linear layers as small integers: symmetric, each rounded to the nearest.

A quantized checkpoint is another model, the one whose weights are `codes * scales`; PyTorch in float32 with
these weights is what its graphs are compared with. No data is needed, and nothing about a batch is measured:
no row's answer depends on its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgers_engines.manifest import Quantization
from edgers_export.errors import ExportError

# The sizes of block that TensorRT has kernels for, and a smaller one for small models; the first that fits.
BLOCKS = (128, 64, 32)
_LARGEST = {"int8-weights": 127, "int4-weights": 7}  # codes are symmetric: the most negative one is not used


class QuantizedLinear(nn.Module):
    """A linear layer of which codes and scales are stored: y = x · (codes * scales) + bias.

    codes: int8 [in, out]. scales: [in / block, out], or [out] where a column is one block.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, scales: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        # A parameter, so that it follows the model to another type.
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = self._traced_weight() if torch.onnx.is_in_onnx_export() else self.weight
        product = x @ weight
        return product if self.bias is None else product + self.bias

    @property
    def weight(self) -> Tensor:
        """What is multiplied by: [in, out], in the type of the scales."""
        rows = self.codes.shape[0] // self.scales.shape[0] if self.scales.dim() == 2 else None
        scales = self.scales if rows is None else self.scales.repeat_interleave(rows, 0)
        return self.codes.to(scales.dtype) * scales

    def _traced_weight(self) -> Tensor:
        blocks = self.scales.dim() == 2
        attributes: dict[str, Any] = {"axis": 0 if blocks else 1}
        if blocks:
            attributes["block_size"] = self.codes.shape[0] // self.scales.shape[0]
        widened: Tensor = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.codes, self.scales),
            attributes,
            dtype=self.scales.dtype,
            shape=self.codes.shape,
            version=21,
        )
        return widened


def quantize(model: Any, kind: Quantization, scale_type: torch.dtype) -> None:  # noqa: ANN401  transformers is untyped
    """Give the decoder's layers quantized weights; embeddings, norms and the head keep theirs.

    Args:
        model: `LlavaForConditionalGeneration` in float32.
        kind: how wide the codes are.
        scale_type: the activations' type in the bundle: scales are rounded to it, and then codes are chosen.

    Raises:
        ExportError: a layer has too odd a size for blocks.
    """
    for name, part in list(model.model.language_model.layers.named_modules()):
        for child, layer in list(part.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(part, child, _quantized(layer, kind, scale_type, f"{name}.{child}"))


def _quantized(layer: nn.Linear, kind: Quantization, scale_type: torch.dtype, name: str) -> QuantizedLinear:
    weight = layer.weight.detach().float().T  # [in, out]
    size = weight.shape[0]
    block = size if kind == "int8-weights" else _block(size, name)
    blocks = weight.reshape(size // block, block, -1)
    largest, type_of_scale = _LARGEST[kind], torch.finfo(scale_type)
    scales = (blocks.abs().amax(1) / largest).to(scale_type).float()
    # Weights that are all zero have the least scale there is, a subnormal one.
    scales = scales.clamp(type_of_scale.smallest_normal * type_of_scale.eps, type_of_scale.max)
    codes = (blocks / scales[:, None]).round().clamp(-largest, largest).to(torch.int8)
    return QuantizedLinear(
        codes.reshape(weight.shape).contiguous(),
        scales[0].clone() if kind == "int8-weights" else scales,
        layer.bias,
    )


def _block(size: int, name: str) -> int:
    for block in BLOCKS:
        if size % block == 0:
            return block
    raise ExportError(
        f"the decoder's layer {name} has {size} inputs, which are no multiple of {BLOCKS[-1]}: export with "
        "int8-weights"
    )
