"""The energy of a span: which source, how much, and why not."""

import os
import sys
import threading
import time

import pytest

from edgers_engines import energy
from edgers_engines.energy import EnergyRecord, Meter, metering
from edgers_engines.errors import InputError
from edgers_engines.power import tegrastats
from edgers_engines.power.sampler import Sampler, integral
from edgers_engines.power.source import EndedError, EnergyCounter, PowerSource
from edgers_engines.records import dump, parse
from edgers_engines.sysfs import UnreadableError
from tests.engines import machines
from tests.engines.machines import lay

PACKAGE = "sys/class/powercap/intel-rapl:0/energy_uj"


@pytest.fixture(autouse=True)
def _nothing_but_sysfs(tmp_path, monkeypatch):
    """No tegrastats on PATH and no word about pauses, whatever machine runs the tests, however busy."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(energy, "_GAP", 60.0)


# --- the trapezoid rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readings", "start", "end", "joules"),
    [
        ([(0, 5.0), (10, 5.0)], 0, 10, 50.0),
        ([(0, 0.0), (10, 10.0)], 0, 10, 50.0),
        ([(0, 0.0), (1, 10.0), (10, 10.0)], 0, 10, 95.0),  # at unequal times
        ([(0, 0.0), (10, 10.0)], 5, 10, 37.5),  # a reading before the span counts from its start on
        ([(0, 0.0), (10, 10.0)], 2, 3, 2.5),
        ([(0, 0.0), (5, 10.0), (10, 0.0)], 4, 6, 18.0),
        ([(4, 7.0), (6, 3.0)], 0, 10, 28 + 10 + 12.0),  # level beyond the readings
        ([(3, 7.0)], 0, 10, 70.0),
        ([(0, 1.0), (5, 1.0), (5, 3.0), (10, 3.0)], 0, 10, 20.0),  # two readings at one tick of the clock
        ([(0, 1.0), (5, 1.0)], 2, 2, 0.0),
        ([(0, 4.0), (1, 4.0)], 8, 10, 8.0),
    ],
)
def test_power_is_integrated_by_the_actual_times_of_its_readings(readings, start, end, joules):
    assert integral(readings, start, end) == pytest.approx(joules)


# --- a span, by power ---------------------------------------------------------------------------------------


class Watts(PowerSource):
    """Gives these readings, then the last again; None fails. Sets `enough` after all of them."""

    name, rail, interval_ms = "sensor", "VDD_IN", 1.0

    def __init__(self, *values):
        self.values, self.taken, self.enough, self.closed = list(values), 0, threading.Event(), 0

    def read(self):
        value = self.values[min(self.taken, len(self.values) - 1)]
        self.taken += 1
        if self.taken >= len(self.values):
            self.enough.set()
        if value is None:
            raise UnreadableError("in1_input: no data available")
        return value

    def close(self):
        self.closed += 1


def measured(source):
    """The record of a span in which the source was read to its end."""
    meter = Meter(source)
    meter.start()
    assert source.enough.wait(60)
    meter.stop()
    return meter.record()


def test_every_reading_is_kept_and_the_energy_lies_within_what_they_allow():
    source = Watts(4.0, 4.0, 8.0, 8.0)
    before = time.monotonic()
    record = measured(source)
    most = 8.0 * (time.monotonic() - before)
    assert record.watts[:4] == (4.0, 4.0, 8.0, 8.0)
    assert 0 < record.joules < most
    assert (record.source, record.rail, record.interval_ms, record.reason) == ("sensor", "VDD_IN", 1.0, None)
    assert parse(dump(record), EnergyRecord) == record


def test_a_span_of_no_time_has_a_first_and_a_last_reading(tmp_path):
    root = lay(tmp_path, machines.ORIN_NANO)
    start = time.monotonic()
    with metering("cuda:0", root=root) as meter:
        inner = time.monotonic()
        inner = time.monotonic() - inner
    outer = time.monotonic() - start
    record = meter.record()
    watts = 4.984 * 1.856
    assert record.watts == (pytest.approx(watts),) * 2
    assert watts * inner <= record.joules <= watts * outer
    assert (record.source, record.rail, record.interval_ms, record.reason) == (
        "INA3221",
        "VDD_IN",
        100.0,
        None,
    )


def test_a_few_readings_that_fail_are_bridged_without_a_word():
    record = measured(Watts(5.0, None, None, 5.0, 5.0, None, 5.0))
    assert record.reason is None
    assert set(record.watts) == {5.0}


def test_more_readings_that_fail_are_said():
    source = Watts(5.0, None, None, 5.0, 5.0, None, None, 5.0, 5.0)
    record = measured(source)
    assert record.joules > 0
    assert record.reason == (
        f"4 of {source.taken} readings failed (in1_input: no data available); the others bridge them"
    )


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ((0, 30, 60, 100), None),
        ((0, 30, 95.5, 100), "no reading for 65.5 s, which the readings around it bridge"),
        ((70, 99), "no reading for 70.0 s, which the readings around it bridge"),
        ((0, 30), "no reading for 70.0 s, which the readings around it bridge"),
    ],
)
def test_a_long_time_without_a_reading_is_said(times, reason):
    meter = Meter(Watts(5.0))
    meter._sampler.readings = [(float(moment), 5.0) for moment in times]
    meter._start, meter._end = 0.0, 100.0
    record = meter.record()
    assert (record.joules, record.reason) == (pytest.approx(500.0), reason)


def test_where_most_readings_fail_there_is_no_energy():
    source = Watts(5.0, None, None, None, None, 5.0)
    meter = Meter(source)
    meter._sampler = sampler = Sampler(source)
    for _ in range(6):
        sampler._take()
    assert meter.record() == EnergyRecord(
        joules=None,
        source="sensor",
        rail="VDD_IN",
        reason="sensor: 4 of 6 readings failed (in1_input: no data available)",
    )


@pytest.mark.parametrize(
    ("values", "reason"), [((None,), "readings failed"), ((0.0,), "it read 0 W all the time")]
)
def test_what_nobody_measured_is_never_zero(values, reason):
    record = measured(Watts(*values))
    assert record.joules is None
    assert reason in record.reason


def test_a_source_that_breaks_is_a_reading_that_failed():
    """Not an end of the benchmark, whose queries were measured."""

    class Broken(Watts):
        def read(self):
            self.enough.set()
            raise ValueError("of no form")

    record = measured(Broken())
    assert record.joules is None
    assert "readings failed (ValueError: of no form)" in record.reason


@pytest.mark.parametrize(("count", "every"), [(10, 1), (11, 2), (20, 2), (21, 3), (35, 4)])
def test_of_many_readings_some_are_kept_evenly_and_all_are_integrated(count, every, monkeypatch):
    monkeypatch.setattr(energy, "MOST_WATTS", 10)
    meter = Meter(Watts(5.0))
    meter._sampler.readings = [(float(second), float(second)) for second in range(count)]
    meter._start, meter._end = 0.0, count - 1.0
    record = meter.record()
    assert record.watts == tuple(float(second) for second in range(0, count, every))
    assert record.interval_ms == every * 1.0
    assert record.seconds == record.watts
    assert record.joules == pytest.approx((count - 1) ** 2 / 2)


def test_each_reading_has_its_own_time_in_the_span_however_late_it_came():
    meter = Meter(Watts(5.0))
    meter._sampler.readings = [(99.99, 1.0), (100.5, 2.0), (107.25, 3.0)]
    meter._start, meter._end = 100.0, 107.0
    assert meter.record().seconds == (0.0, 0.5, 7.25)


def test_times_that_are_not_those_of_the_readings_are_refused():
    record = EnergyRecord(joules=1.0, watts=(1.0, 2.0), seconds=(0.0, 1.0))
    text = dump(record).replace(b"2.0", b"2.0, 3.0")
    with pytest.raises(ValueError, match="2 times of 3 readings"):
        parse(text, EnergyRecord)


def test_what_the_span_takes_after_the_end_of_interest_does_not_count():
    meter = Meter(Watts(10.0))
    meter._sampler.readings = [(0.1 * i, 10.0 if i <= 5 else 2.0) for i in range(21)]
    meter._start, meter._end = 0.0, 2.0
    record = meter.record(until=0.45)
    assert record.joules == pytest.approx(4.5)
    assert record.watts == (10.0,) * 6
    assert meter.record().joules == pytest.approx(5.6 + 2.8)


@pytest.mark.parametrize(
    ("last", "joules", "reason"),
    [
        (8.5, 50.0, "it ended; its last reading stands for the last 1.5 s"),
        (4.0, None, "sensor: it ended before half of the time was over"),
    ],
)
def test_a_source_that_ended_is_not_asked_again_and_its_readings_are_used_if_they_do(last, joules, reason):
    class Ending(Watts):
        def read(self):
            if self.taken == 2:
                self.enough.set()
                self.asked = getattr(self, "asked", 0) + 1
                raise EndedError("it ended")
            return super().read()

    source = Ending(5.0, 5.0, 5.0)
    meter = Meter(source)
    meter.start()
    assert source.enough.wait(60)
    meter.stop()
    assert source.asked == 1
    meter._sampler.readings = [(0.0, 5.0), (last, 5.0)]
    meter._start, meter._end = 0.0, 10.0
    record = meter.record()
    assert (record.joules, record.reason) == (joules, reason)


# --- a span, by a counter -----------------------------------------------------------------------------------


def test_a_counters_energy_is_the_last_reading_less_the_first(tmp_path):
    root = lay(tmp_path, machines.DESKTOP)
    with metering(root=root) as meter:
        (root / PACKAGE).write_text("106500000")
    assert meter.record() == EnergyRecord(joules=2.5, source="RAPL", rail="package-0")


def test_a_counter_that_wraps_around_in_the_span_is_followed(tmp_path):
    root = lay(tmp_path, machines.DESKTOP | {PACKAGE: machines.RANGE_UJ - 500_000})
    with metering(root=root) as meter:
        (root / PACKAGE).write_text("1500000")
    assert meter.record().joules == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("104000000", "RAPL: its counter did not move in so short a time"),
        (
            "5",
            "RAPL: 1 of 2 readings failed "
            "(package-0 went from 104000000 to 5 µJ, which is no wrapping around)",
        ),
        ("", f"RAPL: 1 of 2 readings failed ({{root}}/{PACKAGE} is empty)"),
    ],
)
def test_a_counter_without_an_end_gives_no_energy(last, reason, tmp_path):
    root = lay(tmp_path, machines.DESKTOP)
    with metering(root=root) as meter:
        (root / PACKAGE).write_text(last)
    assert meter.record() == EnergyRecord(
        joules=None, source="RAPL", rail="package-0", reason=reason.format(root=root)
    )


@pytest.mark.parametrize(
    ("values", "joules", "reason"),
    [
        ((1.0, 2.0, 4.5), 3.5, None),
        ((1.0, None, 4.5), 3.5, None),
        ((None, 2.0, 4.5), None, "1 of"),
        ((1.0, 7.0, 4.5), None, "sensor: its counter went back"),
    ],
)
def test_a_counter_needs_its_first_and_its_last_reading(values, joules, reason):
    class Counter(EnergyCounter):
        name, rail, interval_ms = "sensor", "GPU", 1.0
        read, close = Watts.read, Watts.close

        def __init__(self):
            Watts.__init__(self, *values)

    record = measured(Counter())
    assert record.joules == joules
    assert record.reason is None if reason is None else reason in record.reason
    assert record.watts == ()


@pytest.mark.parametrize(
    ("until", "joules", "reason"),
    [
        (0.5, None, "RAPL: it counted on for 1.5 s after what was measured"),
        (1.995, 2.5, None),
        (None, 2.5, None),
    ],
)
def test_a_counter_that_was_not_read_at_the_end_of_interest_gives_no_energy(until, joules, reason, tmp_path):
    root = lay(tmp_path, machines.DESKTOP)
    with metering(root=root) as meter:
        (root / PACKAGE).write_text("106500000")
    meter._start, meter._end = 0.0, 2.0
    record = meter.record(until)
    assert (record.joules, record.reason) == (joules, reason)


# --- which source -------------------------------------------------------------------------------------------


def test_a_machine_with_nothing_gives_null_and_a_clause_for_each_source(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jtop", None)
    with metering(root=tmp_path) as meter:
        pass
    assert meter.record() == EnergyRecord(
        joules=None,
        reason="INA3221: there is none; tegrastats: there is no such program on PATH; "
        "jtop: jetson-stats is not installed; NVML: the model does not run on a GPU; RAPL: there is none",
    )
    assert b'"joules": null' in dump(meter.record())


def test_the_sources_are_tried_in_the_order_of_what_they_see(tmp_path):
    assert [name for name, _ in energy.SOURCES] == ["INA3221", "tegrastats", "jtop", "NVML", "RAPL"]
    root = lay(tmp_path, machines.DESKTOP | machines.NANO)
    with metering(root=root) as meter:
        pass
    assert meter.record().source == "INA3221"


def test_a_name_of_no_device_is_refused_before_anything_is_opened(tmp_path):
    root = lay(tmp_path, machines.ORIN_NANO)
    with pytest.raises(InputError, match="no device 'tpu'"), metering("tpu", root=root):
        pytest.fail("it was measured")


def test_tegrastats_measures_a_span_and_ends_also_when_the_span_fails(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "tegrastats"
    program.write_text(
        f"#!{sys.executable}\nimport os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "while True:\n    print('RAM 1/2MB VDD_IN 5299mW/5299mW', flush=True)\n    time.sleep(0.01)\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(tegrastats, "_PATIENCE", 60.0)
    with pytest.raises(ZeroDivisionError), metering("cuda:0", root=tmp_path, interval_ms=10) as meter:
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    record = meter.record()
    assert (record.source, record.rail, record.interval_ms) == ("tegrastats", "VDD_IN", 10.0)
    assert set(record.watts) == {5.299}
    assert record.joules > 0


def test_a_source_that_hangs_is_waited_for_once_when_the_span_ends():
    class Hanging(Watts):
        waits = True

        def read(self):
            if self.taken:  # until the span has ended
                self.taken += 1
                self.enough.set()
                meter._sampler._ended.wait(60)
                raise UnreadableError("it printed no line")
            self.taken += 1
            return 5.0

    meter = Meter(source := Hanging())
    meter.start()
    assert source.enough.wait(60)
    meter.stop()
    assert source.taken == 2
    assert not meter._sampler.whole


def test_a_source_that_was_not_being_read_at_the_end_is_read_once_more():
    class Patient(Watts):
        waits = True

    sampler = Sampler(source := Patient(5.0))
    sampler._run = lambda: None
    sampler._thread = threading.Thread(target=sampler._run)
    sampler.start()
    sampler.stop()
    assert source.taken == 2
    assert sampler.whole


def test_no_thread_is_left(tmp_path):
    before = threading.active_count()
    with metering(root=lay(tmp_path, machines.ORIN_NANO)):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
