"""Energy that the device took while something ran."""

from __future__ import annotations

from edgers_engines.fields import NonNegative
from edgers_engines.records import Record


class EnergyRecord(Record, frozen=True, kw_only=True):
    """Energy of a span of time, or why it is not known; never 0 for what nobody measured.

    Attributes:
        joules: over the whole span.
        source: what measured it, such as "INA3221".
        rail: what it is the energy of, such as "VDD_IN" (the whole module) or "package-0" (processor only).
        reason: why there are no joules, one clause for each source that was tried.
        interval_ms: between two readings of the power.
        watts: the readings, where the source gives power.
    """

    joules: NonNegative | None
    source: str | None = None
    rail: str | None = None
    reason: str | None = None
    interval_ms: NonNegative | None = None
    watts: tuple[NonNegative, ...] = ()
