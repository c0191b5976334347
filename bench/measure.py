"""What the benchmarks share: contenders in turns, ratios with an interval, the machine, stored results."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
_REST = 0.1  # seconds; threads of the one before may go on spinning for a while
CORES = len(os.sched_getaffinity(0))
SHORTENED = bool({"SAMPLES", "ROUNDS", "FRAMES"} & os.environ.keys())

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


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Median over rounds of slow / fast, and its 95% bootstrap interval."""
    each = np.array(slow) / np.array(fast)
    drawn = np.random.default_rng(0).choice(each, (10_000, len(each)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(np.median(each)), float(low), float(high)


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def machine() -> dict[str, Any]:
    """Date, processor and versions."""
    from importlib.metadata import version

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    packages = ("edgers", "numpy", "onnxruntime", "torch", "transformers")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": (models or [platform.processor() or platform.machine()])[0],
        "cores": CORES,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def store(name: str, results: Any, tables: str) -> None:  # noqa: ANN401  whatever JSON can hold
    """Print the tables; unless the run was shortened, write them and the raw numbers into `RESULTS`."""
    facts = machine()
    heading = ", ".join(f"{key} {value}" for key, value in facts.items())
    print(tables)
    if SHORTENED:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"# {name}\n\n{heading}\n\n{tables}\n")
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")


def store_figure(name: str, figure: Figure) -> None:
    """Draw into `RESULTS`, unless the run was shortened: then nowhere, but drawn it is."""
    figure.savefig(os.devnull if SHORTENED else RESULTS / f"{name}.png", format="png", dpi=150)
