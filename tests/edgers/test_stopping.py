"""Stopping rules: exact probabilities against all paths and binomial tails, monotone laws, refusals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import binom

from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.stopping import (
    Boundary,
    Decision,
    even_looks,
    fixed_boundary,
    least_expected_samples,
    operating_characteristics,
    size,
    unreachable,
)

laws = settings(deadline=None, max_examples=60)
probabilities = st.floats(0.0, 1.0)


@st.composite
def boundaries(draw, cap=10):
    """Any rule with a cap of at most `cap`, sound or not."""
    looks = sorted(draw(st.sets(st.integers(1, cap), min_size=1)))
    certify = [draw(st.integers(0, look + 1)) for look in looks]
    give_up = [draw(st.integers(-1, fewest - 1)) for fewest in certify]
    return Boundary(looks, certify, give_up)


def every_path(boundary, p):
    """Certified, hopeless, undecided and expected samples: a sum over all sequences of answers."""
    sums = dict.fromkeys(Decision, 0.0)
    expected = 0.0
    for answers in itertools.product((0, 1), repeat=boundary.cap):
        chance = p ** sum(answers) * (1 - p) ** (len(answers) - sum(answers))
        for look in boundary.looks.tolist():
            decision = boundary.decide(sum(answers[:look]), look)
            if decision is not Decision.UNDECIDED:
                break
        sums[decision] += chance
        expected += chance * look
    return [*(sums[outcome] for outcome in Decision), expected]


def outcomes(boundary, p):
    found = operating_characteristics(boundary, p)
    return [found.certified, found.hopeless, found.undecided, found.expected_samples]


# --- exactness ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(boundaries(8), probabilities)
def test_the_recursion_is_the_sum_over_all_paths(boundary, p):
    assert outcomes(boundary, p) == pytest.approx(every_path(boundary, p), abs=1e-13)


@laws
@given(boundaries(200), probabilities)
def test_the_three_outcomes_have_probability_one_together(boundary, p):
    assert sum(outcomes(boundary, p)[:3]) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("p", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("steps", [[1000], [1, 1000], [500, 501, 1000]])
def test_without_earlier_decisions_it_is_the_binomial_tail_to_twelve_digits(p, steps):
    votes = int(1000 * p) + 1
    never = [look + 1 for look in steps[:-1]]
    boundary = Boundary(steps, [*never, votes], [-1] * len(steps))
    assert size(boundary, p) == pytest.approx(binom.sf(votes - 1, 1000, p), rel=1e-11)


def test_a_tiny_tail_keeps_its_digits():
    steps = list(range(1, 401))
    boundary = Boundary(steps, [*(look + 1 for look in steps[:-1]), 390], [-1] * 400)
    assert size(boundary, 0.5) == pytest.approx(binom.sf(389, 400, 0.5), rel=1e-11)
    assert size(boundary, 0.5) < 1e-100


@pytest.mark.parametrize(("p", "expected"), [(0.0, [0, 1, 0, 2]), (1.0, [1, 0, 0, 3])])
def test_a_certain_answer_leaves_nothing_to_chance(p, expected):
    boundary = Boundary([1, 2, 3, 9], [2, 3, 3, 10], [-1, 0, 0, 0])
    assert outcomes(boundary, p) == expected


def test_a_look_counts_all_samples_up_to_it():
    assert operating_characteristics(Boundary([8, 16], [0, 0], [-1, -1]), 0.3).expected_samples == 8


# --- the fixed n --------------------------------------------------------------------------------------------


@laws
@given(st.floats(0.01, 0.99), st.floats(1e-9, 0.3), st.integers(1, 3000))
def test_the_fixed_rule_certifies_what_clopper_pearson_certifies(threshold, alpha, samples):
    fewest = int(fixed_boundary(threshold, alpha, samples).certify_from[0])
    assert fewest == samples + 1 or clopper_pearson_lower(fewest, samples, alpha).value > threshold
    assert clopper_pearson_lower(fewest - 1, samples, alpha).value <= threshold
    assert size(fixed_boundary(threshold, alpha, samples), threshold) <= alpha


def test_66_votes_of_100_certify_above_one_half():
    assert fixed_boundary(0.5, 0.001, 100).certify_from.tolist() == [66]


def peeking(threshold, alpha, looks):
    """The unsound rule: Clopper-Pearson at every look, as if it were the only one."""
    fewest = [int(fixed_boundary(threshold, alpha, look).certify_from[0]) for look in looks.tolist()]
    return Boundary(looks, fewest, [-1] * len(looks))


def test_peeking_at_clopper_pearson_breaks_its_level_fifteen_times_by_a_thousand_samples():
    error = size(peeking(0.5, 0.001, even_looks(1000, 1)), 0.5)
    assert error == pytest.approx(0.015, rel=0.05)


@pytest.mark.parametrize("batch", [8, 32])
def test_peeking_after_batches_breaks_the_level_too(batch):
    assert size(peeking(0.5, 0.001, even_looks(1000, batch)), 0.5) > 0.004


# --- laws ---------------------------------------------------------------------------------------------------


@laws
@given(boundaries(60), probabilities, probabilities)
def test_more_agreement_certifies_more_and_gives_up_less(boundary, one, other):
    fewer, more = (operating_characteristics(boundary, p) for p in sorted((one, other)))
    assert fewer.certified <= more.certified + 1e-12
    assert fewer.hopeless >= more.hopeless - 1e-12


@laws
@given(boundaries(60), probabilities)
def test_giving_up_never_adds_a_certificate(boundary, p):
    patient = Boundary(boundary.looks, boundary.certify_from, np.full(len(boundary.looks), -1))
    assert operating_characteristics(boundary, p).certified <= size(patient, p) + 1e-12


@laws
@given(boundaries(9))
def test_votes_are_unreachable_exactly_when_unanimity_from_there_on_never_certifies(boundary):
    hopeless = unreachable(boundary.looks, boundary.certify_from)
    for at, look in enumerate(boundary.looks.tolist()):
        later = range(at + 1, len(boundary.looks))
        for votes in range(look + 1):
            reaches = any(votes + boundary.looks[i] - look >= boundary.certify_from[i] for i in later)
            assert (votes <= hopeless[at]) == (not reaches and len(later) > 0)


# --- Wald's bound -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("radius", "figures"),
    [
        (0.25, {0.8: 231, 0.9: 56, 0.95: 33, 0.99: 22, 1: 19}),
        (0.5, {0.95: 120, 0.99: 52, 1: 40}),
        (0.75, {0.99: 175, 1: 100}),
    ],
)
def test_walds_bound_has_the_figures_it_is_known_for(radius, figures):
    threshold = float(ndtr(radius / 0.5))
    for p, figure in figures.items():
        assert math.ceil(least_expected_samples(p, threshold, 0.001)) == figure


def test_no_rule_of_full_power_beats_walds_bound():
    boundary = Boundary(even_looks(60, 1), [*range(2, 21), *[19] * 41], [-1] * 60)
    alpha = size(boundary, 0.2)
    assert operating_characteristics(boundary, 0.999).certified == pytest.approx(1)
    expected = operating_characteristics(boundary, 0.999).expected_samples
    assert least_expected_samples(0.999, 0.2, alpha) <= expected


# --- looks, decisions, refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cap", "batch", "looks"),
    [(10, 4, [4, 8, 10]), (8, 4, [4, 8]), (3, 8, [3]), (4, 1, [1, 2, 3, 4])],
)
def test_even_looks_end_at_the_cap(cap, batch, looks):
    assert even_looks(cap, batch).tolist() == looks


def test_a_decision_reads_the_boundary_at_that_look():
    boundary = Boundary([8, 16], [8, 13], [3, 9])
    said = {(votes, look): boundary.decide(votes, look) for look in (8, 16) for votes in range(look + 1)}
    assert [votes for (votes, look), d in said.items() if look == 8 and d is Decision.CERTIFIED] == [8]
    assert [votes for (votes, look), d in said.items() if look == 16 and d is Decision.UNDECIDED] == [
        10,
        11,
        12,
    ]
    assert said[3, 8] is said[9, 16] is Decision.HOPELESS
    assert boundary.cap == 16


@pytest.mark.parametrize("samples", [7, 9, 17])
def test_a_decision_between_the_looks_is_refused(samples):
    with pytest.raises(ValueError, match=rf"{samples} samples are no look of this rule; it looks at 8, 16"):
        Boundary([8, 16], [8, 13], [3, 9]).decide(5, samples)


def test_a_boundary_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        Boundary([8], [8], [3]).certify_from[0] = 1


@pytest.mark.parametrize(
    ("looks", "certify_from", "give_up_at", "complaint"),
    [
        ([], [], [], "looks are"),
        ([0, 1], [1, 1], [-1, -1], "looks are"),
        ([2, 2], [1, 1], [-1, -1], "looks are 2, 2"),
        ([3, 2], [1, 1], [-1, -1], "larger than the one before"),
        ([1.5], [1], [-1], "looks are float64 numbers"),
        ([1], [1.5], [-1], "certify_from are float64 numbers"),
        ([1, 2], [1], [-1, -1], "certify_from has shape"),
        ([1, 2], [1, 1], [-1], "give_up_at has shape"),
        ([4], [6], [-1], "look [+] 1 at every look"),
        ([4], [3], [3], "look [+] 1 at every look"),
        ([4], [3], [-2], "look [+] 1 at every look"),
        ([10**9 + 1], [3], [-1], "looks are"),
    ],
)
def test_a_boundary_that_is_none_is_refused(looks, certify_from, give_up_at, complaint):
    with pytest.raises(ValueError, match=complaint):
        Boundary(looks, certify_from, give_up_at)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_p_that_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match=rf"p is {p}"):
        operating_characteristics(Boundary([1], [1], [-1]), p)


@pytest.mark.parametrize("threshold", [0, 1, -1, 2, math.nan])
def test_a_threshold_that_nothing_exceeds_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"the threshold is {threshold}"):
        fixed_boundary(threshold, 0.001, 10)


@pytest.mark.parametrize("p", [0.5, 0.6, 1.01, math.nan])
def test_walds_bound_needs_a_p_above_the_threshold(p):
    with pytest.raises(ValueError, match=rf"p is {p}; it must lie above the threshold 0.6"):
        least_expected_samples(p, 0.6, 0.001)


@pytest.mark.parametrize(("cap", "batch"), [(10, 0), (0, 1), (10, -1)])
def test_looks_without_samples_are_refused(cap, batch):
    with pytest.raises(ValueError, match="must"):
        even_looks(cap, batch)
