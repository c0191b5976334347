"""Clocks: cpufreq for the processor, devfreq for a Jetson's GPU, NVML for another."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgers_engines.nvml import Nvml
from edgers_engines.sysfs import attempt, listing, read_integer

_POLICIES = "sys/devices/system/cpu/cpufreq"
_DEVFREQ = "sys/class/devfreq"
_TEGRA_GPUS = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")  # in the names of their devices, Nano to Thor


def processor_mhz(root: Path, missing: dict[str, str]) -> dict[str, float]:
    """Of each group of cores that share a clock, by its first core."""
    policies = listing(root / _POLICIES, "policy*")
    if not policies:
        missing["clock of the processor"] = f"there is no cpufreq under {root / _POLICIES}"
    files = {f"cpu{policy.name.removeprefix('policy')}": policy / "scaling_cur_freq" for policy in policies}
    return _clocks(files, 1e3, missing)


def gpu_mhz(root: Path, gpu: Nvml | None, missing: dict[str, str]) -> dict[str, float]:
    """Of the GPU: a Jetson's by its devices' own names where it has several clocks."""
    devices = [
        device for device in listing(root / _DEVFREQ, "*") if any(name in device.name for name in _TEGRA_GPUS)
    ]
    if devices or gpu is None:
        files = {device.name if devices[1:] else "gpu": device / "cur_freq" for device in devices}
        return _clocks(files, 1e6, missing)
    return attempt(missing, "clock of gpu", gpu.clocks_mhz) or {}


def _clocks(files: dict[str, Path], unit: float, missing: dict[str, str]) -> dict[str, float]:
    """In MHz, from numbers in hertz by this unit."""
    found = {
        name: attempt(missing, f"clock of {name}", partial(read_integer, file))
        for name, file in files.items()
    }
    return {name: number / unit for name, number in found.items() if number is not None}
