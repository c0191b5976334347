"""When graphs run: the intervals, from whichever thread, and how much of a wall time they cover."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple
from unittest import mock

from edgers_engines.device import Buffer
from edgers_engines.onnxruntime import OnnxRuntimeEngine

Kind = Literal["encode", "embed", "prefill", "decode"]
_KINDS: dict[str, Kind] = {"vision.onnx": "encode", "embed.onnx": "embed"}


class Run(NamedTuple):
    """One run of one graph, in seconds of `time.perf_counter`."""

    kind: Kind
    start: float
    end: float


class GraphTime:
    """The runs of all graphs between `recording` and its end.

    Two graphs may run at the same moment in two threads: what they cover counts once.
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self.wall = 0.0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Forget what was recorded before, and record."""
        self._runs = []
        run = OnnxRuntimeEngine._run

        def recorded(
            engine: OnnxRuntimeEngine, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]
        ) -> None:
            start = time.perf_counter()
            try:
                run(engine, inputs, outputs)
            finally:
                self._runs.append(Run(_kind(engine.graph.file, inputs), start, time.perf_counter()))

        start = time.perf_counter()
        with mock.patch.object(OnnxRuntimeEngine, "_run", recorded):
            yield
        self.wall = time.perf_counter() - start

    def seconds(self, kinds: Collection[Kind] = ("encode", "embed", "prefill", "decode")) -> float:
        """Seconds in which at least one graph of these kinds ran."""
        return covered((run.start, run.end) for run in self._runs if run.kind in kinds)

    @property
    def outside(self) -> float:
        """The share of the wall time in which no graph ran."""
        return 1 - self.seconds() / self.wall


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _kind(file: str, inputs: Mapping[str, Buffer]) -> Kind:
    if file in _KINDS:
        return _KINDS[file]
    return "prefill" if inputs["embeddings"].shape[1] > 1 else "decode"
