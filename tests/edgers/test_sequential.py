"""The mixture test and its bound: 50 digits, exact size, expected samples, coverage at any stopping time."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc, betaln, ndtr

from edgers.smoothing.bounds import Probability, clopper_pearson_lower
from edgers.smoothing.radius import certified_radius
from edgers.smoothing.sequential import MixtureTest, anytime_lower, hopeless_votes
from edgers.smoothing.stopping import (
    Boundary,
    Decision,
    even_looks,
    least_expected_samples,
    operating_characteristics,
    size,
)
from tests.edgers.exact_binomial import mp

laws = settings(deadline=None, max_examples=60)
thresholds = st.floats(0.01, 0.99)
alphas = st.floats(1e-12, 0.49)

ALPHA, SIGMA, CAP = 0.001, 0.5, 4000
EVERY = even_looks(CAP, 1)
KNOWN = [  # radius, p, expected samples to decide R >= radius
    *((0.25, p, samples) for p, samples in {0.8: 279, 0.9: 62, 0.95: 36, 0.99: 24, 1: 22}.items()),
    *((0.5, p, samples) for p, samples in {0.95: 133, 0.99: 57, 1: 47}.items()),
    *((0.75, p, samples) for p, samples in {0.99: 190, 1: 117}.items()),
]


@st.composite
def counts(draw, most=10**5):
    """Votes and samples with 0 <= votes <= samples."""
    samples = draw(st.integers(1, most))
    return draw(st.integers(0, samples)), samples


def threshold_of(radius):
    return float(ndtr(radius / SIGMA))


def impatient(threshold, alpha, looks):
    """The rule without giving up: whatever it does is the test's own doing."""
    return replace(MixtureTest(threshold, alpha).boundary(looks), give_up_at=np.full(len(looks), -1))


# --- against 50 digits --------------------------------------------------------------------------------------


def series(a, b, p):
    """The sum of (a+b)(a+b+1).../((a+1)(a+2)...) p^i, all terms positive, in fixed point with 192 bits."""
    bits = 192
    p, total, index = int(mp.ldexp(p, bits)), 1 << bits, 0
    term, top, bottom = total, int(2 * (a + b)), int(2 * (a + 1))
    while term:
        term = (term * p * (top + 2 * index) // (bottom + 2 * index)) >> bits
        total, index = total + term, index + 1
    return mp.ldexp(total, -bits)


def exact_log_evidence(votes, samples, threshold):
    """By whichever tail of the beta distribution has the shorter series."""
    p, q = mp.mpf(threshold), 1 - mp.mpf(threshold)
    a, b = votes + mp.mpf(1) / 2, samples - votes + mp.mpf(1) / 2
    log_power = a * mp.log(p) + b * mp.log(q)
    log_beta = mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)
    if samples * p - votes < 6 * mp.sqrt(samples * p * q) and (p < 0.5 or samples * q**3 > 354):
        log_integral = log_beta + mp.log1p(-mp.exp(log_power - log_beta) / a * series(a, b, p))
    else:
        log_integral = log_power - mp.log(b) + mp.log(series(b, a, q))
    log_prior = mp.log(2 * mp.asin(mp.sqrt(q)))
    return log_integral - log_prior - votes * mp.log(p) - (samples - votes) * mp.log(q)


def evidence_cases(number):
    """(votes, samples, threshold): samples up to 10^7, near the threshold or unanimous."""
    rng = np.random.default_rng(40)
    for index in range(number):
        samples = int(10 ** rng.uniform(0, 7))
        complement = rng.choice([10 ** rng.uniform(-9, -0.31), rng.uniform(0.01, 0.99)])
        spread = math.sqrt(samples * complement * (1 - complement))
        near = samples * (1 - complement) + rng.uniform(-6, 12) * spread
        votes = samples if index % 5 == 0 else int(np.clip(near, 0, samples))
        yield votes, samples, float(1 - complement)


def test_the_log_evidence_is_rounded_down_and_hardly_at_all():
    wrong = []
    for votes, samples, threshold in evidence_cases(150):
        found = float(MixtureTest(threshold, 0.001).log_evidence(votes, samples))
        exact = exact_log_evidence(votes, samples, threshold)
        short = exact - mp.mpf(found)
        terms = abs(exact) + 2 * abs(votes - samples * threshold)
        if not 0 <= short <= 2e-12 + 3e-14 * terms:
            wrong.append(f"{votes} of {samples} at {threshold}: short by {mp.nstr(short, 5)}")
    assert not wrong


