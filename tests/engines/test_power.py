"""The sources of energy, one by one: which rail of which machine, and why one does not open."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest

from edgers_engines.power import tegrastats
from edgers_engines.power.ina3221 import Ina3221
from edgers_engines.power.jtop import Jtop
from edgers_engines.power.rapl import Rapl
from edgers_engines.power.source import EndedError, Site
from edgers_engines.power.tegrastats import Tegrastats, rails
from edgers_engines.sysfs import UnreadableError
from tests.engines import machines
from tests.engines.machines import lay

# Lines that owners of these machines published, shortened in the middle.
LINES = {
    "orin nx": (
        "RAM 6334/15388MB (lfb 1770x4MB) SWAP 491/7694MB (cached 0MB) "
        "CPU [6%@729,9%@729,off,off] EMC_FREQ 0%@2133 "
        "GR3D_FREQ 0%@611 VIC_FREQ 729 APE 174 CV0@45.812C CPU@47.937C tj@48.875C VDD_IN 5299mW/5299mW "
        "VDD_CPU_GPU_CV 773mW/773mW VDD_SOC 1424mW/1424mW",
        {"VDD_IN": 5.299, "VDD_CPU_GPU_CV": 0.773, "VDD_SOC": 1.424},
    ),
    "agx orin, jetpack 6": (
        "RAM 29114/30697MB (lfb 3x4MB)    SWAP 4915/15348MB (cached 1MB) CPU [3%@729] EMC_FREQ 1%@2133 "
        "GR3D_FREQ 0%@[305,305] NVENC      off  PVA0_FREQ off    APE           174        cpu@53.062C  "
        "VDD_GPU_SOC 3205mW/3205mW VDD_CPU_CV 4405mW/4405mW VIN_SYS_5V0 4767mW/4767mW "
        "VDDQ_VDD2_1V8AO 1091mW/1091mW",
        {"VDD_GPU_SOC": 3.205, "VDD_CPU_CV": 4.405, "VIN_SYS_5V0": 4.767, "VDDQ_VDD2_1V8AO": 1.091},
    ),
    "agx xavier, jetpack 4": (
        "RAM 721/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU [2%@1190,off] EMC_FREQ 0%@665 "
        "GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37.5C PMIC@100C thermal@36.9C GPU 0/0 "
        "CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482",
        {"GPU": 0.0, "CPU": 0.311, "SOC": 0.932, "CV": 0.0, "VDDRQ": 0.621, "SYS5V": 1.482},
    ),
    "nano": (
        "RAM 534/3964MB (lfb 98x4MB) SWAP 5/1982MB (cached 1MB) IRAM 0/252kB(lfb 252kB) CPU [16%@204] "
        "EMC_FREQ 0%@204 GR3D_FREQ 0%@76 APE 25 PLL@34C POM_5V_IN 1022/1022 "
        "POM_5V_GPU 0/0 POM_5V_CPU 204/204",
        {"POM_5V_IN": 1.022, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.204},
    ),
    "thor, jetpack 7": (
        "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,off] EMC_FREQ 34%@4266 GR3D_FREQ "
        "87%@[1574,1574,1574] cpu@58.25C/61.75C VDD_GPU 37939mW/8660mW/37939mW VDD_CPU_SOC_MSS "
        "30059mW/12281mW/30059mW VIN_SYS_5V0 15486mW/7424mW/15486mW VIN 124486mW/36487mW/124486mW",
        {"VDD_GPU": 37.939, "VDD_CPU_SOC_MSS": 30.059, "VIN_SYS_5V0": 15.486, "VIN": 124.486},
    ),
    "thor, idle": (
        "05-14-2026 21:36:35 RAM 26063/125772MB (lfb 35x4MB) CPU [2%@972] VDD_GPU -392mW/-392mW "
        "VDD_CPU_SOC_MSS 3924mW/3835mW VIN_SYS_5V0 5064mW/5055mW VIN 15004mW/15096mW",
        {"VDD_GPU": -0.392, "VDD_CPU_SOC_MSS": 3.924, "VIN_SYS_5V0": 5.064, "VIN": 15.004},
    ),
}


def site(root, device="cpu"):
    return Site(device, root, 10.0)


# --- INA3221 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "chip", "rail", "watts"),
    [
        (machines.ORIN_NANO, "INA3221", "VDD_IN", 4.984 * 1.856),
        (
            machines.AGX_ORIN,
            "INA3221",
            "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0",
            19.552 * 0.164 + 19.56 * 0.04 + 4.968 * 0.88,
        ),
        (machines.XAVIER_AGX, "INA3221", "GPU + CPU + SOC + CV + VDDRQ + SYS5V", 3.346),
        (machines.NANO, "INA3221", "POM_5V_IN", 1.022),
        (machines.THOR, "INA238", "VIN", 19.992 * 1.446),
        (
            machines.THOR_MODULE,
            "INA3221",
            "VDD_GPU + VDD_CPU_SOC_MSS + VIN_SYS_5V0",
            -19.552 * 0.02 + 19.552 * 0.201 + 5.048 * 1.003,
        ),
    ],
)
def test_the_whole_modules_rail_is_read_on_every_jetson(machine, chip, rail, watts, tmp_path):
    """Parts of it with rails of their own are not counted twice; an idle rail's negative offset is kept."""
    source = Ina3221(site(lay(tmp_path, machine)))
    assert (source.name, source.rail) == (chip, rail)
    assert source.read() == pytest.approx(watts, rel=1e-12)


