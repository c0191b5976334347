"""Work, counted: every kind of product by hand, and the demo bundle's graphs from their dimensions."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgers_engines.graph_work import graph_work
from tests.engines.test_memory_plan import graph


def counted(nodes, inputs, outputs, sizes=None, **constants):
    return graph_work(graph(nodes, inputs, outputs, **constants), sizes or {})


class TestProducts:
    def test_a_product_takes_two_operations_for_each_multiply_add(self):
        """[3, 5, 7] @ [7, 11], the weight stored once for all rows."""
        nodes = [("MatMul", ["x", "w"], "y", {})]
        weight = np.zeros((7, 11), np.float32)
        work = counted(nodes, {"x": ["batch", 5, 7]}, {"y": ["batch", 5, 11]}, {"batch": 3}, w=weight)
        assert work.flops == {"float32": 2 * 3 * 5 * 7 * 11}
        assert work.executed_flops == work.total_flops
        assert (work.weights, work.values, work.cache) == (4 * 7 * 11, 4 * 3 * 5 * (7 + 11), 0)
        assert work.intensity == work.total_flops / (work.weights + work.values)

    def test_a_matrix_that_is_shared_by_rows_is_multiplied_for_each(self):
        nodes = [("MatMul", ["a", "b"], "y", {})]
        work = counted(nodes, {"a": [4, 5], "b": [3, 2, 5, 6]}, {"y": [3, 2, 4, 6]})
        assert work.flops == {"float32": 2 * 3 * 2 * 4 * 5 * 6}

    @pytest.mark.parametrize(("turned", "shape"), [(0, [3, 7]), (1, [7, 3])])
    def test_a_gemm_has_the_length_of_its_sums_whether_turned_or_not(self, turned, shape):
        nodes = [("Gemm", ["a", "b", "c"], "y", {"transA": turned, "transB": 1})]
        constants = {"b": np.zeros((11, 7), np.float32), "c": np.zeros(11, np.float32)}
        work = counted(nodes, {"a": shape}, {"y": [3, 11]}, **constants)
        assert work.flops == {"float32": 2 * 3 * 7 * 11}
        assert work.weights == 4 * (7 * 11 + 11)

    def test_a_convolution_multiplies_the_kernel_at_every_place_it_writes(self):
        """[2, 6, 10, 10] by [4, 6, 3, 3], every second place, one value of padding: [2, 4, 5, 5]."""
        nodes = [("Conv", ["x", "w"], "y", {"strides": [2, 2], "pads": [1, 1, 1, 1]})]
        work = counted(
            nodes, {"x": [2, 6, 10, 10]}, {"y": [2, 4, 5, 5]}, w=np.zeros((4, 6, 3, 3), np.float32)
        )
        assert work.flops == {"float32": 2 * 2 * 4 * 5 * 5 * 6 * 3 * 3}

    def test_a_convolution_in_groups_sums_over_its_group_alone(self):
        nodes = [("Conv", ["x", "w"], "y", {"group": 3})]
        work = counted(nodes, {"x": [2, 6, 4, 4]}, {"y": [2, 6, 4, 4]}, w=np.zeros((6, 2, 1, 1), np.float32))
        assert work.flops == {"float32": 2 * 2 * 6 * 4 * 4 * 2}

    def test_attention_without_a_cache_sees_every_position(self):
        """Scores over keys of size 8, the mix of values of size 6; heads of a group share keys."""
        nodes = [("Attention", ["q", "k", "v"], "y", {})]
        shapes = {"q": [3, 4, 5, 8], "k": [3, 2, 9, 8], "v": [3, 2, 9, 6]}
        work = counted(nodes, shapes, {"y": [3, 4, 5, 6]})
        assert work.flops == {"float32": 2 * 3 * 4 * 5 * 9 * (8 + 6)}
        assert (work.cache, work.values) == (0, 4 * 3 * (4 * 5 * 8 + 2 * 9 * 8 + 2 * 9 * 6 + 4 * 5 * 6))
        assert work.other == 3 * 4 * 5 * 9


def cached_attention():
    """New keys and values of two heads go into a cache, and four heads attend to it; ints as they come."""
    float32, int64, boolean = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    shapes = {
        "q": (float32, ["batch", 4, "seq", 8]),
        "k": (float32, ["batch", 2, "seq", 8]),
        "v": (float32, ["batch", 2, "seq", 8]),
        "index": (int64, ["batch"]),
        "mask": (boolean, ["batch", 1, "seq", "max_len"]),
        "past.k": (float32, ["batch", 2, "max_len", 8]),
        "past.v": (float32, ["batch", 2, "max_len", 8]),
    }
    outputs = {"y": (float32, ["batch", 4, "seq", 8])} | {
        f"present.{name}": (float32, ["batch", 2, "max_len", 8]) for name in "kv"
    }
    nodes = [
        helper.make_node("TensorScatter", [f"past.{n}", n, "index"], [f"present.{n}"], axis=2, mode="linear")
        for n in "kv"
    ]
    nodes.append(helper.make_node("Attention", ["q", "present.k", "present.v", "mask"], ["y"]))
    return model(nodes, shapes, outputs)


def grouped_attention():
    """The same in ONNX Runtime's own operator, without rotation."""
    float32, int32 = TensorProto.FLOAT, TensorProto.INT32
    cache = (float32, ["batch", 2, "max_len", 8])
    shapes = {
        "q": (float32, ["batch", "seq", 32]),
        "k": (float32, ["batch", "seq", 16]),
        "v": (float32, ["batch", "seq", 16]),
        "past.0.key": cache,
        "past.0.value": cache,
        "last_index": (int32, ["batch"]),
        "total_length": (int32, [1]),
    }
    outputs = {"y": shapes["q"], "present.0.key": cache, "present.0.value": cache}
    node = helper.make_node(
        "GroupQueryAttention",
        list(shapes),
        list(outputs),
        domain="com.microsoft",
        num_heads=4,
        kv_num_heads=2,
    )
    return model([node], shapes, outputs, helper.make_opsetid("com.microsoft", 1))


