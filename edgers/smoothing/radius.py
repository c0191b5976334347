"""From a lower bound of the majority's probability to a certified L2 radius."""

from __future__ import annotations

from scipy.special import ndtri

from edgers.smoothing.bounds import Probability

MAX_SIGMA = 1e6

_SLACK = 1e-14  # a few units in the last place of ndtri, relative


def check_radius_sigma(sigma: float) -> float:
    """Return sigma when a radius can be computed for it.

    Raises:
        ValueError: sigma is not a finite number in (0, 10^6].
    """
    if not 0 < sigma <= MAX_SIGMA:
        raise ValueError(f"sigma is {sigma}; it must be a number above 0 and at most {MAX_SIGMA:.0e}")
    return sigma


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
    if not 0.5 <= floor < 1:
        raise ValueError(f"the floor is {floor}; it must be at least 0.5 and below 1")
    z, z_floor = _quantile(p_lower), float(ndtri(floor))
    radius = sigma * (z - z_floor - _SLACK * (abs(z) + abs(z_floor)))
    return radius if radius > 0 else None


def _quantile(p: Probability) -> float:
    return float(-ndtri(p.complement) if p.complement < 0.5 else ndtri(p.value))
