"""Choices: the prefix tree that decoding is held to, the class that tokens lead to, and what is refused."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgers.demo import ACTIONS, PROMPT
from edgers.oracle.base import OTHER, RESERVED
from edgers.oracle.choices import MAX_CHOICES, Choices
from edgers_engines.errors import InputError
from edgers_engines.vlm import Answer, Question, Status

END = 0


@dataclass
class Letters:
    """A tokenizer that reads a letter as one token, without case, and cannot write '#'."""

    skips: str = "#"

    def answer(self, _prompt, text):
        return tuple(ord(letter) for letter in text.casefold() if letter not in self.skips)

    def decode(self, tokens):
        return "".join(map(chr, tokens))


def choices(*names):
    return Choices(names, "Which?", Letters(), END)


def tokens(text):
    return tuple(map(ord, text))


def letters(allowed):
    return {"END" if token == END else chr(token) for token in allowed}


def said(text):
    return Answer(tokens(text), text, Status.COMPLETE, 1.0)


# --- the prefix tree ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "so_far", "allowed"),
    [
        pytest.param(("left", "right"), "", {"l", "r"}, id="the root has every first token"),
        pytest.param(("left", "right"), "l", set(), id="one token determines the answer: stop early"),
        pytest.param(("left", "right"), "left", set(), id="a finished choice has no continuation"),
        pytest.param(("go in", "go up"), "", {"g"}, id="a shared first token is the only one allowed"),
        pytest.param(("go in", "go up"), "go ", {"i", "u"}, id="the tree branches after shared tokens"),
        pytest.param(("go in", "go up"), "go i", set(), id="determined after the branch"),
        pytest.param(("go", "gone"), "go", {"n", "END"}, id="the beginning of another ends by the end token"),
        pytest.param(("go", "gone"), "gon", set(), id="past the shorter one, the longer is determined"),
        pytest.param(("a", "ab", "abc"), "a", {"b", "END"}, id="three in one line"),
        pytest.param(("a", "ab", "abc"), "ab", {"c", "END"}, id="the middle of three in one line"),
        pytest.param(("left", "right"), "x", set(), id="off the tree nothing is allowed"),
    ],
)
def test_the_tokens_that_may_follow_are_those_of_the_choices_that_still_match(names, so_far, allowed):
    assert letters(choices(*names).allowed(tokens(so_far))) == allowed


def walk(oracle, target):
    """The tokens of an answer that follows `target` wherever the tree leaves a choice."""
    written = ()
    while allowed := oracle.allowed(written):
        following = (*tokens(target), END)[len(written)]
        assert following in allowed
        if following == END:
            break
        written = (*written, following)
    return written


choice_lists = st.lists(st.text("ab", min_size=1, max_size=5), min_size=2, max_size=8, unique=True)


@settings(deadline=None)
@given(choice_lists)
def test_every_choice_can_be_reached_and_is_told_from_the_others(chosen):
    oracle = choices(*chosen)
    for name in chosen:
        written = walk(oracle, name)
        assert oracle.classify([Answer(written, "", Status.COMPLETE, 1.0)]) == [name]
        assert len(written) <= oracle.max_new_tokens - 1


@settings(deadline=None)
@given(choice_lists, st.randoms(use_true_random=False))
def test_every_walk_through_the_tree_ends_at_a_choice(chosen, random):
    oracle, written = choices(*chosen), ()
    while allowed := oracle.allowed(written):
        following = random.choice(allowed)
        if following == END:
            break
        written = (*written, following)
    assert oracle.classify([Answer(written, "", Status.COMPLETE, 1.0)])[0] in chosen


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        pytest.param(("left", "right"), "left", "left", id="the whole choice"),
        pytest.param(("left", "right"), "l", "left", id="a determined beginning"),
        pytest.param(("go", "gone"), "go", "go", id="a choice that begins another, ended by the end token"),
        pytest.param(("go in", "go up"), "go", OTHER, id="an undetermined beginning"),
        pytest.param(("left", "right"), "", OTHER, id="nothing at all"),
        pytest.param(("left", "right"), "stop", OTHER, id="a text off the tree"),
        pytest.param(("left", "right"), "lefts", OTHER, id="more than the choice"),
    ],
)
def test_an_answer_is_the_choice_its_tokens_are_or_lead_to(names, text, expected):
    assert choices(*names).classify([said(text)]) == [expected]


def test_answers_keep_their_order():
    oracle = choices("left", "right", "stop")
    assert oracle.classify([said("stop"), said("left"), said("x"), said("right")]) == [
        "stop",
        "left",
        OTHER,
        "right",
    ]


@pytest.mark.parametrize(("names", "longest"), [(("left", "right"), 6), (("go", "gone"), 5), (("a", "b"), 2)])
def test_the_longest_choice_and_its_end_token_fit_into_an_answer(names, longest):
    assert choices(*names).max_new_tokens == longest


def test_the_oracle_is_its_own_constraint():
    oracle = choices("left", "right")
    assert oracle.constraint is oracle


# --- the record ---------------------------------------------------------------------------------------------


def test_the_record_keeps_the_choices_as_they_were_given():
    record = choices("Left", "right", "STOP").record
    assert (record.kind, record.name, record.classes) == ("choices", "choices", ("Left", "right", "STOP"))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        pytest.param(("left", "right"), ("left", "right"), True, id="the same choices"),
        pytest.param(("left", "right"), ("right", "left"), False, id="another order: ties go to the first"),
        pytest.param(("left", "right"), ("left", "right", "stop"), False, id="one choice more"),
        pytest.param(("left", "right"), ("Left", "right"), False, id="another case: another class name"),
        pytest.param(("ab", "c"), ("a", "bc"), False, id="the same letters, cut elsewhere"),
    ],
)
def test_digests_are_equal_exactly_when_the_choices_are(one, other, equal):
    assert (choices(*one).record.sha256 == choices(*other).record.sha256) == equal


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        pytest.param((), "choices given: 0; give between 2 and 1000", id="none"),
        pytest.param(("left",), "choices given: 1; give between 2 and 1000", id="only one"),
        pytest.param(tuple(f"c{i}" for i in range(1001)), "choices given: 1001", id="1001"),
        pytest.param(("left", "left"), "'left' is named twice", id="a repeat"),
        pytest.param(("a", "b", "a", "b"), "'a' is named twice", id="two repeats: the first is named"),
        pytest.param(("left", "LEFT"), "cannot tell 'LEFT' from 'left'", id="the same tokens in other case"),
        pytest.param(("left", ""), "a class has no name", id="empty"),
        pytest.param(("left", " \t"), "a class has no name", id="blanks"),
        pytest.param(("left", "a\x1b[2Jb"), "cannot name a class", id="a terminal escape"),
        pytest.param(("left", "a\nb"), "cannot name a class", id="a line break"),
        *(
            pytest.param(("left", name), f"'{name}' cannot name a class: OTHER", id=f"the reserved {name}")
            for name in RESERVED
        ),
        pytest.param(("left", "ri#ght"), "cannot write the choice 'ri#ght'", id="a letter it cannot write"),
        pytest.param(("left", "##"), "cannot write the choice '##'", id="nothing it can write"),
    ],
)
def test_choices_that_cannot_be_told_apart_or_written_are_refused(names, reason):
    with pytest.raises(InputError, match=re.escape(reason)):
        choices(*names)


def test_one_text_is_not_taken_for_a_sequence_of_letters():
    with pytest.raises(InputError, match="not one text: 'left'"):
        Choices("left", "Which?", Letters(), END)


def test_a_thousand_choices_are_accepted_and_told_apart():
    oracle = choices(*(f"choice {i:03}" for i in range(MAX_CHOICES)))
    assert oracle.classify([said("choice 123"), said("choice 999")]) == ["choice 123", "choice 999"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        pytest.param(("left", "zzgrmpf"), "cannot write the choice 'zzgrmpf'", id="a word it does not know"),
        pytest.param(("left", "left zzgrmpf"), "cannot write the choice", id="a known and an unknown word"),
        pytest.param(("left", "</s>"), "cannot write the choice '</s>'", id="the end token's text"),
        pytest.param(("left", "<image>"), "cannot write the choice '<image>'", id="the image token's text"),
        pytest.param(("left", "Left"), "cannot tell 'Left' from 'left'", id="the same word in other case"),
        pytest.param(("left", "x" * 10**6), "a choice has 1000000 characters", id="a million characters"),
    ],
)
def test_the_demo_tokenizer_refuses_what_it_cannot_write(demo_model, names, reason):
    with pytest.raises(InputError, match=re.escape(reason)):
        Choices(names, PROMPT, demo_model.prompts, 2)


def test_a_choice_with_a_lone_surrogate_is_refused(demo_model):
    with pytest.raises(InputError, match=r"not valid Unicode|cannot name a class"):
        Choices(("left", "\ud800"), PROMPT, demo_model.prompts, 2)


# --- held to the tree, the model cannot say anything else ---------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(ACTIONS, id="words of their own"),
        pytest.param(("left", "left right", "left stop"), id="one begins the others"),
        pytest.param(("stop stop stop", "stop stop", "stop"), id="nothing but beginnings"),
    ],
)
def test_the_model_answers_with_a_choice_whatever_it_sees(demo_model, names):
    end_token = demo_model.bundle.manifest.decoding.end_tokens[0]
    oracle = Choices(names, PROMPT, demo_model.prompts, end_token)
    question = Question(
        demo_model,
        PROMPT,
        rows=8,
        constraint=oracle.constraint,
        guard=False,
        max_new_tokens=oracle.max_new_tokens,
    )
    size = demo_model.bundle.manifest.preparation.canvas_size
    answers = question.answers(np.random.default_rng(1).uniform(size=(8, 3, *size)).astype(np.float32))
    assert {answer.status for answer in answers} == {Status.COMPLETE}
    assert set(oracle.classify(answers)) <= set(names)
