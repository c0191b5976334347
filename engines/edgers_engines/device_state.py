"""What the device was doing: clocks, temperatures, throttling, power mode."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgers_engines.device import gpu_number
from edgers_engines.fields import NonNegative
from edgers_engines.nvml import Nvml
from edgers_engines.records import Record
from edgers_engines.state.clocks import gpu_mhz, processor_mhz
from edgers_engines.state.power_mode import power_mode
from edgers_engines.state.temperatures import temperatures_c
from edgers_engines.state.throttling import throttle_counts, throttling_now
from edgers_engines.sysfs import UnreadableError


class DeviceState(Record, frozen=True, kw_only=True):
    """At one moment; what could not be read is in `missing`, with the reason, and nowhere else.

    Attributes:
        clocks_mhz: by name, such as "cpu0" and "gpu".
        temperatures_c: by the sensor's name.
        throttling: why the device runs slower than it might, as it says itself; empty where it says it does
            not; None where it does not say.
        throttle_counts: how often it was slowed down since it was started, by cause; empty where nobody
            counts.
        power_mode: such as "MAXN" or the processor's governor.
        missing: what could not be read, and why.
    """

    clocks_mhz: dict[str, float]
    temperatures_c: dict[str, float]
    throttling: tuple[str, ...] | None
    throttle_counts: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    power_mode: str | None
    missing: dict[str, str]


def read(device: str = "cpu", *, root: Path = Path("/")) -> DeviceState:
    """The state now, in some milliseconds; on a Jetson a program is run for the power mode.

    Args:
        device: that the model runs on: "cpu" or "cuda:N".
        root: of the file system.

    Raises:
        InputError: there is no device of that name.
    """
    missing: dict[str, str] = {}
    gpu = _gpu(device, missing)
    try:
        clocks = processor_mhz(root, missing) | gpu_mhz(root, gpu, missing)
        temperatures = temperatures_c(root, gpu, missing)
        throttling = throttling_now(root, gpu, missing)
    finally:
        if gpu is not None:
            gpu.close()
    counts = throttle_counts(root, missing)
    if throttling is None and not counts:
        missing.setdefault("throttling", "neither cooling devices nor counters nor NVML tell")
    return DeviceState(
        clocks_mhz=clocks,
        temperatures_c=temperatures,
        throttling=throttling,
        throttle_counts={name: float(count) for name, count in counts.items()},
        power_mode=power_mode(root, missing),
        missing=missing,
    )


def throttling_between(before: DeviceState, after: DeviceState) -> tuple[str, ...] | None:
    """What slowed the device down at either moment, or was counted in between; None where nothing tells.

    What began and ended in between is seen by counters only.
    """
    moments = [state.throttling for state in (before, after) if state.throttling is not None]
    names = before.throttle_counts.keys() & after.throttle_counts.keys()
    if not moments and not names:
        return None
    steps = {name: after.throttle_counts[name] - before.throttle_counts[name] for name in sorted(names)}
    counted = [
        f"{name}: {step:g} events" if step > 0 else f"{name}: the counter went back"
        for name, step in steps.items()
        if step
    ]
    return tuple(dict.fromkeys([*(reason for moment in moments for reason in moment), *counted]))


def _gpu(device: str, missing: dict[str, str]) -> Nvml | None:
    if gpu_number(device) is None:
        return None
    try:
        return Nvml(device)
    except UnreadableError as error:
        missing["NVML"] = str(error)
        return None
