"""The graphs beneath what the device can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgers.benchmark.record import Benchmark
from edgers.benchmark.summary import summarise
from edgers.report.panels.panel import Panel, head, number, write_instead
from edgers.report.roofline import draw as draw_roofline
from edgers.report.roofline import duration, roofline_sentences
from edgers.report.words import counted
from edgers.roofline import Roofline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE = "Roofline"


def roofline_panel(benchmark: Benchmark, roofline: Roofline | str) -> Panel:
    """Vision, prefill and a decode step; a text says why there are none."""
    if isinstance(roofline, str):
        return Panel(
            key="roofline",
            title=_TITLE,
            caption="Not measured; the reason stands in the picture and, whole, in the table.",
            header=("roofline",),
            rows=((roofline,),),
            draw=lambda axes: write_instead(axes, _TITLE, roofline),
        )

    def draw(axes: Axes) -> None:
        draw_roofline(axes, roofline)
        axes.set_title("")
        axes.set_ylim(
            top=2 * max(stage.work.total_flops / stage.limit_seconds for stage in roofline.stages) / 1e9
        )
        head(axes, f"{_TITLE}, {counted(roofline.rows, 'sample')} at once")

    return Panel(
        key="roofline",
        title=_TITLE,
        caption=" ".join(
            f"{line[0].upper()}{line[1:].removesuffix('.')}."
            for line in (*roofline_sentences(roofline), _answers(benchmark))
        ),
        header=("graph", "GFLOP", "MB", "operations a byte", "bound by", "limit", "measured", "share"),
        rows=tuple(
            (
                stage.name,
                number(stage.work.total_flops / 1e9),
                number(stage.work.nbytes / 1e6),
                number(stage.work.intensity),
                stage.bound_by,
                duration(stage.limit_seconds),
                duration(stage.seconds),
                f"{stage.share:.0%}",
            )
            for stage in roofline.stages
        ),
        draw=draw,
    )


def _answers(benchmark: Benchmark) -> str:
    """Where the tokens of an answer are from."""
    return (
        f"measured: {number(summarise(benchmark).tokens)} tokens a batch on average, which the answer's are "
        "rounded from; they are those of the longest answer in it, for each sample's own are not recorded"
    )
