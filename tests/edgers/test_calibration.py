"""Calibration counts: one answer per image, every true class, and bounds for whichever class is chosen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgers.answers import StoredAnswer
from edgers.calibration import calibrate, calibrated, count, one_per_image
from edgers.oracle.base import OTHER
from edgers.smoothing.oracle_error import Calibrated, CalibratedFalsePositive
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.oracle_record import Condition, Confusion
from edgers_engines.text_classifier import TextClassifier

ASKED = "Which way?", 0.5


def answer(text, image="1", label="a", **given):
    return StoredAnswer(text=text, image=image, label=label, **given)


def with_counts(bundle, *counts, **fields):
    *_, record = bundle.manifest.classifiers
    made = tuple(Confusion(teacher=t, student=s, count=n) for t, s, n in counts)
    oracles = (*bundle.manifest.oracles[:-1], replace(record, calibration=made, **fields))
    return replace(bundle.manifest, oracles=oracles)


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 99))
def test_one_answer_about_each_image_is_counted(images, seed):
    answers = [answer(str(place), str(image)) for place, image in enumerate(images)]
    found = one_per_image(answers, seed)
    assert [each.image for each in found] == [str(image) for image in dict.fromkeys(images)]
    assert one_per_image(answers, seed) == found


def test_which_one_is_a_matter_of_chance():
    answers = [answer("x"), answer("y")]
    assert {one_per_image(answers, seed)[0].text for seed in range(20)} == {"x", "y"}


def test_only_what_the_model_says_by_itself_about_an_image_is_counted():
    answers = [answer("detour", detour=True), answer("text", image=None), answer("x", "2")]
    assert [each.text for each in one_per_image(answers, 0)] == ["x"]


def test_what_the_teacher_could_not_label_is_of_no_class():
    found = count([answer("x", label=None), answer("y"), answer("z")], lambda texts: ["a"] * len(texts))
    assert found == (
        Confusion(teacher=OTHER, student="a", count=1),
        Confusion(teacher="a", student="a", count=2),
    )


def test_the_mode_has_the_errors_of_the_worst_class(taught_bundle):
    manifest = with_counts(
        taught_bundle,
        ("left", "left", 90),
        ("left", "stop", 3),
        ("right", "stop", 4),
        ("stop", "left", 5),
        ("stop", OTHER, 6),
        (OTHER, "stop", 7),
    )
    assert calibrated(manifest, "learned", "calibrated", *ASKED) == Calibrated(14, 115)


def test_false_positives_are_bounded_for_every_true_class(taught_bundle):
    manifest = with_counts(
        taught_bundle,
        ("left", "left", 90),
        ("left", "stop", 3),
        ("left", "right", 2),
        ("right", "stop", 4),
        ("stop", "stop", 8),
        ("stop", OTHER, 6),
        ("forward", "forward", 50),
        (OTHER, "stop", 7),
    )
    mode = calibrated(manifest, "learned", "calibrated-false-positive", *ASKED)
    assert mode == CalibratedFalsePositive([(0, 50), (3, 95), (4, 4), (0, 14), (7, 7)])
    mode.check_classes(4)


def test_a_true_class_without_answers_is_not_passed_over(taught_bundle):
    manifest = with_counts(taught_bundle, ("left", "left", 90), ("right", "stop", 4))
    with pytest.raises(InputError, match="without an answer that its teacher calls 'forward'"):
        calibrated(manifest, "learned", "calibrated-false-positive", *ASKED)


@pytest.mark.parametrize("oracle", [None, "action", "none", "learned"])
def test_an_oracle_without_counts_is_said_to_have_none(taught_bundle, oracle):
    with pytest.raises(InputError, match="--assume calibrated needs counts"):
        calibrated(taught_bundle.manifest, oracle, "calibrated", *ASKED)


def test_a_file_never_gets_the_counts_of_an_oracle_that_is_named_like_it(taught_bundle):
    manifest = with_counts(taught_bundle, ("left", "left", 1000), name="learned.json")
    with pytest.raises(InputError, match="needs counts"):
        calibrated(manifest, "learned.json", "calibrated", *ASKED)


@pytest.mark.parametrize(
    "conditions", [[("Which way?", 0.25)], [("How far?", 0.5)], [("Which way?", 0.5), ("How far?", 0.5)]]
)
def test_counts_of_another_question_or_noise_or_of_several_are_refused(taught_bundle, conditions):
    known = tuple(Condition(prompt=prompt, sigma=sigma) for prompt, sigma in conditions)
    manifest = with_counts(taught_bundle, ("left", "left", 90), conditions=known)
    with pytest.raises(InputError, match="was calibrated for"):
        calibrated(manifest, "learned", "calibrated", *ASKED)


def test_what_the_answers_were_to_is_recorded(taught_bundle):
    *_, record = taught_bundle.manifest.classifiers
    loaded = TextClassifier(taught_bundle, record, open_backend())
    answers = [answer("left, a box.", str(i), "left", prompt="?", sigma=0.5) for i in range(3)]
    made = calibrate(loaded, answers)
    assert made.conditions == (Condition(prompt="?", sigma=0.5),)
    assert [each.count for each in made.calibration] == [3]
    unknown = answer("left, a box.", "x", "left")
    assert calibrate(loaded, [unknown]).conditions == ()
    assert len(calibrate(loaded, [*answers, unknown]).conditions) == 2
