"""The record of a mode: a round trip through JSON, whatever types its numbers had."""

from fractions import Fraction

import msgspec
import numpy as np
import pytest

from edgers.assumption import Assumption, assumption, mode_of
from edgers.smoothing.oracle_error import (
    Adversarial,
    Asymmetric,
    Audit,
    Calibrated,
    CalibratedFalsePositive,
    Composite,
    FalsePositive,
    Pairwise,
    Symmetric,
    Unknown,
)

MODES = [
    Composite(),
    Pairwise(),
    Adversarial(0.02),
    FalsePositive(0.02),
    Asymmetric(0.02, 0.01),
    Symmetric(0.01),
    Unknown(),
    Audit(9, 10),
    Calibrated(3, 1000, 0.3),
    CalibratedFalsePositive(((3, 1000), (2, 500))),
]


def written_and_read(record):
    return msgspec.json.decode(msgspec.json.encode(record), type=Assumption, strict=True)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_mode_survives_its_record(mode):
    record = assumption(mode)
    assert mode_of(record) == mode
    assert written_and_read(record) == record
    assert assumption(mode_of(written_and_read(record))) == record
    assert record.sentence.startswith(mode.sentence)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (CalibratedFalsePositive([[3, 1000], [2, 500]]), CalibratedFalsePositive(((3, 1000), (2, 500)))),
        (Calibrated(np.int64(3), np.int64(1000), np.float64(0.5)), Calibrated(3, 1000)),
        (Adversarial(np.float64(0.25)), Adversarial(0.25)),
        (Adversarial(Fraction(1, 4)), Adversarial(0.25)),
        (Adversarial(0), Adversarial(0.0)),
        (Adversarial(False), Adversarial(0.0)),
    ],
)
def test_numbers_of_any_type_make_the_same_record(given, same):
    assert assumption(given) == assumption(same) == written_and_read(assumption(given))
    assert msgspec.json.encode(assumption(given)) == msgspec.json.encode(assumption(same))


@pytest.mark.parametrize(
    ("mode", "parameters", "calibration", "said"),
    [
        ("trust", {}, None, "no mode 'trust'"),
        ("composite", {"error_rate": 0.1}, None, "mode composite takes nothing"),
        ("adversarial", {}, None, "mode adversarial takes error_rate"),
        ("adversarial", {"error_rate": 2.0}, None, "the error rate is 2"),
        ("adversarial", {"error_rate": float("nan")}, None, "the error rate is nan"),
        ("symmetric", {"error_rate": 0.5}, None, "the error rate is 0.5"),
        ("calibrated", {"vote_share": 1.0}, {"errors": 1, "total": 10}, "share of alpha is 1"),
        ("calibrated", {"vote_share": 0.5}, {"errors": 11, "total": 10}, "11 votes of 10"),
        ("calibrated", {"vote_share": 0.5}, {"errors": ((1, 2),), "total": 5}, "whole numbers"),
        ("calibrated", {"vote_share": 0.5, "errors": 1.0, "total": 10.0}, None, "whole numbers"),
        ("calibrated-false-positive", {"vote_share": 0.5}, {"counts": 5}, "does not take such"),
        ("calibrated-false-positive", {"vote_share": 0.5}, {"counts": ()}, "no calibration counts"),
    ],
)
def test_a_record_of_no_mode_is_a_value_error_and_no_other(mode, parameters, calibration, said):
    record = Assumption(mode=mode, parameters=parameters, calibration=calibration, sentence="")
    with pytest.raises(ValueError, match=said):
        mode_of(record)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_of_a_judge_it_is_said_that_it_must_be_one_fixed_map(mode):
    said = assumption(mode).sentence.removesuffix(".")
    assert assumption(mode, judged=True).sentence == said + (
        "; asked about a text, the judge says the same whenever, how often and after what it is asked."
    )


def test_a_number_in_the_wrong_place_makes_another_record():
    """Which `verify` then refuses."""
    record = Assumption(
        mode="calibrated",
        parameters={"vote_share": 0.5, "errors": 1.0},
        calibration={"errors": 2, "total": 10},
        sentence="as it says",
    )
    assert assumption(mode_of(record)) != record
