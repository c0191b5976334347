"""Writes one traced module as an ONNX file: named dimensions, checked, nothing of the machine in it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from msgspec import convert

from edgers_engines.bundle import Graph, Tensor

OPSET = 24  # the first with TensorScatter and with Attention over a cache written in place

_DTYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64", onnx.TensorProto.BOOL: "bool"}


def write_graph(
    module: torch.nn.Module,
    path: Path,
    *,
    example: tuple[Any, ...],
    dynamic_shapes: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
) -> Graph:
    """Trace a module and write it.

    Args:
        module: returns a tensor or a tuple of tensors.
        path: the file to write.
        example: positional arguments to trace with; no free dimension may be 1 or equal to another.
        dynamic_shapes: for each argument, which dimensions are free, by name.
        inputs: names of the flattened arguments.
        outputs: names of the flattened results.

    Returns:
        The graph's record, its signature read back from the file.
    """
    with _quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    _strip(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return Graph(file=path.name, inputs=_signature(model.graph.input), outputs=_signature(model.graph.output))


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes for debugging: they hold stack traces with this machine's paths."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *model.functions):
        item.doc_string = ""
        del item.metadata_props[:]


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
