"""The Clopper-Pearson bounds: golden numbers, exact coverage, a 50-digit reference, refusals."""

import itertools
import math
from fractions import Fraction

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
    clopper_pearson_lower_many,
    clopper_pearson_upper,
    pairwise_bounds,
    rounded_down,
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


@pytest.mark.parametrize(
    ("votes", "samples", "alpha"),
    [
        (2621, 2659, 6.2e-244),
        (4109, 4147, 1.96e-243),
        (8298, 8329, 1.3e-256),
        (505, 521, 7.6e-298),
        (19903, 19936, 9.1e-274),
        (1, 9, 1e-280),
        (8, 16, 1e-120),
        (500_000, 10**6, 1e-101),
        (10**6 - 1, 10**6, 1e-300),
        (40, 10**9, 1e-150),
        (10**9 - 3, 10**9, 1e-300),
    ],
)
def test_a_bound_holds_where_the_tail_underflows_in_scipy(votes, samples, alpha):
    bound = clopper_pearson_lower(votes, samples, alpha)
    assert 0 < bound.value < 1
    assert exact_binomial.tail(votes, samples, bound.value) <= alpha
    assert exact_binomial.tail(votes, samples, 1 - mp.mpf(bound.complement)) <= alpha
    slack = mp.mpf(1e-9 + 1e-16 * samples)
    assert exact_binomial.tail(votes, samples, mp.mpf(bound.value) * (1 + slack)) >= alpha


@laws
@given(st.integers(2, 10**9), st.integers(1, 40), st.floats(-300, -100), st.floats(0.5, 20))
def test_a_smaller_alpha_gives_a_smaller_bound_down_to_the_least(samples, missing, exponent, factor):
    missing = min(missing, samples - 1)
    larger, smaller = (
        clopper_pearson_lower(samples - missing, samples, 10.0**e) for e in (exponent, exponent - factor / 3)
    )
    assert smaller.complement >= larger.complement
    assert smaller.value < larger.value or smaller.complement > larger.complement or larger.value == 0


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


def judged(bound, votes, samples, alpha):
    """What is wrong with a lower bound, if anything: above the exact one, or 1e-9 below it."""
    hair = mp.mpf("1e-9")
    high = bound.value >= 0.5
    lower = mp.mpf(bound.value)
    above = 1 - bound.complement * (1 - hair) if high else lower * (1 + hair)
    complementary = 1 - mp.mpf(bound.complement)  # the radius is computed from the complement
    if any(exact_binomial.tail(votes, samples, q) > alpha for q in (lower, complementary) if q > 0):
        return f"{votes} of {samples} at {alpha}: above the exact bound"
    loose = exact_binomial.tail(votes, samples, above) < alpha
    return f"{votes} of {samples} at {alpha}: loose" if loose else None


def test_the_bound_is_exact_to_nine_digits_and_never_above_on_a_random_grid():
    cases = list(random_cases(2000))
    assert not [found for case in cases if (found := judged(clopper_pearson_lower(*case), *case))]


def test_the_upper_bound_is_exact_to_nine_digits_and_never_below_on_a_random_grid():
    wrong = []
    for votes, samples, alpha in random_cases(300):
        upper = clopper_pearson_upper(samples - votes, samples, alpha)
        if found := judged(upper.opposite, votes, samples, alpha):
            wrong.append(found)
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


# --- upper bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "samples", "alpha", "expected"),
    [
        pytest.param(10, 10, 0.001, 1.0, id="all votes"),
        pytest.param(0, 100, 0.001, 0.0667456992030091, id="no votes: 1 - alpha ** (1/100)"),
        pytest.param(0, 1, 0.001, 0.999, id="none of one: 1 - alpha"),
        pytest.param(9, 10, 0.05, 0.994883803108176, id="nine of ten: (1 - alpha) ** (1/10)"),
    ],
)
def test_the_upper_bound_has_its_closed_form_where_there_is_one(votes, samples, alpha, expected):
    assert clopper_pearson_upper(votes, samples, alpha).value == pytest.approx(expected, rel=1e-10)


def test_all_votes_give_an_upper_bound_of_exactly_one():
    assert clopper_pearson_upper(10, 10, 0.001) == Probability(1.0, 0.0)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("samples", [1, 2, 40, 100])
