"""A verified graph as TensorRT's parser takes it: the same inputs and outputs, equal but for rounding.

Three things differ from what ONNX Runtime takes. TensorRT writes a KV cache in place only where its length is
a number, so free dimensions get one. Its parser refuses Attention's `softmax_precision`; without it the
kernels choose, and what they chose is measured before a plan is used. And it ignores `nonpad_kv_seqlen`, the
seventh input of Attention, without an error: attention would read positions that were never written. Such a
graph is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgers_engines.errors import BackendError
from edgers_engines.onnx_schema import (
    ATTRIBUTE,
    DIMENSION,
    GRAPH,
    MODEL,
    NODE,
    SHAPE,
    TENSOR_TYPE,
    TYPE,
    VALUE,
)
from edgers_engines.protobuf import Edit, Message, Schema, edited, field, message

_NONPAD = 6  # which input of Attention nonpad_kv_seqlen is
_DIM_VALUE = 1


def tensorrt_graph(content: bytes, name: str, sizes: Mapping[str, int]) -> bytes:
    """The graph for TensorRT.

    Args:
        content: an ONNX file's bytes, which `read_graph` has checked.
        name: of the file, for errors.
        sizes: of free dimensions, by name.

    Raises:
        BackendError: the graph holds what TensorRT would not compute as it is meant.
    """

    def dimension(content: memoryview) -> bytes:
        free = Message(content, "dim", DIMENSION).text("dim_param")
        return message(field(_DIM_VALUE, sizes[free])) if free in sizes else bytes(content)

    value = _inside(dimension, (VALUE, "type"), (TYPE, "tensor_type"), (TENSOR_TYPE, "shape"), (SHAPE, "dim"))

    def node(content: memoryview) -> bytes:
        found = Message(content, "node", NODE)
        if found.text("op_type") != "Attention":
            return bytes(content)
        if any(found.texts("input")[_NONPAD:]):
            raise BackendError(
                f"{name} has an Attention with nonpad_kv_seqlen, which TensorRT's parser ignores without an "
                "error: it would attend to positions that were never written. Export with an explicit mask"
            )
        return edited(content, NODE, {"attribute": _without("softmax_precision")})

    def graph(content: memoryview) -> bytes:
        return edited(content, GRAPH, {"node": node, "input": value, "output": value, "value_info": value})

    return edited(memoryview(content), MODEL, {"graph": graph})


def _inside(edit: Edit, *way: tuple[Schema, str]) -> Edit:
    """Edits what lies at the end of a way of fields, from the outermost message on."""
    for schema, name in reversed(way):
        edit = _of(edit, schema, name)
    return edit


def _of(edit: Edit, schema: Schema, name: str) -> Edit:
    return lambda content: edited(content, schema, {name: edit})


def _without(name: str) -> Edit:
    """Leaves out the attribute of this name."""

    def kept(content: memoryview) -> bytes | None:
        return None if Message(content, "attribute", ATTRIBUTE).text("name") == name else bytes(content)

    return kept
