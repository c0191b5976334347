"""PREDICT: the exact probability of a wrong answer, p-values by another hand, refusals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgers.smoothing.predict import Prediction, predict
from tests.edgers import exact_binomial
from tests.edgers.exact_binomial import mp

laws = settings(deadline=None, max_examples=100)
polls = st.lists(st.integers(0, 10**6), min_size=2, max_size=6).filter(any)


# --- exact error, without Monte Carlo -----------------------------------------------------------------------


def polls_of_three(samples):
    """Every way to cast the votes on three classes."""
    for a, b in itertools.product(range(samples + 1), repeat=2):
        if a + b <= samples:
            yield a, b, samples - a - b


def chance(votes, shares):
    """The probability of these votes."""
    ways = math.comb(sum(votes), votes[0]) * math.comb(votes[1] + votes[2], votes[1])
    return ways * math.prod(share**count for share, count in zip(shares, votes, strict=True))


SHARES = [
    (1 / 2, 1 / 2, 0.0),
    (1 / 3, 1 / 3, 1 / 3),
    (0.4, 0.4, 0.2),
    (0.45, 0.45, 0.1),
    (0.501, 0.499, 0.0),
    (0.4, 0.35, 0.25),
    (0.6, 0.3, 0.1),
]


def largest_error(rule, samples):
    """Max over shares of P(an answer that is not the one most likely class); a tie has none."""
    answers = {votes: rule(votes) for votes in polls_of_three(samples)}
    worst = 0.0
    for shares in SHARES:
        best = 0 if shares[0] > shares[1] else None
        wrong = (chance(v, shares) for v, answer in answers.items() if answer not in (None, best))
        worst = max(worst, sum(wrong))
    return worst


def one_sided(votes):
    """The wrong rule: as if the two leading classes had been named beforehand."""
    ahead, behind = sorted(votes)[:0:-1]
    accepted = binomtest(ahead, ahead + behind, alternative="greater").pvalue > 0.05
    return None if accepted else int(np.argmax(votes))


def majority(votes):
    """The wrong rule: always an answer."""
    return int(np.argmax(votes))


@pytest.mark.parametrize("samples", [5, 12, 25])
def test_a_class_that_is_not_the_most_likely_is_answered_with_probability_alpha_at_most(samples):
    assert largest_error(lambda votes: predict(votes, 0.05).chosen, samples) <= 0.05


@pytest.mark.parametrize("wrong", [one_sided, majority])
def test_rules_that_are_too_bold_fail_the_same_check(wrong):
    assert largest_error(wrong, 25) > 0.05


def completions(votes, unknown):
    """Every way in which the samples that gave no vote could have voted."""
    for extra in itertools.product(range(unknown + 1), repeat=len(votes)):
        if sum(extra) == unknown:
            yield [count + more for count, more in zip(votes, extra, strict=True)]


def test_what_is_answered_would_be_answered_whatever_the_unknown_samples_had_voted():
    answered = 0
    for votes in polls_of_three(13):
        for unknown in range(5):
            found = predict(votes, 0.05, unknown)
            if found.chosen is not None:
                answered += unknown > 0
                whole = [predict(full, 0.05) for full in completions(votes, unknown)]
                assert {other.chosen for other in whole} == {found.chosen}
                assert max(other.p_value for other in whole) == found.p_value
    assert answered > 20


# --- golden numbers and an independent computation ----------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "alpha", "chosen"),
    [
        pytest.param([60, 30, 10], 0.003, 0, id="p-value .0021"),
        pytest.param([60, 30, 10], 0.002, None, id="p-value .0021, alpha below it"),
        pytest.param([10, 30, 60], 0.003, 2, id="the order of classes does not matter"),
        pytest.param([0, 11], 0.001, 1, id="eleven of eleven: 2 ** -10"),
        pytest.param([0, 10], 0.001, None, id="ten of ten: 2 ** -9"),
        pytest.param([7, 7, 7], 0.49, None, id="a tie"),
    ],
)
def test_it_answers_only_where_the_lead_is_significant(votes, alpha, chosen):
    assert predict(votes, alpha).chosen == chosen


def test_a_tie_has_a_p_value_of_one():
    assert predict([5, 5], 0.01) == Prediction(None, 1.0)
    assert predict([9, 4], 0.01, unknown=5) == predict([3, 0], 0.01, unknown=9) == Prediction(None, 1.0)
    assert predict([0, 0], 0.01, unknown=5) == Prediction(None, 1.0)


@laws
@given(polls)
def test_the_p_value_is_that_of_the_two_sided_binomial_test_between_the_two_leaders(votes):
    ahead, behind = sorted(votes)[:-3:-1]
    theirs = binomtest(ahead, ahead + behind).pvalue
    assert predict(votes, 0.001).p_value == pytest.approx(theirs, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize(
    ("ahead", "behind"), [(60, 30), (11, 0), (501_000, 499_000), (5_010_000, 4_990_000), (300, 3)]
)
def test_the_p_value_is_exact_to_nine_digits_and_never_below(ahead, behind):
    exact = 2 * exact_binomial.tail(ahead, ahead + behind, mp.mpf(1) / 2)
    assert exact <= predict([behind, ahead], 0.001).p_value <= exact * (1 + mp.mpf("1e-9"))


# --- laws and refusals --------------------------------------------------------------------------------------


@laws
@given(polls, st.randoms(use_true_random=False))
def test_relabelling_the_classes_relabels_the_answer(votes, random):
    order = random.sample(range(len(votes)), len(votes))
    shuffled, plain = predict([votes[at] for at in order], 0.01), predict(votes, 0.01)
    assert shuffled.p_value == plain.p_value
    assert (shuffled.chosen is None) == (plain.chosen is None)
    assert plain.chosen is None or order[shuffled.chosen] == plain.chosen


@laws
@given(polls)
def test_one_vote_more_for_the_leader_never_raises_the_p_value(votes):
    leader = max(range(len(votes)), key=votes.__getitem__)
    more = [count + (at == leader) for at, count in enumerate(votes)]
    assert predict(more, 0.01).p_value <= predict(votes, 0.01).p_value


@pytest.mark.parametrize(
    ("votes", "alpha", "said"),
    [
        ([5], 0.01, "votes of 1 classes; a prediction compares at least two"),
        ([0, 0], 0.01, "the number of samples is 0"),
        ([5, -1], 0.01, "5 votes of 4 samples"),
        ([5, 1], 0.5, r"alpha is 0\.5"),
    ],
)
def test_votes_or_a_level_that_cannot_be_are_refused_and_named(votes, alpha, said):
    with pytest.raises(ValueError, match=said):
        predict(votes, alpha)


def test_a_negative_number_of_unknown_samples_is_refused():
    with pytest.raises(ValueError, match="5 votes of 4 samples"):
        predict([5, 0], 0.01, unknown=-1)
    with pytest.raises(ValueError, match="-1 votes of 1 samples"):
        predict([1, 1], 0.01, unknown=-1)
