"""Comparing two benchmarks: what is refused, what is said first, which figure decides, and the command."""

import io
import json

import click
import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from edgers.benchmark.comparison import compare_benchmarks
from edgers.benchmark.differences import EXPECTABLE
from edgers.benchmark.record import Benchmark, BenchmarkError
from edgers.benchmark.summary import summarise
from edgers.cli.bench import command
from edgers.cli.compare_benchmarks import SLOWER
from edgers.report.benchmark_comparison import comparison_json, comparison_lines, verdict
from edgers_engines.energy import EnergyRecord
from edgers_engines.errors import InputError
from tests.edgers.simulated_benchmarks import STATE, latencies, simulated


def run(seed, *, slower=1.0, count=240, **more):
    rng = np.random.default_rng(seed)
    return simulated(rng, times=slower * latencies(rng, count), **more)


@pytest.fixture(scope="module")
def before():
    return run(1)


@pytest.fixture(scope="module")
def after():
    return run(2, slower=1.2)


def figure(comparison, name):
    return next(each for each in comparison.figures if each.name == name)


def said(comparison, width=200):
    console = Console(file=io.StringIO(), width=width)
    for line in comparison_lines(comparison):
        console.print(line)
    return console.file.getvalue()


OTHERWISE = {
    "scenario": "single",
    "bundle_digest": "00" * 32,
    "image_sha256": "11" * 32,
    "prompt": "is there a person ?",
    "choices": ("yes", "no"),
    "oracle": "action",
    "sigma": 0.5,
    "alpha": 0.01,
    "samples": 1000,
    "selection": 32,
    "method": "sequential",
    "target_radius": 0.25,
    "batch_size": 8,
}


@pytest.mark.parametrize("field", OTHERWISE)
def test_what_was_asked_otherwise_is_refused_by_its_name(before, field):
    other = replace(before, settings=replace(before.settings, **{field: OTHERWISE[field]}))
    with pytest.raises(InputError, match=f"do not measure the same: {field}: "):
        compare_benchmarks(before, other)
    if field in EXPECTABLE:
        comparison = compare_benchmarks(before, other, [field])
        assert [each.field for each in comparison.expected] == [field]
        assert f"! asked otherwise, as you said: {field}: " in said(comparison)
    else:
        with pytest.raises(InputError, match="no setting 'scenario' that may differ"):
            compare_benchmarks(before, other, [field])


def test_every_field_of_the_settings_is_measured_or_a_name_or_the_seed(before):
    assert {*OTHERWISE} == {*before.settings.__struct_fields__} - {"bundle", "image", "seed"}


def test_one_expected_difference_excuses_no_other(before):
    other = replace(before, settings=replace(before.settings, sigma=0.5, batch_size=8))
    with pytest.raises(InputError, match=r"sigma: 0\.25 and 0\.5"):
        compare_benchmarks(before, other, ["batch_size"])


def test_another_machine_version_or_power_mode_is_said_and_no_error(before):
    machine = replace(
        before.machine,
        threads=6,
        versions={**before.machine.versions, "CUDA": "13.0"},
        engine=replace(before.machine.engine, precision="int8"),
    )
    other = replace(before, machine=machine, after=replace(before.after, power_mode="30W"))
    assert {each.field for each in compare_benchmarks(before, other).circumstances} == {
        "threads",
        "CUDA",
        "engine precision",
        "power mode",
    }
    lines = said(compare_benchmarks(before, other))
    assert lines.index("! not the same power mode: A MAXN, B 30W") < lines.index("latency p50")
    assert not compare_benchmarks(before, before).circumstances


def test_throttling_and_an_unsteady_start_are_said_of_the_run_that_had_them(before):
    hot = replace(before, after=replace(STATE, throttling=("thermal",)))
    cold = replace(before, warm_up=replace(before.warm_up, steady=False, said="still falling"))
    assert compare_benchmarks(before, before).remarks == ()
    first, second = compare_benchmarks(hot, cold).remarks
    assert first == "A was throttled: thermal"
    assert second == "B was not steady when its warm-up ended: still falling"


def test_every_figure_says_how_much_slower_and_that_it_is_not_chance(before, after):
    comparison = compare_benchmarks(before, after)
    for each in comparison.figures:
        if each.interval is None:
            continue
        low, high = each.interval
        assert low < (1.2 if each.better == "lower" else 1 / 1.2) < high
        assert low <= each.ratio <= high
        assert verdict(each) == "worse"
    back = compare_benchmarks(after, before)
    assert {verdict(each) for each in back.figures} == {"better", ""}


