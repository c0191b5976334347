"""The rule of a certificate: what its votes prove, when they end, exact error rates, refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from edgers.oracle.base import FAILED, OTHER, RESERVED, UNDECIDED
from edgers.rule import MAX_BATCHED, MAX_LOOKS, Conclusion, ContradictionError, Rule
from edgers.smoothing.bounds import clopper_pearson_lower, pairwise_bounds
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
from edgers.smoothing.radius import certified_radius, pairwise_radius
from edgers.smoothing.sequential import MixtureTest, anytime_lower
from edgers.smoothing.stopping import Boundary, Decision, operating_characteristics

ALPHA, SIGMA, TV = 0.001, 0.5, 1e-6
NOTHING = Conclusion(0.0, 0.0, certified=False, radius=None)
MODES = [
    Composite(),
    Adversarial(0.02),
    FalsePositive(0.02),
    Asymmetric(0.02, 0.01),
    Symmetric(0.01),
    Unknown(),
    Audit(200, 200),
    Calibrated(1, 2000),
    CalibratedFalsePositive(((1, 2000), (0, 1500))),
]
EARLY = ["sequential", "batched"]


def named(mode):
    return mode.name


def rule(method="fixed", samples=100, **more):
    return Rule(samples, **{"alpha": ALPHA, "sigma": SIGMA, "method": method, **more})


def deciding(method, radius=0.25, samples=200, look=8, **more):
    return rule(method, samples, target_radius=radius, look_every=look, **more)


def counts(votes, samples):
    return {"A": votes, "B": samples - votes, OTHER: 0, UNDECIDED: 0, FAILED: 0}


# --- fixed --------------------------------------------------------------------------------------------------


def test_a_fixed_rule_concludes_what_clopper_and_pearson_say():
    found = rule(total_variation=TV).conclude("A", counts(90, 100))
    bound = clopper_pearson_lower(90, 100, ALPHA)
    assert found.q_lower == bound.value
    assert found.p_lower == bound.minus(TV).value < bound.value
    assert found.radius == certified_radius(bound.minus(TV), SIGMA)
    assert found.certified


@pytest.mark.parametrize("samples", [1, 99, 101, 1000])
@pytest.mark.parametrize("mode", [*MODES, Pairwise()], ids=named)
def test_a_fixed_rule_proves_nothing_by_another_number_of_samples_than_it_laid_down(mode, samples):
    found = rule(mode=mode).conclude("A", counts(samples, samples))
    assert (found.q_lower, found.certified, found.radius) == (0.0, False, None)


@pytest.mark.parametrize("method", ["fixed", *EARLY])
@pytest.mark.parametrize("label", RESERVED)
def test_a_reserved_class_is_never_certified(method, label):
    made = rule() if method == "fixed" else deciding(method, samples=100)
    assert made.conclude(label, {**counts(0, 0), label: 100}) == NOTHING


@pytest.mark.parametrize("method", ["fixed", *EARLY])
def test_no_votes_prove_nothing(method):
    made = rule() if method == "fixed" else deciding(method)
    assert made.conclude("A", counts(0, 0)) == NOTHING
    assert made.decide("A", counts(0, 0)) is Decision.UNDECIDED


def test_pairwise_compares_with_every_other_class_and_lowers_both_bounds():
    votes = {"A": 70, "B": 20, OTHER: 10, UNDECIDED: 0, FAILED: 0}
    found = rule(mode=Pairwise(), total_variation=0.01).conclude("A", votes)
    lower, upper = pairwise_bounds([70, 20, 10, 0, 0], 0, ALPHA)
    assert found.q_lower == lower.value
    expected = pairwise_radius(lower.minus(0.01), upper.opposite.minus(0.01).opposite, SIGMA)
    assert found.radius == expected
    assert expected < pairwise_radius(lower, upper, SIGMA)


def test_what_failed_counts_in_pairwise_for_the_strongest_rival():
    """A judge may fail on one rival's texts alone: 30 of B and 30 failures may have been 60 of B."""
    votes = {"A": 100, "B": 30, "C": 20, OTHER: 25, UNDECIDED: 0, FAILED: 30}
    found = rule(samples=205, mode=Pairwise()).conclude("A", votes)
    assert found == rule(samples=205, mode=Pairwise()).conclude("A", {**votes, "B": 60, FAILED: 0})
    lower, upper = pairwise_bounds([100, 60, 20, 25, 0, 0], 0, ALPHA)
    assert found.radius == pairwise_radius(lower, upper, SIGMA)
    assert (
        not rule(samples=205, mode=Pairwise())
        .conclude("A", {**votes, "B": 90, FAILED: 15, OTHER: 0, "C": 0})
        .certified
    )


