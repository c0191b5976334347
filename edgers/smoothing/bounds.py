"""Confidence bounds for the probability of one class."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainccinv, betaincinv

MAX_SAMPLES = 10**9

# Relative slack by which bounds are rounded down. It covers the error of scipy's inverse incomplete beta
# function, which grows with n: measured against 50 digits, at most 1.4e-10 at n = 5 million.
_SLACK, _SLACK_PER_SAMPLE = 1e-11, 5e-17

# Where a tail is below 1e-100, and n at most 10^9, each of its terms is below 0.9987 of the one before.
_LEAST_FALL = 4e-4
_TINY_ALPHA = 1e-100  # far below it scipy's inverse is NaN, or too large

_PIECE = 2**15  # pairs per task of a thread: some 50 ms


@dataclass(frozen=True, slots=True)
class Probability:
    """A probability with its complement, so that neither loses digits near 0 or 1."""

    value: float
    complement: float

    @property
    def opposite(self) -> Probability:
        """The probability of the opposite event; what was rounded down is then rounded up."""
        return Probability(self.complement, self.value)

    def minus(self, amount: float) -> Probability:
        """Lower by `amount`, at most down to 0; rounded down."""
        return rounded_down(
            Fraction(self.value) - Fraction(amount), Fraction(self.complement) + Fraction(amount)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Probabilities:
    """Arrays of probabilities and their complements, float64, of one shape."""

    value: NDArray[np.float64]
    complement: NDArray[np.float64]


def rounded_down(value: Fraction, complement: Fraction) -> Probability:
    """The floats next to an exact value of 1 at most, from below, and to its complement, from above.

    What lies below 0 becomes 0.
    """
    return Probability(max(_float_below(value), 0.0), min(-_float_below(-complement), 1.0))


def _float_below(number: Fraction) -> float:
    nearest = float(number)
    return nearest if Fraction(nearest) <= number else math.nextafter(nearest, -math.inf)


def check_alpha(alpha: float) -> float:
    """Return alpha when it is a usable error level.

    Raises:
        ValueError: alpha is not in (0, 1/2).
    """
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}; it must lie above 0 and below 0.5")
    return alpha


def check_counts(votes: int, samples: int) -> None:
    """Check k and n.

    Raises:
        ValueError: no integers, not 1 <= n <= 10^9, or not 0 <= k <= n.
    """
    if not (isinstance(votes, Integral) and isinstance(samples, Integral)):
        raise ValueError(  # noqa: TRY004  like a count that is out of range
            f"{votes} votes of {samples} samples: both are counts, so whole numbers"
        )
    if not 1 <= samples <= MAX_SAMPLES:
        raise ValueError(f"the number of samples is {samples}; it must lie between 1 and {MAX_SAMPLES}")
    if not 0 <= votes <= samples:
        raise ValueError(f"{votes} votes of {samples} samples: votes lie between 0 and the samples")


def clopper_pearson_lower(votes: int, samples: int, alpha: float) -> Probability:
    """The one-sided lower Clopper-Pearson bound of q at confidence 1 - alpha, rounded down.

    Source: Clopper and Pearson, Biometrika 26 (1934); as used by Cohen, Rosenfeld and Kolter (ICML 2019),
    section 3.2.2. Assumes n independent samples, n fixed before the votes are seen.

    Args:
        votes: k, samples voted A.
        samples: n.
        alpha: allowed probability, in (0, 1/2), that the bound exceeds q.

    Returns:
        BetaInv(alpha; k, n - k + 1); 0 at k = 0 and alpha^(1/n) at k = n.

    Raises:
        ValueError: alpha, k or n out of range.
    """
    check_alpha(alpha)
    check_counts(votes, samples)
    if votes == 0:
        return Probability(0.0, 1.0)
    if votes == samples:
        log_q = math.log(alpha) / samples
        return _rounded_down(math.exp(log_q), -math.expm1(log_q), _SLACK)
    if alpha < sys.float_info.min:
        return Probability(0.0, 1.0)  # floats so close to 0 are too far apart to compare a tail with them
    if alpha < _TINY_ALPHA:
        log_q = _log_root(votes, samples, alpha)
        value, complement = math.exp(log_q), -math.expm1(log_q)
    else:
        value = float(betaincinv(votes, samples - votes + 1, alpha))
        complement = float(betainccinv(samples - votes + 1, votes, alpha))
    return _rounded_down(value, complement, _SLACK + _SLACK_PER_SAMPLE * samples)


def clopper_pearson_upper(votes: int, samples: int, alpha: float) -> Probability:
    """The one-sided upper Clopper-Pearson bound of q at confidence 1 - alpha, rounded up.

    Source and assumptions: `clopper_pearson_lower`, applied to the n - k samples that were not voted A.

    Returns:
        BetaInv(1 - alpha; k + 1, n - k); 1 at k = n and 1 - alpha^(1/n) at k = 0. The value is rounded up and
        the complement down.

    Raises:
        ValueError: alpha, k or n out of range.
    """
    check_counts(votes, samples)
    return clopper_pearson_lower(samples - votes, samples, alpha).opposite


def pairwise_bounds(votes: Sequence[int], chosen: int, alpha: float) -> tuple[Probability, Probability]:
    """Bounds for the chosen class, from below, and for every other class, from above, at 1 - alpha in all.

    Source: the two-class form of Cohen, Rosenfeld and Kolter (ICML 2019), theorem 1, with Clopper-Pearson
    bounds and Bonferroni: alpha/2 for the chosen class A and alpha / (2(K - 1)) for each of the others. The
    largest upper bound is that of the largest count, and no other class can have more than what A's lower
    bound leaves, which needs no alpha of its own.

    Assumes n independent samples and a class that was chosen without them.

    Args:
        votes: of all K classes, reserved ones too; n is their sum.
        chosen: the position of A in votes.
        alpha: allowed probability, in (0, 1/2), that either bound is wrong.

    Returns:
        p_A,L rounded down and p_B,U rounded up.

    Raises:
        ValueError: fewer than two classes, no such class, a negative count, no votes at all, or alpha out of
            range.
    """
    check_alpha(alpha)
    if len(votes) < 2 or not 0 <= chosen < len(votes):
        raise ValueError(
            f"class {chosen} of {len(votes)}: a pair needs two classes, the chosen one among them"
        )
    samples, others = sum(votes), [*votes[:chosen], *votes[chosen + 1 :]]
    check_counts(min(others), samples)
    lower = clopper_pearson_lower(votes[chosen], samples, alpha / 2)
    upper = clopper_pearson_upper(max(others), samples, alpha / (2 * len(others)))
    return lower, min(upper, lower.opposite, key=lambda p: (p.value, -p.complement))


def clopper_pearson_lower_many(votes: ArrayLike, samples: ArrayLike, alpha: float) -> Probabilities:
    """`clopper_pearson_lower` of many pairs (k, n) at once, rounded down like it.

    Each bound holds at 1 - alpha on its own: that all hold together is not claimed. They are computed on all
    cores; of equal pairs that stand near each other, one is.

    Args:
        votes: k, integers of any shape.
        samples: n, integers of a shape that goes with it by numpy's broadcasting.
        alpha: allowed probability, in [1e-100, 1/2), that one bound exceeds its q.

    Returns:
        Values and complements in the common shape.

    Raises:
        ValueError: alpha, a k or an n out of range, or not integers.
    """
    if check_alpha(alpha) < _TINY_ALPHA:
        raise ValueError(f"alpha is {alpha}; for many bounds at once it must be at least {_TINY_ALPHA}")
    k, n = np.broadcast_arrays(np.asarray(votes), np.asarray(samples))
    _check_count_arrays(k, n)
    pairs = (n.astype(np.int64) * (MAX_SAMPLES + 1) + k).ravel()
    pieces = np.array_split(pairs, max(pairs.size // _PIECE, 1))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bounds = list(pool.map(lambda piece: _lower_bounds(piece, alpha), pieces))
    value, complement = np.concatenate(bounds, axis=1).reshape(2, *k.shape)
    return Probabilities(value, complement)


def _check_count_arrays(votes: NDArray[np.int64], samples: NDArray[np.int64]) -> None:
    for name, counts in (("votes", votes), ("samples", samples)):
        if counts.dtype.kind not in "iu":
            raise ValueError(f"{name} are of type {counts.dtype}; they must be integers")
    wrong = (samples < 1) | (samples > MAX_SAMPLES) | (votes < 0) | (votes > samples)
    if wrong.any():
        check_counts(int(votes[wrong][0]), int(samples[wrong][0]))


def _lower_bounds(pairs: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """Values and complements, [2, pairs]. Only the side below 1/2 is computed: the inverse is what costs."""
    distinct, places = np.unique(pairs, return_inverse=True)
    samples, votes = np.divmod(distinct, MAX_SAMPLES + 1)
    missing = samples - votes + 1.0
    value, complement = np.zeros(distinct.size), np.ones(distinct.size)
    high = 2 * votes > samples
    complement[high] = betainccinv(missing[high], votes[high], alpha)
    low = (votes > 0) & (complement > 0.5)
    value[low] = betaincinv(votes[low], missing[low], alpha)
    unanimous = votes == samples
    log_q = math.log(alpha) / samples[unanimous]
    value[unanimous], complement[unanimous] = np.exp(log_q), -np.expm1(log_q)
    slack = _SLACK + np.where(unanimous, 0.0, _SLACK_PER_SAMPLE * samples)
    return _round_down(value, complement, slack)[:, places]


def _round_down(
    value: NDArray[np.float64], complement: NDArray[np.float64], slack: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`_rounded_down` for arrays; value counts where complement is above 1/2."""
    low = complement > 0.5
    value, complement = value * (1 - slack), complement * (1 + slack)
    return np.stack(
        [
            np.where(low, value, np.nextafter(1 - complement, 0.0)),
            np.where(low, np.minimum(np.nextafter(1 - value, 2.0), 1.0), complement),
        ]
    )


