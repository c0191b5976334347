"""Two bundles side by side on the same frames and the same noise: tokens, labels, votes, radii.

Another precision, a quantization or another export is another certified function. How much of it is the same
is measured here; a certificate of one says nothing about the other all the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgers.asked import fitting
from edgers.oracle.base import RESERVED, Freezing, Oracle, label, winner
from edgers.oracle.named import open_oracle
from edgers.rule import Rule
from edgers_engines.errors import InputError
from edgers_engines.image import CameraImage, prepare
from edgers_engines.noise import Stream, to_lattice, total_variation_bound
from edgers_engines.records import Record
from edgers_engines.vlm import Answer, Question, Status, VisionLanguageModel

ROWS = 32

Progress = Callable[[int], None]


class Side(Record, frozen=True, kw_only=True):
    """What one bundle says about one frame: the class that its selection chose, its votes, and the radius."""

    label: str
    votes: dict[str, int]
    certified: bool
    radius: float | None


class FrameComparison(Record, frozen=True, kw_only=True):
    """One frame, on which both bundles answered the same `samples` noisy copies.

    A token is compared where both have chosen one, and the same ones before it: `equal_tokens` of `tokens`.
    Of the samples, `equal_answers` have the same tokens and ended alike, `equal_labels` the same class. What
    the margin guard ended is UNDECIDED in `sides`: it has no next token to compare.
    """

    image: str
    samples: int
    tokens: int
    equal_tokens: int
    equal_answers: int
    equal_labels: int
    sides: tuple[Side, Side]

    @property
    def same_verdict(self) -> bool:
        """Whether both chose the same class, and both certify it or neither."""
        first, second = self.sides
        return (first.label, first.certified) == (second.label, second.certified)


class Contestant:
    """One bundle, ready to be asked.

    Args:
        model: the loaded bundle.
        prompt: the question.
        choices: see `Certifier.certify`.
        oracle: see `Certifier.certify`.
        sigma: of the noise.
        samples: that certify.
        selection: that choose the class.
        alpha: of the bound.
        seed: of the noise.

    Raises:
        InputError: the question cannot be asked, a number is out of range, or the oracle makes clusters:
            two bundles do not share those.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompt: str,
        *,
        choices: Sequence[str] | None,
        oracle: str | None,
        sigma: float,
        samples: int,
        selection: int,
        alpha: float,
        seed: int,
    ) -> None:
        judge = open_oracle(model, prompt, choices, oracle)
        if isinstance(judge, Freezing):
            raise InputError(f"the oracle {judge.name!r} makes clusters: two bundles have no class in common")
        self.judge: Oracle = judge
        self.preparation = model.bundle.manifest.preparation
        values = 3 * math.prod(self.preparation.canvas_size)
        try:
            self._rule = Rule(
                samples=samples,
                alpha=alpha,
                sigma=sigma,
                total_variation=total_variation_bound(values, sigma),
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        self._selection, self._seed = selection, seed
        self._question = fitting(
            min(ROWS, model.max_rows),
            lambda rows: Question(
                model,
                prompt,
                rows=rows,
                constraint=judge.constraint,
                guard=judge.constraint is not None,
                max_new_tokens=judge.max_new_tokens,
                cautious=True,
            ),
        )
        shape = (self._question.rows, 3, *self.preparation.canvas_size)
        self._noisy = self._question.device.empty(shape, np.float32)

    def side(self, camera: CameraImage, progress: Progress) -> tuple[Side, list[Answer], list[str]]:
        """What it says about a frame, and the answers and labels that were counted.

        Raises:
            BackendError: a graph failed to run.
        """
        canvas, rule = to_lattice(prepare(camera, self.preparation)), self._rule
        chosen = label(self.judge, self._answers(canvas, Stream.SELECTION, self._selection, progress))
        classes = self.judge.record.classes
        name = winner({**dict.fromkeys((*classes, *RESERVED), 0), **Counter(chosen)}, classes)
        answers = self._answers(canvas, Stream.CERTIFICATION, rule.samples, progress)
        labels = label(self.judge, answers)
        votes = {**dict.fromkeys((*classes, *RESERVED), 0), **Counter(labels)}
        found = rule.conclude(name, votes)
        return Side(label=name, votes=votes, certified=found.certified, radius=found.radius), answers, labels

    def _answers(
        self, canvas: NDArray[np.float64], stream: Stream, count: int, progress: Progress
    ) -> list[Answer]:
        answers: list[Answer] = []
        question = self._question
        for first in range(0, count, question.rows):
            noisy = self._noisy[: min(question.rows, count - first)]
            question.device.noisy_copies(
                canvas, self._rule.sigma, seed=self._seed, stream=stream, first=first, out=noisy
            )
            answers += question.answers(noisy)
            progress(len(noisy))
        return answers


def compare(
    contestants: tuple[Contestant, Contestant], images: Sequence[Path], progress: Progress
) -> Iterator[FrameComparison]:
    """The frames, one after the other.

    Args:
        contestants: the two, with the same numbers.
        images: files.
        progress: called with the number of samples that one of them answered since the last call.

    Raises:
        InputError: they see canvases of other sizes, so no noise is the same, or have other classes.
        ImageError: an image cannot be read.
        BackendError: a graph failed to run.
    """
    first, second = contestants
    sizes = first.preparation.canvas_size, second.preparation.canvas_size
    if sizes[0] != sizes[1]:
        raise InputError(f"canvases of {sizes[0]} and {sizes[1]} have no noise in common")
    classes = first.judge.record.classes, second.judge.record.classes
    if classes[0] != classes[1]:
        raise InputError(f"the oracles have the classes {list(classes[0])} and {list(classes[1])}")
    for image in images:
        camera = CameraImage.of(image)
        one, answers, labels = first.side(camera, progress)
        two, others, others_labels = second.side(camera, progress)
        pairs = list(zip(answers, others, strict=True))
        tokens = [_same(*pair) for pair in pairs]
        yield FrameComparison(
            image=str(image),
            samples=len(answers),
            tokens=sum(compared for _, compared in tokens),
            equal_tokens=sum(equal for equal, _ in tokens),
            equal_answers=sum((a.tokens, a.status) == (b.tokens, b.status) for a, b in pairs),
            equal_labels=sum(a == b for a, b in zip(labels, others_labels, strict=True)),
            sides=(one, two),
        )


def _same(first: Answer, second: Answer) -> tuple[int, int]:
    """How many tokens are equal, and how many were compared: those up to the first that differs.

    An answer that ends where the other goes on differs there, unless the margin guard ended it: then it has
    no token there to compare.
    """
    a, b = first.tokens, second.tokens
    pairs = enumerate(zip(a, b, strict=False))
    equal = next((place for place, (one, other) in pairs if one != other), min(len(a), len(b)))
    if a == b or any(equal == len(c.tokens) and c.status is Status.UNDECIDED for c in (first, second)):
        return equal, equal
    return equal, equal + 1
