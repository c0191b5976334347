"""A benchmark as one picture."""

from __future__ import annotations

import io
import textwrap

from edgers.benchmark.record import Benchmark
from edgers.report.benchmark import headline, warnings
from edgers.report.colours import RED
from edgers.report.panels import panels
from edgers.roofline import Roofline
from edgers_engines.errors import printable

NOT_MEASURED = "not measured: edgers bench --plot measures it, and so does edgers roofline"

_WIDE, _MOST_LINES = 200, 3  # of the warnings beneath the picture, in characters


def plot_benchmark(benchmark: Benchmark, file_type: str, roofline: Roofline | str = NOT_MEASURED) -> bytes:
    """Draw a benchmark with at least one query.

    Args:
        benchmark: what to draw.
        file_type: one of `edgers.report.plot.FORMATS`.
        roofline: of the same bundle on the same machine, or why there is none.

    Returns:
        The file's bytes.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(16, 8.6), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    for axes, panel in zip(figure.subplots(2, 3).flat, panels(benchmark, roofline), strict=True):
        panel.draw(axes)
    s, m = benchmark.settings, benchmark.machine
    where = f"{s.bundle} in {m.engine.precision} by {m.engine.backend} on {m.model or m.processor}"
    figure.suptitle(f"{printable(headline(benchmark))}\n{printable(where)}", fontsize=13, parse_math=False)
    if found := "  ".join(map(printable, warnings(benchmark))):
        lines = "\n".join(textwrap.wrap(found, _WIDE, max_lines=_MOST_LINES, placeholder=" …"))
        figure.supxlabel(lines, x=0.01, ha="left", fontsize=10, color=RED, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_type.lower(), dpi=120)
    return buffer.getvalue()
