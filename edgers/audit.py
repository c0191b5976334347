"""An audit: a teacher labels some of an input's own votes, so that the certificate is about what is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgers.oracle.base import FAILED, Freezing, Oracle, TextOracle
from edgers.smoothing.bounds import MAX_SAMPLES
from edgers.smoothing.oracle_error import Audit
from edgers_engines.errors import BackendError, InputError


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

        Where there are fewer votes than m, all are labelled: how many there are says nothing of their labels.
        A vote that it could not label counts as a false one; without any vote, one such is counted.

        Args:
            label: the class that was voted for.
            texts: the first m answers that were votes for it, or all where there are fewer.

        Raises:
            BackendError: it could label none.
        """
        found = self.teacher.classify_texts(texts[: self.votes]) if texts else []
        if found and {*found} == {FAILED}:
            record = self.teacher.record
            raise BackendError(
                f"the {record.kind} {record.name!r} was to audit, and could not be asked: "
                f"{self.teacher.failure}"
            )
        return Audit(correct=sum(each == label for each in found), audited=max(len(found), 1))

    def check(self, oracle: Oracle | Freezing) -> None:
        """Refuse an oracle of whose classes the teacher knows none.

        Raises:
            InputError: it does not.
        """
        known = self.teacher.record.classes
        classes = () if isinstance(oracle, Freezing) else oracle.record.classes
        if not {*known} & {*classes}:
            raise InputError(
                f"the teacher {self.teacher.record.name!r} names {', '.join(known)}, which are no classes of "
                "the oracle: it could agree with no vote"
            )
