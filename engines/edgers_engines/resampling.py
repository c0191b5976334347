"""Pillow's resampling of one axis as a matrix, and such a matrix's norm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Filter = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]


def resize_matrix(old: int, new: int, start: int, kept: int, name: Filter) -> csr_array:
    """Pillow's antialiased resampling of one axis from `old` to `new` pixels, as a sparse matrix.

    Args:
        old: pixels before.
        new: pixels after.
        start: the first pixel after resizing that is kept.
        kept: how many are.
        name: the filter.

    Returns:
        float64 [kept, old]; every row adds up to 1. The identity's rows where nothing is resized.
    """
    from scipy.sparse import csr_array  # imported here: `edgers --help` does not need it

    if old == new:
        return csr_array((np.ones(kept), (np.arange(kept), np.arange(start, start + kept))), (kept, old))
    kernel, radius = _KERNELS[name]
    scale = old / new
    stretch = max(scale, 1.0)
    centres = (np.arange(start, start + kept) + 0.5)[:, None] * scale
    # Pillow takes whole source pixels from floor(centre - support + .5) up to floor(centre + support + .5).
    first = np.maximum(np.floor(centres - radius * stretch + 0.5).astype(int), 0)
    last = np.minimum(np.floor(centres + radius * stretch + 0.5).astype(int), old)
    source = first + np.arange((last - first).max())
    inside = source < last
    weights = np.where(inside, kernel((source + 0.5 - centres) / stretch), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return csr_array((weights[inside], (np.nonzero(inside)[0], source[inside])), (kept, old))


def spectral_norm(matrix: csr_array) -> float:
    """The largest singular value: the root of the Gram matrix's largest eigenvalue.

    Each output pixel weighs neighbours only, so the Gram matrix is zero off a narrow band, and its eigenvalue
    takes milliseconds to find also where a dense one would take seconds.

    Args:
        matrix: one axis of a preparation, or some of its rows and columns.
    """
    from scipy.linalg import eigvals_banded

    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    size, places = gram.shape[0], gram.tocoo()
    band = np.zeros((1 + int(np.max(places.row - places.col)), size))
    for offset, diagonal in enumerate(band):
        diagonal[: size - offset] = gram.diagonal(-offset)
    top = eigvals_banded(band, lower=True, select="i", select_range=(size - 1, size - 1))
    return math.sqrt(float(top[0]))


def _box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    triangle: NDArray[np.float64] = np.maximum(1 - np.abs(x), 0)
    return triangle


def _hamming(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a = -0.5  # Keys' cubic convolution with the a that Pillow uses
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


_KERNELS = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
