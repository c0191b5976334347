"""What manifest.json says of a graph: its file, its inputs and its outputs."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from edgers_engines.fields import Count, Name
from edgers_engines.records import Record

Dtype = Literal["float32", "float16", "bfloat16", "int64", "int32", "bool"]


def held_as(dtype: Dtype) -> np.dtype[Any]:
    """NumPy's type of an array that holds such numbers: their own, or the bits of a bfloat16 as uint16."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


class Tensor(Record, frozen=True, kw_only=True):
    """One input or output of a graph; a dimension is a number or the name of a free one."""

    name: str
    dtype: Dtype
    shape: tuple[Count | Name, ...]


class Graph(Record, frozen=True, kw_only=True):
    """An ONNX graph and its signature, in the graph's own order."""

    file: Name
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


Signature = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