def test_the_table_keeps_its_verdicts_in_80_columns(before, after):
    table = said(compare_benchmarks(before, after), width=80)
    assert "…" not in table
    assert table.count("worse") == sum(
        verdict(each) == "worse" for each in compare_benchmarks(before, after).figures
    )


def test_two_equal_runs_differ_by_noise(before):
    same = compare_benchmarks(before, run(3))
    assert verdict(same.deciding) == "noise"
    assert not same.slower_than(0)


def test_the_values_are_those_of_the_summary(before, after):
    comparison = compare_benchmarks(before, after)
    summary = summarise(after)
    assert figure(comparison, "latency p90").b == summary.latency.percentiles[90]
    assert figure(comparison, "time to first token p50").b == summary.first_token.percentiles[50]
    assert figure(comparison, "time to certified decision p50").b == summary.decision.percentiles[50]
    assert figure(comparison, "samples/s").b == pytest.approx(summary.samples_per_second)
    assert figure(comparison, "certificates/s").b == pytest.approx(summary.certificates_per_second)
    assert figure(comparison, "energy per certificate").b == summary.joules_per_certificate
    stage = next(stage for stage in summary.stages if stage.name == "encode")
    assert figure(comparison, "encode p50").b == stage.times.percentiles[50]


def test_with_equal_seeds_the_longer_run_is_cut_to_pairs_and_with_others_it_is_not(before):
    longer = run(4, count=300)
    assert compare_benchmarks(before, longer).queries == (240, 240)
    assert "! B: the first 240 of its 300 queries, as many as the other has" in said(
        compare_benchmarks(before, longer)
    )
    assert "! A: the first 240 of its 300 queries" in said(compare_benchmarks(longer, before))
    other = replace(longer, settings=replace(longer.settings, seed="1" * 32))
    comparison = compare_benchmarks(before, other)
    assert "queries, as many" not in said(comparison)
    assert (comparison.paired, comparison.queries) == (False, (240, 300))
    assert "! other seeds" in said(comparison)


def test_too_few_queries_give_a_value_but_no_interval_and_decide_nothing():
    short = compare_benchmarks(run(1, count=19), run(2, count=19))
    assert short.deciding.ratio is not None
    assert short.deciding.interval is None
    assert figure(short, "latency p90").reason == "19 of the 100 queries that an interval takes"
    assert figure(short, "latency p99").reason == "19 of the 100 queries that it takes"
    assert figure(short, "latency p99").ratio is None
    assert "No interval for latency p50" in said(short)
    with pytest.raises(InputError, match="cannot be decided: latency p50: 19 of the 20 queries"):
        short.slower_than(0.05)
    enough = compare_benchmarks(run(1, count=20), run(2, count=20))
    assert enough.deciding.interval is not None
    with pytest.raises(InputError, match="cannot be decided: 20 of the 100 queries that a decision takes"):
        enough.slower_than(0.05)


def test_a_median_of_certified_queries_that_came_together_has_no_interval_where_a_resample_has_none(before):
    """Its least value would stand for them: a ratio of 1 had an interval from 0.004."""

    def clustered(least):
        queries = [
            replace(query, certified=n < 25, latency_ms=100.0) for n, query in enumerate(before.queries)
        ]
        queries[0] = replace(queries[0], latency_ms=least)
        return replace(before, queries=tuple(queries))

    decision = figure(compare_benchmarks(clustered(100.0), clustered(1.0)), "time to certified decision p50")
    assert (decision.ratio, decision.interval) == (1, None)
    assert decision.reason == "some resamples have none, or 0"


def test_throttling_that_was_only_counted_is_remarked(before):
    states = [replace(before.before, throttle_counts={"over-current oc1": count}) for count in (2.0, 90.0)]
    counted = replace(before, before=states[0], after=states[1])
    (remark,) = compare_benchmarks(before, counted).remarks
    assert remark == "B was throttled: over-current oc1: 88 events"


def test_slower_means_that_the_whole_interval_is_above_the_tolerance(before, after):
    comparison = compare_benchmarks(before, after)
    low = comparison.deciding.interval[0]
    assert comparison.slower_than(low - 1 - 1e-9)
    assert not comparison.slower_than(low - 1 + 1e-9)
    assert not compare_benchmarks(after, before).slower_than(0)


def test_offline_is_decided_by_its_throughput(before, after):
    a, b = (replace(each, settings=replace(each.settings, scenario="offline")) for each in (before, after))
    comparison = compare_benchmarks(a, b)
    assert comparison.deciding.name == "samples/s"
    assert comparison.deciding.ratio < 1
    assert comparison.slower_than(0.05)
    assert not compare_benchmarks(b, a).slower_than(0)
    low, high = comparison.deciding.slowdown
    assert 1.05 < low < 1.2 < high


