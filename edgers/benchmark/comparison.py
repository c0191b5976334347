"""Two benchmarks of the same work, before and after: each figure, its ratio, and whether that may be chance.

Query i of both has the same noise where the seeds are equal, so it asks for the same work: as many samples
until a target is decided, as many decode steps. Then query i of A and query i of B are a pair, and are
drawn together; the queries that only the longer run has are left out, for they have no partner. With other
seeds all queries of both count, drawn apart. Pairs are never needed for the interval to hold, they only
make it narrower: what is compared is the figure of B and the figure of A, not the median of ratios.

An interval speaks of what varies within these two runs. What one run has from end to end (where its memory
lay, which neighbour shared the machine) is in no interval; only repeated runs show it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from msgspec.structs import replace

from edgers.benchmark.block_bootstrap import Figure, ratio_interval, value
from edgers.benchmark.differences import (
    Difference,
    circumstances_differences,
    remarks,
    settings_differences,
)
from edgers.benchmark.figures import Measure, Run, measures
from edgers.benchmark.record import STAGES, Benchmark, Scenario
from edgers.benchmark.summary import summarise
from edgers_engines.errors import InputError
from edgers_engines.records import Record

DECIDES = 100  # queries; of fewer, correlated ones the interval misses too often to fail anybody by it

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
        """Whether the interval contains 1, so that chance explains it; None without an interval."""
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
        measured: queries that there are in A and in B; of pairs the longer run has more than were compared.
        paired: whether query i of both has the same noise.
        expected: differences in what was asked, which the caller knew of.
        circumstances: differences in machine, versions and power mode.
        remarks: what makes it worth less.
        figures: in the order of interest.
    """

    scenario: Scenario
    queries: tuple[int, int]
    measured: tuple[int, int]
    paired: bool
    expected: tuple[Difference, ...]
    circumstances: tuple[Difference, ...]
    remarks: tuple[str, ...]
    figures: tuple[Compared, ...]

    @property
    def deciding(self) -> Compared:
        """The one figure, named beforehand, that decides: throughput (offline) or the median latency."""
        name = "samples/s" if self.scenario == "offline" else "latency p50"
        return next(figure for figure in self.figures if figure.name == name)

    def slower_than(self, tolerance: float) -> bool:
        """Whether B is shown to be slower than A by more than a tolerance.

        The rule: the lower end of the 95% interval of the slow-down is above 1 + tolerance. The slow-down is
        that of `deciding`: B / A of the median latency, A / B of the throughput. One of just the tolerance is
        reported with a probability of about 2.5%, a larger one with more; of short runs whose latencies hang
        together with several times as much, so it takes `DECIDES` queries.

        Args:
            tolerance: a share, such as .05.

        Raises:
            InputError: there are too few queries for an interval, so nothing is decided.
        """
        figure = self.deciding
        if figure.slowdown is None:
            raise InputError(f"whether B is slower cannot be decided: {figure.name}: {figure.reason}")
        if min(self.queries) < DECIDES:
            raise InputError(
                f"whether B is slower cannot be decided: {min(self.queries)} of the {DECIDES} queries that a "
                "decision takes: measure longer"
            )
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
        measured=(len(a.queries), len(b.queries)),
        paired=paired,
        expected=known,
        circumstances=circumstances_differences(a, b),
        remarks=remarks(a, b),
        figures=(*_varying(one, two, paired, a.settings.scenario), *_single(a, b)),
    )


def _varying(one: Run, two: Run, paired: bool, scenario: Scenario) -> Iterator[Compared]:
    """The figures that every query has a part in."""
    stages = [stage for stage in STAGES if any(stage in query.stages_ms for query in (*one, *two))]
    for measure in measures(scenario, stages):
        yield _compared(measure, measure.of(one), measure.of(two), paired)


def _compared(measure: Measure, first: Figure, second: Figure, paired: bool) -> Compared:
    found = Compared(name=measure.name, unit=measure.unit, better=measure.better, a=None, b=None)
    counted = min(first.counted, second.counted)
    if counted < measure.needed:
        return replace(found, reason=f"{counted} of the {measure.needed} queries that it takes")
    found = replace(found, a=value(first), b=value(second))
    if counted < (needed := measure.needed_for_interval):
        return replace(found, reason=f"{counted} of the {needed} queries that an interval takes")
    interval = ratio_interval(first, second, paired=paired) if found.a and found.b else None
    return replace(found, interval=interval, reason=None if interval else "some resamples have none, or 0")


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
