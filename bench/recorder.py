"""Oracles for benchmarks of random weights, whose tokens spell no text: one keeps them, one counts them."""

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


class FirstToken:
    """Two classes of free text: which half of the vocabulary the first token is of."""

    record = choices_record(("low", "high"))
    constraint = None
    failure = None

    def __init__(self, max_new_tokens: int, vocabulary: int) -> None:
        self.max_new_tokens, self._half = max_new_tokens, vocabulary // 2

    def of_tokens(self, tokens: Sequence[int]) -> str:
        """The class of one answer."""
        return self.record.classes[tokens[0] >= self._half]

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """The class of each answer."""
        return [self.of_tokens(answer.tokens) for answer in answers]
