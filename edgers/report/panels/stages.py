"""Where the time of a query goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgers.benchmark.record import Benchmark
from edgers.benchmark.summary import OTHER, summarise
from edgers.report.colours import BLUE, GREEN, GREY
from edgers.report.panels.panel import Panel, head, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GRAPHS = ("encode", "prefill", "decode")  # what the model's own graphs take


def stages_panel(benchmark: Benchmark) -> Panel:
    """Bars of each stage's share, graphs apart from the rest."""
    stages = summarise(benchmark).stages

    def draw(axes: Axes) -> None:
        names = [stage.name for stage in stages]
        colours = [GREEN if name in _GRAPHS else GREY if name == OTHER else BLUE for name in names]
        bars = axes.barh(names, [100 * stage.share for stage in stages], color=colours)
        labels = [f"{stage.share:.1%}  {_median(stage.times.percentiles[50])}" for stage in stages]
        axes.bar_label(bars, labels, padding=4, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 100 * max(stage.share for stage in stages) * 1.42)
        axes.set_xlabel("% of all time, and the median a query")
        head(axes, "Stages")

    return Panel(
        key="stages",
        title="Stages",
        caption="Green runs the model's graphs; blue is everything around them; grey is in no stage.",
        header=("stage", "share of all time", "median ms", "largest ms"),
        rows=tuple(
            (
                stage.name,
                f"{stage.share:.2%}",
                _figure(stage.times.percentiles[50]),
                number(stage.times.largest),
            )
            for stage in stages
        ),
        draw=draw,
    )


def _median(value: float | None) -> str:
    return "" if value is None else f"{number(value)} ms"


def _figure(value: float | None) -> str:
    return "too few queries" if value is None else number(value)
