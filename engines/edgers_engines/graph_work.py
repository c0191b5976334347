"""How much work a graph is for given sizes: floating-point operations and bytes, counted from the ONNX file.

Operations are those of products (Conv, Gemm, MatMul, attention), 2 for each multiply-add, as usual and as
PyTorch's counter has it: what a device's peak is stated for. Biases, norms, activations and the like are
counted apart, one operation for each number, for they run on other units and mostly while bytes move.

Bytes are the traffic that no implementation can avoid: each stored weight once in the bits that it is stored
in (of a table, the rows that are looked up), the graph's inputs and outputs once, of the KV cache what is
read and what is written. Values between nodes count nothing, for a runtime that fuses enough never writes
them to memory. So the time that follows from both is a lower bound.

Attention under the decoder's mask needs the positions at and before each new one; a runtime that knows the
mask only as numbers computes, and reads, all that the cache has. Both are counted: what is needed is the
limit, what is executed explains a part of the distance from it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgers_engines.graph_shapes import Known, Step, steps
from edgers_engines.onnx_schema import CUDA_MODEL
from edgers_engines.protobuf import Message

# They move numbers or compute shapes; DequantizeLinear is part of a product by stored weights.
_MOVES = frozenset(
    {
        *(
            "Cast",
            "Concat",
            "Constant",
            "ConstantOfShape",
            "DequantizeLinear",
            "Expand",
            "Gather",
            "Identity",
        ),
        *("Range", "Reshape", "Shape", "Slice", "Squeeze", "TensorScatter", "Transpose", "Unsqueeze"),
    }
)
_SAME_NUMBERS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_ATTENTIONS = frozenset({"Attention", "GroupQueryAttention"})


@dataclass(frozen=True, slots=True)
class Work:
    """What one run of a graph takes.

    Attributes:
        flops: operations of products that the result needs, by the type of the numbers that are multiplied.
        executed_flops: the same in all types, with attention to every position of the cache where a mask
            tells which count.
        weights: bytes of stored weights.
        values: bytes of the graph's inputs and outputs, the cache not among them.
        cache: bytes of keys and values that are read and written.
        executed_cache: the same, with every position of the cache read where a mask tells which count.
        other: operations that are of no product, one for each number that is computed.
    """

    flops: Mapping[str, int]
    executed_flops: int
    weights: int
    values: int
    cache: int
    executed_cache: int
    other: int

    @property
    def total_flops(self) -> int:
        """Operations of products in all types."""
        return sum(self.flops.values())

    @property
    def nbytes(self) -> int:
        """Bytes that must come from memory or go there."""
        return self.weights + self.values + self.cache

    @property
    def intensity(self) -> float:
        """Operations a byte; what a roofline has on its horizontal axis."""
        return self.total_flops / max(self.nbytes, 1)


def graph_work(content: bytes, sizes: Mapping[str, int], first: int = 0) -> Work:
    """Count a graph.

    Args:
        content: an ONNX file's bytes, which `read_graph` has checked.
        sizes: of every free dimension, by name.
        first: of a decoder, the place of its first new position: how many the cache holds before.

    Raises:
        ValueError: see `graph_shapes.steps`; or the new positions end behind the cache's last.
    """
    graph = Message(memoryview(content), "model", CUDA_MODEL).message("graph")
    counter = _Counter(
        first,
        stored=(tensor.text("name") for tensor in graph.messages("initializer")),
        inputs=(value.text("name") for value in graph.messages("input")),
        outputs=(value.text("name") for value in graph.messages("output")),
    )
    for step in steps(content, sizes):
        counter.add(step)
    return counter.work()


class _Counter:
    """Adds up the steps of one graph."""

    def __init__(
        self, first: int, stored: Iterable[str], inputs: Iterable[str], outputs: Iterable[str]
    ) -> None:
        self._first = first
        self._stored, self._inputs, self._outputs = set(stored), set(inputs), set(outputs)
        self._flops: Counter[str] = Counter()
        self._weights: dict[str, int] = {}
        self._values: dict[str, int] = {}
        self._caches: set[str] = set()  # as they go in and as they come out
        self._narrow: dict[str, str] = {}  # what is dequantized: the type that it is stored or rounded to
        self._unseen = self._looked_up = self._cache = self._unseen_cache = self._other = 0

    def work(self) -> Work:
        """The sums."""
        return Work(
            flops=dict(self._flops),
            executed_flops=self._flops.total() + self._unseen,
            weights=sum(self._weights.values()) + self._looked_up,
            values=sum(self._values.values()),
            cache=self._cache,
            executed_cache=self._cache + self._unseen_cache,
            other=self._other,
        )

    def add(self, step: Step) -> None:
        """Count one node."""
        self._trace(step)
        if step.operator in _ATTENTIONS:
            self._attend(step)
        elif operations := _product(step):
            self._flops[self._multiplied(step)] += operations
        elif step.operator not in _MOVES:
            self._other += sum(_count(value) for _, value in step.outputs[:1])
        self._move(step)

    def _trace(self, step: Step) -> None:
        """Which values are caches, and which hold narrow numbers."""
        names = [value[0] if value else "" for value in step.inputs]
        if step.operator == "TensorScatter":
            self._caches.update((names[0], *(name for name, _ in step.outputs)))
        elif step.operator == "GroupQueryAttention":
            self._caches.update((*names[3:5], *(name for name, _ in step.outputs[1:])))
        elif step.operator == "DequantizeLinear" and step.inputs[0]:
            self._narrow.update((name, step.inputs[0][1].dtype) for name, _ in step.outputs)
        elif step.operator in _SAME_NUMBERS and names[0] in self._narrow:
            self._narrow.update((name, self._narrow[names[0]]) for name, _ in step.outputs)

    def _multiplied(self, step: Step) -> str:
        """The type of both factors; narrow only if both are, otherwise they are widened first."""
        factors = [value for value in step.inputs[:2] if value]
        narrow = {self._narrow.get(name, known.dtype) for name, known in factors}
        return narrow.pop() if len(narrow) == 1 else factors[0][1].dtype

    def _attend(self, step: Step) -> None:
        """Scores and the mix of values: 2 operations for each pair of positions, head and its size, twice."""
        if step.operator == "Attention":
            (_, query), (keys, k), (_, v) = (value for value in step.inputs[:3] if value)
            batch, heads, new, size = query.shape
            size += v.shape[-1]
            cached = keys in self._caches
        else:
            query, k, v = (value[1] for value in (step.inputs[0], *step.inputs[3:5]) if value)
            batch, new, width = query.shape
            heads, size = width // k.shape[-1], k.shape[-1] + v.shape[-1]
            cached = True
        length = k.shape[-2]
        visible = self._visible(new, length) if cached else new * length
        self._flops[query.dtype] += 2 * batch * heads * size * visible
        self._other += batch * heads * visible  # of the softmax
        if cached:
            held = k.nbytes + v.nbytes
            self._cache += held * (self._first + new) // length
            if step.operator == "Attention":
                self._unseen += 2 * batch * heads * size * (new * length - visible)
                self._unseen_cache += held - held * self._first // length

    def _visible(self, new: int, length: int) -> int:
        """Pairs of a new position and one that it sees: those before it and itself."""
        if self._first + new > length:
            raise ValueError(f"{new} new positions from {self._first} on, in a cache of {length}")
        return new * self._first + new * (new + 1) // 2

    def _move(self, step: Step) -> None:
        """The bytes that this node reads of weights and inputs, and writes of outputs."""
        for index, (name, value) in ((i, read) for i, read in enumerate(step.inputs) if read):
            if name in self._stored and step.operator == "Gather" and index == 0:
                self._looked_up += min(step.outputs[0][1].nbytes, value.nbytes)
            elif name in self._stored:
                self._weights[name] = value.nbytes
            elif name in self._inputs and name not in self._caches:
                self._values[name] = value.nbytes
        if step.operator == "Constant":
            self._weights.update((name, value.nbytes) for name, value in step.outputs)
        for name, value in step.outputs:
            if name in self._outputs and name not in self._caches:
                self._values[name] = value.nbytes


def _product(step: Step) -> int:
    """Operations of a product of matrices, 0 of any other node."""
    if step.operator not in {"Conv", "Gemm", "MatMul"}:
        return 0
    (_, a), (_, b) = (value for value in step.inputs[:2] if value)
    terms = a.shape[-1]
    if step.operator == "Conv":
        terms = math.prod(b.shape[1:])  # channels of a group, and the kernel
    elif step.operator == "Gemm" and step.attributes.get("transA"):
        terms = a.shape[0]
    return 2 * _count(step.outputs[0][1]) * terms


def _count(value: Known) -> int:
    return math.prod(value.shape)
