"""What n samples keep of the radius that infinitely many would certify: exact, and by the paper's law.

An input whose class has probability p gets K ~ Binomial(n, p) votes and the radius R(K, n); infinitely many
samples would give sigma * PhiInv(p). Both are averaged over a distribution of p. An abstention counts as
radius 0, and all radii are in units of sigma. Assumed throughout: the class that is counted is the one the
selection should choose, and the noise of the samples is independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import simpson
from scipy.special import betainc, betaincc, betaincinv, betaln, ndtr, ndtri, xlog1py, xlogy
from scipy.stats import norm

from edgers.smoothing.bounds import check_alpha, clopper_pearson_lower_many

Floats = NDArray[np.float64]

MAX_SCALING_SAMPLES = 10**6
LAW_COEFFICIENT = 1.64  # the paper's

_ABOVE_HALF = math.nextafter(0.5, 1)
_NEGLIGIBLE = 1e-18  # probability that may be left out of a sum of at most a million terms


class Distribution(Protocol):
    """How the probability p of the class to certify is spread over inputs."""

    def votes(self, samples: int) -> Floats:
        """The probability of k = 0 ... n votes of n for an input drawn at random; float64 [n + 1]."""

    def at_least(self, p: float) -> float:
        """The share of inputs whose probability is p or more."""

    def mean_quantile(self) -> float:
        """E[max(PhiInv(p), 0)]: the average radius of infinitely many samples, in units of sigma."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """p uniform on [low, high)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the interval.

        Raises:
            ValueError: not 0 <= low < high <= 1.
        """
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"uniform on [{self.low}, {self.high}): it must be 0 <= low < high <= 1")

    def votes(self, samples: int) -> Floats:
        """The integral of the binomial mass over [low, high) is a difference of incomplete beta functions."""
        k = np.arange(samples + 1.0)
        difference = betaincc(k + 1, samples - k + 1, self.low) - betaincc(k + 1, samples - k + 1, self.high)
        return np.asarray(difference / ((self.high - self.low) * (samples + 1)))

    def at_least(self, p: float) -> float:
        """The part of the interval from p on."""
        return (self.high - min(max(p, self.low), self.high)) / (self.high - self.low)

    def mean_quantile(self) -> float:
        """From phi' = -z phi: the integral of PhiInv(p) dp is -phi(PhiInv(p))."""
        low, high = max(self.low, 0.5), max(self.high, 0.5)
        return float(norm.pdf(ndtri(low)) - norm.pdf(ndtri(high))) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Beta:
    """p distributed as Beta(a, b)."""

    a: float
    b: float

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: a or b outside [0.1, 10^4], where the sums and integrals are accurate.
        """
        for name, value in (("a", self.a), ("b", self.b)):
            if not 0.1 <= value <= 1e4:
                raise ValueError(f"beta's {name} is {value}; it must lie between 0.1 and 10000")

    def votes(self, samples: int) -> Floats:
        """The beta-binomial distribution."""
        k = np.arange(samples + 1.0)
        log_choices = -np.log(samples + 1) - betaln(k + 1, samples - k + 1)
        log_mass = log_choices + betaln(k + self.a, samples - k + self.b) - betaln(self.a, self.b)
        return np.asarray(np.exp(log_mass))

    def at_least(self, p: float) -> float:
        """The upper tail."""
        return float(betaincc(self.a, self.b, p))

    def mean_quantile(self) -> float:
        """E[max(Z, 0)] is the integral of P(Z >= z) over z >= 0."""
        # Above the largest z, P(Z >= z) is 1e-18; in terms of 1 - p nothing is lost near p = 1.
        largest = max(-float(ndtri(betaincinv(self.b, self.a, _NEGLIGIBLE))), 0.0)
        z = np.linspace(0, largest, 20_001)
        return float(simpson(betainc(self.b, self.a, ndtr(-z)), x=z))


@dataclass(frozen=True, slots=True)
class Listed:
    """p known for each of some inputs, as estimated in a sweep; each input counts the same."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the list.

        Raises:
            ValueError: no values, or one outside [0, 1).
        """
        if not self.values:
            raise ValueError("there are no probabilities: give at least one")
        for p in self.values:
            if not 0 <= p < 1:
                raise ValueError(
                    f"a probability is {p}; it must be at least 0 and below 1, where the radius is finite "
                    "(for k votes of n, give (k + 1/2) / (n + 1))"
                )

    def votes(self, samples: int) -> Floats:
        """The average of the binomial distributions."""
        found = np.zeros(samples + 1)
        for p, inputs in zip(*np.unique(self.values, return_counts=True), strict=True):
            _add_binomial(found, float(p), inputs / len(self.values))
        return found

    def at_least(self, p: float) -> float:
        """The share of the list."""
        return sum(value >= p for value in self.values) / len(self.values)

    def mean_quantile(self) -> float:
        """The average over the list."""
        return float(np.maximum(ndtri(self.values), 0).mean())


def _add_binomial(found: Floats, p: float, weight: float) -> None:
    """Add weight * Binomial(n, p) where it is not negligible: Bernstein's inequality bounds the rest."""
    samples = len(found) - 1
    log_rest = -math.log(_NEGLIGIBLE)
    reach = log_rest / 3 + math.sqrt(log_rest**2 / 9 + 2 * log_rest * samples * p * (1 - p))
    first, last = max(math.floor(samples * p - reach), 0), min(math.ceil(samples * p + reach), samples)
    k = np.arange(first, last + 1.0)
    log_choices = -math.log(samples + 1) - betaln(k + 1, samples - k + 1)
    found[first : last + 1] += weight * np.exp(log_choices + xlogy(k, p) + xlog1py(samples - k, -p))


