"""An oracle that keeps what was answered: for benchmarks that compare tokens with another program's."""

from __future__ import annotations

from collections.abc import Sequence

from edgers.oracle.base import OTHER
from edgers.oracle.choices import choices_record
from edgers_engines.vlm import Answer

Tokens = list[tuple[int, ...]]


class Recorder:
    """Keeps every answer's tokens, in free text of one length at most, and calls all of them OTHER."""

    record = choices_record(("none",))
    constraint = failure = None

    def __init__(self, max_new_tokens: int) -> None:
        self.max_new_tokens = max_new_tokens
        self.tokens: Tokens = []

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """Keep the tokens."""
        self.tokens += [answer.tokens for answer in answers]
        return [OTHER] * len(answers)
