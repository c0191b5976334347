"""Of how many certificates one is, as its record says it: its own, of a declared number, or of a stream."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta

from edgers.smoothing.bounds import check_alpha
from edgers.smoothing.many import bonferroni, scheduled
from edgers_engines.fields import Count
from edgers_engines.records import Record

Kind = Literal["each", "among", "schedule"]
MAX_NUMBER = 1 << 40  # what the record can hold

_SENTENCES: dict[Kind, str] = {
    "each": (
        "This certificate alone is wrong with probability at most {alpha}. Of Q such certificates up to "
        "Q × {alpha} are wrong on average; those that were made and thrown away count."
    ),
    "among": (
        "One of {number} certificates, a number declared before the first: that any of them is wrong has "
        "probability at most {alpha}, and each was made at that level divided by {number}. Those that "
        "abstained, failed or were thrown away count."
    ),
    "schedule": (
        "Attempt {number} of a stream without end: that any certificate of it is wrong has probability at "
        "most {alpha}, and attempt i was made at that level times 6/(π²i²). Each number is used once; "
        "attempts that abstained, failed or were thrown away count."
    ),
}


class Accounting(Record, frozen=True, kw_only=True):
    """Whether the error level is one certificate's own, or what it may spend of a level for many.

    `total_alpha` bounds the probability that any certificate of the count is wrong. `number` is Q for
    "among", the position, from 1, for "schedule", and null for "each".
    """

    kind: Kind
    total_alpha: Annotated[float, Meta(gt=0, lt=0.5)]
    number: Count | None
    sentence: str

    @property
    def alpha(self) -> float:
        """The level of the one certificate, rounded down; see `edgers.smoothing.many`.

        Raises:
            ValueError: the total is out of range.
        """
        if self.number is None:
            return check_alpha(self.total_alpha)
        level = bonferroni if self.kind == "among" else scheduled
        return level(self.total_alpha, self.number)


def accounting(kind: Kind, total_alpha: float, number: int | None = None) -> Accounting:
    """The record of a way to count.

    Raises:
        ValueError: there is no such way, or the number does not fit it.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"there is no accounting {kind!r}; choose one of {', '.join(get_args(Kind))}")
    if (kind == "each") != (number is None):
        raise ValueError(f"the accounting {kind} with the number {number}: each takes none, the others one")
    if number is not None and not 1 <= number <= MAX_NUMBER:
        raise ValueError(f"the accounting {kind} with the number {number}; it must be 1 to {MAX_NUMBER}")
    sentence = _SENTENCES[kind].format(alpha=total_alpha, number=number)
    return Accounting(kind=kind, total_alpha=total_alpha, number=number, sentence=sentence)
