"""Machines as their sysfs shows them: labels, numbers and folders as people who own them published them.

Jetson Orin Nano and AGX Orin: Linux's device trees tegra234-p3767 and tegra234-p3701, and listings of their
owners; Nano and AGX Xavier: NVIDIA's developer guide for JetPack 4; Thor: owners' listings under JetPack 7.
"""

from pathlib import Path


def lay(root: Path, files: dict) -> Path:
    """Write each file; returns the root."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def ina3221(bus: str, hwmon: int, channels: dict) -> dict:
    """One chip in the layout of hwmon: label, millivolts and milliamperes by channel."""
    folder = f"sys/bus/i2c/drivers/ina3221/{bus}/hwmon/hwmon{hwmon}"
    files = {
        f"{folder}/name": "ina3221",
        f"{folder}/in7_label": "sum of shunt voltages",
        f"{folder}/in7_input": 9,
    }
    for channel, (label, millivolts, milliamperes) in channels.items():
        files |= {
            f"{folder}/in{channel}_label": label,
            f"{folder}/in{channel}_input": millivolts,
            f"{folder}/curr{channel}_input": milliamperes,
            f"{folder}/in{channel + 3}_input": 3,
        }
    return files


def iio(bus: str, number: int, rails: dict) -> dict:
    """One chip in the layout of JetPack 4: milliwatts by rail."""
    folder = f"sys/bus/i2c/drivers/ina3221x/{bus}/iio:device{number}"
    files = {f"{folder}/name": "ina3221x"}
    for channel, (label, milliwatts) in enumerate(rails.items()):
        files |= {f"{folder}/rail_name_{channel}": label, f"{folder}/in_power{channel}_input": milliwatts}
    return files


def zones(**celsius: float) -> dict:
    """Thermal zones, by type."""
    files = {}
    for number, (name, degrees) in enumerate(celsius.items()):
        folder = f"sys/class/thermal/thermal_zone{number}"
        files |= {f"{folder}/type": name.replace("_", "-"), f"{folder}/temp": round(degrees * 1e3)}
    return files


def cooling(*devices: tuple) -> dict:
    """Cooling devices: type, state, highest state."""
    files = {}
    for number, (name, state, most) in enumerate(devices):
        folder = f"sys/class/thermal/cooling_device{number}"
        files |= {f"{folder}/type": name, f"{folder}/cur_state": state, f"{folder}/max_state": most}
    return files


def policies(kilohertz: dict, governor: str) -> dict:
    """cpufreq, by the first core of each policy."""
    folder = "sys/devices/system/cpu/cpufreq/policy"
    return {f"{folder}{core}/scaling_cur_freq": value for core, value in kilohertz.items()} | {
        f"{folder}{core}/scaling_governor": governor for core in kilohertz
    }


ORIN_NANO = {
    **ina3221(
        "1-0040", 1, {1: ("VDD_IN", 4984, 1856), 2: ("VDD_CPU_GPU_CV", 4984, 320), 3: ("VDD_SOC", 4976, 480)}
    ),
    **zones(cpu_thermal=48.5, gpu_thermal=47.062, soc0_thermal=46.9, tj_thermal=48.875),
    **cooling(
        ("pwm-fan", 2, 4),
        ("cpu-throttle-alert", 0, 2),
        ("gpu-throttle-alert", 0, 2),
        ("hot-surface-alert", 0, 1),
        ("devfreq-17000000.gpu", 0, 9),
        ("cpufreq-cpu0", 0, 20),
    ),
    **policies({0: 1510400, 4: 1510400}, "schedutil"),
    "sys/class/devfreq/17000000.gpu/cur_freq": 306000000,
    "sys/class/hwmon/hwmon3/name": "soctherm_oc",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": 0,
    "sys/class/hwmon/hwmon3/oc2_event_cnt": 0,
    "sys/class/hwmon/hwmon3/oc3_event_cnt": 37,
}
AGX_ORIN = {
    **ina3221(
        "1-0040",
        2,
        {1: ("VDD_GPU_SOC", 19552, 164), 2: ("VDD_CPU_CV", 19560, 40), 3: ("VIN_SYS_5V0", 4968, 880)},
    ),
    **ina3221("1-0041", 3, {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 4968, 80), 3: ("NC", 0, 0)}),
}
XAVIER_AGX = {
    **iio("1-0040", 0, {"GPU": 0, "CPU": 311, "SOC": 932}),
    **iio("1-0041", 1, {"CV": 0, "VDDRQ": 621, "SYS5V": 1482}),
}
NANO = iio("6-0040", 0, {"POM_5V_IN": 1022, "POM_5V_GPU": 0, "POM_5V_CPU": 204})
THOR_MODULE = ina3221(
    "2-0040",
    4,
    {1: ("VDD_GPU", 19552, -20), 2: ("VDD_CPU_SOC_MSS", 19552, 201), 3: ("VIN_SYS_5V0", 5048, 1003)},
)
THOR = {
    **THOR_MODULE,
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon5/label": "VIN",
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon5/in0_input": 1,
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon5/in1_input": 19992,
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon5/curr1_input": 1446,
    "sys/class/devfreq/gpu-gpc-0/cur_freq": 1575000000,
    "sys/class/devfreq/gpu-nvd-0/cur_freq": 1692000000,
}
RANGE_UJ = 262143328850  # of a desktop's package


def rapl(**microjoules: int) -> dict:
    """Counters by zone: package0, dram0 and so on, with the zones that overlap them."""
    names = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    short = {
        "package0": "intel-rapl:0",
        "dram0": "intel-rapl:0:1",
        "package1": "intel-rapl:1",
        "dram1": "intel-rapl:1:0",
    }
    files = {"sys/class/powercap/intel-rapl/enabled": 1}
    for zone, value in {short[name]: value for name, value in microjoules.items()}.items():
        files |= counter(zone, names[zone], value)
    for zone in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        files |= counter(zone, names[zone], 5)
    return files


def counter(zone: str, name: str, microjoules: int) -> dict:
    """One zone of powercap."""
    folder = f"sys/class/powercap/{zone}"
    return {
        f"{folder}/name": name,
        f"{folder}/energy_uj": microjoules,
        f"{folder}/max_energy_range_uj": RANGE_UJ,
    }


DESKTOP = {
    **rapl(package0=104_000_000),
    **policies({core: 800000 + core for core in range(12)}, "powersave"),
    **zones(acpitz=27.8, x86_pkg_temp=45.0),
    **cooling(("Fan", 1, 1), ("Processor", 0, 3), ("intel_powerclamp", -1, 100), ("TCC Offset", 10, 63)),
    **{f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count": core for core in range(12)},
    **{f"sys/devices/system/cpu/cpu{core}/thermal_throttle/package_throttle_count": 4 for core in range(12)},
}
