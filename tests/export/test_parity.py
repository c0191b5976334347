"""ONNX Runtime against PyTorch: the graphs are the same model."""

from __future__ import annotations

import numpy as np
import pytest

from edgers_engines.self_test import POISON
from edgers_engines.vlm import Question, VisionLanguageModel
from edgers_export.parity import compare
from tests.conftest import CHECKPOINT
from tests.export.case import PROMPT, ROWS, STEPS, Case


@pytest.fixture(scope="module", params=["demo", "miniature"])
def case(request, demo_export, miniature, miniature_checkpoint):
    if request.param == "demo":
        return Case(demo_export, CHECKPOINT)
    return Case(miniature, miniature_checkpoint)


@pytest.fixture(scope="module")
def want(case):
    return case.want()


def test_all_greedy_tokens_equal_generate_from_a_poisoned_cache(case, want):
    measured = compare(case.runtime, want)
    assert (measured.equal_tokens, measured.tokens) == (ROWS * STEPS, ROWS * STEPS)
    assert measured.largest_logit_difference < 1e-3
    assert measured.largest_feature_difference < 1e-3


def test_the_runtime_says_what_generate_says_until_the_end_token(case, want):
    question = Question(case.runtime, PROMPT, rows=ROWS, guard=False, max_new_tokens=STEPS)
    for array in question._cache.inputs(ROWS).values():
        array[:, :, len(case.runtime.prompts.prefix) :] = POISON
    answers = question.answers(case.canvases)
    end = case.bundle.manifest.decoding.end_tokens[0]
    for answer, tokens in zip(answers, want.tokens.T.tolist(), strict=True):
        assert list(answer.tokens) == tokens[: tokens.index(end) if end in tokens else None]


def test_rows_of_the_reference_differ_so_that_a_mixed_up_row_would_show(case, want):
    assert len({tuple(tokens) for tokens in want.tokens.T.tolist()}) > 1


def test_a_mask_that_shows_unwritten_positions_is_found_out(case, want, monkeypatch):
    real = case.runtime.decoder.run

    def see_everything(inputs, outputs):
        real({**inputs, "mask": np.ones_like(inputs["mask"])}, outputs)

    monkeypatch.setattr(case.runtime.decoder, "run", see_everything)
    assert compare(case.runtime, want).equal_tokens < ROWS * STEPS


def test_rotated_positions_are_found_out(case, want, monkeypatch):
    """A decoder that ignores the write index for its positions would pass a one-step test."""
    real = case.runtime.decoder.run

    def one_late(inputs, outputs):
        real({**inputs, "write_index": np.maximum(inputs["write_index"] - 1, 0)}, outputs)

    monkeypatch.setattr(case.runtime.decoder, "run", one_late)
    assert compare(case.runtime, want).largest_logit_difference > 1e-3


def test_the_committed_demo_bundle_answers_as_its_checkpoint_does(demo_bundle):
    assert compare(VisionLanguageModel(demo_bundle), Case(demo_bundle, CHECKPOINT).want()).equal_tokens == 128
    assert demo_bundle.manifest.parity.equal_tokens == demo_bundle.manifest.parity.tokens == 128
