"""How many samples it takes to certify a radius: what a fixed n needs, and what stopping early spends.

To certify R >= r at noise sigma is to show that the class's probability exceeds Phi(r / sigma), the threshold
here. All plans are one-sided at level alpha, and assume independent votes and a class chosen beforehand or
by samples of its own, which are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from edgers.smoothing.batched import spending_boundary
from edgers.smoothing.bounds import MAX_SAMPLES, check_alpha, clopper_pearson_lower
from edgers.smoothing.radius import required_probability
from edgers.smoothing.sequential import MixtureTest
from edgers.smoothing.stopping import (
    Boundary,
    check_threshold,
    even_looks,
    fixed_boundary,
    operating_characteristics,
)
from edgers.smoothing.walk import Walk

MAX_FIXED_SAMPLES = 100_000
MAX_CAP = 20_000

_ROUNDING = 1e-9  # more than two computations of one probability differ by, relative
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be certified: R >= target_radius, by one certificate at level alpha.

    Attributes:
        sigma: of the noise.
        target_radius: r, in sigma's unit.
        alpha: error level, in (0, 1/2).
        power: the probability with which a fixed n is to certify, in (0, 1).
        batch: samples between two looks of the rules that may stop early.
        cap: the most samples that those take.
    """

    sigma: float
    target_radius: float
    alpha: float
    power: float = 0.9
    batch: int = 8
    cap: int = 4000

    @property
    def threshold(self) -> float:
        """What the class's probability must exceed: Phi(r / sigma), rounded up.

        Raises:
            ValueError: sigma or r out of range, or r so large that as a float it is 1.
        """
        threshold = required_probability(self.target_radius, self.sigma).value
        if threshold >= 1:
            raise ValueError(
                f"the target radius is {self.target_radius}; at sigma {self.sigma} that needs a probability "
                "too close to 1 to be shown"
            )
        return threshold


@dataclass(frozen=True, slots=True)
class FixedPlan:
    """A fixed number of samples.

    Attributes:
        samples: n.
        votes: the fewest votes of n that certify the target.
        certified: the probability of so many votes at the p it was made for.
    """

    samples: int
    votes: int
    certified: float


