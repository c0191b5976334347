"""`edgers bench`: what it prints and writes, and what it refuses before it measures."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from msgspec.structs import replace
from rich.console import Console

from edgers import cli, demo
from edgers.benchmark import measure
from edgers.benchmark.record import Benchmark
from edgers.benchmark.summary import summarise
from edgers.report.benchmark import benchmark_lines
from edgers_engines.energy import EnergyRecord
from edgers_engines.errors import BackendError
from edgers_engines.vlm import VisionLanguageModel
from tests.edgers.benchmarks import benchmark, query

SHORT = ("--duration", "0.001", "--warmup", "0")
FEW = (*SHORT, "--samples", "24", "--selection", "4")


@pytest.fixture
def bench(monkeypatch, capsys):
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["edgers", "bench", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        assert "internal error" not in err, err
        return stop.value.code, out, err

    return run


def refused(ended, said):
    code, out, err = ended
    assert (code, out) == (2, ""), ended
    assert said in err
    assert len(err.splitlines()) == 1


def test_bench_needs_no_argument_but_time(bench):
    code, out, err = bench(*SHORT)
    assert (code, err) == (0, "")
    assert out.startswith("certify: ")
    for word in (
        "time to first token",
        "5 of 5 certified",
        "certificates/s",
        "samples/s",
        "decode image",
        "statistics",
        "needs 100",
        "warm-up",
        "energy",
        "throttling",
        "peak",
        "nothing here certifies anything",
    ):
        assert word in " ".join(out.split()), word


@pytest.mark.parametrize(
    ("scenario", "samples", "batch"), [("single", 1, 1), ("stream", 4, 4), ("offline", 10, 4)]
)
def test_each_scenario_of_mlperf_is_measured(bench, tmp_path, scenario, samples, batch):
    path, size = tmp_path / "b.json", () if scenario == "single" else ("--batch-size", "4")
    pool = ("--samples", "10") if scenario == "offline" else ()
    code, out, _ = bench(*SHORT, "--scenario", scenario, *size, *pool, "--json", path)
    assert code == 0
    assert out.startswith(f"{scenario}: ")
    b = Benchmark.load(path)
    assert (b.settings.scenario, b.settings.samples, b.settings.batch_size) == (scenario, samples, batch)
    assert sum(q.samples for q in b.queries) >= 5 * samples or scenario == "offline"
    assert "nothing here certifies" not in out


def test_the_file_says_what_was_asked_where_and_how(bench, tmp_path):
    path = tmp_path / "b.json"
    options = ("--choices", "left, right", "--prompt", "Where to?", "--sigma", "0.5", "--alpha", "0.01")
    target = ("--target-radius", "0.2", "--batch-size", "6", "--threads", "1")
    frame = demo.frames()[1]
    assert bench(*FEW, *options, *target, "--image", frame, "--json", path)[0] == 0
    b = Benchmark.load(path)
    s = b.settings
    assert (s.scenario, s.bundle, s.image) == ("certify", "edgers-demo", frame.name)
    assert (s.prompt, s.choices, s.oracle) == ("Where to?", ("left", "right"), None)
    assert (s.sigma, s.alpha, s.samples, s.selection) == (0.5, 0.01, 24, 4)
    assert (s.method, s.target_radius, s.batch_size) == ("sequential", 0.2, 6)
    assert s.bundle_digest == demo.load_bundle().digest
    assert b.machine.threads == 1
    assert len(b.queries) == 5
    assert b.energy.joules is None or b.energy.source
    assert b.memory.host_peak_bytes > 10 << 20


def test_two_runs_measure_with_the_same_noise(bench, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    bench(*FEW, "--json", a)
    bench(*FEW, "--warmup", "0.5", "--json", b)
    first, second = Benchmark.load(a), Benchmark.load(b)
    assert first.settings == second.settings
    assert [q.radius for q in first.queries] == [q.radius for q in second.queries[: len(first.queries)]]
    assert first.queries[0].radius is not None


def test_json_on_stdout_is_alone_there(bench):
    code, out, err = bench(*FEW, "--json", "-")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert json.loads(out)["settings"]["scenario"] == "certify"
    assert "time to first token" in err


def test_the_csv_has_a_line_for_each_query_with_its_stages(bench, tmp_path):
    path, table = tmp_path / "b.json", tmp_path / "b.csv"
    assert bench(*FEW, "--csv", table, "--json", path)[0] == 0
    queries = Benchmark.load(path).queries
    rows = list(csv.DictReader(table.open()))
    assert {row["failed"] for row in rows} == {"0"}
    assert len(rows) == len(queries) == 5
    for number, (row, each) in enumerate(zip(rows, queries, strict=True)):
        assert int(row["query"]) == number
        assert float(row["latency_ms"]) == each.latency_ms
        assert float(row["decode_image_ms"]) == each.stages_ms["decode image"]
        assert float(row["statistics_ms"]) == each.stages_ms["statistics"]
        assert row["certified"] == str(each.certified)


def test_a_stage_that_is_not_timed_is_an_empty_cell(bench, tmp_path):
    table = tmp_path / "b.csv"
    bench(*SHORT, "--scenario", "single", "--csv", table)
    row = next(csv.DictReader(table.open()))
    assert (row["prepare_ms"], row["certified"]) == ("", "")
    assert float(row["encode_ms"]) > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--duration", "0"), "duration is 0 s"),
        (("--duration", "nan"), "duration is nan s"),
        (("--duration", "inf"), "duration is inf s"),
        (("--duration", "-3"), "duration is -3 s"),
        (("--warmup", "-1"), "warmup is -1 s"),
        (("--warmup", "inf"), "warmup is inf s"),
        (("--sigma", "0"), "sigma is 0"),
        (("--sigma", "nan"), "sigma is nan"),
        (("--samples", "0"), "0"),
        (("--selection", "-1"), "selection is -1"),
        (("--alpha", "1"), "alpha"),
        (("--batch-size", "0"), "batch size is 0"),
        (("--batch-size", "0", "--scenario", "stream"), "batch size is 0"),
        (("--batch-size", "5000", "--scenario", "stream"), "batch size is 5000"),
        (("--target-radius", "-1"), "target radius is -1"),
        (("--target-radius", "9"), "no vote certifies a radius of 9"),
        (("--method", "batched"), "batched"),
        (("--choices", "left"), "choices"),
        (("--choices", "left,,right"), "no name"),
        (("--oracle", "no-such"), "has no oracle 'no-such'"),
        (("--oracle", "robot-action", "--choices", "a,b"), "not both"),
        (("--prompt", ""), "prompt"),
        (("--threads", "0"), "threads is 0"),
        (("--device", "tpu"), "no device 'tpu'"),
        (("--scenario", "single", "--samples", "10"), "--samples is not used in the scenario single"),
        (("--scenario", "single", "--batch-size", "2"), "--batch-size is not used"),
        (("--scenario", "stream", "--alpha", "0.1"), "--alpha is not used"),
        (("--scenario", "offline", "--target-radius", "0.1"), "--target-radius is not used"),
        (("--scenario", "server"), "server"),
        (("--plot", "b.bmp"), "must end in .html, .png"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(bench, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(bench(*SHORT, *options), said)


def test_outputs_are_refused_before_anything_is_measured(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "measure", None)
    there = tmp_path / "there.json"
    there.write_text("mine")
    refused(bench("--json", there), "is there already")
    refused(bench("--csv", tmp_path / "no" / "b.csv"), "is not a folder")
    refused(bench("--json", tmp_path / "b", "--csv", tmp_path / "b"), "two outputs are both")
    refused(bench("--loadgen", there), "is there already")
    assert there.read_text() == "mine"


def test_an_image_that_cannot_be_read_is_an_error(bench, tmp_path):
    code, out, err = bench(*FEW, "--image", tmp_path / "none.png")
    assert (code, out) == (1, "")
    assert "cannot read the image" in err
    (tmp_path / "text.png").write_text("no image")
    assert "is not a JPEG, PNG or WebP image" in bench(*FEW, "--image", tmp_path / "text.png")[2]


def test_a_bundle_that_is_damaged_is_an_error(bench, bundle_copy):
    (bundle_copy / "weights.bin").write_bytes(b"x")
    code, out, err = bench(*FEW, "--bundle", bundle_copy)
    assert (code, out) == (1, "")
    assert "weights.bin" in err


def test_a_bundle_whose_oracles_are_gone_is_measured_with_choices(bench, bundle_copy, tmp_path):
    """The demo's question is asked with choices, for which a bundle needs no oracle."""
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    gone = [oracle for oracle in manifest["oracles"] if "graph" in oracle]
    files = {oracle["graph"]["file"] for oracle in gone} | {
        oracle[name] for oracle in gone for name in ("weights", "tokenizer")
    }
    manifest["oracles"] = []
    manifest["files"] = [file for file in manifest["files"] if file["path"] not in files]
    for name in files:
        (bundle_copy / name).unlink()
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = bench(*FEW, "--bundle", bundle_copy)
    assert (code, err) == (0, "")
    refused(bench(*FEW, "--bundle", bundle_copy, "--oracle", "robot-action"), "it has: none")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--samples", "24"), "batch size 24, not 30: samples that are drawn: 24"),
        (("--samples", "4", "--selection", "6"), "batch size 6, not 30: samples that are drawn: 6"),
        (("--samples", "24", "--scenario", "offline"), "batch size 24, not 30: samples that are drawn: 24"),
        (("--samples", "30"), None),
        (("--samples", "24"), None),
    ],
)
def test_a_batch_that_is_smaller_than_was_asked_for_is_said(bench, options, said):
    size = () if options == ("--samples", "24") and said is None else ("--batch-size", "30")
    code, _, err = bench(*SHORT, *size, *options)
    assert (code, err) == (0, "" if said is None else f"edgers: {said}\n")


