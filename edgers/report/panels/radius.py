"""How far n samples can certify, and what these certificates did."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri

from edgers.advice import floored
from edgers.benchmark.record import Benchmark
from edgers.report.colours import AMBER, BLUE, GREEN, GREY
from edgers.report.panels.panel import Panel, Row, head

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgers.benchmark.record import SettingsRecord

_SHARES = (1.0, 0.99, 0.95, 0.9)
_STYLES = ("-", "--", "-.", ":")
_TABLE = (30, 100, 300, 1000, 3000, 10_000)


def radius_panel(benchmark: Benchmark) -> Panel:
    """The radius by the number of samples, for some shares of the votes."""
    settings, marks = benchmark.settings, _marks(benchmark)
    most = max(10_000, 3 * settings.samples)
    grid = np.unique(np.geomspace(5, most, 300).round())

    def draw(axes: Axes) -> None:
        for share, style in zip(_SHARES, _STYLES, strict=True):
            radii = radius_by_samples(grid, share, settings)
            axes.plot(grid, radii, style, color=BLUE, label=f"{share:.0%} of the votes", linewidth=1.4)
        axes.axvline(settings.samples, color=GREY, linewidth=1)
        axes.annotate(
            f" n = {settings.samples}",
            (settings.samples, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize=9,
        )
        if marks:
            counts, reached = zip(*marks, strict=True)
            sizes = [20 + 60 * count / max(marks.values()) for count in marks.values()]
            axes.scatter(counts, reached, s=sizes, color=GREEN, zorder=3, label="certified here")
            said, place = "the larger a dot, the more queries", axes.transAxes
            axes.text(0.98, 0.04, said, transform=place, ha="right", fontsize=9, color=GREEN)
        if settings.target_radius is not None:
            axes.axhline(settings.target_radius, color=AMBER, linewidth=1, label="target radius")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("samples n, fixed beforehand")
        axes.set_ylabel("certified L2 radius")
        axes.legend(frameon=False, fontsize=9, loc="upper left")
        head(axes, f"Radius by samples, σ = {settings.sigma:g}, α = {settings.alpha:g}")

    return Panel(
        key="radius",
        title="Radius by samples",
        caption=(
            "What a fixed number of samples certifies on the canvas if this share of them votes for the "
            f"class (Clopper and Pearson, σ = {settings.sigma:g}, α = {settings.alpha:g}); "
            f"{sum(marks.values())} of {len(benchmark.queries)} queries certified a radius."
        ),
        header=("samples", *(f"{share:.0%} of the votes" for share in _SHARES)),
        rows=(*(_row(n, settings) for n in _counts(settings.samples)), *_marked(marks)),
        draw=draw,
    )


def radius_by_samples(
    samples: NDArray[np.float64], share: float, settings: SettingsRecord
) -> NDArray[np.float64]:
    """R = sigma * PhiInv(BetaInv(alpha; k, n - k + 1)) for k = share * n votes, not rounded; 0 abstains.

    Args:
        samples: n, float64 of any shape.
        share: of the votes, above 0 and at most 1.
        settings: sigma and alpha.
    """
    votes = share * samples
    lower = betaincinv(votes, samples - votes + 1, settings.alpha)
    return np.asarray(np.maximum(settings.sigma * ndtri(lower), 0.0))


def _marks(benchmark: Benchmark) -> dict[tuple[int, float], int]:
    """How many queries certified with how many samples which radius; the class' selection is not counted."""
    selection = benchmark.settings.selection
    return Counter(
        (max(query.samples - selection, 1), query.radius)
        for query in benchmark.queries
        if query.certified and query.radius is not None
    )


def _counts(samples: int) -> list[int]:
    return sorted({*_TABLE, samples})


def _row(samples: int, settings: SettingsRecord) -> Row:
    radii = [float(radius_by_samples(np.asarray([samples]), share, settings)[0]) for share in _SHARES]
    return (f"{samples:,}", *(floored(radius) if radius else "abstains" for radius in radii))


def _marked(marks: dict[tuple[int, float], int]) -> list[Row]:
    """The commonest certificates."""
    common = sorted(marks.items(), key=lambda item: -item[1])[:5]
    blank = ("",) * (len(_SHARES) - 2)
    return [
        (f"{samples:,}, here", f"certified {floored(radius)}", f"{count} queries", *blank)
        for (samples, radius), count in common
    ]