def test_energy_of_other_meters_is_not_compared_and_unknown_energy_says_why(before):
    rapl = replace(before, energy=replace(before.energy, source="RAPL", rail="package-0"))
    energy = figure(compare_benchmarks(before, rapl), "energy per certificate")
    assert (energy.a, energy.ratio) == (None, None)
    assert energy.reason == "other meters: INA3221 VDD_IN and RAPL package-0"
    unknown = replace(before, energy=EnergyRecord(joules=None, reason="no meter is there"))
    energy = figure(compare_benchmarks(before, unknown), "energy per certificate")
    assert energy.a is not None
    assert (energy.b, energy.ratio, energy.reason) == (None, None, "no meter is there")


def test_programs_get_every_ratio_and_verdict(before, after):
    tree = json.loads(json.dumps(comparison_json(compare_benchmarks(before, after))))
    first = tree["figures"][0]
    assert (first["name"], first["verdict"], tree["deciding"]) == ("latency p50", "worse", "latency p50")
    assert first["ratio"] == pytest.approx(first["b"] / first["a"])


@pytest.fixture
def files(tmp_path, before, after):
    (tmp_path / "a.json").write_bytes(before.to_json())
    (tmp_path / "b.json").write_bytes(after.to_json())
    return [str(tmp_path / name) for name in ("a.json", "b.json")]


def call(*arguments):
    return command.main([*arguments], standalone_mode=False)


def test_the_exit_code_is_1_where_b_is_slower_than_is_tolerated(files, capsys):
    assert call("--compare", *files) == 0
    assert capsys.readouterr().err == ""
    assert call("--compare", *files, "--fail-if-slower", "50%") == 0
    passed = capsys.readouterr().err
    assert passed.startswith("edgers: not shown to be slower: by latency p50, B takes 1.1")
    assert passed.endswith("(95%), not all of it above the 1.5 that is tolerated\n")
    for limit in ("5%", "0.05"):
        assert call("--compare", *files, "--fail-if-slower", limit) == SLOWER == 1
        failed = capsys.readouterr().err
        assert failed.startswith("edgers: slower: by latency p50, B takes 1.1")
        assert failed.endswith("(95%), all of it above the 1.05 that is tolerated\n")
    assert call("--compare", *files[::-1], "--fail-if-slower", "0%") == 0


def test_json_on_stdout_leaves_the_table_to_stderr(files, capsys, tmp_path):
    assert call("--compare", *files, "--json", "-") == 0
    out, err = capsys.readouterr()
    assert "latency p50" in err
    assert call("--compare", *files, "--json", str(tmp_path / "c.json")) == 0
    assert json.loads(out) == json.loads((tmp_path / "c.json").read_text())


@pytest.mark.parametrize("percent", ["5", "1.01", "-1%", "-0.1", "five%", "nan%", "nan", "inf%", "", "%"])
def test_a_tolerance_is_a_percentage_or_a_share_of_at_most_1(files, percent):
    with pytest.raises(click.BadParameter, match="is not a share of at least 0, such as 5%"):
        call("--compare", *files, f"--fail-if-slower={percent}")


def test_options_that_do_not_go_together_are_refused(files, tmp_path):
    with pytest.raises(InputError, match="leave out --plot"):
        call("--compare", *files, "--plot", str(tmp_path / "p.png"))
    with pytest.raises(InputError, match="go with --compare"):
        call("--fail-if-slower", "5%")
    with pytest.raises(InputError, match="choose of bundle_digest"):
        call("--compare", *files, "--despite", "bundle")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b["queries"].reverse(), "not in the order in which they began"),
        (lambda b: b["queries"][0].update(latency_ms=5e-324), ">= 1e-06.*latency_ms"),
        (lambda b: b["queries"][0].update(latency_ms=1e308), "<= 1000000000000.*latency_ms"),
        (lambda b: b["settings"].update(alpha=5.0), "< 0.5.*alpha"),
        (lambda b: b["settings"].update(sigma=0.0), "> 0.*sigma"),
    ],
    ids=["backwards", "no time", "longer than the world", "alpha", "sigma"],
)
def test_a_file_with_numbers_that_nothing_can_have_measured_is_refused(before, tmp_path, change, says):
    tree = json.loads(before.to_json())
    change(tree)
    (tmp_path / "odd.json").write_text(json.dumps(tree))
    with pytest.raises(BenchmarkError, match=says):
        Benchmark.load(tmp_path / "odd.json")
