"""NVML: a GPU's energy, clocks, temperature and throttling; and a Jetson's, which supports none of it."""

import sys

import pynvml
import pytest

from edgers_engines import cuda
from edgers_engines.energy import metering
from edgers_engines.errors import BackendError
from edgers_engines.nvml import Nvml
from edgers_engines.power.nvml import open_nvml
from edgers_engines.power.source import Site
from edgers_engines.sysfs import UnreadableError
from tests.engines.emulated_nvml import NOT_SUPPORTED, EmulatedNvml, orin


@pytest.fixture
def nvml(monkeypatch, tmp_path):
    """Installs an NVML; at the end it has been shut down as often as it was opened."""
    monkeypatch.setenv("PATH", str(tmp_path))
    installed = []

    def install(emulated):
        monkeypatch.setitem(sys.modules, "pynvml", emulated)
        monkeypatch.setattr(cuda, "pci_bus_id", lambda ordinal: f"0000:0{ordinal}:00.0")
        installed.append(emulated)
        return emulated

    yield install
    assert all(emulated.open == 0 for emulated in installed)


def site(root, device="cuda:0"):
    return Site(device, root, 5.0)


def test_a_gpu_that_counts_its_energy_is_read_at_the_spans_ends(nvml, tmp_path):
    counts = iter([1_000, 1_000, 251_000])
    nvml(EmulatedNvml(nvmlDeviceGetTotalEnergyConsumption=lambda: next(counts)))
    with metering("cuda:0", root=tmp_path) as meter:
        pass
    record = meter.record()
    assert (record.joules, record.source, record.rail, record.watts) == (250.0, "NVML", "GPU", ())


def test_a_gpu_that_does_not_count_has_its_power_read(nvml, tmp_path):
    nvml(EmulatedNvml(nvmlDeviceGetTotalEnergyConsumption=NOT_SUPPORTED, nvmlDeviceGetPowerUsage=71_500))
    with metering("cuda:0", root=tmp_path, interval_ms=5) as meter:
        pass
    record = meter.record()
    assert (record.source, record.rail, record.interval_ms) == ("NVML", "GPU", 5.0)
    assert set(record.watts) == {71.5}
    assert record.joules > 0


def test_on_a_jetson_nvml_opens_and_supports_nothing_which_is_a_reason(nvml, tmp_path):
    nvml(orin())
    with metering("cuda:0", root=tmp_path) as meter:
        pass
    assert meter.record().joules is None
    assert "; NVML: nvmlDeviceGetPowerUsage: not supported; RAPL: " in meter.record().reason


def test_a_gpu_is_found_by_its_place_on_the_bus(nvml, tmp_path):
    """CUDA and NVML number GPUs differently."""
    emulated = nvml(EmulatedNvml(nvmlDeviceGetTotalEnergyConsumption=1))
    source = open_nvml(site(tmp_path, "cuda:3"))
    assert emulated.asked == [b"0000:03:00.0"]
    source.close()


def test_cuda_says_where_a_gpu_is(emulated_driver):
    assert cuda.pci_bus_id(0) == "0000:3B:00.0"


def test_a_gpu_that_cuda_does_not_find_closes_nvml(nvml, tmp_path, monkeypatch):
    def none(ordinal):
        raise BackendError("NVIDIA's driver finds no GPU")

    nvml(EmulatedNvml())
    monkeypatch.setattr(cuda, "pci_bus_id", none)
    with pytest.raises(UnreadableError, match="finds no GPU"):
        open_nvml(site(tmp_path))


def test_without_a_driver_the_real_library_says_so():
    """On a machine with a driver, the emulation of a driver that is not loaded does."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        said = str(error).lower()
        with pytest.raises(UnreadableError, match=f"^nvmlInit: {said}$"):
            Nvml("cuda:0")
    else:
        pynvml.nvmlShutdown()


def test_a_driver_that_is_not_loaded_is_a_reason(nvml):
    nvml(EmulatedNvml(nvmlInit=pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)))
    with pytest.raises(UnreadableError, match=r"^nvmlInit: driver not loaded$"):
        Nvml("cuda:0")


def test_without_nvidia_ml_py_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UnreadableError, match=r"nvidia-ml-py is not installed: install edgers\[gpu\]"):
        Nvml("cuda:0")


def test_bindings_too_old_for_a_function_are_named(nvml):
    nvml(EmulatedNvml())
    gpu = Nvml("cuda:0")
    with pytest.raises(UnreadableError, match="the installed nvidia-ml-py has no nvmlDeviceGetPowerUsage"):
        gpu.watts()
    gpu.close()


def test_clocks_temperature_and_reasons_are_read(nvml):
    clocks = {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 3201}
    nvml(
        EmulatedNvml(
            nvmlDeviceGetClockInfo=lambda kind: clocks[kind],
            nvmlDeviceGetTemperatureV=lambda sensor: {pynvml.NVML_TEMPERATURE_GPU: 61}[sensor],
            nvmlDeviceGetCurrentClocksEventReasons=pynvml.nvmlClocksEventReasonSwPowerCap
            | pynvml.nvmlClocksEventReasonHwThermalSlowdown
            | pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
        )
    )
    gpu = Nvml("cuda:0")
    assert gpu.clocks_mhz() == {"gpu": 1980.0, "gpu memory": 3201.0}
    assert gpu.temperature_c() == 61.0
    assert gpu.slowed_by() == ("gpu: power cap", "gpu: thermal slowdown by hardware")
    gpu.close()


def test_a_gpu_that_is_idle_or_was_set_is_not_throttled(nvml):
    nvml(
        EmulatedNvml(
            nvmlDeviceGetCurrentClocksEventReasons=pynvml.nvmlClocksEventReasonGpuIdle
            | pynvml.nvmlClocksEventReasonApplicationsClocksSetting
            | pynvml.nvmlClocksEventReasonDisplayClockSetting
        )
    )
    gpu = Nvml("cuda:0")
    assert gpu.slowed_by() == ()
    gpu.close()


def test_an_older_drivers_names_are_used_where_the_new_ones_are_missing(nvml):
    nvml(
        EmulatedNvml(
            nvmlDeviceGetTemperatureV=pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
            nvmlDeviceGetTemperature=lambda sensor: {pynvml.NVML_TEMPERATURE_GPU: 55}[sensor],
            nvmlDeviceGetCurrentClocksThrottleReasons=pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        )
    )
    gpu = Nvml("cuda:0")
    assert (gpu.temperature_c(), gpu.slowed_by()) == (55.0, ("gpu: power brake",))
    gpu.close()
