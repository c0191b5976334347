"""`edgers inject-oracle-errors`: a table for people, JSON for programs, a plot, one line for each error."""

import io
import json
import re
import sys

import pytest
from PIL import Image

from edgers import cli
from edgers.injection import Setting, study
from edgers.smoothing.injection import KINDS, USES

QUICK = ("--samples", "40", "--alpha", "0.05", "--audited", "10", "--calibration-size", "50")
FEW = ("--rates", "0.1,0.3", "--simulations", "100")


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run the command in this process: its exit code, stdout and stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["edgers", "inject-oracle-errors", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


def test_the_json_holds_the_setting_and_every_finding(edgers):
    code, out, err = edgers(*QUICK, *FEW, "--sigma", "0.25", "--seed", "7", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    record = json.loads(out)
    findings = record.pop("findings")
    assert record == {
        "samples": 40,
        "alpha": 0.05,
        "sigma": 0.25,
        "audited": 10,
        "calibration": 50,
        "simulations": 100,
        "seed": 7,
    }
    expected = study([0.1, 0.3], Setting(40, 0.05, 0.25, 10, 50, 100, 7))
    assert len(findings) == len(expected) == 2 * len(KINDS) * len(USES)
    for found, finding in zip(findings, expected, strict=True):
        assert set(found) == {"errors", "rate", "use", "verdict", "boundaries", "inside"}
        assert (found["errors"], found["rate"], found["use"]) == (finding.errors, finding.rate, finding.use)
        assert found["verdict"] == finding.verdict
        for boundary, expected_boundary in zip(found["boundaries"], finding.boundaries, strict=True):
            assert set(boundary) == {"radius", "p", "wrong", "simulated"}
            assert boundary["wrong"] == expected_boundary.wrong
            assert boundary["simulated"]["wrong"] == expected_boundary.simulated.wrong
        assert set(found["inside"]) == {"p", "radius", "certified", "mean_radius"}


def test_a_person_sees_a_table_for_each_kind_of_errors_and_what_the_words_mean(edgers):
    code, out, err = edgers(*FEW, "--audited", "10", "--calibration-size", "50")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    for title in ("Symmetric errors:", "False positives only:", "False negatives only:"):
        assert title in text
    assert max(len(line) for line in out.splitlines()) <= 80
    for use in USES:
        assert len(re.findall(rf"^ {use.name} ", out, re.MULTILINE)) == len(KINDS)
    _, symmetric, false_positives, _ = re.split(r"^\S.* the rate *$", out, flags=re.MULTILINE)
    assert re.search(r" symmetric +0\.1 9\.8e-04 .* holds, by assumption", symmetric)
    assert re.search(r" symmetric +0\.1 1\.7e-02 .* must not be used here", false_positives)
    assert re.search(r" audit +0\.1 +\S+ .* holds *$", false_positives, re.MULTILINE)
    assert "100 certificates of each mode at each of the true radii" in text
    assert re.search(r"in \d+ of the \d+ cases whose sum is above alpha, and in 0 of the \d+ others", text)


def test_a_false_certificate_is_never_shown_as_less_probable_than_it_is(edgers):
    out = edgers(*QUICK, "--rates", "0.1", "--simulations", "0")[1]
    setting = Setting(40, 0.05, audited=10, calibration=50, simulations=0)
    exact = {(found.errors, found.use): found.worst.wrong for found in study([0.1], setting)}
    shown = [float(found.lstrip("<")) for found in re.findall(r"0\.1 +(<?\d[.\d]*e-\d+) ", out)]
    assert len(shown) == len(exact)
    assert all(
        probability <= seen <= max(1.1 * probability, 1e-9)
        for probability, seen in zip(exact.values(), shown, strict=True)
    )
    assert "Simulated" not in out


def test_a_plot_is_an_image_that_is_not_blank(edgers, tmp_path):
    path = tmp_path / "plot.png"
    assert edgers(*QUICK, "--rates", "0.1", "--simulations", "0", "--plot", path)[0] == 0
    with Image.open(io.BytesIO(path.read_bytes())) as drawn:
        assert drawn.size == (1950, 690)
        assert len(drawn.convert("RGB").getcolors(2**20)) > 50
    assert [found.name for found in tmp_path.iterdir()] == ["plot.png"]


WRONG = {
    "rates in words": (("--rates", "low"), "--rates is 'low'; it must be numbers with commas"),
    "no rate": (("--rates", ""), "--rates is ''"),
    "rate 0": (("--rates", "0"), "the rate of injected errors is 0.0"),
    "rate one half": (("--rates", "0.1,0.5"), "the rate of injected errors is 0.5"),
    "rate nan": (("--rates", "nan"), "the rate of injected errors is nan"),
    "a rate twice": (("--rates", "0.1,0.1"), r"the rates are \[0.1, 0.1\]"),
    "too many samples": (("--samples", "1001"), "samples: 1001; it must lie between 1 and 1000"),
    "alpha 0": (("--alpha", "0"), "alpha is 0"),
    "alpha 0.5": (("--alpha", "0.5"), "alpha is 0.5"),
    "sigma nan": (("--sigma", "nan"), "sigma is nan"),
    "nothing audited": (("--audited", "0"), "audited votes: 0"),
    "no calibration": (("--calibration-size", "0"), "calibration answers: 0"),
    "fewer simulations than none": (("--simulations", "-1"), "simulations: -1"),
    "a seed below 0": (("--seed", "-1"), "the seed is -1"),
    "a plot that is there": (("--plot", "{}/taken.png"), "taken.png is there already"),
    "a plot as text": (("--plot", "{}/plot.txt"), r"must end in one of \.png"),
    "an argument": (("x",), "unexpected extra argument"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line_and_leaves_nothing(edgers, tmp_path, name):
    (tmp_path / "taken.png").write_bytes(b"\x89PNG mine")
    args, said = WRONG[name]
    code, out, err = edgers(*(arg.format(tmp_path) for arg in args))
    assert (code, out) == (2, "")
    assert re.search(said, err), err
    assert err.startswith("edgers: ")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]
    assert (tmp_path / "taken.png").read_bytes() == b"\x89PNG mine"
