"""Rules: patterns of words against a slow reference, exceptions, JSON fields, digests, hostile input."""

import json
import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgers.oracle.base import OTHER, RESERVED, label
from edgers.oracle.json_field import read_field
from edgers.oracle.pattern import Pattern, spelled
from edgers.oracle.rules import Rules
from edgers_engines import oracle_record
from edgers_engines.errors import InputError
from edgers_engines.records import dump, parse
from edgers_engines.vlm import Answer, Status


def rules(*triples, field=None):
    """An oracle of rules (pattern, label) or (pattern, label, exceptions)."""
    return Rules(
        oracle_record.Rules(
            name="test",
            rules=tuple(
                oracle_record.Rule(pattern=pattern, label=label, unless=tuple(*unless))
                for pattern, label, *unless in triples
            ),
            field=field,
        )
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
        pytest.param("a * a", "a", False, id="one word is not two"),
        pytest.param("a * a", "a a", True, id="two are"),
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


def test_matching_agrees_with_a_slow_reference_on_all_short_patterns_and_texts():
    texts = [words for length in range(6) for words in product("ab", repeat=length)]
    for parts in (parts for length in range(6) for parts in product("ab*", repeat=length)):
        pattern = Pattern(" ".join(parts))
        for words in texts:
            assert pattern.matches(spelled(words)) == slow_reference(parts, words), (parts, words)


def test_a_hostile_pattern_on_a_long_text_comes_to_an_answer():
    assert not matches_text("* a " * 200 + "b", "a " * 50_000)
    assert matches_text("* a " * 200 + "*", "a " * 50_000)


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


# --- exceptions ---------------------------------------------------------------------------------------------

REFUSALS = (
    ("* harmful *", "harmful", ("* not harmful *", "* isn't harmful *")),
    ("* not harmful *", "harmless"),
    ("* harmless *", "harmless"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is harmful.", "harmful"),
        ("HARMFUL!", "harmful"),
        ("This is not harmful.", "harmless"),
        ("Not harmful", "harmless"),
        ("It isn't harmful", OTHER),
        ("It isn\u2019t harmful", OTHER),
        ("harmless", "harmless"),
        ("not at all harmful", "harmful"),
        ("It is not harmful in itself; used so it is harmful.", "harmless"),
        ("", OTHER),
    ],
)
def test_an_exception_keeps_a_negation_from_being_read_as_what_it_denies(text, expected):
    assert rules(*REFUSALS).classify_text(text) == expected


def test_an_exception_is_of_its_own_rule_only():
    oracle = rules(("a *", "first", ["* b"]), ("* b", "second", ["* c *"]), ("*", "third"))
    assert oracle.classify_texts(["a x", "a b", "a c b", "a b c"]) == ["first", "second", "third", "first"]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "b"]), max_size=6),
)
def test_a_rule_matches_what_its_pattern_matches_and_no_exception(patterns, words):
    pattern, *unless = (" ".join(parts) for parts in patterns)
    expected = slow_reference(patterns[0], words) and not any(slow_reference(p, words) for p in patterns[1:])
    oracle = rules((pattern, "yes", unless))
    assert (oracle.classify_text(" ".join(words)) == "yes") == expected


# --- a field of JSON ----------------------------------------------------------------------------------------

