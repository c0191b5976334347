"""What `edgers bench` gives of a benchmark, measured or read from a file: tables, files, the picture."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edgers.cli.output import print_json, stderr, stdout, write_new

if TYPE_CHECKING:
    from edgers.benchmark.record import Benchmark
    from edgers.roofline import Roofline

STDOUT = Path("-")
PAGE = ".html"


def deliver(benchmark: Benchmark, json_file: Path | None, csv_file: Path | None) -> None:
    """Print it, on stderr where stdout is for the JSON, and write the files that are asked for."""
    from edgers.report.benchmark import benchmark_lines, queries_csv

    # Each is done whatever becomes of the others: nothing that was measured is lost.
    with ExitStack() as stack:
        if json_file == STDOUT:
            stack.callback(print_json, benchmark)
        elif json_file is not None:
            stack.callback(lambda path: write_new(path, benchmark.to_json()), json_file)
        if csv_file is not None:
            stack.callback(lambda path: write_new(path, queries_csv(benchmark)), csv_file)
        out = stderr() if json_file == STDOUT else stdout()
        for line in benchmark_lines(benchmark):
            out.print(line)


def draw(benchmark: Benchmark, path: Path, roofline: Roofline | str) -> None:
    """Write the page or the picture, by the file's ending.

    Args:
        benchmark: what to draw.
        path: of the new file.
        roofline: of the same bundle on the same machine, or why there is none.
    """
    if path.suffix.lower() == PAGE:
        from edgers.report.benchmark_page import benchmark_html

        write_new(path, benchmark_html(benchmark, roofline))
    else:
        from edgers.report.benchmark_plot import plot_benchmark

        write_new(path, plot_benchmark(benchmark, path.suffix[1:], roofline))
