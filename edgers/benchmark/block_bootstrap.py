"""Intervals for the ratio of a figure in two time series, by a circular block bootstrap.

The latencies of successive queries are correlated: clocks, caches and temperature change slowly. Drawing
queries one by one would take them for independent, and call most chance differences real. So blocks of
successive queries are drawn, the first query following the last (Politis and Romano, "A circular block-
resampling procedure", 1992).

The block is a tenth of the series: ten blocks, however long the run is. Few long blocks outlast the
correlation without having to estimate it, and Student's t makes up for their being few (Schmeiser,
Operations Research 30, 1982: more than ten to thirty batches gain little). A correlation that outlasts a
tenth of the run is still taken for a difference: no rule finds what a run is too short to show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Floats = NDArray[np.float64]

BLOCKS = 10
FEWEST = 2 * BLOCKS  # queries: a block of one knows nothing of its neighbour
LEVEL = 0.95
RESAMPLES = 2000

_SEED = 20_26  # fixed: the same files give the same table
_HELD = 1 << 21  # counts that are held at once: 16 MiB


class Figure(Protocol):
    """A positive number that follows from a series of queries."""

    @property
    def queries(self) -> int:
        """How many there are."""

    @property
    def counted(self) -> int:
        """How many of them have a part in it."""

    def of(self, counts: Floats) -> Floats:
        """The figure where query i counts counts[., i] times: float64 [resamples, queries] to [resamples]."""


@dataclass(frozen=True, eq=False)
class Quantile:
    """The nearest-rank percentile; see `summary.percentile`.

    Args:
        values: float64 [queries]; a query that is NaN has none and does not count.
        q: in percent.
    """

    values: Floats
    q: float

    @property
    def queries(self) -> int:
        """How many there are."""
        return len(self.values)

    @property
    def counted(self) -> int:
        """Those that have a value."""
        return int(np.count_nonzero(~np.isnan(self.values)))

    def of(self, counts: Floats) -> Floats:
        """The least value up to which enough is counted; NaN where nothing is."""
        order = np.argsort(self.values)[: self.counted]  # NaN is last
        reached = np.cumsum(counts[:, order], axis=1)
        rank = np.ceil(np.round(reached[:, -1:] * (self.q / 100), 9))
        found = self.values[order][np.argmax(reached >= rank, axis=1)]
        return np.where(reached[:, -1] > 0, found, np.nan)


@dataclass(frozen=True, eq=False)
class Rate:
    """The sum of one thing over the sum of another, such as samples over seconds; both float64 [queries]."""

    done: Floats
    spent: Floats

    @property
    def queries(self) -> int:
        """How many there are."""
        return len(self.done)

    @property
    def counted(self) -> int:
        """All."""
        return len(self.done)

    def of(self, counts: Floats) -> Floats:
        """Of the sums."""
        return np.asarray((counts @ self.done) / (counts @ self.spent))


def value(figure: Figure) -> float:
    """The figure of the series itself."""
    return float(figure.of(np.ones((1, figure.queries)))[0])


def ratio_interval(
    first: Figure, second: Figure, *, paired: bool, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """An interval for second / first that holds the true ratio with a probability of about `LEVEL`.

    The percentile interval of the logarithm of the ratio; its arms, from the ratio that was found, are longer
    by Student's t over the normal quantile and by sqrt(m / (m - 1)), m being the number of blocks
    (Hesterberg, The American Statistician 69, 2015, expands percentile intervals for the same reason).

    Args:
        first: A's.
        second: B's.
        paired: query i of both did the same work: the same blocks are drawn from both, so that what the work
            adds to both cancels. Both have the same number of queries.
        resamples: how many are drawn.

    Returns:
        Its ends; None where a resample of one of them has no such figure, or 0, which has no logarithm.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = math.log(value(second) / value(first))
        drawn = np.concatenate(
            [np.log(second.of(b) / first.of(a)) for a, b in _counts(first, second, paired, resamples)]
        )
    if not np.isfinite(drawn).all():
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    blocks = min(figure.queries / _block(figure.queries) for figure in (first, second))
    longer = float(stdtrit(blocks - 1, 1 - tail) / ndtri(1 - tail)) * math.sqrt(blocks / (blocks - 1))
    return math.exp(found + longer * min(low - found, 0.0)), math.exp(found + longer * max(high - found, 0.0))


def _block(queries: int) -> int:
    return math.ceil(queries / BLOCKS)


def _counts(first: Figure, second: Figure, paired: bool, resamples: int) -> Iterator[tuple[Floats, Floats]]:
    """How often each query of both is drawn, some resamples at a time; float64 [some, queries] each."""
    rng = np.random.default_rng(_SEED)
    size = max(_HELD // max(first.queries, second.queries), 1)
    for begun in range(0, resamples, size):
        count = min(size, resamples - begun)
        drawn = _drawn(rng, first.queries, count)
        yield drawn, drawn if paired else _drawn(rng, second.queries, count)


def _drawn(rng: np.random.Generator, queries: int, resamples: int) -> Floats:
    """Blocks that begin anywhere, as many queries as in the series: the last block may be shorter."""
    block = _block(queries)
    begins = rng.integers(queries, size=(resamples, math.ceil(queries / block)))
    ends = begins + block
    ends[:, -1] -= block * begins.shape[1] - queries
    rows = np.arange(resamples)[:, np.newaxis]
    steps = np.zeros((resamples, 2 * queries + 1))
    np.add.at(steps, (rows, begins), 1)
    np.add.at(steps, (rows, ends), -1)
    covered = np.cumsum(steps, axis=1)
    return np.asarray(covered[:, :queries] + covered[:, queries:-1])
