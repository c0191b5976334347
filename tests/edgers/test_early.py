"""Certificates that end early: by a target, a deadline or a caller; each verifies, and each replays."""

import io
import math
from dataclasses import replace

import msgspec
import pytest
from msgspec.structs import asdict
from rich.console import Console
from scipy.special import ndtr, ndtri

from edgers import Certifier, demo
from edgers import ending as ending_module
from edgers.advice import advice, meaning
from edgers.certificate import Certificate, CertificateError
from edgers.ending import ALL_SAMPLES, CANCELLED, CERTIFIED, DEADLINE, OUT_OF_REACH, RESERVED_SELECTED
from edgers.report.plot import plot_certificate
from edgers.report.text import certificate_panel, summary_table
from edgers.rule import ContradictionError, Rule
from edgers.smoothing.bounds import Probability, clopper_pearson_lower
from edgers.smoothing.oracle_error import (
    Adversarial,
    Asymmetric,
    Audit,
    Calibrated,
    CalibratedFalsePositive,
    FalsePositive,
    Pairwise,
    Symmetric,
    Unknown,
)
from edgers.smoothing.radius import certified_radius
from edgers.smoothing.sequential import MixtureTest, anytime_lower
from edgers.verify import replay, verify
from edgers_engines.errors import InputError
from edgers_engines.image import CameraImage
from edgers_engines.records import parse
from edgers_engines.vlm import Question

EARLY = ["sequential", "batched"]
TARGET = 0.1


def certifier(bundle, **more):
    return Certifier(bundle, **{"sigma": demo.SIGMA, "samples": 200, "selection": 8, **more})


def deciding(bundle, method="sequential", **more):
    return certifier(bundle, **{"method": method, "target_radius": TARGET, **more})


def ask(asked, image, seed, **more):
    return asked.certify(image, demo.PROMPT, **{"choices": demo.ACTIONS, "seed": seed, **more})


def sound(certificate, bundle):
    """It verifies, also from its file, and replays."""
    c = certificate
    verify(c)
    read = parse(c.to_json(), Certificate)
    assert read == c
    verify(read)
    again = replay(read, bundle)
    assert (again.votes, again.radius, again.samples_spent) == (c.votes, c.radius, c.samples_spent)
    return c


def told(c):
    """It can be put into words, drawn, and advised about."""
    assert meaning(c)
    assert bool(advice(c)) or c.certified
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(certificate_panel(c, "a frame"))
    console.print(summary_table([("a frame", c)]))
    assert c.label in console.export_text()
    assert plot_certificate(c, CameraImage.of(c.image), "svg").startswith(b"<?xml")


def counted(c):
    return sum(c.votes.selection.values()), sum(c.votes.certification.values())


class After:
    """Cancels when so many samples are done; `progress` counts them."""

    def __init__(self, samples):
        self.samples, self.done = samples, 0

    def progress(self, samples):
        self.done += samples

    def cancelled(self):
        return self.done >= self.samples

    @property
    def options(self):
        return {"progress": self.progress, "cancelled": self.cancelled}


# --- a target -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EARLY)
def test_a_clear_frame_is_certified_at_the_target_by_few_samples(demo_bundle, first_frame, seed, method):
    c = sound(ask(deciding(demo_bundle, method), first_frame, seed), demo_bundle)
    assert (c.certified, c.stopped_because, c.method) == (True, CERTIFIED, method)
    assert c.radius >= c.target_radius == TARGET
    selected, drawn = counted(c)
    assert (selected, c.samples_spent) == (8, 8 + drawn)
    assert drawn < 60
    assert (drawn - (c.first_look or 0)) % c.look_every == 0
    assert (c.look_every, c.batch_size) == (8, 8)


def test_the_first_look_is_the_first_that_can_certify(demo_bundle, first_frame, seed):
    asked = deciding(demo_bundle)
    c = ask(asked, first_frame, seed)
    assert c.first_look == asked.rule.first_look == 20
    test = MixtureTest(asked.rule._threshold.value, c.alpha)
    assert (test.certifies(20, 20), test.certifies(19, 19)) == (True, False)
    assert (set(c.votes.certification.values()), c.samples_spent) == ({0, 20}, 8 + 20)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_with_less_memory_the_looks_are_where_they_were(monkeypatch, demo_bundle, hard_frame, seed, rows):
    asked = deciding(demo_bundle, samples=2000, target_radius=0.3)
    whole = ask(asked, hard_frame, seed)
    asked.batch_size = rows
    again = sound(ask(asked, hard_frame, seed), demo_bundle)
    assert (again.batch_size, again.first_look, again.votes) == (rows, whole.first_look, whole.votes)


