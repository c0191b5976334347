"""Energy and the device's state while a benchmark runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgers_engines.device_state import DeviceState
from edgers_engines.energy import EnergyRecord


class Meter:
    """Reads no source yet."""

    def record(self) -> EnergyRecord:
        """Why nothing is known."""
        return EnergyRecord(joules=None, reason="no source of power is read yet")


@contextmanager
def metering(_device: str) -> Iterator[Meter]:
    """Measures the energy of the block."""
    yield Meter()


def read(_device: str) -> DeviceState:
    """What the device is doing now."""
    missing = dict.fromkeys(
        ("clock of the processor", "temperatures", "throttling", "power mode"), "not read yet"
    )
    return DeviceState(clocks_mhz={}, temperatures_c={}, throttling=None, power_mode=None, missing=missing)


def throttling_between(before: DeviceState, after: DeviceState) -> tuple[str, ...] | None:
    """What slowed the device down at either moment; None where nothing tells."""
    moments = [state.throttling for state in (before, after) if state.throttling is not None]
    return tuple(dict.fromkeys(reason for moment in moments for reason in moment)) if moments else None
