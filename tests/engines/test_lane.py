"""Parts of a batch that are answered at once give what the batch gives as one."""

import copy
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgers import demo
from edgers_engines import lane, vlm
from edgers_engines.engine import open_backend
from edgers_engines.errors import BackendError
from edgers_engines.image import prepare, read_image
from edgers_engines.lane import Status, at_once, shares
from edgers_engines.vlm import Question, VisionLanguageModel

ROWS = 9
WAIT = 60  # seconds until a test that hangs fails


class Words:
    """A constraint whose answers share a beginning, so that rows end at different steps."""

    def __init__(self, *answers):
        self.answers = answers

    def allowed(self, tokens):
        behind = [answer for answer in self.answers if answer[: len(tokens)] == tokens]
        return tuple({answer[len(tokens)] for answer in behind}) if len(behind) > 1 else ()


@pytest.fixture(scope="module")
def canvases(demo_bundle):
    """A noisy copy of each of nine frames: answers of several lengths."""
    steps, noise = (
        demo_bundle.manifest.preparation,
        np.random.default_rng(3).normal(0, 0.2, (ROWS, 3, 96, 96)),
    )
    frames = [prepare(read_image(frame), steps) for frame in demo.frames()[-ROWS:]]
    return (np.stack(frames) + noise).astype(np.float32)


@pytest.fixture
def two_lanes(demo_model):
    model = copy.copy(demo_model)
    model.lanes = 2
    return model


@pytest.fixture(params=["free text", "choices"])
def constraint(request, demo_model):
    if request.param == "free text":
        return None
    texts = ("forward", "left, a box", "left, a cone", "stop, a person blocks the way", "stop, there")
    return Words(*(demo_model.prompts.answer(demo.PROMPT, text) for text in texts))


def ask(model, **options):
    return Question(model, demo.PROMPT, rows=ROWS, **options)


@pytest.mark.parametrize("rows", [1, 2, 5, ROWS])
def test_lanes_give_the_answers_of_one_batch_bit_for_bit(demo_model, two_lanes, canvases, constraint, rows):
    question = ask(two_lanes, constraint=constraint)
    expected = ask(demo_model, constraint=constraint).answers(canvases[:rows])
    assert rows < ROWS or len({len(answer.tokens) for answer in expected}) > 1
    for _ in range(2):
        assert question.answers(canvases[:rows]) == expected


def test_every_lane_has_its_own_share_and_they_run_at_once(demo_model, two_lanes, canvases, monkeypatch):
    """Neither half enters or leaves the vision graph before the other one does."""
    meeting, seen, run = threading.Barrier(2), {}, two_lanes.vision.run

    def meet(inputs, outputs):
        seen[threading.get_ident()] = len(inputs["canvas"])
        meeting.wait(WAIT)
        run(inputs, outputs)
        meeting.wait(WAIT)

    expected = ask(demo_model).answers(canvases)
    monkeypatch.setattr(two_lanes.vision, "run", meet)
    assert ask(two_lanes).answers(canvases) == expected
    assert sorted(seen.values()) == [4, 5]


@pytest.mark.parametrize("breaks", ["the caller's", "the other"])
def test_a_lane_that_breaks_off_fails_the_batch_once_the_other_has_ended(
    demo_model, two_lanes, canvases, monkeypatch, breaks
):
    question, run, ended = ask(two_lanes), two_lanes.decoder.run, []
    caller, broken = threading.get_ident(), threading.Event()

    def breaking(inputs, outputs):
        mine = threading.get_ident() == caller
        if mine == (breaks == "the caller's"):
            broken.set()
            raise BackendError("out of luck")
        broken.wait(WAIT)
        run(inputs, outputs)
        ended.append(len(outputs["logits"]))

    monkeypatch.setattr(two_lanes.decoder, "run", breaking)
    with pytest.raises(BackendError, match="out of luck"):
        question.answers(canvases)
    steps = len(ended)
    assert steps > 1  # the other lane went on to its own end
    monkeypatch.undo()
    assert question.answers(canvases) == ask(demo_model).answers(canvases)
    assert len(ended) == steps