def test_another_target_another_level_and_another_class_move_the_first_look(demo_bundle):
    asked = deciding(demo_bundle)
    assert asked.rule.first_look == 20
    assert asked.deciding(0.3, 8).rule.first_look > 20
    assert asked.accounted("among", 10).rule.first_look > 20
    assert deciding(demo_bundle, "batched").rule.first_look is None
    assert certifier(demo_bundle, method="sequential").rule.first_look is None
    leading, chosen = (deciding(demo_bundle, selection=n0).rule for n0 in (0, 8))
    assert leading.first_look == replace(chosen, alpha=chosen.alpha / 2).looking_early.first_look


def test_a_first_look_that_is_not_the_first_that_can_certify_does_not_verify(demo_bundle, first_frame, seed):
    c = ask(deciding(demo_bundle), first_frame, seed)
    with pytest.raises(CertificateError, match="first_look is 4, but 20"):
        verify(msgspec.structs.replace(c, first_look=4))


def test_a_certificate_of_even_looks_verifies_and_is_replayed(demo_bundle, first_frame, seed):
    """As they were written before there was a first look."""
    asked = deciding(demo_bundle)
    asked.rule = replace(asked.rule, first_look=None)
    c = ask(asked, first_frame, seed)
    assert (c.first_look, counted(c)[1]) == (None, 24)
    written = msgspec.json.decode(msgspec.json.encode(c))
    del written["first_look"]
    sound(msgspec.convert(written, type(c)), demo_bundle)


def test_batched_proves_the_target_and_no_more(demo_bundle, first_frame, seed):
    c = ask(deciding(demo_bundle, "batched"), first_frame, seed)
    assert TARGET <= c.radius <= TARGET * (1 + 1e-6)


def test_sequential_proves_the_anytime_radius(demo_bundle, first_frame, seed):
    c = ask(deciding(demo_bundle), first_frame, seed)
    bound = anytime_lower(c.votes.certification[c.label], counted(c)[1], c.alpha)
    assert c.q_lower == bound.value
    assert c.p_lower == bound.minus(c.sampler.total_variation).value


@pytest.mark.parametrize("method", EARLY)
def test_a_hard_frame_ends_as_out_of_reach(demo_bundle, hard_frame, seed, method):
    asked = deciding(demo_bundle, method, samples=2000, target_radius=0.35)
    c = sound(ask(asked, hard_frame, seed), demo_bundle)
    assert (c.certified, c.stopped_because) == (False, OUT_OF_REACH)
    assert counted(c)[1] < 500
    told(c)
    assert "too few for a radius of 0.35" in " ".join(advice(c))


def test_a_radius_below_the_target_is_told_but_not_certified(demo_bundle, first_frame, seed):
    stop = After(8 + 24)
    asked = deciding(demo_bundle, target_radius=0.4)
    c = sound(ask(asked, first_frame, seed, **stop.options), demo_bundle)
    assert (c.certified, c.answer) == (False, None)
    assert 0 < c.radius < 0.4
    told(c)


@pytest.mark.parametrize("method", EARLY)
@pytest.mark.parametrize("batch_size", [1, 5, 16, 1000])
def test_the_batch_is_what_lies_between_two_looks(demo_bundle, first_frame, seed, method, batch_size):
    c = sound(ask(deciding(demo_bundle, method, batch_size=batch_size), first_frame, seed), demo_bundle)
    drawn = counted(c)[1]
    assert c.look_every == batch_size
    assert c.certified
    assert (drawn - (c.first_look or 0)) % batch_size == 0 or drawn == c.n


def test_without_a_target_every_sample_is_drawn(demo_bundle, first_frame, seed):
    c = sound(ask(certifier(demo_bundle, method="sequential", samples=40), first_frame, seed), demo_bundle)
    assert (c.stopped_because, counted(c), c.look_every) == (ALL_SAMPLES, (8, 40), None)
    assert c.radius < certifier(demo_bundle, samples=40).rule.conclude(c.label, c.votes.certification).radius


