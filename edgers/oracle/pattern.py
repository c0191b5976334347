"""The language of rules: words, compared without case or punctuation, and stars.

A pattern is words separated by blanks; `*` stands for any number of words, none included. "left *" matches
texts that begin with the word left. There are no regular expressions: a bundle is data from elsewhere, and a
pattern must not be able to run forever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"\w+")
STAR = "*"


class Pattern:
    """A pattern, taken apart; `parts` are its words and stars in order, `words` the words alone."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts = tuple(
            part for piece in text.split() for part in ([STAR] if piece == STAR else words_of(piece))
        )
        self.words = tuple(part for part in self.parts if part != STAR)
        runs: list[list[str]] = [[]]
        for part in self.parts:
            if part == STAR:
                runs.append([])
            else:
                runs[-1].append(part)
        self._runs = tuple(map(spelled, runs))

    def matches(self, text: str) -> bool:
        """Whether a text is of the pattern.

        What stands between two stars is taken where it first occurs: if there is a match, there is one that
        does so. Time grows with len(pattern) * len(text) at most.

        Args:
            text: as `spelled` writes it.
        """
        first, *others = self._runs
        if not others:
            return text == first
        *middle, last = others
        if not text.startswith(first):
            return False
        at = len(first) - 1  # of the blank behind what is matched: the next word needs it too
        for run in middle:
            if (found := text.find(run, at)) < 0:
                return False
            at = found + len(run) - 1
        return text.endswith(last) and len(text) - len(last) >= at


def words_of(text: str) -> list[str]:
    """The words of a text, case folded."""
    return _WORD.findall(text.casefold())


def spelled(words: Iterable[str]) -> str:
    """The words, each with a blank on both sides."""
    return " ".join(("", *words, ""))