def test_the_upper_bound_falls_short_of_the_truth_with_probability_alpha_at_most(samples, alpha):
    upper = np.array([clopper_pearson_upper(k, samples, alpha).value for k in range(samples + 1)])
    error = largest_error((1 - upper)[::-1], samples)  # P(U(K) < p) is P(1 - U(n - K) > 1 - p)
    assert alpha * (1 - 1e-6) <= error <= alpha * (1 + 1e-9)


@pytest.mark.parametrize(
    ("votes", "samples", "alpha"),
    [(9, 10, 1e-9), (99, 100, 1e-7), (999_999, 1_000_000, 1e-3), (29, 30, 0.3), (0, 10_000_000, 1e-9)],
)
def test_the_upper_bound_is_rounded_up_also_where_it_is_close_to_zero_or_one(votes, samples, alpha):
    upper = clopper_pearson_upper(votes, samples, alpha)
    for missing in (mp.mpf(upper.complement), 1 - mp.mpf(upper.value)):
        assert exact_binomial.tail(samples - votes, samples, missing) <= alpha


@laws
@given(counts(), alphas)
def test_statsmodels_gives_the_same_upper_limit_at_twice_alpha(count, alpha):
    theirs = proportion_confint(*count, alpha=2 * alpha, method="beta")[1]
    assert clopper_pearson_upper(*count, alpha).value == pytest.approx(theirs, rel=1e-9)


# --- many bounds at once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-100, 1e-12, 0.001, 0.3])
def test_many_bounds_at_once_are_the_bounds_one_by_one(alpha):
    votes, samples = np.array([(k, n) for k, n, _ in random_cases(1000)] + [(0, 1), (1, 1), (0, 10**9)]).T
    many = clopper_pearson_lower_many(votes, samples, alpha)
    for at, (k, n) in enumerate(zip(votes.tolist(), samples.tolist(), strict=True)):
        one = clopper_pearson_lower(k, n, alpha)
        assert many.value[at] == pytest.approx(one.value, rel=1e-14)
        assert many.complement[at] == pytest.approx(one.complement, rel=1e-14)


def test_many_bounds_at_once_are_exact_to_nine_digits_and_never_above_on_a_random_grid():
    wrong = []
    for votes, samples, alpha in random_cases(2000):
        many = clopper_pearson_lower_many([votes], [samples], alpha)
        bound = Probability(float(many.value[0]), float(many.complement[0]))
        if bound != clopper_pearson_lower(votes, samples, alpha):  # that one is judged above
            wrong.append(judged(bound, votes, samples, alpha))
    assert not any(wrong)


def test_many_bounds_take_any_shapes_that_go_together():
    votes, samples = np.array([[0], [5], [10]]), np.array([10, 11])
    many = clopper_pearson_lower_many(votes, samples, 0.01)
    assert many.value.shape == many.complement.shape == (3, 2)
    assert many.value[1, 1] == clopper_pearson_lower(5, 11, 0.01).value
    assert many.value[2, 0] == pytest.approx(clopper_pearson_lower(10, 10, 0.01).value, rel=1e-15)
    assert clopper_pearson_lower_many(3, 4, 0.01).value == clopper_pearson_lower(3, 4, 0.01).value
    assert clopper_pearson_lower_many(np.zeros(0, int), 4, 0.01).value.size == 0


def test_more_pairs_than_one_thread_takes_come_back_in_their_order():
    samples = np.random.default_rng(5).permutation(np.arange(1, 60_001))
    many = clopper_pearson_lower_many(samples, samples, 0.001)
    assert many.value == pytest.approx(0.001 ** (1 / samples), rel=1e-9)


@pytest.mark.parametrize(
    ("votes", "samples", "alpha", "said"),
    [
        ([1, 11], [10, 10], 0.01, "11 votes of 10 samples"),
        ([1, -1], [10, 10], 0.01, "-1 votes of 10 samples"),
        ([1, 0], [10, 0], 0.01, "the number of samples is 0"),
        ([1, 1], [10, MAX_SAMPLES + 1], 0.01, "must lie between 1 and 1000000000"),
        ([1.0, 2.0], [10, 10], 0.01, "votes are of type float64; they must be integers"),
        ([1], [10], 0.5, r"alpha is 0\.5"),
        ([1], [10], 1e-101, "alpha is 1e-101; for many bounds at once it must be at least 1e-100"),
    ],
)
def test_one_impossible_pair_among_many_is_refused_and_named(votes, samples, alpha, said):
    with pytest.raises(ValueError, match=said):
        clopper_pearson_lower_many(votes, samples, alpha)