def test_a_reserved_winner_ends_a_decision_too(demo_bundle, first_frame, foreign_oracle, seed):
    c = ask(deciding(demo_bundle), first_frame, seed, choices=None, oracle=foreign_oracle)
    assert (c.stopped_because, c.certified, counted(c)) == (RESERVED_SELECTED, False, (8, 0))
    sound(c, demo_bundle)


# --- cancelled ----------------------------------------------------------------------------------------------

MOMENTS = {
    "before the first sample": (0, (0, 0)),
    "in the selection": (3, (4, 0)),
    "after the selection": (8, (8, 0)),
    "between two batches": (8 + 10, (8, 12)),
}


@pytest.mark.parametrize("method", ["fixed", *EARLY])
@pytest.mark.parametrize("moment", MOMENTS)
def test_who_cancels_gets_what_is_proven_by_then(demo_bundle, first_frame, seed, method, moment):
    after, expected = MOMENTS[moment]
    more = {"target_radius": 0.4} if method == "batched" else {}
    asked = certifier(demo_bundle, method=method, batch_size=4, **more)
    c = sound(ask(asked, first_frame, seed, **After(after).options), demo_bundle)
    told(c)
    assert (c.stopped_because, counted(c), c.samples_spent) == (CANCELLED, expected, sum(expected))
    proven = method == "sequential" and expected[1] > 0
    assert (c.radius is not None, c.certified) == (proven, proven)
    if proven:
        assert c.q_lower == anytime_lower(c.votes.certification[c.label], 12, c.alpha).value


def test_a_fixed_certificate_that_was_cancelled_claims_nothing(demo_bundle, first_frame, seed):
    c = ask(certifier(demo_bundle), first_frame, seed, **After(150).options)
    assert counted(c)[1] >= 100
    assert (c.q_lower, c.p_lower, c.certified, c.radius) == (0.0, 0.0, False, None)
    bound = clopper_pearson_lower(c.votes.certification[c.label], counted(c)[1], c.alpha)
    assert bound.value > 0.5, "those votes would prove something, had their number been laid down"


def test_a_selection_that_was_cut_short_while_a_reserved_class_led(
    demo_bundle, first_frame, foreign_oracle, seed
):
    asked = certifier(demo_bundle, method="sequential", batch_size=4)
    c = ask(asked, first_frame, seed, choices=None, oracle=foreign_oracle, **After(4).options)
    assert (c.label, c.stopped_because, counted(c)) == ("OTHER", CANCELLED, (4, 0))
    sound(c, demo_bundle)


def test_cancelling_after_the_last_sample_changes_nothing(demo_bundle, first_frame, seed):
    asked = certifier(demo_bundle, samples=20, method="sequential")
    c = ask(asked, first_frame, seed, **After(28).options)
    assert (c.stopped_because, counted(c)) == (ALL_SAMPLES, (8, 20))


def test_what_the_rule_decided_comes_before_what_the_caller_asked(demo_bundle, first_frame, seed):
    found = ask(deciding(demo_bundle), first_frame, seed)
    c = ask(deciding(demo_bundle), first_frame, seed, **After(found.samples_spent).options)
    assert c.stopped_because == CERTIFIED


# --- a deadline ---------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock by which every batch of answers takes one second."""
    now = [1000.0]
    answers = Question.answers

    def timed(question, canvases):
        now[0] += 1
        return answers(question, canvases)

    monkeypatch.setattr(Question, "answers", timed)
    monkeypatch.setattr(ending_module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("deadline_ms", "expected"),
    [
        pytest.param(1e-6, (8, 0), id="in the first batch"),
        pytest.param(1000, (8, 0), id="at its end"),
        pytest.param(1001, (8, 8), id="just after it"),
        pytest.param(4500, (8, 32), id="a batch that was begun counts whole"),
        pytest.param(1e300, (8, 200), id="never"),
    ],
)
def test_no_batch_is_begun_after_the_deadline(  # noqa: PLR0917
    demo_bundle, first_frame, seed, clock, deadline_ms, expected
):
    if deadline_ms == 1e-6:
        clock[0] = 0.0  # where a millionth of a millisecond is a difference
    asked = certifier(demo_bundle, method="sequential", batch_size=8)
    c = ask(asked, first_frame, seed, deadline_ms=deadline_ms)
    assert counted(c) == expected
    assert c.stopped_because == (ALL_SAMPLES if expected[1] == 200 else DEADLINE)
    sound(c, demo_bundle)


