"""The benchmarks' scripts start and print; what they would measure is nothing here."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import bounds
import decision_time
import decisions
import measure
import numpy as np
import outside
import plain
import pytest
import revisions
import workloads
from graph_time import covered

from edgers.oracle.base import OTHER

BENCH = Path(measure.__file__).parent
SCRIPTS = sorted(
    ".".join(file.relative_to(BENCH).with_suffix("").parts)
    for folder in (BENCH, BENCH / "peers")
    for file in folder.glob("*.py")
)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Where results are stored, of a run that is not shortened on a machine that has nothing else to do."""
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(measure, "SHORTENED", False)
    monkeypatch.setattr(measure, "CORES", 4)
    monkeypatch.setattr(measure, "LOAD", 2.0)
    return tmp_path / "results"


@pytest.fixture
def shortened(results, monkeypatch):
    """The same folder, of a run that is."""
    monkeypatch.setattr(measure, "SHORTENED", True)
    return results


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_finds_what_it_imports(script):
    importlib.import_module(script)


def test_bounds_are_timed_for_each_kind_of_n(monkeypatch, capsys):
    monkeypatch.setattr(bounds, "PAIRS", 50)
    bounds.main()
    kinds = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert kinds[1:] == ["n = 1000", "n up to 10^4", "n up to 10^7, log-uniform", "the last, one at a time"]


def test_decisions_are_timed_in_each_way(monkeypatch, capsys):
    monkeypatch.setattr(decisions, "ROUNDS", 1)
    monkeypatch.setattr(decisions, "CAP", 200)
    decisions.times()
    out = capsys.readouterr().out
    assert "200 decisions, one after each sample" in out
    assert out.count(" ms (") == 6


def test_what_early_decisions_save_stands_beside_walds_bound(monkeypatch, capsys):
    monkeypatch.setattr(decisions, "CAP", 200)
    monkeypatch.setattr(decisions, "QUESTIONS", {0.25: (0.5, 0.99)})
    decisions.table()
    heads, hopeless, clear = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heads[-2:] == ["certified", "hopeless"]
    assert hopeless[:3] == ["0.25", "0.5", "-"]
    wald, each, by_eight, spending = map(float, clear[2:6])
    assert wald < each < by_eight
    assert each < spending
    assert clear[6:] == ["32", "1.0000", "0.0000"]


def test_a_shortened_run_prints_and_stores_nothing(shortened, monkeypatch, capsys):
    monkeypatch.setattr(outside, "ROUNDS", 1)
    monkeypatch.setattr(outside, "SAMPLES", 2)
    outside.main(None)
    out = capsys.readouterr().out
    assert "| demo, free text: no graph runs |" in out
    assert "| choose tokens |" in out
    assert not shortened.exists()


def test_a_whole_run_is_stored_as_a_table_and_as_raw_numbers(results, capsys):
    measure.store("growth", {"seconds": [1.5]}, "| n |")
    assert capsys.readouterr().out == "| n |\n"
    title, _, facts, *rest = (results / "growth.md").read_text().splitlines()
    stored = json.loads((results / "growth.json").read_text())
    assert title == "# growth"
    assert "cores 4, " in facts
    assert rest == ["", "| n |"]
    assert stored["results"] == {"seconds": [1.5]}
    assert stored["machine"]["load before"] == 2


def test_a_table_of_a_busy_machine_says_so(results, monkeypatch):
    monkeypatch.setattr(measure, "LOAD", 2.1)
    measure.store("growth", {}, "| n |")
    assert (results / "growth.md").read_text().startswith("# growth, measured on a busy machine\n")
    assert "load before 2.1, " in (results / "growth.md").read_text()


def test_the_load_is_that_of_before_the_script(monkeypatch):
    monkeypatch.setattr(measure.os, "getloadavg", lambda: (9.0, 9.0, 9.0))
    assert measure.machine()["load before"] == round(measure.LOAD, 2)


def test_a_ratio_is_taken_within_each_round():
    assert measure.ratio([2, 30, 4], [1, 10, 2]) == (2, 2, 3)


@pytest.mark.parametrize(
    ("least", "limit", "verdict"),
    [(True, 2, "met"), (True, 2.1, "missed"), (False, 2, "met"), (False, 1.9, "missed")],
)
def test_a_target_is_judged_by_the_median(least, limit, verdict):
    table = measure.targets([measure.Target("time", measure.Figure(2, 1.5, 2.5), limit, least)])
    side = "at least" if least else "at most"
    assert table.splitlines()[2:] == [f"| time | 2.00 (1.50 to 2.50) | {side} {limit:.2f} | {verdict} |"]