def test_the_reference_evidence_is_the_integral_it_stands_for():
    p = mp.mpf(0.7)
    weight = [lambda q: 1 / mp.sqrt(q * (1 - q)), lambda q: q**9 * (1 - q) ** 2 / mp.sqrt(q * (1 - q))]
    prior, joint = (mp.quad(function, [p, 0.9, 1]) for function in weight)
    expected = mp.log(joint / prior / (p**9 * (1 - p) ** 2))
    assert abs(exact_log_evidence(9, 11, 0.7) - expected) < mp.mpf("1e-15")


@pytest.mark.parametrize(
    ("votes", "samples", "threshold"), [(0, 2000, 0.7), (100, 4000, 0.99), (1, 10**6, 0.5)]
)
def test_where_the_tail_underflows_the_evidence_is_a_finite_lower_bound(votes, samples, threshold):
    found = float(MixtureTest(threshold, 0.001).log_evidence(votes, samples))
    short = exact_log_evidence(votes, samples, threshold) - mp.mpf(found)
    assert betainc(samples - votes + 0.5, votes + 0.5, 1 - threshold) < 1e-280
    assert 0 <= short < 6
    assert found < 0


def test_many_counts_at_once_are_the_same_numbers():
    test, votes = MixtureTest(0.7, 0.01), np.arange(301)
    together = test.log_evidence(votes, np.full(301, 300))
    assert together.tolist() == [float(test.log_evidence(k, 300)) for k in votes.tolist()]


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.69, 0.99, 0.9999])
@pytest.mark.parametrize("alpha", [0.4, 0.05, 0.001, 1e-9])
def test_the_fewest_samples_that_certify_are_unanimous(threshold, alpha):
    test = MixtureTest(threshold, alpha)
    fewest = test.unanimous_samples
    assert test.certifies(fewest, fewest)
    few = np.arange(max(fewest - 40, 1), fewest)
    assert (test.fewest_votes(few) > few).all()


@pytest.mark.parametrize(("short_of_1", "reached"), [(1e-8, True), (8e-9, False)])
def test_more_than_a_billion_unanimous_samples_are_refused(short_of_1, reached):
    """Between 2^29 and 10^9 lies no power of two: the search ends at the most that can be counted."""
    test = MixtureTest(1 - short_of_1, 0.001)
    if reached:
        assert 2**29 < test.unanimous_samples < 10**9
    else:
        with pytest.raises(ValueError, match="aim at a smaller radius"):
            _ = test.unanimous_samples


def test_the_boundary_is_where_the_evidence_first_reaches_one_over_alpha():
    looks = even_looks(400, 1)
    for threshold, alpha in ((0.5, 0.05), (0.6915, 0.001), (0.99, 1e-6)):
        test = MixtureTest(threshold, alpha)
        found = test.boundary(looks).certify_from.tolist()
        for look, fewest in zip(looks.tolist(), found, strict=True):
            enough = test.log_evidence(np.arange(look + 1), np.full(look + 1, look)) >= -math.log(alpha)
            assert fewest == (int(enough.argmax()) if enough.any() else look + 1)
            assert fewest > look or test.certifies(fewest, look)
            assert not test.certifies(fewest - 1, look)


# --- exact size ---------------------------------------------------------------------------------------------

LEVELS = pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-6])
BATCHES = pytest.mark.parametrize("batch", [1, 8, 32])


@LEVELS
@BATCHES
@pytest.mark.parametrize("threshold", [0.5, 0.6, threshold_of(0.25), 0.8, 0.95, 0.99, 0.999])
def test_a_false_certificate_has_probability_alpha_at_most_wherever_it_looks(threshold, alpha, batch):
    looks = even_looks(1000, batch)
    assert size(impatient(threshold, alpha, looks), threshold) <= alpha
    assert size(MixtureTest(threshold, alpha).boundary(looks), threshold) <= alpha


@pytest.mark.parametrize("threshold", [0.5, threshold_of(0.25), 0.95])
def test_most_of_the_level_is_used_by_four_thousand_looks(threshold):
    assert 0.7 * ALPHA < size(impatient(threshold, ALPHA, EVERY), threshold) <= ALPHA


def fewest(evidence, bar, looks, threshold):
    """The boundary of any evidence that grows with the votes from the threshold's share on."""
    low, high = (looks * threshold).astype(int), looks + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = evidence(middle, looks) >= bar
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return Boundary(looks, high, np.full(len(looks), -1))


