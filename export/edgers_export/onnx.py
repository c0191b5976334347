"""Writes traced modules as ONNX files: named dimensions, large tensors in one file beside them."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from msgspec import convert
from numpy.typing import NDArray

from edgers_engines.graph_record import Graph, Tensor
from edgers_engines.onnx_schema import QUANTIZERS

WEIGHTS = "weights.bin"
_INLINE_BYTES = 1024  # smaller tensors stay in the graph: shapes and axes that a runtime's optimizer reads
_ALIGNMENT = 64  # a cache line, and enough for every vector unit

_DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.BOOL: "bool",
}


class GraphWriter:
    """Writes graphs into one directory; their large tensors go into one file beside them, each content once.

    Tensors are written one at a time, straight from the module's memory, so that no second copy of the
    weights exists. Use it as a context manager.
    """

    def __init__(self, directory: Path, opset: int, weights: str = WEIGHTS) -> None:
        self._directory, self._opset, self._location = directory, opset, weights
        self._weights = (directory / weights).open("xb")
        self._offsets: dict[bytes, int] = {}

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._weights.close()

    def write(
        self,
        module: torch.nn.Module,
        name: str,
        *,
        example: tuple[Any, ...],
        dynamic_shapes: tuple[Any, ...],
        inputs: list[str],
        outputs: list[str],
    ) -> Graph:
        """Trace a module and write it.

        Args:
            module: returns a tensor or a tuple of tensors.
            name: the file to write.
            example: positional arguments to trace with; no free dimension may be 1 or equal to another.
            dynamic_shapes: for each argument, which dimensions are free, by name.
            inputs: names of the flattened arguments.
            outputs: names of the flattened results.

        Returns:
            The graph's record, its signature read back from the file.
        """
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=self._opset,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
        if program is None:  # torch's annotation; it is None only for the old exporter
            raise RuntimeError(f"torch exported nothing for {name}")
        _narrow(program.model.graph)
        for value in program.model.graph.initializers.values():
            value.const_value = self._stored(value.name or "", value.const_value)
        model = onnx_ir.serde.serialize_model(program.model)
        _strip(model)
        return self.save(model, name)

    def read(self, graph: Graph) -> Any:  # noqa: ANN401  protobuf's messages are untyped
        """A graph that was written before, its large tensors as references to the weights file."""
        return onnx.load(self._directory / graph.file, load_external_data=False)

    def save(self, model: Any, name: str) -> Graph:  # noqa: ANN401  as above
        """Write a model whose large tensors are in the weights file; returns its record."""
        path = self._directory / name
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(path)
        graph = model.graph
        return Graph(file=name, inputs=_signature(graph.input), outputs=_signature(graph.output))

    def tensor(self, name: str, array: NDArray[Any]) -> Any:  # noqa: ANN401  as above
        """An initializer; in the weights file when it is large."""
        return onnx_ir.serde.serialize_tensor(self._stored(name, onnx_ir.tensor(array, name=name)))

    def _stored(self, name: str, tensor: Any) -> Any:  # noqa: ANN401  onnx_ir's tensor protocol
        """The tensor itself when small, else a reference to its place in the weights file."""
        if tensor.nbytes < _INLINE_BYTES:
            return tensor
        # PyTorch's memory, or a copy of it in which two numbers of 4 bits share a byte.
        packed = tensor.dtype == onnx_ir.DataType.INT4
        array = np.frombuffer(tensor.tobytes(), np.uint8) if packed else np.ascontiguousarray(tensor.numpy())
        content = array.view(np.uint8).reshape(-1).data
        digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(content)
        offset = self._offsets.get(digest.digest())
        if offset is None:
            self._weights.write(b"\0" * (-self._weights.tell() % _ALIGNMENT))
            offset = self._offsets[digest.digest()] = self._weights.tell()
            self._weights.write(content)
            self._weights.flush()
        return onnx_ir.ExternalTensor(
            self._location,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=tensor.shape,
            name=name,
            base_dir=str(self._directory),
        )


def _narrow(graph: Any) -> None:  # noqa: ANN401  onnx_ir's graph
    """Weights that are dequantized in blocks have 4 bits, which PyTorch has no type for: it gave them 8."""
    for node in graph:
        if node.op_type in QUANTIZERS:
            # TensorRT numbers parts of other nodes by itself, and met the exporter's name of such a one.
            node.name = f"{node.op_type} {node.outputs[0].name}"
        if "block_size" in node.attributes:
            codes = node.inputs[0]
            narrow = codes.const_value.numpy().astype(onnx_ir.DataType.INT4.numpy())
            codes.const_value = onnx_ir.Tensor(narrow, dtype=onnx_ir.DataType.INT4, name=codes.name)
            codes.dtype = onnx_ir.DataType.INT4


def _strip(model: Any) -> None:  # noqa: ANN401  protobuf's messages are untyped
    """Drop the exporter's notes for debugging: they hold stack traces with this machine's paths."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    del graph.value_info[:]  # shapes inside the graph: every runtime infers them itself


def _signature(values: Sequence[Any]) -> tuple[Tensor, ...]:
    return tuple(
        convert(
            {
                "name": value.name,
                "dtype": _DTYPES[value.type.tensor_type.elem_type],
                "shape": [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            },
            Tensor,
        )
        for value in values
    )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's notes about its own internals from the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
