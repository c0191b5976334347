"""What every value in a graph is when its free dimensions have given sizes: its type, its shape, its bytes.

A graph computes shapes by arithmetic on a few integers (Shape, Concat, Reshape). That arithmetic is done
here, and nothing else is: of other values only type and shape are known. Source of the rules: the operators'
pages at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgers_engines.onnx_schema import ATTRIBUTE_VALUES, BITS, CUDA_MODEL, DTYPES
from edgers_engines.protobuf import Message

_FEW = 64  # numbers that a shape is computed from
_NOT_OF_NUMPY = {"bfloat16", "float8_e4m3fn", "int4"}  # no shape is computed in these


@dataclass(frozen=True, slots=True)
class Known:
    """A value: `numbers` where they are few integers that the graph itself gives or computes."""

    dtype: str
    shape: tuple[int, ...]
    numbers: NDArray[Any] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return (math.prod(self.shape) * BITS[self.dtype] + 7) // 8


@dataclass(frozen=True, slots=True)
class Step:
    """One node: what it reads (None where an optional input is left out) and what it writes, by name."""

    operator: str
    attributes: Mapping[str, Any]
    inputs: tuple[tuple[str, Known] | None, ...]
    outputs: tuple[tuple[str, Known], ...]


def steps(content: bytes, sizes: Mapping[str, int]) -> Iterator[Step]:
    """The nodes in the graph's order.

    Args:
        content: an ONNX file's bytes, which `read_graph` has checked.
        sizes: of every free dimension, by name.

    Raises:
        ValueError: an operator whose shapes are not known here, or a shape that depends on numbers which are
            not known before the graph runs.
    """
    graph = Message(memoryview(content), "model", CUDA_MODEL).message("graph")
    known: dict[str, Known] = {}
    for value in graph.messages("input"):
        tensor = value.message("type").message("tensor_type")
        dimensions = tensor.message("shape").messages("dim")
        shape = tuple(
            d.integer("dim_value") if d.has("dim_value") else sizes[d.text("dim_param")] for d in dimensions
        )
        known[value.text("name")] = Known(DTYPES[tensor.integer("elem_type")][0], shape)
    for tensor in graph.messages("initializer"):
        known[tensor.text("name")] = _constant(tensor)
    for node in graph.messages("node"):
        operator, names = node.text("op_type"), node.texts("input")
        attributes = dict(map(_attribute, node.messages("attribute")))
        if operator not in _RULES:
            raise ValueError(f"{node.where}: the shapes of {operator} are not known")
        try:
            read = tuple((name, known[name]) if name else None for name in names)
            inputs = [value and value[1] for value in read]
            found = [_bounded(value) for value in _RULES[operator](inputs, attributes)]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{node.where}: no shape of {operator} is known ({error})") from None
        written = zip(node.texts("output"), found, strict=False)
        outputs = tuple((name, value) for name, value in written if name)  # "" is one that is left out
        known.update(outputs)
        yield Step(operator, attributes, read, outputs)


def _bounded(value: Known) -> Known:
    """Without numbers that are too many for a shape."""
    return value if math.prod(value.shape) <= _FEW else Known(value.dtype, value.shape)


def _constant(tensor: Message) -> Known:
    dtype, shape = DTYPES[tensor.integer("data_type")][0], tuple(tensor.integers("dims"))
    numbers = None
    if tensor.has("raw_data") and math.prod(shape) <= _FEW and dtype not in _NOT_OF_NUMPY:
        numbers = np.frombuffer(tensor.content("raw_data"), dtype).reshape(shape)
    return Known(dtype, shape, numbers)


def _attribute(attribute: Message) -> tuple[str, Any]:
    field = ATTRIBUTE_VALUES[attribute.integer("type")]
    if field == "t":
        return attribute.text("name"), _constant(attribute.message("t"))
    if field == "ints":
        return attribute.text("name"), attribute.integers("ints")
    if field == "s":
        return attribute.text("name"), attribute.text("s")
    if field == "f":
        return attribute.text("name"), float(np.frombuffer(attribute.content("f"), "<f4")[0])
    return attribute.text("name"), attribute.integer(field)


Inputs = Sequence[Any]  # Known, or None where one is left out
Rule = Callable[[Inputs, Mapping[str, Any]], list[Known]]


def _same(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    return [Known(inputs[0].dtype, inputs[0].shape)]


def _elementwise(compute: Callable[..., Any] | None = None, dtype: str | None = None) -> Rule:
    def rule(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
        shape = np.broadcast_shapes(*(value.shape for value in inputs))
        kind = dtype or inputs[-1].dtype
        numbers = None
        if compute and all(value.numbers is not None for value in inputs):
            numbers = np.asarray(compute(*(value.numbers for value in inputs))).astype(kind)
        return [Known(kind, shape, numbers)]

    return rule


def _power(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    base, exponent = inputs
    return [Known(base.dtype, np.broadcast_shapes(base.shape, exponent.shape))]


def _divide(a: NDArray[Any], b: NDArray[Any]) -> Any:  # noqa: ANN401  whatever NumPy makes of them
    """ONNX rounds integers towards zero."""
    return np.sign(a) * np.sign(b) * (abs(a) // abs(b)) if a.dtype.kind in "iu" else a / b


def _cast(inputs: Inputs, attributes: Mapping[str, Any]) -> list[Known]:
    dtype, value = DTYPES[attributes["to"]][0], inputs[0]
    known = value.numbers is not None and dtype not in _NOT_OF_NUMPY
    return [Known(dtype, value.shape, value.numbers.astype(dtype) if known else None)]


def _shape(inputs: Inputs, attributes: Mapping[str, Any]) -> list[Known]:
    shape = inputs[0].shape[attributes.get("start", 0) : attributes.get("end")]
    return [Known("int64", (len(shape),), np.array(shape, np.int64))]


def _reshape(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    value, wanted = inputs[0], inputs[1].numbers.tolist()
    shape = [value.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    if -1 in shape:
        rest = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = math.prod(value.shape) // max(rest, 1)
    return [_moved(value, lambda numbers: numbers.reshape(shape), tuple(shape))]


def _moved(value: Known, move: Callable[[NDArray[Any]], NDArray[Any]], shape: tuple[int, ...]) -> Known:
    return Known(value.dtype, shape, None if value.numbers is None else move(value.numbers))


def _transpose(inputs: Inputs, attributes: Mapping[str, Any]) -> list[Known]:
    order = attributes.get("perm") or list(range(len(inputs[0].shape)))[::-1]
    shape = tuple(inputs[0].shape[axis] for axis in order)
    return [_moved(inputs[0], lambda numbers: numbers.transpose(order), shape)]


def _axes(inputs: Inputs, rank: int) -> list[int]:
    return [int(axis) % rank for axis in inputs[1].numbers.reshape(-1)]


def _squeeze(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    value = inputs[0]
    axes = _axes(inputs, len(value.shape)) if len(inputs) > 1 else range(len(value.shape))
    shape = tuple(size for axis, size in enumerate(value.shape) if axis not in axes or size != 1)
    return [_moved(value, lambda numbers: numbers.reshape(shape), shape)]


def _unsqueeze(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    value, axes = inputs[0], inputs[1].numbers.reshape(-1).tolist()
    rank, rest = len(value.shape) + len(axes), iter(value.shape)
    new = {axis % rank for axis in axes}
    shape = tuple(1 if axis in new else next(rest) for axis in range(rank))
    return [_moved(value, lambda numbers: numbers.reshape(shape), shape)]


def _concat(inputs: Inputs, attributes: Mapping[str, Any]) -> list[Known]:
    axis = attributes["axis"] % len(inputs[0].shape)
    shape = list(inputs[0].shape)
    shape[axis] = sum(value.shape[axis] for value in inputs)
    numbers = None
    if all(value.numbers is not None for value in inputs):
        numbers = np.concatenate([value.numbers for value in inputs], axis)
    return [Known(inputs[0].dtype, tuple(shape), numbers)]


def _expand(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    return [Known(inputs[0].dtype, np.broadcast_shapes(inputs[0].shape, tuple(inputs[1].numbers.tolist())))]


def _slice(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    value, parts = inputs[0], [slice(None)] * len(inputs[0].shape)
    starts, ends = (inputs[index].numbers.tolist() for index in (1, 2))
    axes = inputs[3].numbers.tolist() if len(inputs) > 3 and inputs[3] else range(len(starts))
    strides = inputs[4].numbers.tolist() if len(inputs) > 4 and inputs[4] else [1] * len(starts)
    for axis, start, end, stride in zip(axes, starts, ends, strides, strict=True):
        parts[axis] = slice(start, end, stride)
    shape = tuple(len(range(*part.indices(size))) for part, size in zip(parts, value.shape, strict=True))
    return [_moved(value, lambda numbers: numbers[tuple(parts)], shape)]


def _gather(inputs: Inputs, attributes: Mapping[str, Any]) -> list[Known]:
    value, indices = inputs
    axis = attributes.get("axis", 0) % len(value.shape)
    shape = value.shape[:axis] + indices.shape + value.shape[axis + 1 :]
    if value.numbers is None or indices.numbers is None:
        return [Known(value.dtype, shape)]
    return [Known(value.dtype, shape, value.numbers.take(indices.numbers, axis))]


def _range(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    start, limit, delta = (value.numbers.item() for value in inputs)
    return [Known(inputs[0].dtype, (max(math.ceil((limit - start) / delta), 0),))]


def _matmul(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    a, b = inputs[0].shape, inputs[1].shape
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise TypeError(f"a product of {a} and {b}")
    return [Known(inputs[0].dtype, (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]))]


def _gemm(inputs: Inputs, attributes: Mapping[str, Any]) -> list[Known]:
    a, b = inputs[0].shape, inputs[1].shape
    rows = a[1] if attributes.get("transA") else a[0]
    return [Known(inputs[0].dtype, (rows, b[0] if attributes.get("transB") else b[1]))]


def _conv(inputs: Inputs, attributes: Mapping[str, Any]) -> list[Known]:
    value, kernel = inputs[0].shape, inputs[1].shape
    count = len(kernel) - 2
    strides = attributes.get("strides") or [1] * count
    dilations = attributes.get("dilations") or [1] * count
    pads = attributes.get("pads") or [0] * (2 * count)
    spatial = [
        (value[2 + k] + pads[k] + pads[count + k] - dilations[k] * (kernel[2 + k] - 1) - 1) // strides[k] + 1
        for k in range(count)
    ]
    return [Known(inputs[0].dtype, (value[0], kernel[0], *spatial))]


def _attention(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    query, keys, values = inputs[:3]
    if not len(query.shape) == len(keys.shape) == 4:
        raise TypeError("heads that are not a dimension of their own")
    return [Known(query.dtype, (*query.shape[:-1], values.shape[-1]))]


def _group_query_attention(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    query, _key, _value, past_key, past_value = inputs[:5]
    return [Known(value.dtype, value.shape) for value in (query, past_key, past_value)]


def _normalised_sum(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    """The norm and, last, the sum; between them mean and deviation of each position."""
    value = Known(inputs[0].dtype, inputs[0].shape)
    statistic = Known("float32", (*value.shape[:-1], 1))
    return [value, statistic, statistic, value]


def _constant_node(_: Inputs, attributes: Mapping[str, Any]) -> list[Known]:
    if "value" in attributes:
        return [attributes["value"]]
    (name, found), *_ = attributes.items()
    numbers = np.asarray(found, np.int64 if "int" in name else np.float32)
    return [Known(str(numbers.dtype), numbers.shape, numbers)]


def _dequantize(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    return [Known(inputs[1].dtype, inputs[0].shape)]


def _quantize(inputs: Inputs, _: Mapping[str, Any]) -> list[Known]:
    return [Known(inputs[2].dtype, inputs[0].shape)]


def _filled(inputs: Inputs, attributes: Mapping[str, Any]) -> list[Known]:
    like = attributes.get("value")
    return [Known(like.dtype if like else "float32", tuple(inputs[0].numbers.tolist()))]


_RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "Abs",
            "Ceil",
            "Clip",
            "Cos",
            "Erf",
            "Exp",
            "Floor",
            "Gelu",
            "Identity",
            "LayerNormalization",
            "Log",
        ),
        _same,
    ),
    **dict.fromkeys(
        ("Neg", "Not", "RMSNormalization", "Reciprocal", "Relu", "RotaryEmbedding", "Sigmoid", "Sin"), _same
    ),
    **dict.fromkeys(("Softmax", "Sqrt", "Swish", "Tanh", "TensorScatter", "Trilu"), _same),
    **dict.fromkeys(("And", "Equal", "Greater", "GreaterOrEqual", "Less"), _elementwise(dtype="bool")),
    **dict.fromkeys(("LessOrEqual", "Or"), _elementwise(dtype="bool")),
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_divide),
    "Mod": _elementwise(np.mod),
    "Pow": _power,
    "Where": _elementwise(np.where),
    "Attention": _attention,
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant_node,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "GroupQueryAttention": _group_query_attention,
    "MatMul": _matmul,
    "QuantizeLinear": _quantize,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "SkipSimplifiedLayerNormalization": _normalised_sum,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
