"""A small student: texts that begin with the word of an action, which is their class."""

from __future__ import annotations

import random

from edgers import demo
from edgers_export.student import Student, train_from_scratch

REASONS = [
    f"{what} {does} {where}."
    for what in ("a box", "a cone", "a person", "nothing", "a door")
    for does in ("blocks", "stands in", "leaves free", "is far from")
    for where in ("the way", "the left lane", "the right lane", "the middle")
]


def labelled_texts(seed: int = 0) -> list[tuple[str, str]]:
    """Texts and labels, shuffled: 80 for each action."""
    rows = [(f"{action}, {reason}", action) for action in demo.ACTIONS for reason in REASONS]
    random.Random(seed).shuffle(rows)  # noqa: S311  nothing is secret here
    return rows


def train(epochs: int = 6) -> Student:
    """A student of three quarters of them."""
    texts, labels = zip(*labelled_texts()[:240], strict=True)
    return train_from_scratch(texts, labels, epochs=epochs)