def test_the_deadline_counts_from_the_call_and_for_every_call_anew(demo_bundle, first_frame, seed, clock):
    asked = certifier(demo_bundle, method="sequential", batch_size=8)
    spent = [ask(asked, first_frame, seed, deadline_ms=2500).samples_spent for _ in range(2)]
    assert spent == [24, 24]


def test_a_decision_that_the_deadline_cut_off_says_so(demo_bundle, first_frame, seed, clock):
    asked = deciding(demo_bundle, "batched", target_radius=0.4)
    c = sound(ask(asked, first_frame, seed, deadline_ms=2500), demo_bundle)
    assert (c.stopped_because, c.certified, c.radius) == (DEADLINE, False, None)
    assert "allow more time" in " ".join(advice(c))


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 8, 12, 15])
@pytest.mark.parametrize("method", EARLY)
def test_smaller_chunks_keep_every_look(  # noqa: PLR0917
    demo_bundle, first_frame, seed, monkeypatch, batch_size, method
):
    asked = deciding(demo_bundle, method, batch_size=batch_size)
    expected, answers = ask(asked, first_frame, seed), Question.answers

    def scarce(question, canvases):
        if len(canvases) > 6:
            raise MemoryError
        return answers(question, canvases)

    with monkeypatch.context() as patch:
        patch.setattr(Question, "answers", scarce)
        found = ask(asked, first_frame, seed)
        sound(found, demo_bundle)
    sound(found, demo_bundle)  # also where memory is plenty again
    assert found.batch_size in {1, 4, 5, 6}
    assert (found.votes, found.radius, found.stopped_because) == (
        expected.votes,
        expected.radius,
        expected.stopped_because,
    )


@pytest.mark.parametrize("method", ["sequential", "batched"])
def test_what_was_cancelled_between_smaller_chunks_replays(
    demo_bundle, first_frame, seed, monkeypatch, method
):
    answers = Question.answers

    def scarce(question, canvases):
        if len(canvases) > 4:
            raise MemoryError
        return answers(question, canvases)

    with monkeypatch.context() as patch:
        patch.setattr(Question, "answers", scarce)
        asked = deciding(demo_bundle, method, target_radius=0.4)
        found = ask(asked, first_frame, seed, **After(12).options)
    assert counted(found) == (8, 4)
    sound(found, demo_bundle)


# --- modes --------------------------------------------------------------------------------------------------

MODES = [
    Pairwise(),
    Adversarial(0.02),
    FalsePositive(0.02),
    Asymmetric(0.02, 0.001),
    Symmetric(0.001),
    Unknown(),
    Audit(200, 200),
    Calibrated(1, 2000),
    CalibratedFalsePositive([[1, 2000], [0, 1500], [2, 3000]]),
]
TWO = ("forward", "stop")  # where the mode is about two classes


def of(mode):
    """The choices that a mode can speak of."""
    return TWO if isinstance(mode, (Symmetric, Unknown)) else demo.ACTIONS


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_every_mode_makes_a_certificate_that_is_sound(demo_bundle, first_frame, seed, mode):
    choices = of(mode)
    asked = certifier(demo_bundle, samples=60, mode=mode)
    c = sound(ask(asked, first_frame, seed, choices=choices), demo_bundle)
    assert c.assumption.mode == mode.name
    told(c)
    assert c.certified
    assert ("is true under most of the noise" in meaning(c)) == (mode.name not in {"composite", "pairwise"})
    assert set(asdict(c)) >= {"assumption", "floor", "target_radius"}
    if mode.name not in ("pairwise", "composite"):
        d = sound(ask(deciding(demo_bundle, mode=mode), first_frame, seed, choices=choices), demo_bundle)
        assert (d.certified, d.stopped_because) == (True, CERTIFIED)


@pytest.mark.parametrize("mode", [Asymmetric(0.0, 0.2), Symmetric(0.2)], ids=lambda mode: mode.name)
@pytest.mark.parametrize("method", ["fixed", "sequential"])
def test_votes_that_contradict_the_mode_are_one_clear_error(demo_bundle, first_frame, seed, mode, method):
    asked = certifier(demo_bundle, method=method, mode=mode)
    with pytest.raises(ContradictionError, match="its assumption does not hold here"):
        ask(asked, first_frame, seed, choices=of(mode))


