"""When a class is settled: rules need an answer only up to the word from which on nothing can change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgers.oracle.automaton import Product
from edgers.oracle.base import Freezing, Oracle
from edgers.oracle.pattern import words_of
from edgers.oracle.rules import Rule, Rules

MAX_PATTERNS = 100  # of more, following them word by word would cost more than the words that are saved
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a character is written as until all its bytes are there


def settled_by(oracle: Oracle | Freezing) -> Callable[[str], bool] | None:
    """What says of an answer's beginning whether its class is settled; None where only its end tells.

    It is for rules that read the answer itself, unless they are too many to follow.
    """
    if not isinstance(oracle, Rules) or not oracle.reads_text:
        return None
    patterns = sum(1 + len(rule.unless) for rule in oracle.rules)
    return Settled(oracle.rules) if patterns <= MAX_PATTERNS else None


class Settled:
    """Whether all texts that begin like this one have one class."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._product = Product(rules)

    def __call__(self, text: str) -> bool:
        """Whether no continuation changes the class.

        A word at the end may still grow, so it does not count yet; nor does one before a character of which
        bytes are missing.

        Args:
            text: what an answer begins with; see `PromptEncoder.beginning`.
        """
        words = words_of(text)
        if words and (text.endswith(_INCOMPLETE) or words_of(text[-1])):
            del words[-1]
        state = self._product.start
        for word in words:
            state = self._product.step(state, word)
        # The first rule that can still match decides, if it matches for good; if none can, it is OTHER.
        return next((sure for sure in self._product.fates(state) if sure is not False), True) is True