def formula(threshold, *, prior=True, posterior=True):
    """The log evidence written down plainly, with or without the normalisers of the truncation."""

    def evidence(k, n):
        with np.errstate(divide="ignore"):
            inside = np.log(betainc(n - k + 0.5, k + 0.5, 1 - threshold)) if posterior else 0.0
        mass = math.log(2 / math.pi * math.asin(math.sqrt(1 - threshold))) if prior else 0.0
        likelihood = k * math.log(threshold) + (n - k) * math.log1p(-threshold)
        return betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5) + inside - mass - likelihood

    return evidence


def test_the_formula_written_down_plainly_gives_the_same_rule():
    p0 = threshold_of(0.25)
    plain = fewest(formula(p0), math.log(1 / ALPHA), EVERY, p0)
    assert plain.certify_from.tolist() == impatient(p0, ALPHA, EVERY).certify_from.tolist()


def one_vote_early(threshold, alpha, looks):
    rule = impatient(threshold, alpha, looks)
    return replace(rule, certify_from=np.maximum(rule.certify_from - 1, 0))


def one_look_late(threshold, alpha, looks):
    """Judges the votes of each look by the boundary of the look before."""
    rule = impatient(threshold, alpha, looks)
    return replace(rule, certify_from=np.append(looks[0] + 1, rule.certify_from[:-1]))


def half_the_bar(threshold, alpha, looks):
    return fewest(formula(threshold), math.log(1 / (2 * alpha)), looks, threshold)


def give_up_counted_as_certify(threshold, alpha, looks):
    rule = MixtureTest(threshold, alpha).boundary(looks)
    answered = np.where(rule.give_up_at >= 0, 0, rule.certify_from)
    return Boundary(looks, answered, np.full(len(looks), -1))


@pytest.mark.parametrize("wrong", [one_vote_early, one_look_late, half_the_bar, give_up_counted_as_certify])
@pytest.mark.parametrize("threshold", [0.5, threshold_of(0.25), threshold_of(0.5)])
def test_rules_that_certify_too_easily_fail_the_size_check(wrong, threshold):
    assert size(wrong(threshold, ALPHA, EVERY), threshold) > ALPHA * 1.2


@pytest.mark.parametrize(
    "weaker",
    [{"prior": False}, {"prior": False, "posterior": False}],
    ids=["no normaliser of the prior", "not truncated at all"],
)
def test_without_the_truncation_the_rule_is_sound_but_spends_more_than_it_should(weaker):
    p0 = threshold_of(0.25)
    rule = fewest(formula(p0, **weaker), math.log(1 / ALPHA), EVERY, p0)
    assert size(rule, p0) <= ALPHA
    assert operating_characteristics(rule, 0.99).expected_samples > 24 * 1.05


def test_without_the_posteriors_share_the_evidence_is_too_high():
    assert formula(0.7, posterior=False)(np.array(75), np.array(100)) > exact_log_evidence(75, 100, 0.7) + 0.1


# --- expected samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "p", "samples"), KNOWN)
def test_the_expected_samples_are_the_known_ones(radius, p, samples):
    rule = MixtureTest(threshold_of(radius), ALPHA).boundary(EVERY)
    found = operating_characteristics(rule, p)
    assert found.expected_samples == pytest.approx(samples, rel=0.02)
    assert found.certified > 0.999


@pytest.mark.parametrize("radius", [0.25, 0.5])
@pytest.mark.parametrize("p", [0.95, 0.97, 0.99, 0.999, 1])
def test_it_spends_at_most_a_quarter_more_than_any_rule_could(radius, p):
    p0 = threshold_of(radius)
    found = operating_characteristics(MixtureTest(p0, ALPHA).boundary(EVERY), p)
    assert found.certified > 0.999
    least = least_expected_samples(p, p0, ALPHA)
    assert found.certified * least <= found.expected_samples <= 1.25 * least


# --- giving up ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("futility", [0.2, 0.01, 1e-4])
@pytest.mark.parametrize("batch", [1, 8])
def test_giving_up_costs_little_power_and_never_soundness(futility, batch):
    looks, p0 = even_looks(1000, batch), threshold_of(0.25)
    patient = impatient(p0, ALPHA, looks)
    rule = MixtureTest(p0, ALPHA).boundary(looks, futility)
    for p in (0.6, p0, 0.75, 0.8, 0.9, 0.99):
        lost = size(patient, p) - size(rule, p)
        assert -1e-12 <= lost <= futility


@pytest.mark.parametrize(("p", "samples"), [(0.5, 80), (0.6, 360), (0.2, 20)])
def test_a_hopeless_input_is_given_up_early(p, samples):
    rule = MixtureTest(threshold_of(0.25), ALPHA).boundary(EVERY)
    found = operating_characteristics(rule, p)
    assert found.hopeless > 0.999
    assert found.expected_samples < samples


