"""What an ONNX graph of a bundle may hold: its fields, data types and operators. Data only.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Fields that no
graph of ours needs are left out, and with them what they could carry: subgraphs, functions, training,
sparse and string tensors, notes on quantization, sequences, sharding. Tensors hold their numbers as raw bytes
or in a file beside the graph; the typed lists (float_data and the like) would be a second way to say the
same, which onnx.numpy_helper turns into the first.
"""

from __future__ import annotations

from edgers_engines.protobuf import Field, Kind, Schema

IR_VERSIONS = range(7, 14)  # 7 came with opset 13; 13 is the newest that ONNX Runtime 1.31 reads
OPSETS = range(13, 27)  # since 13 Softmax and the reductions mean what they mean today; 26 as above

MAX_NODES = 200_000
MAX_INITIALIZERS = 100_000
MAX_RANK = 16
MAX_ELEMENTS = 1 << 48
_MANY = 400_000  # notes on intermediate values: about one for each output of a node
_SOME = 10_000  # inputs of the graph or of a node, values in a list: a cache has two inputs per layer
_FEW = 64

_NOTES = Field("doc_string", Kind.TEXT)


def _message(name: str, schema: Schema, most: int = 1) -> Field:
    return Field(name, Kind.MESSAGE, most, schema)


def _refused(*names: str) -> list[Field]:
    return [Field(name, Kind.REFUSED) for name in names]


ENTRY: Schema = {1: Field("key", Kind.TEXT), 2: Field("value", Kind.TEXT)}

_METADATA = _message("metadata_props", ENTRY, _FEW)

TENSOR: Schema = {
    1: Field("dims", Kind.INTEGER, MAX_RANK),
    2: Field("data_type", Kind.INTEGER),
    8: Field("name", Kind.TEXT),
    9: Field("raw_data", Kind.BYTES),
    12: _NOTES,
    13: _message("external_data", ENTRY, _FEW),
    14: Field("data_location", Kind.INTEGER),
    16: _METADATA,
    **dict(
        zip(
            (3, 4, 5, 6, 7, 10, 11),
            _refused(
                "segment",
                "float_data",
                "int32_data",
                "string_data",
                "int64_data",
                "double_data",
                "uint64_data",
            ),
            strict=True,
        )
    ),
}

ATTRIBUTE: Schema = {
    1: Field("name", Kind.TEXT),
    2: Field("f", Kind.FLOAT),
    3: Field("i", Kind.INTEGER),
    4: Field("s", Kind.TEXT),
    5: _message("t", TENSOR),
    7: Field("floats", Kind.FLOAT, _SOME),
    8: Field("ints", Kind.INTEGER, _SOME),
    13: _NOTES,
    20: Field("type", Kind.INTEGER),
    **dict(
        zip(
            (6, 9, 10, 11, 14, 15, 21, 22, 23),
            _refused(
                "g (a subgraph)",
                "strings",
                "tensors",
                "graphs (subgraphs)",
                "tp (a type)",
                "type_protos",
                "ref_attr_name",
                "sparse_tensor",
                "sparse_tensors",
            ),
            strict=True,
        )
    ),
}

# AttributeProto.type -> the one field that holds the value, and whether it may be absent (an empty list).
ATTRIBUTE_VALUES = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}
LISTS = frozenset({"floats", "ints"})

NODE: Schema = {
    1: Field("input", Kind.TEXT, _SOME),
    2: Field("output", Kind.TEXT, _SOME),
    3: Field("name", Kind.TEXT),
    4: Field("op_type", Kind.TEXT),
    5: _message("attribute", ATTRIBUTE, _FEW),
    6: _NOTES,
    7: Field("domain", Kind.TEXT),
    9: _METADATA,
    **dict(zip((8, 10), _refused("overload", "device_configurations"), strict=True)),
}

DIMENSION: Schema = {1: Field("dim_value", Kind.INTEGER), 2: Field("dim_param", Kind.TEXT)}

SHAPE: Schema = {1: _message("dim", DIMENSION, MAX_RANK)}

TENSOR_TYPE: Schema = {1: Field("elem_type", Kind.INTEGER), 2: _message("shape", SHAPE)}

TYPE: Schema = {
    1: _message("tensor_type", TENSOR_TYPE),
    **dict(
        zip(
            (4, 5, 7, 8, 9),
            _refused("sequence_type", "map_type", "opaque_type", "sparse_tensor_type", "optional_type"),
            strict=True,
        )
    ),
}

VALUE: Schema = {1: Field("name", Kind.TEXT), 2: _message("type", TYPE), 3: _NOTES, 4: _METADATA}

GRAPH: Schema = {
    1: _message("node", NODE, MAX_NODES),
    2: Field("name", Kind.TEXT),
    5: _message("initializer", TENSOR, MAX_INITIALIZERS),
    10: _NOTES,
    11: _message("input", VALUE, _SOME),
    12: _message("output", VALUE, _SOME),
    13: _message("value_info", VALUE, _MANY),
    16: _METADATA,
    **dict(zip((14, 15), _refused("quantization_annotation", "sparse_initializer"), strict=True)),
}

