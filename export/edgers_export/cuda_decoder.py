"""The decoder graph once more, in ONNX Runtime's own operators for CUDA.

`com.microsoft.GroupQueryAttention` rotates, writes the cache and attends causally in one, by flash
attention, for which ONNX's Attention with a mask does not qualify; `SkipSimplifiedLayerNormalization` adds
and normalises in one. The graph is made from the standard one, node by node: it reads the same weights.
Inputs `last_index` and `total_length` take the place of `write_index` and `mask`. Source of the operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgers_engines.graph_record import Graph
from edgers_engines.onnx_schema import CUDA_DOMAIN, CUDA_VERSION
from edgers_export.errors import ExportError
from edgers_export.onnx import GraphWriter

FILE = "decoder.cuda.onnx"
_GIVEN = ("last_index", "batch"), ("total_length", 1)
_REPLACED = ("write_index", "mask")
_TABLES = "rotation.cos", "rotation.sin"
_HEAD_UNIT = 16  # GroupQueryAttention rotates heads whose size is a multiple


def check_heads(head_dim: int) -> None:
    """Refuse what the operator cannot rotate.

    Raises:
        ExportError: heads of another size.
    """
    if head_dim % _HEAD_UNIT:
        raise ExportError(
            f"--cuda-decoder needs heads of a multiple of {_HEAD_UNIT}; this decoder's have {head_dim}: "
            "export without it"
        )


def write_cuda_decoder(
    standard: Graph, writer: GraphWriter, *, heads: int, tables: Iterable[NDArray[Any]]
) -> Graph:
    """Write the twin of a decoder graph.

    Args:
        standard: the decoder, as `write_graphs` wrote it by the same writer.
        writer: where it is, and where the twin will be.
        heads: of the queries.
        tables: see `rotations`.

    Returns:
        Its record.
    """
    model = writer.read(standard)
    graph = model.graph
    kv_heads = next(tensor.shape[1] for tensor in standard.inputs if tensor.name == "past.0.key")
    nodes = _sorted(graph, _used(graph, _skipping(_grouped(graph, heads=heads, kv_heads=int(kv_heads)))))
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [writer.tensor(name, table) for name, table in zip(_TABLES, tables, strict=True)]
    embeddings, *others = [value for value in graph.input if value.name not in _REPLACED]
    given = [helper.make_tensor_value_info(name, TensorProto.INT32, [size]) for name, size in _GIVEN]
    for field, values in (
        (graph.node, nodes),
        (graph.initializer, kept),
        (graph.input, [embeddings, *given, *others]),
    ):
        del field[:]
        field.extend(values)
    model.opset_import.append(helper.make_opsetid(CUDA_DOMAIN, CUDA_VERSION))
    return writer.save(model, FILE)


def rotations(language_model: Any, positions: int) -> tuple[NDArray[Any], NDArray[Any]]:  # noqa: ANN401  transformers
    """Cosines and sines of every position, each [positions, head_dim / 2], in the model's own type.

    Args:
        language_model: the decoder, whose own rotation gives them in float32.
        positions: the most there will be.
    """
    places = torch.arange(positions)[None]
    with torch.no_grad():
        tables = language_model.rotary_emb(torch.zeros(1), places)
    cos, sin = (table[0, :, : table.shape[-1] // 2].to(language_model.dtype).numpy() for table in tables)
    return np.ascontiguousarray(cos), np.ascontiguousarray(sin)


def _grouped(graph: Any, *, heads: int, kv_heads: int) -> list[Any]:  # noqa: ANN401  protobuf's messages are untyped
    """Each attention with its rotations and its cache as one operator."""
    made_by = {output: node for node in graph.node for output in node.output}
    used_by = {name: node for node in graph.node for name in node.input}

    def before(name: str, *kinds: str) -> str:
        for kind in kinds:
            _expect(made_by[name], kind)
            name = made_by[name].input[0]
        return name

    new = {}
    for node in graph.node:
        if node.op_type != "Attention":
            continue
        keys, values = made_by[node.input[1]], made_by[node.input[2]]
        merged = used_by[used_by[node.output[0]].output[0]]
        _expect(merged, "Reshape")
        new[merged.output[0]] = helper.make_node(
            "GroupQueryAttention",
            [
                before(node.input[0], "RotaryEmbedding", "Transpose", "Reshape"),
                before(keys.input[1], "RotaryEmbedding", "Transpose", "Reshape"),
                before(values.input[1], "Transpose", "Reshape"),
                keys.input[0],
                values.input[0],
                *(name for name, _ in _GIVEN),
                *_TABLES,
            ],
            [merged.output[0], keys.output[0], values.output[0]],
            domain=CUDA_DOMAIN,
            num_heads=heads,
            kv_num_heads=kv_heads,
            scale=_attribute(node, "scale"),
            do_rotary=1,
        )
    return [new.get(node.output[0], node) for node in graph.node if node.op_type != "TensorScatter"]


def _skipping(nodes: list[Any]) -> list[Any]:
    """Each sum that is normalised next together with its norm."""
    sums = {node.output[0]: node for node in nodes if node.op_type == "Add"}
    fused = {}
    for node in nodes:
        if node.op_type == "RMSNormalization" and node.input[0] in sums:
            a, b = sums.pop(node.input[0]).input
            fused[node.output[0]] = helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [a, b, node.input[1]],
                [node.output[0], "", "", node.input[0]],
                domain=CUDA_DOMAIN,
                epsilon=_attribute(node, "epsilon"),
            )
    summed = {node.output[3] for node in fused.values()}
    return [fused.get(node.output[0], node) for node in nodes if node.output[0] not in summed]


def _used(graph: Any, nodes: list[Any]) -> list[Any]:  # noqa: ANN401  as above
    while True:
        used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        kept = [node for node in nodes if used.intersection(node.output)]
        if len(kept) == len(nodes):
            return kept
        nodes = kept


def _sorted(graph: Any, nodes: list[Any]) -> list[Any]:  # noqa: ANN401  as above
    """Each node behind those whose values it reads."""
    values = (*graph.input, *graph.initializer)
    there = {"", *_TABLES, *(name for name, _ in _GIVEN), *(value.name for value in values)}
    done: list[Any] = []
    while nodes:
        later = []
        for node in nodes:
            if there.issuperset(node.input):
                done.append(node)
                there.update(node.output)
            else:
                later.append(node)
        if len(later) == len(nodes):
            raise ExportError(f"the decoder for CUDA lacks {sorted(set(nodes[0].input) - there)}")
        nodes = later
    return done


def _expect(node: Any, kind: str) -> None:  # noqa: ANN401  as above
    if node.op_type != kind:
        raise ExportError(
            f"the decoder has a {node.op_type} where a {kind} was expected, so none for CUDA can be made of "
            "it: export without --cuda-decoder"
        )


def _attribute(node: Any, name: str) -> float:  # noqa: ANN401  as above
    return float(next(attribute.f for attribute in node.attribute if attribute.name == name))
