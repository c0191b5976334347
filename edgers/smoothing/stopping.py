"""What a stopping rule does: exact probabilities and expected samples, by recursion over the votes."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgers.smoothing.bounds import MAX_SAMPLES, check_alpha, check_counts, clopper_pearson_lower
from edgers.smoothing.walk import Walk

Integers = NDArray[np.int64]


class Decision(enum.Enum):
    """What a rule says at a look; UNDECIDED means go on, or, at the last look, stop without an answer."""

    CERTIFIED = "certified"
    HOPELESS = "hopeless"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, eq=False)  # == of arrays has no truth value
class Boundary:
    """A rule that decides by the votes counted so far, at looks that were fixed before the first vote.

    Certifying is sound as far as the maker of the rule says; giving up costs power, never soundness.

    Attributes:
        looks: int64 [J], increasing numbers of samples; the last one is the cap.
        certify_from: int64 [J], the fewest votes that certify at that look; look + 1 where none does.
        give_up_at: int64 [J], the most votes at which it is hopeless; -1 where none is.
    """

    looks: Integers
    certify_from: Integers
    give_up_at: Integers

    def __post_init__(self) -> None:
        """Check the three arrays and make them read-only.

        Raises:
            ValueError: lengths differ, looks do not increase, or the other two are out of range.
        """
        object.__setattr__(self, "looks", check_looks(self.looks))
        for name in ("certify_from", "give_up_at"):
            object.__setattr__(self, name, _frozen(getattr(self, name), name))
            if getattr(self, name).shape != self.looks.shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; looks {self.looks.shape}")
        above = self.certify_from > self.give_up_at
        if not (above & (self.certify_from <= self.looks + 1) & (self.give_up_at >= -1)).all():
            raise ValueError("a boundary needs -1 <= give_up_at < certify_from <= look + 1 at every look")

    @property
    def cap(self) -> int:
        """The most samples it may take."""
        return int(self.looks[-1])

    def decide(self, votes: int, samples: int) -> Decision:
        """What the rule says at a look: `votes` of the first `samples`, counted in index order.

        Raises:
            ValueError: counts out of range, or `samples` is not one of the looks.
        """
        check_counts(votes, samples)
        at = int(self.looks.searchsorted(samples))
        if at == len(self.looks) or self.looks[at] != samples:
            raise ValueError(
                f"{samples} samples are no look of this rule; it looks at {_abridged(self.looks)}"
            )
        if votes >= self.certify_from[at]:
            return Decision.CERTIFIED
        return Decision.HOPELESS if votes <= self.give_up_at[at] else Decision.UNDECIDED


@dataclass(frozen=True, slots=True)
class OperatingCharacteristics:
    """What a rule does when each sample is voted A with probability p; the first three sum to 1.

    Attributes:
        certified: probability of certifying at some look.
        hopeless: probability of giving up at some look.
        undecided: probability of reaching the cap without an answer.
        expected_samples: mean number of samples at the look where it stops.
    """

    certified: float
    hopeless: float
    undecided: float
    expected_samples: float


def operating_characteristics(boundary: Boundary, p: float) -> OperatingCharacteristics:
    """Exact probabilities of each outcome, and the expected samples, for independent votes.

    A recursion over the walk of votes, without simulation: the mass of each count that is still undecided is
    carried from look to look. Relative error about 1e-16 per sample. Source: Armitage, McPherson and Rowe,
    Journal of the Royal Statistical Society A 132 (1969), with binomial in place of normal increments.

    Args:
        boundary: the rule.
        p: the probability that a sample is voted A, in [0, 1].

    Raises:
        ValueError: p is not in [0, 1].
    """
    walk = Walk(p)
    certified = hopeless = expected = 0.0
    for samples, certify_from, give_up_at in zip(
        boundary.looks.tolist(), boundary.certify_from.tolist(), boundary.give_up_at.tolist(), strict=True
    ):
        expected += walk.mass * (samples - walk.samples)
        walk.advance_to(samples)
        certified += walk.cut_from(certify_from)
        hopeless += walk.cut_to(give_up_at)
    return OperatingCharacteristics(certified, hopeless, walk.mass, expected)


def size(boundary: Boundary, threshold: float) -> float:
    """The exact probability that the rule certifies `q > threshold` when q is the threshold itself.

    It is the largest probability of a wrong certificate over all q <= threshold: with the same random numbers
    a larger q gives at each look at least as many votes, so it certifies whenever the smaller one does.

    Raises:
        ValueError: threshold is not in [0, 1].
    """
    return operating_characteristics(boundary, threshold).certified


def even_looks(cap: int, batch: int, first: int | None = None) -> Integers:
    """Looks after `first` samples, then after every `batch` more, and at the cap: int64, increasing.

    Args:
        cap: the last look.
        batch: samples between two looks.
        first: the first look; a batch unless given.

    Raises:
        ValueError: the batch or the cap is out of range.
    """
    if not 1 <= batch <= MAX_SAMPLES:
        raise ValueError(f"the batch is {batch}; it must lie between 1 and {MAX_SAMPLES}")
    check_counts(0, cap)
    return np.unique(np.append(np.arange(first or batch, cap, batch), cap))


def fixed_boundary(threshold: float, alpha: float, samples: int) -> Boundary:
    """The rule of a fixed n: one look, certifying when the Clopper-Pearson bound exceeds the threshold.

    One-sided, at level alpha; assumes independent votes.

    Raises:
        ValueError: threshold, alpha or samples out of range.
    """
    check_threshold(threshold)
    check_counts(0, samples)
    low, high = -1, samples + 1  # low does not certify, high would
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson_lower(middle, samples, alpha).value > threshold:
            high = middle
        else:
            low = middle
    return Boundary(*(np.array([number]) for number in (samples, high, -1)))


def least_expected_samples(p: float, threshold: float, alpha: float) -> float:
    """Wald's lower bound of the mean number of samples of any rule that certifies almost surely at p.

    log(1/alpha) / KL(p, threshold), for a test of `q <= threshold` at level alpha, one-sided. Source: Wald,
    Annals of Mathematical Statistics 16 (1945), section 4, at a probability 0 of missing; that no test
    beats it: Wald and Wolfowitz, same journal 19 (1948).

    Raises:
        ValueError: threshold or alpha out of range, or p not in (threshold, 1].
    """
    check_threshold(threshold)
    check_alpha(alpha)
    if not threshold < p <= 1:
        raise ValueError(f"p is {p}; it must lie above the threshold {threshold} and be at most 1")
    misses = (1 - p) * math.log((1 - p) / (1 - threshold)) if p < 1 else 0.0
    return -math.log(alpha) / (p * math.log(p / threshold) + misses)


def unreachable(looks: Integers, certify_from: Integers) -> Integers:
    """The most votes with which no later look can certify even if every further sample agrees; [J].

    -1 at the last look, where no later one is left to be missed.
    """
    spare = looks - certify_from  # votes against that a look forgives
    best_later = np.maximum.accumulate(spare[::-1])[::-1]
    return np.append(np.maximum(looks[:-1] - best_later[1:] - 1, -1), -1)


def check_threshold(threshold: float) -> float:
    """Return the threshold when it is one that a probability can exceed.

    Raises:
        ValueError: threshold is not at least 1e-15 away from 0 and from 1.
    """
    if not 1e-15 <= threshold <= 1 - 1e-15:
        raise ValueError(f"the threshold is {threshold}; it must lie between 0 and 1, 1e-15 away from both")
    return threshold


def check_looks(looks: Integers | Sequence[int]) -> Integers:
    """Return the looks as a read-only int64 array.

    Raises:
        ValueError: not a list of increasing whole numbers from 1 to 10^9.
    """
    array = _frozen(looks, "looks")
    if array.ndim != 1 or not array.size or array[0] < 1 or array[-1] > MAX_SAMPLES:
        raise ValueError(f"looks are {array}; they must be a list of numbers from 1 to {MAX_SAMPLES}")
    if not (np.diff(array) > 0).all():
        raise ValueError(f"looks are {_abridged(array)}; each must be larger than the one before")
    return array


def _frozen(numbers: Integers | Sequence[int], name: str) -> Integers:
    array = np.array(numbers)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} are {array.dtype} numbers; they must be whole numbers")
    array = array.astype(np.int64)
    array.flags.writeable = False
    return array


def _abridged(numbers: Integers) -> str:
    listed = [str(number) for number in numbers.tolist()]
    return ", ".join(listed if len(listed) <= 8 else [*listed[:4], "...", listed[-1]])
