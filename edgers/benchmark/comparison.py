"""Two benchmarks of the same work, before and after: each figure, its ratio, and whether that may be chance.

Query i of both has the same noise where the seeds are equal, so it asks for the same work: as many samples until
a target is decided, as many decode steps. Then query i of A and query i of B are a pair, and are drawn together;
the queries that only the longer run has are left out, for they have no partner. With other seeds all queries of
both count, drawn apart. Pairs are never needed for the interval to hold, they only make it narrower: what is
compared is the figure of B and the figure of A, not the median of ratios.

An interval speaks of what varies within these two runs. What one run has from end to end (where its memory lay,
which neighbour shared the machine) is in no interval; only repeated runs show it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import numpy as np

from edgers.benchmark.block_bootstrap import FEWEST, Figure, Quantile, Rate, ratio_interval, value
from edgers.benchmark.differences import (
    Difference,
    circumstances_differences,
    remarks,
    settings_differences,
)
from edgers.benchmark.record import STAGES, Benchmark, Query, Scenario
from edgers.benchmark.summary import queries_needed, summarise
from edgers_engines.errors import InputError
from edgers_engines.records import Record

_BEYOND = 10  # queries beyond a percentile, without which it has no interval
_ONCE = "one number a run"


class Compared(Record, frozen=True, kw_only=True):
    """One figure of both.

    Attributes:
        name: such as "latency p50".
        unit: of `a` and `b`.
        better: which of two values is.
        a: in the first; None where it has none.
        b: in the second.
        interval: of b / a, at 95%.
        reason: why there is no interval.
    """

    name: str
    unit: str
    better: Literal["lower", "higher"]
    a: float | None
    b: float | None
    interval: tuple[float, float] | None = None
    reason: str | None = None

    @property
    def ratio(self) -> float | None:
        """B over A."""
        return None if not self.a or self.b is None else self.b / self.a

    @property
    def noise(self) -> bool | None:
        """Whether the interval contains 1, so that chance explains the difference; None without an interval."""
        return None if self.interval is None else self.interval[0] <= 1 <= self.interval[1]

    @property
    def slowdown(self) -> tuple[float, float] | None:
        """How many times worse B is than A, as an interval: of a throughput, A over B."""
        if self.interval is None or self.better == "lower":
            return self.interval
        low, high = self.interval
        return 1 / high, 1 / low


class Comparison(Record, frozen=True, kw_only=True):
    """B against A.

    Attributes:
        scenario: of both.
        queries: that were compared, of A and of B.
        paired: whether query i of both has the same noise.
        expected: differences in what was asked, which the caller knew of.
        circumstances: differences in machine, versions and power mode.
        remarks: what makes it worth less.
        figures: in the order of interest.
    """

    scenario: Scenario
    queries: tuple[int, int]
    paired: bool
    expected: tuple[Difference, ...]
    circumstances: tuple[Difference, ...]
    remarks: tuple[str, ...]
    figures: tuple[Compared, ...]

    @property
    def deciding(self) -> Compared:
        """The one figure, named beforehand, that says whether B is slower: throughput or the median latency."""
        name = "samples/s" if self.scenario == "offline" else "latency p50"
        return next(figure for figure in self.figures if figure.name == name)

    def slower_than(self, tolerance: float) -> bool:
        """Whether B is shown to be slower than A by more than a tolerance.

        The rule: the lower end of the 95% interval of the slow-down is above 1 + tolerance; the slow-down is
        that of `deciding`, B / A of the median latency or A / B of the throughput. A true slow-down of just the
        tolerance is reported with a probability of about 2.5%, a larger one with more.

        Args:
            tolerance: a share, such as .05.

        Raises:
            InputError: there are too few queries for an interval, so nothing is decided.
        """
        figure = self.deciding
        if figure.slowdown is None:
            raise InputError(f"whether B is slower cannot be decided: {figure.name}: {figure.reason}")
        return figure.slowdown[0] > 1 + tolerance


def compare_benchmarks(a: Benchmark, b: Benchmark, expected: Collection[str] = ()) -> Comparison:
    """Compare two runs.

    Args:
        a: before.
        b: after.
        expected: fields of the settings that may differ.

    Raises:
        InputError: they differ in another field of the settings, or one has no queries.
    """
    known = settings_differences(a, b, expected)
    if not (a.queries and b.queries):
        raise InputError("a benchmark without queries cannot be compared: measure longer")
    paired = a.settings.seed == b.settings.seed
    count = min(len(a.queries), len(b.queries))
    one, two = (a.queries[:count], b.queries[:count]) if paired else (a.queries, b.queries)
    return Comparison(
        scenario=a.settings.scenario,
        queries=(len(one), len(two)),
        paired=paired,
        expected=known,
        circumstances=circumstances_differences(a, b),
        remarks=remarks(a, b),
        figures=(*_varying(one, two, paired, a.settings.scenario), *_single(a, b)),
    )


Series = Callable[[Sequence[Query]], Sequence[float]]


def _varying(
    one: Sequence[Query], two: Sequence[Query], paired: bool, scenario: Scenario
) -> Iterator[Compared]:
    """The figures that every query has a part in."""

    def quantile(name: str, q: float, series: Series) -> Compared:
        pair = Quantile(np.asarray(series(one), float), q), Quantile(np.asarray(series(two), float), q)
        return _quantile(f"{name} p{q:g}", pair, paired)

    def rate(name: str, done: Series) -> Compared:
        first, second = (Rate(np.asarray(done(run), float), _seconds(run)) for run in (one, two))
        return _compared(name, "1/s", "higher", (first, second), paired, _too_few(first, second, FEWEST))

    for q in (50, 90, 99):
        yield quantile("latency", q, lambda run: [query.latency_ms for query in run])
    yield quantile("time to first token", 50, lambda run: [query.first_token_ms for query in run])
    if scenario == "certify":
        yield quantile("time to certified decision", 50, _decisions)
    for stage in STAGES:
        if any(stage in query.stages_ms for query in (*one, *two)):
            yield quantile(stage, 50, lambda run, stage=stage: [q.stages_ms.get(stage, 0.0) for q in run])  # type: ignore[misc]
    yield rate("samples/s", lambda run: [query.samples for query in run])
    if scenario == "certify":
        yield rate("certificates/s", lambda run: [1.0] * len(run))


def _decisions(run: Sequence[Query]) -> list[float]:
    return [query.latency_ms if query.certified else np.nan for query in run]


def _seconds(run: Sequence[Query]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """From each query's begin to the next one's, of the last to its end: together, the span that was measured."""
    begins = [query.start_ms for query in run]
    return np.diff([*begins, begins[-1] + run[-1].latency_ms]) / 1000


def _quantile(name: str, pair: tuple[Quantile, Quantile], paired: bool) -> Compared:
    needed = queries_needed(pair[0].q)
    counted = [int(np.count_nonzero(~np.isnan(each.values))) for each in pair]
    if min(counted) < needed:
        reason = f"{min(counted)} of the {needed} queries that it takes"
        return Compared(name=name, unit="ms", better="lower", a=None, b=None, reason=reason)
    return _compared(name, "ms", "lower", pair, paired, _too_few_of(min(counted), _BEYOND * needed))


def _too_few(first: Figure, second: Figure, needed: int) -> str | None:
    return _too_few_of(min(first.queries, second.queries), needed)


def _too_few_of(queries: int, needed: int) -> str | None:
    return None if queries >= needed else f"{queries} of the {needed} queries that an interval takes"


def _compared(
    name: str,
    unit: str,
    better: Literal["lower", "higher"],
    pair: tuple[Figure, Figure],
    paired: bool,
    reason: str | None,
) -> Compared:
    first, second = map(value, pair)
    interval = None
    if reason is None:
        interval = ratio_interval(*pair, paired=paired) if first and second else None
        reason = None if interval else "it is 0 in some resamples"
    return Compared(name=name, unit=unit, better=better, a=first, b=second, interval=interval, reason=reason)


def _single(a: Benchmark, b: Benchmark) -> Iterator[Compared]:
    """What a run says once: no interval, so no verdict."""
    yield _energy(a, b)
    for name, field in (("peak memory of the host", "host"), ("peak memory of the GPU", "device")):
        one, two = (getattr(each.memory, f"{field}_peak_bytes") for each in (a, b))
        if one is not None or two is not None:
            yield Compared(name=name, unit="bytes", better="lower", a=one, b=two, reason=_ONCE)


def _energy(a: Benchmark, b: Benchmark) -> Compared:
    certify = a.settings.scenario == "certify"
    each = [
        summary.joules_per_certificate if certify else summary.joules_per_sample
        for summary in map(summarise, (a, b))
    ]
    meters = [f"{run.energy.source} {run.energy.rail}" for run in (a, b) if run.energy.joules is not None]
    if len(set(meters)) > 1:
        each, reason = [None, None], f"other meters: {meters[0]} and {meters[1]}"
    else:
        reason = next((run.energy.reason for run in (a, b) if run.energy.joules is None), None) or _ONCE
    name = "energy per certificate" if certify else "energy per sample"
    return Compared(name=name, unit="J", better="lower", a=each[0], b=each[1], reason=reason)
