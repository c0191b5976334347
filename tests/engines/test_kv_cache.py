"""The KV cache: one allocation that inputs and outputs share, and rows that move up."""

import numpy as np
import pytest

from edgers_engines.bfloat16 import floats
from edgers_engines.device import Host
from edgers_engines.graph_record import held_as
from edgers_engines.kv_cache import KVCache
from edgers_engines.manifest import Dimensions

ROWS, LENGTH = 5, 7
DIMENSIONS = Dimensions(
    image_tokens=4, hidden=8, vocabulary=16, layers=3, kv_heads=2, head_dim=6, max_length=64
)
NAMES = [f"{layer}.{kind}" for layer in range(3) for kind in ("key", "value")]


@pytest.fixture
def cache():
    """A cache in which no two numbers are equal, and none is 0."""
    cache = KVCache(Host(), DIMENSIONS, ROWS, LENGTH, "float32")
    for number, array in enumerate(cache.inputs(ROWS).values()):
        array[...] = np.arange(1, array.size + 1).reshape(array.shape) + 1000 * number
    return cache


def contents(cache):
    return {name: array.copy() for name, array in cache.inputs(ROWS).items()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_new_cache_is_zeros_of_every_layers_keys_and_values(dtype):
    fresh = KVCache(Host(), DIMENSIONS, ROWS, LENGTH, dtype).inputs(ROWS)
    assert list(fresh) == [f"past.{name}" for name in NAMES]
    for array in fresh.values():
        assert (array.shape, array.dtype) == ((ROWS, 2, LENGTH, 6), held_as(dtype))
        assert not array.any()


def test_a_cache_of_bfloat16_is_filled_with_the_numbers_bits():
    cache = KVCache(Host(), DIMENSIONS, ROWS, LENGTH, "bfloat16")
    cache.fill(1e4, 2)
    for array in cache.inputs(ROWS).values():
        assert not array[:, :, :2].any()
        assert np.allclose(floats(array[:, :, 2:]), 1e4, rtol=0.01)


@pytest.mark.parametrize("rows", [1, 3, ROWS])
def test_inputs_and_outputs_of_any_batch_are_the_same_contiguous_memory(cache, rows):
    inputs, outputs = cache.inputs(rows), cache.outputs(rows)
    assert list(outputs) == [f"present.{name}" for name in NAMES]
    for name in NAMES:
        before, after = inputs[f"past.{name}"], outputs[f"present.{name}"]
        assert before.__array_interface__["data"] == after.__array_interface__["data"]
        assert before.shape == after.shape == (rows, 2, LENGTH, 6)
        assert before.flags.c_contiguous
        after[rows - 1, 1, 2, 3] = -1
        assert cache.inputs(ROWS)[f"past.{name}"][rows - 1, 1, 2, 3] == -1


def test_keys_values_and_layers_share_no_memory(cache):
    arrays = list(cache.inputs(ROWS).values())
    for number, one in enumerate(arrays):
        assert not any(np.shares_memory(one, other) for other in arrays[number + 1 :])


def test_share_copies_the_first_rows_prefix_to_all_rows_and_nothing_else(cache):
    before = contents(cache)
    cache.share(3)
    for name, array in contents(cache).items():
        np.testing.assert_array_equal(array[:, :, :3], np.repeat(before[name][:1, :, :3], ROWS, axis=0))
        np.testing.assert_array_equal(array[:, :, 3:], before[name][:, :, 3:])


def test_share_of_nothing_changes_nothing(cache):
    before = contents(cache)
    cache.share(0)
    np.testing.assert_equal(contents(cache), before)


def test_clear_writes_zeros_from_a_position_on_over_any_number(cache):
    before = contents(cache)
    for array in cache.inputs(ROWS).values():
        array[1, :, 4:] = np.nan
        array[2, :, 5] = -np.inf
    cache.fill(0, 4)
    for name, array in contents(cache).items():
        assert np.all(array[:, :, 4:] == 0)
        np.testing.assert_array_equal(array[:, :, :4], before[name][:, :, :4])


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([0, 1, 2, 3, 4], id="all"),
        pytest.param([0, 2, 4], id="every-other"),
        pytest.param([3, 4], id="last"),
        pytest.param([0, 1], id="first"),
        pytest.param([1, 2, 3, 4], id="all-but-the-first"),
        pytest.param([], id="none"),
    ],
)
def test_keep_moves_rows_to_the_front_between_two_positions_only(cache, rows):
    before = contents(cache)
    cache.keep(rows, 2, 6)
    for name, array in contents(cache).items():
        np.testing.assert_array_equal(array[: len(rows), :, 2:6], before[name][rows, :, 2:6])
        np.testing.assert_array_equal(array[:, :, :2], before[name][:, :, :2])
        np.testing.assert_array_equal(array[:, :, 6:], before[name][:, :, 6:])


def test_keep_twice_keeps_the_rows_of_the_rows(cache):
    before = contents(cache)
    cache.keep([1, 2, 4], 0, LENGTH)
    cache.keep([0, 2], 0, LENGTH)
    for name, array in contents(cache).items():
        np.testing.assert_array_equal(array[:2], before[name][[1, 4]])


def test_memory_moves_nowhere_whatever_is_done(cache):
    places = [array.__array_interface__["data"] for array in cache.inputs(ROWS).values()]
    cache.share(2)
    cache.keep([2, 3], 0, 5)
    cache.fill(0, 1)
    assert [array.__array_interface__["data"] for array in cache.inputs(ROWS).values()] == places
