"""What an ONNX graph asks for, read without the onnx package and before a runtime parses it.

A graph passes when all of it is on the lists of `onnx_schema`. That a graph passes says that it runs no
foreign code, reads no file but those it names here, has no loop and no randomness; not that it is small, nor
that its arithmetic keeps the rows of a batch apart: any matrix product can mix them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgers_engines.onnx_schema import (
    ATTRIBUTE_VALUES,
    CUDA_DOMAIN,
    CUDA_GIVEN,
    CUDA_INPUTS,
    CUDA_MODEL,
    CUDA_OPERATORS,
    CUDA_OUTPUTS,
    CUDA_STORED,
    CUDA_VERSION,
    DTYPES,
    IR_VERSIONS,
    LISTS,
    MAX_ELEMENTS,
    MODEL,
    OPERATORS,
    OPSETS,
    QUANTIZERS,
)
from edgers_engines.protobuf import Message

_LOCATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_MAX_BYTES = 1 << 50
_EXTERNAL_KEYS = ["length", "location", "offset"]
_DEFAULT, _EXTERNAL = 0, 1  # TensorProto.DataLocation


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """An initializer whose numbers lie in a file beside the graph.

    Attributes:
        name: the initializer's name.
        dtype: the name of the element type, numpy's where it has one.
        shape: its dimensions.
        location: the plain name of the file.
        offset: the first byte, a multiple of the item size.
        length: bytes, the product of the shape times the item's bits in whole bytes, and never 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    location: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output; a dimension is a number, a free one's name, or "" for a free one without a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a graph asks for; inputs, outputs and external tensors in the graph's own order."""

    opset: int
    ir_version: int
    operators: frozenset[str]
    external: tuple[ExternalTensor, ...]
    input_values: tuple[Value, ...]
    output_values: tuple[Value, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(value.name for value in self.input_values)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(value.name for value in self.output_values)


def read_graph(content: bytes | memoryview, *, for_cuda: bool = False) -> GraphFacts:
    """Read and check a graph.

    Args:
        content: the bytes of an ONNX file; weights in them are skipped, not copied. The caller bounds them.
        for_cuda: it is a decoder for CUDA, which imports ONNX Runtime's own operators too.

    Returns:
        What the graph asks for.

    Raises:
        ValueError: the bytes are not an ONNX model, or hold something that is not on the lists of
            `onnx_schema`; one line that says where, what was found and what is allowed.
    """
    view = memoryview(content)
    # ONNX Runtime takes any bytes with this mark for its own format, whatever they are as an ONNX model.
    if bytes(view[4:8]) == b"ORTM":
        raise ValueError("the file has the mark of ONNX Runtime's own format (ORTM); only ONNX is allowed")
    model = Message(view, "model", CUDA_MODEL if for_cuda else MODEL)
    _check_metadata(model)
    ir_version = _within(model, "ir_version", IR_VERSIONS)
    operator_set = model.message("opset_import")
    _check_domain(operator_set)
    if for_cuda:
        _check_second_set(list(model.messages("opset_import"))[1:])
    graph = model.message("graph")
    _check_metadata(graph)
    for value in graph.messages("value_info"):
        _value(value)
    inputs, outputs = (tuple(_signed(value) for value in graph.messages(n)) for n in ("input", "output"))
    names = _Names((value.name for value in inputs), for_cuda=for_cuda)
    external = _read_initializers(graph, names)
    stored = frozenset(tensor.text("name") for tensor in graph.messages("initializer"))
    operators = frozenset(_read_node(node, names, stored) for node in graph.messages("node"))
    names.check_outputs(value.name for value in outputs)
    return GraphFacts(
        opset=_within(operator_set, "version", OPSETS),
        ir_version=ir_version,
        operators=operators,
        external=external,
        input_values=inputs,
        output_values=outputs,
    )


class _Names:
    """The values that are defined so far: each once, and before it is used, so that a graph has no cycle.

    Attributes:
        inputs: of the graph.
        for_cuda: see `read_graph`.
    """

    def __init__(self, inputs: Iterable[str], *, for_cuda: bool) -> None:
        self._defined: set[str] = set()
        self.for_cuda = for_cuda
        for name in inputs:
            self.define(name, "graph.input")
        self.inputs = frozenset(self._defined)

    def define(self, name: str, where: str) -> None:
        if not name:
            raise ValueError(f"{where} has an empty name")
        if name in self._defined:
            raise ValueError(
                f"{where} defines {_shown(name)} a second time; inputs, initializers and outputs differ"
            )
        self._defined.add(name)

    def use(self, name: str, where: str) -> None:
        if name not in self._defined:
            raise ValueError(f"{where} uses {_shown(name)}, which nothing before it defines")

    def check_outputs(self, names: Iterable[str]) -> None:
        seen = set()
        for name in names:
            self.use(name, "graph.output")
            if name in seen:
                raise ValueError(f"graph.output lists {_shown(name)} twice")
            seen.add(name)


def _read_initializers(graph: Message, names: _Names) -> tuple[ExternalTensor, ...]:
    external = []
    for tensor in graph.messages("initializer"):
        names.define(tensor.text("name"), tensor.where)
        if tensor.integer("data_location") == _EXTERNAL:
            external.append(_external(tensor))
        else:
            _check_inline(tensor)
    return tuple(external)


def _read_node(node: Message, names: _Names, stored: frozenset[str]) -> str:
    """The operator of a checked node; `stored` are the initializers."""
    operator = node.text("op_type")
    own = names.for_cuda and node.text("domain") == CUDA_DOMAIN
    if not own:
        _check_domain(node)
    if operator not in (CUDA_OPERATORS if own else OPERATORS):
        raise ValueError(
            f"{node.where} asks for the operator {_shown(operator)}, which is not one of those allowed"
        )
    _check_metadata(node)
    attributes = [_read_attribute(attribute, operator) for attribute in node.messages("attribute")]
    if len(set(attributes)) != len(attributes):
        raise ValueError(f"{node.where} ({operator}) has an attribute twice: {_shown(attributes)}")
    if own:
        _check_own(node, operator, attributes, names.inputs, stored)
    for name in filter(None, node.texts("input")):  # "" stands for an optional input that is left out
        names.use(name, f"{node.where} ({operator})")
    if operator in QUANTIZERS:
        _check_scale(node, operator, stored)
    for name in filter(None, node.texts("output")):
        names.define(name, f"{node.where} ({operator})")
    return operator


def _check_second_set(imported: list[Message]) -> None:
    """One of ONNX Runtime's own operators."""
    for operators in imported:
        found = operators.text("domain"), operators.integer("version")
        if found == (CUDA_DOMAIN, CUDA_VERSION):
            return
        raise ValueError(
            f"{operators.where} is {_shown(found)}; only {CUDA_DOMAIN!r} of version {CUDA_VERSION} is allowed"
        )
    raise ValueError(f"model.opset_import lacks {CUDA_DOMAIN!r}, which a decoder for CUDA is made of")


def _check_own(
    node: Message, operator: str, attributes: list[str], inputs: frozenset[str], stored: frozenset[str]
) -> None:
    """One of ONNX Runtime's own operators."""
    where = f"{node.where} ({operator})"
    if odd := set(attributes) - CUDA_OPERATORS[operator]:
        raise ValueError(f"{where} has the attribute {_shown(min(odd))}: not allowed")
    read, written = node.texts("input"), node.texts("output")
    if len(read) != CUDA_INPUTS[operator] or "" in read:
        raise ValueError(
            f"{where} has the inputs {_shown(read)}; exactly {CUDA_INPUTS[operator]} are allowed, all given"
        )
    for index, pattern in CUDA_GIVEN.get(operator, {}).items():
        if read[index] not in inputs or not re.fullmatch(pattern, read[index], re.ASCII):
            raise ValueError(
                f"{where} reads {_shown(read[index])} as input {index}; only the graph's own input {pattern} "
                "is allowed"
            )
    for index in CUDA_STORED.get(operator, ()):
        if read[index] not in stored:
            raise ValueError(
                f"{where} reads {_shown(read[index])} as input {index}; only an initializer is allowed"
            )
    patterns = CUDA_OUTPUTS[operator]
    if len(written) != len(patterns) or not all(map(re.fullmatch, patterns, written)):
        raise ValueError(f"{where} has the outputs {_shown(written)}; allowed are {_shown(patterns)}")


def _check_scale(node: Message, operator: str, stored: frozenset[str]) -> None:
    """A computed scale may be the whole batch's, and a row's answer would depend on its neighbours."""
    for name in filter(None, node.texts("input")[1:]):
        if name not in stored:
            raise ValueError(
                f"{node.where} ({operator}) computes its scale or zero point {_shown(name)}; only stored "
                "ones are allowed, for a computed one may couple the rows of a batch"
            )


def _read_attribute(attribute: Message, operator: str) -> str:
    """The name of a checked attribute."""
    name, kind = attribute.text("name"), attribute.integer("type")
    field = ATTRIBUTE_VALUES.get(kind)
    if field is None:
        raise ValueError(
            f"{attribute.where} ({operator}) has type {kind}; allowed are "
            f"{', '.join(f'{number} {value}' for number, value in ATTRIBUTE_VALUES.items())}"
        )
    found = [value for value in ATTRIBUTE_VALUES.values() if attribute.has(value)]
    if found != [field] and not (field in LISTS and not found):
        raise ValueError(
            f"{attribute.where} ({operator}) has type {kind} and holds {', '.join(found) or 'nothing'}; "
            f"that type holds {field}"
        )
    for tensor in attribute.messages("t"):
        _check_inline(tensor)
    if operator == "Constant" and name == "value_string":
        raise ValueError(f"{attribute.where} is a Constant of text; only numbers are allowed")
    if operator == "Cast" and name == "to":
        _dtype(attribute, "i")
    return name


def _external(tensor: Message) -> ExternalTensor:
    dtype, shape, size = _read_tensor(tensor)
    if tensor.has("raw_data"):
        raise ValueError(f"{tensor.where} has raw_data and external data; one of them is allowed")
    entries = [(entry.text("key"), entry.text("value")) for entry in tensor.messages("external_data")]
    if sorted(key for key, _ in entries) != _EXTERNAL_KEYS:
        raise ValueError(
            f"{tensor.where}.external_data has the keys {_shown([key for key, _ in entries])}; "
            f"exactly {', '.join(_EXTERNAL_KEYS)} are allowed, each once"
        )
    found = dict(entries)
    if not _LOCATION.fullmatch(found["location"]):
        raise ValueError(
            f"{tensor.where}.external_data has the location {_shown(found['location'])}; "
            "a plain file name of at most 100 letters, digits, dots, dashes and underscores is allowed"
        )
    offset, length = (_number(tensor, key, found[key]) for key in ("offset", "length"))
    # A length of 0 is read as "to the end of the file" by some.
    if length != size or not size:
        raise ValueError(
            f"{tensor.where}.external_data has {length} bytes; "
            f"{dtype}{list(shape)} has {size}, and more than 0 are expected"
        )
    if offset % max(DTYPES[tensor.integer("data_type")][1] // 8, 1):
        raise ValueError(
            f"{tensor.where}.external_data begins at {offset}, not at a multiple of a {dtype}'s size"
        )
    return ExternalTensor(tensor.text("name"), dtype, shape, found["location"], offset, length)


def _number(tensor: Message, key: str, text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) >= _MAX_BYTES:
        raise ValueError(
            f"{tensor.where}.external_data has the {key} {_shown(text)}; "
            "decimal digits, below 2**50, are allowed"
        )
    return int(text)


def _check_inline(tensor: Message) -> None:
    dtype, shape, size = _read_tensor(tensor)
    location = tensor.integer("data_location")
    if location != _DEFAULT or tensor.has("external_data"):
        raise ValueError(
            f"{tensor.where} asks for data in another place (data_location {location}); "
            f"only initializers with data_location {_EXTERNAL} may"
        )
    if tensor.size("raw_data") != size:
        raise ValueError(
            f"{tensor.where} has {tensor.size('raw_data')} bytes; {dtype}{list(shape)} has {size}"
        )


def _read_tensor(tensor: Message) -> tuple[str, tuple[int, ...], int]:
    """Dtype, shape and size in bytes."""
    _check_metadata(tensor)
    dtype = _dtype(tensor, "data_type")
    shape = tuple(tensor.integers("dims"))
    elements = 1
    for dimension in shape:
        elements *= max(dimension, 1)  # a 0 must not hide a dimension that is too large
        if dimension < 0 or elements >= MAX_ELEMENTS:
            raise ValueError(
                f"{tensor.where} has the shape {_shown(shape)}; 0 to 2**48 - 1 elements are allowed"
            )
    bits = DTYPES[tensor.integer("data_type")][1]
    return dtype, shape, 0 if 0 in shape else (elements * bits + 7) // 8


def _signed(value: Message) -> Value:
    """An input or output: type and shape are stated."""
    name, dtype, shape = _value(value)
    if shape is None:
        raise ValueError(f"{value.where} ({_shown(name)}) has no shape; inputs and outputs state theirs")
    return Value(name, dtype, shape)


def _value(value: Message) -> tuple[str, str, tuple[int | str, ...] | None]:
    """Name, dtype and shape; the shape of a value inside the graph may be left open."""
    _check_metadata(value)
    tensor = value.message("type").message("tensor_type")
    dtype = _dtype(tensor, "elem_type")
    if not tensor.has("shape"):
        return value.text("name"), dtype, None
    shape = tuple(_dimension(d) for d in tensor.message("shape").messages("dim"))
    return value.text("name"), dtype, shape


def _dimension(dimension: Message) -> int | str:
    number = dimension.integer("dim_value")
    if dimension.has("dim_value") and dimension.has("dim_param"):
        raise ValueError(f"{dimension.where} has a number and a name; one of them is allowed")
    if not 0 <= number < MAX_ELEMENTS:
        raise ValueError(f"{dimension.where} is {number}; 0 to 2**48 - 1 is allowed")
    return number if dimension.has("dim_value") else dimension.text("dim_param")


def _dtype(message: Message, field: str) -> str:
    number = message.integer(field)
    if number not in DTYPES:
        allowed = ", ".join(f"{key} {name}" for key, (name, _) in DTYPES.items())
        raise ValueError(f"{message.where} has the element type {number}; allowed are {allowed}")
    return DTYPES[number][0]


def _check_domain(message: Message) -> None:
    if domain := message.text("domain"):
        raise ValueError(
            f"{message.where} asks for the operator domain {_shown(domain)}; "
            'only the standard one, written as "", is allowed'
        )


def _check_metadata(message: Message) -> None:
    keys = [entry.text("key") for entry in message.messages("metadata_props")]
    if len(set(keys)) != len(keys):
        raise ValueError(f"{message.where}.metadata_props has a key twice: {_shown(keys)}")
    # ONNX Runtime can be told by its environment to take a session's options from the model.
    if "ort_config" in keys:
        raise ValueError(
            f"{message.where}.metadata_props has ort_config, which sets a runtime's options: not allowed"
        )


def _within(message: Message, field: str, allowed: range) -> int:
    number = message.integer(field)
    if number not in allowed:
        raise ValueError(f"{message.where}.{field} is {number}; {allowed[0]} to {allowed[-1]} are allowed")
    return number


def _shown(found: object) -> str:
    """What a hostile file says, on one short line."""
    text = ascii(found)
    return text if len(text) <= 120 else text[:117] + "..."