# --- one class against each other ---------------------------------------------------------------------------


def multinomial(samples, shares):
    """Every way to cast the votes on three classes, and its probability."""
    for a, b in itertools.product(range(samples + 1), repeat=2):
        if a + b <= samples:
            ways = math.comb(samples, a) * math.comb(samples - a, b)
            yield (
                (a, b, samples - a - b),
                ways * shares[0] ** a * shares[1] ** b * shares[2] ** (samples - a - b),
            )


def largest_pairwise_error(rule, samples):
    """Max over shares of P(p_A,L > p_A or p_B,U < the largest other p), for three classes."""
    bounds = {votes: rule(votes) for votes, _ in multinomial(samples, (1, 0, 0))}
    worst = 0.0
    for a, b in itertools.product(np.linspace(0.02, 0.96, 48), repeat=2):
        if a + b < 1:
            shares = (a, b, 1 - a - b)
            wrong = (
                mass
                for votes, mass in multinomial(samples, shares)
                if bounds[votes][0].value > a or bounds[votes][1].value < max(shares[1:])
            )
            worst = max(worst, sum(wrong))
    return worst


def unsplit(votes):
    """The wrong rule: all of alpha for each bound."""
    return clopper_pearson_lower(votes[0], sum(votes), 0.05), clopper_pearson_upper(
        max(votes[1:]), sum(votes), 0.05
    )


def test_both_pairwise_bounds_hold_together_and_spending_alpha_twice_fails_the_same_check():
    assert largest_pairwise_error(lambda votes: pairwise_bounds(votes, 0, 0.05), 12) <= 0.05
    assert largest_pairwise_error(unsplit, 12) > 0.05


def test_the_pairwise_bounds_split_alpha_over_the_class_and_each_other_one():
    lower, upper = pairwise_bounds([1, 99, 0, 0], 1, 0.01)
    assert lower == clopper_pearson_lower(99, 100, 0.005)
    assert upper == lower.opposite  # the class leaves less than the runner-up's own bound
    lower, upper = pairwise_bounds([40, 25, 35, 0], 0, 0.01)
    assert lower == clopper_pearson_lower(40, 100, 0.005)
    assert upper == clopper_pearson_upper(35, 100, 0.01 / 6)


@pytest.mark.parametrize(
    ("votes", "chosen", "said"),
    [
        ([5], 0, "class 0 of 1: a pair needs two"),
        ([5, 5], 2, "class 2 of 2"),
        ([5, 5], -1, "class -1 of 2"),
        ([5, -1], 0, "-1 votes of 4 samples"),
        ([-1, 5], 0, "5 votes of 4 samples|-1 votes of 4 samples"),
        ([0, 0], 0, "the number of samples is 0"),
    ],
)
def test_pairwise_votes_that_cannot_be_are_refused_and_named(votes, chosen, said):
    with pytest.raises(ValueError, match=said):
        pairwise_bounds(votes, chosen, 0.01)


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


fractions = st.fractions(-1, 1)


@given(fractions)
def test_an_exact_probability_is_rounded_down_to_the_next_floats(exact):
    rounded = rounded_down(exact, 1 - exact)
    inside = max(exact, Fraction(0))
    assert 0 <= rounded.value <= inside
    assert 1 - inside <= rounded.complement <= 1
    assert math.nextafter(rounded.value, 2) > inside or rounded.value == 1
    assert math.nextafter(rounded.complement, -1) < 1 - inside


@given(st.floats(0, 1), st.floats(0, 1))
def test_lowering_never_rounds_up(value, amount):
    lowered = Probability(value, 1 - value).minus(amount)
    assert lowered.value <= max(Fraction(value) - Fraction(amount), 0)
    assert lowered.complement >= min(Fraction(1 - value) + Fraction(amount), 1)


def test_the_opposite_of_a_probability_swaps_its_two_sides():
    assert Probability(0.75, 0.25).opposite == Probability(0.25, 0.75)


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
