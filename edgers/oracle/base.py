"""What every oracle is: named classes, a digest, and a map from answers to classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import msgspec

from edgers_engines import oracle_record
from edgers_engines.errors import InputError
from edgers_engines.records import Record
from edgers_engines.vlm import Answer, Constraint, Status

RESERVED = oracle_record.RESERVED
OTHER, UNDECIDED, FAILED = RESERVED


class OracleRecord(Record, frozen=True, kw_only=True):
    """Which oracle labelled the answers; `sha256` is of all that the labels follow from."""

    kind: Literal["choices", "rules", "classifier", "judge", "clusters", "judged clusters"]
    name: str
    classes: tuple[str, ...]
    sha256: str

    @property
    def judged(self) -> bool:
        """Whether a language model labels."""
        return self.kind in {"judge", "judged clusters"}

    @property
    def clusters(self) -> bool:
        """Whether the class is what means the same as the answer that names it."""
        return self.kind in {"clusters", "judged clusters"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an oracle could not be asked about one answer."""

    reason: str


# Who an oracle asks: a reply to each prompt, or why there is none.
Complete = Callable[[Sequence[str]], Sequence[str | Failure]]


class Oracle(Protocol):
    """A fixed map from answers to classes."""

    @property
    def record(self) -> OracleRecord:
        """Name, classes and digest."""

    @property
    def constraint(self) -> Constraint | None:
        """What decoding is held to; None for free text."""

    @property
    def max_new_tokens(self) -> int | None:
        """Longest answer the oracle needs; None for the bundle's own limit."""

    @property
    def failure(self) -> str | None:
        """Why the first answer that it could not be asked about failed; None where none did."""

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """One class, or OTHER, for each complete answer; FAILED where the oracle itself failed."""


@runtime_checkable
class Freezing(Protocol):
    """An oracle whose class is chosen by the selection's answers; frozen, it is an oracle like any other."""

    @property
    def name(self) -> str:
        """Of the oracle."""

    @property
    def constraint(self) -> Constraint | None:
        """What decoding is held to; None for free text."""

    @property
    def max_new_tokens(self) -> int | None:
        """Longest answer the oracle needs; None for the bundle's own limit."""

    def freeze(self, answers: Sequence[Answer], stop: Callable[[], bool]) -> Oracle:
        """An oracle of one class, chosen by the complete answers of a selection, or of none."""


class TextOracle(Oracle, Protocol):
    """An oracle that needs no more than an answer's text; it can teach another, or check it."""

    def classify_texts(self, texts: Sequence[str]) -> list[str]:
        """One class, or OTHER, for each text; FAILED where it could not be asked."""


def label(oracle: Oracle, answers: Sequence[Answer]) -> list[str]:
    """A class for every answer; those that did not complete get the reserved class that counts against."""
    labels = {Status.UNDECIDED: UNDECIDED, Status.FAILED: FAILED}
    classes = iter(oracle.classify([answer for answer in answers if answer.status is Status.COMPLETE]))
    return [labels.get(answer.status) or next(classes) for answer in answers]


def digest(definition: object) -> str:
    """SHA-256 of an oracle's definition as JSON."""
    return hashlib.sha256(msgspec.json.encode(definition, order="sorted")).hexdigest()


def check_classes(classes: Sequence[str]) -> None:
    """Check the names of an oracle's classes.

    Raises:
        InputError: a name is no text, blank, reserved or not printable, or repeats.
    """
    seen: set[str] = set()
    for name in classes:
        if not isinstance(name, str):
            raise InputError(f"a class is named by a text, not by {name!r}")
        if not name.strip():
            raise InputError("a class has no name: is there an empty choice between two commas?")
        if name in RESERVED or not name.isprintable():
            raise InputError(
                f"{name!r} cannot name a class: {', '.join(RESERVED)} are reserved, all is printable"
            )
        if name in seen:
            raise InputError(f"the class {name!r} is named twice")
        seen.add(name)


def winner(votes: Mapping[str, int], classes: Sequence[str]) -> str:
    """The class with the most votes; of several, the first in the oracle's order, then the reserved ones."""
    return max((*classes, *RESERVED), key=lambda name: votes[name])
