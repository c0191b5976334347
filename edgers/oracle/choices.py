"""Choices: the answer is one of a few given texts, and decoding cannot leave their prefix tree."""

from __future__ import annotations

from collections.abc import Sequence

from edgers.oracle.base import OTHER, OracleRecord, check_classes, digest
from edgers_engines.errors import InputError
from edgers_engines.prompt import PromptEncoder
from edgers_engines.vlm import Answer, Constraint

MAX_CHOICES = 1000


class Choices:
    """An oracle and a constraint in one: each choice is a class.

    Args:
        names: the allowed answers.
        prompt: the prompt they answer; a tokenizer may join an answer's first letter to what stands before.
        prompts: the bundle's prompt encoder.
        end_token: closes a choice that is the beginning of another.

    Raises:
        InputError: fewer than two choices, a name that repeats or is reserved, or names that the tokenizer
            cannot write or cannot tell apart.
    """

    failure = None

    def __init__(self, names: Sequence[str], prompt: str, prompts: PromptEncoder, end_token: int) -> None:
        if isinstance(names, str):
            raise InputError(f"choices are a sequence of texts, not one text: {names!r}")
        if not isinstance(names, Sequence):
            raise InputError(f"choices are a sequence of texts, not a {type(names).__name__}")
        if not 2 <= len(names) <= MAX_CHOICES:
            raise InputError(
                f"choices given: {len(names)}; give between 2 and {MAX_CHOICES}, as in left,right"
            )
        check_classes(names)
        self._names: dict[tuple[int, ...], str] = {}
        for name in names:
            tokens = prompts.answer(prompt, name)
            if _letters(prompts.decode(tokens)) != _letters(name):
                raise InputError(
                    f"the model's tokenizer cannot write the choice {name!r} (it reads back as "
                    f"{prompts.decode(tokens)!r}): choose words the model knows"
                )
            if tokens in self._names:
                raise InputError(f"the tokenizer cannot tell {name!r} from {self._names[tokens]!r}")
            self._names[tokens] = name
        self._end_token = end_token
        self._next: dict[tuple[int, ...], tuple[int, ...]] = {}

    @property
    def record(self) -> OracleRecord:
        """The choices in the order given."""
        return choices_record(tuple(self._names.values()))

    @property
    def tokens(self) -> tuple[tuple[int, ...], ...]:
        """What each choice is written with, in the order given."""
        return tuple(self._names)

    @property
    def constraint(self) -> Constraint:
        """Itself."""
        return self

    @property
    def max_new_tokens(self) -> int:
        """The longest choice, and the end token behind one that begins another."""
        return max(map(len, self._names)) + 1

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """The choice that each answer's tokens are, or lead to; OTHER should there be none."""
        return [self._classify(answer.tokens) for answer in answers]

    def _classify(self, tokens: tuple[int, ...]) -> str:
        if tokens in self._names:
            return self._names[tokens]
        matching = self._matching(tokens)
        return self._names[matching[0]] if len(matching) == 1 else OTHER

    def allowed(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The prefix tree: tokens that may follow; none once a single choice is left."""
        if tokens not in self._next:
            self._next[tokens] = self._following(tokens)
        return self._next[tokens]

    def _following(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        matching = self._matching(tokens)
        if len(matching) <= 1:
            return ()
        return tuple(sorted({(*choice, self._end_token)[len(tokens)] for choice in matching}))

    def _matching(self, tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [choice for choice in self._names if choice[: len(tokens)] == tokens]


def choices_record(names: tuple[str, ...]) -> OracleRecord:
    """The record of an oracle with these choices; it follows from them alone."""
    return OracleRecord(kind="choices", name="choices", classes=names, sha256=digest(["choices", *names]))


def _letters(text: str) -> str:
    return "".join(text.casefold().split())