def test_a_batch_that_the_model_does_not_take_is_said(bench, monkeypatch):
    monkeypatch.setattr(VisionLanguageModel, "max_rows", 8)
    code, _, err = bench(*SHORT, "--batch-size", "24")
    assert (code, err) == (0, "edgers: batch size 6, not 24: the model or the memory takes no more\n")


def test_a_folder_that_is_no_bundle_says_what_one_is(bench, tmp_path):
    """Also where it holds what a bundle may not."""
    (tmp_path / "folder").mkdir()
    code, out, err = bench(*SHORT, "--bundle", tmp_path)
    assert (code, out) == (1, "")
    assert "has no manifest.json: it is not a bundle; give the folder that `edgers export` or" in err
    for number in range(70):
        (tmp_path / f"{number}.txt").touch()
    assert "has no manifest.json" in bench(*SHORT, "--bundle", tmp_path)[2]


def test_an_image_of_another_shape_than_a_bundle_was_made_for_is_refused(bench, bundle_copy):
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["preparation"] = {"exact": [96, 96], "filter": "bicubic", "frame": [96, 192]}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = bench(*FEW, "--bundle", bundle_copy)
    assert (code, out) == (1, "")
    assert "this bundle was exported for 192x96" in err


def test_a_pool_of_more_batches_than_a_file_holds_is_refused(bench):
    ended = bench(*SHORT, "--scenario", "offline", "--samples", 10**9, "--batch-size", 32)
    refused(ended, "give at most 1600000 with --samples, or a larger --batch-size")


