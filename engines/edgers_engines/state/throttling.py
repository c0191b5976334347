"""What slows the device down: cooling devices at work, NVML's reasons, and counters of events since boot."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from edgers_engines.nvml import Nvml
from edgers_engines.sysfs import UnreadableError, attempt, listing, read_integer, read_text

# Cooling devices that slow something down. Fans do not, and TCC Offset is a setting.
_SLOWING = re.compile(
    r"(?i)throttl|cpufreq|devfreq|cpuidle|processor|powerclamp|(cpu|gpu|emergency)[-_](balanced|heavy)"
)
_CORES = "sys/devices/system/cpu"


def throttling_now(root: Path, gpu: Nvml | None, missing: dict[str, str]) -> tuple[str, ...] | None:
    """What is slowed down, and by how many of how many steps; None where nothing says so."""
    says = [
        attempt(missing, f"throttling by {device.name}", partial(_cooling, device))
        for device in listing(root / "sys/class/thermal", "cooling_device*")
    ]
    if gpu is not None:
        says.append(attempt(missing, "throttling of gpu", gpu.slowed_by))
    known = [reasons for reasons in says if reasons is not None]
    return tuple(reason for reasons in known for reason in reasons) if known else None


def throttle_counts(root: Path, missing: dict[str, str]) -> dict[str, int]:
    """Events since boot: a Jetson's over-current alarms, and an x86 processor's thermal throttling."""
    alarms = listing(root / "sys/class/hwmon", "hwmon*/oc*_event_cnt")
    files = {f"over-current {file.name.removesuffix('_event_cnt')}": [file] for file in alarms}
    for part in ("core", "package"):
        if there := listing(root / _CORES, f"cpu*/thermal_throttle/{part}_throttle_count"):
            files[f"processor {part}"] = there
    counts = {
        name: attempt(missing, f"throttling count of {name}", partial(_sum, group))
        for name, group in files.items()
    }
    return {name: count for name, count in counts.items() if count is not None}


def _cooling(device: Path) -> tuple[str, ...] | None:
    """What this device slows down now; None if slowing down is not its way."""
    name = read_text(device / "type")
    if not _SLOWING.search(name):
        return None
    steps = read_integer(device / "cur_state")
    if steps <= 0:  # -1 is an idle intel_powerclamp
        return ()
    try:
        return (f"{name}: {steps} of {read_integer(device / 'max_state')}",)
    except UnreadableError:
        return (f"{name}: {steps}",)


def _sum(files: list[Path]) -> int:
    return sum(read_integer(file) for file in files)
