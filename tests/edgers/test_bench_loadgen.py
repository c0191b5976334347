"""MLCommons' LoadGen as what asks: its logs agree with the queries kept, and no failure crosses its C++."""

import json
import os
import re
import signal
import subprocess
import sys

import mlperf_loadgen
import pytest

from edgers import demo
from edgers.benchmark.loadgen import by_loadgen
from edgers.benchmark.measure import AT_LEAST, INTERRUPTED, measure
from edgers.benchmark.scenario import Asking, Certificates, Samples
from edgers.certify import Certifier
from edgers_engines.errors import BackendError, InputError

SECONDS = 0.2
SUMMARY = "mlperf_log_summary.txt"


@pytest.fixture(scope="module")
def certifier(demo_bundle):
    return Certifier(demo_bundle, sigma=demo.SIGMA, samples=8, selection=2)


@pytest.fixture
def asking(first_frame):
    return Asking(first_frame, demo.PROMPT, demo.ACTIONS, None)


def scenario_of(certifier, asking, rows, pool):
    return Samples(
        certifier.model, asking, sigma=demo.SIGMA, rows=rows, samples=pool, progress=lambda _samples: None
    )


def said(logs, name):
    """A number in LoadGen's own summary."""
    text = (logs / SUMMARY).read_text()
    return float(re.search(rf"^{re.escape(name)}\s*: (\S+)", text, re.MULTILINE)[1])


@pytest.mark.parametrize("stream", [("single", "SingleStream", 1), ("stream", "MultiStream", 3)])
def test_streams_are_asked_by_loadgen_and_each_query_is_kept(certifier, asking, tmp_path, stream):
    (name, mlperf, samples), logs = stream, tmp_path / "logs"
    scenario = scenario_of(certifier, asking, samples, samples)
    measured = measure(scenario, by_loadgen(name, SECONDS, logs), 0.0)
    assert f"Scenario : {mlperf}" in (logs / SUMMARY).read_text()
    assert "No errors encountered" in (logs / SUMMARY).read_text()
    assert {query.samples for query in measured.queries} == {samples}
    assert len(measured.queries) >= AT_LEAST
    # LoadGen's clock starts before ours and stops after it.
    for ours, theirs in ((max, "Max latency (ns)"), (min, "Min latency (ns)")):
        assert said(logs, theirs) >= 1e6 * ours(query.latency_ms for query in measured.queries)


def test_loadgen_counts_the_queries_that_are_kept(certifier, asking, tmp_path):
    logs = tmp_path / "logs"
    measured = measure(scenario_of(certifier, asking, 1, 1), by_loadgen("single", SECONDS, logs), 0.0)
    lines = (logs / "mlperf_log_detail.txt").read_text().splitlines()
    entries = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    (count,) = [entry["value"] for entry in entries if entry["key"] == "result_query_count"]
    assert count == len(measured.queries)


def test_loadgen_asks_no_more_than_a_file_can_hold(certifier, asking, tmp_path, monkeypatch):
    for bound in ("AT_LEAST", "AT_MOST"):
        monkeypatch.setattr(f"edgers.benchmark.loadgen.{bound}", 7)
    scenario = scenario_of(certifier, asking, 1, 1)
    measured = measure(scenario, by_loadgen("single", SECONDS, tmp_path / "logs"), 0.0)
    assert len(measured.queries) == 7


def test_the_offline_pool_is_as_large_as_loadgen_makes_it_and_answered_in_batches(
    certifier, asking, tmp_path
):
    logs = tmp_path / "logs"
    measured = measure(scenario_of(certifier, asking, 4, 10), by_loadgen("offline", SECONDS, logs), 0.0)
    assert "Scenario : Offline" in (logs / SUMMARY).read_text()
    assert sum(query.samples for query in measured.queries) == said(logs, "samples_per_query")
    assert {query.samples for query in measured.queries[:-1]} == {4}


