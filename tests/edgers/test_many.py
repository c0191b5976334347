"""Many certificates: levels that add up, what a stream gets wrong, and votes merged from ranges."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.many import (
    VoteRange,
    any_wrong,
    bonferroni,
    expected_wrong,
    fixed_size,
    merge_fixed,
    merge_prefix,
    scheduled,
    within_budget,
)
from tests.edgers.exact_binomial import mp

laws = settings(deadline=None, max_examples=100)
alphas = st.floats(1e-12, 0.49)


# --- levels -------------------------------------------------------------------------------------------------


@given(alphas, st.integers(1, 10**9))
def test_the_levels_of_bonferroni_add_up_to_alpha_at_most_and_waste_none(alpha, certificates):
    level = bonferroni(alpha, certificates)
    assert Fraction(alpha) * (1 - Fraction(1, 10**15)) <= Fraction(level) * certificates <= Fraction(alpha)


@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.3, 0.49])
def test_the_levels_of_the_schedule_add_up_to_alpha_at_most_however_long_it_goes_on(alpha):
    """The levels from 1001 on are below 6 alpha / (pi^2 i^2), whose exact sum is alpha times psi'(1001)."""
    begun = mp.fsum(mp.mpf(scheduled(alpha, i)) for i in range(1, 1001))
    rest = 6 / mp.pi**2 * alpha * mp.psi(1, 1001)
    assert alpha * (1 - mp.mpf("1e-12")) <= begun + rest <= alpha


@given(alphas, st.integers(1, 10**9))
def test_no_level_of_the_schedule_is_above_its_share(alpha, index):
    exact = 6 * mp.mpf(alpha) / (mp.pi * index) ** 2
    assert exact * (1 - mp.mpf("1e-11")) <= scheduled(alpha, index) <= exact


def test_declared_levels_are_added_without_rounding():
    assert within_budget([0.0625, 0.0625], 0.125)
    assert not within_budget([0.0625, math.nextafter(0.0625, 1)], 0.125)
    assert not within_budget([0.1, 0.2], 0.3)  # as floats, 0.1 and 0.2 add up to more than 0.3
    assert within_budget([bonferroni(0.3, 7)] * 7, 0.3)
    assert within_budget([scheduled(0.001, i) for i in range(1, 100)], 0.001)


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_a_thousand_certificates_at_one_in_a_thousand_expect_one_that_is_wrong():
    assert expected_wrong(1000, 0.001) == pytest.approx(1.0)


def test_a_thousand_tries_make_a_false_certificate_with_probability_58_percent():
    """A class at the edge of the majority, n = 1000, alpha = .001, retried until it certifies."""
    size = fixed_size(1000, 0.001)
    assert size == pytest.approx(0.000865, rel=1e-3)
    assert any_wrong(1000, size) == pytest.approx(0.58, abs=0.005)


@pytest.mark.parametrize(
    ("samples", "alpha", "p0"), [(100, 0.001, 0.5), (40, 0.05, 0.7), (1, 0.4, 0.3), (5, 0.01, 0.5)]
)
def test_the_size_is_the_sum_over_the_votes_that_exceed(samples, alpha, p0):
    wrong = [k for k in range(samples + 1) if clopper_pearson_lower(k, samples, alpha).value > p0]
    assert fixed_size(samples, alpha, p0) == pytest.approx(binom.pmf(wrong, samples, p0).sum(), rel=1e-12)
    assert fixed_size(samples, alpha, p0) <= alpha


def test_a_vote_whose_bound_is_p0_itself_is_not_wrong():
    p0 = clopper_pearson_lower(7, 10, 0.01).value
    assert fixed_size(10, 0.01, p0) == pytest.approx(binom.sf(7, 10, p0), rel=1e-12)


def test_a_bound_that_no_vote_lifts_above_p0_is_never_wrong():
    assert fixed_size(9, 0.001) == 0.0


@laws
@given(st.integers(1, 300), st.floats(1e-6, 0.49), st.floats(0.01, 0.99))
def test_the_size_never_exceeds_alpha(samples, alpha, p0):
    assert fixed_size(samples, alpha, p0) <= alpha


@pytest.mark.parametrize(
    ("certificates", "size", "expected"),
    [(1, 0.25, 0.25), (2, 0.25, 0.4375), (10**9, 1e-18, 1e-9), (5, 0.0, 0.0), (3, 1.0, 1.0)],
)
def test_the_probability_that_any_is_wrong_is_known(certificates, size, expected):
    assert any_wrong(certificates, size) == pytest.approx(expected, rel=1e-12)


# --- merging ------------------------------------------------------------------------------------------------


