"""How latencies are spread, and how they went over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgers.benchmark.record import Benchmark
from edgers.benchmark.summary import PERCENTILES, queries_needed, summarise
from edgers.report.colours import AMBER, BLUE, GREEN, GREY, RED
from edgers.report.panels.panel import Panel, Row, head, number
from edgers.report.words import between, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = {50: (GREEN, "-"), 90: (AMBER, "--"), 99: (RED, ":")}
_BINS = 60
_PARTS = 12  # rows of the table over time
_WINDOW = 15  # queries of the running median


def histogram_panel(benchmark: Benchmark) -> Panel:
    """Latencies with their percentiles."""
    latency = summarise(benchmark).latency
    times = [query.latency_ms for query in benchmark.queries]

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        edges = np.histogram_bin_edges(times, bins="fd" if len(times) > 1 and np.ptp(times) else 1)
        counts, *_ = axes.hist(times, bins=min(max(len(edges) - 1, 5), _BINS), color=BLUE, alpha=0.75)
        most = float(np.max(counts))
        for q, (colour, style) in _MARKS.items():
            found = latency.percentiles[q]
            if found is None:
                label = f"p{q} needs {queries_needed(q)} queries"
                axes.plot([], [], color=colour, linestyle=style, label=label)
            else:
                label = f"p{q}  {number(found)} ms"
                axes.vlines(found, 0, 1.05 * most, color=colour, linestyle=style, label=label)
        axes.set_xlabel("latency, ms")
        axes.set_ylabel("queries")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 1.5 * most)  # the legend is above the marks; in one column it is never too wide
        axes.legend(frameon=False, fontsize=9, loc="upper right", handlelength=1.4)
        head(axes, f"Latency of {counted(len(times), 'query', 'queries')}")

    percentiles: list[Row] = [
        (f"p{q}", number(found) if found is not None else f"needs {queries_needed(q)} queries")
        for q, found in ((q, latency.percentiles[q]) for q in PERCENTILES)
    ]
    return Panel(
        key="latency",
        title=f"Latency of {counted(len(times), 'query', 'queries')}",
        caption="Percentiles by nearest rank: each is a latency that was measured.",
        header=("of the latency", "ms"),
        rows=(("least", number(min(times))), *percentiles, ("largest", number(latency.largest))),
        draw=draw,
    )


def time_panel(benchmark: Benchmark) -> Panel:
    """Latency by the time at which the query began, after the warm-up."""
    begins = np.asarray([query.start_ms for query in benchmark.queries]) / 1000
    times = np.asarray([query.latency_ms for query in benchmark.queries])
    warm = benchmark.warm_up
    warmed = f"warm-up, {number(warm.seconds)} s, not kept" if warm.queries else "no warm-up"

    def draw(axes: Axes) -> None:
        axes.axvspan(-warm.seconds, 0, color=GREY, alpha=0.25, linewidth=0, label=warmed)
        axes.plot(begins, times, ".", color=BLUE, alpha=0.75, markersize=5, markeredgewidth=0)
        if len(times) >= 2 * _WINDOW:
            windows = np.lib.stride_tricks.sliding_window_view(times, _WINDOW)
            middles = begins[_WINDOW // 2 : _WINDOW // 2 + len(windows)]
            label = f"running median of {_WINDOW}"
            axes.plot(middles, np.median(windows, axis=1), color=AMBER, linewidth=1.6, label=label)
        axes.set_xlabel("seconds since the first measured query")
        axes.set_ylabel("latency, ms")
        axes.set_ylim(0, times.max() * 1.35)
        axes.legend(frameon=False, fontsize=9, loc="upper right")
        head(axes, "Latency over time")

    parts = np.array_split(np.arange(len(times)), min(_PARTS, len(times)))
    return Panel(
        key="time",
        title="Latency over time",
        caption=f"After {counted(warm.queries, 'query', 'queries')} of warm-up. "
        f"{warm.said[:1].upper()}{warm.said[1:]}.",
        header=("queries", "from, s", "median ms", "largest ms"),
        rows=tuple(
            (
                between(f"{part[0] + 1}", f"{part[-1] + 1}"),
                number(float(begins[part[0]])),
                number(float(np.median(times[part]))),
                number(float(times[part].max())),
            )
            for part in parts
        ),
        draw=draw,
    )
