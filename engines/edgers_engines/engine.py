"""The engine contract: `run` checks, `_run` only runs. A backend is its implementation for one library.

Ownership: every array belongs to the caller. An engine reads `inputs`, writes every element of `outputs`, and
keeps no reference after `run` returns. An input and an output may be the same memory (the KV cache is): then
the engine updates it in place. An array lies in the host's memory or in that of the backend's device; a
backend moves the host's as it needs to.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgers_engines.decoder_graph import DecoderGraph, DecoderName, standard_decoder
from edgers_engines.device import Buffer, Device, DeviceArray
from edgers_engines.errors import InputError
from edgers_engines.fields import Sha256
from edgers_engines.graph_record import Graph, Tensor, held_as
from edgers_engines.manifest import Graphs, Precision
from edgers_engines.records import Record
from edgers_engines.weights import Weights

MAX_THREADS_PER_CORE = 4  # more only wait for each other: 128 a core took minutes for what takes a second
BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-cuda-graphs")


class EngineRecord(Record, frozen=True, kw_only=True):
    """What ran the graphs; goes into the certificate.

    `plans` are the SHA-256 of those that did, if any, each followed by that of the stored kernels that it
    ran, if any; kernels that were compiled when it was loaded are not named. `decoder` is which of the
    bundle's decoder graphs did, by its name in the manifest.
    """

    backend: str
    version: str
    device: str
    provider: str
    precision: str
    plans: tuple[Sha256, ...] = ()
    decoder: DecoderName = "decoder"


class Range(NamedTuple):
    """The sizes that a free dimension may have, and the one to be fastest at."""

    least: int
    likely: int
    most: int


class Engine(ABC):
    """One graph, loaded.

    Args:
        graph: its record in the manifest.
        limits: the sizes that it takes, by a free dimension's name; those that are not named have any size.
        plan: SHA-256 of the plan that it runs, where one was built beforehand.
    """

    def __init__(
        self, graph: Graph, limits: Mapping[str, Range] | None = None, plan: str | None = None
    ) -> None:
        self.graph, self.limits, self.plan = graph, limits or {}, plan

    def fitting(self, dimension: str, size: int) -> int:
        """The smallest size of a free dimension that is at least this one, and that the engine takes.

        Raises:
            InputError: it takes none so large.
        """
        limit = self.limits.get(dimension)
        if limit is None:
            return size
        if size > limit.most:
            raise InputError(
                f"{self.graph.file} was built for a {dimension} of at most {limit.most}; this takes {size}: "
                "look at the options of `edgers build`"
            )
        return max(size, limit.least)

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Run the graph once.

        Args:
            inputs: one array per input of the graph, by name.
            outputs: one array per output of the graph, by name; overwritten.

        Raises:
            InputError: a name, dtype, shape or memory layout differs from the graph's signature, or one free
                dimension would have two sizes.
            MemoryError: the backend ran out of memory; a smaller batch may still run.
            BackendError: the backend failed otherwise.
        """
        dimensions: dict[str, int] = {}
        _check(self.graph.file, self.graph.inputs, inputs, dimensions)
        _check(self.graph.file, self.graph.outputs, outputs, dimensions)
        if frozen := [name for name, array in outputs.items() if not _writeable(array)]:
            raise InputError(f"{self.graph.file}: {frozen[0]} is an output, and the array is read-only")
        self._run(inputs, outputs)

    @abstractmethod
    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Run on checked arrays."""


class Backend(ABC):
    """One library on one device: loads graphs into engines.

    Attributes:
        device: where arrays lie that its engines need not move.
        grows: whether its engines take the memory that they compute in while they run, as much as a batch
            needs, and not when they are loaded.
    """

    device: Device
    grows = True

    @abstractmethod
    def load(self, content: bytes, graph: Graph, weights: Weights) -> Engine:
        """Load one graph.

        Args:
            content: the ONNX file's verified bytes.
            graph: its record in the manifest.
            weights: what the graph reads; they may vanish after the call.

        Raises:
            BackendError: the library refuses the graph, or would run part of it on another device.
        """

    def decoder(self, graphs: Graphs) -> DecoderGraph:
        """Which of a bundle's decoder graphs it runs."""
        return standard_decoder(graphs)

    @abstractmethod
    def record(self, precision: Precision, engines: Sequence[Engine] = ()) -> EngineRecord:
        """What runs graphs of this precision, these engines among them, for the certificate."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """Threads one engine computes with."""


def open_backend(
    name: str = "onnxruntime",
    *,
    device: str | None = None,
    threads: int | None = None,
    plans: Collection[str] = (),
) -> Backend:
    """The backend that was asked for, or an error; never another one instead.

    Args:
        name: one of `BACKENDS`.
        device: "cpu" or "cuda:N"; the CPU unless given, but with TensorRT, which has none, "cuda:0".
        threads: computing threads; all cores this process may use unless given. TensorRT computes with one.
        plans: SHA-256 of plans that are taken before others of the same graph, where the backend runs plans.

    Raises:
        InputError: an unknown name or device, or a thread count out of range.
        BackendError: the backend or the device is not on this machine.
    """
    most = MAX_THREADS_PER_CORE * len(os.sched_getaffinity(0))
    if threads is not None and (type(threads) is not int or not 1 <= threads <= most):
        raise InputError(f"threads is {threads}; it must lie between 1 and {most} on this machine")
    if name == "onnxruntime":
        from edgers_engines.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend("cpu" if device is None else device, threads)
    if name in {"tensorrt", "tensorrt-cuda-graphs"}:
        from edgers_engines.plans import Plans
        from edgers_engines.tensorrt import TensorRTBackend

        return TensorRTBackend(
            "cuda:0" if device is None else device,
            Plans(prefer=plans).find,
            graphs=name == "tensorrt-cuda-graphs",
        )
    raise InputError(f"there is no backend {name!r}; choose one of {', '.join(BACKENDS)}")


def _check(
    graph: str, tensors: tuple[Tensor, ...], arrays: Mapping[str, Buffer], dimensions: dict[str, int]
) -> None:
    if arrays.keys() != {tensor.name for tensor in tensors}:
        raise InputError(f"{graph} takes {[t.name for t in tensors]}; got {list(arrays)}")
    for tensor in tensors:
        array = arrays[tensor.name]
        sizes = [
            wanted if isinstance(wanted, int) else dimensions.setdefault(wanted, found)
            for wanted, found in zip(tensor.shape, array.shape, strict=False)
        ]
        if (
            array.dtype != held_as(tensor.dtype)
            or array.ndim != len(tensor.shape)
            or list(array.shape) != sizes
        ):
            raise InputError(
                f"{graph}: {tensor.name} is {tensor.dtype} {list(tensor.shape)} with {dimensions}; "
                f"got {array.dtype} {list(array.shape)}"
            )
        if isinstance(array, np.ndarray) and not array.flags.c_contiguous:
            raise InputError(f"{graph}: {tensor.name} is not contiguous in memory")


def _writeable(array: Buffer) -> bool:
    return isinstance(array, DeviceArray) or array.flags.writeable
