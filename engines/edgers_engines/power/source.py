"""What a source of energy is: something to read that is open until it is closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from edgers_engines.sysfs import UnreadableError


class EndedError(UnreadableError):
    """There is no reading, and there will be none."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where to measure, and for what.

    Attributes:
        device: that the model runs on: "cpu" or "cuda:N".
        root: of the file system.
        interval_ms: between two readings of power.
    """

    device: str
    root: Path
    interval_ms: float


class Source(ABC):
    """Open from its making until `close`.

    Attributes:
        name: of what measures.
        rail: what it is the energy of.
        interval_ms: between two readings.
        waits: whether `read` itself waits for the next reading.
    """

    name: str
    rail: str
    interval_ms: float
    waits: bool = False

    @abstractmethod
    def read(self) -> float:
        """One reading.

        Raises:
            UnreadableError: there is none now; the next may succeed, except after an EndedError.
        """

    def close(self) -> None:  # noqa: B027  most sources are files, which nobody holds open
        """Let go of what it holds."""


class PowerSource(Source):
    """Reads watts."""


class EnergyCounter(Source):
    """Reads joules, counted from a moment that stays the same; read often enough to see it wrap around."""
