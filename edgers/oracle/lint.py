"""The linter of rules: which are never reached, and which could be left out.

Whether a rule is ever the first to match is decided for all texts, not tried on some. A word that stands
where no pattern asks for it is as good as any other such word; so a few words make all texts that matter:
those of the rule, those of exceptions that take a text back from an earlier rule, and one of no pattern.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Literal

from edgers.oracle.automaton import Product, State
from edgers.oracle.pattern import STAR, Pattern, spelled
from edgers.oracle.rules import Rule, Rules
from edgers_engines import oracle_record
from edgers_engines.records import Record

MAX_STEPS = 200_000  # of automata, for one question about one rule: less than a second

Status = Literal["reachable", "redundant", "unreachable", "undecided"]
Link = tuple["Link", str] | None  # a text: all of it but its last word, then that


class Finding(Record, frozen=True, kw_only=True):
    """What is known about one rule; `number` counts from 1.

    `status` says what becomes of its texts. unreachable: each is taken by the earlier rules `taken_by`, or by
    the rule's own exceptions. redundant: without the rule, each would get the same class from later ones.
    undecided: the search for a text that reaches it was given up. reachable: `example` does, and no more is
    known.
    """

    number: int
    pattern: str
    label: str
    status: Status
    example: str | None = None
    taken_by: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()


class Findings(Record, frozen=True, kw_only=True):
    """What the linter found in one oracle."""

    oracle: str
    rules: tuple[Finding, ...]

    @property
    def unreachable(self) -> tuple[Finding, ...]:
        """The rules that no text reaches."""
        return tuple(finding for finding in self.rules if finding.status == "unreachable")

    @property
    def never_given(self) -> tuple[str, ...]:
        """The classes all of whose rules are unreachable."""
        given = {finding.label for finding in self.rules if finding.status != "unreachable"}
        return tuple(dict.fromkeys(each.label for each in self.unreachable if each.label not in given))


class _UndecidedError(Exception):
    """A question took too many steps."""


class _Steps:
    """How many steps one question may still take."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def take(self, number: int) -> None:
        self._left -= number
        if self._left < 0:
            raise _UndecidedError


def lint(definition: oracle_record.Rules) -> Findings:
    """Look at every rule of an oracle.

    Raises:
        InputError: a class name is reserved.
    """
    rules = Rules(definition).rules
    known = {word for rule in rules for each in (rule.pattern, *rule.unless) for word in each.words}
    other = next(word for word in _plain_words() if word not in known)
    return Findings(
        oracle=definition.name, rules=tuple(_finding(rules, index, other) for index in range(len(rules)))
    )


def _plain_words() -> Iterator[str]:
    yield "something"
    yield from (f"something{number}" for number in count(2))


def _finding(rules: Sequence[Rule], index: int, other: str) -> Finding:
    rule = rules[index]
    example: str | None = None
    taken_by: tuple[int, ...] = ()
    try:
        example, taken_by = _reach(rules, index, other)
        status: Status = "unreachable" if example is None else "reachable"
    except _UndecidedError:
        status = "undecided"
    if example is not None and _is_redundant(rules, index, other):
        status = "redundant"
    return Finding(
        number=index + 1,
        pattern=rule.pattern.text,
        label=rule.label,
        status=status,
        example=example,
        taken_by=taken_by,
        remarks=tuple(_remarks(rule)),
    )


def _reach(rules: Sequence[Rule], index: int, other: str) -> tuple[str | None, tuple[int, ...]]:
    """A text of which the rule is the first that matches; or None, and the rules that take all its texts."""
    rule, before = rules[index], rules[:index]
    text = _typical(rule.pattern, other)
    if any(each.matches(text) for each in rule.unless):
        return None, ()
    for number, each in enumerate(before, 1):
        if not each.unless and each.matches(text):
            return None, (number,)
    if not any(each.matches(text) for each in before):
        return text.strip(), ()
    taken_by: set[int] = set()
    for takers, link in _texts([rule], before, other, _Steps()):
        if not takers:
            return _spelled_out(link), ()
        taken_by.add(takers[0] + 1)
    return None, tuple(sorted(taken_by))


def _typical(pattern: Pattern, other: str) -> str:
    """The text with an unknown word for each star: what matches it matches all texts of the pattern."""
    return spelled(other if part == STAR else part for part in pattern.parts)


def _is_redundant(rules: Sequence[Rule], index: int, other: str) -> bool:
    """Whether later rules give the rule's class to all texts that it decides; False where not decided."""
    rule, hindering, steps = rules[index], list(rules[:index]), _Steps()
    same = [at for at in range(index + 1, len(rules)) if rules[at].label == rule.label]
    if not same:
        return False
    try:
        for following in rules[index + 1 : same[-1] + 1]:
            if following.label == rule.label:
                hindering.append(following)
            elif _exists([rule, following], hindering, other, steps):
                return False
        return not _exists([rule], hindering, other, steps)
    except _UndecidedError:
        return False


def _exists(helping: Sequence[Rule], hindering: Sequence[Rule], other: str, steps: _Steps) -> bool:
    return any(not found for found, _ in _texts(helping, hindering, other, steps))


def _texts(
    helping: Sequence[Rule], hindering: Sequence[Rule], other: str, steps: _Steps
) -> Iterator[tuple[list[int], Link]]:
    """Breadth first, texts that all helping rules match; one that no hindering rule matches, if there is one.

    Yields:
        The positions of the hindering rules that match it too; and the text.

    Raises:
        _UndecidedError: it takes too many steps.
    """
    words = _words(helping, hindering, other, steps)
    near = [at for at, each in enumerate(hindering) if words.issuperset(each.pattern.words)]
    product = Product([*helping, *(hindering[at] for at in near)])
    start: tuple[State, Link] = product.start, None
    seen, queue = {product.start}, deque([start])
    while queue:
        state, text = queue.popleft()
        matching = product.matching(state)
        if all(matching[: len(helping)]):
            yield [at for at, on in zip(near, matching[len(helping) :], strict=True) if on], text
        for word in sorted(words):
            steps.take(len(state))
            after = product.step(state, word)
            if after not in seen and product.alive(after, len(helping)):
                seen.add(after)
                queue.append((after, (text, word)))


def _words(helping: Sequence[Rule], hindering: Sequence[Rule], other: str, steps: _Steps) -> set[str]:
    """The words that suffice for a text that all helping rules match and no hindering one, if there is any.

    Those of helping patterns, those of the exceptions of hindering rules whose patterns they can make, and
    `other`, a word of no pattern: put for a word that is none of these, it keeps all matches that help, and
    at most ends some that hinder.
    """
    words = {other, *(word for each in helping for word in each.pattern.words)}
    while True:
        steps.take(len(hindering))
        near = [each for each in hindering if words.issuperset(each.pattern.words)]
        more = {word for each in near for one in each.unless for word in one.words}
        if more <= words:
            return words
        words |= more


def _spelled_out(link: Link) -> str:
    words: list[str] = []
    while link is not None:
        link, word = link
        words.append(word)
    return " ".join(reversed(words))


def _remarks(rule: Rule) -> Iterator[str]:
    for pattern in (rule.pattern, *rule.unless):
        if not pattern.parts:
            yield f"{pattern.text!r} has no word: only texts without a word match it"
        elif not pattern.words:
            yield f"{pattern.text!r} matches every text"
        if any(STAR in piece for piece in pattern.text.split() if piece != STAR):
            yield f"in {pattern.text!r} a star touches a word and is left out: put blanks around it"
