"""Rules: patterns of words against a slow reference, the order of rules, digests, hostile patterns."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgers.oracle.base import OTHER, RESERVED, label
from edgers.oracle.rules import Rules, matches
from edgers_engines import manifest
from edgers_engines.errors import InputError
from edgers_engines.vlm import Answer, Status


def rules(*pairs, name="test"):
    return Rules(
        manifest.Rules(name=name, rules=tuple(manifest.Rule(pattern=one, label=to) for one, to in pairs))
    )


def matches_text(pattern, text):
    return rules((pattern, "yes")).classify_text(text) == "yes"


# --- patterns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        pytest.param("left", "left", True, id="the word itself"),
        pytest.param("left", "left now", False, id="a word too many"),
        pytest.param("left", "leftover", False, id="words are whole"),
        pytest.param("left", "", False, id="no words"),
        pytest.param("left *", "left", True, id="a star stands for no word"),
        pytest.param("left *", "left , the way is clear .", True, id="a star stands for many words"),
        pytest.param("left *", "go left", False, id="the pattern begins where the text begins"),
        pytest.param("* left", "go left", True, id="a star in front"),
        pytest.param("* left", "left go", False, id="the pattern ends where the text ends"),
        pytest.param("* left *", "turn left now", True, id="stars on both sides"),
        pytest.param("* left *", "turn right now", False, id="the word is missing"),
        pytest.param("*", "", True, id="a star alone takes nothing"),
        pytest.param("*", "anything at all", True, id="a star alone takes everything"),
        pytest.param("* *", "", True, id="two stars take nothing"),
        pytest.param("a * b", "a b", True, id="nothing in between"),
        pytest.param("a * b", "a c b b", True, id="the last match counts"),
        pytest.param("a * b", "a c", False, id="the end is missing"),
        pytest.param("LEFT", "left", True, id="case of the pattern"),
        pytest.param("left", "LeFT", True, id="case of the text"),
        pytest.param("straße", "STRASSE", True, id="case folding of the pattern, not lower case"),
        pytest.param("strasse", "Straße", True, id="case folding of the text, not lower case"),
        pytest.param("don't stop", "Don't stop!", True, id="punctuation inside a word cuts both alike"),
        pytest.param("left, now", "left now", True, id="punctuation of the pattern"),
        pytest.param("left now", "left, now.", True, id="punctuation of the text"),
        pytest.param("left now", "  left \n now\t", True, id="blanks and line ends"),
        pytest.param("左", "左", True, id="other scripts"),
        pytest.param("a.c", "abc", False, id="no regular expressions: a dot"),
        pytest.param("[a-z]", "b", False, id="no regular expressions: a set"),
    ],
)
def test_a_pattern_is_compared_word_by_word(pattern, text, expected):
    assert matches_text(pattern, text) == expected


def slow_reference(pattern, words):
    """The same by backtracking, in one regular expression over words that end in a blank."""
    expression = "".join(r"(?:\w+ )*" if part == "*" else re.escape(part) + " " for part in pattern)
    return re.fullmatch(expression, "".join(word + " " for word in words)) is not None


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=6), st.lists(st.sampled_from(["a", "b"]), max_size=8)
)
def test_matching_agrees_with_a_slow_reference(pattern, words):
    assert matches(pattern, words) == slow_reference(pattern, words)


class Counted(list):
    """A list that counts how often an element of it is looked at."""

    looks = 0

    def __getitem__(self, index):
        self.looks += 1
        return super().__getitem__(index)


def test_a_hostile_pattern_looks_at_each_word_once_for_each_of_its_parts():
    pattern, words = ["*", "a"] * 50 + ["b"], Counted(["a"] * 2000)
    assert not matches(pattern, words)
    assert words.looks <= len(pattern) * len(words)


def test_a_hostile_pattern_on_a_long_text_comes_to_an_answer():
    assert not matches_text("* a " * 100 + "b", "a " * 5000)
    assert matches_text("* a " * 100 + "*", "a " * 5000)


# --- rules --------------------------------------------------------------------------------------------------


def test_the_first_rule_that_matches_names_the_class():
    oracle = rules(("left *", "first"), ("* now", "second"), ("*", "last"))
    texts = ("left now", "right now", "right", "left")
    assert [oracle.classify_text(text) for text in texts] == ["first", "second", "last", "first"]


def test_what_no_rule_matches_is_other():
    assert rules(("left *", "left"), ("right *", "right")).classify_text("stop here") == OTHER


def test_several_rules_may_name_one_class_and_it_is_listed_once():
    oracle = rules(("stop *", "halt"), ("go *", "go"), ("wait *", "halt"))
    assert oracle.record.classes == ("halt", "go")
    assert [oracle.classify_text(text) for text in ("wait", "stop", "go on")] == ["halt", "halt", "go"]


def test_free_text_is_not_constrained():
    oracle = rules(("*", "any"))
    assert oracle.constraint is None
    assert oracle.max_new_tokens is None


def test_answers_that_did_not_complete_are_labelled_without_asking_the_rules():
    answers = [
        Answer((), "left", Status.COMPLETE, 1.0),
        Answer((), "left", Status.FAILED, 1.0),
        Answer((), "right", Status.COMPLETE, 1.0),
        Answer((), "left", Status.UNDECIDED, 1.0),
    ]
    oracle = rules(("left *", "left"), ("right *", "right"))
    assert label(oracle, answers) == ["left", "FAILED", "right", "UNDECIDED"]


BASE = (("left *", "left"), ("right *", "right"))


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        pytest.param(BASE, True, id="the same rules"),
        pytest.param(BASE[::-1], False, id="another order"),
        pytest.param((("left *", "left"), ("right", "right")), False, id="another pattern"),
        pytest.param((("left *", "left"), ("right *", "Right")), False, id="another label"),
        pytest.param(BASE[:1], False, id="a rule less"),
        pytest.param((*BASE, BASE[0]), False, id="a rule twice"),
    ],
)
def test_digests_are_equal_exactly_when_the_rules_are(other, equal):
    assert (rules(*BASE).record.sha256 == rules(*other).record.sha256) == equal


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((name, f"'{name}' cannot name a class") for name in RESERVED),
        (" ", "a class has no name"),
        ("\t", "a class has no name"),
        ("a\x1b[2J", "cannot name a class"),
    ],
)
def test_a_class_that_is_reserved_blank_or_not_printable_is_refused(name, said):
    with pytest.raises(InputError, match=said):
        rules(("left *", "left"), ("*", name))


def test_every_oracle_of_the_demo_bundle_can_be_used(demo_bundle):
    for definition in demo_bundle.manifest.oracles:
        oracle = Rules(definition)
        assert oracle.record.name == definition.name
        assert oracle.classify_text("zzgrmpf") == OTHER
