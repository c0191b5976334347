"""Attention as standard ONNX (opset 24), with a KV cache that is written in place.

transformers lets a model's attention be replaced by name. Ours emits `TensorScatter`, which writes the new
keys and values into the cache at `write_index`, and `Attention` over the whole cache under an explicit mask.
The mask is explicit because TensorRT's parser ignores ONNX's `nonpad_kv_seqlen` without an error, and would
then read positions that were never written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

_NAME = "edgers_cached"
_FLOAT32 = 1  # onnx.TensorProto.FLOAT: half precision sums too coarsely over a long text


@dataclass
class CacheTrace:
    """What one traced decoder pass hands to its attention layers, and what they hand back.

    past: for layer i, keys at 2i and values at 2i + 1, each [batch, kv_heads, max_len, head_dim].
    write_index: int64 [batch]. mask: bool [batch, 1, seq, max_len]. present: filled by the layers.
    """

    past: Sequence[torch.Tensor]
    write_index: torch.Tensor
    mask: torch.Tensor
    present: dict[int, torch.Tensor] = field(default_factory=dict)


_trace: CacheTrace | None = None


@contextmanager
def tracing(trace: CacheTrace) -> Iterator[CacheTrace]:
    """Let the attention layers called inside use this trace."""
    global _trace  # noqa: PLW0603  transformers calls attention functions without a place for our own arguments
    _trace = trace
    try:
        yield trace
    finally:
        _trace = None


def _scatter(cache: torch.Tensor, new: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    written: torch.Tensor = torch.onnx.ops.symbolic(
        "TensorScatter",
        (cache, new, index),
        {"axis": 2, "mode": "linear"},
        dtype=cache.dtype,
        shape=cache.shape,
        version=24,
    )
    return written


def _attention(  # noqa: PLR0917  transformers' signature
    module: Any,  # noqa: ANN401  as above
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  replaced by the trace's explicit mask
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    if _trace is None:
        raise RuntimeError("edgers' cached attention runs inside `tracing` only")
    first = 2 * module.layer_idx
    keys = _trace.present[first] = _scatter(_trace.past[first], key, _trace.write_index)
    values = _trace.present[first + 1] = _scatter(_trace.past[first + 1], value, _trace.write_index)
    out = torch.onnx.ops.symbolic(
        "Attention",
        (query, keys, values, _trace.mask),
        {"scale": float(scaling), "softmax_precision": _FLOAT32},
        dtype=query.dtype,
        shape=query.shape,
        version=24,
    )
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def cached(language_model: Any) -> Iterator[None]:  # noqa: ANN401  transformers is untyped
    """Give a language model this attention, and its own back afterwards."""
    AttentionInterface.register(_NAME, _attention)
    # The mask is ours, so transformers makes none.
    AttentionMaskInterface.register(_NAME, lambda *_args, **_kwargs: None)
    own = language_model.config._attn_implementation
    language_model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        language_model.set_attn_implementation(own)
