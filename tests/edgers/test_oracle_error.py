"""What a vote proves about the truth: exact error probabilities, wrong assumptions that fail, refusals."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from edgers.smoothing.bounds import Probability, clopper_pearson_lower, clopper_pearson_upper
from edgers.smoothing.mode import parameters
from edgers.smoothing.oracle_error import (
    MODES,
    Adversarial,
    Asymmetric,
    Audit,
    Calibrated,
    CalibratedFalsePositive,
    Composite,
    FalsePositive,
    Pairwise,
    Symmetric,
    Unknown,
    mode,
)

laws = settings(deadline=None, max_examples=100)

EXAMPLES = [
    Composite(),
    Pairwise(),
    Adversarial(0.05),
    FalsePositive(0.1),
    Asymmetric(0.1, 0.05),
    Symmetric(0.05),
    Unknown(),
    Audit(39, 40),
    Calibrated(2, 500),
    CalibratedFalsePositive(((1, 300), (0, 200))),
]
every_mode = pytest.mark.parametrize("claim", EXAMPLES, ids=lambda claim: claim.name)


# --- exact coverage, without Monte Carlo: a world is how often the oracle misses A, and says it falsely -----


def claims(claim, samples, alpha):
    """p_L for k = 0 ... n; -1 where the mode refuses, which claims nothing."""
    vote_alpha = claim.vote_alpha(alpha)
    bounds = (clopper_pearson_lower(k, samples, vote_alpha) for k in range(samples + 1))
    return np.array([claimed(claim, bound, alpha) for bound in bounds])


def claimed(claim, q_lower, alpha):
    try:
        return claim.p_lower(q_lower, alpha).value
    except ValueError:
        return -1.0


def largest_error(bounds, world):
    """Max over p of P(p_L(K) > p), K ~ Binomial(n, q), where q follows from p in that world.

    The error is largest just below a value of the bound, so those p are in the grid besides an even one.
    """
    critical = bounds[(bounds > 0) & (bounds < 1)] * (1 - 1e-12)
    p = np.concatenate([np.linspace(0, 1, 501)[:-1], critical])
    missed, false = world(p)
    q = p * (1 - missed) + (1 - p) * false
    samples = len(bounds) - 1
    masses = binom.pmf(np.arange(samples + 1), samples, q[:, None])
    return float(np.where(bounds > p[:, None], masses, 0).sum(axis=1).max())


def rates(missed, false):
    """A world with these rates, whatever p is."""
    return lambda _p: (missed, false)


def false_mass(mass, missed=0.0):
    """A world in which P(the oracle says A and A is false) is `mass`, as far as there is room for it."""
    return lambda p: (missed, np.minimum(mass / (1 - p), 1.0))


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(
    ("claim", "worst", "others"),
    [
        pytest.param(Composite(), rates(0, 0), [], id="composite: p is q"),
        pytest.param(
            Adversarial(0.05),
            false_mass(0.05),
            [false_mass(0.02), false_mass(0.05, 0.1), false_mass(0.05, 0.5), rates(0, 0)],
            id="adversarial",
        ),
        pytest.param(
            FalsePositive(0.1),
            rates(0, 0.1),
            [rates(0, 0.05), rates(0.3, 0.1), rates(1, 0.1), rates(0, 0)],
            id="false-positive",
        ),
        pytest.param(
            Asymmetric(0.1, 0.05),
            rates(0.05, 0.1),
            [rates(0.3, 0.1), rates(0.05, 0), rates(0.2, 0.05), rates(1, 0)],
            id="asymmetric",
        ),
        pytest.param(
            Symmetric(0.05),
            rates(0.05, 0.05),
            [rates(0.1, 0.1), rates(0.3, 0.3), rates(0.49, 0.49)],
            id="symmetric",
        ),
        pytest.param(
            Unknown(), rates(0, 0), [rates(0.05, 0.05), rates(0.3, 0.3), rates(0.49, 0.49)], id="unknown"
        ),
    ],
)
def test_the_claim_exceeds_the_truth_with_probability_alpha_at_most_in_every_world_it_allows(
    claim, worst, others, alpha
):
    bounds = claims(claim, 100, alpha)
    assert alpha * (1 - 1e-6) <= largest_error(bounds, worst) <= alpha * (1 + 1e-9)
    assert all(largest_error(bounds, world) <= alpha * (1 + 1e-9) for world in others)


@pytest.mark.parametrize(
    ("claim", "world"),
    [
        pytest.param(Adversarial(0.05), false_mass(0.1), id="adversarial: epsilon is not an upper bound"),
        pytest.param(FalsePositive(0.1), rates(0, 0.2), id="false-positive: f is not an upper bound"),
        pytest.param(Asymmetric(0.1, 0.05), rates(0.05, 0.2), id="asymmetric: f is not an upper bound"),
        pytest.param(Asymmetric(0.1, 0.2), rates(0, 0.1), id="asymmetric: e is not a lower bound"),
        pytest.param(Symmetric(0.2), rates(0.05, 0.05), id="symmetric: epsilon is an upper bound"),
        pytest.param(Symmetric(0.05), rates(0.05, 0.2), id="symmetric: unequal rates"),
        pytest.param(Unknown(), rates(0, 0.2), id="unknown: unequal rates"),
        pytest.param(Composite(), rates(0, 0.2), id="composite, read as a claim about the truth"),
    ],
)
def test_a_world_that_the_mode_does_not_allow_fails_the_same_check(claim, world):
    assert largest_error(claims(claim, 100, 0.001), world) > 0.01


def uncut(q_lower, epsilon):
    """Theorems 4.1 and 4.2 taken at their word also below one half."""
    return (q_lower - epsilon) / (1 - 2 * epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_symmetric_claims_below_one_half_would_fail_the_same_check(epsilon):
    bounds = np.array([uncut(clopper_pearson_lower(k, 100, 0.001).value, epsilon) for k in range(101)])
    assert largest_error(bounds, rates(0.3, 0.3)) > 0.5
    assert largest_error(np.where(bounds >= 0.5, bounds, 0), rates(0.3, 0.3)) <= 0.001


def test_the_counterexample_to_an_unknown_rate_when_rates_are_unequal():
    """With p = .55, false positives .2 and no false negatives, nearly every vote of 10000 claims p > .6."""
    q = 0.55 + 0.45 * 0.2
    assert q == pytest.approx(0.64)
    bounds = claims(Unknown(), 10_000, 0.001)
    wrong = np.flatnonzero(bounds > 0.6)
    assert binom.sf(wrong[0] - 1, 10_000, q) > 0.99


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_with_the_exact_rates_of_any_joint_distribution_the_claim_is_wrong_with_probability_alpha_at_most(
    classes,
):
    """Truth and oracle label are drawn together from a random table; class 0 is A."""
    rng, alpha, checked = np.random.default_rng(classes), 0.01, 0
    for _ in range(40):
        table = rng.dirichlet(np.full(classes, 0.5), size=classes) * rng.dirichlet(np.ones(classes))[:, None]
        p, q, truths = table[0].sum(), table[:, 0].sum(), table.sum(axis=1)
        false, missed = float((table[1:, 0] / truths[1:]).max()), float(1 - table[0, 0] / p)
        allowed = [Adversarial(float(table[1:, 0].sum())), FalsePositive(false)]
        if false + missed < 1:
            allowed.append(Asymmetric(false, missed))
        for claim in allowed:
            bounds = claims(claim, 60, alpha)
            assert binom.pmf(np.flatnonzero(bounds > p), 60, q).sum() <= alpha
            checked += 1
    assert checked >= 80


# --- modes that estimate: both samples are summed over ------------------------------------------------------

ALPHA, SAMPLES, LABELLED = 0.05, 40, 20
QS = np.linspace(0.04, 1, 25)


def binomial(number, p):
    return binom.pmf(np.arange(number + 1), number, p)


def q_lowers(share=0.5):
    return [clopper_pearson_lower(k, SAMPLES, ALPHA * share) for k in range(SAMPLES + 1)]


def audit_claims(rule):
    """[k, r]: p_L from k votes, of which the first LABELLED at most are audited and r are correct."""
    table = np.full((SAMPLES + 1, LABELLED + 1), -1.0)
    for k, q_lower in enumerate(q_lowers()):
        audited = min(k, LABELLED)
        for correct in range(audited + 1 if audited else 0):
            table[k, correct] = rule(q_lower, correct, audited)
    return table


def largest_audit_error(rule):
    """Max over q and the precision of P(p_L > p), where p is as small as they allow: their product."""
    table, worst = audit_claims(rule), 0.0
    for q in QS:
        for precision in np.linspace(0.04, 1, 25):
            correct = np.array(
                [np.append(binomial(m, precision), np.zeros(LABELLED - m)) for m in _audited()]
            )
            masses = binomial(SAMPLES, q)[:, None] * correct
            worst = max(worst, masses[table > q * precision].sum())
    return worst


def _audited():
    return [min(k, LABELLED) for k in range(SAMPLES + 1)]


def audited(q_lower, correct, total):
    return Audit(correct, total).p_lower(q_lower, ALPHA).value


def audited_without_a_bound(q_lower, correct, total):
    return q_lower.value * correct / total


def test_an_audited_claim_exceeds_the_truth_with_probability_alpha_at_most():
    assert largest_audit_error(audited) <= ALPHA


def test_the_precision_itself_in_place_of_its_bound_fails_the_same_check():
    assert largest_audit_error(audited_without_a_bound) > 2 * ALPHA


def largest_calibrated_error(rule):
    """Max over p and epsilon of P(p_L > p), where the oracle's errors are as bad as their rate allows."""
    table = np.array([[rule(q_lower, errors) for errors in range(LABELLED + 1)] for q_lower in q_lowers()])
    worst = 0.0
    for q in QS:
        for epsilon in np.linspace(0, q, 25):
            masses = binomial(SAMPLES, q)[:, None] * binomial(LABELLED, epsilon)
            worst = max(worst, masses[table > q - epsilon].sum())
    return worst


