"""What a benchmark's queries show: nearest-rank percentiles, shares, rates, and nothing beyond the data."""

import json
import math
import re
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgers.benchmark.record import STAGES, Benchmark, BenchmarkError
from edgers.benchmark.summary import OTHER, PERCENTILES, Distribution, percentile, queries_needed, summarise
from edgers_engines.energy import EnergyRecord
from tests.edgers.benchmarks import benchmark, query

times = st.floats(0.001, 1e6)


@given(st.lists(times, min_size=100, max_size=400), st.sampled_from(PERCENTILES))
def test_a_percentile_is_numpys_inverted_distribution_function(values, q):
    assert percentile(values, q) == np.percentile(values, q, method="inverted_cdf")


@pytest.mark.parametrize(("q", "needed"), [(50, 2), (90, 10), (95, 20), (99, 100), (99.9, 1000)])
def test_a_percentile_needs_so_many_queries_that_it_is_not_their_largest(q, needed):
    assert queries_needed(q) == needed
    assert percentile([1.0] * (needed - 1), q) is None
    assert percentile([*range(needed)], q) == needed - 2
    assert percentile([*range(needed - 1, -1, -1)], q) == needed - 2


def test_too_few_queries_are_not_extrapolated():
    found = Distribution.of([3.0, 1.0, 2.0])
    assert (found.count, found.largest) == (3, 3.0)
    assert found.percentiles == {50: 2.0, 90: None, 95: None, 99: None}
    assert Distribution.of([]) is None


def test_rates_are_by_the_whole_span_pauses_between_queries_included():
    b = benchmark(queries=(query(0, 100, samples=10), query(150, 100, samples=30)))
    found = summarise(b)
    assert found.seconds == 0.25
    assert found.samples_per_second == 40 / 0.25
    assert found.certificates_per_second == 2 / 0.25


def test_the_time_to_a_certified_decision_is_of_the_queries_that_certified():
    b = benchmark(
        queries=(query(0, 10, certified=True), query(10, 70, certified=False), query(80, 30, certified=True))
    )
    found = summarise(b)
    assert found.certified == 2
    assert (found.decision.count, found.decision.percentiles[50], found.decision.largest) == (2, 10, 30)
    assert found.latency.largest == 70
    none = summarise(benchmark(queries=(query(0, 10, certified=False),)))
    assert (none.certified, none.decision) == (0, None)


@pytest.mark.parametrize("scenario", ["single", "stream", "offline"])
def test_only_the_scenario_certify_has_certificates(scenario):
    b = benchmark(scenario=scenario, queries=(query(0, 10, certified=None), query(10, 10, certified=None)))
    found = summarise(b)
    assert (found.certified, found.decision, found.certificates_per_second) == (None, None, None)
    assert found.joules_per_certificate is None


def test_stages_share_the_latency_and_what_is_in_none_is_other():
    first = query(0, 10, stages={"noise": 2.0, "encode": 5.0})
    second = query(10, 30, stages={"noise": 4.0, "encode": 9.0})
    noise, encode, other = summarise(benchmark(queries=(first, second))).stages
    assert (noise.name, noise.share, noise.times.largest) == ("noise", 6 / 40, 4.0)
    assert (encode.name, encode.share) == ("encode", 14 / 40)
    assert (other.name, other.share, other.times.largest) == (OTHER, 20 / 40, 17.0)
    assert math.isclose(noise.share + encode.share + other.share, 1)


def test_stages_come_in_the_order_of_a_frames_way():
    names = [*STAGES]
    b = benchmark(queries=(query(0, 100, stages=dict.fromkeys(reversed(names), 1.0)),))
    assert [stage.name for stage in summarise(b).stages] == [*names, OTHER]


def test_a_decode_step_is_each_querys_decoding_by_its_steps_and_absent_without_any():
    with_steps = query(0, 10, stages={"decode": 8.0}, decode_steps=4)
    without = query(10, 10, stages={"decode": 0.5}, decode_steps=0)
    found = summarise(benchmark(queries=(with_steps, without)))
    assert (found.decode_step.count, found.decode_step.largest) == (1, 2.0)
    assert summarise(benchmark(queries=(without,))).decode_step is None


def test_energy_is_shared_out_where_it_is_known():
    b = benchmark(queries=(query(0, 10, samples=50), query(10, 10, samples=50)))
    known = summarise(replace(b, energy=EnergyRecord(joules=20.0, source="INA3221", rail="VDD_IN")))
    assert (known.joules_per_certificate, known.joules_per_sample) == (10.0, 0.2)
    unknown = summarise(b)
    assert (unknown.joules_per_certificate, unknown.joules_per_sample) == (None, None)


def test_a_benchmark_comes_back_from_its_file_as_it_was(tmp_path):
    b = benchmark(queries=tuple(query(20 * i, 10 + i % 7) for i in range(120)))
    path = tmp_path / "b.json"
    path.write_bytes(b.to_json())
    assert Benchmark.load(path) == b
    assert astuple(summarise(Benchmark.load(path))) == astuple(summarise(b))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"queries": []}, "$.queries"),
        ({"schema_version": 2}, "$.schema_version"),
        ({"joules": 3}, "joules"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused_with_what_is_wrong(tmp_path, change, said):
    path = tmp_path / "b.json"
    path.write_text(json.dumps({**json.loads(benchmark(queries=(query(0, 1),)).to_json()), **change}))
    with pytest.raises(BenchmarkError, match=re.escape(said)):
        Benchmark.load(path)
    with pytest.raises(BenchmarkError, match="cannot read"):
        Benchmark.load(tmp_path / "none.json")


def test_a_query_that_took_no_time_is_refused(tmp_path):
    path = tmp_path / "b.json"
    path.write_bytes(benchmark(queries=(query(0, 0.0),)).to_json())
    with pytest.raises(BenchmarkError, match="latency_ms"):
        Benchmark.load(path)
