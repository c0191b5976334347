"""Clocks, temperatures, throttling and power mode; what cannot be read is named with the reason."""

import os
import sys

import pytest

from edgers_engines import device_state
from edgers_engines.device_state import DeviceState, read, throttling_between
from edgers_engines.errors import InputError
from edgers_engines.records import dump, parse
from edgers_engines.sysfs import UnreadableError
from tests.engines import machines
from tests.engines.emulated_nvml import orin
from tests.engines.machines import cooling, lay, policies, zones


@pytest.fixture
def nvpmodel(tmp_path, monkeypatch):
    """Puts an nvpmodel on an otherwise empty PATH: prints this, ends so."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(out, err="", code=0):
        program = folder / "nvpmodel"
        program.write_text(
            f"#!{sys.executable}\nimport sys\nassert sys.argv[1:] == ['-q']\n"
            f"print({out!r})\nprint({err!r}, file=sys.stderr)\nsys.exit({code})\n"
        )
        program.chmod(0o755)

    return write


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def nothing(nvpmodel, root):
    """The state of a machine whose sysfs is empty."""
    root.mkdir()
    return read(root=root)


def test_a_jetson_tells_all_of_it(nvpmodel, root):
    nvpmodel("NV Power Mode: MAXN_SUPER\n2")
    state = read("cpu", root=lay(root, machines.ORIN_NANO))
    assert state == DeviceState(
        clocks_mhz={"cpu0": 1510.4, "cpu4": 1510.4, "gpu": 306.0},
        temperatures_c={
            "cpu-thermal": 48.5,
            "gpu-thermal": 47.062,
            "soc0-thermal": 46.9,
            "tj-thermal": 48.875,
        },
        throttling=(),
        throttle_counts={"over-current oc1": 0.0, "over-current oc2": 0.0, "over-current oc3": 37.0},
        power_mode="MAXN_SUPER",
        missing={},
    )
    assert parse(dump(state), DeviceState) == state


def test_a_desktop_tells_all_of_it(nvpmodel, root):
    """An idle powerclamp says -1, a fan at work slows nothing down, and TCC Offset is a setting."""
    state = read(root=lay(root, machines.DESKTOP))
    assert list(state.clocks_mhz) == [f"cpu{core}" for core in range(12)]
    assert state.clocks_mhz["cpu11"] == pytest.approx(800.011)
    assert state.temperatures_c == {"acpitz": 27.8, "x86-pkg-temp": 45.0}
    assert (state.throttling, state.missing) == ((), {})
    assert state.throttle_counts == {"processor core": 66.0, "processor package": 48.0}
    assert state.power_mode == "governor powersave"


def test_a_virtual_machine_tells_nothing_and_says_so(nvpmodel, root):
    state = nothing(nvpmodel, root)
    assert (state.clocks_mhz, state.temperatures_c, state.throttle_counts) == ({}, {}, {})
    assert (state.throttling, state.power_mode) == (None, None)
    assert state.missing == {
        "clock of the processor": f"there is no cpufreq under {root}/sys/devices/system/cpu/cpufreq",
        "temperatures": f"there are no sensors under {root}/sys/class/thermal or {root}/sys/class/hwmon",
        "throttling": "neither cooling devices nor counters nor NVML tell",
        "power mode": "nvpmodel: there is no such program on PATH; cpufreq: there is none",
    }


def test_a_name_of_no_device_is_refused(root):
    with pytest.raises(InputError, match="no device 'gpu'"):
        read("gpu", root=root)


# --- clocks -------------------------------------------------------------------------------------------------


def test_a_gpu_with_several_clocks_has_them_by_their_own_names(nvpmodel, root):
    assert read(root=lay(root, machines.THOR)).clocks_mhz == {"gpu-gpc-0": 1575.0, "gpu-nvd-0": 1692.0}


@pytest.mark.parametrize("name", ["57000000.gpu", "17000000.gv11b", "17000000.ga10b", "17000000.gp10b"])
def test_the_gpu_of_every_generation_is_found_and_a_memory_controller_is_none(name, nvpmodel, root):
    lay(root, {f"sys/class/devfreq/{name}/cur_freq": 921600000, "sys/class/devfreq/actmon/cur_freq": 1})
    assert read(root=root).clocks_mhz == {"gpu": 921.6}


def test_a_clock_that_cannot_be_read_is_missing_and_the_others_are_not(nvpmodel, root):
    lay(
        root,
        policies({0: 1500000, 4: 1500000}, "schedutil") | {"sys/class/devfreq/17000000.gpu/cur_freq": "fast"},
    )
    file = root / "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq"
    file.unlink()
    state = read(root=root)
    assert state.clocks_mhz == {"cpu0": 1500.0}
    assert state.missing["clock of cpu4"] == f"{file}: no such file or directory"
    assert "holds 'fast' instead of a whole number" in state.missing["clock of gpu"]


# --- temperatures -------------------------------------------------------------------------------------------


def test_a_sensor_that_is_off_is_missing(nvpmodel, root):
    """Jetson's zones of units without power say -256 °C or fail when they are read."""
    lay(root, zones(cpu_thermal=50.0, cv0_thermal=-256.0))
    state = read(root=root)
    assert state.temperatures_c == {"cpu-thermal": 50.0}
    assert state.missing["temperature of cv0-thermal"].endswith("says -256 °C: it is switched off")


