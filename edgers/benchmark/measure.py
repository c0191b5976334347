"""One benchmark from the first query that warms up to the last that counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from msgspec.structs import replace

from edgers.benchmark.record import Query, WarmUpRecord
from edgers.benchmark.scenario import Keep, Scenario
from edgers.benchmark.warm_up import warm_up
from edgers_engines.device_state import DeviceState, read
from edgers_engines.energy import EnergyRecord, metering
from edgers_engines.errors import EdgersError, printable, short

AT_LEAST = 5  # queries, however long they take
AT_MOST = 50_000  # however short they are: a file of more could not be read back
INTERRUPTED = "interrupted"  # by Ctrl-C
WARM_UP_BATCHES = 4  # of a pool, which may be too large to be asked for only to warm up

# Asks a scenario, keeping every query; it has seen those that warmed up.
Drive = Callable[[Scenario, Sequence[Query], Keep], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """The queries, and what was seen of the device while they were asked; see `Benchmark`.

    The energy is of the time until the last query was answered, however long whatever asked went on.

    Attributes:
        ended_early: why nothing more was asked: `INTERRUPTED`, the error's text, or None if all was.
    """

    started_at: str
    warm_up: WarmUpRecord
    queries: tuple[Query, ...]
    energy: EnergyRecord
    before: DeviceState
    after: DeviceState
    ended_early: str | None


def measure(scenario: Scenario, drive: Drive, warm_up_seconds: float) -> Measured:
    """Warm up, then measure.

    Args:
        scenario: what is asked.
        drive: how.
        warm_up_seconds: the longest that warming up takes.

    Returns:
        The measurement; if Ctrl-C or an error ended it, of the queries that were answered by then.

    Raises:
        KeyboardInterrupt: Ctrl-C, before the first was.
        EdgersError, OSError, MemoryError: likewise.
    """
    device = scenario.engine.device
    warmed, first = warm_up(_FewBatches(scenario), warm_up_seconds)
    queries: list[Query] = []
    ended_early, ended = None, 0.0

    def keep(query: Query) -> None:
        nonlocal ended
        ended = time.monotonic()
        queries.append(query)

    before = read(device)
    started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    with metering(device) as meter:
        try:
            drive(scenario, first, keep)
        except (KeyboardInterrupt, EdgersError, OSError, MemoryError) as error:
            if not queries:
                raise
            ended_early = _why(error)
    return Measured(
        started_at=started_at,
        warm_up=warmed,
        queries=_from_zero(queries),
        energy=meter.record(until=ended),
        before=before,
        after=read(device),
        ended_early=ended_early,
    )


class _FewBatches:
    """A scenario that asks for no more than a few batches at once."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario, self.engine = scenario, scenario.engine
        self.batch_size = scenario.batch_size
        self.samples = min(scenario.samples, WARM_UP_BATCHES * scenario.batch_size)

    def ask(self, number: int, samples: int, keep: Keep) -> None:
        """See `Scenario.ask`."""
        self._scenario.ask(number, samples, keep)


def in_turn(seconds: float) -> Drive:
    """One asking after the other, for so long, with `AT_LEAST` queries and no more than `AT_MOST`."""

    def drive(scenario: Scenario, _first: Sequence[Query], keep: Keep) -> None:
        answered = number = 0

        def counted(query: Query) -> None:
            nonlocal answered
            answered += 1
            keep(query)

        each = -(-scenario.samples // scenario.batch_size)
        end = time.perf_counter() + seconds
        while (time.perf_counter() < end and answered + each <= AT_MOST) or answered < AT_LEAST:
            scenario.ask(number, scenario.samples, counted)
            number += 1

    return drive


def _why(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory ({said})" if said else "out of memory"
    return short(printable(said))


def _from_zero(queries: Sequence[Query]) -> tuple[Query, ...]:
    """The same with times since the first began."""
    return tuple(replace(query, start_ms=round(query.start_ms - queries[0].start_ms, 6)) for query in queries)
