"""Two benchmarks side by side, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from edgers.benchmark.comparison import Compared, Comparison
from edgers.report.words import counted
from edgers_engines.errors import printable


def comparison_lines(comparison: Comparison) -> Iterator[Text | Table]:
    """What differs around the figures first, then the figures, then what they mean."""
    for text in _warnings(comparison):
        yield Text(f"! {printable(text)}", style="bold yellow")
    yield _figures(comparison)
    for line in _without(comparison):
        yield Text(printable(line), style="dim")
    yield Text(_meaning(comparison))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """All of it, with the ratio and the verdict of each figure."""
    figures = [
        {**msgspec.structs.asdict(figure), "ratio": figure.ratio, "verdict": verdict(figure)}
        for figure in comparison.figures
    ]
    return {**msgspec.structs.asdict(comparison), "figures": figures, "deciding": comparison.deciding.name}


def verdict(figure: Compared) -> str:
    """What may be said: "noise", "better", "worse"; nothing without an interval."""
    if figure.slowdown is None:
        return ""
    if figure.noise:
        return "noise"
    return "worse" if figure.slowdown[0] > 1 else "better"


def _warnings(comparison: Comparison) -> Iterator[str]:
    for each in comparison.expected:
        yield f"asked otherwise, as you said: {each.field}: A {each.a}, B {each.b}"
    for each in comparison.circumstances:
        yield f"not the same {each.field}: A {each.a}, B {each.b}"
    yield from comparison.remarks
    for name, count, measured in zip("AB", comparison.queries, comparison.measured, strict=True):
        if count < measured:
            yield (
                f"{name}: the first {count} of its {measured} queries, as many as the other has; energy and "
                "memory are of all"
            )
    if not comparison.paired:
        yield "other seeds: no query of A has the noise of one of B, so they are not paired"


def _figures(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("A", "B", "B / A", "95%"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for figure in comparison.figures:
        word = verdict(figure)
        table.add_row(
            Text(figure.name, style="bold" if figure is comparison.deciding else ""),
            shown(figure.a, figure.unit),
            shown(figure.b, figure.unit),
            "-" if figure.ratio is None else f"{figure.ratio:.3f}",
            "-" if figure.interval is None else f"{figure.interval[0]:.3f} to {figure.interval[1]:.3f}",
            Text(word, style=_STYLES.get(word, "dim")),
        )
    return table


def _without(comparison: Comparison) -> Iterator[str]:
    """Why figures have no interval: those of one reason in one line."""
    names: dict[str, list[str]] = {}
    for figure in comparison.figures:
        if figure.interval is None:
            names.setdefault(figure.reason or "no reason is known", []).append(figure.name)
    for reason, figures in names.items():
        yield f"No interval for {', '.join(figures)}: {reason}."


_STYLES = {"better": "bold green", "worse": "bold red"}


def shown(value: float | None, unit: str) -> str:
    """A value with its unit."""
    if value is None:
        return "-"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    number = f"{value:.1f}" if value >= 100 else f"{value:.3g}"
    return f"{number}/s" if unit == "1/s" else f"{number} {unit}"


def _meaning(comparison: Comparison) -> str:
    a, b = comparison.queries
    queries = counted(b, "query", "queries")
    compared = f"the first {queries} of both, paired" if comparison.paired else f"{a} and {queries}"
    return (
        f"{comparison.scenario}, {compared}. Noise: the interval holds 1; of figures that did not change, "
        "one in twenty misses it all the same. An interval knows what varies within the two runs, not from "
        "run to run: repeat what matters."
    )
