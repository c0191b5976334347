"""Intervals of a comparison keep their level on correlated series, and find what is there."""

import numpy as np
import pytest
from scipy.stats import binom

from edgers.benchmark.block_bootstrap import LEVEL, Quantile, Rate, _drawn, ratio_interval, value
from edgers.benchmark.summary import percentile
from tests.edgers.simulated_benchmarks import latencies

TRIALS = 200
RESAMPLES = 200
QUERIES = 240


def median(times):
    return Quantile(times, 50)


def rate(times):
    return Rate(np.full(len(times), 116.0), times)


def share_of_differences(figure, *, slower=1.0, paired=False, common=0.0, correlation=0.6):
    """How often two runs of the same law, or of one that is slower, are told apart; and which were slower."""
    rng = np.random.default_rng(11)
    found = []
    for _ in range(TRIALS):
        work = np.exp(common * rng.standard_normal(QUERIES))
        a, b = (latencies(rng, QUERIES, correlation=correlation, work=work) for _ in "ab")
        low, high = ratio_interval(figure(a), figure(slower * b), paired=paired, resamples=RESAMPLES)
        found.append((low > 1) - (high < 1))
    return np.asarray(found)


@pytest.mark.parametrize("figure", [median, rate])
@pytest.mark.parametrize(
    ("paired", "common", "correlation"),
    [(False, 0.0, 0.6), (True, 0.0, 0.6), (True, 0.2, 0.6), (False, 0.0, 0.0)],
)
def test_of_two_equal_runs_about_one_in_twenty_seems_to_differ(figure, paired, common, correlation):
    differing = np.count_nonzero(
        share_of_differences(figure, paired=paired, common=common, correlation=correlation)
    )
    # 0.03 to 0.055 of 1,000 trials; single queries, drawn apart, differ in 0.2 and more.
    assert differing <= binom.ppf(0.999, TRIALS, 1 - LEVEL)
    assert differing >= 1


@pytest.mark.parametrize("figure", [median, rate])
def test_a_tenth_slower_is_found_and_in_its_direction(figure):
    found = share_of_differences(figure, slower=1.1)
    direction = 1 if figure is median else -1
    assert np.mean(found == direction) > 0.95


def test_pairs_take_out_the_work_that_both_had():
    apart = share_of_differences(median, slower=1.05, common=0.2)
    paired = share_of_differences(median, slower=1.05, common=0.2, paired=True)
    assert np.mean(paired == 1) > np.mean(apart == 1) + 0.1


def test_the_same_series_give_the_same_interval_and_swapping_them_its_inverse():
    rng = np.random.default_rng(0)
    a, b = latencies(rng, 100), latencies(rng, 130)
    first = ratio_interval(median(a), median(b), paired=False)
    assert first == ratio_interval(median(a), median(b), paired=False)
    low, high = ratio_interval(median(a), median(a * 2), paired=True)
    assert (low, high) == pytest.approx((2, 2))
    low, high = ratio_interval(median(a * 2), median(a), paired=True)
    assert (low, high) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("queries", [20, 21, 97, 240])
def test_a_resample_has_as_many_queries_as_the_series_in_runs_of_a_tenth(queries):
    counts = _drawn(np.random.default_rng(0), queries, 500)
    assert (counts.sum(axis=1) == queries).all()
    assert (counts >= 0).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(queries), abs=0.3)
    ends = (np.diff(np.concatenate([counts, counts[:, :1]], axis=1)) != 0).sum(axis=1)
    assert ends.max() <= 2 * 10 + 2


@pytest.mark.parametrize("q", [50, 90, 99])
def test_the_bootstraps_percentile_is_the_summarys(q):
    times = np.random.default_rng(5).exponential(size=317)
    assert value(Quantile(times, q)) == percentile(times, q)
    some = np.where(np.arange(317) % 3 == 0, np.nan, times)
    assert value(Quantile(some, q)) == percentile(some[~np.isnan(some)], q)


def test_counting_a_query_twice_is_having_it_twice():
    rng = np.random.default_rng(6)
    times, counts = rng.exponential(size=50), rng.integers(4, size=50)
    repeated = np.repeat(times, counts)
    assert Quantile(times, 90).of(counts[np.newaxis].astype(float))[0] == value(Quantile(repeated, 90))
    assert rate(times).of(counts[np.newaxis].astype(float))[0] == pytest.approx(value(rate(repeated)))


def test_a_figure_that_is_zero_in_a_resample_has_no_interval():
    times = np.where(np.arange(100) < 45, 0.0, 1.0)
    assert ratio_interval(median(times), median(times), paired=False) is None


def test_the_level_is_what_the_table_says():
    assert LEVEL == 0.95