def radius_law(alpha: float, samples: int) -> float:
    """The paper's law for the share of the infinite-sample average radius: 1 - 1.64 * z / sqrt(n).

    Source: Seferis et al., arXiv 2509.16088 (scaling of the certified radius with the number of samples); z
    is the **one-sided** normal quantile of 1 - alpha. An approximation, not a bound. To first order the
    coefficient is E[sqrt(p (1 - p)) / phi(Z)] / E[Z], Z = PhiInv(p): 1.64 suits p spread evenly over about
    [.65, 1). At alpha = .001 and p uniform on [.7, 1) the law is within .02 of `radius_kept` from n = 500 on
    and too low by .09 to .05 at n = 50 to 100; for larger p it is lower still (by .04 at n = 500). It is
    negative at n = 10, and too high where p has much mass below .7.

    Args:
        alpha: error level of a certificate, in (0, 1/2).
        samples: n.

    Raises:
        ValueError: alpha or n out of range.
    """
    check_alpha(alpha)
    _check_samples(samples)
    return 1 - LAW_COEFFICIENT * float(-ndtri(alpha)) / math.sqrt(samples)


def radius_kept(distribution: Distribution, samples: int, alpha: float) -> float:
    """The share of the infinite-sample average radius that n samples keep, exact: E[R(K, n)] / E[R].

    R(k, n) is the radius of the one-sided lower Clopper-Pearson bound at confidence 1 - alpha, n fixed. Wrong
    certificates count too: at a large alpha, with p near 1/2, there can be more than all of it.

    Args:
        distribution: of p.
        samples: n, at most 10^6.
        alpha: error level of a certificate, in [1e-100, 1/2).

    Raises:
        ValueError: alpha or n out of range, or no input has p above 1/2, so that there is nothing to keep.
    """
    radii = _radii(samples, alpha)
    ideal = distribution.mean_quantile()
    if ideal <= 0:
        raise ValueError("no probability is above 0.5: infinitely many samples certify nothing either")
    return float(distribution.votes(samples) @ radii) / ideal


def certified_share(
    distribution: Distribution, radii: Sequence[float], samples: int | None, alpha: float
) -> list[float]:
    """The share of inputs certified at each radius, exact; at radius 0, the share certified at all.

    Where the class counted is the true one, it is the certified accuracy of Cohen, Rosenfeld and Kolter (ICML
    2019).

    Args:
        distribution: of p.
        radii: in units of sigma, each at least 0.
        samples: n, at most 10^6; None for infinitely many.
        alpha: error level of a certificate, in [1e-100, 1/2).

    Raises:
        ValueError: alpha, n or a radius out of range.
    """
    check_alpha(alpha)
    for radius in radii:
        if not 0 <= radius < math.inf:
            raise ValueError(f"a radius is {radius}; it must be a number of at least 0")
    if samples is None:
        return [distribution.at_least(max(float(ndtr(radius)), _ABOVE_HALF)) for radius in radii]
    reached = _radii(samples, alpha)
    first = np.where(
        np.asarray(radii) > 0, np.searchsorted(reached, radii), np.searchsorted(reached, 0, side="right")
    )
    at_least = np.append(np.cumsum(distribution.votes(samples)[::-1])[::-1], 0.0)
    return [float(share) for share in at_least[first]]


def _radii(samples: int, alpha: float) -> Floats:
    """R(k, n) for k = 0 ... n in units of sigma; 0 for an abstention, as up to half the votes always are."""
    _check_samples(samples)
    majorities = np.arange(samples // 2 + 1, samples + 1)
    bounds = clopper_pearson_lower_many(majorities, samples, alpha)
    return np.append(np.zeros(samples // 2 + 1), np.maximum(-ndtri(bounds.complement), 0))


def _check_samples(samples: int) -> None:
    if not 1 <= samples <= MAX_SCALING_SAMPLES:
        raise ValueError(f"the samples are {samples}; they must lie between 1 and {MAX_SCALING_SAMPLES}")
