"""A benchmark for people: the figures that matter first, then where the time went."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from edgers.benchmark.record import STAGES, Benchmark, MemoryRecord, SettingsRecord
from edgers.benchmark.summary import PERCENTILES, Distribution, Summary, queries_needed, summarise
from edgers.report.words import between, counted
from edgers_engines.device_state import DeviceState, throttling_between
from edgers_engines.errors import printable

_FIELDS = (
    "latency_ms",
    "first_token_ms",
    "samples",
    "failed",
    "decode_steps",
    "certified",
    "radius",
    "stopped_because",
)
_NAMED = 6  # clocks, or temperatures
_MLPERF = {"single": 90, "stream": 99, "certify": 90}  # the percentile that the scenario is judged by


def benchmark_lines(benchmark: Benchmark) -> Iterator[Text | Table]:
    """What is printed, in this order."""
    summary = summarise(benchmark)
    yield Text(headline(benchmark), style="bold")
    yield _times(benchmark, summary)
    yield _stages(summary)
    yield _facts(benchmark)
    if benchmark.settings.scenario == "certify":
        yield Text(
            "The noise is the same in every run, so nothing here certifies anything: it measures what "
            "certifying takes."
        )


def queries_csv(benchmark: Benchmark) -> bytes:
    """One line for each query, stages in milliseconds; a stage that the scenario does not time is empty."""
    out = io.StringIO()
    writer = csv.writer(out)
    columns = [f"{stage.replace(' ', '_')}_ms" for stage in STAGES]
    writer.writerow(["query", "start_ms", *_FIELDS, *columns])
    for number, query in enumerate(benchmark.queries):
        fields = [getattr(query, name) for name in _FIELDS]
        stages = [query.stages_ms.get(stage) for stage in STAGES]
        writer.writerow([number, query.start_ms, *fields, *stages])
    return out.getvalue().encode()


def headline(benchmark: Benchmark) -> str:
    """The scenario's own figure first."""
    scenario, summary = benchmark.settings.scenario, summarise(benchmark)
    rate = f"{summary.samples_per_second:.1f} samples/s"
    if scenario == "offline":
        return f"offline: {rate}"
    q = _MLPERF[scenario]
    judged = summary.latency.percentiles[q]
    latency = (
        f"p{q} {judged:.4g} ms"
        if judged is not None
        else f"p{q} unknown, {summary.latency.count} of {queries_needed(q)} queries"
    )
    if summary.certificates_per_second is not None:
        rate = f"{summary.certificates_per_second:.3g} certificates/s, {rate}"
    return f"{scenario}: {latency}; {rate}"


def _times(benchmark: Benchmark, summary: Summary) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("milliseconds")
    table.add_column("of", justify="right")
    for name in (*(f"p{q}" for q in PERCENTILES), "max"):
        table.add_column(name, justify="right", no_wrap=True)
    what = {"certify": "a certificate", "single": "a sample"}.get(benchmark.settings.scenario, "a batch")
    table.add_row(f"latency of {what}", *_cells(summary.latency))
    if summary.certified is not None:
        table.add_row(
            f"time to certified decision\n{summary.certified} of {summary.latency.count} certified",
            *_cells(summary.decision),
        )
    table.add_row("time to first token", *_cells(summary.first_token))
    table.add_row("a decode step", *_cells(summary.decode_step))
    return table


def _cells(times: Distribution | None) -> list[str]:
    """Count, percentiles, and the largest; of a percentile that so few cannot show, how many it takes."""
    if times is None:
        return ["0", *["-"] * (len(PERCENTILES) + 1)]
    shown = [
        _ms(value) if value is not None else f"needs {queries_needed(q)}"
        for q, value in times.percentiles.items()
    ]
    return [str(times.count), *shown, _ms(times.largest)]