def model(nodes, inputs, outputs, *more):
    sides = (
        [helper.make_tensor_value_info(n, *kind) for n, kind in side.items()] for side in (inputs, outputs)
    )
    made = helper.make_graph(nodes, "graph", *sides)
    opsets = [helper.make_opsetid("", 24), *more]
    return helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


class TestCache:
    def test_new_positions_need_those_before_them_and_themselves(self):
        """Three behind five: the first sees 6, the second 7, the third 8 of the cache's 20."""
        work = graph_work(cached_attention(), {"batch": 2, "seq": 3, "max_len": 20}, first=5)
        pair = 2 * 2 * 4 * (8 + 8)
        assert work.flops == {"float32": pair * (6 + 7 + 8)}
        assert work.executed_flops == pair * 3 * 20
        assert work.other == 2 * 4 * (6 + 7 + 8)

    def test_of_the_cache_what_was_there_is_read_and_what_is_new_is_written(self):
        """And with a mask, all that it has is read."""
        work = graph_work(cached_attention(), {"batch": 2, "seq": 3, "max_len": 20}, first=5)
        position = 4 * 2 * 2 * (8 + 8)
        assert work.cache == position * (5 + 3)
        assert work.executed_cache == position * (20 + 3)
        assert work.values == 2 * (4 * 4 * 3 * 8 * 2 + 2 * 4 * 2 * 3 * 8 + 8 + 3 * 20)

    def test_a_whole_cache_that_is_written_at_once_leaves_nothing_unseen_but_the_future(self):
        work = graph_work(cached_attention(), {"batch": 2, "seq": 20, "max_len": 20})
        assert work.executed_flops * 21 == work.total_flops * 2 * 20

    def test_an_operator_that_knows_the_positions_computes_no_others(self):
        sizes = {"batch": 2, "seq": 3, "max_len": 20}
        masked, grouped = (graph_work(c, sizes, first=5) for c in (cached_attention(), grouped_attention()))
        assert grouped.flops == masked.flops
        assert grouped.executed_flops == grouped.total_flops
        assert grouped.cache == grouped.executed_cache == masked.cache
        assert grouped.values == 2 * (4 * 3 * (32 + 16 + 16 + 32) + 4) + 4

    @pytest.mark.parametrize("content", [cached_attention(), grouped_attention()], ids=["masked", "grouped"])
    def test_positions_behind_the_caches_last_are_refused(self, content):
        with pytest.raises(ValueError, match="3 new positions from 18 on, in a cache of 20"):
            graph_work(content, {"batch": 2, "seq": 3, "max_len": 20}, first=18)


