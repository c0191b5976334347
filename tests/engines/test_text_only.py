"""Prompts without an image: answered together or alone, each by itself."""

import numpy as np
import pytest
from msgspec.structs import replace

from edgers_engines.errors import InputError
from edgers_engines.text_only import TextQuestion
from edgers_engines.vlm import Status

PROMPTS = ["is a person in the way?", "is the door left or right?", "is a box in the way?"]


@pytest.fixture
def tokens(demo_model):
    encoded = [demo_model.prompts.suffix(prompt) for prompt in PROMPTS]
    assert len(set(map(len, encoded))) == 1
    return encoded


def test_a_prompt_is_answered_as_if_it_were_alone(demo_model, tokens):
    together = TextQuestion(demo_model, tokens).answers()
    alone = [TextQuestion(demo_model, [each]).answers()[0] for each in tokens]
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert len({answer.text for answer in together}) > 1, "equal answers would hide a mixed-up row"


def test_it_can_be_asked_twice(demo_model, tokens):
    question = TextQuestion(demo_model, tokens)
    assert question.answers() == question.answers()


def test_an_answer_ends_at_the_longest_that_is_asked_for(demo_model, tokens):
    assert [len(a.tokens) for a in TextQuestion(demo_model, tokens, max_new_tokens=2).answers()] == [2, 2, 2]


def test_the_margin_guard_is_on(demo_model, tokens, monkeypatch):
    manifest = demo_model.bundle.manifest
    wide = replace(manifest, decoding=replace(manifest.decoding, margin_tolerance=1e9))
    monkeypatch.setattr(demo_model.bundle, "manifest", wide)
    statuses = {answer.status for answer in TextQuestion(demo_model, tokens).answers()}
    assert statuses == {Status.UNDECIDED}


def test_numbers_that_are_not_finite_do_not_reach_the_next_answer(demo_model, tokens, monkeypatch):
    question = TextQuestion(demo_model, tokens)
    before = question.answers()
    real, shared = demo_model.decoder.run, len(demo_model.prompts.prefix)

    def poisoned(inputs, outputs):
        real(inputs, outputs)
        outputs.pop("logits")[:] = np.nan
        for array in outputs.values():
            array[:, :, shared:] = np.nan

    with monkeypatch.context() as broken:
        broken.setattr(demo_model.decoder, "run", poisoned)
        assert {answer.status for answer in question.answers()} == {Status.FAILED}
    assert question.answers() == before


@pytest.mark.parametrize("prompts", [[], [(1, 2), (1, 2, 3)]])
def test_prompts_of_different_lengths_and_none_are_refused(demo_model, prompts):
    with pytest.raises(InputError, match="prompts of one length are answered together"):
        TextQuestion(demo_model, prompts)


def test_a_prompt_too_long_for_the_model_is_refused(demo_model):
    with pytest.raises(InputError, match="shorten the prompt"):
        TextQuestion(demo_model, [(5,) * 1000])