@pytest.mark.parametrize("row", [0, ROWS - 1])
def test_a_row_that_is_not_finite_fails_alone_in_whichever_lane(demo_model, two_lanes, canvases, row):
    question, bad = ask(two_lanes), canvases.copy()
    bad[row, 0, 5, 5] = np.nan
    statuses = [answer.status for answer in question.answers(bad)]
    assert [number for number, status in enumerate(statuses) if status is Status.FAILED] == [row]
    assert question.answers(canvases) == ask(demo_model).answers(canvases)


@pytest.mark.parametrize("turns", ["the caller's", "the other"])
def test_a_row_that_turns_nan_while_decoding_leaves_nothing_to_the_next_batch(
    demo_model, two_lanes, canvases, monkeypatch, turns
):
    """Its NaNs lie where the next batch has not written yet, and 0 times NaN is NaN."""
    question, run, caller, steps = ask(two_lanes), two_lanes.embed.run, threading.get_ident(), []

    def poisoning(inputs, outputs):
        run(inputs, outputs)
        if (threading.get_ident() == caller) == (turns == "the caller's"):
            steps.append(None)
            if len(steps) == 2:
                outputs["embeddings"][-1] = np.nan

    monkeypatch.setattr(two_lanes.embed, "run", poisoning)
    assert [answer.status for answer in question.answers(canvases)].count(Status.FAILED) == 1
    monkeypatch.undo()
    assert question.answers(canvases) == ask(demo_model).answers(canvases)


def test_without_another_thread_the_lanes_run_one_after_the_other(
    two_lanes, demo_model, canvases, monkeypatch
):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    question = ask(two_lanes)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    answers = question.answers(canvases)
    monkeypatch.undo()
    assert answers == ask(demo_model).answers(canvases)


def test_the_time_of_a_stage_is_the_mean_of_the_lanes(two_lanes, canvases, monkeypatch):
    now = iter(range(1000))
    question = ask(two_lanes)
    monkeypatch.setattr(lane.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr("edgers_engines.generation.at_once", lambda tasks: [task() for task in tasks])
    question.answers(canvases)
    assert question.seconds == {"encode": 1, "prefill": 1, "decode": 1}


@given(st.integers(1, 300), st.integers(1, 8))
def test_shares_are_all_rows_in_order_and_differ_by_one_row_at_most(rows, lanes):
    parts = [list(range(rows))[part] for part in shares(rows, lanes)]
    assert [row for part in parts for row in part] == list(range(rows))
    sizes = [len(part) for part in parts]
    assert len(sizes) == min(rows, lanes)
    assert min(sizes) >= max(max(sizes) - 1, 1)


def test_the_first_failure_is_raised_when_all_have_ended():
    ended = []

    def fail(number):
        ended.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        at_once([lambda: fail(0), lambda: fail(1)])
    assert sorted(ended) == [0, 1]


class TestWhereThereAreLanes:
    @pytest.mark.parametrize(("threads", "lanes"), [(1, 1), (2, 2), (3, 1), (4, 2)])
    def test_an_even_number_of_threads_is_shared_by_two(self, threads, lanes):
        assert open_backend(threads=threads).lanes == lanes

    def test_a_small_model_has_one_and_a_large_one_two(self, demo_bundle, monkeypatch):
        assert VisionLanguageModel(demo_bundle, open_backend(threads=2)).lanes == 1
        monkeypatch.setattr(vlm, "LIGHT", 1 << 20)
        assert VisionLanguageModel(demo_bundle, open_backend(threads=2)).lanes == 2

    @pytest.mark.parametrize("lanes", [1, 2])
    def test_each_lane_computes_with_its_share_of_the_threads(self, demo_bundle, monkeypatch, lanes):
        monkeypatch.setattr(vlm, "LIGHT", 0 if lanes == 2 else 1 << 40)
        model = VisionLanguageModel(demo_bundle, open_backend(threads=4))
        engines = (model.vision, model.embed, model.decoder)
        assert {e._session.get_session_options().intra_op_num_threads for e in engines} == {4 // lanes}
