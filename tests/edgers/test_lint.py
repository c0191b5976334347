"""The linter: every verdict against all short texts, what takes a rule's texts, what is given up, remarks."""

from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgers.oracle import lint as linter
from edgers.oracle.automaton import Automaton
from edgers.oracle.lint import lint
from edgers.oracle.pattern import Pattern, spelled
from edgers.oracle.rules import Rules
from edgers_engines import oracle_record
from edgers_engines.errors import InputError


def defined(*triples, field=None):
    """Rules (pattern, label) or (pattern, label, exceptions)."""
    return oracle_record.Rules(
        name="test",
        rules=tuple(
            oracle_record.Rule(pattern=pattern, label=label, unless=tuple(*unless))
            for pattern, label, *unless in triples
        ),
        field=field,
    )


def statuses(*triples):
    return [finding.status for finding in lint(defined(*triples)).rules]


# --- against all short texts --------------------------------------------------------------------------------

PATTERNS = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3).map(" ".join)
RULES = st.lists(
    st.tuples(PATTERNS, st.sampled_from("xy"), st.lists(PATTERNS, max_size=2)), min_size=1, max_size=4
)


@cache
def short_texts(longest=6):
    """All texts of up to so many words that are a, b or neither."""
    return [spelled(words) for length in range(longest + 1) for words in product("abc", repeat=length)]


def first_and_next(rules, text):
    """Which rule decides a text, if any; and the label that the text would get without it."""
    matching = [index for index, rule in enumerate(rules) if rule.matches(text)]
    following = rules[matching[1]].label if len(matching) > 1 else None
    return (matching[0] if matching else None), following


@settings(deadline=None, max_examples=150)
@given(RULES)
def test_every_verdict_is_that_of_all_short_texts(triples):
    definition = defined(*triples)
    rules = Rules(definition).rules
    decided = {text: first_and_next(rules, text) for text in short_texts()}
    for index, finding in enumerate(lint(definition).rules):
        reached = {label for first, label in decided.values() if first == index}
        if finding.status == "unreachable":
            assert not reached
        else:
            assert first_and_next(rules, spelled(finding.example.split()))[0] == index
            assert (finding.status == "redundant") == (reached == {finding.label})


@settings(deadline=None, max_examples=150)
@given(RULES)
def test_the_rules_that_are_named_take_all_texts_of_an_unreachable_one(triples):
    definition = defined(*triples)
    rules = Rules(definition).rules
    for finding in lint(definition).unreachable:
        takers = [rules[number - 1] for number in finding.taken_by]
        assert all(number < finding.number for number in finding.taken_by)
        for text in short_texts():
            if rules[finding.number - 1].matches(text):
                assert any(taker.matches(text) for taker in takers)


def short_patterns(longest=4):
    """All patterns of up to so many parts."""
    return [
        Pattern(" ".join(parts)) for length in range(longest + 1) for parts in product("ab*", repeat=length)
    ]


def test_an_automaton_accepts_what_its_pattern_matches():
    for pattern in short_patterns():
        automaton, states = Automaton(pattern), {" ": 1}
        for text in short_texts(5):
            if words := text.split():
                states[text] = automaton.step(states[spelled(words[:-1])], words[-1])
            assert automaton.accepts(states[text]) == pattern.matches(text), (pattern.text, text)


def test_an_automaton_has_no_more_states_than_its_pattern_has_words_and_two():
    for pattern in short_patterns(6):
        automaton, states = Automaton(pattern), {1}
        while more := {automaton.step(state, word) for state in states for word in "abc"} - states:
            states |= more
        assert len(states) <= len(pattern.words) + 2, pattern.text


# --- verdicts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("triples", "taken_by"),
    [
        pytest.param([("*", "x"), ("left *", "y")], (1,), id="a rule that takes everything"),
        pytest.param([("left *", "x"), ("left now", "y")], (1,), id="a wider pattern"),
        pytest.param([("a", "x"), ("left", "x"), ("LEFT!", "y")], (2,), id="the same words"),
        pytest.param([("* b *", "x"), ("a * b * c", "y")], (1,), id="a word in the middle"),
        pytest.param([("* *", "x"), ("*", "y")], (1,), id="two stars are one"),
        pytest.param([("* b *", "x", ["* a *"]), ("* a *", "x"), ("b", "y")], (1,), id="no exception for it"),
        pytest.param([("* b *", "x", ["* a *"]), ("* a *", "x"), ("* b *", "y")], (1, 2), id="two together"),
        pytest.param(
            [("* a *", "x", ["* b *"]), ("* a * b *", "z"), ("* b * a *", "z"), ("* a *", "y")],
            (1, 2, 3),
            id="both orders of two words",
        ),
        pytest.param(
            [("* b *", "x", ["* a *"]), ("* b b *", "y", ["* a *"]), ("* a *", "y"), ("* b *", "z")],
            (1, 3),
            id="a rule that is itself taken takes nothing",
        ),
        pytest.param([("a *", "x", ["*"])], (), id="an exception for everything"),
        pytest.param([("a b", "x", ["a *"])], (), id="an exception that is wider"),
        pytest.param(
            [("a *", "x", ["a"]), ("a *", "y", ["a * b", "* c"]), ("a", "z", ["a"])], (), id="itself"
        ),
    ],
)
def test_a_rule_that_is_never_reached_is_found_with_those_that_take_its_texts(triples, taken_by):
    *_, last = lint(defined(*triples)).rules
    assert (last.status, last.example, last.taken_by) == ("unreachable", None, taken_by)


