"""Alpha-spending at the batch boundaries: exact size, nothing wasted, wrong rules that fail, refusals."""

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import binom

from edgers.smoothing.batched import critical_votes, spending_boundary
from edgers.smoothing.sequential import MixtureTest
from edgers.smoothing.stopping import (
    Boundary,
    even_looks,
    fixed_boundary,
    operating_characteristics,
    size,
)

laws = settings(deadline=None, max_examples=60)
ALPHA = 0.001
QUARTER, HALF = float(ndtr(0.5)), float(ndtr(1.0))  # R >= .25 and R >= .5 at sigma = .5


def patient(boundary):
    """The rule without giving up."""
    return replace(boundary, give_up_at=np.full(len(boundary.looks), -1))


@st.composite
def look_patterns(draw):
    return sorted(draw(st.sets(st.integers(1, 300), min_size=1, max_size=12)))


# --- exact size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-6])
@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("threshold", [0.5, 0.6, QUARTER, 0.8, 0.95, 0.99, 0.999])
def test_a_false_certificate_has_probability_alpha_at_most(threshold, alpha, batch):
    rule = spending_boundary(threshold, alpha, even_looks(1000, batch))
    assert size(patient(rule), threshold) <= alpha
    assert size(rule, threshold) <= size(patient(rule), threshold)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_nearly_all_of_alpha_is_spent_by_the_cap(alpha, batch):
    rule = spending_boundary(QUARTER, alpha, even_looks(1000, batch))
    assert size(patient(rule), QUARTER) > 0.97 * alpha


def exact_size_at_half(rule):
    """In whole numbers: the paths of a fair coin that certify."""
    samples, paths, certified = 0, {0: 1}, Fraction(0)
    for look, certify_from in zip(rule.looks.tolist(), rule.certify_from.tolist(), strict=True):
        step, following = look - samples, Counter()
        for votes, count in paths.items():
            for more in range(step + 1):
                following[votes + more] += count * math.comb(step, more)
        certified += Fraction(sum(n for votes, n in following.items() if votes >= certify_from), 2**look)
        samples, paths = look, {votes: n for votes, n in following.items() if votes < certify_from}
    return certified


@pytest.mark.parametrize("alpha", [0.001, 1e-100, 1e-250])
def test_the_size_is_alpha_at_most_however_small_alpha_is(alpha):
    size_of_it = exact_size_at_half(spending_boundary(0.5, alpha, even_looks(1200, 8)))
    assert 0.9 * Fraction(alpha) < size_of_it <= Fraction(alpha)


@pytest.mark.parametrize("alpha", [1e-251, 1e-287, 5e-324])
def test_an_alpha_that_the_recursion_cannot_resolve_is_refused(alpha):
    """At 1e-287 the exact size of these looks would be 1.00005 alpha."""
    with pytest.raises(ValueError, match="at least 1e-250"):
        spending_boundary(0.5, alpha, even_looks(1600, 8))


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("threshold", [0.5, QUARTER, 0.9])
def test_who_has_certified_stays_certified_with_every_further_vote(threshold, alpha, batch):
    rule = spending_boundary(threshold, alpha, even_looks(400, batch))
    reached = np.maximum.accumulate(rule.looks - rule.certify_from)  # votes against that were forgiven
    assert (rule.looks - rule.certify_from >= reached).all()


@laws
@given(look_patterns(), st.floats(0.05, 0.95), st.floats(1e-6, 0.3))
@example([81, 82, 83], 0.75, 0.25)
def test_what_is_spent_by_each_look_is_within_its_budget_and_one_vote_fewer_would_break_it(
    looks, threshold, alpha
):
    rule = patient(spending_boundary(threshold, alpha, looks))
    for at, look in enumerate(looks):
        fewest = rule.certify_from[: at + 1]
        budget = alpha * math.sqrt(look / looks[-1])
        spent = size(Boundary(looks[: at + 1], fewest, np.full(at + 1, -1)), threshold)
        assert spent <= budget
        undecided = fewest[:-1] - 1 + look - rule.looks[:at]  # more votes than these no run can have
        bolder = np.append(fewest[:-1], min(fewest[-1] - 1, undecided.min(initial=look)))
        assert size(Boundary(looks[: at + 1], bolder, np.full(at + 1, -1)), threshold) > budget * (1 - 1e-8)


@laws
@given(look_patterns(), st.floats(0.05, 0.95), st.floats(1e-4, 0.3), st.floats(0, 1))
def test_the_threshold_is_the_least_favourable_of_all_that_do_not_exceed_it(looks, threshold, alpha, share):
    rule = spending_boundary(threshold, alpha, looks)
    assert size(rule, share * threshold) <= size(rule, threshold) * (1 + 1e-9)


@laws
@given(st.integers(1, 3000), st.floats(0.05, 0.95), st.floats(1e-9, 0.3))
def test_a_single_look_is_the_fixed_rule(samples, threshold, alpha):
    fewest = int(spending_boundary(threshold, alpha, [samples]).certify_from[0])
    fixed = int(fixed_boundary(threshold, alpha, samples).certify_from[0])
    assert fewest == fixed or math.isclose(
        binom.sf(min(fewest, fixed) - 1, samples, threshold), alpha, rel_tol=1e-6
    )


