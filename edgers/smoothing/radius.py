"""From a lower bound of the majority's probability to a certified radius, and to a floor at a distance."""

from __future__ import annotations

import math
import sys

from scipy.special import ndtr, ndtri

from edgers.smoothing.bounds import Probability

MAX_SIGMA = 1e6

_SLACK = 1e-14  # tens of units in the last place of ndtri and ndtr, relative; measured: two


def check_radius_sigma(sigma: float) -> float:
    """Return sigma when a radius can be computed for it.

    Raises:
        ValueError: sigma is not a finite number in (0, 10^6].
    """
    if not 0 < sigma <= MAX_SIGMA:
        raise ValueError(f"sigma is {sigma}; it must be a number above 0 and at most {MAX_SIGMA:.0e}")
    return sigma


def check_floor(floor: float) -> float:
    """Return the floor when a class that keeps it keeps the majority.

    Raises:
        ValueError: the floor is not in [1/2, 1).
    """
    if not 0.5 <= floor < 1:
        raise ValueError(f"the floor is {floor}; it must be at least 0.5 and below 1")
    return floor


def certified_radius(p_lower: Probability, sigma: float, floor: float = 0.5) -> float | None:
    """The L2 radius within which the class keeps a probability of at least `floor`, rounded down.

    R = sigma * (PhiInv(p_lower) - PhiInv(floor)); at floor 1/2 that is the certified radius of Cohen,
    Rosenfeld and Kolter (ICML 2019), theorem 1 with p_B = 1 - p_A: within R the class stays the majority.

    Args:
        p_lower: a lower bound of the class's probability under the noise.
        sigma: standard deviation of the Gaussian noise; the radius is in its unit.
        floor: tau in [1/2, 1).

    Returns:
        The radius, or None where p_lower is not above the floor: then the answer is to abstain.

    Raises:
        ValueError: sigma or floor out of range.
    """
    check_radius_sigma(sigma)
    check_floor(floor)
    z, z_floor = _quantile(p_lower), float(ndtri(floor))
    radius = sigma * (z - z_floor - _SLACK * (abs(z) + abs(z_floor)))
    return radius if radius > 0 else None


def required_probability(target_radius: float, sigma: float, floor: float = 0.5) -> Probability:
    """The p_lower from which on `certified_radius` is at least r, rounded up: Phi(r / sigma + PhiInv(floor)).

    Args:
        target_radius: r, at least 0; at 0, to certify anything at all.
        sigma: standard deviation of the Gaussian noise, in the same unit.
        floor: tau in [1/2, 1).

    Raises:
        ValueError: sigma or floor out of range, or r is not a finite number of at least 0.
    """
    check_radius_sigma(sigma)
    check_floor(floor)
    if not 0 <= target_radius < math.inf:
        raise ValueError(f"the target radius is {target_radius}; it must be a number of at least 0")
    # Above what `certified_radius` takes off; the last term is for an r of which 1/2 + r keeps few digits.
    z = (target_radius / sigma + float(ndtri(floor))) * (1 + 3 * _SLACK) + _SLACK / 2
    return Probability(min(float(ndtr(z)) * (1 + _SLACK / 10), 1.0), float(ndtr(-z)))


def pairwise_radius(p_lower: Probability, p_upper: Probability, sigma: float) -> float | None:
    """The L2 radius within which the class stays ahead of every other one, rounded down.

    R = sigma/2 * (PhiInv(p_lower) - PhiInv(p_upper)), the certified radius of Cohen, Rosenfeld and Kolter
    (ICML 2019), theorem 1. It is the larger one where the rest of the votes is spread over several classes,
    and it can certify a class below 1/2. Whether this one or `certified_radius` is used is chosen before
    the votes are seen.

    Args:
        p_lower: a lower bound of the class's probability under the noise.
        p_upper: an upper bound of every other class's probability; see `bounds.pairwise_bounds`.
        sigma: standard deviation of the Gaussian noise; the radius is in its unit.

    Returns:
        The radius, or None where p_lower is not above p_upper: then the answer is to abstain.

    Raises:
        ValueError: sigma out of range.
    """
    check_radius_sigma(sigma)
    if p_lower.value == 0 or p_upper.complement == 0:
        return None
    z, z_other = _quantile(p_lower), _quantile(p_upper)
    radius = sigma / 2 * (z - z_other - _SLACK * (abs(z) + abs(z_other)))
    return radius if radius > 0 else None


def probability_at(p_lower: Probability, distance: float, sigma: float) -> Probability:
    """The probability that the class keeps at this L2 distance at least, rounded down.

    Phi(PhiInv(p_lower) - distance / sigma): the lower bound in the proof of theorem 1 of Cohen, Rosenfeld and
    Kolter (ICML 2019), which a half-space attains.

    Args:
        p_lower: a lower bound of the class's probability under the noise.
        distance: L2 distance from the certified point, at least 0, in sigma's unit.
        sigma: standard deviation of the Gaussian noise.

    Raises:
        ValueError: distance or sigma out of range.
    """
    check_radius_sigma(sigma)
    if not 0 <= distance < math.inf:
        raise ValueError(f"the distance is {distance}; it must be a number of at least 0")
    if p_lower.value == 0:
        return p_lower
    z, shift = _quantile(p_lower), distance / sigma
    z -= shift + _SLACK * (abs(z) + shift)
    slack = _SLACK * (1 + z * z)  # the relative error of Phi grows like z^2 in its tail
    value, complement = float(ndtr(z)) * (1 - slack), float(ndtr(-z)) * (1 + slack)
    if value < sys.float_info.min:
        return Probability(0.0, 1.0)
    return Probability(value, min(complement, 1.0))


def linf_radius(radius: float, values: int) -> float:
    """The L-infinity radius that an L2 radius implies, rounded down: R / sqrt(d).

    A change of at most r in each of d values has an L2 norm of at most r * sqrt(d). Claimed: the class stays
    the same for every such change. Not claimed: that r is the largest, or that noise made for the L-infinity
    norm could do no better. For the L1 norm there is nothing to compute: no change has an L2 norm above its
    L1 norm, so the L2 radius is an L1 radius too.

    Args:
        radius: a certified L2 radius, above 0.
        values: d, how many numbers the input holds, such as 3 * height * width.

    Raises:
        ValueError: the radius is not a finite number above 0, or values are fewer than 1.
    """
    if not 0 < radius < math.inf:
        raise ValueError(f"the radius is {radius}; it must be a finite number above 0")
    if values < 1:
        raise ValueError(f"the input holds {values} values; it must hold at least 1")
    return math.nextafter(radius / math.sqrt(values) * (1 - _SLACK), 0.0)


def _quantile(p: Probability) -> float:
    if p.complement < 0.5:
        return float(-ndtri(max(p.complement, sys.float_info.min)))  # of 1 itself it would be infinite
    return float(ndtri(p.value))
