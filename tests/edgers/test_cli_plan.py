"""`edgers plan`: tables for people, JSON for programs, plots that are images, one line for each error."""

import io
import json
import re
import sys

import pytest
from PIL import Image

from edgers import cli
from edgers.cli.plan import PROBABILITIES
from edgers.smoothing.planning import Target, make_plans
from edgers.smoothing.scaling import Listed, Uniform, radius_kept, radius_law

QUESTION = ("--sigma", "0.5", "--target-radius", "0.25")
QUICK = ("--cap", "200", "--batch", "20")


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run a command in this process, curves with few points: its exit code, stdout and stderr."""
    monkeypatch.setattr("edgers.cli.plan.CURVE_SAMPLES", (10, 100, 1000))

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["edgers", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


@pytest.fixture
def answer(edgers):
    """The JSON object that a command prints."""

    def run(*args):
        code, out, err = edgers(*args, "--json")
        assert (code, err, out.count("\n")) == (0, "", 1)
        return json.loads(out)

    return run


@pytest.fixture
def measured(certified, tmp_path):
    """A saved certificate."""
    path = tmp_path / "measured.json"
    path.write_bytes(certified.to_json())
    return path


# --- plans --------------------------------------------------------------------------------------------------


def test_the_json_of_a_plan_has_these_fields_and_the_figures_of_the_planner(answer):
    found = answer("plan", *QUESTION, *QUICK, "--p", "0.6", "--p", "0.95")
    target = Target(0.5, 0.25, 0.001, batch=20, cap=200)
    (_, expected) = make_plans(target, [0.6, 0.95])
    out_of_reach, plan = found.pop("plans")
    assert found == {
        "sigma": 0.5,
        "target_radius": 0.25,
        "alpha": 0.001,
        "power": 0.9,
        "batch": 20,
        "cap": 200,
        "required_probability": target.threshold,
        "unanimous_samples": 19,
        "ms_per_sample": None,
    }
    assert (out_of_reach["p"], out_of_reach["reachable"], out_of_reach["fixed"]) == (0.6, False, None)
    assert (plan["p"], plan["reachable"]) == (0.95, True)
    fixed = expected.fixed
    assert plan["fixed"] == {
        "samples": 43,
        "votes": 39,
        "certified": fixed.certified,
        "expected_ms": None,
    }
    for name, rule in (("sequential", expected.sequential), ("batched", expected.batched)):
        assert plan[name] == {
            "certified": rule.certified,
            "hopeless": rule.hopeless,
            "undecided": rule.undecided,
            "expected_samples": rule.expected_samples,
            "samples_95": rule.samples_95,
            "expected_ms": None,
        }


def test_every_option_reaches_the_plan(answer):
    options = ("--alpha", "0.01", "--power", "0.5", "--batch", "7", "--cap", "50")
    found = answer("plan", "--sigma", "1", "--target-radius", "0.5", *options, "--p", "0.9")
    (expected,) = make_plans(Target(1.0, 0.5, 0.01, 0.5, 7, 50), [0.9])
    assert found["plans"][0]["fixed"]["samples"] == expected.fixed.samples
    assert found["plans"][0]["sequential"]["expected_samples"] == expected.sequential.expected_samples


def test_without_p_several_are_planned_for(answer):
    found = answer("plan", *QUESTION, *QUICK)
    assert tuple(plan["p"] for plan in found["plans"]) == PROBABILITIES


def test_a_person_sees_a_table_that_says_what_is_out_of_reach(edgers):
    code, out, err = edgers("plan", *QUESTION, *QUICK, "--p", "0.6", "--p", "0.7001", "--p", "0.95")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "must exceed 0.6915. It takes at least 19 samples" in text
    assert re.search(r"0\.6 fixed out of reach", text)
    assert re.search(r"0\.95 fixed 43 39 0\.9377 sequential 43\.8 82 0\.9999 batched", text)
    assert "time" not in text
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(
    ("radius", "shown"),
    [("0", "0.5000"), ("0.75", "0.9987"), ("1.2", "0.99999921")],
)
def test_a_threshold_near_1_is_not_shown_as_1(edgers, radius, shown):
    out = edgers("plan", "--sigma", "0.25", "--target-radius", radius, *QUICK, "--p", "0.9")[1]
    assert f"must exceed {shown}. It" in " ".join(out.split())


def test_a_power_near_1_is_not_shown_as_1(edgers):
    out = edgers("plan", *QUESTION, *QUICK, "--p", "0.99", "--power", "0.9999999")[1]
    assert "probability 0.9999999 or more" in " ".join(out.split())


def test_a_measured_certificate_turns_samples_into_time(edgers, answer, certified, measured):
    ms = certified.timings_ms["total"] / certified.samples_spent
    found = answer("plan", *QUESTION, *QUICK, "--p", "0.95", "--measured", measured)
    assert found["ms_per_sample"] == pytest.approx(ms)
    (plan,) = found["plans"]
    assert plan["fixed"]["expected_ms"] == pytest.approx(43 * ms)
    assert plan["batched"]["expected_ms"] == pytest.approx(plan["batched"]["expected_samples"] * ms)
    out = edgers("plan", *QUESTION, *QUICK, "--measured", measured)[1]
    assert " ms a sample that were measured" in " ".join(out.split())
    assert max(len(line) for line in out.splitlines()) <= 80


# --- curves -------------------------------------------------------------------------------------------------


def test_the_json_of_a_curve_has_exact_shares_and_the_law_side_by_side(answer, tmp_path):
    found = answer("plan", "--curve", tmp_path / "curve.png")
    points = found.pop("points")
    assert found == {
        "alpha": 0.001,
        "distribution": "uniform:0.7:1",
        "ideal_mean_radius": Uniform(0.7, 1).mean_quantile(),
        "radii": [0.0, 0.5, 1.0, 1.5],
        "ideal_certified": pytest.approx([1, 1, 0.529, 0.223], abs=1e-3),
    }
    (point,) = (point for point in points if point["samples"] == 100)
    assert set(point) == {"samples", "kept", "law", "certified"}
    assert point["kept"] == radius_kept(Uniform(0.7, 1), 100, 0.001)
    assert point["law"] == radius_law(0.001, 100)
    assert point["certified"] == pytest.approx([0.987, 0.561, 0.198, 0.033], abs=1e-3)


def test_a_person_sees_both_and_no_negative_law(edgers, tmp_path):
    code, out, err = edgers("plan", "--curve", tmp_path / "curve.png")
    assert (code, err) == (0, "")
    assert re.search(r"\n +100 +0\.543 +0\.493 ", out)
    assert re.search(r"\n +10 +0\.001 +- ", out)
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("0.8\n0.9\n\n0.99\n", id="one a line"),
        pytest.param(" [0.8, 9e-1, 0.99]\n", id="a JSON list"),
    ],
)
def test_a_distribution_may_be_a_file_of_probabilities(answer, tmp_path, content):
    (tmp_path / "p.txt").write_text(content)
    found = answer("plan", "--curve", tmp_path / "curve.png", "--distribution", tmp_path / "p.txt")
    kept = {point["samples"]: point["kept"] for point in found["points"]}
    assert kept[100] == radius_kept(Listed((0.8, 0.9, 0.99)), 100, 0.001)


def test_a_distribution_may_be_a_beta_distribution(answer, tmp_path):
    args = ("plan", "--curve", tmp_path / "curve.png", "--distribution", "beta:20:1.5", "--alpha", "0.01")
    found = answer(*args)
    assert (found["alpha"], found["distribution"]) == (0.01, "beta:20:1.5")


# --- plots --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(("--curve", "{}", "--distribution", "beta:9:1"), id="curve"),
        pytest.param((*QUESTION, *QUICK, "--plot", "{}"), id="plan"),
        pytest.param(
            ("--sigma", "1", "--target-radius", "4", "--cap", "50", "--plot", "{}"), id="far too little"
        ),
    ],
)
def test_a_plot_is_an_image_that_is_not_blank(edgers, tmp_path, args):
    path = tmp_path / "plot.png"
    assert edgers("plan", *(arg.format(path) for arg in args))[0] == 0
    with Image.open(io.BytesIO(path.read_bytes())) as drawn:
        assert drawn.size == (1650, 630)
        assert len(drawn.convert("RGB").getcolors(2**20)) > 50
    assert [found.name for found in tmp_path.iterdir()] == ["plot.png"]


@pytest.mark.parametrize(("name", "starts"), [("plot.SVG", b"<?xml"), ("plot.pdf", b"%PDF")])
def test_a_plot_is_written_in_the_format_its_name_says(edgers, tmp_path, name, starts):
    assert edgers("plan", *QUESTION, *QUICK, "--plot", tmp_path / name)[0] == 0
    assert (tmp_path / name).read_bytes().startswith(starts)


# --- what is wrong is said in one line ----------------------------------------------------------------------


def asked(*more, sigma="0.5", radius="0.25"):
    return ("--sigma", sigma, "--target-radius", radius, *more)


def curve(*more, path="{}/new.png"):
    return ("--curve", path, *more)


WRONG = {
    "nothing": ((), 2, "give --sigma and --target-radius, or --curve"),
    "no radius": (("--sigma", "1"), 2, "give --sigma and --target-radius"),
    "an argument": (asked("x"), 2, "unexpected extra argument"),
    "sigma 0": (asked(sigma="0"), 2, "sigma is 0"),
    "sigma nan": (asked(sigma="nan"), 2, "sigma is nan"),
    "radius -1": (asked(radius="-1"), 2, "the target radius is -1"),
    "radius inf": (asked(radius="inf"), 2, "the target radius is inf"),
    "radius of 9 sigma": (asked(radius="4.5"), 2, "too close to 1 to be shown"),
    "radius of 7 sigma": (asked(radius="3.5"), 2, "no 1000000000 samples show"),
    "alpha 0": (asked("--alpha", "0"), 2, "alpha is 0"),
    "alpha 0.5": (asked("--alpha", "0.5"), 2, "alpha is 0.5"),
    "p 1.1": (asked("--p", "1.1"), 2, "p is 1.1"),
    "p nan": (asked("--p", "nan"), 2, "p is nan"),
    "p in words": (asked("--p", "high"), 2, "'high' is not a valid float"),
    "power 1": (asked("--power", "1"), 2, "the power is 1"),
    "power 0": (asked("--power", "0"), 2, "the power is 0"),
    "batch 0": (asked("--batch", "0"), 2, "the batch is 0"),
    "batch too large": (asked("--batch", "1" + "0" * 30), 2, "it must lie between 1 and 1000000000"),
    "cap 0": (asked("--cap", "0"), 2, "the cap is 0"),
    "cap 10^12": (asked("--cap", str(10**12)), 2, "the cap is 1000000000000"),
    "a distribution without a curve": (asked("--distribution", "beta:1:1"), 2, "goes with --curve"),
    "a curve with sigma": (curve("--sigma", "1"), 2, "--curve is of any radius"),
    "a curve with p": (curve("--p", "0.9"), 2, "--curve is of any radius"),
    "a curve with a batch": (curve("--batch", "4"), 2, "--curve is of any radius"),
    "a curve with a plot": (curve("--plot", "{}/other.png"), 2, "--curve is of any radius"),
    "a curve with alpha 1e-200": (curve("--alpha", "1e-200"), 2, "alpha is 1e-200"),
    "a plot that is there": (asked("--plot", "{}/taken.png"), 2, "taken.png is there already"),
    "a plot into no folder": (asked("--plot", "{}/none/plot.png"), 2, "none is not a folder"),
    "a plot as GIF": (asked("--plot", "{}/plot.gif"), 2, r"must end in one of \.png"),
    "a curve that is there": (curve(path="{}/taken.png"), 2, "taken.png is there already"),
    "a curve as text": (curve(path="{}/new.txt"), 2, r"must end in one of \.png"),
    "uniform without an end": (curve("--distribution", "uniform:0.7"), 2, "'uniform:0.7'; use uniform:LOW"),
    "uniform in words": (curve("--distribution", "uniform:a:b"), 2, "use uniform:LOW:HIGH"),
    "uniform backwards": (curve("--distribution", "uniform:1:0.7"), 2, r"uniform on \[1.0, 0.7\)"),
    "uniform too low": (curve("--distribution", "uniform:0:0.5"), 2, "no probability is above 0.5"),
    "beta of nan": (curve("--distribution", "beta:nan:1"), 2, "beta's a is nan"),
    "an unknown distribution": (curve("--distribution", "normal:0:1"), 2, "no file 'normal:0:1'"),
    "a list that is not there": (curve("--distribution", "{}/none"), 2, "there is no file"),
    "a list that is a folder": (curve("--distribution", "{}"), 1, "not a regular file|[Dd]irectory"),
    "a list without end": (curve("--distribution", "/dev/zero"), 1, "not a regular file"),
    "an empty list": (curve("--distribution", "{}/empty"), 1, "empty is not a list.*no probabilities"),
    "a list in words": (curve("--distribution", "{}/words"), 1, "words is not a list.*'high'"),
    "a list of images": (curve("--distribution", "{}/taken.png"), 1, "not UTF-8"),
    "a list with a 1": (curve("--distribution", "{}/one"), 1, "one is not a list.*below 1"),
    "a list with a truth value": (curve("--distribution", "{}/true"), 1, "the entry True is not a number"),
    "a list with a huge number": (curve("--distribution", "{}/huge"), 1, "huge is not a list"),
    "a list cut off": (curve("--distribution", "{}/cut"), 1, "cut is not a list"),
    "a list too deep": (curve("--distribution", "{}/deep"), 1, "deep is not a list"),
    "measured: not there": (asked("--measured", "{}/none.json"), 1, "cannot read .*none.json"),
    "measured: no certificate": (asked("--measured", "{}/words"), 1, "words is not a certificate"),
}


@pytest.fixture
def things(tmp_path):
    """A folder of files that are no lists of probabilities."""
    (tmp_path / "taken.png").write_bytes(b"\x89PNG mine")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "words").write_text("0.9\nhigh\n")
    (tmp_path / "one").write_text("0.9\n1\n")
    (tmp_path / "true").write_text("[0.9, true]")
    (tmp_path / "huge").write_text("[1" + "0" * 400 + "]")
    (tmp_path / "cut").write_text("[0.9, 0.8")
    (tmp_path / "deep").write_text("[" * 100_000)
    return tmp_path


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line_and_leaves_nothing(edgers, things, name):
    args, wanted, said = WRONG[name]
    before = {path.name: path.read_bytes() for path in things.iterdir()}
    code, out, err = edgers("plan", *(arg.format(things) for arg in args))
    assert (code, out) == (wanted, "")
    assert re.search(said, err), err
    assert err.startswith("edgers: ")
    assert err.count("\n") == 1
    assert "internal error" not in err
    assert {path.name: path.read_bytes() for path in things.iterdir()} == before


def test_a_measured_certificate_without_times_is_refused(edgers, certified, tmp_path):
    record = json.loads(certified.to_json())
    record["timings_ms"] = {}
    (tmp_path / "c.json").write_text(json.dumps(record))
    code, out, err = edgers("plan", *QUESTION, "--measured", tmp_path / "c.json")
    assert (code, out) == (1, "")
    assert "c.json has no total time" in err


def test_without_matplotlib_a_plot_is_refused_before_any_work(edgers, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for args in (("--curve", tmp_path / "c.png"), (*QUESTION, "--plot", tmp_path / "p.png")):
        code, out, err = edgers("plan", *args)
        assert (code, out) == (2, "")
        assert "plots need matplotlib: install edgers[plot]" in err
