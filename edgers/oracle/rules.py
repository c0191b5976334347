"""Rules: ordered patterns of words; the first that matches names the class, else OTHER.

A pattern is words separated by blanks, compared without case or punctuation; `*` stands for any number of
words, none included. "left *" matches answers that begin with the word left. There are no regular
expressions: a bundle is data from elsewhere, and a pattern must not be able to run forever.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgers.oracle.base import OTHER, OracleRecord, check_classes, digest
from edgers_engines import manifest
from edgers_engines.vlm import Answer

_WORD = re.compile(r"\w+")
_ANY = "*"


class Rules:
    """An oracle out of a bundle's rules, for free text.

    Raises:
        InputError: a class name is reserved.
    """

    constraint = None
    max_new_tokens = None
    failure = None

    def __init__(self, rules: manifest.Rules) -> None:
        classes = tuple(dict.fromkeys(rule.label for rule in rules.rules))
        check_classes(classes)
        self.record = OracleRecord(kind="rules", name=rules.name, classes=classes, sha256=digest(rules.rules))
        self._rules = [(_pattern(rule.pattern), rule.label) for rule in rules.rules]

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """The class of the first rule that matches each answer's text."""
        return self.classify_texts([answer.text for answer in answers])

    def classify_texts(self, texts: Sequence[str]) -> list[str]:
        """The class of each text."""
        return [self.classify_text(text) for text in texts]

    def classify_text(self, text: str) -> str:
        """The class of the first rule that matches, or OTHER."""
        words = _WORD.findall(text.casefold())
        return next((label for pattern, label in self._rules if matches(pattern, words)), OTHER)


def matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether the words are of the pattern; time grows with len(pattern) * len(words)."""
    reached = {0}
    for part in pattern:
        if part == _ANY:
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {i + 1 for i in reached if i < len(words) and words[i] == part}
        if not reached:
            return False
    return len(words) in reached


def _pattern(text: str) -> list[str]:
    return [
        part
        for piece in text.split()
        for part in ([_ANY] if piece == _ANY else _WORD.findall(piece.casefold()))
    ]
