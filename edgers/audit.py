"""An audit: a teacher labels some of an input's own votes, so that the certificate is about what is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgers.oracle.base import TextOracle
from edgers.smoothing.bounds import MAX_SAMPLES
from edgers.smoothing.oracle_error import Audit
from edgers_engines.errors import InputError


@dataclass(frozen=True)
class Auditor:
    """A teacher, and how many votes for the certified class it labels: the first ones in index order.

    They are chosen by their number alone, before any answer or label is looked at.

    Args:
        teacher: taken to be right.
        votes: m, at least 1.

    Raises:
        InputError: m is out of range.
    """

    teacher: TextOracle
    votes: int

    def __post_init__(self) -> None:
        """Check m."""
        if not 1 <= self.votes <= MAX_SAMPLES:
            raise InputError(f"votes to audit: {self.votes}; it must be at least 1")

    def mode(self, label: str, texts: Sequence[str]) -> Audit:
        """What the teacher's labels prove.

        A vote that it could not label counts as a false one, and so does each that m exceeds the votes by:
        that can only lower the bound.

        Args:
            label: the class that was voted for.
            texts: the first m answers that were votes for it, or all where there are fewer.
        """
        found = self.teacher.classify_texts(texts) if texts else []
        return Audit(correct=sum(each == label for each in found[: self.votes]), audited=self.votes)
