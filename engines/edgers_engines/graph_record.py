"""What manifest.json says of a graph: its file, its inputs and its outputs."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from edgers_engines.records import Record

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Size = Annotated[int, Meta(ge=1, le=1 << 20)]  # of one dimension that memory is allocated by
Dtype = Literal["float32", "float16", "int64", "bool"]
NonNegative = Annotated[float, Meta(ge=0)]


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
