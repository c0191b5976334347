"""A graph of one matrix product, to measure what a backend makes of it; written without the onnx package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgers_engines.graph_record import Dtype, Graph, Tensor, held_as
from edgers_engines.manifest import File
from edgers_engines.onnx_schema import DTYPES
from edgers_engines.plain_operators import Nodes
from edgers_engines.protobuf import field, message
from edgers_engines.weights import Weights

_FILE, _WEIGHTS = "product.onnx", "product.bin"
_OPSET, _IR_VERSION = 24, 10  # as the bundles' graphs have them
_NUMBERS = {name: number for number, (name, _) in DTYPES.items()}
_EXTERNAL = 1  # TensorProto.DataLocation
_NARROW = {"int8": np.int8, "float8_e4m3fn": np.uint8}  # fp8 as its bits


class Product(NamedTuple):
    """[1, size, size] by a stored matrix [size, size].

    Attributes:
        content: of the ONNX file.
        graph: its record: "a" goes in, "y" comes out, both float32 where numbers of 8 bits are multiplied.
        weights: the matrix, to be loaded with.
    """

    content: bytes
    graph: Graph
    weights: Weights


@contextmanager
def product(size: int, kind: str) -> Iterator[Product]:
    """A product of random matrices; its stored one lasts as long as the block.

    Args:
        size: of both sides of both.
        kind: the numbers that are multiplied: a float type, "int8" or "float8_e4m3fn", which inputs are
            rounded to within the graph, as in a quantized bundle's.
    """
    dtype: Dtype = "float32" if kind in _NARROW else kind  # type: ignore[assignment]
    stored = _matrix(size, kind).tobytes()
    with TemporaryDirectory(prefix="edgers-") as folder:
        Path(folder, _WEIGHTS).write_bytes(stored)
        file = File(path=_WEIGHTS, size=len(stored), sha256=hashlib.sha256(stored).hexdigest())
        with Weights(Path(folder), file) as weights:
            sides = (Tensor(name=name, dtype=dtype, shape=(1, size, size)) for name in ("a", "y"))
            graph = Graph(file=_FILE, inputs=(next(sides),), outputs=(next(sides),))
            yield Product(_model(graph, kind, len(stored)), graph, weights)


def operand(size: int, dtype: Dtype) -> NDArray[Any]:
    """Random numbers for "a", held as such numbers are; constant ones would let a GPU run faster."""
    return _matrix(size, dtype)[None]


def _matrix(size: int, kind: str) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if kind in _NARROW:
        return rng.integers(0, 0x70, (size, size)).astype(_NARROW[kind])  # of fp8 no NaN
    numbers = rng.standard_normal((size, size), np.float32)
    if kind == "bfloat16":
        return (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return numbers.astype(held_as(kind))  # type: ignore[arg-type]


def _model(graph: Graph, kind: str, nbytes: int) -> bytes:
    names = iter(("codes", "rounded", "widened"))
    nodes, shape, small = Nodes(lambda: next(names)), graph.inputs[0].shape[1:], []
    if kind in _NARROW:
        codes = nodes("QuantizeLinear", "a", "scale", "zero")
        rounded = nodes("DequantizeLinear", codes, "scale", "zero")
        nodes("MatMul", rounded, nodes("DequantizeLinear", "w", "scale"), to="y")
        scale = np.float32(0.05).tobytes()
        small = [_tensor("scale", "float32", (), field(9, scale)), _tensor("zero", kind, (), field(9, b"\0"))]
    else:
        nodes("MatMul", "a", "w", to="y")
    place = {"location": _WEIGHTS, "offset": "0", "length": str(nbytes)}
    entries = (field(13, message(field(1, key), field(2, value))) for key, value in place.items())
    stored = _tensor("w", kind, shape, message(*entries, field(14, _EXTERNAL)))
    return message(
        field(1, _IR_VERSION),
        field(
            7,
            message(
                *(field(1, node) for node in nodes.written),
                field(2, "product"),
                *(field(5, tensor) for tensor in (stored, *small)),
                field(11, _value(graph.inputs[0])),
                field(12, _value(graph.outputs[0])),
            ),
        ),
        field(8, message(field(1, ""), field(2, _OPSET))),
    )


def _tensor(name: str, kind: str, shape: tuple[Any, ...], content: bytes) -> bytes:
    dimensions = (field(1, size) for size in shape)
    return message(*dimensions, field(2, _NUMBERS[kind]), field(8, name), content)


def _value(tensor: Tensor) -> bytes:
    shape = message(*(field(1, message(field(1, size))) for size in tensor.shape))
    kind = message(field(1, _NUMBERS[tensor.dtype]), field(2, shape))
    return message(field(1, tensor.name), field(2, message(field(1, kind))))
