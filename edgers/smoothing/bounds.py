"""Lower confidence bounds for the probability of one class."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from scipy.special import betainc, betainccinv, betaincinv

MAX_SAMPLES = 10**9

# Relative slack by which bounds are rounded down. It covers the error of scipy's inverse incomplete beta
# function, which grows with n: measured against 50 digits, at most 1.4e-10 at n = 5 million.
_SLACK, _SLACK_PER_SAMPLE = 1e-11, 5e-17

_TINY_ALPHA = 1e-100  # far below it scipy's inverse is NaN, or too large


@dataclass(frozen=True, slots=True)
class Probability:
    """A probability with its complement, so that neither loses digits near 0 or 1."""

    value: float
    complement: float

    def minus(self, amount: float) -> Probability:
        """Lower by `amount`, at most down to 0."""
        return (
            self
            if amount == 0
            else Probability(max(self.value - amount, 0.0), min(self.complement + amount, 1.0))
        )


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
        ValueError: not 1 <= n <= 10^9, or not 0 <= k <= n.
    """
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


def _log_root(votes: int, samples: int, alpha: float) -> float:
    """Log q_L by bisection of the binomial tail, for the alphas that scipy's inverse is not made for."""
    low, high = -745.0, math.log(votes / samples)  # exp(-745) is the smallest float above 0
    while high - low > 1e-12 * abs(low):
        middle = (low + high) / 2
        if betainc(votes, samples - votes + 1, math.exp(middle)) > alpha:
            high = middle
        else:
            low = middle
    return low


def _rounded_down(value: float, complement: float, slack: float) -> Probability:
    if value < sys.float_info.min:
        return Probability(0.0, 1.0)  # nor could a little be rounded down there
    if value < 0.5:
        value *= 1 - slack
        return Probability(value, 1 - value)
    complement *= 1 + slack
    return Probability(math.nextafter(1 - complement, 0.0), complement)
