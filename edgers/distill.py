"""A teacher's labels in, a bundle with a learned oracle out, and what the oracle gets wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgers.answers import StoredAnswer, disagreements
from edgers.calibration import calibrate, one_per_image
from edgers.oracle.base import FAILED, OTHER
from edgers.split import Split
from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.oracle_record import Clusters, Confusion, Pairs
from edgers_engines.records import Record
from edgers_engines.text_classifier import TextClassifier

if TYPE_CHECKING:
    from edgers_export.student import Student

WORST = 10  # confusions that are listed
FEWEST = 2  # texts of each class to learn from
_ASKED_AT_ONCE = 64  # texts that a teacher gets

Progress = Callable[[int], None]


class Mistake(Record, frozen=True, kw_only=True):
    """How often the teacher says `teacher` and the student `student`, and one such text."""

    teacher: str
    student: str
    count: int
    example: str


class Distilled(Record, frozen=True, kw_only=True):
    """What was learned, and how it did on held-out answers.

    Counts are of answers unless they say texts; `errors` counts held-out texts, each once. `calibration` has
    one held-out answer for each image.
    """

    bundle: str
    digest: str
    oracle: str
    classes: dict[str, int]
    repeated_texts: int
    texts_with_two_labels: int
    not_labelled: int
    learned: int
    dropped: int
    held_out: int
    held_out_texts: int
    errors: int
    worst: tuple[Mistake, ...]
    calibration: tuple[Confusion, ...]
    calibration_images: int
    calibration_errors: int


class Clustered(Record, frozen=True, kw_only=True):
    """What was learned, and how many pairs of held-out texts match: of one label, and of two."""

    bundle: str
    digest: str
    oracle: str
    threshold: float
    same: Pairs
    different: Pairs


def taught(
    answers: Iterable[StoredAnswer], teacher: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[StoredAnswer]:
    """The answers with a teacher's label, where they have none; OTHER is a label, a failure is not.

    A text that had a label before keeps it: nobody is asked twice.
    """
    known: dict[str, str] = {}
    waiting = iter(answers)
    while part := list(islice(waiting, _ASKED_AT_ONCE)):
        known.update((answer.text, answer.label) for answer in part if answer.label is not None)
        unknown = (answer.text for answer in part if not answer.failed and answer.text not in known)
        if asked := list(dict.fromkeys(unknown)):
            said = zip(asked, teacher(asked), strict=True)
            known.update((text, label) for text, label in said if label != FAILED)
        for answer in part:
            if answer.label is None and not answer.failed and answer.text in known:
                yield replace(answer, label=known[answer.text])
            else:
                yield answer


def local_labeller(folder: Path) -> Callable[[Sequence[str]], Sequence[str]]:
    """A local Hugging Face text classifier as a teacher.

    Raises:
        ExportError: the folder holds none that can be used.
    """
    from edgers_export.teacher import Labeller

    return Labeller(folder).classify_texts


def train(
    parts: Split,
    *,
    encoder: Path | None,
    epochs: int,
    seed: int,
    progress: Progress = lambda _texts: None,
) -> Student:
    """A student of the texts to learn from.

    Args:
        parts: answers to learn from and answers held out; see `lesson`.
        encoder: a local checkpoint to start from; from scratch if None.
        epochs: how often each text is learned from.
        seed: of training.
        progress: called with the number of texts learned from since the last call.

    Raises:
        InputError: there is too little to learn from.
        ExportError: the checkpoint cannot be used.
    """
    texts = lesson(parts.learn)
    _check(Counter(texts.values()), parts)
    if encoder is None:
        from edgers_export.student import train_from_scratch

        how = train_from_scratch
    else:
        from edgers_export.encoder import fine_tune

        how = partial(fine_tune, encoder)
    return how(list(texts), [*texts.values()], epochs=epochs, seed=seed, progress=progress)


def distill(bundle: Bundle, parts: Split, student: Student, name: str, out: Path, *, seed: int) -> Distilled:
    """Put a student into a copy of the bundle, and ask it there about held-out answers.

    Args:
        bundle: what the oracle is for.
        parts: what the student learned from, and what it did not.
        student: trained.
        name: of the oracle.
        out: directory to make.
        seed: of the choice of calibration answers.

    Raises:
        InputError: `out` or the name is taken.
    """
    from edgers_export.attach import attach

    made = attach(
        bundle,
        student,
        name,
        list(lesson(parts.test)),
        out,
        calibrate=lambda loaded: calibrate(loaded, one_per_image(parts.test, seed)),
    )
    return _report(made, name, parts)


def cluster(bundle: Bundle, parts: Split, student: Student, name: str, out: Path) -> Clustered:
    """Put what a student finds in texts into a copy of the bundle, as a test whether two mean the same.

    Args:
        bundle: what the oracle is for.
        parts: what the student learned from, and what the threshold is chosen on.
        student: trained from scratch.
        name: of the oracle.
        out: directory to make.

    Raises:
        InputError: `out` or the name is taken, or held-out texts of two labels cannot be told apart.
    """
    from edgers_export.attach import attach_embedder
    from edgers_export.embedder import embedder_of

    embedder = embedder_of(student, list(lesson(parts.learn)))
    made = attach_embedder(bundle, embedder, name, lesson(parts.test), out)
    (record,) = [o for o in made.manifest.oracles if isinstance(o, Clusters) and o.name == name]
    return Clustered(
        bundle=str(made.path),
        digest=made.digest,
        oracle=name,
        threshold=record.threshold,
        same=record.same,
        different=record.different,
    )


def lesson(answers: Sequence[StoredAnswer]) -> dict[str, str]:
    """Each text that has a label, once, with its last one."""
    return {answer.text: answer.label for answer in answers if answer.label and answer.text}


def _check(learned: Counter[str], parts: Split) -> None:
    tested = len(lesson(parts.test))
    if len(learned) < 2 or min(learned.values()) < FEWEST or not tested:
        counts = ", ".join(f"{name} {count}" for name, count in learned.items()) or "none with a label"
        raise InputError(
            f"there is too little to learn from: {counts}, and {tested} texts with a label held out. Two "
            f"classes or more are needed, each that occurs with at least {FEWEST} different texts to learn "
            "from: give more answers, leave out those of a rare class, or give a --teacher that can label "
            "them"
        )


def _report(made: Bundle, name: str, parts: Split) -> Distilled:
    record = next(oracle for oracle in made.manifest.classifiers if oracle.name == name)
    answers, tested = [answer for part in parts for answer in part], lesson(parts.test)
    found = TextClassifier(made, record, open_backend()).labels(list(tested))
    wrong: dict[tuple[str, str], list[str]] = {}
    for (text, teacher), student in zip(tested.items(), found, strict=True):
        if teacher != student:
            wrong.setdefault((teacher, student), []).append(text)
    return Distilled(
        bundle=str(made.path),
        digest=made.digest,
        oracle=name,
        classes=dict(Counter(answer.label for answer in answers if answer.label).most_common()),
        repeated_texts=len(answers) - len({answer.text for answer in answers}),
        texts_with_two_labels=len(disagreements(answers)),
        not_labelled=sum(answer.label is None for answer in answers),
        learned=len(parts.learn),
        dropped=len(parts.dropped),
        held_out=len(parts.test),
        held_out_texts=len(tested),
        errors=sum(map(len, wrong.values())),
        worst=tuple(
            Mistake(teacher=teacher, student=student, count=len(texts), example=texts[0])
            for (teacher, student), texts in sorted(wrong.items(), key=lambda item: -len(item[1]))[:WORST]
        ),
        calibration=record.calibration,
        calibration_images=sum(each.count for each in record.calibration),
        calibration_errors=sum(
            each.count for each in record.calibration if each.student not in (each.teacher, OTHER)
        ),
    )
