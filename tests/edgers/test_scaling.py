"""What n samples keep of the radius: golden figures, sums to many digits, laws of the curve, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import binom, norm

from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.radius import certified_radius
from edgers.smoothing.scaling import (
    MAX_SCALING_SAMPLES,
    Beta,
    Listed,
    Uniform,
    certified_share,
    radius_kept,
    radius_law,
)
from tests.edgers.exact_binomial import mp

laws = settings(deadline=None, max_examples=25)
alphas = st.floats(1e-9, 0.3)
LIKELY = Uniform(0.7, 1)
GOLDEN = {50: (0.376, 0.283), 100: (0.543, 0.493), 500: (0.789, 0.773), 1000: (0.850, 0.840)}
GOLDEN[10_000] = (0.952, 0.949)


@st.composite
def distributions(draw):
    """Any of the three kinds, some input of which has p above 1/2."""
    kind = draw(st.sampled_from(["uniform", "beta", "listed"]))
    if kind == "uniform":
        low = draw(st.floats(0, 0.98))
        return Uniform(low, draw(st.floats(max(low, 0.51) + 0.01, 1)))
    if kind == "beta":
        return Beta(draw(st.floats(0.5, 200)), draw(st.floats(0.1, 20)))
    values = draw(st.lists(st.floats(0, 0.9999), max_size=8))
    return Listed((*values, draw(st.floats(0.55, 0.9999))))


@st.composite
def likely(draw):
    """Distributions with p above .6."""
    if draw(st.booleans()):
        return Listed(tuple(draw(st.lists(st.floats(0.6, 0.9999), min_size=1, max_size=8))))
    low = draw(st.floats(0.6, 0.98))
    return Uniform(low, draw(st.floats(low + 0.01, 1)))


# --- golden figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", GOLDEN)
def test_the_share_of_the_radius_that_n_samples_keep_is_known(samples):
    assert radius_kept(LIKELY, samples, 0.001) == pytest.approx(GOLDEN[samples][0], abs=5.1e-4)


@pytest.mark.parametrize("samples", GOLDEN)
def test_the_papers_law_is_known(samples):
    assert radius_law(0.001, samples) == pytest.approx(GOLDEN[samples][1], abs=5.1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda a, n: 1 - 1.64 * norm.isf(a / 2) / math.sqrt(n), id="two-sided z"),
        pytest.param(lambda a, n: 1 - 1.64 * norm.isf(a) / n, id="n without its root"),
        pytest.param(lambda a, n: 1 - norm.isf(a) / math.sqrt(n), id="no 1.64"),
    ],
)
def test_a_wrong_law_misses_the_known_figures(wrong):
    assert any(abs(wrong(0.001, n) - law) > 5.1e-4 for n, (_, law) in GOLDEN.items())


@pytest.mark.parametrize(("radius", "n100", "infinite"), [(0.25, 0.561, 1), (0.5, 0.198, 0.529)])
def test_the_certified_accuracy_at_sigma_one_half_is_known(radius, n100, infinite):
    (few,), (all_,) = (certified_share(LIKELY, [radius / 0.5], n, 0.001) for n in (100, None))
    assert (few, all_) == (pytest.approx(n100, abs=5e-4), pytest.approx(infinite, abs=5e-4))


def test_a_tenth_of_the_samples_keeps_two_thirds_of_the_radius_and_most_of_what_certifies_at_all():
    """100 against 1000; the paper says about 60% and 90%."""
    assert radius_kept(LIKELY, 100, 0.001) / radius_kept(LIKELY, 1000, 0.001) == pytest.approx(0.64, abs=5e-3)
    (few,), (many,) = (certified_share(LIKELY, [0], n, 0.001) for n in (100, 1000))
    assert few / many == pytest.approx(0.987, abs=5e-4)


# --- where the law holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [500, 700, 1000, 3000, 10_000, 100_000])
def test_from_500_samples_on_the_law_is_within_two_hundredths_where_p_is_spread_over_070_to_1(samples):
    assert abs(radius_law(0.001, samples) - radius_kept(LIKELY, samples, 0.001)) < 0.02


@pytest.mark.parametrize("samples", [50, 100, 500, 1000, 10_000])
@pytest.mark.parametrize("distribution", [Uniform(0.8, 1), Uniform(0.9, 1), Beta(20, 1)], ids=str)
def test_where_p_is_larger_still_the_law_promises_less_than_there_is(distribution, samples):
    assert radius_law(0.001, samples) < radius_kept(distribution, samples, 0.001)


@pytest.mark.parametrize("samples", [50, 70, 100])
def test_from_50_to_100_samples_the_law_promises_less_than_there_is(samples):
    assert 0 < radius_law(0.001, samples) < radius_kept(LIKELY, samples, 0.001)


def test_at_10_samples_the_law_is_negative_and_says_nothing():
    assert radius_law(0.001, 10) < 0 < radius_kept(LIKELY, 10, 0.001)


def test_with_p_below_070_the_law_promises_too_much():
    assert radius_law(0.001, 500) > radius_kept(Uniform(0.5, 0.7), 500, 0.001) + 0.2


@pytest.mark.parametrize(("low", "constant"), [(0.5, 2.02), (0.6, 1.76), (0.7, 1.59), (0.8, 1.49)])
def test_the_laws_164_is_the_first_order_constant_of_p_between_060_and_070(low, constant):
    """By the delta method it is E[sqrt(p (1 - p)) / phi(z)] / E[z] with z = PhiInv(p)."""
    n = 10**5
    found = (1 - radius_kept(Uniform(low, 1), n, 0.001)) * math.sqrt(n) / norm.isf(0.001)
    assert found == pytest.approx(constant, abs=0.02)


# --- independent sums ---------------------------------------------------------------------------------------


def slowly(p, samples, alpha):
    """E[R(K, n)] for one p, term by term to 50 digits."""
    radii = (certified_radius(clopper_pearson_lower(k, samples, alpha), 1.0) or 0 for k in range(samples + 1))
    p = mp.mpf(p)
    return mp.fsum(mp.binomial(samples, k) * p**k * (1 - p) ** (samples - k) * r for k, r in enumerate(radii))


@pytest.mark.parametrize("samples", [11, 100])
def test_a_list_gives_the_average_of_its_binomial_sums(samples):
    values = (0.3, 0.75, 0.95, 0.95)
    ideal = np.maximum(ndtri(values), 0).mean()
    exact = float(mp.fsum(slowly(p, samples, 0.01) for p in values)) / 4 / ideal
    assert radius_kept(Listed(values), samples, 0.01) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize(
    ("distribution", "density", "low", "high"),
    [
        pytest.param(Uniform(0.6, 0.9), lambda _: 1 / mp.mpf("0.3"), "0.6", "0.9", id="uniform"),
        pytest.param(
            Beta(9, 2), lambda p: p**8 * (1 - p) / mp.beta(9, 2), "0", "1", id="beta, all p from 0 to 1"
        ),
    ],
)
def test_a_density_gives_the_integral_of_its_binomial_sums(distribution, density, low, high):
    mean = mp.quad(lambda p: density(p) * slowly(p, 20, 0.01), mp.linspace(low, high, 3), maxdegree=4)
    ideal = mp.quad(
        lambda p: density(p) * mp.sqrt(2) * mp.erfinv(2 * p - 1), [max(mp.mpf(low), mp.mpf("0.5")), high]
    )
    assert radius_kept(distribution, 20, 0.01) == pytest.approx(float(mean / ideal), rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.1, 0.1), (1, 0.1), (20, 1), (2, 5), (300, 200)])
def test_the_ideal_radius_of_a_beta_distribution_is_its_integral(a, b):
    centre = float(ndtri(a / (a + b)))
    width = 1 / math.sqrt(a + b)
    near = [centre + width * step for step in (-8, -2, 0, 2, 8)]
    cuts = sorted({0, *(z for z in near if z > 0), 1, 4, 10, 20, 40})
    with mp.workdps(20):
        exact = mp.quad(lambda z: mp.betainc(b, a, 0, mp.ncdf(-z), regularized=True), cuts)
    assert Beta(a, b).mean_quantile() == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("samples", [1, 2, 99, 100_000])
@pytest.mark.parametrize(
    "distribution", [LIKELY, Uniform(0, 1), Beta(0.1, 7), Listed((0, 0.5, 0.99999))], ids=str
)
def test_the_votes_have_probabilities_that_sum_to_one(distribution, samples):
    votes = distribution.votes(samples)
    assert votes.shape == (samples + 1,)
    assert votes.min() >= 0
    assert votes.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.5, 0.93, 0.99999])
@pytest.mark.parametrize("samples", [1, 10, 1000, 50_000])
def test_what_is_left_out_of_a_binomial_distribution_is_negligible(p, samples):
    exact = binom.pmf(np.arange(samples + 1), samples, p)
    assert np.abs(Listed((p,)).votes(samples) - exact).sum() < 1e-9


# --- laws ---------------------------------------------------------------------------------------------------


@laws
@given(likely(), st.integers(10, 3000), st.integers(1, 3000), st.floats(1e-9, 0.01))
def test_a_share_is_a_share_and_ten_times_the_samples_keep_more(distribution, samples, more, alpha):
    kept = radius_kept(distribution, samples, alpha)
    assert 0 <= kept < 1
    assert radius_kept(distribution, 10 * samples + more, alpha) >= kept - 1e-9


def test_wrong_certificates_at_a_large_alpha_can_make_it_more_than_all():
    assert radius_kept(Uniform(0, 0.5625), 10, 0.25) > 1.1


@pytest.mark.parametrize("distribution", [LIKELY, Beta(20, 1), Listed((0.8, 0.9, 0.99))], ids=str)
def test_one_more_sample_never_lowers_the_curve_of_a_spread_of_inputs(distribution):
    kept = [radius_kept(distribution, n, 0.001) for n in range(1, 120)]
    assert min(np.diff(kept)) >= -1e-12


@laws
@given(distributions(), st.integers(1, 3000), alphas, st.floats(0.01, 0.9))
def test_a_smaller_alpha_keeps_less(distribution, samples, alpha, factor):
    assert (
        radius_kept(distribution, samples, alpha * factor) <= radius_kept(distribution, samples, alpha) + 1e-9
    )


@laws
@given(distributions(), st.integers(1, 3000) | st.none(), alphas)
def test_a_larger_radius_is_certified_for_fewer(distribution, samples, alpha):
    shares = certified_share(distribution, np.linspace(0, 4, 30), samples, alpha)
    assert -1e-12 <= shares[-1] <= shares[0] <= 1 + 1e-9
    assert max(np.diff(shares)) <= 1e-12


@laws
@given(distributions(), st.integers(10, 3000), alphas)
def test_the_area_under_the_certified_accuracy_is_the_mean_radius(distribution, samples, alpha):
    radii = np.linspace(0, 12, 4001)
    shares = np.array(certified_share(distribution, radii, samples, alpha))
    mean = radius_kept(distribution, samples, alpha) * distribution.mean_quantile()
    step = radii[1]
    assert shares[1:].sum() * step - 1e-9 <= mean <= shares[:-1].sum() * step + 1e-9


def test_a_uniform_distribution_is_close_to_a_long_even_list():
    values = 0.7 + 0.3 * (np.arange(1000) + 0.5) / 1000
    listed = Listed(tuple(values.tolist()))
    assert radius_kept(listed, 100, 0.001) == pytest.approx(radius_kept(LIKELY, 100, 0.001), abs=1e-3)


def test_an_input_at_one_half_or_below_is_never_certified_by_infinitely_many_samples():
    assert certified_share(Listed((0.2, 0.5, 0.6)), [0.0, 0.2, 0.3], None, 0.001) == [1 / 3, 1 / 3, 0]


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        pytest.param(lambda: radius_law(0.5, 10), "alpha is 0.5", id="alpha of the law"),
        pytest.param(lambda: radius_law(0.1, 0), "the samples are 0", id="no samples for the law"),
        pytest.param(lambda: radius_kept(LIKELY, 10, math.nan), "alpha is nan", id="alpha"),
        pytest.param(lambda: radius_kept(LIKELY, 0, 0.1), "the samples are 0", id="no samples"),
        pytest.param(
            lambda: radius_kept(LIKELY, MAX_SCALING_SAMPLES + 1, 0.1), "between 1 and 1000000", id="too many"
        ),
        pytest.param(lambda: radius_kept(Uniform(0.1, 0.5), 9, 0.1), "above 0.5", id="nothing to keep"),
        pytest.param(lambda: radius_kept(Listed((0.5, 0)), 9, 0.1), "above 0.5", id="a list of nothing"),
        pytest.param(lambda: certified_share(LIKELY, [-1], 9, 0.1), "a radius is -1", id="radius below 0"),
        pytest.param(lambda: certified_share(LIKELY, [math.nan], None, 0.1), "a radius is nan", id="radius"),
        pytest.param(lambda: certified_share(LIKELY, [1], None, 1), "alpha is 1", id="alpha, infinite n"),
        pytest.param(lambda: Uniform(0.7, 0.7), r"uniform on \[0.7, 0.7\)", id="an empty interval"),
        pytest.param(lambda: Uniform(-0.1, 0.7), r"uniform on \[-0.1", id="below 0"),
        pytest.param(lambda: Uniform(0.1, 1.1), r"1.1\)", id="above 1"),
        pytest.param(lambda: Uniform(math.nan, 1), "uniform on .nan", id="from nan"),
        pytest.param(lambda: Beta(0, 1), "beta's a is 0", id="beta of zero"),
        pytest.param(lambda: Beta(1, 1e5), "beta's b is 100000", id="beta too narrow"),
        pytest.param(lambda: Beta(math.nan, 1), "beta's a is nan", id="beta of nan"),
        pytest.param(lambda: Listed(()), "no probabilities", id="an empty list"),
        pytest.param(lambda: Listed((0.4, 1.0)), "a probability is 1.0.*finite", id="a listed 1"),
        pytest.param(lambda: Listed((-0.1,)), "a probability is -0.1", id="a negative one"),
        pytest.param(lambda: Listed((math.nan,)), "a probability is nan", id="a listed nan"),
    ],
)
def test_what_cannot_be_is_refused_and_named(ask, said):
    with pytest.raises(ValueError, match=said):
        ask()
