"""Kinds of devices: what memory one has, to plan for it where it is not at hand."""

from __future__ import annotations

from pathlib import Path

from edgers_engines.errors import InputError
from edgers_engines.fields import Count, Name
from edgers_engines.records import Record, parse

_FOLDER = Path(__file__).with_name("profiles")


class DeviceProfile(Record, frozen=True, kw_only=True):
    """One kind of device.

    Attributes:
        name: what it is asked for by; also the file's name.
        title: its maker's name for it.
        memory_bytes: all that the GPU can address.
        reserved_bytes: an estimate of what the system, other programs and CUDA itself take of it.
        shared: whether processor and GPU have one memory.
    """

    name: Name
    title: str
    memory_bytes: Count
    reserved_bytes: Count
    shared: bool

    @property
    def free_bytes(self) -> int:
        """What is left for a model."""
        return self.memory_bytes - self.reserved_bytes


def device_profiles() -> list[DeviceProfile]:
    """All kinds that are known, the one with the least memory first."""
    found = [parse(file.read_bytes(), DeviceProfile) for file in _FOLDER.glob("*.json")]
    return sorted(found, key=lambda profile: profile.memory_bytes)


def device_profile(name: str) -> DeviceProfile:
    """The kind of this name.

    Raises:
        InputError: it is not known; the text names those that are.
    """
    profiles = {profile.name: profile for profile in device_profiles()}
    if name not in profiles:
        raise InputError(f"there is no device profile {name!r}; choose one of {', '.join(profiles)}")
    return profiles[name]