def test_frost_is_a_temperature(nvpmodel, root):
    assert read(root=lay(root, zones(cpu_thermal=-12.5))).temperatures_c == {"cpu-thermal": -12.5}


def test_a_sensor_that_fails_is_missing_with_the_systems_words(nvpmodel, root, monkeypatch):
    lay(root, zones(cpu_thermal=50.0, cv0_thermal=40.0))
    real = os.open

    def failing(path, *arguments):
        if "thermal_zone1/temp" in str(path):
            raise OSError(11, "Resource temporarily unavailable", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", failing)
    state = read(root=root)
    assert state.temperatures_c == {"cpu-thermal": 50.0}
    assert state.missing["temperature of cv0-thermal"].endswith("temp: resource temporarily unavailable")


def test_sensors_of_one_name_are_told_apart(nvpmodel, root):
    files = zones(acpitz=20.0, other=30.0) | {"sys/class/thermal/thermal_zone1/type": "acpitz"}
    assert read(root=lay(root, files)).temperatures_c == {
        "acpitz (thermal_zone0)": 20.0,
        "acpitz (thermal_zone1)": 30.0,
    }


def test_without_zones_the_hardware_monitors_are_read(nvpmodel, root):
    folder = "sys/class/hwmon/hwmon0"
    lay(
        root,
        {
            f"{folder}/name": "k10temp",
            f"{folder}/temp1_label": "Tctl",
            f"{folder}/temp1_input": 61250,
            f"{folder}/temp3_input": 55000,
            "sys/class/hwmon/hwmon1/temp1_input": 30000,
        },
    )
    assert read(root=root).temperatures_c == {
        "k10temp Tctl": 61.25,
        "k10temp temp3": 55.0,
        "hwmon1 temp1": 30.0,
    }


# --- throttling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "says"),
    [
        (("cpu-throttle-alert", 1, 2), "cpu-throttle-alert: 1 of 2"),
        (("devfreq-gpu-gpc-0", 18, 169), "devfreq-gpu-gpc-0: 18 of 169"),
        (("cpufreq-cpu0", 3, 48), "cpufreq-cpu0: 3 of 48"),
        (("Processor", 2, 3), "Processor: 2 of 3"),
        (("intel_powerclamp", 40, 100), "intel_powerclamp: 40 of 100"),
        (("cpu-balanced", 5, 88), "cpu-balanced: 5 of 88"),
    ],
)
def test_a_cooling_device_at_work_is_throttling(device, says, nvpmodel, root):
    state = read(root=lay(root, cooling(("pwm-fan", 3, 4), ("gpu-throttle-alert", 0, 2), device)))
    assert state.throttling == (says,)


def test_a_machine_with_fans_only_does_not_say_whether_it_is_throttled(nvpmodel, root):
    state = read(root=lay(root, cooling(("pwm-fan", 3, 4), ("hot-surface-alert", 1, 1))))
    assert state.throttling is None
    assert "throttling" in state.missing


def test_a_cooling_device_that_cannot_be_read_is_missing(nvpmodel, root):
    lay(root, cooling(("cpu-throttle-alert", "on", 2), ("gpu-throttle-alert", 1, "two")))
    state = read(root=root)
    assert state.throttling == ("gpu-throttle-alert: 1",)
    assert "holds 'on'" in state.missing["throttling by cooling_device0"]


def test_a_counter_that_cannot_be_read_is_missing_not_zero(nvpmodel, root):
    lay(root, machines.ORIN_NANO | {"sys/class/hwmon/hwmon3/oc2_event_cnt": ""})
    state = read(root=root)
    assert set(state.throttle_counts) == {"over-current oc1", "over-current oc3"}
    assert state.missing["throttling count of over-current oc2"].endswith("is empty")


def state(throttling=(), **counts):
    return DeviceState(
        clocks_mhz={},
        temperatures_c={},
        throttling=throttling,
        throttle_counts={name: float(count) for name, count in counts.items()},
        power_mode=None,
        missing={},
    )


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        (state(), state(), ()),
        (state(None), state(None), None),
        (state(None), state(), ()),
        (state(None, oc3=1), state(None, oc3=1), ()),
        (state(None, oc3=1), state(None, oc3=6), ("oc3: 5 events",)),
        (state(None, oc3=6), state(None, oc3=1), ("oc3: the counter went back",)),
        (state(None, oc3=6), state(None), None),
        (state(("cpu: 1 of 2",)), state(("cpu: 1 of 2", "gpu: 1 of 2")), ("cpu: 1 of 2", "gpu: 1 of 2")),
        (state(("cpu: 1 of 2",), oc1=0), state((), oc1=2), ("cpu: 1 of 2", "oc1: 2 events")),
    ],
)
def test_throttling_between_two_moments_is_what_either_says_and_what_was_counted(before, after, seen):
    assert throttling_between(before, after) == seen