def _log_root(votes: int, samples: int, alpha: float) -> float:
    """Log q_L for the alphas that scipy's inverse is not made for, rounded down; votes are not unanimous."""
    from scipy.optimize import brentq  # most programs never ask for such an alpha

    def excess(log_q: float) -> float:
        return _log_tail(votes, samples, log_q) - math.log(alpha)

    least = -745.0  # exp(-745) is the smallest float above 0
    return float(brentq(excess, least, math.log(votes / samples), xtol=1e-300, rtol=1e-14)) * (1 + 2e-14)


def _log_tail(votes: int, samples: int, log_q: float) -> float:
    """Log P(Binomial(n, q) >= k) for q < k/n: scipy's tail is 0 long before the least float is reached.

    The first term in the form of Loader (Fast and Accurate Computation of Binomial Probabilities, 2000),
    then each from the one before it.
    """
    missing, log_p = samples - votes, math.log1p(-math.exp(log_q))
    divergence = votes * (math.log(votes / samples) - log_q)
    divergence += missing * (math.log1p(-votes / samples) - log_p)
    first = _stirling(samples) - _stirling(votes) - _stirling(missing) - divergence
    first += 0.5 * math.log(samples / (math.tau * votes * missing))
    odds = math.exp(log_q - log_p)
    falls = max(1 - missing / (votes + 1) * odds, _LEAST_FALL)  # by at least so much from term to term
    later = np.arange(min(missing, math.ceil(40 / falls)))
    return first + math.log1p(np.cumprod((missing - later) / (votes + 1 + later) * odds).sum())


def _stirling(count: int) -> float:
    """What Stirling's formula lacks: log(n!) - log(sqrt(2 pi n) (n/e)^n)."""
    if count < 16:
        return math.lgamma(count + 1) - (count + 0.5) * math.log(count) + count - 0.5 * math.log(math.tau)
    square = count * count
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / square) / square) / square) / count


def _rounded_down(value: float, complement: float, slack: float) -> Probability:
    if value < sys.float_info.min:
        return Probability(0.0, 1.0)  # nor could a little be rounded down there
    if value < 0.5:
        value *= 1 - slack
        return Probability(value, min(math.nextafter(1 - value, 2.0), 1.0))
    complement *= 1 + slack
    return Probability(math.nextafter(1 - complement, 0.0), complement)
