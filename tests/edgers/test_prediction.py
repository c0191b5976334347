"""Predictions: what is answered, what never is, how often an answer is wrong, and the command line."""

import copy
import json
import math

import numpy as np
import pytest
from msgspec.structs import replace
from scipy.stats import binom, binomtest, norm

from edgers import Certifier, demo
from edgers.oracle.base import FAILED, OTHER, RESERVED, UNDECIDED
from edgers.prediction import Prediction, most_likely
from edgers.smoothing.many import scheduled
from edgers.smoothing.predict import predict
from edgers_engines.errors import BackendError, InputError
from edgers_engines.image import Preparation
from tests.edgers.hostile import QUESTION, command, refused
from tests.edgers.test_certify import ACTION_ORACLE, HalfSpaces

ALPHA, SAMPLES, SEEDS, SIGMA = 0.2, 24, 400, 0.5


def votes(**counts):
    return {**dict.fromkeys(("a", "b", *RESERVED), 0), **counts}


def ask(certifier, image, seed, **more):
    return certifier.predict(image, demo.PROMPT, **{"choices": demo.ACTIONS, "seed": seed, **more})


# --- from votes to an answer --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_class_is_counted_and_never_answered(name):
    assert most_likely(votes(a=1, **{name: 99}), 0.001)[0] is None
    assert most_likely(votes(a=45, **{name: 55}), 0.001)[0] is None


def test_what_no_class_was_read_from_is_a_rival_like_any_other_class():
    assert most_likely(votes(a=40, b=10, OTHER=10), 0.001) == ("a", predict([40, 10], 0.001).p_value)
    assert most_likely(votes(a=40, b=10, OTHER=30), 0.001) == (None, predict([40, 30], 0.001).p_value)


@pytest.mark.parametrize("name", [UNDECIDED, FAILED])
def test_a_sample_that_nobody_can_read_counts_for_the_strongest_rival(name):
    assert most_likely(votes(a=40, b=10, **{name: 10}), 0.001) == (None, predict([40, 20], 0.001).p_value)
    assert most_likely(votes(a=40, b=2, OTHER=5, **{name: 3}), 0.001)[1] == predict([40, 8], 0.001).p_value


# --- from an image ------------------------------------------------------------------------------------------


def test_a_clear_frame_is_answered_and_the_record_says_what_was_asked(demo_certifier, first_frame, seed):
    found = ask(demo_certifier, first_frame, seed)
    assert (found.label, found.n, found.alpha, found.sigma) == (demo.ACTIONS[0], 60, 0.001, demo.SIGMA)
    assert (found.seed, found.prompt, found.image) == (seed, demo.PROMPT, str(first_frame))
    assert found.bundle_digest == demo_certifier.bundle.digest
    assert set(found.votes) == {*demo.ACTIONS, *RESERVED}
    assert sum(found.votes.values()) == 60
    assert (found.label, found.p_value) == most_likely(found.votes, 0.001)
    assert isinstance(found, Prediction)
    with pytest.raises(AttributeError):
        found.label = "left"


def test_a_frame_on_which_the_model_is_uncertain_is_not_answered(demo_certifier, hard_frame, seed):
    found = ask(demo_certifier, hard_frame, seed)
    assert found.label is None
    assert found.p_value > found.alpha


def test_where_the_oracle_reads_no_answer_there_is_none(demo_certifier, first_frame, foreign_oracle, seed):
    found = ask(demo_certifier, first_frame, seed, choices=None, oracle=foreign_oracle)
    assert (found.label, found.votes[OTHER]) == (None, 60)