def calibrated(q_lower, errors):
    return Calibrated(errors, LABELLED).p_lower(q_lower, ALPHA).value


def calibrated_without_a_bound(q_lower, errors):
    return q_lower.value - errors / LABELLED


def calibrated_from_below(q_lower, errors):
    return q_lower.value - clopper_pearson_lower(errors, LABELLED, ALPHA / 2).value


def test_a_calibrated_claim_exceeds_the_truth_with_probability_alpha_at_most():
    assert largest_calibrated_error(calibrated) <= ALPHA


@pytest.mark.parametrize("wrong", [calibrated_without_a_bound, calibrated_from_below])
def test_the_error_rate_without_an_upper_bound_fails_the_same_check(wrong):
    assert largest_calibrated_error(wrong) > 2 * ALPHA


def largest_calibrated_false_positive_error(rule):
    """As above for two other classes, of which the one with the higher false-positive rate is always true."""
    first, second = 12, 8
    table = np.array(
        [
            [[rule(q, ((a, first), (b, second))) for b in range(second + 1)] for a in range(first + 1)]
            for q in q_lowers()
        ]
    )
    worst = 0.0
    for p in np.linspace(0, 0.96, 13):
        for f in np.linspace(0, 0.9, 7):
            for other in (0.0, f):
                q = p + (1 - p) * f
                errors = binomial(first, f)[:, None] * binomial(second, other)
                masses = binomial(SAMPLES, q)[:, None, None] * errors
                worst = max(worst, masses[table > p].sum())
    return worst


