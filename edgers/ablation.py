"""Oracles side by side on the same stored answers: what each certifies, gets wrong, and costs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgers.answers import StoredAnswer
from edgers.oracle.base import FAILED, OTHER, RESERVED, Oracle, TextOracle, label, winner
from edgers.oracle.clusters import Clusters
from edgers.oracle.unsound_clusters import unsound_cluster
from edgers.rule import Rule
from edgers.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper
from edgers_engines.errors import BackendError, InputError
from edgers_engines.manifest import Manifest
from edgers_engines.noise import total_variation_bound
from edgers_engines.records import Record
from edgers_engines.vlm import Answer, Status

CONFIDENCE_ALPHA = 0.05  # of the error rates' intervals, both sides together


class Reference:
    """What is taken to be right: one oracle's classes, each text asked for once.

    Args:
        oracle: the one.
    """

    def __init__(self, oracle: TextOracle) -> None:
        self.name, self._oracle = oracle.record.name, oracle
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """The class of a text.

        Raises:
            BackendError: it could not be asked.
        """
        if text not in self._known:
            (self._known[text],) = self._oracle.classify_texts([text])
            if self._known[text] == FAILED:
                raise BackendError(f"the reference {self.name!r} could not be asked ({self._oracle.failure})")
        return self._known[text]


class Scored(Record, frozen=True, kw_only=True):
    """One oracle on all frames.

    Of each, `n` answers certify. `certified` of `frames` are certified, `false` of these although the
    reference calls half of the answers or more something else. `mean_radius` counts an abstention as 0.
    `errors` of `answers`, one about each image, are not what the reference says; the bounds hold together
    with probability 95%. `failed` counts votes about which the oracle could not be asked. Milliseconds are
    for an answer whose text the oracle has not seen, null where a text has no class by itself, and in the
    mean over all answers.
    """

    oracle: str
    kind: str
    sound: bool
    reference: str
    n: int
    sigma: float
    alpha: float
    frames: int
    certified: int
    false: int
    mean_radius: float
    errors: int
    answers: int
    failed: int
    error_lower: float
    error_upper: float
    ms_per_new_text: float | None
    ms_per_answer: float


@dataclass(frozen=True)
class Frame:
    """The answers to one question about one image: some select, the others certify."""

    image: str
    selection: list[Answer]
    certification: list[Answer]


@dataclass(frozen=True)
class Verdict:
    """A contender's about one frame: the class it chose, its votes, and what it calls the last answer."""

    label: str
    votes: Mapping[str, int]
    last: str


@dataclass(frozen=True)
class Contender:
    """One line of the table.

    Attributes:
        name: of the oracle.
        kind: what sort of oracle it is.
        judge: its verdict about one frame.
        classify: the classes of texts; None where a class is what means the same as an answer of the frame.
        sound: whether a certificate may rest on its votes.
    """

    name: str
    kind: str
    judge: Callable[[Frame], Verdict]
    classify: Callable[[Sequence[str]], list[str]] | None
    sound: bool = True


def contenders(oracle: TextOracle | Clusters) -> Iterator[Contender]:
    """An oracle; and clusters once more as the paper makes them, which is unsound."""
    if isinstance(oracle, Clusters):
        yield Contender(oracle.name, oracle.equivalence.kind, partial(_frozen, oracle), None)
        yield Contender(oracle.name, "clusters of the votes", partial(_unsound, oracle), None, sound=False)
    else:
        record = oracle.record
        yield Contender(record.name, record.kind, partial(_judged, oracle), oracle.classify_texts)


def frames_of(answers: Sequence[StoredAnswer], selection: int) -> list[Frame]:
    """Answers by image and prompt, in the order in which they stand.

    Args:
        answers: of the model itself, the same number about each frame.
        selection: how many of each select.

    Raises:
        InputError: they are of different numbers or noise, on a detour, without an image, or too few.
    """
    groups: dict[tuple[str, str | None], list[Answer]] = {}
    for answer in answers:
        if answer.image is None or answer.detour or not answer.sigma:
            raise InputError(
                "answers are compared that a model gave about noisy images by itself: make them with "
                "`edgers collect`, without --detour"
            )
        status = Status.FAILED if answer.failed else Status.COMPLETE
        groups.setdefault((answer.image, answer.prompt), []).append(Answer((), answer.text, status, np.inf))
    counts = sorted({len(group) for group in groups.values()})
    if len(counts) != 1 or counts[0] <= selection or len({answer.sigma for answer in answers}) != 1:
        raise InputError(
            f"each frame needs the same number of answers at the same noise, more than the {selection} that "
            f"select; there are {counts}"
        )
    return [Frame(image, group[:selection], group[selection:]) for (image, _), group in groups.items()]