@pytest.mark.parametrize(
    ("mode", "choices"),
    [
        (Symmetric(0.001), demo.ACTIONS),
        (Unknown(), demo.ACTIONS[:3]),
        (CalibratedFalsePositive([[1, 2000], [0, 1500]]), demo.ACTIONS),
    ],
    ids=["symmetric", "unknown", "calibrated"],
)
def test_classes_that_the_assumption_does_not_speak_of_are_refused_before_the_first_sample(
    demo_bundle, first_frame, seed, mode, choices
):
    drawn = []
    with pytest.raises(InputError, match=rf"{mode.name} .*there are \d"):
        ask(certifier(demo_bundle, mode=mode), first_frame, seed, choices=choices, progress=drawn.append)
    assert sum(drawn) == 0


# --- a floor ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fixed", *EARLY])
@pytest.mark.parametrize("floor", [0.6, 0.75])
def test_a_floor_makes_the_radius_smaller_and_the_certificate_sound(
    demo_bundle, first_frame, seed, method, floor
):
    make = certifier if method == "fixed" else deciding
    c = sound(ask(make(demo_bundle, method=method, floor=floor), first_frame, seed), demo_bundle)
    assert (c.certified, c.floor) == (True, floor)
    told(c)
    if method == "batched":
        assert TARGET <= c.radius <= TARGET * (1 + 1e-6)
        assert c.p_lower == pytest.approx(ndtr(TARGET / c.sigma + ndtri(floor)), rel=1e-8)
    else:
        full = certified_radius(Probability(c.p_lower, 1 - c.p_lower), c.sigma)
        assert full - c.radius == pytest.approx(c.sigma * ndtri(floor), rel=1e-9)


def test_a_class_below_the_floor_is_not_certified_though_it_has_the_majority(demo_bundle, first_frame, seed):
    c = sound(ask(certifier(demo_bundle, floor=0.999), first_frame, seed), demo_bundle)
    assert c.p_lower > 0.5
    assert (c.certified, c.radius) == (False, None)
    told(c)


@pytest.mark.parametrize("floor", [0, 0.4999, 1, 1.5, -1, math.nan, math.inf, True, "0.6", None, 10**400])
def test_a_floor_below_the_majority_or_no_number_is_refused(demo_bundle, floor):
    with pytest.raises(InputError, match="floor"):
        certifier(demo_bundle, floor=floor)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1, math.nan, math.inf, -math.inf, True, "0.1", 10**400])
def test_a_target_that_is_no_number_above_0_is_refused(demo_bundle, number):
    with pytest.raises(InputError, match="target"):
        deciding(demo_bundle, target_radius=number)


@pytest.mark.parametrize("number", [0, -1, math.nan, math.inf, -math.inf, True, "100", 10**400])
def test_a_deadline_that_is_no_number_above_0_is_refused(demo_certifier, demo_bundle, first_frame, number):
    asked = certifier(demo_bundle, method="sequential")
    with pytest.raises(InputError, match="deadline"):
        ask(asked, first_frame, None, deadline_ms=number)


def test_a_fixed_number_of_samples_has_no_deadline(demo_certifier, first_frame):
    with pytest.raises(InputError, match="has no deadline: use the method sequential"):
        ask(demo_certifier, first_frame, None, deadline_ms=1000)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "fixed"}, "decides no target radius"),
        ({"method": "peeking"}, "no method 'peeking'"),
        ({"mode": "composite"}, "is no mode"),
        ({"mode": Pairwise()}, "goes with the method fixed"),
        ({"floor": 0.9999}, "cannot certify a radius of 0.1"),
        ({"target_radius": 1.0}, "cannot certify a radius of 1"),
        ({"samples": 10**9}, "100000 looks"),
        ({"batch_size": 0}, "a look every 0"),
        ({"batch_size": 10**30}, "a look every"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_the_model_is_loaded(demo_bundle, monkeypatch, more, said):
    monkeypatch.setattr("edgers.certify.VisionLanguageModel", None)
    with pytest.raises(InputError, match=said):
        deciding(demo_bundle, **more)


def test_a_rule_that_let_a_deadline_stop_a_fixed_number_would_prove_something(certified):
    """What `Rule` refuses: the same votes prove a radius only where their number was laid down."""
    c = certified
    votes = c.votes.certification
    assert Rule(c.n + 1, c.alpha, c.sigma).conclude(c.label, votes).radius is None
    assert Rule(c.n, c.alpha, c.sigma).conclude(c.label, votes).radius is not None