class TestBytes:
    def test_of_a_table_the_rows_that_are_looked_up_are_read(self, demo_bundle):
        manifest = demo_bundle.manifest
        work = graph_work(demo_bundle.read(manifest.graphs.embed.file), {"batch": 5, "seq": 1})
        row = 4 * manifest.dimensions.hidden
        assert (work.total_flops, work.weights, work.values) == (0, 5 * row, 5 * (8 + row))

    def test_a_weight_that_several_nodes_read_comes_once(self):
        nodes = [("MatMul", ["x", "w"], "a", {}), ("MatMul", ["a", "w"], "y", {})]
        work = counted(nodes, {"x": [3, 7]}, {"y": [3, 7]}, w=np.zeros((7, 7), np.float32))
        assert work.weights == 4 * 7 * 7

    def test_what_lies_between_nodes_counts_nothing(self):
        nodes = [("Cos", ["x"], "a", {}), ("Sin", ["a"], "b", {}), ("Neg", ["b"], "y", {})]
        work = counted(nodes, {"x": [100]}, {"y": [100]})
        assert (work.total_flops, work.other, work.nbytes) == (0, 300, 4 * 200)

    def test_what_only_moves_computes_nothing(self):
        nodes = [("Transpose", ["x"], "a", {}), ("Concat", ["a", "a"], "y", {"axis": 0})]
        assert counted(nodes, {"x": [2, 3]}, {"y": [6, 2]}).other == 0

    def test_narrow_weights_count_the_bytes_they_are_stored_in(self):
        """4 bits and 8 bits, widened before they meet float32; so the product is one of float32."""
        nodes = [
            ("DequantizeLinear", ["four", "blocks"], "v", {"axis": 0, "block_size": 32}),
            ("MatMul", ["x", "v"], "a", {}),
            ("DequantizeLinear", ["eight", "scales"], "w", {"axis": 1}),
            ("MatMul", ["a", "w"], "y", {}),
        ]
        constants = {
            "four": np.zeros((64, 100), helper.tensor_dtype_to_np_dtype(TensorProto.INT4)),
            "blocks": np.ones((2, 100), np.float32),
            "eight": np.zeros((100, 40), np.int8),
            "scales": np.ones(40, np.float32),
        }
        work = counted(nodes, {"x": [3, 64]}, {"y": [3, 40]}, **constants)
        assert work.weights == 64 * 100 // 2 + 4 * 200 + 100 * 40 + 4 * 40
        assert work.flops == {"float32": 2 * 3 * (64 * 100 + 100 * 40)}

    def test_a_product_of_two_narrow_factors_is_one_of_narrow_numbers(self):
        """Rounded inputs by stored codes, also where they are cast or reshaped between."""
        nodes = [
            ("QuantizeLinear", ["x", "scale", "zero"], "codes", {}),
            ("DequantizeLinear", ["codes", "scale", "zero"], "rounded", {}),
            ("Reshape", ["rounded", "shape"], "rows", {}),
            ("DequantizeLinear", ["stored", "scale"], "w", {}),
            ("MatMul", ["rows", "w"], "a", {}),
            ("MatMul", ["a", "w"], "y", {}),
        ]
        constants = {
            "scale": np.float32(1),
            "zero": np.int8(0),
            "stored": np.zeros((7, 7), np.int8),
            "shape": np.array([6, 7]),
        }
        work = counted(nodes, {"x": [2, 3, 7]}, {"y": [6, 7]}, **constants)
        assert work.flops == {"int8": 2 * 6 * 7 * 7, "float32": 2 * 6 * 7 * 7}


