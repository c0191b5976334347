"""A benchmark as one HTML file that needs nothing else: no script, no network, light, dark and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec

from edgers.benchmark.record import Benchmark
from edgers.benchmark.summary import summarise
from edgers.report.benchmark import facts, for_the_class, headline, warnings
from edgers.report.benchmark_plot import NOT_MEASURED
from edgers.report.inline_svg import inline_svg
from edgers.report.panels import panels
from edgers.report.panels.panel import number
from edgers.report.words import counted
from edgers.roofline import Roofline
from edgers_engines.errors import InputError, printable

_NOTE = (
    "A benchmark certifies nothing: its noise is the same in every run. It measures what certifying takes on "
    "this device."
)


def check_page() -> None:
    """Refuse a page that cannot be made before any work is done for it.

    Raises:
        InputError: matplotlib or Jinja2 is not installed.
    """
    if not all(map(find_spec, ("matplotlib", "jinja2"))):  # not imported yet, see `check_plotting`
        raise InputError("pages need matplotlib and Jinja2: install edgers[plot]")


def benchmark_html(benchmark: Benchmark, roofline: Roofline | str = NOT_MEASURED) -> bytes:
    """The page, in UTF-8.

    Args:
        benchmark: with at least one query. Its names and reasons may hold anything: they are escaped.
        roofline: of the same bundle on the same machine, or why there is none.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )
    template = environment.from_string(
        files("edgers.report").joinpath("benchmark_page.html.j2").read_text("utf-8")
    )
    # Markup: matplotlib escapes the texts that it writes.
    drawings = [(panel, Markup(inline_svg(panel))) for panel in panels(benchmark, roofline)]  # noqa: S704
    s, m = benchmark.settings, benchmark.machine
    page = template.render(
        headline=headline(benchmark),
        subject=f"{s.bundle} in {m.engine.precision} by {m.engine.backend} {m.engine.version} on "
        f"{m.model or m.processor}, {benchmark.started_at}",
        warnings=tuple(warnings(benchmark)),
        tiles=tuple(_tiles(benchmark)),
        drawings=drawings,
        sections=(
            ("Measured", facts(benchmark)),
            ("Settings", _settings(benchmark)),
            ("Machine", _machine(benchmark)),
        ),
        note=_NOTE,
    )
    return page.encode()


def _tiles(benchmark: Benchmark) -> Iterator[tuple[str, str]]:
    """The figures that people ask for first."""
    summary = summarise(benchmark)
    what = {"certify": "a certificate", "single": "a sample"}.get(benchmark.settings.scenario, "a batch")
    for name, value, unit in (
        (f"latency of {what}, p50", summary.latency.percentiles[50], "ms"),
        (f"latency of {what}, p99", summary.latency.percentiles[99], "ms"),
        (
            "time to certified decision, p50",
            None if summary.decision is None else summary.decision.percentiles[50],
            "ms",
        ),
        ("time to first token, p50", summary.first_token.percentiles[50], "ms"),
        ("samples a second", summary.samples_per_second, ""),
        ("certificates a second", summary.certificates_per_second, ""),
        ("energy of a certificate", summary.joules_per_certificate, "J"),
    ):
        if value is not None:
            yield name, f"{number(value)} {unit}".strip()
    yield "peak memory of the host", f"{benchmark.memory.host_peak_bytes / 2**20:,.0f} MiB"


def _settings(benchmark: Benchmark) -> tuple[tuple[str, str], ...]:
    s = benchmark.settings
    return (
        ("scenario", s.scenario),
        ("bundle", f"{s.bundle}, {s.bundle_digest}"),
        ("image", f"{s.image}, {s.image_sha256}"),
        ("prompt", s.prompt),
        ("choices", ", ".join(s.choices) if s.choices else "none"),
        ("oracle", s.oracle or "the choices"),
        ("noise", f"σ = {s.sigma:g}"),
        ("samples", f"{s.samples}{for_the_class(s)}; {s.batch_size} at once"),
        ("level", f"α = {s.alpha:g}"),
        ("method", s.method if s.target_radius is None else f"{s.method}, target radius {s.target_radius:g}"),
        ("seed", s.seed),
    )


def _machine(benchmark: Benchmark) -> tuple[tuple[str, str], ...]:
    m = benchmark.machine
    return (
        ("processor", m.processor),
        ("board", m.model or "it has no name"),
        ("system", m.system),
        ("cores and memory", f"{counted(m.cores, 'core')}, {m.memory_bytes / 2**30:.1f} GiB"),
        ("engine", f"{m.engine.backend} {m.engine.version}, {m.engine.provider}, {m.engine.device}"),
        ("precision", m.engine.precision),
        ("threads", str(m.threads)),
        *m.versions.items(),
    )