@pytest.mark.parametrize(
    ("stop", "ended"),
    [
        (KeyboardInterrupt(), (130, "interrupted")),
        (BackendError("the graph failed"), (1, "the graph failed")),
    ],
)
def test_what_ends_it_keeps_what_was_measured_and_says_so_by_the_exit_code(
    bench, tmp_path, monkeypatch, stop, ended
):
    def ask_twice(_seconds):
        def drive(scenario, _first, keep):
            for number in range(2):
                scenario.ask(number, scenario.samples, keep)
            raise stop

        return drive

    monkeypatch.setattr("edgers.benchmark.run.in_turn", ask_twice)
    path = tmp_path / "b.json"
    code, out, err = bench(*FEW, "--json", path)
    assert (code, err) == (ended[0], f"edgers: {ended[1]}; queries that were kept: 2\n")
    assert out.startswith("certify: ")
    assert len(Benchmark.load(path).queries) == 2


def test_stopping_the_roofline_keeps_the_picture_without_it(bench, tmp_path, monkeypatch):
    def stop(*_given):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgers.roofline.measure", stop)
    page = tmp_path / "b.html"
    code, _, err = bench(*FEW, "--plot", page)
    assert (code, err[: len("edgers: interrupted")]) == (130, "edgers: interrupted")
    assert "not measured: the run ended before" in page.read_text("utf-8")