def _stages(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("stage")
    table.add_column("p50 ms", justify="right")
    table.add_column("max ms", justify="right")
    table.add_column("of all time", justify="right")
    table.add_column("")
    for stage in summary.stages:
        median = stage.times.percentiles[50]
        table.add_row(
            stage.name,
            "-" if median is None else _ms(median),
            _ms(stage.times.largest),
            f"{stage.share:.1%}",
            Text("█" * round(24 * min(stage.share, 1)), style="cyan"),
        )
    return table


def facts(benchmark: Benchmark) -> tuple[tuple[str, str], ...]:
    """How it was measured, and what the device did meanwhile."""
    b, summary = benchmark, summarise(benchmark)
    measured, warming = (counted(count, "query", "queries") for count in (len(b.queries), b.warm_up.queries))
    return (
        ("measured", f"{measured} in {summary.seconds:.1f} s, from {b.started_at}"),
        ("warm-up", f"{warming} in {b.warm_up.seconds:.1f} s; {b.warm_up.said}"),
        *((("failed", failed),) if (failed := _failed(b)) else ()),
        ("memory", _memory(b.memory)),
        ("energy", _energy(b, summary)),
        ("throttling", _throttling(b)),
        ("clocks", _numbers(b.after.clocks_mhz, "MHz") or _missing(b.after, "clock of the processor")),
        ("temperatures", _numbers(b.after.temperatures_c, "°C") or _missing(b.after, "temperatures")),
        ("power mode", b.after.power_mode or _missing(b.after, "power mode")),
    )


def _facts(benchmark: Benchmark) -> Table:
    b, table = benchmark, Table.grid(padding=(0, 2))
    versions = ", ".join(f"{name} {version}" for name, version in b.machine.versions.items())
    for name, value in (*facts(b), ("asked", _asked(b)), ("machine", _machine(b)), ("versions", versions)):
        table.add_row(Text(name, style="dim"), Text(printable(value)))
    return table


def warnings(benchmark: Benchmark) -> Iterator[str]:
    """What makes its figures worth less."""
    if failed := _failed(benchmark):
        yield f"Not every sample was answered: {failed}."
    if not benchmark.warm_up.steady:
        yield f"Not steady when measuring began: {benchmark.warm_up.said}."
    if seen := throttling_between(benchmark.before, benchmark.after):
        yield f"The device was throttled: {', '.join(seen)}. Cooler, or with more power, it is faster."
    count = len(benchmark.queries)
    if count < queries_needed(99):
        yield f"Too few queries for p99: {count} of {queries_needed(99)}. Measure longer."


def _failed(benchmark: Benchmark) -> str:
    """How many samples did; nothing where none did."""
    failed = sum(query.failed for query in benchmark.queries)
    samples = sum(query.samples for query in benchmark.queries)
    return f"{failed:,} of {samples:,} samples failed; their time counts" if failed else ""


def _memory(memory: MemoryRecord) -> str:
    host = f"peak {_bytes(memory.host_peak_bytes)} of the host's"
    if memory.device_peak_bytes is None:
        return f"{host}; GPU: {memory.device_reason}"
    return f"{host}, {_bytes(memory.device_peak_bytes)} of the GPU's"


def _energy(benchmark: Benchmark, summary: Summary) -> str:
    energy = benchmark.energy
    if energy.joules is None or summary.joules_per_sample is None:
        return f"unknown: {energy.reason}"
    each = (
        ""
        if summary.joules_per_certificate is None
        else f"{summary.joules_per_certificate:.3g} J a certificate, "
    )
    return (
        f"{each}{summary.joules_per_sample:.3g} J a sample; {energy.joules:.4g} J in all, "
        f"{energy.joules / summary.seconds:.3g} W ({energy.source}, {energy.rail})"
    )


def _throttling(benchmark: Benchmark) -> str:
    seen = throttling_between(benchmark.before, benchmark.after)
    if seen is None:
        return _missing(benchmark.after, "throttling")
    return f"seen: {', '.join(seen)}" if seen else "none seen"


def _missing(state: DeviceState, what: str) -> str:
    return f"unknown: {state.missing.get(what, 'the device does not say')}"


def _numbers(values: dict[str, float], unit: str) -> str:
    """Each by its name; of many, as of the cores of a server, how far apart they are."""
    if len(values) > _NAMED:
        least, most = (f"{end(values.values()):.0f}" for end in (min, max))
        return f"{between(least, most)} {unit} ({len(values)} of them)"
    return ", ".join(f"{name} {value:.0f} {unit}" for name, value in values.items())


def _asked(benchmark: Benchmark) -> str:
    s = benchmark.settings
    by = ", ".join(s.choices) if s.choices is not None else f"by the oracle {s.oracle!r}"
    text = f"{s.prompt!r} of {s.image}, {by}; sigma {s.sigma:g}, batches of {s.batch_size}"
    if s.scenario == "offline":
        return f"{text}, {counted(s.samples, 'sample')} at once"
    if s.scenario != "certify":
        return text
    target = "" if s.target_radius is None else f", target R ≥ {s.target_radius:g}"
    return f"{text}, n {s.samples}{for_the_class(s)}, alpha {s.alpha:g}, {s.method}{target}"


def for_the_class(settings: SettingsRecord) -> str:
    """What stands behind the samples where others choose the class before them; else nothing."""
    selects = settings.scenario == "certify" and settings.selection
    return f" after {settings.selection} for the class" if selects else ""


def _machine(benchmark: Benchmark) -> str:
    m, s = benchmark.machine, benchmark.settings
    board = "" if m.model is None else f"{m.model}: "
    return (
        f"{board}{m.processor}, {counted(m.cores, 'core')}, {_bytes(m.memory_bytes)}, {m.system}; "
        f"bundle {s.bundle} ({s.bundle_digest[:16]}) in {m.engine.precision} on {m.engine.backend} "
        f"{m.engine.version}, {m.engine.device}, {counted(m.threads, 'thread')}"
    )


def _ms(value: float) -> str:
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