def test_certificates_are_a_single_stream(certifier, asking, tmp_path):
    logs = tmp_path / "logs"
    scenario = Certificates(certifier, asking, lambda _samples: None)
    measured = measure(scenario, by_loadgen("certify", SECONDS, logs), 0.0)
    assert "Scenario : SingleStream" in (logs / SUMMARY).read_text()
    assert {query.samples for query in measured.queries} == {10}


class Failing:
    """A scenario whose third query fails."""

    def __init__(self, scenario, error):
        self._scenario, self._error = scenario, error
        self.samples, self.batch_size, self.engine = 1, 1, scenario.engine

    def ask(self, number, samples, keep):
        if number == 2:
            raise self._error
        self._scenario.ask(number, samples, keep)


def test_a_failure_comes_out_of_loadgen_whole_and_its_logs_are_not_kept(certifier, asking, tmp_path):
    failing = Failing(scenario_of(certifier, asking, 1, 1), BackendError("the third"))
    measured = measure(failing, by_loadgen("single", SECONDS, tmp_path / "logs"), 0.0)
    assert measured.ended_early == "the third"
    assert len(measured.queries) == 2
    assert [*tmp_path.iterdir()] == []


def test_a_failure_of_loadgen_itself_keeps_the_queries_that_were_answered(
    certifier, asking, tmp_path, monkeypatch
):
    start = mlperf_loadgen.StartTestWithLogSettings

    def breaks(*given):
        start(*given)
        raise RuntimeError("its log could not be written")

    monkeypatch.setattr(mlperf_loadgen, "StartTestWithLogSettings", breaks)
    scenario = scenario_of(certifier, asking, 1, 1)
    measured = measure(scenario, by_loadgen("single", SECONDS, tmp_path / "logs"), 0.0)
    assert measured.ended_early == "LoadGen failed: its log could not be written"
    assert len(measured.queries) >= AT_LEAST


def test_logs_that_cannot_be_named_leave_the_queries(certifier, asking, tmp_path):
    class Naming(Failing):
        def ask(self, number, samples, keep):
            (tmp_path / "logs").mkdir(exist_ok=True)
            self._scenario.ask(number, samples, keep)

    scenario = Naming(scenario_of(certifier, asking, 1, 1), None)
    measured = measure(scenario, by_loadgen("single", SECONDS, tmp_path / "logs"), 0.0)
    assert "is there already" in measured.ended_early
    assert len(measured.queries) >= AT_LEAST


class Pressing(Failing):
    """Ctrl-C is pressed while the third query is answered, and again in the next callback of LoadGen's."""

    def ask(self, number, samples, keep):
        self._scenario.ask(number, samples, keep if number != 2 else self._press(keep))

    @staticmethod
    def _press(keep):
        def pressed(query):
            os.kill(os.getpid(), signal.SIGINT)
            keep(query)
            os.kill(os.getpid(), signal.SIGINT)

        return pressed


def test_ctrl_c_keeps_the_queries_until_then(certifier, asking, tmp_path):
    pressing = Pressing(scenario_of(certifier, asking, 1, 1), None)
    before = signal.getsignal(signal.SIGINT)
    measured = measure(pressing, by_loadgen("single", SECONDS, tmp_path / "logs"), 0.0)
    assert measured.ended_early == INTERRUPTED
    assert len(measured.queries) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_without_loadgen_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(InputError, match=r"install edgers\[loadgen\]"):
        by_loadgen("single", SECONDS, tmp_path / "logs")


def test_the_command_ends_as_it_should_with_loadgen(tmp_path):
    """In a process of its own, whose end shows that nothing crashed."""
    options = ("--scenario", "single", "--duration", str(SECONDS), "--warmup", "0")
    outputs = ("--loadgen", str(tmp_path / "logs"), "--json", "-")
    done = subprocess.run(
        [sys.executable, "-m", "edgers", "bench", *options, *outputs],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    queries = json.loads(done.stdout)["queries"]
    assert len(queries) >= AT_LEAST
    assert (tmp_path / "logs" / SUMMARY).exists()
