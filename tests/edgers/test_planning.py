"""Planning: golden figures, brute force over small rules, what a plan promises, laws, refusals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.planning import (
    MAX_CAP,
    Target,
    fixed_plan,
    make_plans,
    stopping_plan,
    unanimous_samples,
)
from edgers.smoothing.radius import certified_radius, required_probability
from edgers.smoothing.stopping import Boundary, Decision, fixed_boundary, least_expected_samples
from tests.edgers import exact_binomial

laws = settings(deadline=None, max_examples=30)
alphas = st.floats(1e-9, 0.3)
sigmas = st.floats(0.05, 2)
ratios = st.floats(0, 2)  # radius / sigma
EACH_SAMPLE = {"batch": 1, "cap": 4000}


def certifies(votes, samples, radius, sigma=0.5, alpha=0.001):
    """Whether a certificate of so many votes has at least this radius, by the rule that certificates use."""
    found = certified_radius(clopper_pearson_lower(votes, samples, alpha), sigma)
    return found is not None and found >= radius


def fewest(samples, radius, sigma=0.5, alpha=0.001):
    """The fewest votes that certify the radius, by trying them all from above."""
    votes = samples + 1
    while votes and certifies(votes - 1, samples, radius, sigma, alpha):
        votes -= 1
    return votes


# --- golden figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "samples"), [(0, 10), (0.25, 19), (0.5, 40), (0.75, 100), (1.0, 301)])
def test_so_many_samples_certify_this_radius_if_all_agree(radius, samples):
    assert unanimous_samples(required_probability(radius, 0.5).value, 0.001) == samples


@pytest.mark.parametrize(
    ("radius", "expected"),
    [
        pytest.param(0.25, {0.8: 279, 0.9: 62, 0.95: 36, 0.99: 24, 1: 22}, id="R >= .25"),
        pytest.param(0.5, {0.95: 133, 0.99: 57, 1: 47}, id="R >= .5"),
        pytest.param(0.75, {0.99: 190, 1: 117}, id="R >= .75"),
    ],
)
def test_the_expected_samples_of_the_sequential_rule_are_known(radius, expected):
    target = Target(0.5, radius, 0.001, **EACH_SAMPLE)
    for plan in make_plans(target, list(expected)):
        assert plan.sequential.expected_samples == pytest.approx(expected[plan.p], rel=0.02, abs=0.5)


@pytest.mark.parametrize(("radius", "samples"), [(0.1, 15), (0.25, 22), (0.5, 47)])
def test_the_sequential_rule_looks_first_where_it_can_certify(radius, samples):
    (plan,) = make_plans(Target(0.5, radius, 0.001), [1])
    assert (plan.sequential.expected_samples, plan.batched.expected_samples % 8) == (samples, 0)


@pytest.mark.parametrize(
    ("p", "samples", "votes"), [(0.9, 71, 61), (0.95, 43, 39), (0.99, 26, 25), (1, 19, 19)]
)
def test_a_fixed_n_that_certifies_nine_times_in_ten_is_the_smallest_by_brute_force(p, samples, votes):
    threshold = required_probability(0.25, 0.5).value
    plan = fixed_plan(p, threshold, 0.001, 0.9)
    assert (plan.samples, plan.votes) == (samples, votes)
    chances = [binom.sf(fewest(n, 0.25) - 1, n, p) for n in range(1, samples + 1)]
    assert max(chances[:-1]) < 0.9 <= chances[-1] == pytest.approx(plan.certified, rel=1e-9)


@pytest.mark.parametrize("p", [0.72, 0.74])
def test_a_fixed_n_of_thousands_is_the_smallest_by_brute_force(p):
    threshold = required_probability(0.25, 0.5).value
    n = np.arange(1, 9000)
    votes = binom.isf(0.001, n, threshold) + 1
    enough = binom.sf(votes - 1, n, p) >= 0.9
    assert fixed_plan(p, threshold, 0.001, 0.9).samples == n[enough][0] > 1000


def test_a_power_a_hair_higher_than_the_plans_takes_more_samples():
    threshold = required_probability(0.25, 0.5).value
    plan = fixed_plan(0.9, threshold, 0.001, 0.9)
    assert fixed_plan(0.9, threshold, 0.001, plan.certified).samples == plan.samples
    assert fixed_plan(0.9, threshold, 0.001, plan.certified * (1 + 1e-12)).samples > plan.samples


# --- what a plan promises -----------------------------------------------------------------------------------


@laws
@given(ratios, sigmas, alphas)
def test_the_unanimous_plan_certifies_and_one_sample_fewer_does_not(ratio, sigma, alpha):
    radius = ratio * sigma
    samples = unanimous_samples(required_probability(radius, sigma).value, alpha)
    assert certifies(samples, samples, radius, sigma, alpha)
    assert samples == 1 or not certifies(samples - 1, samples - 1, radius * (1 + 1e-9) + 1e-9, sigma, alpha)


@laws
@given(ratios, sigmas, alphas, st.floats(0.1, 0.99), st.floats(0.05, 0.99))
def test_a_fixed_plan_certifies_with_its_votes_and_as_often_as_it_says(ratio, sigma, alpha, way, power):
    radius = ratio * sigma
    threshold = required_probability(radius, sigma).value
    p = threshold + (1 - threshold) * way
    plan = fixed_plan(p, threshold, alpha, power)
    if plan is None:
        assert way < 0.2
        return
    assert certifies(plan.votes, plan.samples, radius, sigma, alpha)
    assert not certifies(plan.votes - 1, plan.samples, radius * (1 + 1e-9) + 1e-9, sigma, alpha)
    assert plan.certified >= power
    assert plan.certified == pytest.approx(binom.sf(plan.votes - 1, plan.samples, p), rel=1e-8)


def normal_sample_size(p, threshold, alpha, power):
    """The textbook's normal approximation."""
    spread = norm.isf(alpha) * math.sqrt(threshold * (1 - threshold)) + norm.ppf(power) * math.sqrt(
        p * (1 - p)
    )
    return math.ceil((spread / (p - threshold)) ** 2)


