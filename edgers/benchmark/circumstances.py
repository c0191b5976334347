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
def metering() -> Iterator[Meter]:
    """Measures the energy of the block."""
    yield Meter()


def state() -> DeviceState:
    """What the device is doing now."""
    missing = dict.fromkeys(("clocks", "temperatures", "throttling", "power mode"), "not read yet")
    return DeviceState(clocks_mhz={}, temperatures_c={}, throttling=None, power_mode=None, missing=missing)