ACTIONS = (("left *", "left"), ("right *", "right"), ("true", "yes"), ("*", "else"))
GOOD = '{"action": "left"}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(GOOD, "left", id="an object"),
        pytest.param(' \n{ "action" :\n"right" }\n', "right", id="blanks"),
        pytest.param(f"```json\n{GOOD}\n```", "left", id="a code block"),
        pytest.param(f"Certainly. I would choose: {GOOD} (right is blocked)", "left", id="prose around it"),
        pytest.param('{"why": "right is blocked", "action": "left"}', "left", id="another field"),
        pytest.param('{"action": "Left, now!"}', "left", id="the pattern language, in the value"),
        pytest.param(r'{"action": "l\u0065ft"}', "left", id="an escape"),
        pytest.param('{"why": "a } or { in a text", "action": "left"}', "left", id="braces in a text"),
        pytest.param(
            '{"why": ["no", {"action": "right"}], "action": "left"}', "left", id="the outermost one"
        ),
        pytest.param('{"p": 0.5, "n": -1, "none": null, "action": "left"}', "left", id="numbers beside it"),
        pytest.param('{"action": true}', "yes", id="true is a word"),
        pytest.param('{"action": false}', "else", id="false is a word"),
        pytest.param('{"action": ""}', "else", id="an empty text is a text"),
        pytest.param(f"[{GOOD}]", "left", id="the one object of a list"),
        pytest.param('{"x": 1e999, "action": "left"}', "left", id="a number beyond floats, elsewhere"),
        pytest.param('{"n": %s, "action": "left"}' % ("9" * 9_999), "left", id="a number of many digits"),
        pytest.param('{"why": "%s", "action": "left"}' % ("a" * 1_000_000), "left", id="a megabyte of text"),
        pytest.param('{"action": "left%s"}' % (" now" * 250_000), "left", id="a megabyte of value"),
        pytest.param("left", OTHER, id="no object"),
        pytest.param("", OTHER, id="nothing"),
        pytest.param('{"Action": "left"}', OTHER, id="a field of another case"),
        pytest.param('{"move": "left"}', OTHER, id="a missing field"),
        pytest.param('{"why": {"action": "left"}}', OTHER, id="the field further in"),
        pytest.param('{"action": 1}', OTHER, id="a number"),
        pytest.param('{"action": null}', OTHER, id="null"),
        pytest.param('{"action": ["left"]}', OTHER, id="a list"),
        pytest.param('{"action": {"is": "left"}}', OTHER, id="an object as value"),
        pytest.param('{"action": NaN}', OTHER, id="NaN"),
        pytest.param('{"p": NaN, "action": "left"}', OTHER, id="NaN elsewhere"),
        pytest.param('{"p": -Infinity, "action": "left"}', OTHER, id="Infinity elsewhere"),
        pytest.param(f"{GOOD} {GOOD}", OTHER, id="two objects that agree"),
        pytest.param(f'{GOOD}\n{{"action": "right"}}', OTHER, id="two objects"),
        pytest.param(f'[{GOOD}, {{"action": "right"}}]', OTHER, id="a list of two"),
        pytest.param(f'{GOOD}, {{"action": "ri', OTHER, id="a second object that is cut off"),
        pytest.param(f"in {{braces}}: {GOOD}", OTHER, id="braces before it"),
        pytest.param(f"{GOOD} }}", OTHER, id="a brace behind it"),
        pytest.param(f"}} {GOOD}", OTHER, id="a brace in front"),
        pytest.param('{"action": "left", "action": "right"}', OTHER, id="a key twice"),
        pytest.param('{"action": "left", "action": "left"}', OTHER, id="a key twice, alike"),
        pytest.param(r'{"action": "left", "\u0061ction": "right"}', OTHER, id="a key twice, once escaped"),
        pytest.param('{"x": {"a": 1, "a": 1}, "action": "left"}', OTHER, id="a key twice, further in"),
        pytest.param('{"action": "left"', OTHER, id="cut off"),
        pytest.param('"action": "left"}', OTHER, id="the beginning cut off"),
        pytest.param("{'action': 'left'}", OTHER, id="Python, not JSON"),
        pytest.param('{"action": "left",}', OTHER, id="a comma too many"),
        pytest.param('{"action": "left" /* sure */}', OTHER, id="a comment"),
        pytest.param('{"action": "left\n"}', OTHER, id="a line end inside a text"),
        pytest.param(r"{\"action\": \"left\"}", OTHER, id="escaped as a whole"),
        pytest.param(r'{"action": "left \ud800"}', OTHER, id="a lone surrogate, escaped"),
        pytest.param('{"action": "left \ud800"}', OTHER, id="a lone surrogate"),
        pytest.param('{"x": %s, "action": "left"}' % ("[" * 99 + "]" * 99), "left", id="nested 99 times"),
        pytest.param('{"x": %s, "action": "left"}' % ("[" * 100 + "]" * 100), OTHER, id="nested 100 times"),
        pytest.param('{"x": %s}' % ("[" * 10**6), OTHER, id="nested a million times"),
        pytest.param('{"a":' * 10**5 + "1" + "}" * 10**5, OTHER, id="objects in objects"),
        pytest.param("{" * 10**6, OTHER, id="a million braces"),
        pytest.param("{" + "} " * 10**6 + "{", OTHER, id="a million closing braces"),
    ],
)
def test_a_field_is_read_where_there_is_one_plain_object_and_nothing_is_guessed(text, expected):
    assert rules(*ACTIONS, field="action").classify_text(text) == expected


def test_rules_with_a_field_keep_to_it():
    oracle = rules(("left", "left"), field="action")
    assert oracle.classify_texts(["left", '{"why": "left"}', GOOD]) == [OTHER, OTHER, "left"]