def test_a_machine_without_the_chip_says_so(tmp_path):
    with pytest.raises(UnreadableError, match=r"^there is none$"):
        Ina3221(site(tmp_path))


def test_a_part_of_the_module_is_not_taken_for_the_whole(tmp_path):
    lay(tmp_path, machines.ina3221("1-0040", 1, {1: ("VDD_SOC", 5000, 100), 2: ("VDD_CPU_CV", 5000, 100)}))
    with pytest.raises(UnreadableError, match=r"there: VDD_CPU_CV, VDD_SOC"):
        Ina3221(site(tmp_path))


CURRENT = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "is empty"),
        ("n/a", "holds 'n/a' instead of a whole number"),
        ("1e3", "holds '1e3'"),
        ("\0" * 9, "instead of a whole number"),
        ("9" * 5000, "instead of a whole number"),
        ("-8", r"the rails VDD_IN read -0.040 W together"),
        (None, "no such file"),
    ],
)
def test_what_is_no_power_is_neither_read_nor_taken_as_zero(value, said, tmp_path):
    root = lay(tmp_path, machines.ORIN_NANO)
    source = Ina3221(site(root))
    (root / CURRENT).unlink() if value is None else (root / CURRENT).write_text(value)
    with pytest.raises(UnreadableError, match=said):
        source.read()
    with pytest.raises(UnreadableError, match=said):
        Ina3221(site(root))


def test_a_channel_that_cannot_be_named_does_not_hide_the_others(tmp_path):
    root = lay(tmp_path, machines.ORIN_NANO)
    (root / CURRENT).with_name("in2_label").write_bytes(b"")
    (root / CURRENT).with_name("in3_label").unlink()
    assert Ina3221(site(root)).rail == "VDD_IN"


# --- RAPL ---------------------------------------------------------------------------------------------------


def set_counter(root, zone, microjoules):
    (root / f"sys/class/powercap/{zone}/energy_uj").write_text(str(microjoules))


def test_packages_and_their_memory_are_added_and_their_parts_are_not(tmp_path):
    """Cores are in their package, psys overlaps it, a second interface to package 0 is the same counter."""
    root = lay(tmp_path, machines.rapl(package0=1_000_000, dram0=0, package1=7, dram1=50))
    source = Rapl(site(root))
    assert source.rail == "package-0 + package-1 + dram + dram"
    set_counter(root, "intel-rapl:0", 3_500_000)
    set_counter(root, "intel-rapl:0:0", 9_000_000)
    set_counter(root, "intel-rapl:0:1", 250_000)
    set_counter(root, "intel-rapl:1:0", 1_000_050)
    assert source.read() == pytest.approx(2.5 + 0.25 + 1.0, abs=1e-12)