@dataclass(frozen=True, slots=True)
class StoppingPlan:
    """What a rule that may stop early spends and achieves, at the p it was made for.

    Attributes:
        certified: probability of certifying the target within the cap.
        hopeless: probability of giving up before the cap.
        undecided: probability of reaching the cap without an answer.
        expected_samples: mean number of samples, all outcomes together.
        samples_95: the first look by which it has stopped with probability .95.
    """

    certified: float
    hopeless: float
    undecided: float
    expected_samples: float
    samples_95: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes to certify the target where the class has probability p.

    Attributes:
        p: the class's probability.
        reachable: whether p is above the threshold; if not, certifying would be the error of level alpha.
        fixed: the smallest fixed n; None where the target is out of reach or n above `MAX_FIXED_SAMPLES`.
        sequential: the mixture test, sound at any stopping time; its first look is the first that can
            certify, the others follow batch by batch.
        batched: exact alpha-spending, with a look after every batch.
    """

    p: float
    reachable: bool
    fixed: FixedPlan | None
    sequential: StoppingPlan
    batched: StoppingPlan


def make_plans(target: Target, probabilities: Sequence[float]) -> list[Plan]:
    """Fixed, sequential and batched plans for each p, all exact: sums and recursions, no simulation.

    Args:
        target: what is to be certified, and how.
        probabilities: the p to plan for, each in [0, 1].

    Raises:
        ValueError: an argument out of range.
    """
    if not 1 <= target.cap <= MAX_CAP:
        raise ValueError(f"the cap is {target.cap}; it must lie between 1 and {MAX_CAP}")
    threshold, alpha = target.threshold, target.alpha
    test = MixtureTest(threshold, alpha)
    sequential = test.boundary(even_looks(target.cap, target.batch, test.unanimous_samples))
    batched = spending_boundary(threshold, alpha, even_looks(target.cap, target.batch))
    return [
        Plan(
            p=p,
            reachable=p > threshold,
            fixed=fixed_plan(p, threshold, alpha, target.power),
            sequential=stopping_plan(sequential, p),
            batched=stopping_plan(batched, p),
        )
        for p in probabilities
    ]


def unanimous_samples(threshold: float, alpha: float) -> int:
    """The smallest n whose unanimous vote certifies: no smaller n certifies, whatever the votes.

    Unanimous votes have the bound alpha^(1/n), so n is log(alpha) / log(threshold) or the next number.

    Raises:
        ValueError: threshold or alpha out of range, or n would be above 10^9.
    """
    check_threshold(threshold)
    check_alpha(alpha)
    samples = max(math.floor(math.log(alpha) / math.log(threshold)) - 1, 1)
    while samples <= MAX_SAMPLES and clopper_pearson_lower(samples, samples, alpha).value <= threshold:
        samples += 1
    if samples > MAX_SAMPLES:
        raise ValueError(
            f"no {MAX_SAMPLES} samples show a probability above {threshold} at alpha {alpha}: aim at a "
            "smaller radius"
        )
    return samples


def fixed_plan(
    p: float, threshold: float, alpha: float, power: float, limit: int = MAX_FIXED_SAMPLES
) -> FixedPlan | None:
    """The smallest fixed n that certifies with probability `power` or more, exact.

    Votes are whole, so the probability is a sawtooth in n: the next few n can fall below `power` again.

    Args:
        p: the class's probability.
        threshold: what is to be shown of it, in (0, 1).
        alpha: error level, in (0, 1/2).
        power: in (0, 1).
        limit: the largest n tried.

    Returns:
        The plan, or None when p is not above the threshold, where the target is out of reach, or n would be
        above the limit.

    Raises:
        ValueError: an argument out of range.
    """
    if not 0 < power < 1:
        raise ValueError(f"the power is {power}; it must lie above 0 and below 1")
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}; it must be a probability, from 0 to 1")
    start = unanimous_samples(threshold, alpha)
    if p <= threshold:
        return None
    while start <= limit:
        samples = np.arange(start, min(start + _CHUNK, limit + 1))
        # The bounds of `fixed_boundary` are rounded down, so it may ask for a vote more, never for one fewer.
        probabilities = _tail(_fewest_votes(samples, threshold, alpha), samples, p)
        for n in samples[probabilities >= power * (1 - _ROUNDING)].tolist():
            rule = fixed_boundary(threshold, alpha, n)
            if (certified := operating_characteristics(rule, p).certified) >= power:
                return FixedPlan(n, int(rule.certify_from[0]), certified)
        start += _CHUNK
    return None


def stopping_plan(boundary: Boundary, p: float) -> StoppingPlan:
    """What a rule spends and achieves at p, exact by dynamic programming.

    Raises:
        ValueError: p is not in [0, 1].
    """
    does = operating_characteristics(boundary, p)
    return StoppingPlan(
        certified=does.certified,
        hopeless=does.hopeless,
        undecided=does.undecided,
        expected_samples=does.expected_samples,
        samples_95=_samples_by(boundary, p, 0.95),
    )


def _samples_by(boundary: Boundary, p: float, share: float) -> int:
    """The first look by which the rule has stopped with that probability; the cap stops it for certain."""
    walk = Walk(p)
    for samples, certify_from, give_up_at in zip(
        boundary.looks.tolist(), boundary.certify_from.tolist(), boundary.give_up_at.tolist(), strict=True
    ):
        walk.advance_to(samples)
        walk.cut_from(certify_from)
        walk.cut_to(give_up_at)
        if walk.mass <= 1 - share:
            return int(samples)
    return boundary.cap


def _fewest_votes(samples: NDArray[np.int64], threshold: float, alpha: float) -> NDArray[np.int64]:
    """The smallest k with P(Binomial(n, threshold) >= k) <= alpha for each n; n + 1 where there is none."""
    low, high = np.full_like(samples, 0), samples + 1  # low has a larger tail, high a small enough one
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = _tail(middle, samples, threshold) <= alpha
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def _tail(votes: NDArray[np.int64], samples: NDArray[np.int64], p: float) -> NDArray[np.float64]:
    """P(Binomial(n, p) >= k), for k >= 1; 0 at k = n + 1."""
    possible = votes <= samples
    tails = betainc(np.minimum(votes, samples), np.maximum(samples - votes, 0) + 1, p)
    return np.where(possible, tails, 0.0)