def at_the_mean(p, threshold, alpha, power):
    """The smallest n that certifies when exactly n * p votes come in."""
    n = 1
    while not clopper_pearson_lower(int(n * p), n, alpha).value > threshold:
        n += 1
    return n


def two_sided(p, threshold, alpha, power):
    """Half of alpha: more samples than it takes."""
    return fixed_plan(p, threshold, alpha / 2, power).samples


@pytest.mark.parametrize("rule", [normal_sample_size, at_the_mean, two_sided])
@pytest.mark.parametrize("p", [0.9, 0.95])
def test_a_wrong_sample_size_is_not_the_smallest_that_certifies_nine_times_in_ten(rule, p):
    threshold = required_probability(0.25, 0.5).value
    assert rule(p, threshold, 0.001, 0.9) != fixed_plan(p, threshold, 0.001, 0.9).samples


def test_a_probability_at_or_below_the_threshold_is_out_of_reach():
    target = Target(0.5, 0.25, 0.001, cap=500)
    for plan in make_plans(target, [0.5, target.threshold]):
        assert not plan.reachable
        assert plan.fixed is None
        assert max(plan.sequential.certified, plan.batched.certified) <= 0.001 * (1 + 1e-9)


def test_out_of_reach_is_no_matter_of_power():
    assert fixed_plan(0.7, 0.7, 0.1, power=0.01) is None


def test_a_plan_of_more_samples_than_are_tried_is_none():
    threshold = required_probability(0.25, 0.5).value
    assert fixed_plan(0.8, threshold, 0.001, 0.9, limit=315) is None
    assert fixed_plan(0.8, threshold, 0.001, 0.9, limit=316).samples == 316


def test_the_sawtooth_of_votes_makes_a_larger_n_certify_less_often():
    plan = fixed_plan(0.9, required_probability(0.25, 0.5).value, 0.001, 0.9)
    n = plan.samples + 1
    assert binom.sf(fewest(n, 0.25) - 1, n, 0.9) < 0.9


@pytest.mark.parametrize("ratio", [0, 1e-12, 1e-3, 0.3, 1, 2.5, 5, 7])
def test_the_required_probability_is_never_below_the_exact_one_and_close_to_it(ratio):
    found, exact = required_probability(ratio, 1.0).value, exact_binomial.normal_cdf(ratio)
    assert exact <= found <= exact * (1 + 2e-14)


@pytest.mark.parametrize("p", [0.8, 0.95, 1.0])
def test_no_rule_needs_fewer_samples_in_the_mean_than_walds_bound(p):
    target = Target(0.5, 0.25, 0.001, **EACH_SAMPLE)
    (plan,) = make_plans(target, [p])
    least = least_expected_samples(p, target.threshold, 0.001)
    for rule in (plan.sequential, plan.batched):
        if rule.certified > 1 - 1e-6:
            assert rule.expected_samples >= least * (1 - 1e-6)


def every_run(boundary, p):
    """Outcome, samples and probability of every sequence of votes up to the cap."""
    for votes in itertools.product((0, 1), repeat=boundary.cap):
        chance = math.prod(p if vote else 1 - p for vote in votes)
        for samples in boundary.looks.tolist():
            decision = boundary.decide(sum(votes[:samples]), samples)
            if decision is not Decision.UNDECIDED or samples == boundary.cap:
                yield decision, samples, chance
                break