def test_a_smaller_futility_gives_up_later():
    looks = even_looks(500, 1)
    rules = [MixtureTest(0.7, ALPHA).boundary(looks, futility) for futility in (0.3, 0.05, 0.001)]
    assert (np.diff([rule.give_up_at for rule in rules], axis=0) <= 0).all()


def test_what_unanimity_can_no_longer_certify_is_given_up_before_the_cap():
    rule = MixtureTest(threshold_of(0.25), ALPHA).boundary(even_looks(30, 1))
    assert rule.decide(15, 20) is Decision.HOPELESS
    assert rule.give_up_at[20:29].min() >= 0


# --- the bound at any stopping time -------------------------------------------------------------------------


def lower_bounds(bound, cap, alpha):
    """The bound of every count up to the cap: entry [n, k]."""
    values = np.zeros((cap + 1, cap + 1))
    for n in range(1, cap + 1):
        values[n, : n + 1] = [bound(k, n, alpha).value for k in range(n + 1)]
    return values


def error_of_running_maximum(values, p):
    """The probability that the largest bound along the run exceeds p: the walk against `bound > p`."""
    looks = np.arange(1, len(values))
    above = values[1:] > p
    first = np.where(above.any(axis=1), above.argmax(axis=1), looks + 1)
    return size(Boundary(looks, first, np.full(len(looks), -1)), p)


@pytest.fixture(scope="module")
def anytime_bounds():
    return {alpha: lower_bounds(anytime_lower, 30, alpha) for alpha in (0.05, 0.001)}


GRID = [0.02, 0.1, 0.3, 0.5, 0.6, 0.75, 0.9, 0.97, 0.99, 0.999]


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_largest_bound_along_the_run_exceeds_the_truth_with_probability_alpha_at_most(
    anytime_bounds, alpha
):
    values = anytime_bounds[alpha]
    just_below = values[30, 15:31] * (1 - 1e-9)
    errors = [error_of_running_maximum(values, p) for p in [*GRID, *just_below]]
    assert max(errors) <= alpha
    assert max(errors) > alpha / 2


def test_the_largest_clopper_pearson_bound_along_the_run_fails_that_check():
    values = lower_bounds(clopper_pearson_lower, 30, 0.05)
    assert max(error_of_running_maximum(values, p) for p in GRID) > 0.1


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 0.99])
def test_the_bound_exceeds_a_threshold_only_where_the_test_rejects_it(anytime_bounds, threshold):
    test = MixtureTest(threshold, 0.001)
    disagree = []
    for n in range(1, 31):
        for k in range(n + 1):
            bound = anytime_bounds[0.001][n, k]
            if (bound > threshold) != test.certifies(k, n) and abs(bound - threshold) > 1e-9:
                disagree.append((k, n))
    assert not disagree


def bound_cases(number):
    rng = np.random.default_rng(41)
    for index in range(number):
        samples = int(10 ** rng.uniform(0, 7))
        fewer = int(10 ** rng.uniform(0, math.log10(samples + 1)))
        votes = samples if index % 4 == 0 else max(samples - fewer, 1)
        yield votes, samples, float(10 ** rng.uniform(-12, -0.4))


def test_the_bound_is_rejected_to_fifty_digits_and_a_hair_above_it_is_not():
    hair, wrong = mp.mpf("1e-9"), []
    for votes, samples, alpha in bound_cases(100):
        bound, bar = anytime_lower(votes, samples, alpha), -mp.log(alpha)
        lower = 1 - mp.mpf(bound.complement) if bound.complement < 0.5 else mp.mpf(bound.value)
        above = 1 - mp.mpf(bound.complement) * (1 - hair) if lower > 0.5 else lower * (1 + hair)
        sound = exact_log_evidence(votes, samples, lower) >= bar and bound.value <= lower
        if not sound or exact_log_evidence(votes, samples, above) >= bar:
            wrong.append(f"{votes} of {samples} at {alpha}: {'loose' if sound else 'above'}")
    assert not wrong


@laws
@given(counts(), alphas)
def test_the_test_rejects_the_bound_itself(count, alpha):
    bound = anytime_lower(*count, alpha).value
    assert bound < 1e-15 or MixtureTest(bound, alpha).certifies(*count)


@laws
@given(counts(10**4), alphas)
def test_every_threshold_below_the_bound_is_rejected_and_none_above(count, alpha):
    bound = anytime_lower(*count, alpha).value
    grid = np.linspace(0, 1, 201)[1:-1]
    rejected = np.array([MixtureTest(float(p), alpha).certifies(*count) for p in grid])
    assert rejected[grid < bound * (1 - 1e-7)].all()
    assert not rejected[grid > bound + (1 - bound) * 1e-7].any()