def calibrated_false_positive(q_lower, counts):
    return CalibratedFalsePositive(counts).p_lower(q_lower, ALPHA).value


def pooled(q_lower, counts):
    """The wrong rule: one rate for all other classes together."""
    f = clopper_pearson_upper(sum(e for e, _ in counts), sum(m for _, m in counts), ALPHA / 2).value
    return (q_lower.value - f) / (1 - f) if f < 1 else 0.0


def test_a_calibrated_false_positive_claim_exceeds_the_truth_with_probability_alpha_at_most():
    assert largest_calibrated_false_positive_error(calibrated_false_positive) <= ALPHA


def test_one_rate_for_all_other_classes_together_fails_the_same_check():
    assert largest_calibrated_false_positive_error(pooled) > 2 * ALPHA


@pytest.mark.parametrize(
    "claim", [Calibrated(20, 20), CalibratedFalsePositive(((0, 50), (3, 3))), Audit(0, 20)]
)
def test_labels_that_are_all_wrong_leave_nothing(claim):
    assert claim.p_lower(Probability(1.0, 1e-9), 0.001) == Probability(0.0, 1.0)


def test_alpha_is_split_and_the_worst_class_shares_its_part():
    q, f = Probability(0.9, 0.1), clopper_pearson_upper(3, 100, 0.001 * 0.75 / 2).value
    claim = CalibratedFalsePositive(((3, 100), (0, 100)), vote_share=0.25)
    assert claim.vote_alpha(0.001) == 0.00025
    assert claim.p_lower(q, 0.001).value == pytest.approx((0.9 - f) / (1 - f), rel=1e-12)
    u = clopper_pearson_upper(2, 500, 0.0005).value
    assert Calibrated(2, 500).p_lower(q, 0.001).value == pytest.approx(0.9 - u, rel=1e-12)
    precision = clopper_pearson_lower(39, 40, 0.0005).value
    assert Audit(39, 40).p_lower(q, 0.001).value == pytest.approx(0.9 * precision, rel=1e-12)


