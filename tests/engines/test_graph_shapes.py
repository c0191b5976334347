"""Shapes of a stranger's graph: what they are computed from is bounded, whatever the graph asks for."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgers_engines.graph_shapes import steps
from edgers_engines.memory_plan import _scratch, peak_bytes
from tests.engines.test_memory_plan import graph


def doubling(times):
    """Each node joins what the one before gave to itself."""
    names = ["few", *(f"n{k}" for k in range(times)), "y"]
    nodes = [("Concat", [a, a], b, {"axis": 0}) for a, b in pairwise(names)]
    return graph(nodes, {}, {"y": [2 ** (times + 1)]}, few=np.array([1.0], np.float32))


def test_a_graph_that_doubles_its_numbers_takes_no_memory_here():
    tracemalloc.start()
    try:
        found = list(steps(doubling(18), {}))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found[-1].outputs[0][1].shape == (2**19,)
    assert most < 1 << 20


def test_numbers_are_known_up_to_64_and_no_further():
    known = {name: value for step in steps(doubling(8), {}) for name, value in step.outputs}
    assert [value.shape[0] for value in known.values()] == [2**k for k in range(1, 10)]
    assert [value.numbers is not None for value in known.values()] == [True] * 6 + [False] * 3


def test_a_shape_of_numbers_that_were_too_many_is_refused():
    nodes = [
        ("Concat", ["ones"] * 2, "many", {"axis": 0}),
        ("Reshape", ["x", "many"], "y", {}),
    ]
    content = graph(nodes, {"x": [1]}, {"y": [1]}, ones=np.ones(33, np.int64))
    with pytest.raises(ValueError, match="no shape of Reshape is known"):
        list(steps(content, {}))


def several(*nodes):
    """ONNX bytes of nodes with any number of outputs, each (operator, reads, writes, attributes)."""
    shapes = {"x": [2, 3, 16], "past": [2, 1, 8, 16], "few": [7], "y": [2, 3, 16]}
    x, past, few, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    made = [helper.make_node(*node, **more) for *node, more in nodes]
    made.append(helper.make_node("Identity", ["x"], ["y"]))
    model = helper.make_model(
        helper.make_graph(made, "graph", [x, past, few], [y]),
        opset_imports=[helper.make_opsetid("", 24)],
        ir_version=10,
    )
    return model.SerializeToString()


@pytest.mark.parametrize("written", [[""], []])
def test_a_view_whose_name_is_left_out_takes_nothing(written):
    assert peak_bytes(several(("Identity", ["x"], written, {})), {}) == 0


@pytest.mark.parametrize("written", [["", "", ""], ["", "k", "v"], ["a", "k", "v"], []])
def test_an_attention_needs_its_rotated_query_whatever_it_writes(written):
    node = ("GroupQueryAttention", ["x", "", "", "past", "past"], written, {})
    assert [_scratch(step) for step in steps(several(node), {})] == [2 * 3 * 16 * 4, 0]


def test_a_result_keeps_its_shape_where_those_before_it_are_left_out():
    names = [["", "k", ""], ["", "", "v"], ["a", "", ""]]
    found = [
        next(iter(steps(several(("GroupQueryAttention", ["x", "", "", "past", "past"], n, {})), {}))).outputs
        for n in names
    ]
    assert [[(name, value.shape) for name, value in outputs] for outputs in found] == [
        [("k", (2, 1, 8, 16))],
        [("v", (2, 1, 8, 16))],
        [("a", (2, 3, 16))],
    ]
    skipping = several(("SkipSimplifiedLayerNormalization", ["x"] * 3, ["n", "", "d", "s"], {}))
    assert [(name, value.shape) for name, value in next(iter(steps(skipping, {}))).outputs] == [
        ("n", (2, 3, 16)),
        ("d", (2, 3, 1)),
        ("s", (2, 3, 16)),
    ]


UNKNOWN = {
    "a result that no rule knows": [("Identity", ["x"], ["a", "b"], {}), ("Neg", ["b"], ["c"], {})],
    "a constant of nothing": [("Constant", [], ["a"], {})],
    "a view of nothing": [("Identity", [], ["a"], {})],
    "an attention without keys": [("Attention", ["past", "", "past"], ["a"], {})],
    "an attention of flat keys": [("Attention", ["past", "few", "past"], ["a"], {})],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_node_that_makes_no_sense_has_no_shape_that_is_known(name):
    """And nothing but a ValueError, which whoever predicts memory expects."""
    with pytest.raises(ValueError, match=r"node\[\d\]: no shape of \w+ is known"):
        peak_bytes(several(*UNKNOWN[name]), {})
