"""Rooflines for people: a table, and the picture of roofs with the stages beneath them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from edgers.report.colours import AMBER, BLUE, GREEN, GREY
from edgers.report.words import between, counted
from edgers.roofline import Roof, Roofline, Roofs
from edgers_engines.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"vision": BLUE, "prefill": GREEN, "decode step": AMBER}
_SCATTER = 1.5  # times the quickest try that the median of an idle machine never is
_ROOM = 4.0  # times the outermost stage that the axes show


def roofline_table(roofline: Roofline) -> Table:
    """One line for each stage: what it takes, its limit, and its time."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    predicted = roofline.prediction
    limit_itself = predicted and roofline.assumed_share == 1  # it would say each limit again
    times = (
        [] if limit_itself else [f"at {roofline.assumed_share:.0%}"] if predicted else ["measured", "share"]
    )
    for name in ("GFLOP", "MB", "FLOP/B", "bound", "limit", *times):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in roofline.stages:
        work = stage.work
        row = [f"{work.total_flops / 1e9:.3g}", f"{work.nbytes / 1e6:.3g}", f"{work.intensity:.3g}"]
        row += [stage.bound_by, duration(stage.limit_seconds)]
        if not limit_itself:
            row.append(duration(stage.seconds))
        if stage.spread is not None:
            row.append(f"{stage.share:.0%}")
        table.add_row(stage.name, *row)
    return table


def roofline_sentences(roofline: Roofline) -> list[str]:
    """What the figures are of, what they rest on, and what a certificate takes."""
    return [
        _subject(roofline),
        *_spreads(roofline),
        *_rests(roofline),
        _certificate(roofline),
        *_warnings(roofline),
    ]


def plot_rooflines(rooflines: Sequence[Roofline], file_type: str) -> bytes:
    """Side by side, as the bytes of a file.

    Args:
        rooflines: at least one.
        file_type: one of `edgers.report.plot.FORMATS`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(rooflines), 4.6), layout="constrained")
    for axes, roofline in zip(figure.subplots(1, len(rooflines), squeeze=False)[0], rooflines, strict=True):
        draw(axes, roofline)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_type.lower(), dpi=150)
    return buffer.getvalue()


def draw(axes: Axes, roofline: Roofline) -> None:
    """The roofs of a device and the stages beneath them, into axes that are somebody's figure's.

    Across: operations for each byte. Up: operations a second. Both axes are logarithmic. A filled point was
    measured; an open one is a prediction, which the title says, too.
    """
    stages = [stage for stage in roofline.stages if stage.work.total_flops]
    across = [stage.work.intensity for stage in stages]
    low, high = min(across) / _ROOM, max(across) * _ROOM
    _draw_roofs(axes, roofline.roofs, [kind for stage in stages for kind in stage.work.flops], low, high)
    for stage in stages:
        axes.plot(
            [stage.work.intensity],
            [stage.flops_per_second / 1e9],
            "o",
            color=_COLORS[stage.name],
            markerfacecolor="none" if roofline.prediction else None,
            label=f"{stage.name}, {duration(stage.seconds)}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda *_: "")
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=min(stage.flops_per_second for stage in stages) / 1e9 / _ROOM)
    axes.set_xlabel("operations for each byte")
    axes.set_ylabel("GFLOP/s")
    share = roofline.assumed_share
    said = f"PREDICTION at {share:.0%} of the limit" if roofline.prediction else "measured"
    title = f"{roofline.roofs.device}\n{counted(roofline.rows, 'sample')} at once: {said}"
    axes.set_title("\n".join(map(printable, title.split("\n"))), fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def duration(seconds: float) -> str:
    """With a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e6:.3g} µs"


def _draw_roofs(axes: Axes, roofs: Roofs, kinds: Sequence[str], low: float, high: float) -> None:
    """A slope for the memory, and a level for each type of number that is multiplied."""
    bandwidth = (roofs.bandwidth.per_second or 0.0) / 1e9
    for kind in dict.fromkeys(kinds):
        peak = (roofs.peak(kind).per_second or 0.0) / 1e9
        x = sorted({low, min(max(peak / bandwidth, low), high), high})
        axes.plot(x, [min(each * bandwidth, peak) for each in x], color=GREY)
        label = f"{_billions(roofs.peak(kind))} GFLOP/s, {kind}"
        axes.annotate(label, (high, peak), ha="right", va="bottom", fontsize=8, color=GREY)
    place = (low, low * bandwidth)
    axes.annotate(
        f" {bandwidth:.4g} GB/s",
        place,
        xytext=(8, 0),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=GREY,
    )


def _subject(roofline: Roofline) -> str:
    asked = (
        f"{counted(roofline.rows, 'sample')} at once, {counted(roofline.positions, 'position')} of image and "
        f"question, answers of {counted(roofline.tokens, 'token')}"
    )
    if roofline.prediction:
        return (
            f"PREDICTION for {roofline.roofs.device}, which is not this machine: {asked}. Nothing was "
            "measured."
        )
    return f"Under the roofs of {roofline.roofs.device}: {asked}."


def _spreads(roofline: Roofline) -> list[str]:
    spreads = [(stage.name, *stage.spread) for stage in roofline.stages if stage.spread]
    ranges = (f"{name} {between(duration(least), duration(most))}" for name, least, most in spreads)
    return [f"measured: the median; {', '.join(ranges)}"] if spreads else []


def _rests(roofline: Roofline) -> list[str]:
    kinds = dict.fromkeys(kind for stage in roofline.stages for kind in stage.work.flops)
    roofs = [(f"peak in {kind}", roofline.roofs.peak(kind), "GFLOP/s") for kind in kinds]
    roofs.append(("memory", roofline.roofs.bandwidth, "GB/s"))
    return [f"{name}: {_billions(roof)} {unit} ({roof.source})" for name, roof, unit in roofs]


def _billions(roof: Roof) -> str:
    number = (roof.per_second or 0.0) / 1e9
    return f"{number:.4g}" if number < 10_000 else f"{number:,.0f}"


def _certificate(roofline: Roofline) -> str:
    seconds, least = map(duration, (roofline.certificate_seconds, roofline.certificate_limit_seconds))
    graphs = f"A certificate of {counted(roofline.samples, 'sample')}: the graphs take"
    if not roofline.prediction:
        return f"{graphs} {seconds} by these times, and no less than {least} at the limit."
    if roofline.assumed_share == 1:
        return (
            f"{graphs} no less than {least}, the limit, which nothing reaches: give the share that is to be "
            "expected with --share."
        )
    return (
        f"{graphs} {seconds} at {roofline.assumed_share:.0%} of the limit, an assumption; at least {least}."
    )


def _warnings(roofline: Roofline) -> list[str]:
    said = []
    if roofline.fits is False:
        said.append(
            f"{roofline.rows} samples at once do not fit into its memory: see edgers plan --memory, and give "
            "fewer --rows."
        )
    if any(stage.share > 1 and not roofline.prediction for stage in roofline.stages):
        said.append(
            "More than the limit was reached: either the peaks were measured while the machine did something "
            "else (run it again), or what a stage reads stays in a cache from one run to the next."
        )
    if any(stage.spread and stage.seconds > _SCATTER * stage.spread[0] for stage in roofline.stages):
        said.append(
            "The machine did something else meanwhile: the quickest try of a stage is much quicker than the "
            "median. Run it again when it is idle; as it is, the shares are too small."
        )
    return said
