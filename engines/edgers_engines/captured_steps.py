"""Decode steps as CUDA graphs: what TensorRT enqueues for a step is captured once, and launched by one call.

A step of a small model is hundreds of short kernels, and the processor that enqueues them is what takes the
time. NVIDIA's rules for graphs of TensorRT (Developer Guide, "CUDA Graphs"): run a context once after its
shapes have changed, then capture; a graph is of these shapes and addresses, of the memory to compute in too;
who changes the context breaks the graph. So each graph has a context of its own, which nobody touches again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgers_engines.device import DeviceArray
from edgers_engines.errors import BackendError

if TYPE_CHECKING:
    from edgers_engines.cuda import Cuda, CudaGraph

MOST = 16  # graphs of one engine: as many numbers of rows

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Call(NamedTuple):
    """One run of a plan.

    Attributes:
        shapes: of its inputs.
        places: addresses of its inputs and outputs.
        scratch: address of the memory that it computes in.
    """

    shapes: Shapes
    places: tuple[tuple[str, int], ...]
    scratch: int


class Result(NamedTuple):
    """What a step writes.

    Attributes:
        array: where it lies.
        position: the only one of the last axis but one that is written (in a KV cache, in place); all of
            them unless given.
    """

    array: DeviceArray
    position: int | None = None


Bound = Callable[[], Any]
Execute = Callable[[Any, int], None]


class _Step(NamedTuple):
    """A graph, and the context that it was captured from."""

    context: Any
    graph: CudaGraph


class CapturedSteps:
    """The graphs of one engine, each for other shapes, all for the same addresses.

    Where the addresses change (another question has other memory), all graphs go. So there are never more
    than `MOST`, and none is captured again and again to make room for another.

    Args:
        device: where they run.

    Attributes:
        refused: why there are no graphs, once one could not be captured; "" until then.
    """

    def __init__(self, device: Cuda) -> None:
        self._device = device
        self._memory: tuple[object, ...] = ()
        self._met: dict[Shapes, _Step | None] = {}
        self.refused = ""

    def run(self, call: Call, results: Sequence[Result], bound: Bound, execute: Execute) -> bool:
        """Run a step by a graph: one that is there, or one that is captured now, for shapes met before.

        Args:
            call: the step; what it reads is in its place.
            results: all that it writes.
            bound: makes a context of the library's for this very step, with its shapes and addresses.
            execute: has a context enqueue its step on a stream.

        Returns:
            Whether the step was run.
        """
        if self.refused:
            return False
        if (call.places, call.scratch) != self._memory:
            self._forget()
            self._memory = call.places, call.scratch
        if call.shapes not in self._met:
            self._met[call.shapes] = None
            return False
        step = self._met[call.shapes]
        if step is None:
            return len(self._graphs()) < MOST and self._capture(call, results, bound, execute)
        step.graph.launch()
        return True

    def _capture(self, call: Call, results: Sequence[Result], bound: Bound, execute: Execute) -> bool:
        """Capture a step, and use the graph only if it computes the same to the last bit.

        The step is run in the ordinary way first, which TensorRT wants anyway. To run it twice changes
        nothing: it writes keys and values where it wrote them before. What the first run wrote is overwritten
        in between, and nothing else, for the second reads the cache's other positions; where the graph is
        refused, the caller runs the step once more.
        """
        device = self._device
        try:
            context = bound()
            execute(context, device.stream)
            expected = [self._digest(result) for result in results]
            if not _capturable(context, device.stream):
                return self._refuse("the library says that its steps cannot be captured")
            graph = device.capture(lambda stream: execute(context, stream))
            for result in results:
                self._overwrite(result)  # or a graph that does not write it would pass
            graph.launch()
            found = [self._digest(result) for result in results]
        except (BackendError, MemoryError) as error:
            return self._refuse(str(error))
        if found != expected:
            return self._refuse("a CUDA graph computes something else than it was captured from")
        self._met[call.shapes] = _Step(context, graph)
        return True

    def _digest(self, result: Result) -> bytes:
        """SHA-256 of what is written there; all keys and values together may be more than the host holds."""
        array, position = result
        found = self._device.get(array) if position is None else self._device.cut(array, position)
        return hashlib.sha256(found.tobytes()).digest()

    def _overwrite(self, result: Result) -> None:
        (array, position), value = result, _other_than_any(result.array.dtype)
        if position is None:
            self._device.fill(array, value)
        else:
            self._device.fill(array, value, position, position + 1)

    def _refuse(self, why: str) -> bool:
        self.refused = why
        self._forget()
        return False

    def _forget(self) -> None:
        if self._graphs():
            self._device.wait()  # a context must not go while its work is under way
        self._met.clear()

    def _graphs(self) -> list[_Step]:
        return [step for step in self._met.values() if step]


def _other_than_any(dtype: np.dtype[Any]) -> float:
    """What no step writes: NaN, which all bits set are where the bits stand for a bfloat16."""
    return np.nan if dtype.kind == "f" else float(np.iinfo(dtype).max)


def _capturable(context: Any, stream: int) -> bool:  # noqa: ANN401  the library's
    """What the library says, where it says so: TensorRT for RTX may need memory of its own while it runs."""
    ask = getattr(context, "is_stream_capturable", None)
    return ask is None or bool(ask(stream))
