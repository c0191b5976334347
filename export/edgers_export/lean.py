"""The same model with less work.

The decoder: transformers writes RMS norm and rotation of positions out as seven and twelve elementwise
steps, each of which goes through memory. ONNX has them as one operator each since opset 23. And only the last
position's logits leave the graph: behind its keys and values, the last layer is computed for that position
alone.

The vision tower: pixels are normalised by the weights of the convolution that reads them, not each by itself:
sum of w (x - mean) / std = sum of (w / std) x - sum of w mean / std.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgers_export.quantization import QuantizedLinear
from edgers_export.vision import Vision


@contextmanager
def lean(language_model: Any) -> Iterator[None]:  # noqa: ANN401  transformers is untyped
    """Give a Llama, Mistral or Qwen2 these forms while it is traced, and its own back afterwards."""
    last, norm = language_model.layers[-1], language_model.norm
    with ExitStack() as stack:
        for owner, name, form in (
            (type(norm), "forward", _rms_norm),
            (sys.modules[type(last.self_attn).__module__], "apply_rotary_pos_emb", _rotate),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, form)
        for part in (last.self_attn.o_proj, last.post_attention_layernorm, norm):
            stack.callback(part.register_forward_pre_hook(_last_position).remove)
        yield


@contextmanager
def normalising(vision: Vision) -> Iterator[None]:
    """While it is traced, a tower in float32 normalises by its first convolution.

    Not in narrower numbers: weights that are rounded after the division are off alike for all pixels of a
    bright image, where pixels around 0 would have made the errors cancel. Nor where layers round their
    inputs: what is another last bit here would be another step there.
    """
    convolution = vision.tower.vision_model.embeddings.patch_embedding
    rounding = any(isinstance(part, QuantizedLinear) and part.rounds for part in vision.tower.modules())
    # What a convolution pads with would have to be normalised as well.
    padding = any(convolution._reversed_padding_repeated_twice)
    if vision.tower.dtype != torch.float32 or rounding or padding:
        yield
        return
    weight, bias = convolution.weight, convolution.bias
    mean, std = vision.mean.double(), vision.std.double()
    folded = weight.double() / std
    shift = -(folded * mean).sum((1, 2, 3)) + (0 if bias is None else bias.double())
    convolution.weight, convolution.bias = nn.Parameter(folded.float()), nn.Parameter(shift.float())
    vision.normalised = lambda views: views  # type: ignore[method-assign]
    try:
        yield
    finally:
        del vision.normalised
        convolution.weight, convolution.bias = weight, bias


def _last_position(_module: object, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0][:, -1:],)


def _rms_norm(norm: Any, hidden: Tensor) -> Tensor:  # noqa: ANN401  as above
    """Return x / sqrt(mean(x²) + ε) * weight, the mean in float32, as transformers computes it."""
    return _operator(
        "RMSNormalization", (hidden, norm.weight), {"axis": -1, "epsilon": float(norm.variance_epsilon)}
    )


def _rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate query and key, each [batch, heads, seq, head_dim]; cos and sin hold their half twice."""
    half = cos.shape[-1] // 2
    caches = cos[..., :half], sin[..., :half]
    return tuple(_operator("RotaryEmbedding", (states, *caches), {}) for states in (query, key))  # type: ignore[return-value]


def _operator(name: str, inputs: tuple[Tensor, ...], attributes: dict[str, Any]) -> Tensor:
    like = inputs[0]
    result: Tensor = torch.onnx.ops.symbolic(
        name, inputs, attributes, dtype=like.dtype, shape=like.shape, version=23
    )
    return result