@laws
@given(counts(10**4), st.integers(1, 10**4), alphas)
def test_evidence_above_one_falls_as_the_threshold_grows(count, cells, alpha):
    grid = np.linspace(0, 1, cells % 400 + 3)[1:-1]
    evidence = np.array([float(MixtureTest(float(p), alpha).log_evidence(*count)) for p in grid])
    above = evidence > 0
    assert (np.diff(evidence[above]) < 0).all()
    assert not above.any() or above[: int(above.sum())].all()


@laws
@given(counts(), alphas)
def test_the_bound_for_any_time_is_below_the_bound_for_a_fixed_n(count, alpha):
    assert anytime_lower(*count, alpha).value <= clopper_pearson_lower(*count, alpha).value


@laws
@given(counts(), alphas, st.floats(0.01, 0.9))
def test_a_vote_more_raises_the_bound_and_a_smaller_alpha_lowers_it(count, alpha, factor):
    votes, samples = count
    bound = anytime_lower(votes, samples, alpha).value
    assert anytime_lower(votes, samples, alpha * factor).value <= bound
    assert votes == 0 or anytime_lower(votes - 1, samples, alpha).value < bound
    assert anytime_lower(votes, samples + 1, alpha).value <= bound
    assert anytime_lower(votes + 1, samples + 1, alpha).value >= bound


@pytest.mark.parametrize(
    ("votes", "share"), [(80, 0.314), (86, 0.208), (90, 0.165), (95, 0.123), (100, 0.052)]
)
def test_at_a_hundred_samples_the_radius_loses_this_share_of_the_fixed_bounds_one(votes, share):
    fixed, anytime = (
        certified_radius(bound(votes, 100, ALPHA), SIGMA) for bound in (clopper_pearson_lower, anytime_lower)
    )
    assert 1 - anytime / fixed == pytest.approx(share, abs=0.001)


def test_no_votes_give_zero_and_its_complement_one():
    assert anytime_lower(0, 100, 0.001) == Probability(0.0, 1.0)


@pytest.mark.parametrize("alpha", [1e-12, 1e-100, 1e-300])
def test_a_tiny_alpha_still_gives_a_bound(alpha):
    bound = anytime_lower(9, 10, alpha)
    assert 0 < bound.value < 1
    assert exact_log_evidence(9, 10, bound.value) >= -mp.log(alpha)
    assert exact_log_evidence(9, 10, mp.mpf(bound.value) * (1 + mp.mpf("1e-9"))) < -mp.log(alpha)


# --- prefixes only ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [0.1, 0.5])
def test_counting_only_the_rows_that_finished_breaks_the_level_and_counting_them_against_keeps_it(slow):
    """Answers of other classes are late with probability `slow`: what is in time is a biased sample."""
    p0 = threshold_of(0.25)
    rule = MixtureTest(p0, ALPHA).boundary(EVERY)
    among_finished = p0 / (p0 + (1 - p0) * (1 - slow))
    assert size(rule, among_finished) > 100 * ALPHA
    for votes_that_are_late in (0, slow):
        assert size(rule, p0 * (1 - votes_that_are_late)) <= ALPHA


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5, math.nan])
def test_a_threshold_that_nothing_exceeds_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"the threshold is {threshold}"):
        MixtureTest(threshold, 0.001)


@pytest.mark.parametrize("alpha", [0, 0.5, 1, -1, math.nan])
def test_a_level_that_is_none_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"alpha is {alpha}"):
        MixtureTest(0.7, alpha)
    with pytest.raises(ValueError, match=rf"alpha is {alpha}"):
        anytime_lower(3, 4, alpha)


@pytest.mark.parametrize(("votes", "samples"), [(-1, 4), (5, 4), (0, 0), (1, 10**9 + 1)])
def test_counts_that_cannot_be_are_refused(votes, samples):
    with pytest.raises(ValueError, match=r"samples"):
        MixtureTest(0.7, 0.001).certifies(votes, samples)
    with pytest.raises(ValueError, match=r"samples"):
        anytime_lower(votes, samples, 0.001)


@pytest.mark.parametrize("futility", [0, 0.5, -1, math.nan])
def test_a_futility_that_is_no_level_is_refused(futility):
    with pytest.raises(ValueError, match=rf"futility is {futility}"):
        MixtureTest(0.7, 0.001).boundary([1, 2], futility)
    with pytest.raises(ValueError, match=rf"futility is {futility}"):
        hopeless_votes(np.array([1, 2]), np.array([2, 3]), 0.7, futility)