# --- early --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 7, 23, 100])
def test_a_sequential_rule_proves_the_anytime_bound_whatever_ended_it(samples):
    found = rule("sequential", 1000, total_variation=TV).conclude("A", counts(samples, samples))
    bound = anytime_lower(samples, samples, ALPHA)
    assert found.q_lower == bound.value
    assert found.radius == certified_radius(bound.minus(TV), SIGMA)


@pytest.mark.parametrize("samples", range(1, 200, 3))
def test_a_batched_rule_proves_nothing_between_its_looks(samples):
    found = deciding("batched", look=8).conclude("A", counts(samples, samples))
    assert found.certified == (samples % 8 == 0 and samples >= 24)


@pytest.mark.parametrize("mode", MODES, ids=named)
@pytest.mark.parametrize("method", EARLY)
@pytest.mark.parametrize("radius", [1e-9, 1e-3, 0.25, 0.6])
def test_a_target_that_is_decided_as_certified_is_certified_at_that_radius(method, mode, radius):
    made = deciding(method, radius, 400, mode=mode, total_variation=TV)
    decided = 0
    boundary = made._boundary
    looks = np.flatnonzero(boundary.certify_from <= boundary.looks)
    for look in {0, *looks[:: len(looks) // 2 or 1].tolist()}:
        samples, critical = int(boundary.looks[look]), int(boundary.certify_from[look])
        for votes in {*range(critical - 2, critical + 2), samples // 3, samples} & {*range(samples + 1)}:
            try:
                decision, found = (f("A", counts(votes, samples)) for f in (made.decide, made.conclude))
            except ContradictionError:
                assert isinstance(mode, (Asymmetric, Symmetric))
                continue
            decided += decision is Decision.CERTIFIED
            assert found.certified >= (decision is Decision.CERTIFIED)
            assert found.certified == (found.radius is not None and found.radius >= radius)
            assert not (found.certified and decision is Decision.HOPELESS)
    assert decided


def test_what_is_proven_below_the_target_is_a_radius_but_no_certificate():
    found = deciding("sequential", 0.6, 400).conclude("A", counts(90, 104))
    assert 0 < found.radius < 0.6
    assert not found.certified


@pytest.mark.parametrize("method", EARLY)
def test_the_total_variation_raises_the_threshold(method):
    plain, far = (deciding(method, total_variation=tv)._threshold for tv in (0.0, 0.01))
    assert plain.value == pytest.approx(ndtr(0.5), rel=1e-8)
    assert far.value - plain.value == pytest.approx(0.01, rel=1e-9)
    assert far.value - 0.01 >= plain.value


@settings(deadline=None, max_examples=300)
@given(
    st.floats(1e-12, 1),
    st.floats(0.3, 2),
    st.floats(0, 1e-3),
    st.sampled_from(MODES),
    st.sampled_from([0.5, 0.6, 0.9]),
)
def test_the_threshold_is_high_enough_for_the_target_and_not_much_higher(radius, sigma, tv, mode, floor):
    try:
        made = Rule(
            10**6,
            ALPHA,
            sigma,
            "sequential",
            target_radius=radius,
            look_every=10**6,
            mode=mode,
            total_variation=tv,
            floor=floor,
        )
    except ValueError:
        return
    q = made._threshold
    p = made._p_lower(q)
    reached = certified_radius(p, sigma, floor)
    assert reached >= radius
    assert reached <= radius * (1 + 1e-8) + 1e-9 * sigma


def test_what_is_measured_under_the_noise_that_was_drawn_pays_for_the_sampler_behind_it():
    """An audit's precision is about the drawn noise: the product is lowered, by all of the distance."""
    audit, tv = Audit(90, 100), 1e-3
    rule = Rule(1000, ALPHA, 0.5, mode=audit, total_variation=tv)
    found = rule.conclude("a", {"a": 990, "b": 10})
    q = clopper_pearson_lower(990, 1000, audit.vote_alpha(ALPHA))
    assert found.p_lower == pytest.approx(audit.p_lower(q, ALPHA).value - tv, rel=1e-12)
    assert found.p_lower < audit.p_lower(q.minus(tv), ALPHA).value


@pytest.mark.parametrize(
    "mode", [Symmetric(0.01), Unknown(), CalibratedFalsePositive([[1, 2000]])], ids=named
)
def test_classes_that_the_assumption_does_not_speak_of_prove_nothing(mode):
    rule = Rule(100, ALPHA, 0.5, mode=mode)
    others = dict.fromkeys(RESERVED, 0)
    assert rule.conclude("a", {"a": 90, "b": 10, **others}).certified
    with pytest.raises(ContradictionError, match=r"there are \d"):
        rule.conclude("a", {"a": 90, "b": 10, "c": 0, **others})


def error(boundary, q):
    return operating_characteristics(boundary, q).certified


@pytest.mark.parametrize("mode", MODES, ids=named)
@pytest.mark.parametrize("method", EARLY)
@pytest.mark.parametrize("look", [1, 8, 1000])
def test_a_target_that_is_not_there_is_certified_with_probability_alpha_at_most(method, mode, look):
    """By an exact recursion, at the largest q for which the claim is false by the mode's own algebra."""
    made = deciding(method, samples=300, look=look, mode=mode, alpha=0.05)
    p0 = float(ndtr(0.5))
    f, e = (float(rate) for rate in mode.rates(0.05))
    assert error(made._boundary, f + (1 - e - f) * p0) <= mode.vote_alpha(0.05)


@pytest.mark.parametrize("floor", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("method", EARLY)
def test_a_floor_that_is_not_kept_is_certified_with_probability_alpha_at_most(method, floor):
    """By an exact recursion, at the q whose class has just less than the floor left at the target."""
    made = deciding(method, samples=300, alpha=0.05, floor=floor)
    p0 = float(ndtr(0.5 + ndtri(floor)))
    assert 0.01 < error(made._boundary, p0) <= 0.05


@pytest.mark.parametrize("floor", [0.5, 0.7, 0.9])
def test_a_fixed_rule_claims_a_floor_that_is_not_kept_with_probability_alpha_at_most(floor):
    """Exact, for a half-space: its class has p at the image and at distance R exactly the lower end of it."""
    made = rule(samples=200, alpha=0.05, floor=floor)
    radii = [made.conclude("A", counts(k, 200)).radius or 0.0 for k in range(201)]
    for p in np.linspace(floor, 1, 60)[:-1]:
        left = ndtr(ndtri(p) - np.array(radii) / SIGMA)
        wrong = (left < floor * (1 - 1e-12)) & (np.array(radii) > 0)
        assert binom.pmf(np.flatnonzero(wrong), 200, p).sum() <= 0.05


def test_deciding_by_clopper_and_pearson_at_every_look_fails_the_same_check():
    made = deciding("sequential", samples=300, look=1, alpha=0.05)
    looks = made._boundary.looks
    p0 = float(ndtr(0.5))
    fewest = [
        next((k for k in range(n + 1) if clopper_pearson_lower(k, n, 0.05).value > p0), n + 1)
        for n in looks.tolist()
    ]
    peeking = Boundary(looks, np.array(fewest), np.full(len(looks), -1))
    assert error(peeking, p0) > 3 * 0.05


def test_batched_error_was_spent_for_the_looks_that_were_declared():
    """More looks than declared would spend more: what certifies at 8 looks' price is not for 64 looks."""
    few, many = (deciding("batched", samples=512, look=look, alpha=0.05) for look in (64, 8))
    assert not np.array_equal(many._boundary.certify_from[7::8], few._boundary.certify_from)
    votes = next(k for k in range(65) if few.conclude("A", counts(k, 64)).certified)
    assert not many.conclude("A", counts(votes, 64)).certified


def test_a_sequential_rule_decides_by_the_mixture_test_at_the_looks_alone():
    made = deciding("sequential")
    fewest = next(k for k in range(33) if MixtureTest(made._threshold.value, ALPHA).certifies(k, 32))
    assert made.decide("A", counts(fewest, 32)) is Decision.CERTIFIED
    assert made.decide("A", counts(fewest - 1, 32)) is Decision.UNDECIDED
    assert made.decide("A", counts(33, 33)) is Decision.UNDECIDED
    assert made.decide("A", counts(0, 32)) is Decision.HOPELESS


@pytest.mark.parametrize("method", ["fixed", "sequential"])
def test_without_a_target_nothing_is_decided(method):
    assert rule(method).decide("A", counts(100, 100)) is Decision.UNDECIDED


@pytest.mark.parametrize("votes", [0, 50, 100])
def test_a_false_radius_is_concluded_at_any_time_with_probability_alpha_at_most(votes):
    """The largest radius along a run never exceeds the truth but for alpha: exact, over all runs of 14."""
    made = rule("sequential", 14, alpha=0.2)
    p = 0.5 + votes / 250
    critical = [
        next((k for k in range(n + 1) if made.conclude("A", counts(k, n)).p_lower > p), n + 1)
        for n in range(1, 15)
    ]
    walk = Boundary(np.arange(1, 15), np.array(critical), np.full(14, -1))
    assert error(walk, p) <= 0.2


def test_a_fixed_rule_that_took_any_number_of_samples_would_fail_that_check():
    p = 0.5
    critical = [
        next((k for k in range(n + 1) if clopper_pearson_lower(k, n, 0.2).value > p), n + 1)
        for n in range(1, 15)
    ]
    walk = Boundary(np.arange(1, 15), np.array(critical), np.full(14, -1))
    assert error(walk, p) > 0.2
    assert binom.sf(critical[-1] - 1, 14, p) <= 0.2


# --- contradictions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Asymmetric(0.0, 0.2), Symmetric(0.2)], ids=named)
def test_votes_that_contradict_the_mode_are_an_error_that_says_so(mode):
    for made in (rule(samples=1000, mode=mode), deciding("sequential", samples=1000, mode=mode)):
        with pytest.raises(ContradictionError, match="its assumption does not hold here"):
            made.conclude("A", counts(1000, 1000))
    with pytest.raises(ContradictionError, match="its assumption does not hold here"):
        made.decide("A", counts(1000, 1000))


# --- refusals -----------------------------------------------------------------------------------------------

TARGET = {"target_radius": 0.25, "look_every": 8}
REFUSED = {
    "an unknown method": ({"method": "peeking"}, "there is no method 'peeking'"),
    "a mode's name for a mode": ({"mode": "composite"}, "'composite' is no mode"),
    "alpha nan": ({"alpha": math.nan}, "alpha is nan"),
    "alpha that the mode makes 0": ({"alpha": 5e-324, "mode": Audit(9, 9)}, "alpha is"),
    "no samples": ({"samples": 0}, "the number of samples is 0"),
    "too many samples": ({"samples": 10**9 + 1}, "the number of samples is 1000000001"),
    "sigma 0": ({"sigma": 0.0}, "sigma is 0"),
    "floor 1": ({"floor": 1.0}, "the floor is 1"),
    "fixed with a target": (TARGET, "a fixed number of samples decides no target"),
    "batched without one": ({"method": "batched"}, "give one"),
    "a target without looks": ({"method": "sequential", "target_radius": 0.25}, "belong together"),
    "looks without a target": ({"method": "sequential", "look_every": 8}, "belong together"),
    "no look": ({"method": "sequential", **TARGET, "look_every": 0}, "a look every 0"),
    "a far look": ({"method": "sequential", **TARGET, "look_every": 10**30}, "a look every 10000"),
    "out of reach": ({"method": "sequential", **TARGET, "target_radius": 1.5}, "even if all agree"),
    "nobody reaches it": ({"method": "sequential", **TARGET, "target_radius": 50}, "no vote certifies"),
    "a target beyond floats": ({"method": "sequential", **TARGET, "target_radius": 1e308}, "no vote"),
    "pairwise sequential": ({"method": "sequential", "mode": Pairwise()}, "goes with the method fixed"),
    "pairwise with a target": ({"method": "batched", **TARGET, "mode": Pairwise()}, "goes with the method"),
    "pairwise with a floor": ({"floor": 0.6, "mode": Pairwise()}, "goes with the method fixed"),
    "an error rate above the rest": (
        {"method": "sequential", **TARGET, "mode": Adversarial(0.5)},
        "no vote certifies",
    ),
    "no calibration to speak of": (
        {"method": "batched", **TARGET, "mode": Calibrated(5, 5)},
        "no vote certifies",
    ),
    "a billion samples with small looks": (
        {"method": "sequential", **TARGET, "samples": 10**9},
        "more than 100000 looks",
    ),
    "more than batched can plan": (
        {"method": "batched", **TARGET, "samples": 10**9, "look_every": 10**6},
        "batched takes 100000 samples at most",
    ),
    **{
        f"a target of {number}": ({"method": "sequential", **TARGET, "target_radius": number}, "the target")
        for number in (0.0, -0.25, math.nan, math.inf, -math.inf)
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rule_that_cannot_be_applied_is_refused_before_the_first_vote(name):
    given_, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        rule(**given_)


@pytest.mark.parametrize("radius", [0.0, -0.25, math.nan])
def test_no_change_makes_a_rule_out_of_parts_that_do_not_fit(radius):
    with pytest.raises(ValueError, match="the target radius is"):
        replace(deciding("sequential"), target_radius=radius)


def test_the_largest_rules_are_made_without_planning_every_sample(monkeypatch):
    """What is refused is refused before anything of that size is made."""
    from edgers import rule as module

    def made(*_):
        raise AssertionError("planned")

    monkeypatch.setattr(module, "even_looks", made)
    for method, samples in (("sequential", 8 * MAX_LOOKS + 8), ("batched", MAX_BATCHED + 1)):
        with pytest.raises(ValueError, match=r"looks|at most"):
            deciding(method, samples=samples)
