"""Which class the smoothed model answers with, without a radius."""

from __future__ import annotations

from collections.abc import Mapping

from edgers.oracle.base import FAILED, RESERVED, UNDECIDED
from edgers.smoothing.predict import predict
from edgers_engines.records import Record


class Prediction(Record, frozen=True, kw_only=True):
    """The most likely class for this very image under noise, or an abstention. Nothing is said of others.

    `label` is None on abstention; a class that is not the most likely one is answered with probability
    `alpha` at most. `votes` are of all classes and add up to `n`.
    """

    label: str | None
    p_value: float
    votes: dict[str, int]
    n: int
    alpha: float
    sigma: float
    seed: str
    bundle_digest: str
    prompt: str
    image: str | None


def most_likely(votes: Mapping[str, int], alpha: float) -> tuple[str | None, float]:
    """The class that is answered, if any, and its p-value.

    Samples that failed, or were decided by less than rounding, count for the strongest rival: nobody knows
    what they would have said. A reserved class may win the vote; it is never answered.

    Args:
        votes: of every class, the reserved ones too.
        alpha: allowed probability of a class that is not the most likely one.

    Raises:
        ValueError: no votes, or alpha out of range.
    """
    unknown = votes[UNDECIDED] + votes[FAILED]
    read = {name: count for name, count in votes.items() if name not in (UNDECIDED, FAILED)}
    found = predict([*read.values()], alpha, unknown=unknown)
    label = None if found.chosen is None else [*read][found.chosen]
    return None if label in RESERVED else label, found.p_value
