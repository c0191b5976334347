"""Why samples end: what the rule decides comes first; the outside is asked between batches."""

import math

import pytest

from edgers import ending as module
from edgers.ending import (
    ALL_SAMPLES,
    CANCELLED,
    CERTIFIED,
    DEADLINE,
    OUT_OF_REACH,
    RESERVED_SELECTED,
    Stop,
    ending,
)
from edgers.oracle.base import OTHER, RESERVED
from edgers.rule import Rule

FIXED = Rule(40, 0.001, 0.5)
DECIDING = Rule(40, 0.001, 0.5, "sequential", target_radius=0.25, look_every=8)


def votes(agreeing, samples):
    return {"A": agreeing, "B": samples - agreeing, **dict.fromkeys(RESERVED, 0)}


@pytest.mark.parametrize(
    ("rule", "agreeing", "samples", "expected"),
    [
        pytest.param(FIXED, 0, 0, None, id="fixed, none yet"),
        pytest.param(FIXED, 39, 39, None, id="fixed, one is left"),
        pytest.param(FIXED, 40, 40, ALL_SAMPLES, id="fixed, all"),
        pytest.param(DECIDING, 0, 0, None, id="none yet"),
        pytest.param(DECIDING, 24, 24, CERTIFIED, id="certified at a look"),
        pytest.param(DECIDING, 25, 25, None, id="not between two looks"),
        pytest.param(DECIDING, 4, 24, OUT_OF_REACH, id="hopeless"),
        pytest.param(DECIDING, 36, 40, ALL_SAMPLES, id="all, and nothing decided"),
        pytest.param(DECIDING, 40, 40, CERTIFIED, id="the last look certifies"),
    ],
)
def test_the_rule_ends_the_samples(rule, agreeing, samples, expected):
    assert ending(rule, "A", votes(agreeing, samples)) == expected


@pytest.mark.parametrize("rule", [FIXED, DECIDING])
def test_a_reserved_class_ends_them_before_the_first(rule):
    assert ending(rule, OTHER, votes(0, 0)) == RESERVED_SELECTED


def test_without_a_deadline_only_who_cancels_stops():
    answers = iter([False, False, True])
    stop = Stop(None, lambda: next(answers))
    assert [stop.asked() for _ in range(3)] == [False, False, True]
    assert stop.reason == CANCELLED


def test_a_deadline_passes_when_the_monotonic_clock_says_so(monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    stop = Stop(250, lambda: False)
    for now, passed in ((100.2, False), (100.2499, False), (100.25, True), (math.inf, True)):  # noqa: B007  the clock reads it
        assert stop.asked() == passed
    assert stop.reason == DEADLINE


def test_what_was_asked_to_stop_stays_stopped(monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    stop = Stop(250, lambda: False)
    for now in (101.0, 100.0):  # noqa: B007  the patched clock reads it
        assert stop.asked()
