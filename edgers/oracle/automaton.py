"""Patterns as automata that read a text word by word; the linter runs several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from edgers.oracle.pattern import STAR, Pattern
from edgers.oracle.rules import Rule

State = tuple[int, ...]


class Automaton:
    """Which beginnings of a pattern the words so far are of, as a set of bits.

    Bit p of a state: the words so far can be taken for the pattern's first p words, with the stars between
    them. No bit: whatever follows, the text is not of the pattern.
    """

    def __init__(self, pattern: Pattern) -> None:
        self._end, self._stars = 0, 0
        self._words: dict[str, int] = {}
        for part in pattern.parts:
            if part == STAR:
                self._stars |= 1 << self._end
            else:
                self._words[part] = self._words.get(part, 0) | 1 << self._end
                self._end += 1

    def step(self, state: int, word: str) -> int:
        """The state after one more word."""
        after = (state & self._words.get(word, 0)) << 1 | state & self._stars
        if not (stars := after & self._stars):
            return after
        # What can follow before the last star that was reached can follow behind it as well: few states stay.
        last = stars.bit_length() - 1
        return after >> last << last

    def accepts(self, state: int) -> bool:
        """Whether the words so far are of the pattern."""
        return bool(state >> self._end & 1)

    def always_accepts(self, state: int) -> bool:
        """Whether all texts that begin with these words are of the pattern: its last star is reached."""
        return bool(state & self._stars & 1 << self._end)


class Product:
    """Rules that read the same text; a state has an entry for each of their patterns and exceptions."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._automata = [Automaton(each) for rule in rules for each in (rule.pattern, *rule.unless)]
        ends = tuple(accumulate(1 + len(rule.unless) for rule in rules))
        self._spans = tuple(zip((0, *ends), ends, strict=False))

    @property
    def start(self) -> State:
        """Before the first word."""
        return (1,) * len(self._automata)

    def step(self, state: State, word: str) -> State:
        """The state after one more word."""
        return tuple(each.step(bits, word) for each, bits in zip(self._automata, state, strict=True))

    def alive(self, state: State, rules: int) -> bool:
        """Whether the text can still become one of the pattern of each of the first so many rules."""
        return all(state[pattern] for pattern, _ in self._spans[:rules])

    def matching(self, state: State) -> list[bool]:
        """For each rule, whether it matches the words so far."""
        of = [each.accepts(bits) for each, bits in zip(self._automata, state, strict=True)]
        return [of[pattern] and not any(of[pattern + 1 : end]) for pattern, end in self._spans]

    def fates(self, state: State) -> list[bool | None]:
        """For each rule, whether it matches whatever follows; None where that depends on what follows."""
        always = [each.always_accepts(bits) for each, bits in zip(self._automata, state, strict=True)]
        fates: list[bool | None] = []
        for pattern, end in self._spans:
            if not state[pattern] or any(always[pattern + 1 : end]):
                fates.append(False)
            else:
                fates.append(True if always[pattern] and not any(state[pattern + 1 : end]) else None)
        return fates
