"""One GPU through NVML, NVIDIA's management library: energy, power, clocks, temperature, throttling."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from edgers_engines.device import gpu_number
from edgers_engines.errors import BackendError
from edgers_engines.sysfs import UnreadableError

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h) that slow a GPU down against its owner's wish. The
# others say that it is idle, or that somebody set its clocks.
_SLOWED = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown by software",
    0x40: "thermal slowdown by hardware",
    0x80: "power brake",
}


class Nvml:
    """A GPU that NVML can be asked about, until `close`.

    Args:
        device: "cuda:N", numbered as CUDA does.

    Raises:
        UnreadableError: NVML is not installed, finds no driver, or does not know this GPU.
    """

    def __init__(self, device: str) -> None:
        ordinal = gpu_number(device)
        if ordinal is None:
            raise UnreadableError("the model does not run on a GPU")
        try:
            import pynvml
        except ImportError:
            raise UnreadableError("NVIDIA's nvidia-ml-py is not installed: install edgers[gpu]") from None
        self._library: Any = pynvml
        self._ask("nvmlInit")
        try:
            self._gpu = self._ask("nvmlDeviceGetHandleByPciBusId", _bus(ordinal).encode())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the library."""
        with suppress(UnreadableError):  # nothing is left to do about it
            self._ask("nvmlShutdown")

    def joules(self) -> float:
        """Since the driver was loaded (Volta and later)."""
        return float(self._ask("nvmlDeviceGetTotalEnergyConsumption", self._gpu)) / 1e3

    def watts(self) -> float:
        """Now, or as the mean of the last second: that depends on the GPU."""
        return float(self._ask("nvmlDeviceGetPowerUsage", self._gpu)) / 1e3

    def clocks_mhz(self) -> dict[str, float]:
        """Of its multiprocessors and its memory."""
        kinds = {"gpu": self._library.NVML_CLOCK_SM, "gpu memory": self._library.NVML_CLOCK_MEM}
        return {
            name: float(self._ask("nvmlDeviceGetClockInfo", self._gpu, kind)) for name, kind in kinds.items()
        }

    def temperature_c(self) -> float:
        """Of the GPU itself."""
        sensor = self._library.NVML_TEMPERATURE_GPU
        try:
            return float(self._ask("nvmlDeviceGetTemperatureV", self._gpu, sensor))
        except UnreadableError:  # an older driver, or older bindings
            return float(self._ask("nvmlDeviceGetTemperature", self._gpu, sensor))

    def slowed_by(self) -> tuple[str, ...]:
        """Why its clocks are lower than its load asks for."""
        try:
            bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons", self._gpu)
        except UnreadableError:  # an older driver, or older bindings
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._gpu)
        return tuple(f"gpu: {reason}" for bit, reason in _SLOWED.items() if bits & bit)

    def _ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401  NVML is untyped
        try:
            return getattr(self._library, function)(*arguments)
        except self._library.NVMLError as error:
            raise UnreadableError(f"{function}: {str(error).lower()}") from None
        except AttributeError:
            raise UnreadableError(f"the installed nvidia-ml-py has no {function}") from None


def _bus(ordinal: int) -> str:
    """Where the GPU is on the bus: CUDA and NVML number GPUs differently."""
    try:
        from edgers_engines.cuda import pci_bus_id

        return pci_bus_id(ordinal)
    except BackendError as error:
        raise UnreadableError(str(error)) from None