def test_the_critical_votes_of_two_looks_are_those_of_the_definition():
    first, second = critical_votes(0.5, np.array([10, 20]), np.array([0.02, 0.05])).tolist()
    assert first == 9  # P(X >= 9) = 11/1024 = .0107, P(X >= 8) = 56/1024 = .0547

    def crossing(votes):
        later = [math.comb(10, k) / 1024 * binom.sf(votes - k - 1, 10, 0.5) for k in range(9)]
        return 11 / 1024 + sum(later)

    assert crossing(second) <= 0.05 < crossing(second - 1)


# --- wrong rules --------------------------------------------------------------------------------------------


def all_of_alpha_at_every_look(threshold, alpha, looks):
    return [int(fixed_boundary(threshold, alpha, look).certify_from[0]) for look in looks.tolist()]


def one_vote_early(threshold, alpha, looks):
    return spending_boundary(threshold, alpha, looks).certify_from - 1


def votes_of_one_look_judged_by_the_look_before(threshold, alpha, looks):
    return np.append(looks[0] + 1, spending_boundary(threshold, alpha, looks).certify_from[:-1])


def spent_anew_at_each_look(threshold, alpha, looks):
    """Forgets what earlier looks have spent."""
    budgets = alpha * np.sqrt(looks / looks[-1])
    pairs = zip(looks, budgets, strict=True)
    return [int(critical_votes(threshold, np.array([n]), np.array([a]))[0]) for n, a in pairs]


@pytest.mark.parametrize(
    "wrong",
    [
        all_of_alpha_at_every_look,
        one_vote_early,
        votes_of_one_look_judged_by_the_look_before,
        spent_anew_at_each_look,
    ],
)
@pytest.mark.parametrize("batch", [8, 32])
def test_rules_that_spend_more_than_alpha_fail_the_size_check(wrong, batch):
    looks = even_looks(1000, batch)
    rule = Boundary(looks, wrong(QUARTER, ALPHA, looks), np.full(len(looks), -1))
    assert size(rule, QUARTER) > 1.2 * ALPHA


def test_looks_that_were_not_declared_break_the_level():
    declared = spending_boundary(QUARTER, ALPHA, even_looks(1000, 100))
    looks = even_looks(1000, 1)
    share = np.interp(looks, declared.looks, declared.certify_from / declared.looks)
    between = np.ceil(share * looks).astype(int)
    assert size(Boundary(looks, between, np.full(1000, -1)), QUARTER) > 1.2 * ALPHA


# --- what it is for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cap", "threshold", "p"), [(200, QUARTER, 0.8), (1000, QUARTER, 0.75), (1000, HALF, 0.9)]
)
def test_with_a_hard_cap_it_certifies_more_than_the_rule_for_any_time(cap, threshold, p):
    looks = even_looks(cap, 8)
    batched = operating_characteristics(spending_boundary(threshold, ALPHA, looks), p)
    anytime = operating_characteristics(MixtureTest(threshold, ALPHA).boundary(looks), p)
    assert batched.certified > anytime.certified + 0.04


@pytest.mark.parametrize("threshold", [QUARTER, HALF])
def test_where_the_vote_is_clear_it_stops_in_the_same_batch_or_the_next_as_the_rule_for_any_time(threshold):
    looks = even_looks(1000, 8)
    batched = operating_characteristics(spending_boundary(threshold, ALPHA, looks), 1)
    anytime = operating_characteristics(MixtureTest(threshold, ALPHA).boundary(looks), 1)
    assert batched.expected_samples <= anytime.expected_samples + 8


@pytest.mark.parametrize("p", [0.5, 0.75, 0.8, 0.9, 0.99])
def test_giving_up_costs_little_power(p):
    rule = spending_boundary(QUARTER, ALPHA, even_looks(1000, 8))
    lost = size(patient(rule), p) - size(rule, p)
    assert -1e-12 <= lost <= 0.01


def test_a_hopeless_input_is_given_up_early():
    found = operating_characteristics(spending_boundary(QUARTER, ALPHA, even_looks(1000, 8)), 0.5)
    assert found.hopeless > 0.999
    assert found.expected_samples < 90


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "alpha", "looks", "futility", "complaint"),
    [
        (1.0, 0.001, [8], 0.01, "the threshold is 1.0"),
        (0.7, 0.5, [8], 0.01, "alpha is 0.5"),
        (0.7, math.nan, [8], 0.01, "alpha is nan"),
        (0.7, 0.001, [8, 8], 0.01, "looks are 8, 8"),
        (0.7, 0.001, [], 0.01, "looks are"),
        (0.7, 0.001, [8], 0.5, "futility is 0.5"),
    ],
)
def test_what_is_no_rule_is_refused(threshold, alpha, looks, futility, complaint):
    with pytest.raises(ValueError, match=complaint):
        spending_boundary(threshold, alpha, looks, futility)
