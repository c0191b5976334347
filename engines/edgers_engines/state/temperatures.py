"""Temperatures: the kernel's thermal zones, hwmon where there are none, and NVML for a GPU."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from edgers_engines.nvml import Nvml
from edgers_engines.sysfs import UnreadableError, attempt, listing, read_integer, read_text

_ZONES, _HWMON = "sys/class/thermal", "sys/class/hwmon"
_COLDEST = -55.0  # of what sensors measure; below it is a code for "switched off" (-256 on Jetson)


def temperatures_c(root: Path, gpu: Nvml | None, missing: dict[str, str]) -> dict[str, float]:
    """By the sensor's name, with its file's where several have one name."""
    sensors = _zones(root) or _hwmon(root)
    if not sensors:
        missing["temperatures"] = f"there are no sensors under {root / _ZONES} or {root / _HWMON}"
    often = Counter(name for _, name in sensors)
    named = {name if often[name] == 1 else f"{name} ({file.parent.name})": file for file, name in sensors}
    found = {
        name: attempt(missing, f"temperature of {name}", partial(_celsius, file))
        for name, file in named.items()
    }
    if gpu is not None:
        found["gpu (NVML)"] = attempt(missing, "temperature of gpu (NVML)", gpu.temperature_c)
    return {name: celsius for name, celsius in found.items() if celsius is not None}


def _celsius(file: Path) -> float:
    celsius = read_integer(file) / 1e3
    if celsius < _COLDEST:
        raise UnreadableError(f"{file} says {celsius:g} °C: it is switched off")
    return celsius


def _zones(root: Path) -> list[tuple[Path, str]]:
    zones = listing(root / _ZONES, "thermal_zone*")
    return [(zone / "temp", _name(zone / "type") or zone.name) for zone in zones]


def _hwmon(root: Path) -> list[tuple[Path, str]]:
    files = listing(root / _HWMON, "hwmon*/temp*_input")
    return [(file, _chip(file)) for file in files]


def _chip(file: Path) -> str:
    """Its chip and its label there, as far as they are said; chips have several sensors without labels."""
    chip = _name(file.with_name("name")) or file.parent.name
    return f"{chip} {_name(file.with_name(file.name.replace('_input', '_label'))) or file.name[:-6]}"


def _name(file: Path) -> str | None:
    try:
        return read_text(file)
    except UnreadableError:
        return None