def test_the_votes_are_those_of_a_selection_and_no_certificates(demo_bundle, hard_frame, seed):
    """So nobody who saw a prediction knows a vote of the certificate with its seed."""
    made = Certifier(demo_bundle, sigma=demo.SIGMA, samples=24, selection=24)
    c = made.certify(hard_frame, demo.PROMPT, choices=demo.ACTIONS, seed=seed)
    assert ask(made, hard_frame, seed).votes == c.votes.selection != c.votes.certification


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_a_seed_gives_the_same_votes_whatever_the_rule(demo_bundle, hard_frame, seed, batch_size):
    plain = Certifier(demo_bundle, sigma=demo.SIGMA, samples=24)
    target = {"method": "sequential", "target_radius": 0.1}
    other = Certifier(demo_bundle, sigma=demo.SIGMA, samples=24, batch_size=batch_size, **target)
    assert ask(other, hard_frame, seed) == ask(plain, hard_frame, seed)


def test_a_fresh_seed_is_drawn_and_written_down(demo_certifier, hard_frame):
    found = ask(demo_certifier, hard_frame, None)
    assert ask(demo_certifier, hard_frame, found.seed) == found
    assert ask(demo_certifier, hard_frame, None).seed != found.seed


def test_one_of_many_is_answered_at_its_own_level(demo_certifier, first_frame, seed):
    found = ask(demo_certifier.accounted("schedule", 9), first_frame, seed)
    assert found.alpha == scheduled(0.001, 9)


def test_progress_is_reported_for_every_sample_and_memory_may_run_out(
    demo_certifier, hard_frame, seed, monkeypatch
):
    from edgers_engines.vlm import Question

    expected, answers, done = ask(demo_certifier, hard_frame, seed), Question.answers, []

    def scarce(question, canvases):
        if len(canvases) > 5:
            raise MemoryError
        return answers(question, canvases)

    monkeypatch.setattr(Question, "answers", scarce)
    assert ask(demo_certifier, hard_frame, seed, progress=done.append) == expected
    assert sum(done) == 60


@pytest.mark.parametrize("bad", [{"seed": "0"}, {"choices": None}, {"oracle": "action"}])
def test_a_question_that_cannot_be_asked_is_refused(demo_certifier, first_frame, bad):
    with pytest.raises(InputError):
        ask(demo_certifier, first_frame, **{"seed": None, **bad})


# --- a classifier whose probabilities are known -------------------------------------------------------------


@pytest.fixture
def wrong_answers(demo_bundle, monkeypatch):
    """Predict with `SEEDS` seeds; return how often the first of two classes is answered."""
    tiny = copy.copy(demo_bundle)
    tiny.manifest = replace(demo_bundle.manifest, preparation=Preparation(exact=(1, 1)))
    rules = next(oracle for oracle in tiny.manifest.oracles if oracle.name == ACTION_ORACLE)
    monkeypatch.setattr(HalfSpaces, "classes", tuple(dict.fromkeys(rule.label for rule in rules.rules))[:2])
    monkeypatch.setattr("edgers.asked.Question", HalfSpaces)
    black = np.zeros((1, 1, 3), np.uint8)

    def count(probability, *, failing=False):
        monkeypatch.setattr(HalfSpaces, "threshold", float(SIGMA * norm.ppf(probability)))
        monkeypatch.setattr(HalfSpaces, "failing", failing)
        asked = Certifier(demo_bundle, sigma=SIGMA, samples=SAMPLES, alpha=ALPHA, batch_size=1)
        asked.bundle = tiny  # after the real model's self-test: no graph runs here
        first = 0
        for number in range(SEEDS):
            try:
                found = asked.predict(black, demo.PROMPT, oracle=ACTION_ORACLE, seed=f"{number:032x}")
            except BackendError:  # every sample failed: nothing is answered
                continue
            first += found.label == HalfSpaces.classes[0]
        return first

    return count


def too_many(wrong):
    """Whether so many wrong answers would have a chance below one in a million at the promised level."""
    return binomtest(wrong, SEEDS, ALPHA, alternative="greater").pvalue < 1e-6


