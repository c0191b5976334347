"""What a learned oracle gets wrong: counted on answers that were held out, used by the modes that need it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace

from edgers.answers import StoredAnswer
from edgers.oracle.base import OTHER
from edgers.oracle.definition import SUFFIX
from edgers.smoothing.mode import Mode
from edgers.smoothing.oracle_error import Calibrated, CalibratedFalsePositive
from edgers_engines.errors import InputError
from edgers_engines.manifest import Manifest
from edgers_engines.oracle_record import Classifier, Condition, Confusion
from edgers_engines.text_classifier import TextClassifier

_UNKNOWN = ("", 0.0)
ENOUGH = 1000  # images; the paper's own check has as many benign pairs of image and prompt


def one_per_image(answers: Sequence[StoredAnswer], seed: int) -> list[StoredAnswer]:
    """An answer about each image, chosen blindly: answers about one image are not independent.

    Only what the model says by itself, about a named image, is of the distribution that is meant.
    """
    groups: dict[str, list[StoredAnswer]] = {}
    for answer in answers:
        if answer.image is not None and not answer.detour:
            groups.setdefault(answer.image, []).append(answer)
    rng = np.random.default_rng(seed)
    return [group[rng.integers(len(group))] for group in groups.values()]


def count(
    answers: Sequence[StoredAnswer], labels: Callable[[Sequence[str]], Sequence[str]]
) -> tuple[Confusion, ...]:
    """How often the teacher said one class and the student another, or the same.

    Args:
        answers: independent, and labelled by the teacher; what it could not label is OTHER.
        labels: the student.
    """
    found = labels([answer.text for answer in answers])
    pairs = Counter((answer.label or OTHER, student) for answer, student in zip(answers, found, strict=True))
    return tuple(
        Confusion(teacher=teacher, student=student, count=number)
        for (teacher, student), number in sorted(pairs.items())
    )


def calibrate(loaded: TextClassifier, answers: Sequence[StoredAnswer]) -> Classifier:
    """A student's record with its counts, and what the answers were to.

    Args:
        loaded: the student.
        answers: as for `count`.
    """
    # What is not known stands beside what is as a condition of its own: together they are several.
    asked = sorted({(answer.prompt or "", answer.sigma or 0.0) for answer in answers})
    known = [] if asked == [_UNKNOWN] else asked
    return replace(
        loaded.record,
        calibration=count(answers, loaded.labels),
        conditions=tuple(Condition(prompt=prompt, sigma=sigma) for prompt, sigma in known),
    )


def calibrated(manifest: Manifest, oracle: str | None, mode: str, prompt: str, sigma: float) -> Mode:
    """The mode that a bundle's own counts give, for whichever class the selection chooses.

    Which class that is does not depend on the calibration answers, so the counts of each class would hold for
    it; those of the worst class hold for all and can be laid down before.

    Args:
        manifest: the bundle's.
        oracle: the name of a learned oracle in it.
        mode: calibrated or calibrated-false-positive.
        prompt: the question that is asked.
        sigma: of the noise.

    Raises:
        InputError: there is no such oracle, or it has no counts, or none of a class that the mode needs; or
            they are of another question or another noise, or of several together.
    """
    learned = {classifier.name: classifier for classifier in manifest.classifiers}
    # A name of a file opens the file, whatever the bundle's oracles are called: see `open_named`.
    if oracle is None or oracle.endswith(SUFFIX) or oracle not in learned or not learned[oracle].calibration:
        raise InputError(
            f"--assume {mode} needs counts: give --calibration, or an --oracle that `edgers distill` has "
            "calibrated on answers about images"
        )
    conditions = learned[oracle].conditions
    if conditions and conditions != (Condition(prompt=prompt, sigma=sigma),):
        known = "; ".join(f"{each.prompt!r} at sigma {each.sigma:g}" for each in conditions)
        raise InputError(
            f"the oracle {oracle} was calibrated for {known}, and its errors elsewhere may be others: ask "
            "that, distil one for this question and this noise alone, or give counts by --calibration"
        )
    if mode == Calibrated.name:
        return _calibrated(learned[oracle])
    return _calibrated_false_positive(learned[oracle])


def _calibrated(classifier: Classifier) -> Calibrated:
    total = sum(each.count for each in classifier.calibration)
    errors = max(
        sum(each.count for each in classifier.calibration if each.student == name != each.teacher)
        for name in classifier.classes
    )
    return Calibrated(errors, total)


def _calibrated_false_positive(classifier: Classifier) -> CalibratedFalsePositive:
    """Of each true class, OTHER too if it was learned, the count of what it is most often taken for."""
    truths = dict.fromkeys((*classifier.labels, *(each.teacher for each in classifier.calibration)))
    counts = []
    for truth in truths:
        said = {each.student: each.count for each in classifier.calibration if each.teacher == truth}
        if not said:
            raise InputError(
                f"the oracle {classifier.name} was calibrated without an answer that its teacher calls "
                f"{truth!r}: calibrate on more images, or assume calibrated"
            )
        wrong = [number for name, number in said.items() if name not in (truth, OTHER)]
        counts.append((max(wrong, default=0), sum(said.values())))
    return CalibratedFalsePositive(counts)