def test_a_file_that_cannot_be_written_in_the_end_leaves_the_table(bench, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()

    def vanish(_seconds):
        def drive(scenario, _first, keep):
            scenario.ask(0, scenario.samples, keep)
            shutil.rmtree(folder)

        return drive

    monkeypatch.setattr("edgers.benchmark.run.in_turn", vanish)
    code, out, err = bench(*FEW, "--json", folder / "b.json")
    assert code == 1
    assert "cannot write" in err
    assert "time to first token" in out


# --- the table ----------------------------------------------------------------------------------------------


def shown(benchmark):
    """What is printed, on a wide terminal."""
    console = Console(width=200, highlight=False, file=io.StringIO())
    for line in benchmark_lines(benchmark):
        console.print(line)
    return console.file.getvalue()


def test_names_from_a_file_cannot_write_to_the_terminal():
    b = benchmark(queries=(query(0, 10),))
    wild = replace(b, settings=replace(b.settings, image="\x1b[2J[red]x", prompt="\x1b]0;y"))
    text = shown(wild)
    assert "\x1b[2J" not in text
    assert "[red]x" in text


def test_energy_is_said_per_certificate_and_per_sample():
    b = benchmark(queries=(query(0, 1000), query(1000, 1000)))
    energy = EnergyRecord(joules=30.0, source="INA3221", rail="VDD_IN", interval_ms=100.0)
    text = shown(replace(b, energy=energy))
    assert "15 J a certificate" in text
    assert "15 W (INA3221, VDD_IN)" in text
    assert summarise(b).joules_per_sample is None
    assert "unknown: nobody measured" in shown(b)


def test_one_is_one_and_what_is_everywhere_the_same_is_no_range():
    b = benchmark(queries=(query(0, 10),))
    clocks = {f"core {number}": 2450.0 for number in range(8)}
    b = replace(
        b,
        after=replace(b.after, clocks_mhz=clocks),
        warm_up=replace(b.warm_up, queries=1),
        machine=replace(b.machine, cores=1, threads=1),
    )
    text = shown(b)
    assert text.count("1 query in") == 2
    assert "2450 MHz (8 of them)" in text
    assert "1 core, " in text
    assert re.search(r"1 thread\b", text)
    uneven = replace(b.after, clocks_mhz={**clocks, "core 0": 1200.0})
    assert "1200 to 2450 MHz (8 of them)" in shown(replace(b, after=uneven))


def test_throttling_at_either_end_is_seen():
    b = benchmark(queries=(query(0, 10),))
    assert "the device does not say" in shown(b)
    calm, hot = replace(b.before, throttling=()), replace(b.before, throttling=("thermal",))
    assert "none seen" in shown(replace(b, before=calm, after=calm))
    assert "seen: thermal" in shown(replace(b, before=hot, after=calm))
    assert "seen: thermal" in shown(replace(b, before=calm, after=hot))


def test_a_stored_benchmark_is_shown_and_drawn_without_measuring(bench, tmp_path, monkeypatch):
    path = tmp_path / "b.json"
    _, printed, _ = bench(*FEW, "--json", path)
    monkeypatch.setattr("edgers.benchmark.run.run", None)
    assert bench("--show", path) == (0, printed, "")
    files = [tmp_path / name for name in ("c.csv", "c.html", "c.json")]
    code, *_ = bench("--show", path, "--csv", files[0], "--plot", files[1], "--json", files[2])
    assert code == 0
    assert files[0].read_text().count("\n") == len(Benchmark.load(path).queries) + 1
    assert "not measured: edgers bench --plot measures it" in files[1].read_text()
    assert files[2].read_bytes() == path.read_bytes()
    assert json.loads(bench("--show", path, "--json", "-")[1]) == json.loads(path.read_bytes())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--duration", "3"), "--show measures nothing: leave out --duration"),
        (("--bundle", ".", "--samples", "9"), "--show measures nothing: leave out --bundle, --samples"),
        (("--despite", "sigma"), "go with --compare"),
        (("--compare", "a.json", "b.json"), "--compare measures nothing: leave out --show"),
        (("--plot", "p.gif"), "must end in .html"),
        ((), "cannot read the benchmark 'none.json'"),
    ],
)
def test_what_does_not_go_with_a_stored_benchmark_is_refused(bench, options, says):
    refused(bench("--show", "none.json", *options), says)


