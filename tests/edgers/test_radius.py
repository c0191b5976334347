"""Certified radii and floors: golden numbers, classifiers of known distance, a 50-digit reference."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from edgers.smoothing.bounds import Probability, clopper_pearson_lower, pairwise_bounds
from edgers.smoothing.radius import (
    MAX_SIGMA,
    certified_radius,
    check_floor,
    check_radius_sigma,
    linf_radius,
    pairwise_radius,
    probability_at,
)
from tests.edgers import exact_binomial
from tests.edgers.exact_binomial import mp

laws = settings(deadline=None, max_examples=100)
alphas = st.floats(1e-12, 0.3)
sigmas = st.floats(1e-3, 10)


@st.composite
def majorities(draw):
    """Votes and samples with a clear majority."""
    samples = draw(st.integers(200, 10**6))
    return draw(st.integers(samples * 7 // 10, samples)), samples


def radius(votes, samples, alpha=0.001, sigma=0.5, floor=0.5):
    return certified_radius(clopper_pearson_lower(votes, samples, alpha), sigma, floor)


# --- golden numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "expected"),
    [(100, 0.750237512), (99, 0.674629519), (90, 0.378257702), (85, 0.280361539)],
)
def test_the_radius_of_these_votes_of_100_is_known(votes, expected):
    assert radius(votes, 100) == pytest.approx(expected, rel=1e-8)


def test_66_votes_of_100_are_the_fewest_that_certify():
    assert radius(66, 100) > 0


@pytest.mark.parametrize("votes", [0, 1, 50, 65])
def test_up_to_65_votes_of_100_are_an_abstention(votes):
    assert radius(votes, 100) is None


@pytest.mark.parametrize(("target", "needed"), [(0, 10), (0.25, 19), (0.5, 40), (0.75, 100), (1.0, 301)])
def test_so_many_unanimous_votes_are_needed_for_this_radius(target, needed):
    assert radius(needed, needed) >= target
    assert (radius(needed - 1, needed - 1) or -1) < target


# --- the half-space classifier: 1[w.x <= t] ----------------------------------------------------------------


@pytest.mark.parametrize("distance", [1e-6, 0.01, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.7])
def test_at_the_true_probability_the_radius_is_the_distance_to_the_boundary(distance, sigma):
    rng = np.random.default_rng(3)
    w, x = rng.normal(size=48), rng.uniform(size=48)
    norm = np.linalg.norm(w)
    t = w @ x + distance * norm

    def smoothed(point):
        """The exact probability of 1[w.(point + noise) <= t], with its complement."""
        z = (t - w @ point) / (sigma * norm)
        return Probability(float(ndtr(z)), float(ndtr(-z)))

    certified = certified_radius(smoothed(x), sigma)
    # w.x itself carries rounding errors of a few 1e-16, hence the absolute part.
    assert certified == pytest.approx(distance, rel=1e-10, abs=1e-13)
    towards = w / norm
    assert smoothed(x + certified * (1 - 1e-6) * towards).value > 0.5
    assert smoothed(x + certified * (1 + 1e-6) * towards).value < 0.5


# --- an independent computation -----------------------------------------------------------------------------


def random_cases(number):
    """(votes, samples, alpha, sigma, floor) that mostly certify: samples up to 10^7, alpha down to 1e-12."""
    rng = np.random.default_rng(21)
    for _ in range(number):
        samples = int(10 ** rng.uniform(1, 7))
        votes = samples - int(10 ** rng.uniform(0, math.log10(samples / 2))) + 1
        yield (
            votes,
            samples,
            10 ** rng.uniform(-12, math.log10(0.49)),
            rng.uniform(0.05, 1.7),
            float(rng.choice([0.5, 0.5, 0.6, 0.9])),
        )


def test_the_radius_is_exact_to_nine_digits_and_never_above_on_a_random_grid():
    hair, wrong, certified = mp.mpf("1e-9"), [], 0
    for votes, samples, alpha, sigma, floor in random_cases(2000):
        found = radius(votes, samples, alpha, sigma, floor)
        z_floor = exact_binomial.normal_quantile(floor)
        z = mp.mpf(found or 0) / sigma
        above = exact_binomial.normal_cdf(z * (1 + hair) + z_floor + hair)
        if found is not None:
            certified += 1
            exact = exact_binomial.normal_cdf(z + z_floor)
            if exact_binomial.tail(votes, samples, exact) > alpha:
                wrong.append(f"{votes} of {samples} at {alpha}, sigma {sigma}, floor {floor}: above")
        if above < mp.mpf(votes) / samples and exact_binomial.tail(votes, samples, above) < alpha:
            wrong.append(f"{votes} of {samples} at {alpha}, sigma {sigma}, floor {floor}: loose")
    assert not wrong
    assert certified > 1000


@pytest.mark.parametrize(
    ("votes", "samples", "alpha"),
    [(9_999_999, 10_000_000, 1e-9), (6_503_531, 6_503_533, 0.10337224104262115)],
)
def test_the_radius_is_rounded_down_where_the_inverse_beta_function_loses_digits(votes, samples, alpha):
    z = mp.mpf(radius(votes, samples, alpha, 1.0))
    assert exact_binomial.tail(votes, samples, exact_binomial.normal_cdf(z)) <= alpha


# --- the class against each other one -----------------------------------------------------------------------


def normal(z):
    """The probability Phi(z)."""
    return Probability(float(ndtr(z)), float(ndtr(-z)))


@pytest.mark.parametrize(("a", "b"), [(0.1, 0.3), (1.0, 2.0), (-0.2, 0.5), (2.0, 2.0), (-0.01, 3.0)])
def test_at_the_true_probabilities_the_pairwise_radius_is_where_the_lead_changes(a, b):
    """One direction in three parts: A up to a, C between, B from b on; all in units of sigma = 0.5."""
    sigma = 0.5
    certified = pairwise_radius(normal(a), normal(-b), sigma)
    assert certified == pytest.approx(sigma * (a + b) / 2, rel=1e-12)
    for factor, leads in ((1 - 1e-6, True), (1 + 1e-6, False)):
        moved = certified * factor / sigma
        assert (ndtr(a - moved) > ndtr(moved - b)) == leads


def test_for_two_classes_the_pairwise_radius_is_the_radius_itself():
    lower = clopper_pearson_lower(90, 100, 0.001)
    assert pairwise_radius(lower, lower.opposite, 0.5) == pytest.approx(
        certified_radius(lower, 0.5), rel=1e-13
    )


@laws
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=6), alphas)
def test_the_pairwise_radius_is_never_below_the_other_one_at_half_alpha(votes, alpha):
    votes = [max(votes) + 1, *votes]
    one = radius(votes[0], sum(votes), alpha / 2)
    pair = pairwise_radius(*pairwise_bounds(votes, 0, alpha), 0.5)
    assert one is None or pair >= one * (1 - 1e-12)


def test_the_pairwise_radius_certifies_a_class_below_one_half():
    assert radius(450, 1000) is None
    assert pairwise_radius(*pairwise_bounds([450, 110, 110, 110, 110, 110], 0, 0.001), 0.5) > 0.19


def test_the_pairwise_radius_is_exact_to_nine_digits_and_never_above_on_a_random_grid():
    rng, wrong = np.random.default_rng(22), []
    for z, gap, sigma in zip(
        rng.uniform(-3, 6, 400), 10 ** rng.uniform(-6, 0.5, 400), rng.uniform(0.05, 1.7, 400), strict=True
    ):
        lower, upper = normal(z), normal(z - gap)
        exact = (
            sum(
                sign
                * (
                    -exact_binomial.normal_quantile(p.complement)
                    if p.complement < 0.5
                    else exact_binomial.normal_quantile(p.value)
                )
                for sign, p in ((1, lower), (-1, upper))
            )
            * mp.mpf(sigma)
            / 2
        )
        found = pairwise_radius(lower, upper, sigma) or 0.0
        if not exact * (1 - mp.mpf("1e-9")) - mp.mpf("1e-13") <= found <= exact:
            wrong.append((z, gap, sigma))
    assert not wrong


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        pytest.param(Probability(0.5, 0.5), Probability(0.5, 0.5), id="no lead"),
        pytest.param(Probability(0.4, 0.6), Probability(0.5, 0.5), id="behind"),
        pytest.param(Probability(0.0, 1.0), Probability(0.0, 1.0), id="nothing on both sides"),
        pytest.param(Probability(0.0, 1.0), Probability(0.1, 0.9), id="no lower bound"),
        pytest.param(Probability(0.9, 0.1), Probability(1.0, 0.0), id="no upper bound"),
    ],
)
def test_a_class_that_does_not_lead_is_an_abstention(lower, upper):
    assert pairwise_radius(lower, upper, 0.5) is None


# --- the floor at a distance --------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0.0, 1e-9, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("z", [-1.0, 0.0, 0.7, 3.0, 9.0])
def test_a_half_space_has_just_the_probability_at_a_distance_that_is_claimed(z, distance):
    claimed = probability_at(normal(z), distance, 0.5)
    true = normal(z - distance / 0.5)
    assert claimed.value == pytest.approx(true.value, rel=1e-11)
    assert claimed.complement == pytest.approx(true.complement, rel=1e-11)


@laws
@given(majorities(), alphas, sigmas)
def test_at_the_certified_radius_the_probability_is_one_half(count, alpha, sigma):
    lower = clopper_pearson_lower(*count, alpha)
    certified = certified_radius(lower, sigma)
    if certified is not None:
        assert probability_at(lower, certified, sigma).value == pytest.approx(0.5, rel=1e-12)


@laws
@given(majorities(), alphas, sigmas, st.floats(0.5, 0.98))
def test_within_the_radius_of_a_floor_the_probability_stays_above_it(count, alpha, sigma, floor):
    lower = clopper_pearson_lower(*count, alpha)
    certified = certified_radius(lower, sigma, floor)
    if certified is not None:
        assert probability_at(lower, certified, sigma).value >= floor * (1 - 1e-12)
        assert probability_at(lower, certified * (1 + 1e-6), sigma).value < floor


def test_the_probability_at_a_distance_is_never_above_the_exact_one():
    rng, wrong = np.random.default_rng(23), []
    for case in range(1000):
        far, sigma = rng.uniform(-3, 37), rng.uniform(0.3, 1.7)
        p = normal(far)
        distance = 10 ** rng.uniform(-6, 1) if case % 2 else sigma * max(far + rng.uniform(-1, 1), 0)
        small = p.complement < 0.5
        z = exact_binomial.normal_quantile(p.complement if small else p.value) * (-1 if small else 1)
        z -= mp.mpf(distance) / sigma
        found = probability_at(p, distance, sigma)
        value, complement = exact_binomial.normal_cdf(z), exact_binomial.normal_cdf(-z)
        hair = mp.mpf("1e-9") if z > -30 else 1  # near the smallest floats it may give up
        if not value * (1 - hair) <= found.value <= value:
            wrong.append((p, distance, sigma))
        if not complement <= found.complement <= min(complement * (1 + hair), 1):
            wrong.append((p, distance, sigma))
    assert not wrong


@pytest.mark.parametrize("distance", [0.0, 1.0])
def test_nothing_stays_nothing_at_any_distance(distance):
    assert probability_at(Probability(0.0, 1.0), distance, 0.5) == Probability(0.0, 1.0)


def test_a_distance_of_many_sigmas_leaves_nothing():
    assert probability_at(Probability(0.9, 0.1), 1e9, 0.5) == Probability(0.0, 1.0)


# --- another norm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [1, 3, 4, 48, 3 * 336 * 336])
@pytest.mark.parametrize("l2", [1e-9, 0.1, 0.75, 40.0])
def test_a_uniform_change_at_the_linf_radius_stays_within_the_l2_radius(l2, values):
    linf = linf_radius(l2, values)
    assert mp.sqrt(values) * linf <= l2
    assert linf == pytest.approx(l2 / math.sqrt(values), rel=1e-12)


@laws
@given(st.floats(1e-300, 1e6), st.integers(1, 10**9))
def test_the_linf_radius_is_rounded_down(l2, values):
    assert mp.sqrt(values) * linf_radius(l2, values) <= l2


@pytest.mark.parametrize("l2", [0.0, -1.0, math.nan, math.inf])
def test_an_l2_radius_that_is_none_is_refused_and_named(l2):
    with pytest.raises(ValueError, match=rf"the radius is {l2}; it must be a finite number above 0"):
        linf_radius(l2, 3)


@pytest.mark.parametrize("values", [0, -3])
def test_an_input_without_values_is_refused_and_named(values):
    with pytest.raises(ValueError, match=f"the input holds {values} values"):
        linf_radius(0.5, values)


# --- laws ---------------------------------------------------------------------------------------------------


@laws
@given(majorities(), alphas, sigmas, st.floats(0.1, 10))
def test_the_radius_is_proportional_to_sigma(count, alpha, sigma, factor):
    scaled = radius(*count, alpha, sigma * factor)
    one = radius(*count, alpha, sigma)
    assert (scaled is None) == (one is None)
    assert one is None or scaled == pytest.approx(factor * one, rel=1e-12)


@laws
@given(majorities(), alphas, sigmas)
def test_a_vote_more_makes_the_radius_larger(count, alpha, sigma):
    votes, samples = count
    fewer, more = radius(votes - 1, samples, alpha, sigma), radius(votes, samples, alpha, sigma)
    assert fewer is None or more > fewer


@laws
@given(majorities(), alphas, sigmas, st.floats(0.01, 0.9))
def test_a_smaller_alpha_makes_the_radius_smaller(count, alpha, sigma, factor):
    bold, cautious = radius(*count, alpha, sigma), radius(*count, alpha * factor, sigma)
    assert cautious is None or cautious < bold


@laws
@given(majorities(), alphas, sigmas, st.floats(0.5, 0.98), st.floats(0.001, 0.01))
def test_a_higher_floor_makes_the_radius_smaller(count, alpha, sigma, floor, step):
    low, high = radius(*count, alpha, sigma, floor), radius(*count, alpha, sigma, floor + step)
    assert high is None or high < low


@laws
@given(majorities(), alphas, sigmas)
def test_the_floor_of_one_half_is_the_radius_itself(count, alpha, sigma):
    assert radius(*count, alpha, sigma, 0.5) == certified_radius(clopper_pearson_lower(*count, alpha), sigma)


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5])
def test_a_probability_not_above_the_floor_is_an_abstention(value):
    assert certified_radius(Probability(value, 1 - value), 0.5) is None


@pytest.mark.parametrize(("floor", "certifies"), [(0.74, True), (0.75, False), (0.76, False)])
def test_the_floor_decides_about_abstention(floor, certifies):
    assert (certified_radius(Probability(0.75, 0.25), 0.5, floor) is not None) == certifies


def test_a_radius_keeps_the_digits_of_a_tiny_complement():
    assert certified_radius(Probability(1.0, 1e-30), 1.0) == pytest.approx(11.46402468, rel=1e-9)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf, 1e12, MAX_SIGMA * 1.01])
def test_a_sigma_that_is_no_noise_is_refused_and_named(sigma):
    with pytest.raises(ValueError, match=rf"sigma is {sigma}".replace("+", r"\+")):
        check_radius_sigma(sigma)
    with pytest.raises(ValueError, match=r"sigma is"):
        certified_radius(Probability(0.9, 0.1), sigma)
    with pytest.raises(ValueError, match=r"sigma is"):
        pairwise_radius(Probability(0.9, 0.1), Probability(0.1, 0.9), sigma)
    with pytest.raises(ValueError, match=r"sigma is"):
        probability_at(Probability(0.9, 0.1), 0.1, sigma)


@pytest.mark.parametrize("distance", [-1e-9, -1, math.nan, math.inf])
def test_a_distance_that_is_none_is_refused_and_named(distance):
    with pytest.raises(ValueError, match=rf"the distance is {distance}; it must be a number of at least 0"):
        probability_at(Probability(0.9, 0.1), distance, 0.5)


@pytest.mark.parametrize("floor", [0.4, 0.0, -1, 1, 1.5, math.nan, math.inf])
def test_a_floor_outside_one_half_to_one_is_refused_and_named(floor):
    with pytest.raises(ValueError, match=rf"the floor is {floor}"):
        certified_radius(Probability(0.9, 0.1), 0.5, floor)
    with pytest.raises(ValueError, match=r"the floor is"):
        check_floor(floor)


def test_the_largest_sigma_is_accepted():
    assert check_radius_sigma(MAX_SIGMA) == MAX_SIGMA


def test_a_probability_of_one_has_a_finite_radius():
    """Where the algebra of a mode gives 1: less than what follows, never nothing and never without end."""
    certain = Probability(math.nextafter(1, 0), 0.0)
    assert 37 < certified_radius(certain, 1.0) < 38
    assert 18 < pairwise_radius(certain, Probability(0.5, 0.5), 1.0) < 19
