"""ONNX graphs: what one asks for is read without a runtime; what is not on the lists never reaches one."""

import pickle
import tracemalloc

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper

from edgers import demo
from edgers_engines import onnx_schema as schema
from edgers_engines.onnx_graph import ExternalTensor, GraphFacts, Value, read_graph
from edgers_engines.protobuf import Kind

OPSET = helper.make_opsetid("", 24)
TYPES = helper.make_tensor_value_info
EXTERNAL = {"location": "weights.bin", "offset": "64", "length": "24"}


def point_outside(tensor, **entries):
    """Make a tensor's data external; None leaves a key out."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in {**EXTERNAL, **entries}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)


def sample():
    """A model with every message that is allowed: three dtypes, a Constant, external data, notes."""
    nodes = [
        helper.make_node("Constant", [], ["two"], name="c", value=numpy_helper.from_array(np.float32(2), "")),
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Where", ["mask", "product", "two"], ["masked"]),
        helper.make_node("Clip", ["masked", "", "two"], ["clipped"]),
        helper.make_node("Gemm", ["clipped", "square"], ["y"], alpha=0.5, transB=1, doc_string="note"),
        helper.make_node("Cast", ["y"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Constant", [], ["ints"], value_ints=[1, -2, 3]),
        helper.make_node("Constant", [], ["floats"], value_floats=[0.5, 1.5]),
        helper.make_node("Resize", ["y", "", "floats"], ["z"], mode="linear"),
    ]
    weight = numpy_helper.from_array(np.zeros((2, 3), np.float32), "weight")
    square = numpy_helper.from_array(np.eye(3, dtype=np.float32), "square")
    graph = helper.make_graph(
        nodes,
        "main",
        [TYPES("x", TensorProto.FLOAT, ["batch", 2]), TYPES("mask", TensorProto.BOOL, ["batch", 3])],
        [TYPES("half", TensorProto.FLOAT16, ["batch", 3]), TYPES("ints", TensorProto.INT64, [None])],
        [weight, square],
        value_info=[TYPES("product", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[OPSET], ir_version=10, producer_name="tests")
    point_outside(graph_tensor(model))
    for noted in (model, model.graph, model.graph.node[0], model.graph.input[0], model.graph.initializer[1]):
        noted.metadata_props.add(key="note", value="α")
    return model


def graph_tensor(model):
    return model.graph.initializer[0]


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def delimited(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def test_a_graph_of_all_that_is_allowed_is_read_in_full():
    facts = read_graph(sample().SerializeToString())
    assert facts == GraphFacts(
        opset=24,
        ir_version=10,
        operators=frozenset({"Constant", "MatMul", "Where", "Clip", "Gemm", "Cast", "Resize"}),
        external=(ExternalTensor("weight", "float32", (2, 3), "weights.bin", 64, 24),),
        input_values=(Value("x", "float32", ("batch", 2)), Value("mask", "bool", ("batch", 3))),
        output_values=(Value("half", "float16", ("batch", 3)), Value("ints", "int64", ("",))),
    )
    assert facts.inputs == ("x", "mask")
    assert facts.outputs == ("half", "ints")


def edited(edit):
    """The sample model's bytes after `edit` changed it."""

    def make():
        model = sample()
        edit(model)
        return model.SerializeToString()

    return make


def appended(extra):
    """The sample model's bytes and some more."""
    return lambda: sample().SerializeToString() + extra


def in_graph(extra):
    """The sample model with more bytes in its graph, as protobuf would not write them."""

    def make():
        model = sample()
        graph = model.graph.SerializeToString()
        model.ClearField("graph")
        return model.SerializeToString() + delimited(7, graph + extra)

    return make


def on_graph(edit):
    return edited(lambda model: edit(model.graph))


def with_node(operator, inputs=("x",), **more):
    return on_graph(lambda graph: graph.node.append(helper.make_node(operator, inputs, ["out"], **more)))


def with_attribute(**fields):
    """A Relu with an attribute of these raw fields."""

    def edit(graph):
        graph.node.add(op_type="Relu", input=["x"], output=["out"]).attribute.add(**fields)

    return on_graph(edit)