@every_mode
@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.3])
def test_the_parts_of_alpha_add_up_to_alpha(claim, alpha):
    parts = Fraction(claim.vote_alpha(alpha)) + Fraction(claim.label_alpha(alpha))
    assert parts <= Fraction(alpha)
    assert float(parts) == alpha


# --- the formulas -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (Composite(), 0.875),
        (Pairwise(), 0.875),
        (Adversarial(0.125), 0.75),
        (FalsePositive(0.375), 0.8),
        (Asymmetric(0.25, 0.0625), 10 / 11),
        (Symmetric(0.0625), 13 / 14),
        (Unknown(), 0.875),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_claim_is_the_formula_of_its_mode_rounded_down(claim, expected):
    p = claim.p_lower(Probability(0.875, 0.125), 0.001)
    assert p.value == pytest.approx(expected, rel=1e-15)
    assert p.value <= expected
    assert p.complement == pytest.approx(1 - expected, rel=1e-14)


@every_mode
def test_a_zero_bound_claims_nothing(claim):
    assert claim.p_lower(Probability(0.0, 1.0), 0.001) == Probability(0.0, 1.0)


@pytest.mark.parametrize("claim", [Symmetric(0.05), Unknown()])
def test_symmetric_flips_claim_nothing_below_one_half(claim):
    assert claim.p_lower(Probability(math.nextafter(0.5, 0), 0.5), 0.001) == Probability(0.0, 1.0)
    assert claim.p_lower(Probability(0.5, 0.5), 0.001).value == 0.5


def test_a_claim_keeps_the_digits_of_a_tiny_complement():
    near = Probability(1.0, 1e-30)
    assert FalsePositive(0.1).p_lower(near, 0.001).complement == pytest.approx(1e-30 / 0.9, rel=1e-12)


