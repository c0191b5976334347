"""A teacher's labels in, a bundle with a learned oracle out, and what the oracle gets wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from edgers.labelled import LabelledText, confusions, disagreements, split
from edgers.oracle.classifier import Classified
from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.records import Record
from edgers_engines.text_classifier import TextClassifier

HELD_OUT = 0.2  # of the images
WORST = 10  # confusions that are listed
FEWEST = 2  # rows of each class to learn from


class Confusion(Record, frozen=True, kw_only=True):
    """How often the teacher says `teacher` and the student `student`, and one such text."""

    teacher: str
    student: str
    count: int
    example: str


class Distilled(Record, frozen=True, kw_only=True):
    """What was learned, and how it did on held-out rows. Counts are of rows unless they say texts."""

    bundle: str
    digest: str
    oracle: str
    classes: dict[str, int]
    repeated_texts: int
    texts_with_two_labels: int
    learned: int
    dropped: int
    held_out: int
    held_out_texts: int
    errors: int
    worst: tuple[Confusion, ...]


class _Rows(NamedTuple):
    learn: list[LabelledText]
    test: list[LabelledText]


def distill(
    bundle: Bundle,
    rows: Sequence[LabelledText],
    name: str,
    out: Path,
    *,
    epochs: int,
    seed: int,
    progress: Callable[[int], None] = lambda _rows: None,
) -> Distilled:
    """Train a student from scratch, put it into a copy of the bundle, and ask it there about held-out rows.

    Args:
        bundle: what the oracle is for.
        rows: labelled by a teacher.
        name: of the oracle.
        out: directory to make.
        epochs: how often each row is learned from.
        seed: of the split and of training.
        progress: called with the number of rows learned from since the last call.

    Raises:
        InputError: too few rows, or `out` or the name is taken.
    """
    parts = _Rows(*split(rows, HELD_OUT, seed))
    _check(parts)
    from edgers_export.attach import attach
    from edgers_export.student import train_from_scratch

    student = train_from_scratch(
        [row.text for row in parts.learn],
        [row.label for row in parts.learn],
        epochs=epochs,
        seed=seed,
        progress=progress,
    )
    made = attach(bundle, student, name, [row.text for row in parts.test], out)
    record = next(oracle for oracle in made.manifest.classifiers if oracle.name == name)
    oracle = Classified(TextClassifier(made, record, open_backend()), made.manifest)
    found = oracle.classify_texts([row.text for row in parts.test])
    return _report(made, name, rows, parts, found)


def _check(parts: _Rows) -> None:
    counts = Counter(row.label for row in parts.learn)
    if len(counts) < 2 or min(counts.values()) < FEWEST or not parts.test:
        raise InputError(
            f"there is too little to learn from: {dict(counts)} after {len(parts.test)} were held out; give "
            f"at least {FEWEST} rows of each of two classes or more"
        )


def _report(
    made: Bundle, name: str, rows: Sequence[LabelledText], parts: _Rows, found: Sequence[str]
) -> Distilled:
    wanted = [row.label for row in parts.test]
    examples = {pair: row.text for row, pair in zip(parts.test, zip(wanted, found, strict=True), strict=True)}
    wrong = Counter({pair: count for pair, count in confusions(wanted, found).items() if pair[0] != pair[1]})
    return Distilled(
        bundle=str(made.path),
        digest=made.digest,
        oracle=name,
        classes=dict(Counter(row.label for row in rows).most_common()),
        repeated_texts=len(rows) - len({row.text for row in rows}),
        texts_with_two_labels=len(disagreements(rows)),
        learned=len(parts.learn),
        dropped=len(rows) - len(parts.learn) - len(parts.test),
        held_out=len(parts.test),
        held_out_texts=len({row.text for row in parts.test}),
        errors=wrong.total(),
        worst=tuple(
            Confusion(teacher=teacher, student=student, count=count, example=examples[teacher, student])
            for (teacher, student), count in wrong.most_common(WORST)
        ),
    )
