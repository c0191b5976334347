"""Why a certificate's samples ended: the rule had decided, time was up, or somebody asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

from edgers.oracle.base import RESERVED
from edgers.rule import Rule
from edgers.smoothing.stopping import Decision

Ending = Literal[
    "all samples were drawn",
    "the selection chose a class that is never certified",
    "the target radius is certified",
    "the target radius is out of reach",
    "the deadline passed",
    "it was cancelled",
    "it is one part of several",
]
ALL_SAMPLES: Ending = "all samples were drawn"
RESERVED_SELECTED: Ending = "the selection chose a class that is never certified"
CERTIFIED: Ending = "the target radius is certified"
OUT_OF_REACH: Ending = "the target radius is out of reach"
DEADLINE: Ending = "the deadline passed"
CANCELLED: Ending = "it was cancelled"
ONE_PART: Ending = "it is one part of several"
FROM_OUTSIDE = (DEADLINE, CANCELLED)

_DECIDED = {Decision.CERTIFIED: CERTIFIED, Decision.HOPELESS: OUT_OF_REACH}


def ending(rule: Rule, label: str, votes: Mapping[str, int]) -> Ending | None:
    """Why certification ends with these votes; None where nothing but the outside can have ended it."""
    if rule.selected and label in RESERVED:
        return RESERVED_SELECTED
    decided = _DECIDED.get(rule.decide(label, votes))
    return decided or (ALL_SAMPLES if sum(votes.values()) == rule.samples else None)


class Stop:
    """The outside of one certificate: a deadline and a way to cancel, asked between two batches.

    Args:
        deadline_ms: milliseconds from now; no deadline unless given. A batch that was begun counts whole, so
            it is overrun by one batch at most.
        cancelled: says whether the answer is still wanted.
    """

    def __init__(self, deadline_ms: float | None, cancelled: Callable[[], bool]) -> None:
        self._deadline = None if deadline_ms is None else time.monotonic() + deadline_ms / 1000
        self._cancelled = cancelled
        self.reason: Ending | None = None

    def asked(self, _votes: Mapping[str, int] | None = None) -> bool:
        """Whether to stop now; `reason` says why."""
        if self._cancelled():
            self.reason = CANCELLED
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self.reason = DEADLINE
        return self.reason is not None
