"""ONNX's newest operators written out in old ones, for a library that lacks them, as JetPack 6's does.

Attention, RMSNormalization and RotaryEmbedding (opset 23) and TensorScatter (opset 24) become the products,
softmax and scatter that their pages at https://onnx.ai/onnx/operators/ define them by. The graph keeps its
inputs and outputs, and computes the same but for rounding. What is lost is the cache in place: what comes out
is a copy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import count

from edgers_engines.graph_shapes import Known, Step, steps
from edgers_engines.onnx_schema import DTYPES, GRAPH, MODEL
from edgers_engines.protobuf import Message, edited, field, message

OPSET = 20  # the last before these operators that TensorRT 10.3 was made for
_BLOCKS = 21  # the first in which numbers are dequantized in blocks
_NUMBERS = {name: number for number, (name, _) in DTYPES.items()}
_FLOAT, _INT, _INTS = 1, 2, 7  # AttributeProto.type
_LEAST = -3.4028234663852886e38  # of float32
_ATTENTION = {"scale", "softmax_precision"}


def unused_names(content: bytes, prefix: str) -> Callable[[], str]:
    """Gives another name with each call, none of which a value of the graph has.

    Args:
        content: an ONNX file's bytes, which `read_graph` has checked.
        prefix: what each name begins with; a number follows.
    """
    graph = Message(memoryview(content), "model", MODEL).message("graph")
    fields = ("initializer", "input", "value_info")
    taken = {value.text("name") for field in fields for value in graph.messages(field)}
    taken.update(name for node in graph.messages("node") for name in node.texts("output"))
    unused = (name for number in count() if (name := f"{prefix}.{number}") not in taken)
    return partial(next, unused)


class Nodes:
    """The nodes that stand for one, written one after the other."""

    def __init__(self, names: Callable[[], str]) -> None:
        self.written: list[bytes] = []
        self._names = names

    def __call__(
        self, operator: str, *inputs: str, to: str | None = None, **attributes: int | float | Sequence[int]
    ) -> str:
        """Add a node; the name of what it writes."""
        output = to or self._names()
        self.written.append(
            message(
                *(field(1, name) for name in inputs),
                field(2, output),
                field(4, operator),
                *(field(5, _attribute(name, value)) for name, value in attributes.items()),
            )
        )
        return output

    def integers(self, *numbers: int) -> str:
        """A constant, int64 [numbers]."""
        return self("Constant", value_ints=numbers)

    def number(self, value: float, dtype: str) -> str:
        """A constant without dimensions."""
        return self.cast(self("Constant", value_float=float(value)), dtype)

    def cast(self, name: str, dtype: str, to: str | None = None) -> str:
        """The value in another type."""
        return self("Cast", name, to=to, to_type=_NUMBERS[dtype])


def plain(content: bytes, sizes: Mapping[str, int], operators: Collection[str]) -> bytes:
    """The graph without some operators.

    Args:
        content: an ONNX file's bytes, which `read_graph` has checked.
        sizes: of every free dimension, by name; any that the graph takes.
        operators: those to write out, of `PLAIN`.

    Raises:
        ValueError: a node uses an operator in a way that is not known here.
    """
    names = unused_names(content, "plain")
    found = iter(steps(content, sizes))
    left: set[str] = set()
    blocks = False

    def node(original: memoryview) -> list[bytes]:
        nonlocal blocks
        step = next(found)
        blocks |= "block_size" in step.attributes
        if step.operator not in operators:
            left.add(step.operator)
            return [bytes(original)]
        nodes = Nodes(names)
        PLAIN[step.operator](nodes, step)
        return nodes.written

    rewritten = edited(
        memoryview(content), MODEL, {"graph": lambda graph: edited(graph, GRAPH, {"node": node})}
    )
    if left & PLAIN.keys():
        return rewritten
    opset = _BLOCKS if blocks else OPSET
    return edited(memoryview(rewritten), MODEL, {"opset_import": lambda _: message(field(2, opset))})


def _attention(nodes: Nodes, step: Step) -> None:
    """Weights = softmax(scale · Q Kᵀ, masked), output = weights · V; heads of a group share their keys."""
    (query, q), (keys, k), (values, v), *rest = _read(step, 3)
    others = {name: value for name, value in step.attributes.items() if value and name not in _ATTENTION}
    if rest[1:] or others or "scale" not in step.attributes:
        raise ValueError(f"an Attention with {others} and {len(step.inputs)} inputs")
    heads, groups = k.shape[1], q.shape[1] // k.shape[1]
    # Scaled first: products of unscaled halves may overflow.
    scaled = nodes("Mul", query, nodes.number(step.attributes["scale"], q.dtype))
    grouped = nodes("Reshape", scaled, nodes.integers(0, heads, groups, -1, q.shape[3]))
    axis = nodes.integers(2)
    turned = nodes("Transpose", nodes("Unsqueeze", keys, axis), perm=(0, 1, 2, 4, 3))
    # In float32, as `softmax_precision` asks for, and as no half-precision sum of exponentials would be.
    scores = nodes.cast(nodes("MatMul", grouped, turned), "float32")
    if rest:
        mask = nodes("Unsqueeze", rest[0][0], axis)
        scores = nodes("Where", mask, scores, nodes.number(_LEAST, "float32"))
    weights = nodes.cast(nodes("Softmax", scores, axis=-1), q.dtype)
    mixed = nodes("MatMul", weights, nodes("Unsqueeze", values, axis))
    shape = nodes.integers(0, q.shape[1], -1, v.shape[3])
    nodes("Reshape", mixed, shape, to=_written(step))


def _rms_normalization(nodes: Nodes, step: Step) -> None:
    """X / sqrt(mean(x²) + ε) · w, the quotient in float32."""
    (x, value), (weight, _) = _read(step, 2)
    if step.attributes.keys() - {"axis", "epsilon"} or step.attributes.get("axis", -1) != -1:
        raise ValueError(f"an RMSNormalization with {dict(step.attributes)}")
    exact = nodes.cast(x, "float32")
    mean = nodes("ReduceMean", nodes("Mul", exact, exact), nodes.integers(-1), keepdims=1)
    epsilon = nodes.number(step.attributes.get("epsilon", 1e-5), "float32")
    root = nodes("Sqrt", nodes("Add", mean, epsilon))
    nodes("Mul", nodes.cast(nodes("Div", exact, root), value.dtype), weight, to=_written(step))


def _rotary_embedding(nodes: Nodes, step: Step) -> None:
    """Both halves of each head are turned: (a cos - b sin, b cos + a sin)."""
    (x, value), (cos, _), (sin, _) = _read(step, 3)
    if any(step.attributes.values()) or len(value.shape) != 4:
        raise ValueError(f"a RotaryEmbedding with {dict(step.attributes)} of {value.shape}")
    half, last = value.shape[3] // 2, nodes.integers(-1)
    a = nodes("Slice", x, nodes.integers(0), nodes.integers(half), last)
    b = nodes("Slice", x, nodes.integers(half), nodes.integers(2 * half), last)
    cos, sin = (nodes("Unsqueeze", each, nodes.integers(1)) for each in (cos, sin))
    first = nodes("Sub", nodes("Mul", a, cos), nodes("Mul", b, sin))
    second = nodes("Add", nodes("Mul", b, cos), nodes("Mul", a, sin))
    nodes("Concat", first, second, to=_written(step), axis=-1)


def _tensor_scatter(nodes: Nodes, step: Step) -> None:
    """The positions write_index[b], write_index[b] + 1, ... of each row are replaced, the others copied."""
    (cache, value), (update, _), (index, _) = _read(step, 3)
    if step.attributes.get("axis", -2) % len(value.shape) != 2 or step.attributes.get("mode") != "linear":
        raise ValueError(f"a TensorScatter with {dict(step.attributes)}")
    shape = nodes("Shape", update)
    length = nodes("Squeeze", nodes("Slice", shape, nodes.integers(2), nodes.integers(3)))
    zero, one = (nodes("Squeeze", nodes.integers(number)) for number in (0, 1))
    places = nodes("Unsqueeze", nodes("Range", zero, length, one), nodes.integers(0, 1, 3))
    starts = nodes("Unsqueeze", index, nodes.integers(1, 2, 3))
    where = nodes("Expand", nodes("Add", starts, places), shape)
    nodes("ScatterElements", cache, where, update, to=_written(step), axis=2)


PLAIN: dict[str, Callable[[Nodes, Step], None]] = {
    "Attention": _attention,
    "RMSNormalization": _rms_normalization,
    "RotaryEmbedding": _rotary_embedding,
    "TensorScatter": _tensor_scatter,
}


def _read(step: Step, least: int) -> list[tuple[str, Known]]:
    read = [value for value in step.inputs if value]
    if len(read) < least or None in step.inputs[: len(read)]:
        raise ValueError(f"{step.operator} without an input")
    return read


def _written(step: Step) -> str:
    (name, _), *more = step.outputs
    if more:
        raise ValueError(f"{step.operator} with several outputs")
    return name


def _attribute(name: str, value: float | Sequence[int]) -> bytes:
    """An AttributeProto; a Cast's `to` is written `to_type`, for `to` is where a node writes."""
    name = "to" if name == "to_type" else name
    if isinstance(value, float):
        return message(field(1, name), field(2, struct.pack("<f", value), fixed=True), field(20, _FLOAT))
    if isinstance(value, int):
        return message(field(1, name), field(3, value), field(20, _INT))
    return message(field(1, name), *(field(8, number) for number in value), field(20, _INTS))
