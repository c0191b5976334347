"""What follows from a benchmark's queries. Nothing is extrapolated: what too few queries show is None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgers.benchmark.record import STAGES, Benchmark, Query

PERCENTILES = (50, 90, 95, 99)

OTHER = "other"  # the part of a query's time that is in no stage


def queries_needed(percentile: float) -> int:
    """The fewest values that have such a percentile other than their largest."""
    return math.ceil(round(100 / (100 - percentile), 9))


def percentile(values: Sequence[float], q: float) -> float | None:
    """The nearest-rank percentile: the smallest value that at least q% of the values do not exceed.

    It is always one of the values (numpy's "inverted_cdf"). None where there are fewer than `queries_needed`.

    Args:
        values: in any order.
        q: above 0 and below 100.
    """
    if len(values) < queries_needed(q):
        return None
    return sorted(values)[math.ceil(round(len(values) * q / 100, 9)) - 1]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Some times, in milliseconds.

    Attributes:
        count: how many; at least 1.
        percentiles: each of `PERCENTILES`, or None where there are too few.
        largest: of all.
    """

    count: int
    percentiles: dict[int, float | None]
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution | None:
        """The distribution of some values; None where there are none."""
        if not values:
            return None
        return cls(len(values), {q: percentile(values, q) for q in PERCENTILES}, max(values))


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a query.

    Attributes:
        name: one of `STAGES`, or `OTHER`.
        share: of the latency of all queries.
        times: of its time in each query.
    """

    name: str
    share: float
    times: Distribution


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one benchmark.

    Attributes:
        seconds: from the first query's begin to the last one's end.
        latency: of all queries.
        first_token: until the first token.
        decode_step: of each query, the time of its decoding divided by its decode steps; None where every
            answer ended with the token of the prefill.
        tokens: new tokens that a batch is computed for, on average: the prefill's, and one a decode step. Its
            longest answer has so many; how long each sample's is, is not recorded.
        decision: latencies of the queries that certified; None where none did, or in other scenarios.
        certified: how many that are; None in other scenarios.
        samples_per_second: all samples, by `seconds`.
        certificates_per_second: all queries, certified or not, by `seconds`; None in other scenarios.
        stages: in their order, then what is in none.
        joules_per_sample: None where the energy is not known.
        joules_per_certificate: as above, and in other scenarios.
    """

    seconds: float
    latency: Distribution
    first_token: Distribution
    decode_step: Distribution | None
    tokens: float
    decision: Distribution | None
    certified: int | None
    samples_per_second: float
    certificates_per_second: float | None
    stages: tuple[Stage, ...]
    joules_per_sample: float | None
    joules_per_certificate: float | None


def summarise(benchmark: Benchmark) -> Summary:
    """The figures of a benchmark with at least one query."""
    queries, joules = benchmark.queries, benchmark.energy.joules
    certify = benchmark.settings.scenario == "certify"
    decided = [query.latency_ms for query in queries if query.certified]
    seconds = (queries[-1].start_ms + queries[-1].latency_ms - queries[0].start_ms) / 1000
    samples = sum(query.samples for query in queries)
    return Summary(
        seconds=seconds,
        latency=_distribution([query.latency_ms for query in queries]),
        first_token=_distribution([query.first_token_ms for query in queries]),
        decode_step=Distribution.of(
            [q.stages_ms.get("decode", 0.0) / q.decode_steps for q in queries if q.decode_steps]
        ),
        tokens=1 + sum(query.decode_steps for query in queries) / _batches(benchmark),
        decision=Distribution.of(decided),
        certified=len(decided) if certify else None,
        samples_per_second=samples / seconds,
        certificates_per_second=len(queries) / seconds if certify else None,
        stages=_stages(queries),
        joules_per_sample=None if joules is None else joules / samples,
        joules_per_certificate=None if joules is None or not certify else joules / len(queries),
    )


def _batches(benchmark: Benchmark) -> int:
    """Of all queries; a certificate's selection has batches of its own."""
    asked, queries = benchmark.settings, benchmark.queries
    if asked.scenario != "certify":
        return len(queries)
    parts = [(min(q.samples, asked.selection), max(q.samples - asked.selection, 0)) for q in queries]
    return sum(-(-samples // asked.batch_size) for both in parts for samples in both)


def _stages(queries: Sequence[Query]) -> tuple[Stage, ...]:
    total = sum(query.latency_ms for query in queries)
    times = {
        name: [query.stages_ms.get(name, 0.0) for query in queries]
        for name in STAGES
        if any(name in query.stages_ms for query in queries)
    }
    times[OTHER] = [max(query.latency_ms - sum(query.stages_ms.values()), 0.0) for query in queries]
    return tuple(Stage(name, sum(each) / total, _distribution(each)) for name, each in times.items())


def _distribution(values: Sequence[float]) -> Distribution:
    found = Distribution.of(values)
    if found is None:
        raise ValueError("a benchmark has at least one query")
    return found
