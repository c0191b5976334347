"""`edgers bench --compare`: what another build, version or power mode changed, and what is chance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from edgers.cli.output import print_json, stderr, stdout, write_new
from edgers_engines.atomic import check_new
from edgers_engines.errors import InputError

if TYPE_CHECKING:
    from edgers.benchmark.comparison import Comparison

SLOWER = 1
STDOUT = Path("-")


def measures_nothing(ctx: click.Context, option: str, *takes: str) -> None:
    """Refuse options that an option which measures nothing has no use for.

    Args:
        ctx: of the command.
        option: as it is spelled.
        takes: the names of the parameters that go with it.

    Raises:
        InputError: another one was given.
    """
    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name not in takes
        and ctx.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise InputError(f"{option} measures nothing: leave out {', '.join(given)}")


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
    return 0 if tolerance is None else _judge(comparison, tolerance)


def _judge(comparison: Comparison, tolerance: float) -> int:
    """Say what was held against which limit, whichever way it went."""
    slower, figure = comparison.slower_than(tolerance), comparison.deciding
    low, high = figure.slowdown or (math.nan, math.nan)
    verdict, lies = ("slower", "all of it") if slower else ("not shown to be slower", "not all of it")
    click.echo(
        f"edgers: {verdict}: by {figure.name}, B takes {low:.3f} to {high:.3f} times as long as A (95%), "
        f"{lies} above the {1 + tolerance:.4g} that is tolerated",
        err=True,
    )
    return SLOWER if slower else 0
