"""Shapes of a stranger's graph: what they are computed from is bounded, whatever the graph asks for."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from edgers_engines.graph_shapes import steps
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