@pytest.mark.parametrize(
    ("triples", "example"),
    [
        pytest.param(
            [("left *", "x"), ("left", "x"), ("* left", "y")], "something left", id="a word in front"
        ),
        pytest.param(
            [("* harmful *", "x", ["* not harmful *"]), ("* harmful", "y")], "not harmful", id="negated"
        ),
        pytest.param(
            [("* a *", "x", ["* b *"]), ("* a * b *", "z"), ("* a *", "y")],
            "b a",
            id="one order of two words",
        ),
        pytest.param([("something *", "x"), ("* b", "y")], "something2 b", id="a word of no pattern"),
        pytest.param([("*", "x", ["!"]), ("*", "y")], "", id="the text without a word"),
        pytest.param([("!", "y")], "", id="a pattern without a word"),
    ],
)
def test_a_rule_that_is_reached_comes_with_a_text_that_does(triples, example):
    definition = defined(*triples)
    *_, last = lint(definition).rules
    assert (last.status, last.example) == ("reachable", example)
    assert Rules(definition).classify_text(example) == last.label


@pytest.mark.parametrize(
    ("triples", "expected"),
    [
        pytest.param([("left now", "x"), ("left *", "x")], "redundant", id="a wider one follows"),
        pytest.param([("left now", "x"), ("left *", "y")], "reachable", id="of another class"),
        pytest.param([("left now", "x"), ("left", "x")], "reachable", id="a narrower one follows"),
        pytest.param([("left now", "x"), ("* now", "y"), ("left *", "x")], "reachable", id="another between"),
        pytest.param(
            [("left now", "x"), ("right *", "y"), ("left *", "x")], "redundant", id="none of its texts"
        ),
        pytest.param([("left *", "x"), ("* now", "y"), ("left *", "x")], "reachable", id="one of its texts"),
        pytest.param([("a *", "x"), ("a *", "x", ["* b"])], "reachable", id="an exception"),
        pytest.param([("a *", "x"), ("a *", "x", ["* b"]), ("* b", "x")], "redundant", id="made good"),
        pytest.param([("a *", "x", ["* b"]), ("* b", "y"), ("a *", "x")], "redundant", id="between, in vain"),
    ],
)
def test_a_rule_is_redundant_when_its_class_follows_without_it(triples, expected):
    assert statuses(*triples)[0] == expected


def test_a_class_that_no_rule_can_give_is_named_once():
    findings = lint(defined(("a", "x"), ("*", "y"), ("b", "z"), ("c", "z"), ("c", "x"), ("d", "y")))
    assert findings.never_given == ("z",)
    assert [finding.number for finding in findings.unreachable] == [3, 4, 5, 6]


def test_a_reserved_class_is_refused():
    with pytest.raises(InputError, match="OTHER"):
        lint(defined(("*", "OTHER")))


def test_every_rule_of_the_demo_bundle_is_needed(demo_bundle):
    for definition in demo_bundle.manifest.rules:
        assert {finding.status for finding in lint(definition).rules} == {"reachable"}


# --- what takes too long ------------------------------------------------------------------------------------


def knot(size):
    """A last rule whose texts all are taken by the first, but for those that hold all of many words."""
    words = [f"w{index}" for index in range(size)]
    rules = [("* a *", "x", [f"* {word} *"]) for word in words]
    return (*rules, ("* a *", "y"))


def test_a_search_that_takes_too_long_is_given_up_and_said(monkeypatch):
    monkeypatch.setattr(linter, "MAX_STEPS", 5000)
    *_, last = lint(defined(*knot(8))).rules
    assert (last.status, last.example, last.taken_by) == ("undecided", None, ())


def test_the_same_search_is_decided_where_it_is_short():
    *_, last = lint(defined(*knot(4))).rules
    assert last.status == "reachable"
    assert set(last.example.split()) == {"a", "w0", "w1", "w2", "w3"}


def test_what_can_no_longer_become_a_text_of_the_rule_is_not_searched(monkeypatch):
    monkeypatch.setattr(linter, "MAX_STEPS", 5000)
    *rules, _ = knot(8)
    *_, last = lint(defined(*rules, ("a", "y"))).rules
    assert (last.status, last.taken_by) == ("unreachable", (1,))


def test_what_is_not_decided_is_never_called_redundant(monkeypatch):
    monkeypatch.setattr(linter, "MAX_STEPS", 1)
    assert statuses(("left now", "x"), ("left *", "x"), ("* a *", "y", ["b"])) == ["reachable"] * 3


def test_a_thousand_rules_are_looked_at():
    keywords = [(f"* word{index} *", "x" if index % 2 else "y") for index in range(500)]
    found = statuses(*keywords, *keywords)
    assert set(found[:499]) == {"reachable"}
    assert found[499] == "redundant"  # a text with any other word of the list is decided before
    assert set(found[500:]) == {"unreachable"}


# --- remarks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("triple", "remarks"),
    [
        (("left *", "x"), []),
        (("!?", "x"), ["'!?' has no word: only texts without a word match it"]),
        (("*", "x"), ["'*' matches every text"]),
        (("* *", "x"), ["'* *' matches every text"]),
        (("left*", "x"), ["in 'left*' a star touches a word and is left out: put blanks around it"]),
        (("left *", "x", ["*", "."]), ["'*' matches every text", "'.' has no word"]),
    ],
)
def test_patterns_that_are_hardly_meant_so_are_remarked_upon(triple, remarks):
    (finding,) = lint(defined(triple)).rules
    assert len(finding.remarks) == len(remarks)
    for said, expected in zip(finding.remarks, remarks, strict=True):
        assert said.startswith(expected)
