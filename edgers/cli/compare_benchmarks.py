"""`edgers bench --compare`: what another build, version or power mode changed, and what is chance."""

from __future__ import annotations

import math
from pathlib import Path

import click
import msgspec
from click.core import ParameterSource

from edgers.cli.output import print_json, stderr, stdout, write_new
from edgers_engines.atomic import check_new
from edgers_engines.errors import InputError

SLOWER = 1
STDOUT = Path("-")
_OPTIONS = ("compared", "despite", "fail_if_slower", "json_file")


def percent(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """The share that such as 5% says; the sign is required, for a bare 5 might mean anything.

    Raises:
        BadParameter: no percentage of at least 0.
    """
    if text is None:
        return None
    try:
        value = float(text.removesuffix("%")) if text.endswith("%") else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise click.BadParameter(f"{text!r} is not a percentage of at least 0, such as 5%")
    return value / 100


def only_comparing(ctx: click.Context) -> None:
    """Refuse options that say how to measure.

    Raises:
        InputError: one was given.
    """
    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name not in _OPTIONS
        and ctx.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise InputError(f"--compare measures nothing: leave out {', '.join(given)}")


def compare(
    before: Path, after: Path, *, despite: tuple[str, ...], tolerance: float | None, json_file: Path | None
) -> int:
    """Print the comparison; the exit code is 1 where B is slower than is tolerated.

    Raises:
        BenchmarkError: a file is not a benchmark.
        InputError: they do not measure the same, or too few queries to judge by.
    """
    from edgers.benchmark.comparison import compare_benchmarks
    from edgers.benchmark.record import Benchmark
    from edgers.report.benchmark_comparison import comparison_json, comparison_lines

    if json_file not in {None, STDOUT}:
        check_new(Path(str(json_file)))
    comparison = compare_benchmarks(Benchmark.load(before), Benchmark.load(after), despite)
    out = stderr() if json_file == STDOUT else stdout()
    for line in comparison_lines(comparison):
        out.print(line)
    if json_file == STDOUT:
        print_json(comparison_json(comparison))
    elif json_file is not None:
        write_new(json_file, msgspec.json.encode(comparison_json(comparison)) + b"\n")
    if tolerance is None or not comparison.slower_than(tolerance):
        return 0
    figure = comparison.deciding
    low, high = figure.slowdown or (math.nan, math.nan)
    click.echo(
        f"edgers: slower: by {figure.name}, B takes {low:.3f} to {high:.3f} times as long as A (95%), "
        f"all of it above the {1 + tolerance:.4g} that is tolerated",
        err=True,
    )
    return SLOWER
