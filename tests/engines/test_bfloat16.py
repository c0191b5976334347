"""bfloat16 on the processor: bits and numbers, and every operator's result rounded where a GPU rounds it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgers_engines import bfloat16
from edgers_engines.graph_record import held_as
from edgers_engines.onnx_graph import read_graph
from edgers_engines.plain_operators import PLAIN, plain

BFLOAT16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)  # out of ml_dtypes, an independent one
TYPE = TensorProto.BFLOAT16


def graph(nodes, inputs, outputs, constants):
    """ONNX bytes; inputs and outputs by name: (type, shape)."""
    made = helper.make_graph(
        [helper.make_node(operator, reads, [writes], **more) for operator, reads, writes, more in nodes],
        "graph",
        *(
            [helper.make_tensor_value_info(name, *kind) for name, kind in side.items()]
            for side in (inputs, outputs)
        ),
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    return model.SerializeToString()


def rounded(numbers):
    """To the nearest bfloat16, back in float32."""
    return np.asarray(numbers, np.float32).astype(BFLOAT16).astype(np.float32)


def ask(content, outputs, **inputs):
    """What ONNX Runtime computes on the processor, of bfloat16 numbers: their bits."""
    session = onnxruntime.InferenceSession(content)
    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
    for name, array in inputs.items():
        kind = TYPE if array.dtype == np.uint16 else TensorProto.INT64
        binding.bind_ortvalue_input(name, value(array, kind))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, value(array, TYPE))
    session.run_with_iobinding(binding)


def test_every_pattern_of_bits_is_the_number_that_it_stands_for():
    every = np.arange(1 << 16, dtype=np.uint16)
    assert np.array_equal(bfloat16.floats(every), every.view(BFLOAT16).astype(np.float32), equal_nan=True)
    assert held_as("bfloat16") == np.uint16
    assert held_as("float16") == np.float16


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e4, -1e4, 3e38])
def test_the_bits_of_a_number_are_those_of_one_next_to_it(value):
    found = float(bfloat16.floats(np.array(bfloat16.bits(value), np.uint16)))
    assert abs(found - value) <= abs(value) / 128
    assert abs(found) <= abs(value)


def test_half_precision_is_widened_by_its_own_type():
    assert bfloat16.floats(np.array([1.5], np.float16)).tolist() == [1.5]


def test_each_result_is_rounded_and_the_next_operator_gets_the_rounded_one():
    """Computed in one go in float32, the sum and the product would come out otherwise."""
    rng = np.random.default_rng(1)
    x, weight, bias = (rng.standard_normal(shape).astype(BFLOAT16) for shape in ((5, 8), (8, 8), (8,)))
    content = graph(
        [
            ("MatMul", ["x", "w"], "a", {}),
            ("Add", ["a", "b"], "c", {}),
            ("Mul", ["c", "a"], "y", {}),
        ],
        {"x": (TYPE, ["batch", 8])},
        {"y": (TYPE, ["batch", 8])},
        {"w": weight, "b": bias},
    )
    read_graph(content)
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        onnxruntime.InferenceSession(content)
    found = np.empty((5, 8), np.uint16)
    ask(bfloat16.through_float32(content), {"y": found}, x=x.view(np.uint16))
    a = rounded(x.astype(np.float32) @ weight.astype(np.float32))
    want = rounded(rounded(a + bias.astype(np.float32)) * a)
    assert np.array_equal(bfloat16.floats(found), want)
    exact = x.astype(np.float32) @ weight.astype(np.float32)
    assert not np.array_equal(want, rounded((exact + bias.astype(np.float32)) * exact))


def test_what_moves_numbers_stays_as_it_is_and_the_cache_is_written_in_place():
    nodes = [
        ("TensorScatter", ["past", "new", "index"], "present", {"axis": 2, "mode": "linear"}),
        ("Sigmoid", ["present"], "y", {}),
    ]
    cache = (TYPE, ["batch", 1, "max_len", 2])
    content = bfloat16.through_float32(
        graph(
            nodes,
            {"past": cache, "new": (TYPE, ["batch", 1, "seq", 2]), "index": (TensorProto.INT64, ["batch"])},
            {"present": cache, "y": cache},
            {},
        )
    )
    operators = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert operators == ["TensorScatter", "Cast", "Sigmoid", "Cast"]
    past = np.zeros((2, 1, 4, 2), np.uint16)
    new = np.full((2, 1, 1, 2), bfloat16.bits(3.0), np.uint16)
    out = np.empty_like(past)
    ask(content, {"present": past, "y": out}, past=past, new=new, index=np.array([1, 3]))
    written = bfloat16.floats(past)
    assert written[0, 0, 1].tolist() == written[1, 0, 3].tolist() == [3.0, 3.0]
    assert written.sum() == 4 * 3.0
    assert np.array_equal(bfloat16.floats(out), rounded(1 / (1 + np.exp(-written))))


def test_a_value_is_cast_once_and_a_graph_without_bfloat16_is_left_alone():
    nodes = [("Neg", ["x"], "a", {}), ("Mul", ["x", "a"], "b", {}), ("Add", ["a", "b"], "y", {})]
    kind = {"x": (TYPE, ["batch", 2])}
    content = bfloat16.through_float32(graph(nodes, kind, {"y": (TYPE, ["batch", 2])}, {}))
    casts = [node.input[0] for node in onnx.load_from_string(content).graph.node if node.op_type == "Cast"]
    assert sorted(casts) == sorted(set(casts))
    assert len(casts) == 3 + 3  # x, a, b to float32, and three results back
    plain = graph(nodes, {"x": (TensorProto.FLOAT, [2])}, {"y": (TensorProto.FLOAT, [2])}, {})
    assert bfloat16.through_float32(plain) == plain


def test_names_that_the_graph_has_already_are_not_made_again():
    """Each of the places that may have one."""
    nodes = [
        ("Mul", ["x", "float32.1"], "float32.0", {}),
        ("Add", ["float32.0", "float32.3"], "y", {}),
    ]
    kind = (TYPE, ["batch", 4])
    weight = np.array([1, 2, 3, 4], np.float32).astype(BFLOAT16)
    content = graph(nodes, {"x": kind, "float32.3": kind}, {"y": kind}, {"float32.1": weight})
    model = onnx.load_from_string(content)
    model.graph.value_info.append(helper.make_tensor_value_info("float32.2", *kind))
    made = bfloat16.through_float32(model.SerializeToString())
    found = [name for node in onnx.load_from_string(made).graph.node for name in node.output]
    assert len(set(found)) == len(found)
    assert set(found).isdisjoint({"x", *(f"float32.{number}" for number in (1, 2, 3))})
    x = np.full((2, 4), bfloat16.bits(3.0), np.uint16)
    y = np.empty_like(x)
    ask(made, {"y": y}, **{"x": x, "float32.3": x})
    assert bfloat16.floats(y).tolist() == 2 * [[6, 9, 12, 15]]


def test_operators_that_are_written_out_take_no_name_that_there_is():
    nodes = [
        ("Neg", ["x"], "plain.0", {}),
        ("RMSNormalization", ["plain.0", "w"], "y", {}),
    ]
    kind = (TensorProto.FLOAT, ["batch", 4])
    content = graph(nodes, {"x": kind}, {"y": kind}, {"w": np.ones(4, np.float32)})
    made = plain(content, {"batch": 2}, PLAIN)
    x = np.array([[1, 2, 3, 4]], np.float32)
    want, found = (onnxruntime.InferenceSession(c).run(None, {"x": x})[0] for c in (content, made))
    np.testing.assert_allclose(found, want, rtol=1e-6)
