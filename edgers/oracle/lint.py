"""The linter of rules: which are never reached, and which could be left out.

Whether a rule is ever the first to match is decided for all texts, not tried on some. A word that stands
where no pattern asks for it is as good as any other such word; so a few words make all texts that matter:
those of the rule, those of exceptions that take a text back from an earlier rule, and one of no pattern.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from typing import Literal

from edgers.oracle.automaton import Product, State
from edgers.oracle.pattern import STAR, Pattern, spelled
from edgers.oracle.rules import Rule, Rules
from edgers_engines import manifest
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
    """A search took too many steps."""


def lint(definition: manifest.Rules) -> Findings:
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
    words = _words(rule, before, (), other)
    rivals = [number for number, each in enumerate(before, 1) if words.issuperset(each.pattern.words)]
    taken_by: set[int] = set()
    for (matches, *earlier), link in _texts([rule, *(before[number - 1] for number in rivals)], words):
        if matches and not any(earlier):
            return _spelled_out(link), ()
        if matches:
            taken_by.add(rivals[earlier.index(True)])
    return None, tuple(sorted(taken_by))


def _is_redundant(rules: Sequence[Rule], index: int, other: str) -> bool:
    """Whether later rules give the rule's class to all texts that it decides; False where not decided."""
    rule, before = rules[index], rules[:index]
    same = [at for at in range(index + 1, len(rules)) if rules[at].label == rule.label]
    if not same:
        return False
    after = rules[index + 1 : same[-1] + 1]  # what none of these matches gets another class in any case
    text = _typical(rule.pattern, other)
    decided = not any(each.matches(text) for each in before)
    if decided and _label(after, [each.matches(text) for each in after]) != rule.label:
        return False
    try:
        return _follows(rule, before, after, other)
    except _UndecidedError:
        return False


def _follows(rule: Rule, before: Sequence[Rule], after: Sequence[Rule], other: str) -> bool:
    same = [each for each in after if each.label == rule.label]
    words = _words(rule, [*before, *same], [each for each in after if each.label != rule.label], other)
    before, after = (
        [each for each in some if words.issuperset(each.pattern.words)] for some in (before, after)
    )
    for (matches, *others), _ in _texts([rule, *before, *after], words):
        earlier, later = others[: len(before)], others[len(before) :]
        if matches and not any(earlier) and _label(after, later) != rule.label:
            return False
    return True


def _label(rules: Sequence[Rule], matching: Sequence[bool]) -> str | None:
    return next((rule.label for rule, matches in zip(rules, matching, strict=True) if matches), None)


def _typical(pattern: Pattern, other: str) -> str:
    """The text with an unknown word for each star: what matches it matches all texts of the pattern."""
    return spelled(other if part == STAR else part for part in pattern.parts)


def _words(rule: Rule, hindering: Collection[Rule], helping: Collection[Rule], other: str) -> set[str]:
    """The words out of which a text can be made, if there is any, that meets a question about a rule.

    Args:
        rule: must match.
        hindering: must not match; their exceptions help.
        helping: may have to match; their exceptions hinder.
        other: a word of no pattern. Put for each word that is not of the result, it changes no match of what
            helps, and only ends matches of what hinders.
    """
    words = {other, *rule.pattern.words, *(word for each in helping for word in each.pattern.words)}
    while True:
        matching = [each for each in hindering if words.issuperset(each.pattern.words)]
        more = {word for each in matching for one in each.unless for word in one.words}
        if more <= words:
            return words
        words |= more


def _texts(rules: Sequence[Rule], words: Collection[str]) -> Iterator[tuple[list[bool], Link]]:
    """Breadth first, a text for each way in which texts over some words can stand to some rules.

    Texts that can no longer become one of the first rule's pattern are left out.

    Yields:
        For each rule, whether it matches; and the text.

    Raises:
        _UndecidedError: it takes more than MAX_STEPS.
    """
    product, alphabet, steps = Product(rules), sorted(words), 0
    start: tuple[State, Link] = product.start, None
    seen, queue = {product.start}, deque([start])
    while queue:
        state, text = queue.popleft()
        yield product.matching(state), text
        for word in alphabet:
            steps += len(state)
            if steps > MAX_STEPS:
                raise _UndecidedError
            after = product.step(state, word)
            if after[0] and after not in seen:
                seen.add(after)
                queue.append((after, (text, word)))


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
