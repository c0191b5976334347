"""Rules: ordered patterns of words; the first that matches names the class, else OTHER."""

from __future__ import annotations

from collections.abc import Sequence

from edgers.oracle.base import OTHER, OracleRecord, check_classes, digest
from edgers.oracle.json_field import read_field
from edgers.oracle.pattern import Pattern, spelled, words_of
from edgers_engines import oracle_record
from edgers_engines.vlm import Answer


class Rule:
    """A rule whose patterns are taken apart."""

    def __init__(self, rule: oracle_record.Rule) -> None:
        self.label = rule.label
        self.pattern = Pattern(rule.pattern)
        self.unless = tuple(map(Pattern, rule.unless))

    def matches(self, text: str) -> bool:
        """Whether its pattern matches a text, as `spelled` writes it, and none of its exceptions does."""
        return self.pattern.matches(text) and not any(each.matches(text) for each in self.unless)


class Rules:
    """An oracle out of a bundle's rules, for free text.

    Raises:
        InputError: a class name is reserved.
    """

    constraint = None
    max_new_tokens = None
    failure = None

    def __init__(self, rules: oracle_record.Rules) -> None:
        check_classes(rules.classes)
        self.record = OracleRecord(
            kind="rules", name=rules.name, classes=rules.classes, sha256=digest(_meaning(rules))
        )
        self.rules = tuple(map(Rule, rules.rules))
        self._field = rules.field

    @property
    def reads_text(self) -> bool:
        """Whether the rules read the answer itself, not a field of it."""
        return self._field is None

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """The class of the first rule that matches each answer's text."""
        return self.classify_texts([answer.text for answer in answers])

    def classify_texts(self, texts: Sequence[str]) -> list[str]:
        """The class of each text."""
        return [self.classify_text(text) for text in texts]

    def classify_text(self, text: str) -> str:
        """The class of the first rule that matches, or OTHER; so too where the field cannot be read."""
        read = text if self._field is None else read_field(text, self._field)
        if read is None:
            return OTHER
        words = spelled(words_of(read))
        return next((rule.label for rule in self.rules if rule.matches(words)), OTHER)


def _meaning(rules: oracle_record.Rules) -> object:
    """All that the labels follow from; for rules that read the whole answer it is their list, as ever."""
    return rules.rules if rules.field is None else {"field": rules.field, "rules": rules.rules}
