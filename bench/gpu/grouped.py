"""A decoder graph with ONNX Runtime's own operators for CUDA instead of ONNX's.

`com.microsoft.GroupQueryAttention` rotates, writes the cache and attends causally in one operator, by flash
attention, for which ONNX's Attention with a mask does not qualify; `SkipSimplifiedLayerNormalization` adds
and normalises in one. Inputs `last_index` and `total_length` take the place of `write_index` and `mask`. Half
precision only, and several rows are prefilled from position 0 only: there is no shared prefix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgers_engines.graph_record import Graph, Tensor

_LAST = "last_index", "int32", ("batch",)  # of every row's new positions
_TOTAL = "total_length", "int32", (1,)  # positions written, the new ones included
_REPLACED = ("write_index", "mask")
_TABLES = "rotation.cos", "rotation.sin"


def write_grouped(
    graph: Graph, folder: Path, name: str, *, heads: int, kv_heads: int, positions: int
) -> Graph:
    """Read a decoder graph, write its twin beside it.

    Args:
        graph: the decoder, as `write_graphs` wrote it, of a Llama with plain rotations to the base 10000.
        folder: where it is.
        name: the twin's file name.
        heads: of the queries.
        kv_heads: of keys and values.
        positions: the most there will be.
    """
    model = onnx.load(folder / graph.file, load_external_data=False)
    size = next(tensor.shape[3] for tensor in graph.inputs if tensor.name == "past.0.key")
    assert isinstance(size, int)
    nodes = _grouped(model.graph, heads=heads, kv_heads=kv_heads)
    nodes = _sorted(model.graph, _without_unused(model.graph, _skipping(nodes)))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *_rotations(size, positions)])
    values = [value for value in model.graph.input if value.name not in _REPLACED]
    more = [
        helper.make_tensor_value_info(name, TensorProto.INT32, list(shape))
        for name, _, shape in (_LAST, _TOTAL)
    ]
    del model.graph.input[:]
    model.graph.input.extend([values[0], *more, *values[1:]])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, folder / name)
    tensors = [tensor for tensor in graph.inputs if tensor.name not in _REPLACED]
    twins = [Tensor(name=name, dtype=dtype, shape=shape) for name, dtype, shape in (_LAST, _TOTAL)]  # type: ignore[arg-type]
    return Graph(file=name, inputs=(tensors[0], *twins, *tensors[1:]), outputs=graph.outputs)


def _rotations(size: int, positions: int) -> list[Any]:
    angles = np.arange(positions)[:, None] / 10000 ** (np.arange(0, size, 2) / size)
    return [
        numpy_helper.from_array(function(angles).astype(np.float16), name)
        for name, function in zip(_TABLES, (np.cos, np.sin), strict=True)
    ]


def _grouped(graph: Any, *, heads: int, kv_heads: int) -> list[Any]:
    made_by = {output: node for node in graph.node for output in node.output}
    used_by = {name: node for node in graph.node for name in node.input}

    def before(name: str, *kinds: str) -> str:
        for kind in kinds:
            assert made_by[name].op_type == kind, (made_by[name].op_type, kind)
            name = made_by[name].input[0]
        return name

    new = {}
    for node in graph.node:
        if node.op_type != "Attention":
            continue
        keys, values = made_by[node.input[1]], made_by[node.input[2]]
        merged = used_by[used_by[node.output[0]].output[0]]
        assert merged.op_type == "Reshape"
        new[merged.output[0]] = helper.make_node(
            "GroupQueryAttention",
            [
                before(node.input[0], "RotaryEmbedding", "Transpose", "Reshape"),
                before(keys.input[1], "RotaryEmbedding", "Transpose", "Reshape"),
                before(values.input[1], "Transpose", "Reshape"),
                keys.input[0],
                values.input[0],
                "last_index",
                "total_length",
                *_TABLES,
            ],
            [merged.output[0], keys.output[0], values.output[0]],
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=kv_heads,
            scale=next(attribute.f for attribute in node.attribute if attribute.name == "scale"),
            do_rotary=1,
        )
    return [new.get(node.output[0], node) for node in graph.node if node.op_type != "TensorScatter"]


def _skipping(nodes: list[Any]) -> list[Any]:
    sums = {node.output[0]: node for node in nodes if node.op_type == "Add"}
    fused = {}
    for node in nodes:
        if node.op_type == "RMSNormalization" and node.input[0] in sums:
            a, b = sums.pop(node.input[0]).input
            fused[node.output[0]] = helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [a, b, node.input[1]],
                [node.output[0], "", "", node.input[0]],
                domain="com.microsoft",
                epsilon=next(attribute.f for attribute in node.attribute if attribute.name == "epsilon"),
            )
    normalised = {node.output[3] for node in fused.values()}
    return [fused.get(node.output[0], node) for node in nodes if node.output[0] not in normalised]


def _without_unused(graph: Any, nodes: list[Any]) -> list[Any]:
    while True:
        used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        kept = [node for node in nodes if used.intersection(node.output)]
        if len(kept) == len(nodes):
            return kept
        nodes = kept


def _sorted(graph: Any, nodes: list[Any]) -> list[Any]:
    there = {value.name for value in (*graph.input, *graph.initializer)} | {"", _LAST[0], _TOTAL[0], *_TABLES}
    done: list[Any] = []
    while nodes:
        later = []
        for node in nodes:
            if there.issuperset(node.input):
                done.append(node)
                there.update(node.output)
            else:
                later.append(node)
        assert len(later) < len(nodes)
        nodes = later
    return done
