"""Kinds of devices: what memory one has and how fast it is, to plan for it where it is not at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgers_engines.errors import InputError
from edgers_engines.fields import Count, Name, NonNegative
from edgers_engines.records import Record, parse

_FOLDER = Path(__file__).with_name("profiles")


Published = Literal["float32", "float16", "int8", "float8_e4m3fn"]  # types of numbers that are multiplied


class Figure(Record, frozen=True, kw_only=True):
    """What its maker states of a device: bytes or operations a second, or None where no statement is known.

    Attributes:
        per_second: of dense products, 2 operations for each multiply-add; or of memory, as its bus allows.
        source: where it is stated and how it was derived; without a figure, why there is none.
    """

    per_second: NonNegative | None
    source: str


class DeviceProfile(Record, frozen=True, kw_only=True):
    """One kind of device.

    Attributes:
        name: what it is asked for by; also the file's name.
        title: its maker's name for it.
        memory_bytes: all that the GPU can address.
        reserved_bytes: an estimate of what the system, other programs and CUDA itself take of it.
        shared: whether processor and GPU have one memory.
        bandwidth: of that memory.
        peaks: of products, by the type of the numbers; bfloat16 has float16's on all of these.
    """

    name: Name
    title: str
    memory_bytes: Count
    reserved_bytes: Count
    shared: bool
    bandwidth: Figure
    peaks: dict[Published, Figure]

    @property
    def free_bytes(self) -> int:
        """What is left for a model."""
        return self.memory_bytes - self.reserved_bytes


def device_profiles() -> list[DeviceProfile]:
    """All kinds that are known, the one with the least memory first."""
    found = [parse(file.read_bytes(), DeviceProfile) for file in _FOLDER.glob("*.json")]
    return sorted(found, key=lambda profile: profile.memory_bytes)


def device_profile(name: str) -> DeviceProfile:
    """The kind of this name; its memory, behind the last hyphen, may be left out where one kind is meant.

    Raises:
        InputError: it is not known, or two are meant; the text names those that are.
    """
    profiles = device_profiles()
    meant = [profile for profile in profiles if name in (profile.name, profile.name.rpartition("-")[0])]
    if len(meant) != 1:
        names = ", ".join(profile.name for profile in profiles)
        raise InputError(f"there is no device profile {name!r}; choose one of {names}")
    return meant[0]
