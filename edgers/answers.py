"""Answers on disk, one JSON object a line: texts, and what is known about each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from edgers_engines.errors import InputError
from edgers_engines.fields import NonNegative
from edgers_engines.files import read_regular
from edgers_engines.records import Record, parse

MAX_BYTES = 256 << 20


class StoredAnswer(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One answer.

    Attributes:
        text: as it was generated.
        label: the class that a teacher, or a person, gives it.
        image: what it answers about; rows with the same image are not independent.
        prompt: the question.
        sigma: the noise on the image.
        kind: what sort of text it is, for those who count them apart.
        detour: whether decoding was kept from some tokens, so that a model would not say this by itself.
        failed: whether the model gave numbers that are not finite; it counts against every class.
    """

    text: str
    label: str | None = None
    image: str | None = None
    prompt: str | None = None
    sigma: NonNegative | None = None
    kind: str | None = None
    detour: bool = False
    failed: bool = False


def read_answers(paths: Iterable[Path]) -> list[StoredAnswer]:
    """The lines of JSONL files.

    Raises:
        InputError: one cannot be read, or a line is no answer; names the line.
    """
    return [answer for path in paths for answer in _read(path)]


def write_answers(path: Path, answers: Iterable[StoredAnswer]) -> Iterator[StoredAnswer]:
    """Append each answer to a file as soon as it is there, and hand it on: what was made is not lost."""
    for answer in answers:
        with path.open("ab") as file:  # only now: where nothing comes, nothing is left behind
            file.write(msgspec.json.encode(answer) + b"\n")
        yield answer


def disagreements(answers: Sequence[StoredAnswer]) -> list[str]:
    """Texts that have more than one label."""
    labels: dict[str, set[str | None]] = {}
    for answer in answers:
        labels.setdefault(answer.text, set()).add(answer.label)
    return [text for text, found in labels.items() if len(found) > 1]


def _read(path: Path) -> Iterator[StoredAnswer]:
    try:
        lines = read_regular(path, MAX_BYTES).splitlines()
    except OSError as error:
        raise InputError(f"cannot read the answers {str(path)!r}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield parse(line, StoredAnswer)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
