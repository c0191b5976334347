"""The most memory that a benchmark held."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from edgers.benchmark.record import MemoryRecord
from edgers_engines.device import Device

STATUS = Path("/proc/self/status")

_NO_GPU = "the graphs ran on the processor: what they took is in the host's"


def host_peak_bytes(status: Path = STATUS) -> int:
    """The most resident bytes that this process had.

    The kernel's own mark of this very process. That of getrusage, which serves where there is none, survives
    an exec: a process that a larger one has begun is as large as that.
    """
    try:
        match = re.search(r"^VmHWM:\s*([0-9]+) kB$", status.read_text(), re.MULTILINE)
    except OSError:
        match = None
    kilobytes = int(match[1]) if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * kilobytes


class MemoryUse:
    """Make it before the model is loaded, and look after every batch, while its arrays are there.

    What a GPU's memory has less free than at first is taken for this process': other programs that come or go
    meanwhile are in it, and so is, where memory is shared, what the host took.

    Args:
        device: where the arrays lie.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._first = self._least = device.free_bytes()

    def look(self) -> None:
        """Take note of how much is free now."""
        free = self._device.free_bytes()
        if free is not None and self._least is not None:
            self._least = min(self._least, free)

    def record(self) -> MemoryRecord:
        """The most so far."""
        if self._first is None or self._least is None:
            return _record(None, _NO_GPU)
        taken = self._first - self._least
        return _record(taken, None) if taken else _record(None, "the GPU's free memory did not shrink")


def _record(device_peak_bytes: int | None, reason: str | None) -> MemoryRecord:
    return MemoryRecord(
        host_peak_bytes=host_peak_bytes(), device_peak_bytes=device_peak_bytes, device_reason=reason
    )
