"""Warming up: queries are asked and thrown away until their time no longer changes."""

from __future__ import annotations

import statistics
import time
from itertools import count

from edgers.benchmark.record import Query, WarmUpRecord
from edgers.benchmark.scenario import Scenario

FEWEST, SHORTEST_MS = 5, 500.0  # queries and time of a window, whose median stands for it
CHANGE = 0.02  # by which chance alone may move a window's median from that of the one before
FIRST = 1 << 32  # their noise is none that is measured with, however long warming up took

_WINDOW = f"{FEWEST} queries and {SHORTEST_MS / 1000:g} s at least"


class Windows:
    """Latencies in windows, one after the other, each with a median."""

    def __init__(self) -> None:
        self.medians: list[float] = []
        self._open: list[float] = []
        self._open_ms = 0.0

    def add(self, query: Query) -> None:
        """One query more; it may complete a window."""
        self._open.append(query.latency_ms)
        self._open_ms += query.latency_ms
        if len(self._open) >= FEWEST and self._open_ms >= SHORTEST_MS:
            self.medians.append(statistics.median(self._open))
            self._open, self._open_ms = [], 0.0

    @property
    def steady(self) -> bool:
        """Whether the newest window's median lies within `CHANGE` of that of the one before."""
        if len(self.medians) < 2:
            return False
        before, newest = self.medians[-2:]
        return abs(newest - before) <= CHANGE * before

    def said(self) -> str:
        """How that was judged."""
        if len(self.medians) < 2:
            return f"not known to be steady: there was no time for two windows of {_WINDOW}; warm up longer"
        before, newest = self.medians[-2:]
        ends = f"{before:.4g}", f"{newest:.4g}"
        if ends[0] == ends[1]:
            return f"steady: the median stayed at {ends[0]} ms between windows of {_WINDOW}"
        medians = f"from {ends[0]} to {ends[1]} ms between windows of {_WINDOW}"
        if self.steady:
            return f"steady: the median went {medians}"
        if newest > before:
            return f"not steady: queries get slower (the median went {medians})"
        return f"not steady, warm up longer: the median went {medians}"


def warm_up(scenario: Scenario, seconds: float) -> tuple[WarmUpRecord, list[Query]]:
    """Ask until it is steady or the time is over, but at least once.

    Args:
        scenario: what is asked.
        seconds: after which no more is asked.

    Returns:
        What was done, and the queries.
    """
    queries: list[Query] = []
    windows, start, spent = Windows(), time.perf_counter(), 0.0

    def keep(query: Query) -> None:
        queries.append(query)
        windows.add(query)

    for number in count(FIRST):
        scenario.ask(number, scenario.samples, keep)
        spent = time.perf_counter() - start
        if spent >= seconds or windows.steady:
            break
    record = WarmUpRecord(queries=len(queries), seconds=spent, steady=windows.steady, said=windows.said())
    return record, queries
