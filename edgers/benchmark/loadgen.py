"""MLCommons' LoadGen asks instead of our own loop: its clock, its logs, its verdict on durations and counts.

LoadGen calls back for each query and is told when a sample is answered. Which samples it picks of its library
changes nothing: every query takes the next noise, which costs the same. Its mode is PerformanceOnly. Ctrl-C
keeps what was measured by then, but LoadGen goes on until its time is over, with nothing to do.

API: https://github.com/mlcommons/inference, loadgen/bindings/python_api.cc; version 6.0.17 was tried.
"""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgers.benchmark import record
from edgers.benchmark.measure import AT_LEAST, AT_MOST, Drive
from edgers.benchmark.record import Query
from edgers.benchmark.scenario import Keep, Scenario
from edgers_engines.atomic import new_folder
from edgers_engines.errors import EdgersError, InputError

LIBRARY = 1024  # samples that LoadGen is told there are
SCENARIOS: dict[record.Scenario, str] = {
    "certify": "SingleStream",
    "single": "SingleStream",
    "stream": "MultiStream",
    "offline": "Offline",
}
_FASTER = 4  # LoadGen ends early where queries come so many times as fast as those that warmed up
_PAUSE = 0.01  # seconds between queries that LoadGen goes on to ask after a failure; nothing else ends it


def by_loadgen(scenario: record.Scenario, seconds: float, logs: Path) -> Drive:
    """LoadGen as what asks.

    Args:
        scenario: one of `SCENARIOS`.
        seconds: LoadGen's minimum duration.
        logs: a folder to be made, for LoadGen's logs.

    Raises:
        InputError: LoadGen is not installed.
    """
    try:
        import mlperf_loadgen
    except ImportError:
        raise InputError("--loadgen needs MLCommons' LoadGen: install edgers[loadgen]") from None

    def drive(asked: Scenario, first: Sequence[Query], keep: Keep) -> None:
        settings = _settings(mlperf_loadgen, scenario, seconds, asked, first)
        with _noted_interrupts() as interrupted, new_folder(logs) as folder:
            system = _System(mlperf_loadgen, asked, keep, interrupted)
            _start(mlperf_loadgen, system, settings, folder)
            if system.failed is not None:
                raise system.failed  # the logs go: what they say of the time after it is not true

    return drive


class _System:
    """What LoadGen calls: the system under test.

    An exception that passed through LoadGen's C++ would crash the process (it was tried). So the first is
    kept, and whatever LoadGen asks for until its time is over is said to be answered.
    """

    def __init__(
        self,
        loadgen: Any,  # noqa: ANN401  untyped module
        scenario: Scenario,
        keep: Keep,
        interrupted: Callable[[], bool],
    ) -> None:
        self._loadgen, self._scenario, self._keep = loadgen, scenario, keep
        self._interrupted = interrupted
        self._number = 0
        self.failed: BaseException | None = None

    def issue(self, samples: Sequence[Any]) -> None:
        """Answer a query's samples; each batch is told as soon as it is done."""
        waiting = list(samples)

        def answered(query: Query) -> None:
            done = 1 if query.certified is not None else query.samples
            self._complete(waiting[:done])
            del waiting[:done]
            self._keep(query)
            if self._interrupted():
                raise KeyboardInterrupt

        try:
            if self.failed is None:
                self._scenario.ask(self._number, len(samples), answered)
                self._number += 1
            else:
                time.sleep(_PAUSE)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  see above
            self.failed = error
        self._complete(waiting)

    def _complete(self, samples: Sequence[Any]) -> None:
        responses = [self._loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples]
        if responses:
            self._loadgen.QuerySamplesComplete(responses)


@contextmanager
def _noted_interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is noted instead of raised, for it might be raised where LoadGen's C++ would meet it."""
    noted = False

    def note(_signal: int, _frame: object) -> None:
        nonlocal noted
        noted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)


def _settings(
    loadgen: Any,  # noqa: ANN401  untyped module
    scenario: record.Scenario,
    seconds: float,
    asked: Scenario,
    first: Sequence[Query],
) -> Any:  # noqa: ANN401  a TestSettings
    """How LoadGen asks; what it must expect is taken from the queries that warmed up."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, SCENARIOS[scenario])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = math.ceil(1000 * seconds)
    settings.min_query_count, settings.max_query_count = AT_LEAST, AT_MOST
    expected = int(1e6 * statistics.median(query.latency_ms for query in first) / _FASTER)
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = max(expected, 1)
    settings.multi_stream_samples_per_query = asked.samples
    busy = sum(query.latency_ms for query in first) / 1000
    settings.offline_expected_qps = sum(query.samples for query in first) / busy
    return settings


def _start(loadgen: Any, system: _System, settings: Any, folder: Path) -> None:  # noqa: ANN401  untyped
    """Run LoadGen until it has ended; on this thread, which it calls back on."""
    log = loadgen.LogSettings()
    log.enable_trace = False
    log.log_output.outdir = str(folder)
    log.log_output.copy_summary_to_stdout = False
    under_test = loadgen.ConstructSUT(system.issue, lambda: None)
    library = loadgen.ConstructQSL(LIBRARY, LIBRARY, lambda _loaded: None, lambda _unloaded: None)
    try:
        loadgen.StartTestWithLogSettings(under_test, library, settings, log, "")
    except RuntimeError as error:
        raise EdgersError(f"LoadGen failed: {error}") from None
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(under_test)
