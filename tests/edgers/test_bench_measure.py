"""One measurement: how long it goes on, what Ctrl-C leaves, and the machine it names."""

import resource
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from edgers.benchmark.machine import board, machine, processor
from edgers.benchmark.measure import AT_LEAST, AT_MOST, INTERRUPTED, in_turn, measure
from edgers.benchmark.memory_use import MemoryUse, host_peak_bytes
from edgers.benchmark.record import MAX_BENCHMARK_BYTES, STAGES
from edgers_engines.device import Host
from edgers_engines.energy import EnergyRecord
from edgers_engines.engine import EngineRecord, open_backend
from edgers_engines.errors import BackendError, EdgersError
from tests.edgers.benchmarks import benchmark, query

ENGINE = EngineRecord(backend="onnxruntime", version="1", device="cpu", provider="CPU", precision="fp32")


class Asked:
    """A scenario that answers at once, some queries each time."""

    def __init__(self, each=1):
        self.samples, self.batch_size, self.engine, self._each = each, 1, ENGINE, each
        self.numbers = []

    def ask(self, number, samples, keep):
        assert samples == self.samples
        self.numbers.append(number)
        for i in range(self._each):
            keep(query(1000.0 + 10 * len(self.numbers) + i, 5.0))


def test_however_short_the_time_there_are_enough_queries_to_show_something():
    scenario, kept = Asked(), []
    in_turn(0.0)(scenario, [], kept.append)
    assert len(kept) == AT_LEAST
    assert scenario.numbers == [*range(AT_LEAST)]


def test_an_asking_of_several_queries_counts_each():
    scenario, kept = Asked(each=3), []
    in_turn(0.0)(scenario, [], kept.append)
    assert (len(kept), scenario.numbers) == (6, [0, 1])


def test_asking_goes_on_until_the_time_is_over(monkeypatch):
    clock = iter([0.0, *(float(second) for second in range(100))])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    scenario = Asked()
    in_turn(30.0)(scenario, [], lambda _query: None)
    assert len(scenario.numbers) == 30


def test_however_long_the_time_there_are_no_more_queries_than_a_file_can_hold(monkeypatch):
    monkeypatch.setattr("edgers.benchmark.measure.AT_MOST", 20)
    scenario, kept = Asked(), []
    in_turn(1e9)(scenario, [], kept.append)
    assert len(kept) == 20


def test_a_pool_that_would_make_more_queries_than_a_file_can_hold_is_not_begun(monkeypatch):
    monkeypatch.setattr("edgers.benchmark.measure.AT_MOST", 20)
    scenario, kept = Asked(each=7), []
    in_turn(1e9)(scenario, [], kept.append)
    assert len(kept) == 14


def test_warming_up_asks_for_a_few_batches_of_a_pool(monkeypatch):
    asked = []

    class Pool(Asked):
        def ask(self, _number, samples, keep):
            asked.append(samples)
            keep(query(1.0, 5.0))

    pool = Pool()
    pool.samples, pool.batch_size = 10**9, 8
    monkeypatch.setattr("edgers.benchmark.measure.AT_LEAST", 1)
    measure(pool, in_turn(0.0), 0.0)
    assert asked == [32, 10**9]


def test_the_most_queries_fit_into_a_file_that_can_be_read_back():
    long = query(123456789.123456, 1234567.123456, stages=dict.fromkeys(STAGES, 123456.123456))
    few, more = (len(benchmark(queries=(long,) * count).to_json()) for count in (1, 2))
    assert few + (more - few) * AT_MOST <= MAX_BENCHMARK_BYTES


def test_times_count_from_the_first_measured_query():
    measured = measure(Asked(), in_turn(0.0), 0.0)
    assert measured.queries[0].start_ms == 0.0
    assert measured.queries[1].start_ms == 10.0
    assert measured.ended_early is None
    assert measured.warm_up.queries == 1


def test_ctrl_c_keeps_the_queries_that_were_answered():
    def drive(scenario, _first, keep):
        scenario.ask(0, 1, keep)
        scenario.ask(1, 1, keep)
        raise KeyboardInterrupt

    measured = measure(Asked(), drive, 0.0)
    assert measured.ended_early == INTERRUPTED
    assert [each.start_ms for each in measured.queries] == [0.0, 10.0]


