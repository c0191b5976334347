"""Warming up: queries are asked and thrown away until they no longer get faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import count

from edgers.benchmark.record import Query, WarmUpRecord
from edgers.benchmark.scenario import Scenario

WINDOW = 5  # queries whose median stands for them
FALL = 0.02  # what a window's median may lie below that of the one before, for rounding's and chance's sake
FIRST = 1 << 32  # their noise is none that is measured with, however long warming up took

_RULE = f"the median of {WINDOW} queries lies at most {FALL:.0%} below that of the {WINDOW} before"


def steady(latencies_ms: Sequence[float]) -> bool:
    """Whether the newest window of queries is no longer faster than the one before.

    Args:
        latencies_ms: of all queries so far, in order.
    """
    if len(latencies_ms) < 2 * WINDOW:
        return False
    newest, before = latencies_ms[-WINDOW:], latencies_ms[-2 * WINDOW : -WINDOW]
    return statistics.median(newest) >= (1 - FALL) * statistics.median(before)


def warm_up(scenario: Scenario, seconds: float) -> tuple[WarmUpRecord, list[Query]]:
    """Ask until it is steady or the time is over, but at least once.

    Args:
        scenario: what is asked.
        seconds: after which no more is asked.

    Returns:
        What was done, and the queries.
    """
    queries: list[Query] = []
    start, spent, latencies = time.perf_counter(), 0.0, list[float]()
    for number in count(FIRST):
        scenario.ask(number, scenario.samples, queries.append)
        latencies = [query.latency_ms for query in queries]
        spent = time.perf_counter() - start
        if spent >= seconds or steady(latencies):
            break
    record = WarmUpRecord(
        queries=len(queries), seconds=spent, steady=steady(latencies), said=_said(latencies, seconds)
    )
    return record, queries


def _said(latencies: Sequence[float], seconds: float) -> str:
    if steady(latencies):
        return f"steady: {_RULE}"
    if len(latencies) < 2 * WINDOW:
        return f"not known to be steady: {seconds:g} s are too short for {2 * WINDOW} queries; warm up longer"
    return f"not steady after {seconds:g} s: not yet that {_RULE}; warm up longer"
