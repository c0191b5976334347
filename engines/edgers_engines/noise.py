"""Lattice Gaussian noise: one counter-based stream per sample.

Images live on the lattice of multiples of 2^-20, and so does the noise: round(sigma * z * 2^20) steps with z
standard normal. Canvas and noise then add without rounding, which is what makes the certificate of a float32
model a certificate about real numbers: rounding a sum in floating point would otherwise reveal the clean
image, and a classifier that reads it could be certified wrongly.

The sampler, which is part of the trust base:

1. NumPy's ``Philox`` (Philox4x64-10; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
   with key = the 128-bit seed and counter = (block, sample index, stream, 0). Sample i's noise is a function
   of (seed, stream, i) alone. The raw 64-bit integers are the same on every machine.
2. Each integer k, read as signed, is the uniform (k + 1/2) * 2^-64 + 1/2 in (0, 1).
3. Its normal quantile by Wichura's AS 241 (PPND16; Applied Statistics 37, 1988) in float64.
4. Times sigma * 2^20, rounded to the nearest integer.

How far that is from the ideal lattice Gaussian is bounded by `total_variation_bound`.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from edgers_engines.errors import InputError

# By the kind of device that draws. They differ in the logarithm's last digit alone; the bound covers both.
SAMPLERS = {
    "cpu": "philox4x64-10/as241/lattice-2^-20",
    "cuda": "philox4x64-10/as241/lattice-2^-20/cuda",
}
LATTICE_STEP = 2.0**-20
MAX_SIGMA = 1.7  # so that |canvas + noise| < 16 wherever |z| <= 7: 24 bits of lattice fit a float32 exactly

_CUT = 7.0  # |z| beyond it is left to the tail term of the bound
_TRANSFORM_ERROR = 2.0**-47  # relative error of the computed quantile; see total_variation_bound
_BLOCK = 1 << 15  # values transformed at once: the temporaries stay in the second-level cache


class Stream(IntEnum):
    """Who draws: each use has a stream of its own, so that no sample serves twice."""

    SELECTION = 0
    CERTIFICATION = 1
    COLLECTION = 2


def check_sigma(sigma: float) -> float:
    """Return sigma when noise of that size can be drawn exactly.

    Raises:
        InputError: sigma is not a finite number in (0, 1.7].
    """
    if not (math.isfinite(sigma) and 0 < sigma <= MAX_SIGMA):
        raise InputError(f"sigma is {sigma}; it must be a number above 0 and at most {MAX_SIGMA}")
    return sigma


def to_lattice(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest lattice point of every value; moves each by at most 2^-21."""
    on_lattice: NDArray[np.float64] = np.rint(image / LATTICE_STEP) * LATTICE_STEP
    return on_lattice


def raw_integers(seed: int, stream: Stream, index: int, count: int) -> NDArray[np.uint64]:
    """The first `count` 64-bit integers of one sample.

    Args:
        seed: 128-bit key.
        stream: which use of the noise.
        index: the sample's number within its stream.
        count: how many integers.

    Returns:
        uint64 array of shape [count]. NumPy increments the counter before it uses it, so block b of four
        integers is Philox4x64-10 at counter (b + 1, index, stream, 0).
    """
    return _generator(seed, stream, index).random_raw(count)


def _generator(seed: int, stream: Stream, index: int) -> np.random.Philox:
    return np.random.Philox(key=seed, counter=[0, index, int(stream), 0])


def noisy_copies(
    canvas: NDArray[np.float64],
    sigma: float,
    *,
    seed: int,
    stream: Stream,
    first: int,
    out: NDArray[np.float32],
) -> None:
    """Write canvas + noise for the samples first, first + 1, ... into `out`.

    Args:
        canvas: float64, any shape, on the lattice (`to_lattice`), values about [0, 1].
        sigma: standard deviation of the noise, in the canvas' unit.
        seed: 128-bit key.
        stream: which use of the noise.
        first: number of the sample that goes into out[0].
        out: float32, shape [rows, *canvas.shape]; owned by the caller, overwritten whole.

    Raises:
        InputError: sigma is out of range, or `out` is not contiguous float32.
    """
    if out.dtype != np.float32 or not out.flags.c_contiguous:
        raise InputError(f"noise is written into contiguous float32 arrays, not {out.dtype}")
    scale = check_sigma(sigma) / LATTICE_STEP
    steps = canvas.ravel() / LATTICE_STEP
    quantile = _NormalQuantile(min(_BLOCK, steps.size))
    for index, row in enumerate(out.reshape(len(out), -1), first):
        generator = _generator(seed, stream, index)
        for start in range(0, steps.size, _BLOCK):
            block = steps[start : start + _BLOCK]
            noise = quantile(generator.random_raw(block.size))
            noise *= scale
            np.rint(noise, out=noise)
            noise += block
            noise *= LATTICE_STEP
            row[start : start + _BLOCK] = noise