@pytest.mark.parametrize("failing", [False, True], ids=["no failures", "half of the rival fails"])
@pytest.mark.parametrize("probability", [0.45, 0.5])
def test_a_class_that_is_not_the_likeliest_is_as_seldom_answered_as_promised(
    wrong_answers, probability, failing
):
    assert not too_many(wrong_answers(probability, failing=failing))


def test_wrong_answers_come_about_as_often_as_exact_arithmetic_says(wrong_answers):
    fewest = next(k for k in range(SAMPLES + 1) if predict([k, SAMPLES - k], ALPHA).chosen == 0)
    rate = binom.sf(fewest - 1, SAMPLES, 0.5)
    assert ALPHA / 4 < rate < ALPHA / 2
    assert binomtest(wrong_answers(0.5), SEEDS, rate).pvalue > 1e-6


def test_a_prediction_that_forgets_failed_samples_is_caught(wrong_answers, monkeypatch):
    monkeypatch.setattr(
        "edgers.prediction.predict", lambda votes, alpha, unknown: predict(votes, alpha, 0 * unknown)
    )
    assert too_many(wrong_answers(0.5, failing=True))


# --- the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run a command in this process."""
    return lambda *args: command(monkeypatch, capsys, *args)


CLEAR = ("--sigma", demo.SIGMA, "--samples", 60)


def test_the_exit_code_says_whether_there_is_an_answer(edgers, first_frame, hard_frame, foreign_oracle):
    answered = edgers("predict", first_frame, *QUESTION, *CLEAR)
    assert (answered.code, answered.err) == (0, "")
    assert answered.out.startswith(f"{first_frame}: {demo.ACTIONS[0]} (")
    assert "no radius is claimed" in answered.out
    close = edgers("predict", hard_frame, *QUESTION, *CLEAR, "--seed", "0" * 32)
    assert (close.code, close.err) == (10, "")
    assert "abstained" in close.out
    assert "above alpha 0.001" in close.out
    other = edgers("predict", first_frame, "--prompt", demo.PROMPT, "--oracle", foreign_oracle, *CLEAR)
    assert other.code == 10
    assert "the winner is never answered" in other.out


def test_json_is_one_record_a_line_and_one_abstention_exits_with_10(edgers, first_frame, hard_frame):
    options = (*QUESTION, *CLEAR, "--seed", "0" * 32, "--json")
    ended = edgers("predict", hard_frame, first_frame, *options)
    close, clear = map(json.loads, ended.out.splitlines())
    assert ended.code == 10
    assert (close["label"], clear["label"]) == (None, demo.ACTIONS[0])
    assert set(clear) == set(Prediction.__struct_fields__)
    assert math.isfinite(clear["p_value"])


def test_one_broken_image_costs_none_of_the_others(edgers, first_frame, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    ended = edgers("predict", tmp_path / "broken.png", first_frame, *QUESTION, *CLEAR, "--json")
    assert ended.code == 1
    broken, clear = map(json.loads, ended.out.splitlines())
    assert set(broken) == {"image", "error"}
    assert ended.err == f"edgers: {broken['error']}\n"
    assert clear["label"] == demo.ACTIONS[0]
    refused(edgers("predict", tmp_path / "broken.png", *QUESTION, *CLEAR), 1, "is not a JPEG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((*QUESTION, "--sigma", 0), "sigma is 0"),
        ((*QUESTION, "--sigma", 0.25, "--alpha", 0.5), "alpha is 0.5"),
        ((*QUESTION, "--sigma", 0.25, "--samples", 0), "the number of samples is 0"),
        ((*QUESTION, "--sigma", 0.25, "--batch-size", 0), "the batch size is 0"),
        ((*QUESTION, "--sigma", 0.25, "--seed", "x"), "32 hexadecimal digits"),
        (("--prompt", "Which?", "--sigma", 0.25), "give either choices or an oracle"),
        (QUESTION, "Missing option '--sigma'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(edgers, first_frame, options, said):
    refused(edgers("predict", first_frame, first_frame, *options), 2, said)
