"""Many certificates: levels that add up, and votes merged from ranges."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgers.smoothing.many import (
    VoteRange,
    bonferroni,
    merge_fixed,
    merge_prefix,
    scheduled,
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


@pytest.mark.parametrize("call", [bonferroni, scheduled])
def test_levels_and_numbers_out_of_range_are_refused_and_named(call):
    with pytest.raises(ValueError, match=r"alpha is 0\.5"):
        call(0.5, 1)
    with pytest.raises(ValueError, match="0; it must be at least 1"):
        call(0.01, 0)