def with_tensor(**fields):
    """One more initializer, of these raw fields."""
    return on_graph(lambda graph: graph.initializer.add(**{"name": "t", "data_type": 1, **fields}))


def external(**entries):
    return edited(lambda model: point_outside(graph_tensor(model), **entries))


def with_input(**fields):
    """One more input, of these raw fields."""
    return on_graph(lambda graph: graph.input.add(name="i", **fields))


def tensor_type(**fields):
    return helper.make_tensor_type_proto(1, [2]) if not fields else onnx.TypeProto(**fields)


def set_versions(model, *, opset=24, ir=10):
    model.opset_import[0].version = opset
    model.ir_version = ir


def big_dimension(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1


BRANCH = helper.make_graph([], "branch", [], [])
TENSOR = numpy_helper.from_array(np.zeros(1, np.float32), "t")
ALSO = onnx.StringStringEntryProto(key="location", value="other.bin")

HOSTILE = {
    # the wire format
    "an empty file": (lambda: b"", "model.ir_version is 0; 7 to 13"),
    "a text": (lambda: b"import os\n", "field of number 13, which is not one"),
    "a pickle": (
        lambda: pickle.dumps({"a": 1}),
        "which is not one of those allowed|ends inside|bytes by its own",
    ),
    "half a graph": (
        lambda: sample().SerializeToString()[:400],
        "model.graph has .* bytes by its own account",
    ),
    "a graph cut inside a number": (appended(b"\x28"), "model.model_version ends inside a number"),
    "a key cut off": (appended(b"\x80"), "model ends inside a number"),
    "a trailing null": (appended(b"\0"), "model has a field of number 0"),
    "an unknown field": (appended(b"\x98\x06\x01"), "model has a field of number 99"),
    "a group": (appended(b"\x3b\x3c"), "model.graph is wire type 3; expected a run of bytes"),
    "an end of a group": (appended(b"\x3c"), "model.graph is wire type 4"),
    "a text where a number belongs": (
        appended(b"\x0a\x01a"),
        "ir_version is a run of bytes; expected a number",
    ),
    "8 bytes where a text belongs": (
        appended(b"\x11" + bytes(8)),
        "producer_name is 8 bytes; expected a run",
    ),
    "a number of 11 bytes": (
        appended(b"\x28" + b"\xff" * 10 + b"\1"),
        "model_version holds .* more than 64 bits",
    ),
    "a number of 65 bits": (
        appended(b"\x28" + b"\xff" * 9 + b"\2"),
        "model_version holds .* more than 64 bits",
    ),
    "a padded number": (
        appended(b"\x28\x81\0"),
        "model_version holds a number that is longer than its shortest",
    ),
    "a padded key": (appended(b"\xa8\0\1"), "model holds a number that is longer than its shortest"),
    "a length past the end": (
        appended(b"\x32\x7fabc"),
        "doc_string has 127 bytes by its own account, 3 are left",
    ),
    "a length of 2**63": (appended(b"\x32" + varint(1 << 63)), "doc_string has 9223372036854775808 bytes"),
    "two versions": (appended(b"\x08\x0a"), "model.ir_version occurs more than once"),
    "two graphs": (appended(delimited(7, b"")), "model.graph occurs more than once"),
    "text that is not UTF-8": (appended(delimited(6, b"a\xff")), r"doc_string is not UTF-8 .* byte 1"),
    "half a surrogate": (appended(delimited(6, b"\xed\xa0\x80")), "doc_string is not UTF-8"),
    "an overlong slash": (appended(delimited(6, b"\xc0\xaf")), "doc_string is not UTF-8"),
    "a null character": (appended(delimited(6, b"a\0b")), "doc_string holds a null character"),
    "packed dimensions": (
        in_graph(delimited(5, delimited(1, b"\1\2"))),
        "dims is a run of bytes; expected a num",
    ),
    "too many nodes": (
        in_graph(delimited(1, b"") * (schema.MAX_NODES + 1)),
        "node occurs more than 200000 times",
    ),
    "too many initializers": (in_graph(b"\x2a\0" * (schema.MAX_INITIALIZERS + 1)), "more than 100000 times"),
    # the model
    "the mark of another format": (lambda: b"\x08\x0a\x12\x08ORTMxxxx", "mark of ONNX Runtime's own format"),
    "no graph": (edited(lambda m: m.ClearField("graph")), "model has no graph"),
    "functions": (edited(lambda m: m.functions.add(name="f")), "model has functions, which is not allowed"),
    "training": (edited(lambda m: m.training_info.add()), "model has training_info, which is not allowed"),
    "sharding": (edited(lambda m: m.configuration.add()), "model has configuration, which is not allowed"),
    "no operator set": (edited(lambda m: m.ClearField("opset_import")), "model has no opset_import"),
    "two operator sets": (
        edited(lambda m: m.opset_import.add(domain="x")),
        "opset_import occurs more than once",
    ),
    "a foreign operator set": (
        edited(lambda m: setattr(m.opset_import[0], "domain", "com.microsoft")),
        r"model.opset_import asks for the operator domain 'com.microsoft'; only the standard one",
    ),
    "the long name of the standard domain": (
        edited(lambda m: setattr(m.opset_import[0], "domain", "ai.onnx")),
        "operator domain 'ai.onnx'",
    ),
    "an old opset": (edited(lambda m: set_versions(m, opset=12)), "opset_import.version is 12; 13 to 26"),
    "a future opset": (edited(lambda m: set_versions(m, opset=27)), "opset_import.version is 27; 13 to 26"),
    "a negative opset": (edited(lambda m: set_versions(m, opset=-24)), "opset_import.version is -24"),
    "an old IR": (edited(lambda m: set_versions(m, ir=3)), "model.ir_version is 3; 7 to 13"),
    "a future IR": (edited(lambda m: set_versions(m, ir=14)), "model.ir_version is 14; 7 to 13"),
    "an IR that 32 bits would cut to 10": (edited(lambda m: set_versions(m, ir=10 + 2**32)), "is 4294967306"),
    "settings of a session": (
        edited(lambda m: m.metadata_props.add(key="ort_config", value="{}")),
        "ort_config, which sets a runtime's options",
    ),
    "a note twice": (edited(lambda m: m.metadata_props.add(key="note")), "metadata_props has a key twice"),
    # nodes
    "a foreign operator": (
        with_node("Gelu", domain="com.microsoft"),
        r"graph.node\[9\] asks for the operator domain 'com.microsoft'",
    ),
    "a machine learning operator": (with_node("Scaler", domain="ai.onnx.ml"), "operator domain 'ai.onnx.ml'"),
    "the standard domain's long name": (with_node("Relu", domain="ai.onnx"), "operator domain 'ai.onnx'"),
    "no operator": (with_node(""), "asks for the operator '', which is not one of those allowed"),
    "an operator in other letters": (with_node("relu"), "asks for the operator 'relu'"),
    **{
        operator: (with_node(operator), rf"graph.node\[9\] asks for the operator '{operator}'")
        for operator in (
            *(
                "If",
                "Loop",
                "Scan",
                "RandomNormal",
                "RandomUniformLike",
                "Bernoulli",
                "Multinomial",
                "Dropout",
            ),
            *(
                "BatchNormalization",
                "DynamicQuantizeLinear",
                "StringConcat",
                "SequenceAt",
                "Optional",
                "NonZero",
            ),
            *("Unique", "ScatterND", "EPContext", "ImageDecoder"),
        )
    },
    "an overload": (with_node("Relu", overload="x"), "has overload, which is not allowed"),
    "a device": (
        on_graph(lambda g: g.node[0].device_configurations.add()),
        "has device_configurations, which is not allowed",
    ),
    # attributes
    "a subgraph": (with_node("Relu", then_branch=BRANCH), r"has g \(a subgraph\), which is not allowed"),
    "subgraphs": (with_node("Relu", branches=[BRANCH]), r"has graphs \(subgraphs\), which is not allowed"),
    "the type of a subgraph": (with_attribute(name="a", type=AttributeProto.GRAPH), r"\(Relu\) has type 5;"),
    "no type": (with_attribute(name="a", i=1), r"attribute\[0\] \(Relu\) has type 0; allowed are 1 f, 2 i"),
    "a type and another value": (with_attribute(name="a", type=2, f=1), "has type 2 and holds f; .* holds i"),
    "a type and two values": (with_attribute(name="a", type=2, f=1, i=1), "has type 2 and holds f, i"),
    "a type and no value": (with_attribute(name="a", type=2), "has type 2 and holds nothing"),
    "a list of another type": (with_attribute(name="a", type=7, floats=[1]), "has type 7 and holds floats"),
    "a reference": (with_attribute(name="a", type=2, ref_attr_name="b"), "has ref_attr_name, which is not"),
    "texts": (with_node("Constant", (), value_strings=["a"]), "has strings, which is not allowed"),
    "tensors": (with_node("Relu", a=[TENSOR]), "has tensors, which is not allowed"),
    "a type as attribute": (with_attribute(type=13, tp=tensor_type()), r"has tp \(a type\), which is not"),
    "a sparse tensor": (
        with_attribute(type=11, sparse_tensor=onnx.SparseTensorProto()),
        "has sparse_tensor, which is not allowed",
    ),
    "an attribute twice": (
        on_graph(lambda g: g.node[4].attribute.append(g.node[4].attribute[0])),
        r"graph.node\[4\] \(Gemm\) has an attribute twice",
    ),
    "many attributes": (
        on_graph(lambda g: [g.node[0].attribute.add() for _ in range(64)]),
        r"node\[0\].attribute occurs more than 64 times",
    ),
    "a constant text": (with_node("Constant", (), value_string="a"), "is a Constant of text"),
    "a cast to text": (
        with_node("Cast", to=TensorProto.STRING),
        "has the element type 8; allowed are 1 float32",
    ),
    "a cast that 32 bits would cut": (with_node("Cast", to=2**32 + 1), "has the element type 4294967297"),
    "an external constant": (
        on_graph(lambda g: point_outside(g.node[0].attribute[0].t, length="4")),
        r"node\[0\].attribute\[0\].t asks for data in another place \(data_location 1\)",
    ),
    # tensors
    "a tensor of text": (with_tensor(data_type=8), r"initializer\[2\] has the element type 8"),
    "a tensor of complex numbers": (with_tensor(data_type=14), "has the element type 14"),
    "a tensor of 8-bit floats of another kind": (with_tensor(data_type=18, raw_data=b"\0"), "type 18"),
    "a tensor of 4-bit numbers without a sign": (
        with_tensor(data_type=21, raw_data=b"\0"),
        "has the element type 21",
    ),
    "too few 4-bit numbers": (
        with_tensor(data_type=22, dims=[5], raw_data=bytes(2)),
        r"has 2 bytes; int4\[5\] has 3",
    ),
    "too many 4-bit numbers": (
        with_tensor(data_type=22, dims=[5], raw_data=bytes(5)),
        r"has 5 bytes; int4\[5\] has 3",
    ),
    # quantization: a scale that is computed may be a whole batch's
    "an input as scale": (
        with_node("DequantizeLinear", ("square", "x")),
        r"node\[9\] \(DequantizeLinear\) computes its scale or zero point 'x'; only stored ones",
    ),
    "a computed scale": (
        with_node("DequantizeLinear", ("square", "two")),
        "computes its scale or zero point 'two'",
    ),
    "a rounding by a computed scale": (
        with_node("QuantizeLinear", ("x", "two", "square")),
        r"\(QuantizeLinear\) computes its scale or zero point 'two'",
    ),
    "a computed zero point": (
        with_node("DequantizeLinear", ("square", "square", "two")),
        "computes its scale or zero point 'two'",
    ),
    "a tensor of nothing": (with_tensor(data_type=0), "has the element type 0"),
    "a dtype that 32 bits would cut to 1": (
        in_graph(delimited(5, delimited(8, b"t") + b"\x10" + varint(2**32 + 1) + delimited(9, bytes(4)))),
        "has the element type 4294967297",
    ),
    "typed data": (with_tensor(float_data=[1]), "has float_data, which is not allowed"),
    "text data": (with_tensor(string_data=[b"a"]), "has string_data, which is not allowed"),
    "a segment": (
        with_tensor(segment=TensorProto.Segment(begin=0)),
        "has segment, which is not allowed",
    ),
    "too few bytes": (with_tensor(dims=[2], raw_data=bytes(7)), r"\[2\] has 7 bytes; float32\[2\] has 8"),
    "too many bytes": (with_tensor(dims=[2], raw_data=bytes(9)), r"\[2\] has 9 bytes; float32\[2\] has 8"),
    "no bytes": (with_tensor(dims=[2]), r"has 0 bytes; float32\[2\] has 8"),
    "a negative dimension": (with_tensor(dims=[-2, -2], raw_data=bytes(16)), r"has the shape \(-2, -2\)"),
    "a huge dimension": (with_tensor(dims=[1 << 62, 4]), "0 to 2\\*\\*48 - 1 elements are allowed"),
    "a huge dimension behind a zero": (with_tensor(dims=[0, 1 << 48]), "2\\*\\*48 - 1 elements are allowed"),
    "seventeen dimensions": (with_tensor(dims=[1] * 17, raw_data=bytes(4)), "dims occurs more than 16 times"),
    "a sparse initializer": (
        on_graph(lambda g: g.sparse_initializer.add()),
        "has sparse_initializer, which is",
    ),
    "a quantization": (
        on_graph(lambda g: g.quantization_annotation.add()),
        "has quantization_annotation, wh",
    ),
    # external data
    **{
        f"external {key} {value!r}": (external(**{key: value}), message)
        for key, values, message in (
            (
                "location",
                (
                    *(
                        "",
                        ".",
                        "..",
                        "../w.bin",
                        "/etc/passwd",
                        "a/w.bin",
                        r"a\w.bin",
                        "C:w.bin",
                        ".w.bin",
                        "-w",
                    ),
                    *("w.bin\n", "w bin", "wéights", "w" * 101, "*/_ORT_MEM_ADDR_/*", "file:w", "~w"),
                ),
                r"initializer\[0\].external_data has the location .*; a plain file name of at most 100",
            ),
            ("location", ("w\0.bin",), "value holds a null character"),
            (
                "offset",
                ("", "-64", "+64", " 64", "64\n", "0x40", "6_4", "64.0", "6e1", "064", "٦٤", "²", str(2**50)),
                "external_data has the offset .*; decimal digits, below 2",
            ),
            ("length", ("", "-24", "024", "9" * 5000, str(2**64 + 24)), "has the length .*; decimal digits"),
            ("length", ("0", "20", "25", str(2**50 - 1)), r"bytes; float32\[2, 3\] has 24"),
            ("offset", ("1", "62"), "external_data begins at .*, not at a multiple of a float32's size"),
            *((key, (None,), "exactly length, location, offset are allowed") for key in EXTERNAL),
            ("checksum", ("0" * 40,), "has the keys .*'checksum'.*; exactly length, location, offset"),
            ("", ("",), "exactly length, location, offset are allowed"),
        )
        for value in values
    },
    "two external locations": (
        edited(lambda m: graph_tensor(m).external_data.append(ALSO)),
        r"has the keys \['location', 'offset', 'length', 'location'\]; exactly",
    ),
    "an external entry with two values": (
        in_graph(delimited(5, b"\x10\1\x70\1" + delimited(8, b"t") + delimited(13, delimited(2, b"a") * 2))),
        r"external_data\[0\].value occurs more than once",
    ),
    "external and inline data": (
        edited(lambda m: setattr(graph_tensor(m), "raw_data", bytes(24))),
        "has raw_data and external data",
    ),
    "external and empty inline data": (
        edited(lambda m: setattr(graph_tensor(m), "raw_data", b"")),
        "has raw_data and external data",
    ),
    "external data of an inline tensor": (
        edited(lambda m: m.graph.initializer[1].external_data.append(ALSO)),
        r"initializer\[1\] asks for data in another place \(data_location 0\)",
    ),
    "an unknown data location": (
        in_graph(delimited(5, b"\x10\1\x70\2" + delimited(8, b"t"))),
        r"asks for data in another place \(data_location 2\)",
    ),
    "an empty external tensor": (
        on_graph(lambda g: point_outside(g.initializer.add(name="e", data_type=1, dims=[0]), length="0")),
        "more than 0 are expected",
    ),
    # names
    "an initializer twice": (
        on_graph(lambda g: g.initializer.append(g.initializer[1])),
        "'square' a second time",
    ),
    "an initializer that is an input": (with_tensor(name="x", raw_data=bytes(4)), "'x' a second time"),
    "an initializer without a name": (with_tensor(name="", raw_data=bytes(4)), "has an empty name"),
    "an input twice": (
        on_graph(lambda g: g.input.append(g.input[0])),
        "graph.input defines 'x' a second time",
    ),
    "an output of two nodes": (on_graph(lambda g: g.node.append(g.node[1])), "'product' a second time"),
    "a value from nowhere": (
        with_node("Relu", ("outer",)),
        r"node\[9\] \(Relu\) uses 'outer', which nothing",
    ),
    "a cycle": (
        with_node("Relu", ("out",)),
        r"node\[9\] \(Relu\) uses 'out', which nothing before it defines",
    ),
    "an output from nowhere": (
        on_graph(lambda g: setattr(g.output[0], "name", "o")),
        "graph.output uses 'o'",
    ),
    "an output twice": (on_graph(lambda g: g.output.append(g.output[0])), "graph.output lists 'half' twice"),
    # inputs and outputs
    "an input without a type": (with_input(), r"graph.input\[2\] has no type"),
    "an input of no type": (with_input(type=onnx.TypeProto()), r"input\[2\].type has no tensor_type"),
    "a sequence": (
        with_input(type=tensor_type(sequence_type=onnx.TypeProto.Sequence())),
        "has sequence_type, which is not allowed",
    ),
    "an input of text": (with_input(type=helper.make_tensor_type_proto(8, [1])), "has the element type 8"),
    "an input of any shape": (
        with_input(type=helper.make_tensor_type_proto(1, None)),
        r"\('i'\) has no shape",
    ),
    "a value of text": (on_graph(lambda g: g.value_info.append(TYPES("product", 8, [1]))), "element type 8"),
    "a negative size": (edited(big_dimension), r"input\[0\].type.tensor_type.shape.dim\[1\] is -1; 0 to 2"),
    "a dimension with two meanings": (
        in_graph(
            delimited(
                13, delimited(2, delimited(1, b"\x08\1" + delimited(2, delimited(1, b"\x08\2\x12\1n"))))
            )
        ),
        "has a number and a name",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_graph_is_refused_by_one_line_that_says_why(case):
    make, message = HOSTILE[case]
    with pytest.raises(ValueError, match=message) as caught:
        read_graph(make())
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def places(message, path=()):
    """The first message of each kind at each place in a message, as steps from it."""
    yield path
    for field, value in message.ListFields():
        if field.message_type is not None:
            first = value[0] if field.is_repeated else value
            yield from places(first, (*path, field.name))
    if isinstance(message, onnx.GraphProto):
        yield from places(message.initializer[1], (*path, "initializer:1"))


def at(message, path):
    for step in path:
        name, _, index = step.partition(":")
        message = getattr(message, name)
        if not hasattr(message, "ListFields"):
            message = message[int(index or 0)]
    return message


@pytest.mark.parametrize("path", list(places(sample())), ids=lambda path: ".".join(path) or "model")
def test_an_unknown_field_is_refused_wherever_it_hides(path):
    model = sample()
    at(model, path).MergeFromString(b"\x98\x06\x01")  # protobuf keeps what it does not know
    content = model.SerializeToString()
    assert len(content) > len(sample().SerializeToString())
    with pytest.raises(ValueError, match="has a field of number 99"):
        read_graph(content)


MESSAGES = {
    onnx.ModelProto: schema.MODEL,
    onnx.GraphProto: schema.GRAPH,
    onnx.NodeProto: schema.NODE,
    onnx.AttributeProto: schema.ATTRIBUTE,
    onnx.TensorProto: schema.TENSOR,
    onnx.ValueInfoProto: schema.VALUE,
    onnx.TypeProto: schema.TYPE,
    onnx.TypeProto.Tensor: schema.TENSOR_TYPE,
    onnx.TensorShapeProto: schema.SHAPE,
    onnx.TensorShapeProto.Dimension: schema.DIMENSION,
    onnx.OperatorSetIdProto: schema.OPERATOR_SET,
    onnx.StringStringEntryProto: schema.ENTRY,
}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.DESCRIPTOR.name)
def test_the_tables_agree_with_the_fields_of_onnx(message):
    tables = {kind.DESCRIPTOR: table for kind, table in MESSAGES.items()}
    for number, field in MESSAGES[message].items():
        official = message.DESCRIPTOR.fields_by_number[number]
        assert field.name.split()[0] == official.name
        if field.kind is Kind.REFUSED:
            continue
        kinds = {
            official.TYPE_MESSAGE: Kind.MESSAGE,
            official.TYPE_FLOAT: Kind.FLOAT,
            official.TYPE_STRING: Kind.TEXT,
            official.TYPE_BYTES: Kind.BYTES if field.name == "raw_data" else Kind.TEXT,
        }
        assert field.kind is kinds.get(official.type, Kind.INTEGER)
        assert official.is_repeated or field.most == 1
        assert field.schema is (tables[official.message_type] if field.kind is Kind.MESSAGE else None)


def test_the_allowed_operators_are_standard_deterministic_and_without_subgraphs():
    for operator in schema.OPERATORS:
        official = defs.get_schema(operator, 24)
        assert not official.deprecated
        assert official.node_determinism is not defs.OpSchema.NodeDeterminism.NonDeterministic
        assert all(
            a.type not in (defs.OpSchema.AttrType.GRAPH, defs.OpSchema.AttrType.GRAPHS)
            for a in official.attributes.values()
        )


def test_the_data_types_are_those_of_onnx_and_numpy():
    for number, (name, bits) in schema.DTYPES.items():
        official = helper.tensor_dtype_to_np_dtype(number)
        assert (official.name, official.itemsize) == (name, max(bits // 8, 1))
        packed = numpy_helper.from_array(np.ones(8, official), "eight").raw_data
        assert len(packed) == bits


def test_numbers_of_4_bits_share_bytes_and_lie_anywhere():
    model = sample()
    model.graph.initializer.add(name="five", data_type=TensorProto.INT4, dims=[5], raw_data=bytes(3))
    outside = model.graph.initializer.add(name="outside", data_type=TensorProto.INT4, dims=[3, 3])
    point_outside(outside, offset="7", length="5")
    model.graph.node.append(helper.make_node("DequantizeLinear", ["outside", "square"], ["wide"]))
    facts = read_graph(model.SerializeToString())
    assert facts.external[-1] == ExternalTensor("outside", "int4", (3, 3), "weights.bin", 7, 5)
    assert "DequantizeLinear" in facts.operators


@pytest.mark.parametrize("name", [name for name, bits in schema.DTYPES.values() if bits >= 8])
def test_a_tensor_of_every_allowed_type_passes(name):
    model = sample()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 0, 3), name), "empty"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 3), name), "full"))
    outside = model.graph.initializer.add(
        name="outside", data_type=helper.np_dtype_to_tensor_dtype(np.dtype(name))
    )
    outside.dims.extend([2, 3])
    size = np.dtype(name).itemsize
    point_outside(outside, offset=str(10 * size), length=str(6 * size))
    model.graph.output.append(TYPES("full", outside.data_type, [2, 3]))
    facts = read_graph(model.SerializeToString())
    assert facts.external[-1] == ExternalTensor("outside", name, (2, 3), "weights.bin", 10 * size, 6 * size)
    assert facts.output_values[-1] == Value("full", name, (2, 3))