def test_what_is_written_is_there_though_nobody_reads_what_is_printed(bench, tmp_path, monkeypatch):
    """A pipe that is closed, or a lost connection, after an hour of measuring."""

    def closed(*_args, **_options):
        raise BrokenPipeError

    monkeypatch.setattr(Console, "print", closed)
    code, _, err = bench(*FEW, "--json", tmp_path / "b.json", "--csv", tmp_path / "b.csv")
    assert code == 1, err
    assert len(Benchmark.load(tmp_path / "b.json").queries) >= measure.AT_LEAST
    assert (tmp_path / "b.csv").read_text().count("\n") > measure.AT_LEAST


def test_a_file_that_cannot_be_written_does_not_cost_the_other(bench, tmp_path, monkeypatch):
    from edgers.cli import show_benchmark as module

    def full(path, content):
        if path.suffix == ".csv":
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(module, "write_new", full)
    code, out, err = bench(*FEW, "--json", tmp_path / "b.json", "--csv", tmp_path / "b.csv")
    assert (code, out.startswith("certify: ")) == (1, True)
    assert "No space left" in err
    assert Benchmark.load(tmp_path / "b.json").queries


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--csv", "-"), "--csv writes a file; --json - is what goes to stdout"),
        (("--plot", "a.gif"), "must end in .html, .png, .svg, .pdf"),
        (("--plot", "a"), "must end in .html, .png, .svg, .pdf"),
        (("--compare", "nosuch.json", "other.json"), "makes one"),
    ],
)
def test_what_cannot_be_written_or_read_says_what_can(bench, options, says):
    refused(bench(*options), says)


@pytest.mark.parametrize(
    ("file", "library"), [("p.html", "jinja2"), ("p.html", "matplotlib"), ("p.png", "matplotlib")]
)
def test_without_its_libraries_a_plot_is_refused_before_anything_is_measured(
    bench, tmp_path, monkeypatch, file, library
):
    monkeypatch.setitem(sys.modules, library, None)
    refused(bench(*SHORT, "--plot", tmp_path / file), "install edgers[plot]")


def test_no_plotting_library_is_in_the_memory_that_is_measured():
    script = (
        "import sys; from pathlib import Path; from edgers.report.benchmark_page import check_page;"
        "from edgers.report.plot import check_plotting; check_page(); check_plotting(Path('p.png'));"
        "print({'matplotlib', 'jinja2'} & {*sys.modules})"
    )
    path = os.pathsep.join(filter(None, sys.path))
    ended = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ended.stdout.strip() == "set()"


def test_a_decision_draws_no_samples_that_only_select_unless_it_is_told_to(bench, tmp_path):
    for options, selection in (
        (("--target-radius", "0.2"), 0),
        (("--target-radius", "0.2", "--selection", "4"), 4),
    ):
        path = tmp_path / f"{selection}.json"
        assert bench(*SHORT, *options, "--json", path)[0] == 0
        assert Benchmark.load(path).settings.selection == selection