def standard_normal(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The normal quantile of each raw integer, AS 241 in float64.

    Args:
        raw: uint64, shape [n].

    Returns:
        float64, shape [n]; odd in the signed integer, |z| <= 9.2.
    """
    return _NormalQuantile(raw.size)(raw)


class _NormalQuantile:
    """AS 241 for at most `size` values at a time, in memory that is allocated once.

    Temporaries of this size go back to the operating system and are fresh pages in the next call: that took
    longer than the arithmetic.
    """

    def __init__(self, size: int) -> None:
        self._arrays = tuple(np.empty(size) for _ in range(4))
        self._in_tail = np.empty(size, np.bool_)

    def __call__(self, raw: NDArray[np.uint64]) -> NDArray[np.float64]:
        """See `standard_normal`; the result is this object's memory, which the next call overwrites."""
        signed = raw.view(np.int64)
        q, r, z, denominator = (array[: raw.size] for array in self._arrays)
        q[:] = signed
        q += 0.5
        q *= 2.0**-64
        np.multiply(q, q, out=r)
        np.subtract(0.180625, r, out=r)
        _ratio(r, CENTRAL, z, denominator)
        z *= q
        np.abs(q, out=q)
        tail = np.flatnonzero(np.greater(q, 0.425, out=self._in_tail[: raw.size]))
        z[tail] = _tail(signed[tail])
        return z


def _tail(signed: NDArray[np.int64]) -> NDArray[np.float64]:
    # k ^ (k >> 63) is k or -k - 1, whichever is not negative: both signs share one exact integer distance to
    # the nearer end of the range.
    distance = signed ^ (signed >> 63) ^ np.int64(2**63 - 1)
    r = distance.astype(np.float64)
    r += 0.5
    r *= 2.0**-64
    np.log(r, out=r)
    np.negative(r, out=r)
    np.sqrt(r, out=r)
    z, denominator = np.empty(r.size), np.empty(r.size)
    far = np.flatnonzero(r > 5.0)  # one value in 36 billion: nearly always none
    beyond = r[far] - 5.0
    r -= 1.6
    _ratio(r, MIDDLE, z, denominator)
    if far.size:
        z[far] = _ratio(beyond, FAR, np.empty_like(beyond), np.empty_like(beyond))
    np.copysign(z, signed, out=z)
    return z


def _ratio(
    r: NDArray[np.float64],
    coefficients: tuple[tuple[float, ...], tuple[float, ...]],
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Write the ratio of two polynomials of r into `numerator`, and the second one into `denominator`."""
    _horner(r, coefficients[0], numerator)
    _horner(r, coefficients[1], denominator)
    numerator /= denominator
    return numerator


def _horner(r: NDArray[np.float64], coefficients: tuple[float, ...], value: NDArray[np.float64]) -> None:
    np.multiply(r, coefficients[-1], out=value)
    for c in coefficients[-2:0:-1]:
        value += c
        value *= r
    value += coefficients[0]


def total_variation_bound(values: int, sigma: float) -> float:
    """How much any event's probability can differ between this sampler and the ideal lattice Gaussian.

    Args:
        values: number of independent values in one sample.
        sigma: standard deviation in the canvas' unit.

    Returns:
        An upper bound of the total variation distance between the laws of one whole sample.

    Derivation. Let a cell be what rounds to one lattice step: width w = 2^-20 / sigma in z, ideal mass P.
    Within |z| <= 7 the sampler's mass Q differs from P for two reasons. (a) The computed quantile is off by a
    relative error of at most e = 2^-47: counting the roundings of q, r, both Horner schemes (all terms
    positive: 14 units each), the division and log (4 ulp at most in NumPy) gives 42 units of 2^-53; so each
    end of a cell moves by at most e|z|, and |Q/P - 1| <= 2 e |z| / w. (b) Uniforms are multiples of 2^-64, so
    |Q - P| <= 2 * 2^-64. The chi-square divergence, the mean of (Q/P - 1)^2 under P, is therefore at most
    2 (2 e / w)^2 E[z^2] + 2 (2^-63)^2 / w^2 * integral of 1/density. It bounds the Kullback-Leibler
    divergence, which adds over values, and Pinsker's inequality turns the sum into a total variation. What
    lies beyond |z| = 7 counts whole, for both laws. 10% is added for cells of finite width and for the
    renormalisation to |z| <= 7.
    """
    w = LATTICE_STEP / sigma
    # The integral of sqrt(2 pi) exp(z^2 / 2) over |z| <= 7 is below 2 sqrt(2 pi) exp(7^2 / 2) / 7 * 1.03.
    inverse_density = 2.06 * math.sqrt(2 * math.pi) * math.exp(_CUT**2 / 2) / _CUT
    chi_square = 2 * (2 * _TRANSFORM_ERROR / w) ** 2 + 2 * (2.0**-63 / w) ** 2 * inverse_density
    tails = 2 * values * math.erfc(_CUT / math.sqrt(2))
    return 1.1 * (math.sqrt(values * chi_square / 2) + tails)


# Wichura's coefficients, lowest order first: |q| <= .425; then r = sqrt(-log p) up to 5; then beyond.
CENTRAL = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
MIDDLE = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
FAR = (
    (
        6.65790464350110377720e0,
        5.46378491116411436990e0,
        1.78482653991729133580e0,
        2.96560571828504891230e-1,
        2.65321895265761230930e-2,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)