def rule_of(
    answers: Sequence[StoredAnswer], frames: Sequence[Frame], manifest: Manifest, alpha: float
) -> Rule:
    """The rule of a certificate from as many samples as each frame has, at the noise they were made with.

    Raises:
        InputError: alpha is out of range.
    """
    sigma = answers[0].sigma or 0.0
    values = 3 * math.prod(manifest.preparation.canvas_size)
    try:
        return Rule(
            samples=len(frames[0].certification),
            alpha=alpha,
            sigma=sigma,
            total_variation=total_variation_bound(values, sigma),
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def score(contender: Contender, frames: Sequence[Frame], reference: Reference, rule: Rule) -> Scored:
    """One line of the table.

    Args:
        contender: what judges.
        frames: what it judges.
        reference: the class of a text, with which all is compared.
        rule: of the certificates, for as many samples as each frame has for certification.
    """
    texts = list(dict.fromkeys(answer.text for frame in frames for answer in _all(frame)))
    start = time.perf_counter()
    if contender.classify is not None:
        contender.classify(texts)
    read = time.perf_counter()
    verdicts = [contender.judge(frame) for frame in frames]
    judged = time.perf_counter()
    # A judge keeps its labels: what it costs to read an answer, it cost above.
    begun = start if contender.kind == "judge" else read
    conclusions = [rule.conclude(verdict.label, verdict.votes) for verdict in verdicts]
    of_images = {frame.image: (frame, verdict) for frame, verdict in zip(frames, verdicts, strict=True)}
    errors = sum(_errs(contender, *pair, reference) for pair in of_images.values())
    each = CONFIDENCE_ALPHA / 2
    return Scored(
        oracle=contender.name,
        kind=contender.kind,
        sound=contender.sound,
        reference=reference.name,
        n=rule.samples,
        sigma=rule.sigma,
        alpha=rule.alpha,
        frames=len(frames),
        certified=sum(conclusion.certified for conclusion in conclusions),
        false=sum(
            conclusion.certified and _is_false(contender, frame, verdict, reference)
            for conclusion, frame, verdict in zip(conclusions, frames, verdicts, strict=True)
        ),
        mean_radius=float(np.mean([conclusion.radius or 0.0 for conclusion in conclusions])),
        errors=errors,
        answers=len(of_images),
        failed=sum(verdict.votes[FAILED] for verdict in verdicts),
        error_lower=clopper_pearson_lower(errors, len(of_images), each).value,
        error_upper=clopper_pearson_upper(errors, len(of_images), each).value,
        ms_per_new_text=None if contender.classify is None else 1e3 * (read - start) / len(texts),
        ms_per_answer=1e3 * (judged - begun) / sum(len(_all(frame)) for frame in frames),
    )


def _all(frame: Frame) -> list[Answer]:
    return frame.selection + frame.certification


def _judged(oracle: Oracle, frame: Frame) -> Verdict:
    selection, certification = label(oracle, frame.selection), label(oracle, frame.certification)
    classes = (*oracle.record.classes, *RESERVED)
    chosen = winner(_votes(selection, classes), oracle.record.classes)
    return Verdict(chosen, _votes(certification, classes), certification[-1])


def _frozen(clusters: Clusters, frame: Frame) -> Verdict:
    complete = [answer for answer in frame.selection if answer.status is Status.COMPLETE]
    return _judged(clusters.freeze(complete), frame)


def _unsound(clusters: Clusters, frame: Frame) -> Verdict:
    """UNSOUND: the class is chosen by the answers that are then counted."""
    texts = [answer.text for answer in frame.certification if answer.status is Status.COMPLETE]
    name, size = unsound_cluster(clusters.equivalence, texts, transitive=True) if texts else (OTHER, 0)
    votes = {**dict.fromkeys(RESERVED, 0), OTHER: len(frame.certification) - size, name: size}
    (same,) = clusters.equivalence.matches(name, texts[-1:]) or [False]
    return Verdict(name, votes, name if same else OTHER)


def _votes(labels: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    return {**dict.fromkeys(classes, 0), **Counter(labels)}


def _errs(contender: Contender, frame: Frame, verdict: Verdict, reference: Reference) -> bool:
    truth = reference(frame.certification[-1].text)
    if contender.classify is not None:
        return verdict.last != truth
    if verdict.label in RESERVED:
        return True  # no class was found
    return (verdict.last == verdict.label) != (truth == reference(verdict.label))


def _is_false(contender: Contender, frame: Frame, verdict: Verdict, reference: Reference) -> bool:
    """Whether the reference calls half of the answers, or more, something else than was certified."""
    certified = verdict.label if contender.classify is not None else reference(verdict.label)
    agreeing = sum(reference(answer.text) == certified for answer in frame.certification)
    return 2 * agreeing <= len(frame.certification)
