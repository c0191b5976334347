"""Whether the attentions of a decoder for CUDA stay within the cache, told before a runtime has them.

ONNX Runtime's GroupQueryAttention derives where it writes from how many positions its queries have, and takes
it as true that they are no more than the runtime has counted. So queries, keys and values must come from the
embeddings by operators that keep the rows and positions, and all sizes must be the manifest's. Source of what
its kernels compare themselves:
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cpu/bert/group_query_attention_helper.h.
"""

from __future__ import annotations

from collections.abc import Collection

from edgers_engines.graph_shapes import Known, Step, steps
from edgers_engines.manifest import Dimensions
from edgers_engines.onnx_graph import read_graph

# Of the free dimensions. That others change nothing follows from the operators.
_ROWS, _POSITIONS, _LENGTH = 2, 3, 5
# Their result has the shape of what they read, as far as nothing stretches it: a number from each number, or
# from those along the last axis.
_KEEPING = frozenset(
    {
        *("Abs", "Add", "Cast", "Clip", "DequantizeLinear", "Div", "Erf", "Exp", "Gelu", "Identity"),
        *("LayerNormalization", "Mul", "Neg", "Pow", "QuantizeLinear", "RMSNormalization", "Reciprocal"),
        *("Relu", "Sigmoid", "SkipSimplifiedLayerNormalization", "Sqrt", "Sub", "Swish", "Tanh"),
    }
)


def check_attention(content: bytes, dimensions: Dimensions) -> None:
    """Check each GroupQueryAttention of a decoder for CUDA.

    Args:
        content: an ONNX file's bytes, which `read_graph` has checked.
        dimensions: the manifest's; the graph's inputs and outputs are those that `signatures` gives for them.

    Raises:
        ValueError: one could read or write beyond what it is given, or its shapes are not known; one line.
    """
    varying = set(read_graph(content, for_cuda=True).inputs)  # what is not the same in each run
    hidden = {"embeddings"}  # values [batch, seq, any], whatever batch and seq are
    for step in steps(content, {"batch": _ROWS, "seq": _POSITIONS, "max_len": _LENGTH}):
        written = [name for name, _ in step.outputs]
        if step.operator == "GroupQueryAttention":
            _check(step, hidden, dimensions)
            hidden.add(written[0])
        elif _keeps(step, hidden, varying):
            hidden.update(written)
        if any(name in varying for name, _ in filter(None, step.inputs)):
            varying.update(written)


def _keeps(step: Step, hidden: Collection[str], varying: Collection[str]) -> bool:
    """Whether its results are [batch, seq, any] because its inputs are."""

    def narrow(name: str, value: Known) -> bool:
        """Stored numbers that are the same for all rows and positions."""
        return name not in varying and len(value.shape) <= 3 and set(value.shape[:-1]) <= {1}

    read = [pair for pair in step.inputs if pair]
    if step.operator == "MatMul":
        (values, _), (weight, stored) = read
        return values in hidden and weight not in varying and len(stored.shape) == 2
    return (
        step.operator in _KEEPING
        and any(name in hidden for name, _ in read)
        and all(name in hidden or narrow(name, value) for name, value in read)
    )


def _check(step: Step, hidden: Collection[str], sizes: Dimensions) -> None:
    where = f"the GroupQueryAttention that writes {step.outputs[1][0]}"
    heads, kv_heads = (step.attributes.get(name) for name in ("num_heads", "kv_num_heads"))
    if kv_heads != sizes.kv_heads or not isinstance(heads, int) or heads < 1 or heads % kv_heads:
        raise ValueError(
            f"{where} has {heads} heads for {kv_heads} of the cache; "
            f"expected a multiple of the manifest's {sizes.kv_heads}"
        )
    if step.attributes.get("do_rotary") != 1:
        raise ValueError(f"{where} does not rotate; do_rotary = 1 is expected")
    values = [pair for pair in step.inputs if pair]
    for (name, value), count in zip(values, (heads, kv_heads, kv_heads), strict=False):
        if name not in hidden or value.shape != (_ROWS, _POSITIONS, count * sizes.head_dim):
            raise ValueError(
                f"{where} reads {ascii(name)[:100]} of shape {value.shape}; expected what is made of the "
                f"embeddings position by position, ({_ROWS}, {_POSITIONS}, {count * sizes.head_dim}) for "
                f"{_ROWS} rows of {_POSITIONS} positions"
            )
    for name, value in values[-2:]:
        if len(value.shape) != 2 or value.shape[0] < sizes.max_length or 2 * value.shape[1] != sizes.head_dim:
            raise ValueError(
                f"{where} rotates by {ascii(name)[:100]} of shape {value.shape}; expected at least "
                f"{sizes.max_length} positions of {sizes.head_dim / 2:g}"
            )
