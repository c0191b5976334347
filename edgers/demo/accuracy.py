"""How often the demo bundle is right under noise: on fresh scenes, every question, both ways to answer.

Counts are stored, rates and bounds are computed from them where they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgers.oracle.base import label
from edgers.oracle.choices import Choices
from edgers.oracle.named import open_text_oracle
from edgers_engines.bundle import Bundle
from edgers_engines.image import CameraImage, prepare
from edgers_engines.noise import Stream, noisy_copies, to_lattice
from edgers_engines.records import Record
from edgers_engines.vlm import Question, VisionLanguageModel

SIGMAS = (0.0, 0.25, 0.5, 0.75)
_BATCH = 100


class AccuracyRow(Record, frozen=True, kw_only=True):
    """One question at one noise level, answered in one way: right answers of all."""

    scenes: Literal["clear", "hard"]
    question: str
    sigma: float
    answered_by: Literal["choices", "rules"]
    right: int
    of: int


class Accuracy(Record, frozen=True, kw_only=True):
    """A measurement of one bundle; stored as accuracy.json beside it."""

    bundle_digest: str
    seed: int
    rows: tuple[AccuracyRow, ...]


class Examiner:
    """Asks a bundle about images whose right answers are known.

    Args:
        bundle: the bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._model = VisionLanguageModel(bundle)
        self._manifest = bundle.manifest

    def right(
        self,
        images: NDArray[np.uint8],
        expected: Sequence[str],
        *,
        prompt: str,
        sigma: float,
        choices: Sequence[str] | None,
        oracle: str,
    ) -> int:
        """How many images get the expected class, one noisy copy each.

        Args:
            images: uint8 [n, height, width, 3].
            expected: the right class of each.
            prompt: the question.
            sigma: noise; 0 for none.
            choices: hold the answer to these; free text read by `oracle` if None.
            oracle: name of one of the bundle's.
        """
        judge = (
            open_text_oracle(self._model, oracle)
            if choices is None
            else Choices(choices, prompt, self._model.prompts, self._manifest.decoding.end_tokens[0])
        )
        question = Question(
            self._model,
            prompt,
            rows=_BATCH,
            constraint=judge.constraint,
            guard=False,
            max_new_tokens=judge.max_new_tokens,
        )
        right = 0
        for first in range(0, len(images), _BATCH):
            batch = slice(first, first + _BATCH)
            labels = label(judge, question.answers(self._canvases(images[batch], sigma, first)))
            right += sum(got == want for got, want in zip(labels, expected[batch], strict=True))
        return right

    def _canvases(self, images: NDArray[np.uint8], sigma: float, first: int) -> NDArray[np.float32]:
        canvases = [to_lattice(prepare(CameraImage(image), self._manifest.preparation)) for image in images]
        out = np.array(canvases, np.float32)
        if sigma > 0:
            for row, canvas in enumerate(canvases):
                noisy_copies(
                    canvas, sigma, seed=0, stream=Stream.SELECTION, first=first + row, out=out[row : row + 1]
                )
        return out


def table(accuracy: Accuracy) -> str:
    """The measurement as a Markdown table: one line per question, one column per noise level and way."""
    sigmas = sorted({row.sigma for row in accuracy.rows})
    counts = {(r.scenes, r.question, r.answered_by, r.sigma): r for r in accuracy.rows}
    lines = [
        "| scenes | question | answered by | " + " | ".join(f"σ = {sigma:g}" for sigma in sigmas) + " |",
        "|---|---|---|" + "---|" * len(sigmas),
    ]
    for scenes, question, way in dict.fromkeys(key[:3] for key in counts):
        cells = [counts[scenes, question, way, sigma] for sigma in sigmas]
        shares = " | ".join(f"{cell.right / cell.of:.3f}" for cell in cells)
        lines.append(f"| {scenes} ({cells[0].of}) | {question} | {way} | {shares} |")
    return "\n".join(lines)


def measure(
    bundle: Bundle,
    *,
    clear: int,
    hard: int,
    seed: int,
    progress: Callable[[str], None] = lambda _stage: None,
) -> Accuracy:
    """Examine a bundle on freshly drawn scenes; needs the workstation side, which draws them.

    Args:
        bundle: the demo bundle.
        clear: number of scenes with undisputed answers.
        hard: number of scenes that are ambiguous on purpose; their right answers are partly a matter of luck.
        seed: of the scenes.
        progress: called with what is examined next.
    """
    from edgers_export.demo.layout import AMBIGUITIES, KEY_WORDS
    from edgers_export.demo.questions import QUESTIONS
    from edgers_export.demo.scenes import draw_pool

    examiner = Examiner(bundle)
    pools = {"clear": [draw_pool(clear, seed=seed, ambiguity=None)]}
    if hard:
        pools["hard"] = [draw_pool(hard // len(AMBIGUITIES), seed=seed, ambiguity=a) for a in AMBIGUITIES]
    rows = []
    for scenes, drawn in pools.items():
        images = np.concatenate([pool.images for pool in drawn])
        answers = np.concatenate([pool.answers for pool in drawn])
        for column, question in enumerate(QUESTIONS):
            words = KEY_WORDS[question.name]
            expected = [words[index] for index in answers[:, column]]
            for sigma in SIGMAS:
                progress(f"{scenes} scenes, {question.name}, sigma {sigma:g}")
                for way, choices in (("choices", words), ("rules", None)):
                    right = examiner.right(
                        images,
                        expected,
                        prompt=question.canonical,
                        sigma=sigma,
                        choices=choices,
                        oracle=question.name,
                    )
                    rows.append(
                        {
                            "scenes": scenes,
                            "question": question.name,
                            "sigma": sigma,
                            "answered_by": way,
                            "right": right,
                            "of": len(images),
                        }
                    )
    from msgspec import convert

    return Accuracy(bundle_digest=bundle.digest, seed=seed, rows=convert(rows, tuple[AccuracyRow, ...]))