def test_a_counter_that_wraps_around_goes_on(tmp_path):
    root = lay(tmp_path, machines.rapl(package0=machines.RANGE_UJ - 1_000_000))
    source = Rapl(site(root))
    set_counter(root, "intel-rapl:0", 2_000_000)
    assert source.read() == pytest.approx(3.0)
    set_counter(root, "intel-rapl:0", 2_500_000)
    assert source.read() == pytest.approx(3.5)


def test_a_counter_that_is_set_back_is_no_longer_believed(tmp_path):
    """What was used before it was set back is lost, however far it counts later."""
    root = lay(tmp_path, machines.rapl(package0=5_000_000))
    source = Rapl(site(root))
    for now in (1_000_000, 9_000_000):
        set_counter(root, "intel-rapl:0", now)
        with pytest.raises(UnreadableError, match="package-0 went from 5000000 to 1000000 µJ"):
            source.read()


def test_counters_for_root_only_say_how_to_get_at_them(tmp_path, monkeypatch):
    root = lay(tmp_path, machines.DESKTOP)
    real = os.open

    def forbidden(path, *arguments):
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(
        UnreadableError, match=r"^permission denied: run as root, or .* chmod a\+r .*energy_uj$"
    ):
        Rapl(site(root))


@pytest.mark.parametrize("wrong", ["0", "-1", "", "lots"])
def test_a_counter_without_a_range_is_not_used(wrong, tmp_path):
    root = lay(tmp_path, machines.DESKTOP)
    (root / "sys/class/powercap/intel-rapl:0/max_energy_range_uj").write_text(wrong)
    with pytest.raises(UnreadableError, match="max_energy_range_uj"):
        Rapl(site(root))


def test_a_machine_without_packages_says_so(tmp_path):
    lay(tmp_path, machines.counter("intel-rapl:0", "psys", 3))
    with pytest.raises(UnreadableError, match=r"^there is none$"):
        Rapl(site(tmp_path))


def test_the_processors_counter_is_not_used_for_a_gpu(tmp_path):
    """It would leave out the larger part."""
    with pytest.raises(UnreadableError, match=r"counts the processor only, and the model runs on cuda:0"):
        Rapl(site(lay(tmp_path, machines.DESKTOP), "cuda:0"))


# --- tegrastats ---------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a tegrastats on PATH that runs this Python; returns the file that holds its process' id."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(tegrastats, "_PATIENCE", 60.0)  # on a busy machine Python may start slowly

    def write(body):
        file, pid = folder / "tegrastats", tmp_path / "pid"
        start = f"#!{sys.executable}\nimport os, sys, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        file.write_text(start + body)
        file.chmod(0o755)
        return pid

    return write


def printing(*lines):
    """Prints these lines over and over, at the interval it is asked for."""
    return (
        "assert sys.argv[1] == '--interval'\n"
        "while True:\n"
        f"    for line in {list(lines)!r}:\n"
        "        print(line, flush=True)\n"
        "        time.sleep(int(sys.argv[2]) / 1e3)\n"
    )