# --- power mode ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "mode"),
    [
        ("NV Power Mode: MAXN\n0", "MAXN"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2", "MODE_15W_6CORE"),
        ("NV Fan Mode:quiet\nNV Power Mode: 120W\n1", "120W"),
    ],
)
def test_a_jetsons_mode_comes_before_its_governor(out, mode, nvpmodel, root):
    nvpmodel(out)
    assert read(root=lay(root, machines.ORIN_NANO)).power_mode == mode


def test_an_nvpmodel_that_refuses_leaves_the_governor(nvpmodel, root):
    nvpmodel("", "NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13", 255)
    assert read(root=lay(root, machines.ORIN_NANO)).power_mode == "governor schedutil"


@pytest.mark.parametrize(
    ("err", "said"),
    [("NVPM ERROR: no config", "names no mode: NVPM ERROR: no config;"), ("", "ended with 255;")],
)
def test_an_nvpmodel_that_refuses_is_quoted_where_there_is_no_governor(err, said, nvpmodel, root):
    nvpmodel("", err, 255)
    assert said in nothing(nvpmodel, root).missing["power mode"]


def test_an_nvpmodel_that_cannot_be_run_is_named(nvpmodel, root, tmp_path):
    nvpmodel("")
    (tmp_path / "bin" / "nvpmodel").write_text("#!/no/such/interpreter\n")
    assert "nvpmodel: it cannot be run: " in nothing(nvpmodel, root).missing["power mode"]


def test_cores_under_several_governors_are_all_named(nvpmodel, root):
    lay(root, policies({0: 1, 4: 1}, "performance"))
    (root / "sys/devices/system/cpu/cpufreq/policy4/scaling_governor").write_text("powersave\n")
    assert read(root=root).power_mode == "governor performance, powersave"


# --- a GPU --------------------------------------------------------------------------------------------------


class Gpu:
    """What NVML says of a GPU; None fails."""

    def __init__(self, clocks=None, celsius=None, slowed=None):
        self.answers, self.closed = (clocks, celsius, slowed), 0

    def _answer(self, which):
        if self.answers[which] is None:
            raise UnreadableError("not supported")
        return self.answers[which]

    def clocks_mhz(self):
        return self._answer(0)

    def temperature_c(self):
        return self._answer(1)

    def slowed_by(self):
        return self._answer(2)

    def close(self):
        self.closed += 1


@pytest.fixture
def gpu(monkeypatch):
    def install(told):
        monkeypatch.setattr(device_state, "Nvml", lambda _: told)
        return told

    return install


def test_a_gpus_own_state_is_read_for_a_model_on_it(gpu, nvpmodel, root):
    told = gpu(Gpu({"gpu": 1980.0, "gpu memory": 3201.0}, 61.0, ("gpu: power cap",)))
    found = read("cuda:0", root=lay(root, machines.DESKTOP))
    assert (found.clocks_mhz["gpu"], found.temperatures_c["gpu (NVML)"]) == (1980.0, 61.0)
    assert (found.throttling, found.missing, told.closed) == (("gpu: power cap",), {}, 1)


def test_a_gpu_is_not_asked_for_a_model_on_the_processor(monkeypatch, nvpmodel, root):
    monkeypatch.setattr(device_state, "Nvml", lambda _: pytest.fail("it is asked"))
    assert "gpu" not in read("cpu", root=lay(root, machines.DESKTOP)).clocks_mhz


def test_a_gpu_that_tells_nothing_is_missing_thrice_and_closed(gpu, nvpmodel, root):
    told = gpu(Gpu())
    root.mkdir()
    found = read("cuda:0", root=root)
    for name in ("clock of gpu", "temperature of gpu (NVML)", "throttling of gpu"):
        assert found.missing[name] == "not supported"
    assert (found.throttling, told.closed) == (None, 1)


def test_a_jetson_under_nvml_tells_what_sysfs_tells(monkeypatch, nvpmodel, root):
    """NVML opens there and supports nothing, which is no reason to lose the rest."""
    emulated = orin()
    monkeypatch.setitem(sys.modules, "pynvml", emulated)
    monkeypatch.setattr("edgers_engines.cuda.pci_bus_id", lambda _: "0000:00:00.0")
    found = read("cuda:0", root=lay(root, machines.ORIN_NANO))
    assert (found.clocks_mhz["gpu"], found.temperatures_c["gpu-thermal"], found.throttling) == (
        306.0,
        47.062,
        (),
    )
    assert set(found.missing) == {"temperature of gpu (NVML)", "throttling of gpu"}
    assert emulated.open == 0


def test_a_machine_without_nvml_says_why(monkeypatch, nvpmodel, root):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "install edgers[gpu]" in read("cuda:0", root=lay(root, machines.DESKTOP)).missing["NVML"]
