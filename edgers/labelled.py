"""Texts that a teacher labelled: read, counted, and split so that nothing learned is tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgers_engines.errors import InputError
from edgers_engines.files import read_regular
from edgers_engines.records import Record, parse

MAX_BYTES = 256 << 20


class LabelledText(Record, frozen=True, kw_only=True):
    """One line of a teacher's file: a text, its class, the image it answers about, and what kind it is."""

    text: str
    label: str
    image: str | None = None
    kind: str | None = None


def read_labelled(path: Path) -> list[LabelledText]:
    """The lines of a JSONL file.

    Raises:
        InputError: it cannot be read, or a line is not one; names the line.
    """
    try:
        lines = read_regular(path, MAX_BYTES).splitlines()
    except OSError as error:
        raise InputError(f"cannot read the labelled texts {str(path)!r}: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(parse(line, LabelledText))
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
    return found


def disagreements(rows: Sequence[LabelledText]) -> list[str]:
    """Texts that have more than one label."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row.text, set()).add(row.label)
    return [text for text, found in labels.items() if len(found) > 1]


def split(
    rows: Sequence[LabelledText], share: float, seed: int
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Rows to learn from, and rows to test on: no image is in both, and no text.

    Whole images are held out; a row without one stands for itself. Of what is left, rows with a held-out text
    are dropped.

    Args:
        rows: any order.
        share: of the images that is held out, in (0, 1).
        seed: of the choice.

    Returns:
        To learn, to test.
    """
    images = list(dict.fromkeys(_image(row) for row in rows))
    chosen = np.random.default_rng(seed).permutation(len(images))[: max(round(share * len(images)), 1)]
    held_out = {images[index] for index in chosen}
    test = [row for row in rows if _image(row) in held_out]
    texts = {row.text for row in test}
    return [row for row in rows if _image(row) not in held_out and row.text not in texts], test


def confusions(wanted: Sequence[str], found: Sequence[str]) -> Counter[tuple[str, str]]:
    """How often the teacher said one class and the student another, or the same."""
    return Counter(zip(wanted, found, strict=True))


def _image(row: LabelledText) -> tuple[str, str]:
    return ("image", row.image) if row.image is not None else ("text", row.text)