def gone(pid):
    try:
        os.kill(int(pid.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(("line", "watts"), LINES.values(), ids=LINES.keys())
def test_every_generation_of_tegrastats_is_read(line, watts):
    """Power now, not the average or the peak; memory and temperatures are no rails."""
    assert rails(line) == watts


@pytest.mark.parametrize(
    "line",
    [
        "",
        "RAM 1/2MB",
        "VDD_IN",
        "VDD_IN 5299mW",
        "VDD_IN x/y",
        "VDD_IN 5299mA/5299mA",
        "vdd_in 1/1",
        "\x1b[0m",
    ],
)
def test_a_line_without_power_has_no_rails(line):
    assert rails(line) == {}


def test_tegrastats_is_run_and_read_and_stopped(program, tmp_path):
    pid = program(printing(LINES["agx orin, jetpack 6"][0]))
    source = Tegrastats(site(tmp_path))
    assert (source.rail, source.interval_ms) == ("VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 10.0)
    assert source.read() == pytest.approx(3.205 + 4.405 + 4.767)
    assert not gone(pid)
    source.close()
    assert gone(pid)


def test_each_reading_is_of_a_later_line(program, tmp_path):
    """Also when lines were printed faster than they were read: then the newest counts."""
    program("for power in range(1, 10**9):\n    print(f'VDD_IN {power % 10**9}mW/0mW', flush=True)\n")
    source = Tegrastats(site(tmp_path))
    readings = [source.read() for _ in range(20)]
    source.close()
    assert readings == sorted(set(readings))


def test_ctrl_c_at_a_terminal_does_not_reach_tegrastats(program, tmp_path):
    pid = program(printing(LINES["nano"][0]))
    source = Tegrastats(site(tmp_path))
    assert os.getsid(int(pid.read_text())) != os.getsid(0)
    source.close()


def test_a_tegrastats_that_ends_says_that_there_will_be_no_more(program, tmp_path):
    program("print('VDD_IN 1mW/1mW', flush=True)\n")
    source = Tegrastats(site(tmp_path))
    with pytest.raises(EndedError, match="it ended"):
        source.read()
    source.close()


def test_a_tegrastats_that_printed_nothing_is_not_asked_to_end_but_killed(program, tmp_path, monkeypatch):
    """It was waited for already, and one that hangs may not hear."""
    ignores = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    pid = program(f"{ignores}print('VDD_IN 1mW/1mW', flush=True)\ntime.sleep(600)\n")
    source = Tegrastats(site(tmp_path))
    monkeypatch.setattr(tegrastats, "_PATIENCE", 0.0)
    with pytest.raises(UnreadableError, match="printed no line"):
        source.read()
    monkeypatch.setattr(tegrastats, "_PATIENCE", 60.0)
    monkeypatch.setattr(source._process, "terminate", lambda: pytest.fail("it was asked to end"))
    source.close()
    assert gone(pid)


def test_a_line_that_is_cut_in_pieces_is_read_whole(program, tmp_path):
    program(
        "while True:\n"
        "    for piece in ('VDD_IN 52', '99mW/52', '99mW\\n'):\n"
        "        print(end=piece, flush=True)\n"
    )
    source = Tegrastats(site(tmp_path))
    assert {source.read() for _ in range(20)} == {5.299}
    source.close()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('only root may')", "it ended"),
        ("print('RAM 1/2MB', flush=True)\ntime.sleep(60)", r"no rails .* \(there: none\)"),
    ],
)
def test_a_tegrastats_that_tells_nothing_is_stopped_and_named(body, said, program, tmp_path):
    pid = program(body)
    with pytest.raises(UnreadableError, match=said):
        Tegrastats(site(tmp_path))
    assert gone(pid)


@pytest.mark.parametrize("body", ["", "print(end='VDD_IN 1mW/1mW', flush=True)\n"])
def test_a_tegrastats_that_prints_no_whole_line_is_not_waited_for(body, program, tmp_path, monkeypatch):
    monkeypatch.setattr(tegrastats, "_PATIENCE", 0.3)
    pid = program(body + "time.sleep(60)")
    with pytest.raises(UnreadableError, match=r"it printed no line for 0\.3 s"):
        Tegrastats(site(tmp_path))
    assert not pid.exists() or gone(pid)


def test_a_tegrastats_that_will_not_stop_is_killed(program, tmp_path, monkeypatch):
    pid = program(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + printing(LINES["nano"][0])
    )
    source = Tegrastats(site(tmp_path))
    monkeypatch.setattr(tegrastats, "_PATIENCE", 0.1)
    source.close()
    assert gone(pid)
    assert source._process.returncode == -signal.SIGKILL


def test_a_tegrastats_that_cannot_be_run_is_named(program, tmp_path):
    program("")
    (tmp_path / "bin" / "tegrastats").write_text("#!/no/such/interpreter\n")
    with pytest.raises(UnreadableError, match="it cannot be run: no such file"):
        Tegrastats(site(tmp_path))


def test_a_machine_without_tegrastats_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreadableError, match="there is no such program on PATH"):
        Tegrastats(site(tmp_path))


