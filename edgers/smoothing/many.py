"""Many certificates: levels with which all of them hold, and the votes of one in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgers.smoothing.bounds import check_alpha

_BASEL = 0.607927101854  # 6 / pi^2, cut off: by more than rounding can add to a level


def bonferroni(alpha: float, certificates: int) -> float:
    """The level of each of Q certificates with which all hold together at 1 - alpha, rounded down.

    Bonferroni: alpha / Q, whatever the certificates' dependence. Q is declared before the first; what is
    given up or retried counts.

    Raises:
        ValueError: alpha is not in (0, 1/2), or Q is below 1.
    """
    check_alpha(alpha)
    _check_number("certificates", certificates)
    return math.nextafter(alpha / certificates, 0.0)


def scheduled(alpha: float, index: int) -> float:
    """The level of the index-th certificate of a stream without end, rounded down.

    6 alpha / (pi^2 index^2): the levels add up to alpha (Euler's sum of the inverse squares), so by the union
    bound every certificate of the stream holds at 1 - alpha together. The index counts all that were tried.

    Args:
        alpha: allowed probability that any certificate of the stream is wrong.
        index: from 1.

    Raises:
        ValueError: alpha is not in (0, 1/2), or the index is below 1.
    """
    check_alpha(alpha)
    _check_number("index", index)
    return alpha * _BASEL / index / index


@dataclass(frozen=True, slots=True)
class VoteRange:
    """The votes of consecutive samples of one certificate.

    Attributes:
        first: index of the first sample.
        votes: counts of every class, failed and unfinished samples among them; they add up to the samples.
    """

    first: int
    votes: Sequence[int]

    def __post_init__(self) -> None:
        """Raise ValueError where the first index or a count is negative."""
        if self.first < 0 or min(self.votes, default=0) < 0:
            raise ValueError(f"votes {list(self.votes)} from sample {self.first}: neither may be negative")

    @property
    def end(self) -> int:
        """One more than the index of the last sample."""
        return self.first + sum(self.votes)


def merge_fixed(ranges: Sequence[VoteRange], samples: int) -> list[int]:
    """The votes of a fixed number of samples, from ranges in any order.

    Together they are samples 0 ... n - 1, each once: a range that is left out would be a choice of what
    counts. They belong to one certificate: the same model, input, seed and classes in the same order.

    Raises:
        ValueError: no ranges, classes that differ in number, or ranges that overlap, leave a gap, or do not
            end at n.
    """
    merged = merge_prefix(sorted(ranges, key=lambda part: (part.first, part.end)))
    if sum(merged) != samples:
        raise ValueError(f"the ranges hold {sum(merged)} samples; {samples} were declared")
    return merged


def merge_prefix(ranges: Sequence[VoteRange]) -> list[int]:
    """The votes of the first samples, from ranges in index order: what a sequential rule may look at.

    They begin at sample 0 and follow each other without a gap: which ranges are finished first may depend on
    their votes, so a rule that looks counts a prefix only.

    Raises:
        ValueError: no ranges, classes that differ in number, or a range that does not begin where the one
            before it ends.
    """
    if not ranges:
        raise ValueError("no ranges to merge")
    expected = 0
    for part in ranges:
        if len(part.votes) != len(ranges[0].votes):
            raise ValueError(f"a range of {len(part.votes)} classes beside one of {len(ranges[0].votes)}")
        if part.first != expected:
            what = "overlap" if part.first < expected else "leave a gap, or are out of order"
            raise ValueError(f"the ranges {what}: one begins at sample {part.first}, not at {expected}")
        expected = part.end
    return [sum(counts) for counts in zip(*(part.votes for part in ranges), strict=True)]


def _check_number(name: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{name}: {number}; it must be at least 1")
