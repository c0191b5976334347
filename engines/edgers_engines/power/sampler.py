"""Readings of a source in a thread of its own, and what follows from them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import pairwise

from edgers_engines.power.source import EndedError, Source
from edgers_engines.sysfs import UnreadableError

Reading = tuple[float, float]  # seconds of the monotonic clock, and the value


class Sampler:
    """Reads a source from `start` to `stop`: at once, in each interval, and at the end.

    Attributes:
        readings: those that succeeded, in order.
        failed: how many did not.
        why: what the last of these said.
        whole: whether the first and the last of all succeeded.
        dried_up: whether the source ended, after which it is not read.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
        self.readings: list[Reading] = []
        self.failed, self.why, self.whole, self.dried_up = 0, "", True, False
        self._newest, self._succeeded = 0.0, True  # when the thread last tried, and whether it got one

    def start(self) -> None:
        """Take the first reading, then go on beside the caller."""
        self.whole = self._take()
        self._thread.start()

    def stop(self) -> None:
        """Take the last reading, after which nothing is read.

        Where a reading was being waited for, it is the last: a source that hangs is not waited for again.
        """
        asked = time.monotonic()
        self._ended.set()
        self._thread.join()
        if self.dried_up or not (self._source.waits and self._newest >= asked):
            self._succeeded = not self.dried_up and self._take()
        self.whole = self._succeeded and self.whole

    def _run(self) -> None:
        pause = 0.0 if self._source.waits else self._source.interval_ms / 1e3
        while not self.dried_up and not self._ended.wait(pause):
            self._succeeded, self._newest = self._take(), time.monotonic()

    def _take(self) -> bool:
        before = time.monotonic()
        try:
            value = self._source.read()
        except Exception as error:  # noqa: BLE001  whatever it is, what is measured meanwhile must not be lost
            unexpected = "" if isinstance(error, UnreadableError) else f"{type(error).__name__}: "
            self.failed, self.why = self.failed + 1, f"{unexpected}{error}"
            self.dried_up = isinstance(error, EndedError)
            if self._source.waits and not self.dried_up:  # which it may not have done now
                self._ended.wait(self._source.interval_ms / 1e3)
            return False
        after = time.monotonic()
        self.readings.append((after if self._source.waits else (before + after) / 2, value))
        return True


def integral(readings: Sequence[Reading], start: float, end: float) -> float:
    """The area under the line through the readings, between two moments: the trapezoid rule.

    Before the first reading and after the last the line is level.

    Args:
        readings: at least one, by time.
        start: seconds of the same clock.
        end: not before it.
    """
    (first, early), (last, late) = readings[0], readings[-1]
    line = [(min(start, first), early), *readings, (max(end, last), late)]
    return sum(_slice(a, b, start, end) for a, b in pairwise(line))


def _slice(a: Reading, b: Reading, start: float, end: float) -> float:
    """The area under the piece from a to b, as far as it lies between start and end."""
    left, right = max(a[0], start), min(b[0], end)
    if right <= left:
        return 0.0
    slope = (b[1] - a[1]) / (b[0] - a[0])
    middle = a[1] + slope * ((left + right) / 2 - a[0])
    return middle * (right - left)
