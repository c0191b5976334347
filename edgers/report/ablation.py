"""Oracles side by side, for people: a table and a plot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from edgers.advice import floored
from edgers_engines.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgers.ablation import Scored

_GREEN, _RED, _GREY = "#2a7f4f", "#b3402e", "#8a8f98"


def score_notes(scores: Sequence[Scored]) -> str:
    """What was compared, and what the table's columns mean."""
    first = scores[0]
    return printable(
        f"{first.frames} frames, n = {first.n}, sigma {first.sigma:g}, alpha {first.alpha:g}. Errors: of one "
        f"answer about each of {first.answers} images, not what {first.reference} says; with probability 95% "
        "between the two below. False: certified, and it calls half the answers something else. Radius: the "
        "mean, 0 where it abstains. Milliseconds for a new text, and in the mean over all answers."
    )


def score_table(scores: Sequence[Scored]) -> Table:
    """One line for each oracle; what is unsound says so."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("oracle", overflow="fold", min_width=12)
    for name in ("certified", "false", "radius", "errors", "ms/new", "ms/all"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in scores:
        unsound = "" if each.sound else "UNSOUND: "
        table.add_row(
            Text(f"{printable(each.oracle)}\n{unsound}{each.kind}", style="" if each.sound else "red"),
            f"{each.certified}/{each.frames}",
            str(each.false),
            floored(each.mean_radius),
            f"{each.errors / each.answers:.1%}\n{100 * each.error_lower:.1f} to {each.error_upper:.1%}",
            "" if each.ms_per_new_text is None else f"{each.ms_per_new_text:.3f}",
            f"{each.ms_per_answer:.3f}",
        )
    return table


def plot_scores(scores: Sequence[Scored], file_type: str) -> bytes:
    """Radius, certified share, errors with their interval, and time, one bar for each oracle.

    Args:
        scores: what to draw.
        file_type: one of `edgers.report.plot.FORMATS`.

    Returns:
        The file's bytes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.6 + 0.4 * len(scores)), layout="constrained")
    names = [printable(f"{each.oracle} ({each.kind}{'' if each.sound else ', UNSOUND'})") for each in scores]
    panels = figure.subplots(1, 4, sharey=True)
    colours = [_GREEN if each.sound else _RED for each in scores]
    for axes, title, values in zip(
        panels,
        ("mean radius", "certified share", "error rate", "ms per new text"),
        (
            [each.mean_radius for each in scores],
            [each.certified / each.frames for each in scores],
            [each.errors / each.answers for each in scores],
            # Clusters give no text a class by itself: there, of an answer.
            [each.ms_per_answer if each.ms_per_new_text is None else each.ms_per_new_text for each in scores],
        ),
        strict=True,
    ):
        axes.barh(names, values, color=colours)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    _draw_intervals(panels[2], scores)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_type.lower(), dpi=150)
    return buffer.getvalue()


def _draw_intervals(axes: Axes, scores: Sequence[Scored]) -> None:
    for place, each in enumerate(scores):
        axes.plot([each.error_lower, each.error_upper], [place, place], color=_GREY, marker="|")
