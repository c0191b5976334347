"""The slow reference that judges bounds and radii: binomial tails and normal quantiles to 50 digits.

Nothing here is inverted. That a bound q is right is said by two tails: P(X >= k) at q is at most alpha, and a
hair above q it is not. Python's integers and mpmath only, no scipy.
"""

from __future__ import annotations

import mpmath

mp = mpmath.mp.clone()
mp.dps = 50

_BITS = 192


def tail(votes, samples, probability):
    """P(X >= votes) for X ~ Binomial(samples, probability), the probability an mpf in (0, 1).

    The first term, then each from the one before it in fixed point with 192 bits; the terms must fall, which
    they do for votes above samples * probability.
    """
    p = mp.mpf(probability)
    first = mp.exp(
        mp.loggamma(samples + 1)
        - mp.loggamma(votes + 1)
        - mp.loggamma(samples - votes + 1)
        + votes * mp.log(p)
        + (samples - votes) * mp.log1p(-p)
    )
    odds = int(mp.ldexp(p / (1 - p), _BITS))
    total = term = 1 << _BITS
    for count in range(votes, samples):
        term = (term * (odds * (samples - count) // (count + 1))) >> _BITS
        total += term
        if term == 0:
            break
    return first * mp.ldexp(total, -_BITS)


def normal_cdf(z):
    """Phi(z)."""
    return mp.ncdf(z)


def normal_quantile(probability):
    """The z with Phi(z) = probability; far down the tail 2 * probability - 1 would lose every digit."""
    p = mp.mpf(probability)
    if p > mp.mpf("1e-20"):
        return mp.sqrt(2) * mp.erfinv(2 * p - 1)
    return mp.findroot(lambda z: mp.log(mp.ncdf(z)) - mp.log(p), -mp.sqrt(-2 * mp.log(p)))
