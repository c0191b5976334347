"""Batches with a hard cap: the allowed error is spent look by look, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgers.smoothing.bounds import check_alpha
from edgers.smoothing.sequential import DEFAULT_FUTILITY, hopeless_votes
from edgers.smoothing.stopping import Boundary, Integers, check_looks, check_threshold
from edgers.smoothing.walk import Floats, Walk

MIN_ALPHA = 1e-250  # far below it the walk drops, as dust, what would have to be counted

_SLACK = 1e-9  # relative; the recursion's rounding error is about 1e-16 per sample


def spending_boundary(
    threshold: float,
    alpha: float,
    looks: Integers | Sequence[int],
    futility: float = DEFAULT_FUTILITY,
) -> Boundary:
    """The one-sided rule that decides `q > threshold` at these looks, wrong with probability <= alpha.

    By the look at n samples it has spent at most alpha * sqrt(n / cap); what it does not spend at one look is
    left for the next. The root spends early, where clear votes stop. The critical votes follow by recursion
    from the exact walk of votes at q = threshold, the least favourable q <= threshold: the binomial's
    likelihood ratio is monotone, so at a smaller q fewer runs cross. What is given up is not taken off: the
    level holds too if somebody goes on nevertheless.

    Assumes independent votes counted in index order, and looks (with them the cap) declared before the first
    vote; an answer is due at the looks only. Source: Lan and DeMets, Biometrika 70 (1983); the power family
    of spending functions: Kim and DeMets, Biometrika 74 (1987), here with the power 1/2; the binomial
    recursion: Schultz and others, Biometrics 29 (1973).

    Args:
        threshold: p0 in (0, 1), rounded up by the caller; see `MixtureTest`.
        alpha: allowed probability of certifying although q <= threshold, in [1e-250, 1/2).
        looks: [J] increasing numbers of samples; the last is the cap.
        futility: how readily it gives up, see `hopeless_votes`.

    Raises:
        ValueError: threshold, alpha, looks or futility out of range.
    """
    check_threshold(threshold)
    if check_alpha(alpha) < MIN_ALPHA:
        raise ValueError(f"alpha is {alpha}; for looks in batches it must be at least {MIN_ALPHA}")
    looks = check_looks(looks)
    budgets = alpha * np.sqrt(looks / looks[-1])
    certify_from = critical_votes(threshold, looks, budgets)
    return Boundary(looks, certify_from, hopeless_votes(looks, certify_from, threshold, futility))


def critical_votes(threshold: float, looks: Integers, budgets: Floats) -> Integers:
    """The fewest votes at each look with which the probability of having certified keeps to its budget; [J].

    Counts that no undecided run can have, since it would have certified before, are free: they certify too.

    Args:
        threshold: the q at which that probability is computed.
        looks: [J], increasing.
        budgets: [J], the error that may be spent up to that look; not falling.
    """
    walk, spent, critical = Walk(threshold), 0.0, []
    for samples, budget in zip(looks.tolist(), budgets.tolist(), strict=True):
        walk.advance_to(samples)
        tails = np.cumsum(walk.masses[::-1])  # of the highest count, the two highest, ...
        affordable = int(np.count_nonzero((spent + tails) * (1 + _SLACK) <= budget))
        votes = walk.first + len(tails) - affordable
        spent += walk.cut_from(votes)
        critical.append(votes)
    return np.array(critical)