# --- jtop ---------------------------------------------------------------------------------------------------


class Client:
    """jetson-stats 4's client, as far as it is used."""

    def __init__(self, power, failure=None, alive=True):
        self.power, self.failure, self.alive, self.closed = power, failure, alive, 0

    def __call__(self, interval):
        self.interval = interval
        return self

    def start(self):
        if self.failure:
            raise self.failure

    def ok(self):
        if isinstance(self.alive, Exception):
            raise self.alive
        return self.alive

    def close(self):
        self.closed += 1


def entry(milliwatts, **more):
    return {"volt": 5000, "curr": milliwatts // 5, "power": milliwatts, "avg": milliwatts, **more}


@pytest.fixture
def jtop(monkeypatch):
    def install(client):
        monkeypatch.setitem(sys.modules, "jtop", SimpleNamespace(jtop=client))
        return client

    return install


ORIN_NANO_POWER = {
    "rail": {"VDD_SOC": entry(1424), "VDD_CPU_GPU_CV": entry(773)},
    "tot": entry(5299, name="VDD_IN"),
}
AGX_ORIN_POWER = {
    "rail": {
        "VDDQ_VDD2_1V8AO": entry(1000),
        "VDD_CPU_CV": entry(200),
        "VDD_GPU_SOC": entry(3000),
        "VIN_SYS_5V0": entry(4000),
    },
    "tot": entry(8200),
}


@pytest.mark.parametrize(
    ("power", "rail", "watts"),
    [
        (ORIN_NANO_POWER, "VDD_IN", 5.299),
        (AGX_ORIN_POWER, "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 7.2),
    ],
)
def test_jtops_service_is_asked_for_the_whole_module(power, rail, watts, jtop, tmp_path):
    """Its own sum counts the memory of an AGX Orin twice."""
    client = jtop(Client(power))
    source = Jtop(site(tmp_path))
    assert (source.rail, source.read()) == (rail, pytest.approx(watts))
    assert (client.interval, source.interval_ms) == (0.5, 500.0)
    source.close()
    assert client.closed == 1


@pytest.mark.parametrize(
    ("client", "said"),
    [
        (
            Client({}, failure=RuntimeError("The jetson_stats.service is not active.\nPlease run")),
            "service is not active.$",
        ),
        (Client({}, failure=RuntimeError()), "^RuntimeError$"),
        (Client({}), "of another form"),
        (Client(({"cur": 1}, {})), "of another form"),
        (Client({"rail": {"VDD_IN": {"power": "much"}}, "tot": {}}), "of another form"),
        (Client({"rail": {"VDD_SOC": entry(5)}, "tot": entry(5)}), r"there: VDD_SOC"),
    ],
)
def test_a_jtop_that_tells_nothing_is_closed_and_named(client, said, jtop, tmp_path):
    jtop(client)
    with pytest.raises(UnreadableError, match=said):
        Jtop(site(tmp_path))
    assert client.closed == (client.failure is None)


@pytest.mark.parametrize(
    ("alive", "said"), [(False, "its client ended"), (OSError("Lost connection"), "Lost connection")]
)
def test_a_service_that_stops_gives_no_reading(alive, said, jtop, tmp_path):
    client = jtop(Client(ORIN_NANO_POWER))
    source = Jtop(site(tmp_path))
    client.alive = alive
    with pytest.raises(UnreadableError, match=said):
        source.read()


def test_without_jetson_stats_jtop_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jtop", None)
    with pytest.raises(UnreadableError, match="jetson-stats is not installed"):
        Jtop(site(tmp_path))
