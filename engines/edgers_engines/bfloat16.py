"""bfloat16 on a processor: numbers as their bits, and graphs that compute in float32 between two roundings.

NumPy has no bfloat16, and ONNX Runtime's CPU has kernels for it only where numbers are moved and not
computed. So an array of bits, the upper half of a float32's, stands for such numbers, and for the CPU a graph
is written out in which every operator that computes gets float32 and gives float32, rounded to bfloat16
behind it. A GPU, which sums in float32 and rounds what it stores, computes the same but for the order of its
sums and the roundings that it saves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgers_engines.graph_shapes import steps
from edgers_engines.onnx_graph import read_graph
from edgers_engines.onnx_schema import GRAPH, MODEL, NODE
from edgers_engines.plain_operators import Nodes, unused_names
from edgers_engines.protobuf import edited

_NAME = "bfloat16"
# They move numbers, or convert them; ONNX Runtime's CPU has them in bfloat16, and writes the cache in place.
_MOVES = {"Cast", "Concat", "Gather", "Identity", "Reshape", "Shape", "Slice", "TensorScatter", "Transpose"}
_ANY_SIZE = 16  # of free dimensions: types do not depend on it


def bits(value: float) -> int:
    """The number's bits, rounded towards zero."""
    return int(np.float32(value).view(np.uint32)) >> 16


def floats(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """The numbers, exactly: float32 of the same shape, of bits in uint16 or of NumPy's own floats."""
    if numbers.dtype != np.uint16:
        return numbers.astype(np.float32)
    return (numbers.astype(np.uint32) << 16).view(np.float32)


def through_float32(content: bytes) -> bytes:
    """The graph with every operator that computes in bfloat16 between casts to float32 and back.

    Args:
        content: an ONNX file's bytes, which `read_graph` has checked.

    Raises:
        ValueError: an operator whose types are not known.
    """
    free = {d for value in read_graph(content).input_values for d in value.shape if isinstance(d, str)}
    found = iter(steps(content, dict.fromkeys(free, _ANY_SIZE)))
    new_name = unused_names(content, "float32")
    wide: dict[str, str] = {}  # what has been cast to float32, by name

    def node(original: memoryview) -> list[bytes]:
        step = next(found)
        narrow = [value[0] for value in step.inputs if value and value[1].dtype == _NAME]
        if step.operator in _MOVES or not narrow:
            return [bytes(original)]
        before, behind = Nodes(new_name), Nodes(new_name)
        for name in narrow:
            wide[name] = wide.get(name) or before.cast(name, "float32")
        exact = {name: new_name() for name, value in step.outputs if value.dtype == _NAME}
        for name, unrounded in exact.items():
            behind.cast(unrounded, _NAME, to=name)
        return [*before.written, _renamed(original, wide, exact), *behind.written]

    return edited(memoryview(content), MODEL, {"graph": lambda graph: edited(graph, GRAPH, {"node": node})})


def _renamed(node: memoryview, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """The node, reading and writing other values."""

    def of(names: Mapping[str, str]) -> Callable[[Any], bytes]:
        return lambda name: names.get(name, name).encode()

    return edited(node, NODE, {"input": of(inputs), "output": of(outputs)})
