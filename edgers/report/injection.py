"""Injected errors for people: tables and a plot."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from edgers.injection import Finding, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "symmetric": "Symmetric errors: both classes are flipped at the rate",
    "false-positives": "False positives only: what is not A is called A at the rate",
    "false-negatives": "False negatives only: A is called something else at the rate",
}
_STYLES: dict[Verdict, str] = {
    "holds": "green",
    "holds, by assumption": "yellow",
    "holds, not promised": "yellow",
    "must not be used here": "red",
    "claims no truth": "dim",
}
_GREEN, _AMBER, _RED, _GREY = "#2a7f4f", "#c98a1b", "#b03a2e", "#8a8f98"
_COLORS = {"green": _GREEN, "yellow": _AMBER, "red": _RED, "dim": _GREY}
_LEAST = 1e-9  # what is shown as no more than that


def tables(findings: Sequence[Finding]) -> Iterator[Table]:
    """One table for each kind of errors: every mode, at every rate."""
    for kind, found in groupby(findings, key=lambda finding: finding.errors):
        yield _table(kind, [*found])


def _table(kind: str, findings: Sequence[Finding]) -> Table:
    table = Table(title=TITLES[kind], title_justify="left", box=box.SIMPLE, padding=0)
    table.add_column("mode")
    for name in ("rate", "false", "certifies", "mean R"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for use in dict.fromkeys(finding.use for finding in findings):
        lines = [finding for finding in findings if finding.use == use]
        for place, finding in enumerate(lines):
            inside, style = finding.inside, _STYLES[finding.verdict]
            table.add_row(
                use if place == 0 else "",
                f"{finding.rate:g}",
                f"[{style}]{_raised(finding.worst.wrong)}[/]",
                _lowered(inside.certified),
                _lowered(inside.mean_radius),
                f"[{style}]{finding.verdict}[/]",
            )
    return table


def plot_findings(findings: Sequence[Finding], alpha: float, file_type: str) -> bytes:
    """The probability of a false certificate beside alpha, one panel for each kind of errors.

    Args:
        findings: what to draw.
        alpha: what is promised.
        file_type: one of `edgers.report.plot.FORMATS`.

    Returns:
        The file's bytes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    panels = figure.subplots(1, len(TITLES), sharey=True)
    for axes, kind in zip(panels, TITLES, strict=True):
        _draw(axes, [finding for finding in findings if finding.errors == kind], alpha)
        axes.set_title(TITLES[kind].replace(": ", ":\n"), fontsize=9)
    panels[0].invert_yaxis()
    figure.suptitle(
        f"False certificates of truth at the boundary, exact; promised: α = {alpha:g} (line). "
        "Larger dots: higher rates.",
        fontsize=10,
        parse_math=False,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_type.lower(), dpi=150)
    return buffer.getvalue()


def _draw(axes: Axes, findings: Sequence[Finding], alpha: float) -> None:
    rates = sorted({finding.rate for finding in findings})
    axes.scatter(
        [max(finding.worst.wrong, _LEAST) for finding in findings],
        [finding.use for finding in findings],
        s=[25 + 30 * rates.index(finding.rate) for finding in findings],
        c=[_COLORS[_STYLES[finding.verdict]] for finding in findings],
        alpha=0.75,
    )
    axes.axvline(alpha, color=_GREY, linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlim(_LEAST / 2, 2)
    axes.set_xlabel("probability of a false certificate")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.25)


def _lowered(value: float) -> str:
    """With four decimals, never more than is true."""
    return f"{math.floor(value * 10_000) / 10_000:.4f}"


def _raised(probability: float) -> str:
    """With two digits, never less than is true."""
    if probability <= _LEAST:
        return f"<{_LEAST:g}"
    unit = 10.0 ** (math.floor(math.log10(probability)) - 1)
    return f"{math.ceil(probability / unit) * unit:.1e}"
