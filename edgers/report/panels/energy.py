"""Power over time and energy of a certificate, or why neither is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgers.benchmark.record import Benchmark
from edgers.benchmark.summary import summarise
from edgers.report.colours import AMBER, BLUE
from edgers.report.panels.panel import Panel, Row, head, number, write_instead
from edgers_engines.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgers_engines.energy import EnergyRecord


def energy_panel(benchmark: Benchmark) -> Panel:
    """Watts, where the source gives them; else the joules, or the reason why there are none."""
    energy, each = benchmark.energy, _each(benchmark)

    def draw(axes: Axes) -> None:
        if energy.joules is None:
            write_instead(axes, "Energy", f"not known: {energy.reason}")
        elif not energy.watts:
            write_instead(
                axes,
                f"Energy: {each}",
                f"{_meter(energy)} counts energy: there is no power over time to draw",
            )
        else:
            _draw_watts(axes, energy, energy.joules / summarise(benchmark).seconds, f"Energy: {each}")

    return Panel(
        key="energy",
        title="Energy",
        caption=f"{each}, idle power included, the warm-up not; measured by {_meter(energy)}."
        if energy.joules is not None
        else "Not known; the reason stands in the picture and under Measured.",
        header=("energy", "value"),
        rows=_rows(benchmark),
        draw=draw,
    )


def _draw_watts(axes: Axes, energy: EnergyRecord, mean: float, title: str) -> None:
    numbers = range(1, len(energy.watts) + 1)
    axes.set_xlabel("seconds" if energy.seconds else "number of the reading: its time is not recorded")
    axes.plot(energy.seconds or numbers, energy.watts, color=BLUE, linewidth=1)
    axes.axhline(mean, color=AMBER, linestyle="--", linewidth=1.4, label=f"mean {number(mean)} W")
    axes.set_ylim(0, max(energy.watts) * 1.2)
    axes.set_ylabel(printable(f"W, {_meter(energy)}"), parse_math=False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    head(axes, title)


def _meter(energy: EnergyRecord) -> str:
    return f"{energy.source} {energy.rail}"


def _each(benchmark: Benchmark) -> str:
    summary = summarise(benchmark)
    if summary.joules_per_certificate is not None:
        return f"{number(summary.joules_per_certificate)} J a certificate"
    return "" if summary.joules_per_sample is None else f"{number(summary.joules_per_sample)} J a sample"


def _rows(benchmark: Benchmark) -> tuple[Row, ...]:
    energy, summary = benchmark.energy, summarise(benchmark)
    if energy.joules is None or summary.joules_per_sample is None:
        return (("all", "not known"),)
    rows = [("all", f"{number(energy.joules)} J"), ("a sample", f"{number(summary.joules_per_sample)} J")]
    if summary.joules_per_certificate is not None:
        rows.append(("a certificate", f"{number(summary.joules_per_certificate)} J"))
    rows.append(("mean power", f"{number(energy.joules / summary.seconds)} W"))
    if energy.watts:
        rows.append(
            ("least and most power", f"{number(min(energy.watts))} and {number(max(energy.watts))} W")
        )
    rows.append(("measured by", _meter(energy)))
    return tuple(rows)