@settings(deadline=None)
@given(st.text(), st.text(alphabet='{}"`: n'), st.text(alphabet='{}"`: n'))
def test_a_value_that_is_read_is_the_one_that_was_written(value, before, after):
    written = json.dumps({"x": value}, ensure_ascii=False)
    read = read_field(before + written + after, "x")
    assert read == (None if re.search("[{}]", before + after) else value)


# --- digests and bounds -------------------------------------------------------------------------------------

BASE = (("left *", "left"), ("right *", "right"))


@pytest.mark.parametrize(
    ("other", "field", "equal"),
    [
        pytest.param(BASE, None, True, id="the same rules"),
        pytest.param(tuple((*rule, ()) for rule in BASE), None, True, id="no exceptions, said so"),
        pytest.param(BASE[::-1], None, False, id="another order"),
        pytest.param((("left *", "left"), ("right", "right")), None, False, id="another pattern"),
        pytest.param((("left *", "left"), ("right *", "Right")), None, False, id="another label"),
        pytest.param(BASE[:1], None, False, id="a rule less"),
        pytest.param((*BASE, BASE[0]), None, False, id="a rule twice"),
        pytest.param((("left *", "left", ["* no"]), BASE[1]), None, False, id="an exception"),
        pytest.param(BASE, "action", False, id="a field"),
    ],
)
def test_digests_are_equal_exactly_when_the_rules_are(other, field, equal):
    assert (rules(*BASE).record.sha256 == rules(*other, field=field).record.sha256) == equal


def test_exceptions_and_fields_have_digests_of_their_own():
    made = [rules(*BASE, field=field).record.sha256 for field in (None, "action", "Action")] + [
        rules(("left *", "left", unless), BASE[1]).record.sha256
        for unless in (["a"], ["b"], ["a", "b"], ["b", "a"], ["a b"])
    ]
    assert len(set(made)) == len(made)


def test_rules_from_before_exceptions_and_fields_keep_their_digest(demo_bundle):
    digest = "e842cc6dff269f878ce3744dd3c92ff901cc8374ba713481c8c9b6d5e7fb2bc0"
    assert Rules(demo_bundle.manifest.oracles[0]).record.sha256 == digest


def test_what_is_not_used_is_not_written():
    text = b'{"kind":"rules","name":"a","rules":[{"pattern":"*","label":"x"}]}'
    found = parse(text, oracle_record.Rules)
    assert json.loads(dump(found)) == json.loads(text)
    assert parse(dump(found), oracle_record.Rules) == found


def definition(count=1, field=None, **rule):
    """JSON of rules that are all alike."""
    made = {"kind": "rules", "name": "a", "rules": [{"pattern": "*", "label": "x", **rule}] * count}
    return json.dumps(made | ({} if field is None else {"field": field})).encode()


@pytest.mark.parametrize(
    "text",
    [
        definition(count=1000),
        definition(pattern="a" * 1000),
        definition(unless=["a"] * 100),
        definition(count=100, pattern="a" * 1000),
        definition(count=10, pattern="a" * 100, unless=["a" * 990] * 10),
        definition(field="f" * 100),
    ],
)
def test_the_largest_rules_are_accepted(text):
    assert Rules(parse(text, oracle_record.Rules))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (definition(count=1001), "length <= 1000.*rules"),
        (definition(pattern="a" * 1001), "length <= 1000.*pattern"),
        (definition(pattern=""), "length >= 1.*pattern"),
        (definition(unless=["a"] * 101), "length <= 100.*unless"),
        (definition(unless=["a" * 1001]), "length <= 1000.*unless"),
        (definition(unless=[""]), "length >= 1.*unless"),
        (definition(unless="a"), "Expected `array`.*unless"),
        (definition(unless=[1]), "Expected `str`.*unless"),
        (definition(count=101, pattern="a" * 1000), "the patterns of a have 101000 letters"),
        (definition(count=11, pattern="a" * 100, unless=["a" * 990] * 10), "have 110000 letters"),
        (definition(field=""), "length >= 1.*field"),
        (definition(field="f" * 101), "length <= 100.*field"),
        (definition(field=1), "Expected `str.*field"),
    ],
)
def test_rules_beyond_the_bounds_are_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse(text, oracle_record.Rules)


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
    for definition in demo_bundle.manifest.rules:
        oracle = Rules(definition)
        assert oracle.record.name == definition.name
        assert oracle.classify_text("zzgrmpf") == OTHER