WORKLOAD = workloads.Workload(
    name="made up",
    bundle=None,
    prompt="?",
    ways={way: {} for way in decision_time.TARGETS},
    baselines={workloads.HELD: SimpleNamespace(batch=32)},
    against={
        workloads.CHOICES: (workloads.HELD, workloads.CUT, workloads.FREE),
        workloads.FREE_TEXT: (workloads.FREE,),
    },
    beside={workloads.FREE_TEXT: (workloads.CUT,)},
    selections=(0,),
    frames=(None, None),
    found="made up",
)


@pytest.fixture
def decided():
    """Two frames that edgers decides in a second, `generate` in 5 to 8; one verdict differs."""
    baselines = {workloads.HELD: 8.0, workloads.CUT: 7.0, workloads.FREE: 5.0}
    names = dict.fromkeys(map(decision_time.ours, WORKLOAD.ways), 1.0) | baselines
    seconds = {name: [spent, spent] for name, spent in names.items()}
    same = {name: plain.Verdict("stop", True, 100 if name in baselines else 20) for name in names}
    verdicts = {name: [one, one] for name, one in same.items()}
    verdicts[workloads.HELD][1] = plain.Verdict("slow", False, 100)
    return seconds, verdicts


def test_time_to_a_decision_is_judged_against_the_fastest_baseline(decided):
    said = decision_time.verdict(WORKLOAD, "choices", *decided)
    assert said == (
        "- choices: 5.00 times as fast (5.00 to 5.00) as the fastest baseline, generate, free text: "
        "5.00 by fewer samples, 1.00 by each one's time. Target 6: missed."
    )
    assert decision_time.verdict(WORKLOAD, "free text", *decided).endswith("Target 4: met.")


def test_the_table_of_decisions_has_every_contender_of_both_ways(decided):
    rows = decision_time.table(WORKLOAD, *decided).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:9]] == [
        "| edgers, choices",
        "| generate, held to the choices, batches of 32",
        "| generate, cut at the first word",
        "| generate, free text",
        "| edgers, free text",
        "| generate, free text",
        "| generate, cut at the first word",
    ]
    held = "8000 (8000 to 8000) | 100.0 | 1 of 2 | 8.00 (8.00 to 8.00), 8.00 to 8.00 | 1 |"
    assert rows[3].endswith(held)


def test_the_plain_way_selects_by_the_first_samples_and_counts_the_others():
    """Of 16 + 100 answers every 20th is another class: 95 votes, which prove R >= 0.25; with 60 none does."""

    class Answers:
        batch, asked = 25, 0

        def answers(self, canvases):
            assert canvases.shape[1:] == (3, 4, 5)
            first, self.asked = self.asked, self.asked + len(canvases)
            return [(number,) for number in range(first, self.asked)]

    def verdict(read):
        return plain.Generate(Answers(), read)(np.zeros((4, 5, 3), np.uint8))

    assert verdict(lambda tokens: "rare" if tokens[0] % 20 == 19 else "stop") == plain.Verdict(
        "stop", True, 116
    )
    assert verdict(lambda tokens: "stop" if tokens[0] < 76 else "rare") == plain.Verdict("stop", False, 116)
    assert verdict(lambda _tokens: OTHER) == plain.Verdict(OTHER, False, 116)


def test_intervals_that_overlap_are_covered_once():
    assert covered([(0, 2), (5, 6), (1, 3), (1.5, 1.75), (2, 2.5)]) == 4
    assert covered([]) == 0


def test_a_revision_is_set_beside_this_one_by_the_ratio_within_a_round():
    table = revisions.table({"demo": [0.2, 0.3, 0.8]}, {"demo": [0.1, 0.1, 0.4]})
    assert table.splitlines()[2:] == ["| demo | 300 | 100 | 2.00 (2.00 to 3.00) |"]


def test_an_older_revision_is_imported_from_its_own_files(tmp_path):
    """Not from the files of the revision that measures it."""
    (tmp_path / "edgers").mkdir()
    (tmp_path / "edgers" / "__init__.py").write_text("raise SystemExit(7)")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "miniature.py").write_text("print('made')")
    tree = revisions.Tree(tmp_path, tmp_path / "root")
    with pytest.raises(subprocess.CalledProcessError, match="returned non-zero exit status 7"):
        tree()