ERRORS = pytest.mark.parametrize(
    ("error", "said"),
    [
        (BackendError("the graph failed"), "the graph failed"),
        (MemoryError(), "out of memory"),
        (MemoryError("2 GB"), "out of memory (2 GB)"),
        (EdgersError("LoadGen failed: its log"), "LoadGen failed: its log"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)


@ERRORS
def test_an_error_keeps_the_queries_that_were_answered_and_says_itself(error, said):
    def drive(scenario, _first, keep):
        scenario.ask(0, 1, keep)
        scenario.ask(1, 1, keep)
        raise error

    measured = measure(Asked(), drive, 0.0)
    assert measured.ended_early == said
    assert len(measured.queries) == 2


@ERRORS
def test_an_error_before_the_first_answer_is_raised(error, said):
    def drive(_scenario, _first, _keep):
        raise error

    with pytest.raises(type(error)):
        measure(Asked(), drive, 0.0)


def test_energy_is_taken_until_the_last_query_was_answered(monkeypatch):
    """Not until LoadGen's time is over, which it may spend with nothing to do."""
    clock, until = iter(range(100)), []
    monkeypatch.setattr("edgers.benchmark.measure.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("edgers.benchmark.measure.metering", lambda _device: nullcontext(Recording(until)))

    def drive(scenario, _first, keep):
        before = next(clock)
        for number in range(3):
            scenario.ask(number, 1, keep)
        seen.append(before)
        next(clock)

    seen = []
    measure(Asked(), drive, 0.0)
    assert until == [seen[0] + 3]


class Recording:
    """A meter that notes until when it is asked for."""

    def __init__(self, until):
        self._until = until

    def record(self, until):
        self._until.append(until)
        return EnergyRecord(joules=None, reason="nobody measured")


def test_ctrl_c_before_the_first_answer_leaves_nothing():
    def drive(_scenario, _first, _keep):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(Asked(), drive, 0.0)


def test_what_asks_is_shown_the_queries_that_warmed_up():
    seen = []

    def drive(scenario, first, keep):
        seen.extend(first)
        scenario.ask(0, 2, keep)

    measure(Asked(each=2), drive, 0.0)
    assert len(seen) == 2


# --- the machine --------------------------------------------------------------------------------------------


def test_a_board_is_named_as_its_device_tree_does(tmp_path):
    named = tmp_path / "model"
    named.write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    assert board(named) == "NVIDIA Jetson AGX Orin Developer Kit"
    assert board(tmp_path / "none") is None
    named.write_bytes(b"\0")
    assert board(named) is None


def test_a_processor_is_named_where_it_says_its_name(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nmodel name\t: another\n")
    assert processor(cpuinfo) == "ARMv8 Processor rev 1 (v8l)"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 62.5\n")
    assert processor(cpuinfo) is None


def test_the_machine_names_what_ran_the_graphs():
    found = machine(open_backend(threads=1), ENGINE)
    assert (found.threads, found.engine) == (1, ENGINE)
    assert {"edgers", "python", "numpy", "onnxruntime"} <= found.versions.keys()
    assert "GPU" not in found.versions
    assert found.cores >= 1
    assert found.memory_bytes > 1 << 20


# --- memory -------------------------------------------------------------------------------------------------


class Gpu(Host):
    """A device that says how much is free."""

    def __init__(self, *free):
        self._free = iter(free)

    def free_bytes(self):
        return next(self._free)


def test_a_gpus_peak_is_what_was_least_free():
    memory = MemoryUse(Gpu(1000, 700, 300, 600))
    for _ in range(3):
        memory.look()
    record = memory.record()
    assert (record.device_peak_bytes, record.device_reason) == (700, None)


def test_a_gpu_on_which_nothing_was_taken_has_no_peak_but_a_reason():
    memory = MemoryUse(Gpu(1000, 2000))
    memory.look()
    record = memory.record()
    assert record.device_peak_bytes is None
    assert "did not shrink" in record.device_reason


def test_on_the_processor_there_is_no_gpus_memory_and_a_reason():
    memory = MemoryUse(Host())
    memory.look()
    record = memory.record()
    assert record.device_peak_bytes is None
    assert "processor" in record.device_reason


def test_the_hosts_peak_is_the_kernels_mark_of_this_process(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t    1234 kB\nVmRSS:\t     99 kB\n")
    assert host_peak_bytes(status) == 1234 * 1024
    assert host_peak_bytes(tmp_path / "none") == 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert host_peak_bytes() > 10 << 20
