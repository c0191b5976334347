"""`edgers bench`: latency, throughput, memory and energy of a bundle on this device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgers.cli.compare_benchmarks import compare, measures_nothing
from edgers.cli.options import PATH, as_share, backend_options, bundle_option, named, question_options
from edgers.cli.output import progress_bar
from edgers.cli.show_benchmark import PAGE, STDOUT, deliver, draw
from edgers_engines.atomic import check_new
from edgers_engines.errors import EdgersError, InputError

if TYPE_CHECKING:
    from edgers.benchmark.measure import Drive
    from edgers.benchmark.record import Benchmark, Scenario
    from edgers.benchmark.run import Settings
    from edgers.roofline import Roofline
    from edgers.rule import Method
    from edgers_engines.bundle import Bundle
    from edgers_engines.engine import Backend

INTERRUPTED = 130
_DEMO = "  [default: the demo's]"
_STOPPED = "not measured: the run ended before"


@dataclass(frozen=True, slots=True)
class Options:
    """The command's options, as given."""

    bundle_path: Path | None
    image: Path | None
    scenario: Scenario
    prompt: str | None
    choices: str | None
    oracle: str | None
    sigma: float | None
    samples: int | None
    selection: int | None
    alpha: float | None
    method: Method | None
    target_radius: float | None
    batch_size: int | None
    duration: float
    warmup: float
    backend: str
    device: str | None
    threads: int | None
    loadgen: Path | None
    json_file: Path | None
    csv_file: Path | None
    plot: Path | None

    def check_outputs(self) -> None:
        """Refuse what cannot be written, before anything is measured.

        Raises:
            InputError: a file or folder is there already or cannot be made, or two are the same.
        """
        json_file = None if self.json_file == STDOUT else self.json_file
        given = (json_file, self.csv_file, self.plot, self.loadgen)
        targets = [target for target in given if target is not None]
        if self.csv_file == STDOUT:
            raise InputError("--csv writes a file; --json - is what goes to stdout")
        for target in targets:
            if targets.count(target) > 1:
                raise InputError(f"two outputs are both {target}: give each its own name")
            check_new(target)
        if self.plot is not None and self.plot.suffix.lower() == PAGE:
            from edgers.report.benchmark_page import check_page

            check_page()
        elif self.plot is not None:
            from edgers.report.plot import FORMATS, check_plotting

            if self.plot.suffix[1:].lower() not in FORMATS:
                raise InputError(
                    f"{self.plot} must end in {PAGE}, {', '.join(f'.{name}' for name in FORMATS)}"
                )
            check_plotting(self.plot)

    def settings(self) -> Settings:
        """What is to be measured; the demo's question where none is given."""
        from edgers.benchmark.run import Settings
        from edgers.benchmark.scenario import Asking
        from edgers.demo import ACTIONS, PROMPT, SIGMA, frames

        choices = named(self.choices)
        if choices is None and self.oracle is None:
            choices = [*ACTIONS]
        return Settings(
            scenario=self.scenario,
            asking=Asking(
                image=self.image or frames()[0],
                prompt=PROMPT if self.prompt is None else self.prompt,
                choices=None if choices is None else tuple(choices),
                oracle=self.oracle,
            ),
            sigma=SIGMA if self.sigma is None else self.sigma,
            samples=self.samples,
            selection=self.selection,
            alpha=self.alpha,
            method=self.method,
            target_radius=self.target_radius,
            batch_size=self.batch_size,
            duration=self.duration,
            warm_up=self.warmup,
        )

    def drive(self) -> Drive | None:
        """LoadGen, where it is asked for."""
        if self.loadgen is None:
            return None
        from edgers.benchmark.loadgen import by_loadgen

        return by_loadgen(self.scenario, self.duration, self.loadgen)