@st.composite
def labelled(draw):
    """One label per sample of three classes, and the places where the samples are cut into ranges."""
    labels = draw(st.lists(st.integers(0, 2), min_size=1, max_size=60))
    return labels, sorted(draw(st.sets(st.integers(1, len(labels)), max_size=8)) | {len(labels)})


def counted(labels):
    return [labels.count(label) for label in range(3)]


def ranges_of(labels, cuts):
    starts = [0, *cuts[:-1]]
    return [VoteRange(a, counted(labels[a:b])) for a, b in zip(starts, cuts, strict=True)]


@laws
@given(labelled(), st.randoms(use_true_random=False))
def test_ranges_in_any_order_merge_to_the_votes_of_one_run(case, random):
    labels, cuts = case
    ranges = ranges_of(labels, cuts)
    random.shuffle(ranges)
    assert merge_fixed(ranges, len(labels)) == counted(labels)


@laws
@given(labelled(), st.integers(1, 9))
def test_a_prefix_merges_to_the_votes_of_its_samples(case, kept):
    labels, cuts = case
    ranges = ranges_of(labels, cuts)[:kept]
    assert merge_prefix(ranges) == counted(labels[: ranges[-1].end])


@laws
@given(labelled(), st.data())
def test_a_range_that_is_dropped_is_noticed(case, data):
    labels, cuts = case
    ranges = ranges_of(labels, cuts)
    ranges.pop(data.draw(st.integers(0, len(ranges) - 1)))
    with pytest.raises(ValueError, match=r"no ranges to merge|leave a gap|were declared"):
        merge_fixed(ranges, len(labels))


@laws
@given(labelled(), st.data())
def test_a_range_that_counts_twice_is_noticed(case, data):
    labels, cuts = case
    ranges = ranges_of(labels, cuts)
    ranges.append(data.draw(st.sampled_from(ranges)))
    with pytest.raises(ValueError, match="overlap"):
        merge_fixed(ranges, len(labels))


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        pytest.param([], "no ranges to merge", id="none"),
        pytest.param([(0, [3, 1]), (3, [1, 1])], "overlap: one begins at sample 3, not at 4", id="overlap"),
        pytest.param([(0, [3, 1]), (5, [1, 1])], "leave a gap.*begins at sample 5, not at 4", id="gap"),
        pytest.param([(1, [3, 1])], "leave a gap.*begins at sample 1, not at 0", id="late start"),
        pytest.param([(0, [3, 1]), (4, [1, 1, 0])], "a range of 3 classes beside one of 2", id="classes"),
    ],
)
def test_ranges_that_do_not_fit_are_refused_and_named(ranges, said):
    parts = [VoteRange(*part) for part in ranges]
    with pytest.raises(ValueError, match=said):
        merge_prefix(parts)
    with pytest.raises(ValueError, match=said):
        merge_fixed(parts, 6)


def test_a_sequential_run_takes_its_ranges_in_index_order_only():
    parts = [VoteRange(4, [1, 1]), VoteRange(0, [3, 1])]
    assert merge_fixed(parts, 6) == [4, 2]
    with pytest.raises(ValueError, match="out of order: one begins at sample 4, not at 0"):
        merge_prefix(parts)


def test_more_samples_than_declared_are_refused():
    with pytest.raises(ValueError, match="the ranges hold 6 samples; 5 were declared"):
        merge_fixed([VoteRange(0, [3, 3])], 5)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "votes"), [(-1, [1, 2]), (0, [1, -2])])
def test_a_negative_range_is_refused(first, votes):
    with pytest.raises(ValueError, match="neither may be negative"):
        VoteRange(first, votes)


@pytest.mark.parametrize("call", [bonferroni, scheduled, lambda a, n: expected_wrong(n, a)])
def test_levels_and_numbers_out_of_range_are_refused_and_named(call):
    with pytest.raises(ValueError, match=r"alpha is 0\.5"):
        call(0.5, 1)
    with pytest.raises(ValueError, match="0; it must be at least 1"):
        call(0.01, 0)


def test_sizes_and_budgets_out_of_range_are_refused_and_named():
    with pytest.raises(ValueError, match=r"the probability of a wrong certificate is 1\.5"):
        any_wrong(1, 1.5)
    with pytest.raises(ValueError, match="certificates: 0"):
        any_wrong(0, 0.5)
    with pytest.raises(ValueError, match="alpha is 0"):
        within_budget([0.01, 0], 0.05)
    for bad in ({"p0": 0.0}, {"p0": 1.0}, {"p0": math.nan}):
        with pytest.raises(ValueError, match="p0 is"):
            fixed_size(10, 0.01, **bad)
    with pytest.raises(ValueError, match="the number of samples is 0"):
        fixed_size(0, 0.01)
