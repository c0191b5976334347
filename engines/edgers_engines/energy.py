"""Energy that the device took while something ran."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from edgers_engines.device import gpu_number
from edgers_engines.fields import NonNegative
from edgers_engines.power.ina3221 import Ina3221
from edgers_engines.power.jtop import Jtop
from edgers_engines.power.nvml import open_nvml
from edgers_engines.power.rapl import Rapl
from edgers_engines.power.sampler import Sampler, integral
from edgers_engines.power.source import PowerSource, Site, Source
from edgers_engines.power.tegrastats import Tegrastats
from edgers_engines.records import Record
from edgers_engines.sysfs import UnreadableError

# In the order in which they are tried: first the whole module's sensors, then single chips' counters.
SOURCES: tuple[tuple[str, Callable[[Site], Source]], ...] = (
    ("INA3221", Ina3221),
    ("tegrastats", Tegrastats),
    ("jtop", Jtop),
    ("NVML", open_nvml),
    ("RAPL", Rapl),
)
MOST_WATTS = 4096  # in a record; days of readings would make a file that is too long to be read back
_FEW = 3  # readings that may fail without a word
_LATE = 0.01  # share of the time of interest that a counter may be read after it
_GAP = 2.0  # seconds without a reading that may pass without a word


class EnergyRecord(Record, frozen=True, kw_only=True):
    """Energy of a span of time, or why it is not known; never 0 for what nobody measured.

    Attributes:
        joules: over the whole span.
        source: what measured it, such as "INA3221".
        rail: what it is the energy of, such as "VDD_IN" (the whole module) or "package-0" (processor only).
        reason: why there are no joules, one clause for each source that was tried; beside joules, what is
            doubtful about them.
        interval_ms: between two of the watts, as far as the source keeps to it.
        watts: the readings, where the source gives power; every second, third, ... where they would be more
            than `MOST_WATTS`. The joules are of all.
        seconds: when each of the watts was read, since the span began; the first was just before it, at 0.
            Older records have none.
    """

    joules: NonNegative | None
    source: str | None = None
    rail: str | None = None
    reason: str | None = None
    interval_ms: NonNegative | None = None
    watts: tuple[NonNegative, ...] = ()
    seconds: tuple[NonNegative, ...] = ()

    def __post_init__(self) -> None:
        """Refuse times that are not those of the watts."""
        if self.seconds and len(self.seconds) != len(self.watts):
            raise ValueError(f"{len(self.seconds)} times of {len(self.watts)} readings: each has one")


class Meter:
    """Measures from `start` to `stop`, if there is anything to measure with.

    Args:
        source: what to read; the caller closes it.
        reason: why there is no source, if there is none.
    """

    def __init__(self, source: Source | None, reason: str | None = None) -> None:
        self._source, self._reason = source, reason
        self._sampler = None if source is None else Sampler(source)
        self._start = self._end = 0.0

    def start(self) -> None:
        """Begin the span, after a first reading."""
        if self._sampler is not None:
            self._sampler.start()
        self._start = time.monotonic()

    def stop(self) -> None:
        """End the span, then take a last reading."""
        self._end = time.monotonic()
        if self._sampler is not None:
            self._sampler.stop()

    def record(self, until: float | None = None) -> EnergyRecord:
        """The energy of the span, which has ended.

        Args:
            until: a moment of time.monotonic in the span, where what is of interest in it ended. Power is
                integrated until then. A counter was not read then: it gives no energy where the span went on.
        """
        end = self._end if until is None else until
        if self._source is None or self._sampler is None:
            return EnergyRecord(joules=None, reason=self._reason)
        if isinstance(self._source, PowerSource):
            return _by_power(self._source, self._sampler, self._start, end)
        if self._end - end > _LATE * (end - self._start):
            return _nothing(
                self._source, f"it counted on for {self._end - end:.3g} s after what was measured"
            )
        return _by_count(self._source, self._sampler)


@contextmanager
def metering(device: str = "cpu", *, root: Path = Path("/"), interval_ms: float = 100.0) -> Iterator[Meter]:
    """Measure what the block takes; ask the meter for its record after the block.

    Args:
        device: that the model runs on: "cpu" or "cuda:N". A GPU's counter says nothing of a model on the
            processor, nor the other way round; a Jetson's rails hold both.
        root: of the file system.
        interval_ms: between two readings of power.

    Raises:
        InputError: there is no device of that name.
    """
    gpu_number(device)
    source, reason = open_source(Site(device, root, interval_ms))
    try:
        meter = Meter(source, reason)
        meter.start()
        try:
            yield meter
        finally:
            meter.stop()
    finally:
        if source is not None:
            source.close()


def open_source(site: Site) -> tuple[Source | None, str | None]:
    """The first source that measures here, to be closed by the caller; or None, and why each does not."""
    reasons = []
    for name, make in SOURCES:
        try:
            return make(site), None
        except UnreadableError as error:  # noqa: PERF203  five sources, once
            reasons.append(f"{name}: {error}")
    return None, "; ".join(reasons)


def _by_power(source: Source, sampler: Sampler, start: float, end: float) -> EnergyRecord:
    before = sum(moment < end for moment, _ in sampler.readings)
    kept = sampler.readings[: max(before + 1, 2)]  # one reading after the end
    failed = _failed(sampler)
    if len(kept) < 2 or sampler.failed > len(kept):
        return _nothing(source, failed)
    if sampler.dried_up and end - sampler.readings[-1][0] > (end - start) / 2:
        return _nothing(source, f"{sampler.why} before half of the time was over")
    joules = integral(sampler.readings, start, end)
    if joules == 0:
        return _nothing(source, "it read 0 W all the time")
    every = -(-len(kept) // MOST_WATTS)
    return EnergyRecord(
        joules=joules,
        source=source.name,
        rail=source.rail,
        reason="; ".join(_doubts(sampler, start, end)) or None,
        interval_ms=every * source.interval_ms,
        watts=tuple(value for _, value in kept[::every]),
        seconds=tuple(round(max(moment - start, 0.0), 6) for moment, _ in kept[::every]),
    )


def _by_count(source: Source, sampler: Sampler) -> EnergyRecord:
    counts = [value for _, value in sampler.readings]
    if not sampler.whole:
        return _nothing(source, _failed(sampler))
    if counts != sorted(counts):
        return _nothing(source, "its counter went back")
    if counts[0] == counts[-1]:
        return _nothing(source, "its counter did not move in so short a time")
    return EnergyRecord(joules=counts[-1] - counts[0], source=source.name, rail=source.rail)


def _doubts(sampler: Sampler, start: float, end: float) -> Iterator[str]:
    """What was bridged, as far as it is worth a word."""
    if sampler.failed > _FEW:
        yield f"{_failed(sampler)}; the others bridge them"
    if sampler.dried_up and sampler.readings[-1][0] < end:
        early = end - sampler.readings[-1][0]
        yield f"{sampler.why}; its last reading stands for the last {early:.1f} s"
    times = [start, *(time for time, _ in sampler.readings), end]
    gap = max(after - before for before, after in pairwise(times))
    if gap > _GAP:
        yield f"no reading for {gap:.1f} s, which the readings around it bridge"


def _failed(sampler: Sampler) -> str:
    tried = sampler.failed + len(sampler.readings)
    return f"{sampler.failed} of {tried} readings failed ({sampler.why})"


def _nothing(source: Source, reason: str) -> EnergyRecord:
    return EnergyRecord(joules=None, source=source.name, rail=source.rail, reason=f"{source.name}: {reason}")
