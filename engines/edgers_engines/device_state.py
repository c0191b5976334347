"""What the device was doing: clocks, temperatures, throttling, power mode."""

from __future__ import annotations

from edgers_engines.records import Record


class DeviceState(Record, frozen=True, kw_only=True):
    """At one moment; what could not be read is in `missing`, with the reason, and nowhere else.

    Attributes:
        clocks_mhz: by name, such as "cpu0" and "gpu".
        temperatures_c: by the sensor's name.
        throttling: why the device runs slower than it might, as it says itself; empty where it says it does
            not; None where it does not say.
        power_mode: such as "MAXN" or the processor's governor.
        missing: what could not be read, and why.
    """

    clocks_mhz: dict[str, float]
    temperatures_c: dict[str, float]
    throttling: tuple[str, ...] | None
    power_mode: str | None
    missing: dict[str, str]
