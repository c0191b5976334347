"""Which class the smoothed classifier answers with, without a radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import betainc

from edgers.smoothing.bounds import check_alpha, check_counts

_SLACK = 1e-10  # relative; the tail's own error is below it for every n that is allowed


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most frequent class, or an abstention.

    Attributes:
        chosen: its position in the votes; None on abstention.
        p_value: of the two-sided test that the two leading classes are equally likely, rounded up.
    """

    chosen: int | None
    p_value: float


def predict(votes: Sequence[int], alpha: float, unknown: int = 0) -> Prediction:
    """PREDICT of Cohen, Rosenfeld and Kolter (ICML 2019), section 3.2.1.

    A binomial test between the two largest counts n_A and n_B of one sample, at 1/2 of n_A + n_B, two-sided
    because the same votes chose which two; it abstains at p-value > alpha. Assumes independent samples, their
    number fixed before the votes are seen.

    Args:
        votes: of every class, reserved ones too.
        alpha: allowed probability, in (0, 1/2), of answering with a class that is not the most likely one.
        unknown: samples that gave no vote. They count for the runner-up: whichever classes they belong to,
            the p-value would be no larger.

    Raises:
        ValueError: fewer than two classes, no samples, a negative count, or alpha out of range.
    """
    check_alpha(alpha)
    if len(votes) < 2:
        raise ValueError(f"votes of {len(votes)} classes; a prediction compares at least two")
    for count in (*votes, unknown):
        check_counts(count, sum(votes) + unknown)
    chosen, runner_up = sorted(range(len(votes)), key=votes.__getitem__, reverse=True)[:2]
    ahead, behind = votes[chosen], votes[runner_up] + unknown
    upper_tail = float(betainc(ahead, behind + 1, 0.5)) * (1 + _SLACK)
    p_value = 1.0 if ahead <= behind else min(2 * upper_tail, 1.0)
    return Prediction(chosen if p_value <= alpha else None, p_value)