@pytest.mark.parametrize("p", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_a_stopping_plan_is_what_counting_every_run_gives(p):
    boundary = Boundary(np.array([2, 5, 7, 11]), np.array([3, 5, 6, 8]), np.array([0, 1, 2, 6]))
    plan, runs = stopping_plan(boundary, p), list(every_run(boundary, p))
    for name in ("certified", "hopeless", "undecided"):
        exact = sum(chance for decision, _, chance in runs if decision.value == name)
        assert getattr(plan, name) == pytest.approx(exact, abs=1e-12)
    assert plan.expected_samples == pytest.approx(sum(n * chance for _, n, chance in runs))
    by = {look: sum(chance for _, n, chance in runs if n <= look) for look in boundary.looks.tolist()}
    assert plan.samples_95 == min(look for look, chance in by.items() if chance >= 0.95 - 1e-12)


def test_a_rule_with_one_look_always_spends_its_cap():
    plan = stopping_plan(fixed_boundary(0.6, 0.01, 50), 0.9)
    assert (plan.expected_samples, plan.samples_95) == (pytest.approx(50), 50)


# --- laws ---------------------------------------------------------------------------------------------------


def samples_of(p=0.9, threshold=0.7, alpha=0.001, power=0.9):
    plan = fixed_plan(p, threshold, alpha, power)
    return math.inf if plan is None else plan.samples


@laws
@given(st.floats(0.75, 1), st.floats(0.75, 1))
def test_a_larger_p_never_needs_more_samples(p, other):
    assert samples_of(p=max(p, other)) <= samples_of(p=min(p, other))


@pytest.mark.parametrize("name", ["alpha", "power", "threshold"])
@laws
@given(data=st.data())
def test_a_smaller_alpha_a_higher_power_and_a_larger_radius_never_need_fewer(name, data):
    easy, hard = {"alpha": (0.3, 1e-9), "power": (0.05, 0.95), "threshold": (0.5, 0.85)}[name]
    ways = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    samples = [samples_of(**{name: easy + (hard - easy) * way}) for way in ways]
    assert samples == sorted(samples)


@pytest.mark.parametrize("factor", [0.25, 2, 1024])
def test_radius_and_sigma_scaled_together_leave_the_plan_as_it_is(factor):
    plans, scaled = (
        make_plans(Target(0.5 * f, 0.25 * f, 0.001, batch=16, cap=200), [0.7, 0.95]) for f in (1, factor)
    )
    assert plans == scaled


def test_looking_less_often_never_saves_samples():
    means = [
        make_plans(Target(0.5, 0.25, 0.001, batch=batch, cap=960), [0.95])[0].sequential.expected_samples
        for batch in (1, 4, 16, 64)
    ]
    assert means == sorted(means)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        pytest.param(lambda: required_probability(-0.1, 1), "the target radius is -0.1", id="radius below 0"),
        pytest.param(lambda: required_probability(math.nan, 1), "the target radius is nan", id="radius nan"),
        pytest.param(lambda: required_probability(math.inf, 1), "the target radius is inf", id="radius inf"),
        pytest.param(lambda: required_probability(0.1, 0), "sigma is 0", id="sigma"),
        pytest.param(
            lambda: Target(1, 9, 0.001).threshold, "the target radius is 9.*close to 1", id="9 sigma"
        ),
        pytest.param(lambda: unanimous_samples(1 - 1e-12, 0.001), "no 1000000000 samples", id="10^9"),
        pytest.param(lambda: unanimous_samples(1.0, 0.001), "the threshold is 1.0", id="threshold"),
        pytest.param(lambda: unanimous_samples(0.7, 0.5), "alpha is 0.5", id="alpha"),
        pytest.param(lambda: fixed_plan(0.9, 0.7, 0.1, 1), "the power is 1", id="power 1"),
        pytest.param(lambda: fixed_plan(0.9, 0.7, 0.1, math.nan), "the power is nan", id="power nan"),
        pytest.param(lambda: fixed_plan(1.1, 0.7, 0.1, 0.9), "p is 1.1", id="p above 1"),
        pytest.param(lambda: fixed_plan(math.nan, 0.7, 0.1, 0.9), "p is nan", id="p nan"),
        pytest.param(lambda: make_plans(Target(1, 1, 0.1, cap=0), [0.9]), "the cap is 0", id="cap 0"),
        pytest.param(
            lambda: make_plans(Target(1, 1, 0.1, cap=MAX_CAP + 1), [0.9]), "the cap is 20001", id="cap"
        ),
        pytest.param(lambda: make_plans(Target(1, 1, 0.1, batch=0), [0.9]), "the batch is 0", id="batch"),
    ],
)
def test_what_cannot_be_planned_is_refused_and_named(ask, said):
    with pytest.raises(ValueError, match=said):
        ask()
