"""The random walk of votes: how probable each count is among the runs that are still undecided."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DUST = 1e-290  # masses below it are dropped: arithmetic on subnormal numbers is slow


@dataclass(slots=True)
class Walk:
    """The votes of those runs that are still undecided, each sample voted A with probability `p`.

    Attributes:
        p: in [0, 1].
        samples: taken so far.
        first: the votes that the first entry of `masses` stands for.
        masses: float64, the probability of each number of votes, from `first` on.
    """

    p: float
    samples: int = 0
    first: int = 0
    masses: Floats = field(default_factory=lambda: np.ones(1))
    _kernels: dict[int, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check p."""
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is {self.p}; it must be a probability, from 0 to 1")

    @property
    def mass(self) -> float:
        """The probability of being still undecided."""
        return float(self.masses.sum())

    def advance_to(self, samples: int) -> None:
        """Take samples up to that number."""
        step, self.samples = samples - self.samples, samples
        if not self.masses.size:
            return
        if step not in self._kernels:
            self._kernels[step] = _binomial(step, self.p)
        masses = np.convolve(self.masses, self._kernels[step])
        kept = np.flatnonzero(masses > _DUST)
        self.first += int(kept[0]) if kept.size else 0
        self.masses = masses[kept[0] : kept[-1] + 1] if kept.size else masses[:0]

    def cut_from(self, votes: int) -> float:
        """Take out the runs with at least so many votes; their probability."""
        at = max(votes - self.first, 0)
        removed, self.masses = self.masses[at:], self.masses[:at]
        return float(removed.sum())

    def cut_to(self, votes: int) -> float:
        """Take out the runs with at most so many votes; their probability."""
        at = max(votes + 1 - self.first, 0)
        removed, self.masses = self.masses[:at], self.masses[at:]
        self.first += at
        return float(removed.sum())


def _binomial(samples: int, p: float) -> Floats:
    """The probabilities of 0 to n votes: from the mode outwards by ratios, then scaled to sum 1."""
    masses: Floats = np.zeros(samples + 1)
    if p in (0.0, 1.0):
        masses[int(p) * samples] = 1.0
        return masses
    mode = min(int((samples + 1) * p), samples)
    odds = p / (1 - p)
    up = np.arange(mode, samples)
    down = np.arange(mode, 0, -1)
    above = np.cumprod((samples - up) / (up + 1) * odds)
    below = np.cumprod(down / (samples - down + 1) / odds)
    masses = np.concatenate([below[::-1], [1.0], above])
    masses /= masses.sum()
    return masses
