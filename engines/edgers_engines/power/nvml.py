"""A GPU's energy as NVML counts it, or its power where NVML does not count."""

from __future__ import annotations

from edgers_engines.nvml import Nvml
from edgers_engines.power.source import EnergyCounter, PowerSource, Site, Source
from edgers_engines.sysfs import UnreadableError

_COUNTER_MS = 10_000.0


def open_nvml(site: Site) -> Source:
    """The GPU that the model runs on.

    Raises:
        UnreadableError: it runs on none, or NVML knows neither its energy nor its power.
    """
    gpu = Nvml(site.device)
    try:
        gpu.joules()
    except UnreadableError:
        return _power(gpu, site)
    return NvmlEnergy(gpu)


class NvmlEnergy(EnergyCounter):
    """The energy of the GPU with its memory."""

    name, rail, interval_ms = "NVML", "GPU", _COUNTER_MS

    def __init__(self, gpu: Nvml) -> None:
        self._gpu = gpu

    def read(self) -> float:
        """See `Source.read`."""
        return self._gpu.joules()

    def close(self) -> None:
        """See `Source.close`."""
        self._gpu.close()


class NvmlPower(PowerSource):
    """The power of the GPU with its memory."""

    name, rail = "NVML", "GPU"

    def __init__(self, gpu: Nvml, interval_ms: float) -> None:
        self._gpu, self.interval_ms = gpu, interval_ms
        self.read()

    def read(self) -> float:
        """See `Source.read`."""
        return self._gpu.watts()

    def close(self) -> None:
        """See `Source.close`."""
        self._gpu.close()


def _power(gpu: Nvml, site: Site) -> NvmlPower:
    try:
        return NvmlPower(gpu, site.interval_ms)
    except BaseException:
        gpu.close()
        raise
