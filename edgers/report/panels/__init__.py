"""The pictures of a benchmark, one a file: each draws into axes and tells the same as a table."""

from __future__ import annotations

from edgers.benchmark.record import Benchmark
from edgers.report.panels.energy import energy_panel
from edgers.report.panels.latency import histogram_panel, time_panel
from edgers.report.panels.panel import Panel
from edgers.report.panels.radius import radius_panel
from edgers.report.panels.roofline import roofline_panel
from edgers.report.panels.stages import stages_panel
from edgers.roofline import Roofline


def panels(benchmark: Benchmark, roofline: Roofline | str) -> tuple[Panel, ...]:
    """All of them, in reading order.

    Args:
        benchmark: with at least one query.
        roofline: of its bundle on its machine, or why there is none.
    """
    return (
        stages_panel(benchmark),
        histogram_panel(benchmark),
        time_panel(benchmark),
        radius_panel(benchmark),
        energy_panel(benchmark),
        roofline_panel(benchmark, roofline),
    )
