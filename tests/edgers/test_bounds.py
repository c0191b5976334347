"""The Clopper-Pearson bound: golden numbers, exact coverage, a 50-digit reference, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, norm
from statsmodels.stats.proportion import proportion_confint

from edgers.smoothing.bounds import (
    MAX_SAMPLES,
    Probability,
    check_alpha,
    check_counts,
    clopper_pearson_lower,
)
from tests.edgers import exact_binomial
from tests.edgers.exact_binomial import mp

laws = settings(deadline=None, max_examples=100)
alphas = st.floats(1e-12, 0.49)


@st.composite
def counts(draw):
    """Votes and samples with 0 <= votes <= samples."""
    samples = draw(st.integers(1, 10**6))
    return draw(st.integers(0, samples)), samples


def random_cases(number):
    """(votes, samples, alpha): samples up to 10^7 and alpha down to 1e-12, half of them nearly unanimous."""
    rng = np.random.default_rng(20)
    for _ in range(number):
        samples = int(10 ** rng.uniform(0, 7))
        near = samples - min(int(10 ** rng.uniform(0, 2)), samples) + 1
        anywhere = rng.integers(1, samples + 1)
        yield int(rng.choice([near, anywhere])), samples, 10 ** rng.uniform(-12, math.log10(0.49))


# --- golden numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "samples", "alpha", "expected"),
    [
        pytest.param(0, 10, 0.001, 0.0, id="no votes"),
        pytest.param(1, 1, 0.001, 0.001, id="one of one: alpha itself"),
        pytest.param(100, 100, 0.001, 0.9332543007969910, id="unanimous: alpha ** (1/100)"),
        pytest.param(1, 10, 0.05, 0.005116196891823743, id="one of ten: 1 - (1 - alpha) ** (1/10)"),
        pytest.param(10, 10, 1e-300, 1e-30, id="unanimous at a tiny alpha"),
        pytest.param(60, 60, 0.001, 0.8912509381337456, id="the demo's unanimous 60"),
    ],
)
def test_the_bound_has_its_closed_form_where_there_is_one(votes, samples, alpha, expected):
    assert clopper_pearson_lower(votes, samples, alpha).value == pytest.approx(expected, rel=1e-10)


def test_no_votes_give_zero_and_its_complement_one():
    assert clopper_pearson_lower(0, 10, 0.001) == Probability(0.0, 1.0)


@pytest.mark.parametrize("samples", [10**4, 10**7, MAX_SAMPLES])
def test_a_unanimous_vote_keeps_the_digits_of_its_complement(samples):
    complement = clopper_pearson_lower(samples, samples, 0.001).complement
    exact = -mp.expm1(mp.log(mp.mpf(0.001)) / samples)
    assert exact <= complement <= exact * (1 + mp.mpf("1e-9"))


@pytest.mark.parametrize(
    ("votes", "samples"), [(5, 10), (9, 10), (3, 5), (2, 100), (99, 100), (2, 10**6), (999, 1000)]
)
@pytest.mark.parametrize("alpha", [1e-50, 1e-200, 1e-300])
def test_a_tiny_alpha_neither_underflows_nor_loses_the_bound(votes, samples, alpha):
    value = clopper_pearson_lower(votes, samples, alpha).value
    assert 0 < value < 1
    assert exact_binomial.tail(votes, samples, value) <= alpha
    assert exact_binomial.tail(votes, samples, mp.mpf(value) * (1 + mp.mpf("1e-9"))) >= alpha


# --- exact coverage, without Monte Carlo --------------------------------------------------------------------


def largest_error(bounds, samples, lowest=0.0):
    """Max over p >= lowest of P(bound(K) > p), K ~ Binomial(samples, p): the probability of a false bound.

    The error is largest just below a value of the bound, so those p are in the grid besides an even one.
    """
    even = np.linspace(lowest, 1, 4001)[:-1]
    critical = bounds[(bounds > lowest) & (bounds < 1)] * (1 - 1e-12)
    grid = np.concatenate([even, critical])[:, None]
    masses = binom.pmf(np.arange(samples + 1), samples, grid)
    return float(np.where(bounds > grid, masses, 0).sum(axis=1).max())


def clopper_pearson(samples, alpha):
    return np.array([clopper_pearson_lower(k, samples, alpha).value for k in range(samples + 1)])


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("samples", [1, 2, 10, 40, 100, 301])
def test_the_bound_exceeds_the_truth_with_probability_alpha_at_most_and_wastes_none(samples, alpha):
    error = largest_error(clopper_pearson(samples, alpha), samples)
    assert error <= alpha * (1 + 1e-9)
    assert error >= alpha * (1 - 1e-6)


def wald(k, n, alpha):
    share = k / n
    return share - norm.isf(alpha) * np.sqrt(share * (1 - share) / n)


def jeffreys(k, n, alpha):
    return np.where(k == 0, 0.0, beta.ppf(alpha, k + 0.5, n - k + 0.5))


def wilson(k, n, alpha):
    share, z = k / n, norm.isf(alpha)
    spread = z * np.sqrt(share * (1 - share) / n + (z / n) ** 2 / 4)
    return (share + z * z / (2 * n) - spread) / (1 + z * z / n)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(wald, 0.990), (jeffreys, 0.0045), (wilson, 0.0013)],
    ids=["Wald", "Jeffreys", "Wilson"],
)
def test_bounds_that_are_only_approximate_fail_the_coverage_check(wrong, error):
    bounds = wrong(np.arange(101), 100, 0.001)
    assert largest_error(bounds, 100, lowest=0.5) == pytest.approx(error, rel=0.02)
    assert largest_error(bounds, 100, lowest=0.5) > 0.001 * 1.2


# --- independent computations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "samples", "p"), [(5, 10, 0.2), (66, 100, 0.5), (1, 1, 0.1), (3, 200, 0.001)]
)
def test_the_reference_tail_is_the_sum_of_its_binomial_terms(votes, samples, p):
    p = mp.mpf(p)
    terms = [mp.binomial(samples, k) * p**k * (1 - p) ** (samples - k) for k in range(votes, samples + 1)]
    assert abs(exact_binomial.tail(votes, samples, p) / mp.fsum(terms) - 1) < mp.mpf("1e-40")


def test_the_bound_is_exact_to_nine_digits_and_never_above_on_a_random_grid():
    hair, wrong = mp.mpf("1e-9"), []
    for votes, samples, alpha in random_cases(1000):
        bound = clopper_pearson_lower(votes, samples, alpha)
        high = bound.value >= 0.5
        lower = mp.mpf(bound.value)
        above = 1 - bound.complement * (1 - hair) if high else lower * (1 + hair)
        sound = exact_binomial.tail(votes, samples, lower) <= alpha
        if high:  # the radius is computed from the complement
            sound = sound and exact_binomial.tail(votes, samples, 1 - mp.mpf(bound.complement)) <= alpha
        if not sound or exact_binomial.tail(votes, samples, above) < alpha:
            wrong.append(f"{votes} of {samples} at {alpha}: {'loose' if sound else 'above the exact bound'}")
    assert not wrong


@pytest.mark.parametrize(
    ("votes", "samples", "alpha"),
    [
        pytest.param(9_999_999, 10_000_000, 1e-9, id="the inverse loses digits: one vote missing"),
        pytest.param(6_503_531, 6_503_533, 0.10337224104262115, id="the inverse loses digits: two missing"),
        pytest.param(74_476_829, 74_476_832, 0.0866811, id="the inverse loses digits: three missing"),
        pytest.param(10_000_000, 10_000_000, 0.001, id="rounding 1 - complement: unanimous"),
        pytest.param(1_666_510, 1_666_512, 0.008167894649507042, id="rounding 1 - complement: two missing"),
    ],
)
def test_the_bound_is_rounded_down_also_where_it_is_close_to_one(votes, samples, alpha):
    bound = clopper_pearson_lower(votes, samples, alpha)
    assert exact_binomial.tail(votes, samples, 1 - mp.mpf(bound.complement)) <= alpha
    assert exact_binomial.tail(votes, samples, bound.value) <= alpha


@laws
@given(counts(), alphas)
def test_statsmodels_gives_the_same_lower_limit_at_twice_alpha(count, alpha):
    votes, samples = count
    theirs = proportion_confint(votes, samples, alpha=2 * alpha, method="beta")[0]
    assert clopper_pearson_lower(votes, samples, alpha).value == pytest.approx(theirs, rel=1e-9)


# --- laws ---------------------------------------------------------------------------------------------------


@laws
@given(counts(), alphas)
def test_one_vote_more_raises_the_bound(count, alpha):
    votes, samples = count
    bound = clopper_pearson_lower(max(votes, 1), samples, alpha)
    fewer = clopper_pearson_lower(max(votes, 1) - 1, samples, alpha)
    assert bound.value > fewer.value
    assert bound.complement <= fewer.complement


@laws
@given(counts(), alphas, st.floats(0.01, 0.9))
def test_a_smaller_alpha_lowers_the_bound(count, alpha, factor):
    votes, samples = max(count[0], 1), count[1]
    bound, cautious = (clopper_pearson_lower(votes, samples, a) for a in (alpha, alpha * factor))
    assert cautious.value < bound.value
    assert cautious.complement >= bound.complement


@laws
@given(counts(), alphas)
def test_a_lost_sample_lowers_the_bound(count, alpha):
    votes, samples = max(count[0], 1), count[1]
    assert (
        clopper_pearson_lower(votes, samples + 1, alpha).value
        < clopper_pearson_lower(votes, samples, alpha).value
    )


@laws
@given(counts(), alphas)
def test_value_and_complement_are_two_sides_of_one_probability(count, alpha):
    bound = clopper_pearson_lower(*count, alpha)
    assert bound.value + bound.complement == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        pytest.param(0.0, Probability(0.75, 0.25), id="by nothing"),
        pytest.param(0.125, Probability(0.625, 0.375), id="by an eighth"),
        pytest.param(0.9, Probability(0.0, 1.0), id="by more than there is"),
    ],
)
def test_a_probability_is_lowered_on_both_sides_and_not_below_zero(amount, expected):
    assert Probability(0.75, 0.25).minus(amount) == expected


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, 0.0, 0.5, 0.51, 1, -1, -1e-9, math.nan, math.inf, -math.inf, 1e12])
def test_an_alpha_outside_zero_to_one_half_is_refused_and_named(alpha):
    with pytest.raises(ValueError, match=rf"alpha is {alpha}; it must lie above 0 and below 0\.5"):
        check_alpha(alpha)
    with pytest.raises(ValueError, match=r"alpha is"):
        clopper_pearson_lower(9, 10, alpha)


@pytest.mark.parametrize(
    ("votes", "samples", "said"),
    [
        pytest.param(11, 10, "11 votes of 10 samples", id="more votes than samples"),
        pytest.param(-1, 10, "-1 votes of 10 samples", id="negative votes"),
        pytest.param(0, 0, "the number of samples is 0", id="no samples"),
        pytest.param(0, -5, "the number of samples is -5", id="negative samples"),
        pytest.param(1, MAX_SAMPLES + 1, "must lie between 1 and 1000000000", id="too many samples"),
        pytest.param(10**30, 10**30, "must lie between 1 and 1000000000", id="absurdly many"),
    ],
)
def test_counts_that_cannot_be_are_refused_and_named(votes, samples, said):
    with pytest.raises(ValueError, match=said):
        check_counts(votes, samples)
    with pytest.raises(ValueError, match=said):
        clopper_pearson_lower(votes, samples, 0.001)


def test_the_extreme_counts_are_accepted():
    check_counts(0, 1)
    check_counts(1, 1)
    check_counts(MAX_SAMPLES, MAX_SAMPLES)
