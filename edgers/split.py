"""Answers to learn from and answers to test on: no image is in both, and no text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgers.answers import StoredAnswer

_WORD = re.compile(r"\w+")
HELD_OUT = 0.2  # of the images


class Split(NamedTuple):
    """What is learned from, what is held out, and what is dropped, for its text is held out."""

    learn: list[StoredAnswer]
    test: list[StoredAnswer]
    dropped: list[StoredAnswer]


def split(answers: Sequence[StoredAnswer], seed: int, share: float = HELD_OUT) -> Split:
    """Hold out whole images; an answer without one stands for itself.

    Of what is left, answers with a held-out text are dropped; case and punctuation make no other text.

    Args:
        answers: any order.
        seed: of the choice.
        share: of the images that is held out, in (0, 1).
    """
    images = list(dict.fromkeys(_image(answer) for answer in answers))
    chosen = np.random.default_rng(seed).permutation(len(images))[: max(round(share * len(images)), 1)]
    held_out = {images[index] for index in chosen}
    test = [answer for answer in answers if _image(answer) in held_out]
    texts = {spelling(answer.text) for answer in test}
    others = [answer for answer in answers if _image(answer) not in held_out]
    return Split(
        learn=[answer for answer in others if spelling(answer.text) not in texts],
        test=test,
        dropped=[answer for answer in others if spelling(answer.text) in texts],
    )


def spelling(text: str) -> str:
    """A text without case, punctuation and runs of blanks: students from scratch see no case."""
    return " ".join(_WORD.findall(text.casefold())) or text


def _image(answer: StoredAnswer) -> tuple[str, str]:
    return ("image", answer.image) if answer.image is not None else ("text", answer.text)