@every_mode
@laws
@given(q=st.floats(0, 0.94), step=st.floats(0, 0.01), alpha=st.floats(1e-12, 0.4))
def test_a_higher_bound_of_q_never_lowers_the_claim(claim, q, step, alpha):
    lower, higher = (claim.p_lower(Probability(x, 1 - x), alpha) for x in (q, q + step))
    assert lower.value <= higher.value
    assert lower.complement >= higher.complement
    assert 0 <= lower.value <= 1
    assert 0 <= lower.complement <= 1
    assert lower.value + lower.complement == pytest.approx(1, abs=1e-12)


@every_mode
@pytest.mark.parametrize("p0", [0.5, 0.6, 0.75, 0.9, 0.999, 1 - 1e-9])
def test_the_q_that_is_needed_is_the_least_that_gives_the_claim(claim, p0):
    target = Probability(p0, 1 - p0)
    needed = claim.q_needed(target, 0.001)
    if needed is None:
        assert claim.p_lower(Probability(1.0, 0.0), 0.001).value < p0
        return
    assert claim.p_lower(needed, 0.001).value >= p0
    less = Probability(needed.value * (1 - 1e-12), needed.complement + 1e-12)
    assert claim.p_lower(less, 0.001).value < p0


@pytest.mark.parametrize("claim", [Adversarial(0.2), Audit(38, 40), Calibrated(50, 500)])
def test_no_vote_is_enough_where_the_oracle_is_worse_than_the_claim_allows(claim):
    assert claim.q_needed(Probability(0.95, 0.05), 0.001) is None


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "largest"),
    [(Asymmetric(0.0625, 0.25), 0.75), (Symmetric(0.125), 0.875)],
    ids=["asymmetric", "symmetric"],
)
def test_votes_that_contradict_the_assumption_are_refused(claim, largest):
    assert claim.p_lower(Probability(largest, 1 - largest), 0.001) == Probability(1.0, 0.0)
    with pytest.raises(ValueError, match=f"mode {claim.name} rules out more than {largest}"):
        claim.p_lower(Probability(largest + 0.001, 1 - largest - 0.001), 0.001)


@pytest.mark.parametrize("rate", [-0.001, 1.0, 2, math.nan, math.inf, -math.inf])
def test_a_rate_that_is_none_is_refused_and_named(rate):
    for make, name in ((Adversarial, "error rate"), (FalsePositive, "false-positive rate")):
        with pytest.raises(ValueError, match=f"the {name} is {rate}; it must be at least 0 and below 1"):
            make(rate)
    for rates_of in ((rate, 0.1), (0.1, rate)):
        with pytest.raises(ValueError, match=f"rate is {rate}; it must be at least 0 and below 1"):
            Asymmetric(*rates_of)


@pytest.mark.parametrize("rate", [-0.001, 0.5, 0.9, math.nan])
def test_a_symmetric_rate_outside_zero_to_one_half_is_refused_and_named(rate):
    with pytest.raises(ValueError, match=f"the error rate is {rate}; it must be at least 0 and below 0.5"):
        Symmetric(rate)


@pytest.mark.parametrize("pair", [(0.5, 0.5), (0.9, 0.2), (0.7, 0.30000000000000004)])
def test_asymmetric_rates_that_add_up_to_one_are_refused(pair):
    with pytest.raises(ValueError, match="the two error rates add up to"):
        Asymmetric(*pair)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Audit(5, 4), "5 votes of 4 samples"),
        (lambda: Audit(0, 0), "the number of samples is 0"),
        (lambda: Calibrated(-1, 4), "-1 votes of 4 samples"),
        (lambda: Calibrated(5, 4), "5 votes of 4 samples"),
        (lambda: CalibratedFalsePositive(()), "no calibration counts"),
        (lambda: CalibratedFalsePositive(((0, 4), (5, 4))), "5 votes of 4 samples"),
        (lambda: CalibratedFalsePositive(((0, 4), (0, 0))), "the number of samples is 0"),
    ],
)
def test_counts_that_cannot_be_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("share", [0.0, 1.0, -1, math.nan])
def test_a_share_of_alpha_that_is_none_is_refused(share):
    for make in (
        lambda: Audit(1, 2, share),
        lambda: Calibrated(1, 2, share),
        lambda: CalibratedFalsePositive(((1, 2),), share),
    ):
        with pytest.raises(ValueError, match=f"the vote's share of alpha is {share}"):
            make()