OPERATOR_SET: Schema = {1: Field("domain", Kind.TEXT), 2: Field("version", Kind.INTEGER)}

MODEL: Schema = {
    1: Field("ir_version", Kind.INTEGER),
    2: Field("producer_name", Kind.TEXT),
    3: Field("producer_version", Kind.TEXT),
    4: Field("domain", Kind.TEXT),
    5: Field("model_version", Kind.INTEGER),
    6: _NOTES,
    7: _message("graph", GRAPH),
    8: _message("opset_import", OPERATOR_SET),
    14: _METADATA,
    **dict(zip((20, 25, 26), _refused("training_info", "functions", "configuration"), strict=True)),
}

# A decoder graph for CUDA imports a second operator set.
CUDA_MODEL: Schema = {**MODEL, 8: _message("opset_import", OPERATOR_SET, 2)}

# TensorProto.DataType -> its name and the bits of one element; numbers of 4 bits lie two in a byte. NumPy has
# none of int4, bfloat16 and float8_e4m3fn, and its own types for the others. No strings, nothing complex.
DTYPES: dict[int, tuple[str, int]] = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8),
    22: ("int4", 4),
}
BITS = dict(DTYPES.values())

QUANTIZERS = frozenset({"DequantizeLinear", "QuantizeLinear"})  # their scale and zero point are inputs

# Operators of the standard domain whose result is a function of their inputs alone, that end, and that vision
# towers, projectors, decoders and small text encoders are exported to. Not on the list, among others:
# If, Loop, Scan (subgraphs; a Loop need not end); Random*, Bernoulli, Multinomial, Dropout (not a function of
# the inputs); BatchNormalization (couples rows when training); DynamicQuantizeLinear (one scale for the whole
# batch makes a row's answer depend on its neighbours; QuantizeLinear's are stored, which `onnx_graph`
# checks); ScatterND, ScatterElements (repeated indices race on a GPU); NonZero, Unique, Compress (shapes that
# depend on values); strings, sequences, optionals, images.
OPERATORS = frozenset(
    {
        # arithmetic, value by value
        *("Abs", "Add", "Ceil", "Clip", "Cos", "Div", "Erf", "Exp", "Floor", "Log", "Max", "Min", "Mod"),
        *("Mul", "Neg", "Pow", "Reciprocal", "Round", "Sign", "Sin", "Sqrt", "Sub"),
        # comparisons and masks; IsNaN guards the softmax of rows that are masked whole
        *("And", "Equal", "Greater", "GreaterOrEqual", "IsNaN", "Less", "LessOrEqual", "Not", "Or"),
        "Where",
        # activations
        *("Gelu", "LogSoftmax", "Relu", "Sigmoid", "Softmax", "Swish", "Tanh"),
        # linear maps: projections, patch embeddings, pooled patches
        *("AveragePool", "Conv", "Einsum", "Gemm", "MatMul"),
        # along an axis: normalisations and their parts, positions (CumSum), a text's last token (ArgMax)
        *("ArgMax", "CumSum", "GroupNormalization", "LayerNormalization", "RMSNormalization", "ReduceL2"),
        *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"),
        # attention, its positions, and the cache written in place
        *("Attention", "RotaryEmbedding", "TensorScatter"),
        # rounding to stored scales
        *("DequantizeLinear", "QuantizeLinear"),
        # shapes and constants
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "Expand", "Flatten", "Identity", "Range"),
        *("Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"),
        # moving values about: embeddings, heads, padding, tiles; Resize makes the overview beside the tiles
        *("Concat", "Gather", "GatherElements", "GatherND", "Pad", "Resize", "Slice", "Split", "Tile"),
        *("Transpose", "Trilu"),
    }
)

# What a decoder graph for CUDA may hold besides: ONNX Runtime's own operators, with the attributes that a
# plain causal decoder needs of them. None of these fetches a model, a file or a random number. Source:
# https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
CUDA_DOMAIN, CUDA_VERSION = "com.microsoft", 1
CUDA_OPERATORS = {
    "GroupQueryAttention": frozenset({"do_rotary", "kv_num_heads", "num_heads", "scale"}),
    "SkipSimplifiedLayerNormalization": frozenset({"epsilon"}),
}
# Their kernels take what else they could read or write as it is: all of these inputs are there, and no more;
# of the outputs, "" is one that is left out.
CUDA_INPUTS = {"GroupQueryAttention": 9, "SkipSimplifiedLayerNormalization": 3}
CUDA_OUTPUTS = {
    "GroupQueryAttention": (r".+", r"present\.\d+\.key", r"present\.\d+\.value"),
    "SkipSimplifiedLayerNormalization": (r".+", "", "", r".+"),
}
# They write where these say, and do not compare them with the cache: they must be what the runtime gives, and
# no number that the graph computes.
CUDA_GIVEN = {
    "GroupQueryAttention": {3: r"past\.\d+\.key", 4: r"past\.\d+\.value", 5: "last_index", 6: "total_length"}
}
CUDA_STORED = {"GroupQueryAttention": (7, 8)}  # the tables of the rotation, whose shape is known then
