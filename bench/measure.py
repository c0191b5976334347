"""What the benchmarks share: contenders in turns, ratios with an interval, the machine, stored results."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

RESULTS = Path(__file__).parent / "results"
_REST = 0.1  # seconds; threads of the one before may go on spinning for a while
CORES = len(os.sched_getaffinity(0))
# Of the minute before this script began, so that its own is not in it. `make bench`, whose scripts come one
# after the other, says what it was before the first.
LOAD = float(os.environ.get("LOAD") or os.getloadavg()[0])
SHORTENED = bool({"SAMPLES", "ROUNDS", "FRAMES"} & os.environ.keys())
_PACKAGES = ("edgers", "numpy", "onnxruntime", "onnxruntime-genai", "torch", "transformers")

Item = TypeVar("Item")
Result = TypeVar("Result")


class FrameByFrame(Generic[Item, Result]):
    """A contender for `in_turns` that takes the next frame in every round; the warm-up takes the first.

    Args:
        call: what is timed.
        frames: one a round.
    """

    def __init__(self, call: Callable[[Item], Result], frames: Sequence[Item]) -> None:
        self._call, self._turns = call, chain(frames[:1], frames)
        self._results: list[Result] = []

    def __call__(self) -> None:
        """Take the next frame."""
        self._results.append(self._call(next(self._turns)))

    @property
    def results(self) -> list[Result]:
        """What came of each frame, the warm-up left out."""
        return self._results[1:]


def in_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender in every round; round 0 is a warm-up and not kept.

    All run within each round, in a new order each time, so that what else the machine does hits all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    rng = np.random.default_rng(0)
    for number in range(rounds + 1):
        for name in rng.permutation(list(contenders)).tolist():
            time.sleep(_REST)
            start = time.perf_counter()
            contenders[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


class Figure(NamedTuple):
    """A median over rounds, and its 95% bootstrap interval."""

    median: float
    low: float
    high: float


def figure(values: Sequence[float]) -> Figure:
    """Of one number a round."""
    drawn = np.random.default_rng(0).choice(np.array(values), (10_000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Figure(float(np.median(values)), float(low), float(high))


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Figure:
    """Of slow / fast within a round."""
    return figure([a / b for a, b in zip(slow, fast, strict=True)])


class Target(NamedTuple):
    """What was promised: a figure that is at least, or at most, a limit.

    Attributes:
        what: the figure's name.
        found: what was measured.
        limit: what its median is compared with.
        least: whether the limit is the least, not the most.
        form: how numbers are written.
    """

    what: str
    found: Figure
    limit: float
    least: bool
    form: str = ".2f"

    @property
    def met(self) -> bool:
        """Whether the median keeps it."""
        median = self.found.median
        return median >= self.limit if self.least else median <= self.limit

    @property
    def row(self) -> str:
        """One row of `targets`."""
        median, low, high, limit = (format(number, self.form) for number in (*self.found, self.limit))
        side, verdict = "at least" if self.least else "at most", "met" if self.met else "missed"
        return f"| {self.what} | {median} ({low} to {high}) | {side} {limit} | {verdict} |"


def targets(each: Sequence[Target]) -> str:
    """A table of them."""
    head = "| figure | median (95% interval) | target | |\n|---|---|---|---|"
    return "\n".join([head, *(target.row for target in each)])


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def machine() -> dict[str, Any]:
    """Date, processor, memory, load before, system and versions; what cannot be read is left out."""
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": CORES,
        "MHz": _first("/proc/cpuinfo", "cpu MHz"),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "load before": round(LOAD, 2),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _first(path: str, key: str) -> str | None:
    """What stands behind the first "key : ..." of a file."""
    for line in (_text(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def store(name: str, results: Any, tables: str) -> None:  # noqa: ANN401  whatever JSON can hold
    """Print the tables; unless the run was shortened, write them and the raw numbers into `RESULTS`.

    The heading says so where others kept more than half of the cores busy.
    """
    facts = machine()
    title = f"{name}, measured on a busy machine" if LOAD > CORES / 2 else name
    line = ", ".join(f"{key} {value}" for key, value in facts.items())
    print(tables)
    if SHORTENED:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"# {title}\n\n{line}\n\n{tables}\n")
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")


def store_drawing(name: str, drawing: Drawing) -> None:
    """Draw into `RESULTS`, unless the run was shortened: then nowhere, but drawn it is."""
    drawing.savefig(os.devnull if SHORTENED else RESULTS / f"{name}.png", format="png", dpi=150)