def official_facts(content):
    """The same facts, by the onnx package."""
    model = onnx.load_from_string(content)
    # Nothing was skipped, merged or shortened: written again, the model has as many bytes.
    assert model.ByteSize() == len(content)
    graph = model.graph
    (opset,) = model.opset_import
    outside = []
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
            where = (entries["location"], int(entries["offset"]), int(entries["length"]))
            outside.append(ExternalTensor(tensor.name, dtype, tuple(tensor.dims), *where))

    def values(items):
        for item in items:
            kind = item.type.tensor_type
            shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim)
            yield Value(item.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)

    return GraphFacts(
        opset=opset.version,
        ir_version=model.ir_version,
        operators=frozenset(node.op_type for node in graph.node),
        external=tuple(outside),
        input_values=tuple(values(graph.input)),
        output_values=tuple(values(graph.output)),
    )


@pytest.mark.parametrize("name", ["vision", "embed", "decoder"])
def test_the_demo_graphs_are_read_as_onnx_reads_them(name):
    content = (demo.BUNDLE / f"{name}.onnx").read_bytes()
    facts = read_graph(content)
    assert facts == official_facts(content) == read_graph(memoryview(content))
    assert facts.opset == 24


def outside_bytes(path):
    """The demo decoder, all of its weights written beside it by onnx."""
    decoder = onnx.load(demo.BUNDLE / "decoder.onnx")
    onnx.save(decoder, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path.read_bytes()


def test_weights_that_onnx_wrote_beside_a_graph_are_found_in_their_file(tmp_path):
    outside = outside_bytes(tmp_path / "decoder.onnx")
    facts = read_graph(outside)
    assert facts == official_facts(outside)
    weights = (tmp_path / "w.bin").read_bytes()
    inline = {t.name: t.raw_data for t in onnx.load(demo.BUNDLE / "decoder.onnx").graph.initializer}
    assert {t.name: weights[t.offset : t.offset + t.length] for t in facts.external} == inline


def test_weights_inside_a_graph_are_not_copied():
    model = sample()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1 << 22, np.float32), "large"))
    content = model.SerializeToString()
    tracemalloc.start()
    try:
        read_graph(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_what_a_graph_says_is_shown_escaped_and_short():
    model = sample()
    model.graph.node.add(op_type="\x1b[31m\nfine\u202e" + "x" * 10_000)
    with pytest.raises(ValueError, match=r"operator '\\x1b\[31m\\nfine\\u202exxx.*\.\.\., which") as caught:
        read_graph(model.SerializeToString())
    assert len(str(caught.value)) < 250


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Graphs to mutate, without weights, so that mutations hit what is read."""
    path = tmp_path_factory.mktemp("graphs") / "decoder.onnx"
    return [sample().SerializeToString(), outside_bytes(path)]


# What protobuf reads without complaint: a field once more, one that nobody knows, a number or a key padded.
LENIENT = (b"\x08\x0a", b"\x32\1a", b"\x98\x06\1", b"\x28\x81\0", b"\xa8\0\1", b"\x3a\0", b"\x1a\1\xff")

byte = st.integers(0, 255)
mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "set", "append"]),
        st.floats(0, 1, exclude_max=True),
        byte,
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=600, deadline=None, database=None)
@given(which=st.integers(0, 3), edits=mutations)
def test_a_mutated_graph_is_refused_or_read_as_onnx_reads_it(originals, which, edits):
    content = bytearray(originals[which == 0])
    for kind, place, value in edits:
        position = int(place * len(content))
        if kind == "flip":
            content[position] ^= 1 << value % 8
        elif kind == "set":
            content[position] = value
        elif kind == "insert":
            content.insert(position, value)
        elif kind == "append":
            content += LENIENT[value % len(LENIENT)]
        else:
            del content[position]
    try:
        facts = read_graph(bytes(content))
    except ValueError as refused:
        assert str(refused).isprintable()  # noqa: PT017  either outcome is right
    else:
        assert facts == official_facts(bytes(content))