@click.command("bench")
@bundle_option
@click.option(
    "--image", type=PATH, help="What is asked about: JPEG, PNG or WebP.  [default: the demo's first frame]"
)
@click.option(
    "--scenario",
    type=click.Choice(["single", "stream", "offline", "certify"]),
    default="certify",
    show_default=True,
    help="certify: certificates, each from the image's file to the verdict. As in MLPerf: single, one noisy "
    "sample after the other (SingleStream); stream, one batch after the other (MultiStream); offline, a pool "
    "of samples at once.",
)
@partial(question_options, defaults=_DEMO)
@click.option("--samples", type=int, help="Of a certificate (its n), or of the offline pool  [default: 100]")
@click.option(
    "--selection",
    type=int,
    help="With certify: samples that choose the class  [default: 16; 0 with a target]",
)
@click.option("--alpha", type=float, help="With certify: allowed error probability  [default: 0.001]")
@click.option(
    "--method",
    type=click.Choice(["fixed", "sequential", "batched"]),
    help="With certify: as in `edgers certify`  [default: sequential with --target-radius, else fixed]",
)
@click.option("--target-radius", type=float, help="With certify: end when this radius is decided.")
@click.option("--batch-size", type=int, help="Samples answered at once  [default: 32; 8 with a target]")
@click.option(
    "--duration", type=float, default=10.0, show_default=True, help="Seconds to measure; at least 5 queries."
)
@click.option(
    "--warmup", type=float, default=5.0, show_default=True, help="Most seconds to warm up; at least 1 query."
)
@backend_options
@click.option("--loadgen", type=PATH, metavar="DIR", help="Let MLCommons' LoadGen ask; its logs go there.")
@click.option(
    "--json",
    "json_file",
    type=PATH,
    metavar="FILE",
    help="Write every query and the circumstances; - is stdout.",
)
@click.option("--csv", "csv_file", type=PATH, metavar="FILE", help="Write one line for each query.")
@click.option(
    "--plot",
    type=PATH,
    metavar="FILE",
    help="Draw it, with the roofline that is measured then: HTML page, or PNG, SVG, PDF.",
)
@click.option(
    "--compare",
    "compared",
    nargs=2,
    type=PATH,
    metavar="A.json B.json",
    help="Measure nothing: compare two files.",
)
@click.option(
    "--despite",
    multiple=True,
    metavar="SETTING",
    help="With --compare: a setting that may differ, such as bundle_digest; may be repeated.",
)
@click.option(
    "--fail-if-slower",
    callback=as_share,
    metavar="SHARE",
    help="With --compare: exit with 1 if all of the 95% interval of the slow-down is above this: 5% or 0.05.",
)
@click.option(
    "--show",
    "shown",
    type=PATH,
    metavar="FILE.json",
    help="Measure nothing: print a file of --json; --csv writes its queries, --plot draws it, without the "
    "roofline.",
)
def command(
    *,
    compared: tuple[Path, Path] | None,
    despite: tuple[str, ...],
    fail_if_slower: float | None,
    shown: Path | None,
    **given: Any,  # noqa: ANN401  the fields of Options
) -> int:
    """Measure a bundle on this device.

    It warms up until queries neither get faster nor slower, then measures. Ctrl-C ends it, as does an error;
    what was measured by then is kept, and the exit code is 130 or 1. The noise is the same in every run: what
    it certifies on the way is worth nothing.
    """
    if compared is not None:
        takes = ("compared", "despite", "fail_if_slower", "json_file")
        measures_nothing(click.get_current_context(), "--compare", *takes)
        return compare(*compared, despite=despite, tolerance=fail_if_slower, json_file=given["json_file"])
    if despite or fail_if_slower is not None:
        raise InputError("--despite and --fail-if-slower go with --compare")
    options = Options(**given)
    if shown is not None:
        measures_nothing(click.get_current_context(), "--show", "shown", "json_file", "csv_file", "plot")
    options.check_outputs()
    return _measure(options) if shown is None else _show(shown, options)


def _measure(options: Options) -> int:
    settings, drive = options.settings(), options.drive()
    from edgers.benchmark import measure
    from edgers.benchmark.run import run
    from edgers.demo import load_bundle
    from edgers_engines.engine import open_backend

    bundle = load_bundle(options.bundle_path)
    backend = open_backend(options.backend, device=options.device, threads=options.threads)
    with progress_bar(f"bench {options.scenario}", None) as progress:
        benchmark, ended_early = run(settings, bundle, backend, progress=progress, drive=drive)
    _tell_smaller_batches(options.batch_size, benchmark)
    deliver(benchmark, options.json_file, options.csv_file)
    if options.plot is not None:
        try:
            roofline = _STOPPED if ended_early else _roofline(benchmark, bundle, backend)
        except KeyboardInterrupt:
            roofline, ended_early = _STOPPED, measure.INTERRUPTED
        draw(benchmark, options.plot, roofline)
    if ended_early is None:
        return 0
    click.echo(f"edgers: {ended_early}; queries that were kept: {len(benchmark.queries)}", err=True)
    return INTERRUPTED if ended_early == measure.INTERRUPTED else 1


def _tell_smaller_batches(asked: int | None, benchmark: Benchmark) -> None:
    s = benchmark.settings
    if asked is None or s.batch_size >= asked:
        return
    most = max(s.samples, s.selection) if s.scenario == "certify" else s.samples
    why = (
        f"samples that are drawn: {most}" if s.batch_size == most else "the model or the memory takes no more"
    )
    click.echo(f"edgers: batch size {s.batch_size}, not {asked}: {why}", err=True)


def _show(path: Path, options: Options) -> int:
    from edgers.benchmark.record import Benchmark
    from edgers.report.benchmark_plot import NOT_MEASURED

    benchmark = Benchmark.load(path)
    deliver(benchmark, options.json_file, options.csv_file)
    if options.plot is not None:
        draw(benchmark, options.plot, NOT_MEASURED)
    return 0


def _roofline(benchmark: Benchmark, bundle: Bundle, backend: Backend) -> Roofline | str:
    """For the picture, after the benchmark so that it cannot disturb it; or why it was not to be had."""
    from edgers.benchmark.summary import summarise
    from edgers.roofline import measure
    from edgers_engines.stages import question_sizes
    from edgers_engines.vlm import VisionLanguageModel

    asked, queries = benchmark.settings, benchmark.queries
    tokens, samples = round(summarise(benchmark).tokens), asked.samples
    if asked.scenario == "certify":  # those of the selection too, and no more than were drawn
        samples = round(sum(query.samples for query in queries) / len(queries))
    try:
        model = VisionLanguageModel(bundle, backend)
        sizes = question_sizes(bundle, asked.batch_size, asked.prompt, tokens, model.decoder_graph)
        return measure(model, sizes, samples)
    except (EdgersError, MemoryError) as error:
        return f"not measured: {error}"