@every_mode
def test_an_alpha_or_a_target_out_of_range_is_refused(claim):
    q = Probability(0.75, 0.25)
    for call in (
        claim.vote_alpha,
        lambda alpha: claim.p_lower(q, alpha),
        lambda alpha: claim.q_needed(q, alpha),
    ):
        with pytest.raises(ValueError, match=r"alpha is 0\.5"):
            call(0.5)
    with pytest.raises(ValueError, match=r"the probability to reach is 0\.4; it must be at least 0\.5"):
        claim.q_needed(Probability(0.4, 0.6), 0.001)


# --- by name, and in words ----------------------------------------------------------------------------------


@every_mode
def test_a_mode_is_made_by_its_name_and_attributes(claim):
    given = {name: getattr(claim, name) for name in parameters(type(claim))}
    assert mode(claim.name, **given) == claim


def test_every_mode_has_an_example_here():
    assert list(MODES) == [claim.name for claim in EXAMPLES]


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("optimistic", {}, "there is no mode 'optimistic'; choose one of composite, pairwise, adversarial"),
        ("adversarial", {}, "mode adversarial takes error_rate; it was given nothing"),
        ("composite", {"error_rate": 0.1}, "mode composite takes nothing; it was given error_rate"),
        ("audit", {"correct": 3}, "mode audit takes correct, audited, vote_share; it was given correct"),
    ],
)
def test_a_mode_that_is_not_there_or_lacks_a_number_is_refused(name, given, said):
    with pytest.raises(ValueError, match=said):
        mode(name, **given)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (Composite(), ["the oracle's", "true is not claimed"]),
        (Pairwise(), ["the oracle's", "lead", "before the votes were seen"]),
        (Adversarial(0.05), ["0.05 at most at this input", "upper bound"]),
        (FalsePositive(0.1), ["0.1 at most at this input", "upper bound"]),
        (Asymmetric(0.1, 0.05), ["0.1 at most (an upper bound)", "0.05 at least (a lower bound)"]),
        (Symmetric(0.05), ["two classes", "same rate", "0.05 at least (a lower bound"]),
        (Unknown(), ["two classes", "same unknown rate", "With unequal rates the claim can be false"]),
        (Audit(39, 40), ["labelled 40", "agreed with 39", "taken to be right"]),
        (
            Calibrated(2, 500),
            ["2 errors in 500", "one per image", "errs more often the claim can be false", "average"],
        ),
        (
            CalibratedFalsePositive(((1, 300),)),
            ["1 of 300", "one per image", "errs more often the claim can be false", "average"],
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_sentence_says_what_is_assumed_with_its_numbers(claim, words):
    assert [word for word in words if word not in claim.sentence] == []
    assert "{" not in claim.sentence


@pytest.mark.parametrize(
    "make",
    [
        lambda: Audit(49.9, 50),
        lambda: Audit(49, 50.0),
        lambda: Calibrated(0.9, 1000),
        lambda: CalibratedFalsePositive([(0.5, 10)]),
        lambda: clopper_pearson_lower(9.5, 10, 0.001),
    ],
)
def test_counts_that_are_not_whole_are_refused(make):
    with pytest.raises(ValueError, match="whole numbers"):
        make()


def test_calibration_counts_stay_what_they_were_when_the_mode_was_made():
    counts = [[60, 500], [7, 300]]
    claim = CalibratedFalsePositive(counts)
    counts[0][0] = 0
    counts.pop()
    assert claim.counts == ((60, 500), (7, 300))
