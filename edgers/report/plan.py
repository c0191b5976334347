"""Plans and scaling curves for people: tables and plots."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from edgers.smoothing.scaling import Distribution, certified_share, radius_kept, radius_law
from edgers.smoothing.stopping import least_expected_samples
from edgers_engines.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from edgers.smoothing.planning import Plan, Target

RADII = (0.0, 0.5, 1.0, 1.5)  # in units of sigma

_GREEN, _AMBER, _GREY, _BLUE = "#2a7f4f", "#c98a1b", "#8a8f98", "#2b6ca3"
_FINE_RADII = tuple(step / 200 for step in range(601))


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What n samples keep: exact, by the law, and the share of inputs certified at each of `RADII`."""

    samples: int
    kept: float
    law: float
    certified: list[float]


def curve_points(distribution: Distribution, alpha: float, samples: Sequence[int]) -> list[CurvePoint]:
    """The exact curve beside the law; ValueError as `radius_kept`."""
    return [
        CurvePoint(
            samples=n,
            kept=radius_kept(distribution, n, alpha),
            law=radius_law(alpha, n),
            certified=certified_share(distribution, RADII, n, alpha),
        )
        for n in samples
    ]


def plan_table(plans: Sequence[Plan], ms_per_sample: float | None) -> Table:
    """Three lines for each p; with the time where a measurement was given."""
    table = Table("p", "method", box=box.SIMPLE)
    timed = ms_per_sample is not None
    for name in ("samples", "votes needed", "95% stop by", "certifies", *(["time"] if timed else [])):
        table.add_column(name, justify="right")
    for plan in plans:
        fixed, samples = plan.fixed, None if plan.fixed is None else plan.fixed.samples
        if fixed is None:
            table.add_row(f"{plan.p:g}", "fixed", "too many" if plan.reachable else "out of reach")
        else:
            row = (f"{plan.p:g}", "fixed", str(samples), str(fixed.votes), "", _share(fixed.certified))
            table.add_row(*row, *_time(fixed.samples, ms_per_sample))
        for name, rule in (("sequential", plan.sequential), ("batched", plan.batched)):
            mean, last, sure = f"{rule.expected_samples:.1f}", str(rule.samples_95), _share(rule.certified)
            table.add_row("", name, mean, "", last, sure, *_time(rule.expected_samples, ms_per_sample))
        table.add_section()
    return table


def curve_table(points: Sequence[CurvePoint]) -> Table:
    """One line for each n."""
    table = Table("n", "keeps", "law", *(f"R ≥ {r:g}σ" if r else "certified" for r in RADII), box=box.SIMPLE)
    for column in table.columns:
        column.justify = "right"
    for point in points:
        law = f"{point.law:.3f}" if point.law > 0 else "-"
        certified = (f"{share:.3f}" for share in point.certified)
        table.add_row(str(point.samples), f"{point.kept:.3f}", law, *certified)
    return table


def plot_plans(target: Target, plans: Sequence[Plan], file_type: str) -> bytes:
    """Samples and the probability of certifying against p, as the bytes of a file.

    Args:
        target: what is planned.
        plans: for increasing p above its threshold.
        file_type: one of `edgers.report.plot.FORMATS`.
    """
    figure, (samples, success) = _two_axes(
        f"R ≥ {target.target_radius:g} at σ = {target.sigma:g}, α = {target.alpha:g}; stopping early: looks "
        f"after every {target.batch} samples, at most {target.cap}"
    )
    p = [plan.p for plan in plans]
    fixed = [math.nan if plan.fixed is None else plan.fixed.samples for plan in plans]
    samples.plot(p, fixed, color=_GREY, label=f"fixed n, certifies with {target.power:g}")
    samples.plot(p, [plan.batched.expected_samples for plan in plans], color=_AMBER, label="batched, mean")
    samples.plot(
        p, [plan.sequential.expected_samples for plan in plans], color=_GREEN, label="sequential, mean"
    )
    least = [least_expected_samples(plan.p, target.threshold, target.alpha) for plan in plans]
    samples.plot(p, least, color=_BLUE, linestyle=":", label="least mean that certifies surely (Wald)")
    samples.set_yscale("log")
    samples.set_ylabel("samples")
    success.plot(p, [plan.batched.certified for plan in plans], color=_AMBER, label="batched")
    success.plot(p, [plan.sequential.certified for plan in plans], color=_GREEN, label="sequential")
    success.set_ylabel("probability of certifying within the cap")
    success.set_ylim(0, 1.02)
    for axes in (samples, success):
        axes.set_xlabel("probability of the class under noise")
        axes.set_xlim(target.threshold, 1)
        _finish(axes)
    return _file(figure, file_type)


def plot_curve(
    points: Sequence[CurvePoint], distribution: Distribution, alpha: float, title: str, file_type: str
) -> bytes:
    """The radius kept against n, and the certified accuracy against the radius, as the bytes of a file."""
    figure, (kept, accuracy) = _two_axes(title)
    n = [point.samples for point in points]
    kept.plot(n, [point.kept for point in points], "o-", markersize=3, color=_GREEN, label="exact")
    kept.plot(n, [point.law for point in points], "--", color=_AMBER, label="law 1 - 1.64 z / √n")
    kept.set_xscale("log")
    kept.set_ylim(0, 1)
    kept.set_xlabel("samples n")
    kept.set_ylabel("share of the average radius that is kept")
    for samples, color in ((100, _AMBER), (1000, _GREEN), (10_000, _BLUE), (None, _GREY)):
        shares = certified_share(distribution, _FINE_RADII, samples, alpha)
        label = "n = ∞" if samples is None else f"n = {samples}"
        accuracy.plot(_FINE_RADII, shares, color=color, label=label)
    accuracy.set_ylim(0, 1.02)
    accuracy.set_xlabel("radius / σ")
    accuracy.set_ylabel("share of inputs certified")
    for axes in (kept, accuracy):
        _finish(axes)
    return _file(figure, file_type)


def _duration(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s" if ms < 600_000 else f"{ms / 60_000:.0f} min"


def _time(samples: float, ms_per_sample: float | None) -> list[str]:
    return [] if ms_per_sample is None else [_duration(samples * ms_per_sample)]


def _share(probability: float) -> str:
    return f"{math.floor(probability * 10_000) / 10_000:.4f}"  # never more than is true


def _two_axes(title: str) -> tuple[Figure, tuple[Axes, Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(printable(title), fontsize=10, wrap=True, parse_math=False)
    return figure, (left, right)


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False, fontsize=8)


def _file(figure: Figure, file_type: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_type.lower(), dpi=150)
    return buffer.getvalue()
