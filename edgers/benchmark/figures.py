"""The figures that two benchmarks are compared by, each as a function of the queries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgers.benchmark.block_bootstrap import FEWEST, Figure, Floats, Quantile, Rate
from edgers.benchmark.record import Query, Scenario
from edgers.benchmark.summary import queries_needed

BEYOND = 10  # queries beyond a percentile, without which it has no interval

Run = Sequence[Query]


@dataclass(frozen=True, slots=True)
class Measure:
    """How a figure follows from the queries of a run.

    Attributes:
        name: such as "latency p50".
        unit: of its values.
        better: which of two values is.
        of: the figure of some queries.
        needed: the fewest that have such a figure.
        needed_for_interval: the fewest that say how sure it is.
    """

    name: str
    unit: str
    better: Literal["lower", "higher"]
    of: Callable[[Run], Figure]
    needed: int
    needed_for_interval: int


def measures(scenario: Scenario, stages: Collection[str]) -> Iterator[Measure]:
    """In the order of interest.

    Args:
        scenario: of both runs.
        stages: that either run timed, in their order.
    """
    for q in (50, 90, 99):
        yield _quantile("latency", q, lambda query: query.latency_ms)
    yield _quantile("time to first token", 50, lambda query: query.first_token_ms)
    if scenario == "certify":
        yield _quantile("time to certified decision", 50, _decision)
    for stage in stages:
        yield _quantile(stage, 50, _time_of(stage))
    yield _rate("samples/s", lambda query: query.samples)
    if scenario == "certify":
        yield _rate("certificates/s", lambda _query: 1)


def _decision(query: Query) -> float:
    return query.latency_ms if query.certified else np.nan


def _time_of(stage: str) -> Callable[[Query], float]:
    return lambda query: query.stages_ms.get(stage, 0.0)


def _quantile(name: str, q: float, milliseconds: Callable[[Query], float]) -> Measure:
    needed = queries_needed(q)
    return Measure(
        name=f"{name} p{q:g}",
        unit="ms",
        better="lower",
        of=lambda run: Quantile(np.asarray([milliseconds(query) for query in run], float), q),
        needed=needed,
        needed_for_interval=BEYOND * needed,
    )


def _rate(name: str, done: Callable[[Query], float]) -> Measure:
    return Measure(
        name=name,
        unit="1/s",
        better="higher",
        of=lambda run: Rate(np.asarray([done(query) for query in run], float), _seconds(run)),
        needed=1,
        needed_for_interval=FEWEST,
    )


def _seconds(run: Run) -> Floats:
    """From each query's begin to the next one's, of the last to its end: together, the measured span."""
    begins = [query.start_ms for query in run]
    return np.asarray(np.diff([*begins, begins[-1] + run[-1].latency_ms]) / 1000)