def vision_flops(hidden, wide, layers, *, patches, patch, text):
    """A tower with a class token that no feature is made of, and a projector of two layers."""
    positions = patches + 1
    layer = positions * (4 * hidden**2 + 2 * hidden * wide) + 2 * positions**2 * hidden
    return 2 * (patches * 3 * patch**2 * hidden + layers * layer + patches * (hidden * text + text**2))


def decoder_flops(hidden, wide, layers, *, heads, vocabulary, new, pairs):
    """Attention over so many pairs of positions; behind the last one's only the last position goes on."""
    heads, kv_heads = heads
    attended = new * (hidden**2 + 2 * hidden**2 * kv_heads // heads)
    rest = hidden**2 + 3 * hidden * wide
    angles = new * hidden // heads // 2
    mixed = layers * (attended + 2 * pairs * hidden) + ((layers - 1) * new + 1) * rest
    return 2 * (mixed + angles + hidden * vocabulary)


def test_llava_7b_is_the_work_that_is_published_of_it():
    """By the sums that the demo's graphs are held to: 0.38 TFLOP an image, and 8.3 for 616 positions.

    The latter with every position through the last layer, the head and the whole mask, which the graphs
    spare: 7.9 are left. Tracing all 32 layers without weights gave these very numbers: 390,193,049,600 and
    7,891,321,435,136.
    """
    image = vision_flops(1024, 4096, 23, patches=576, patch=14, text=4096)
    assert image == 390_193_049_600 == pytest.approx(0.38e12, rel=0.03)
    llama = partial(decoder_flops, 4096, 11008, 32, heads=(32, 32), new=616)
    needed = llama(vocabulary=32064, pairs=616 * 617 // 2)
    assert needed == 7_891_321_435_136
    last_layer = 615 * 2 * (4096**2 + 3 * 4096 * 11008)
    whole = llama(vocabulary=616 * 32064, pairs=616**2) + last_layer
    assert whole == pytest.approx(8.3e12, rel=0.01)


class TestDemo:
    """Hidden 128, intermediate 320, 3 layers, 37 positions; then 96, 256, 2 layers, 4 heads over 2."""

    def test_the_vision_graph_is_the_towers_architecture(self, demo_bundle):
        work = graph_work(demo_bundle.read("vision.onnx"), {"batch": 1})
        assert work.flops == {"float32": vision_flops(128, 320, 3, patches=36, patch=16, text=96)}

    def test_the_decoder_computes_the_last_layer_for_the_last_position_behind_its_attention(
        self, demo_bundle
    ):
        """40 new positions behind 3, in a cache of 50."""
        new, first = 40, 3
        work = graph_work(demo_bundle.read("decoder.onnx"), {"batch": 1, "seq": new, "max_len": 50}, first)
        seen = sum(range(first + 1, first + new + 1))
        llama = partial(decoder_flops, 96, 256, 2, heads=(4, 2), vocabulary=96, new=new)
        assert work.flops == {"float32": llama(pairs=seen)}
        assert work.executed_flops == llama(pairs=new * 50)
        assert work.cache == (first + new) * 2 * 2 * 48 * 4

    def test_rows_share_the_weights_and_nothing_else(self, demo_bundle):
        one, many = (
            graph_work(demo_bundle.read("decoder.onnx"), {"batch": rows, "seq": 1, "max_len": 50}, 42)
            for rows in (1, 25)
        )
        assert many.weights == one.weights
        assert many.total_flops == 25 * one.total_flops
        assert many.values == 25 * one.values
        assert many.cache == 25 * one.cache
