"""What people see of a certificate that may have ended early: the panel's lines and the plot's marks."""

import pytest
from matplotlib.figure import Figure
from msgspec.structs import replace
from rich.console import Console

from edgers import demo
from edgers.certify import Certifier
from edgers.report.plot import _draw_radius
from edgers.report.text import certificate_panel
from edgers.smoothing.oracle_error import Adversarial, Audit, Calibrated, Composite, FalsePositive, Pairwise

SEED = "5" * 32


def early(demo_bundle, image, **more):
    certifier = Certifier(demo_bundle, sigma=demo.SIGMA, samples=100, **more)
    return certifier.certify(image, demo.PROMPT, choices=demo.ACTIONS, seed=SEED)


@pytest.fixture(scope="module")
def reached(demo_bundle, first_frame):
    return early(demo_bundle, first_frame, method="sequential", target_radius=0.125)


@pytest.fixture(scope="module")
def missed(demo_bundle, hard_frame):
    return early(demo_bundle, hard_frame, method="batched", target_radius=0.125)


@pytest.fixture(scope="module")
def fixed(demo_bundle, first_frame):
    return early(demo_bundle, first_frame)


def words_of(certificate):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(certificate_panel(certificate, "frame.png"))
    return " ".join(capture.get().replace("│", " ").split())


def test_the_panel_says_how_many_samples_were_drawn_by_which_rule_and_why_no_more(reached, fixed):
    assert (
        f"samples {reached.samples_counted} of 100, whose leader is the class; sequential, "
        "target R ≥ 0.125: the target radius is certified"
    ) in words_of(reached)
    assert "samples 100 of 100, after 16 for the selection; fixed: all samples were drawn" in words_of(fixed)


def test_the_panel_claims_no_bound_where_nothing_is_proven(missed, reached):
    assert missed.p_lower == 0
    assert "bound none: by the method batched these votes prove nothing" in words_of(missed)
    assert "at least 0.0000" not in words_of(missed)
    assert "bound probability of 'forward' under noise at least 0." in words_of(reached)


@pytest.mark.parametrize(
    "mode", [Adversarial(0.01), FalsePositive(0.01), Audit(400, 400), Calibrated(0, 9999)]
)
def test_the_panel_of_a_mode_about_truth_bounds_the_probability_of_being_true(demo_bundle, first_frame, mode):
    said = words_of(early(demo_bundle, first_frame, mode=mode))
    assert "bound probability that 'forward' is true under noise at least 0." in said


@pytest.mark.parametrize("mode", [Composite(), Pairwise()])
def test_the_panel_of_a_mode_about_the_label_does_not_speak_of_truth(demo_bundle, first_frame, mode):
    assert "bound probability of 'forward' under" in words_of(early(demo_bundle, first_frame, mode=mode))


def test_a_certificate_without_samples_has_no_answers_and_says_so(reached):
    none = dict.fromkeys(reached.votes.selection, 0)
    empty = replace(
        reached,
        votes=replace(reached.votes, selection=none, certification=none),
        answers={},
        certified=False,
        radius=None,
        stopped_because="the deadline passed",
        samples_spent=0,
    )
    assert "answers none" in words_of(empty)
    assert "on cpu; not asked" in words_of(empty)


def drawn(certificate):
    axes = Figure().subplots()
    _draw_radius(axes, certificate)
    return axes


def test_the_plot_shows_where_the_votes_lie_also_below_half_of_them(missed, fixed):
    votes = {**missed.votes.certification, missed.label: 1}
    few = replace(missed, votes=replace(missed.votes, certification=votes))
    for certificate in (missed, few, fixed):
        axes = drawn(certificate)
        (at,) = next(line for line in axes.lines if line.get_marker() == "o").get_xdata()
        left, right = axes.get_xlim()
        assert at == certificate.votes.certification[certificate.label]
        assert left < at < right


def test_the_plot_marks_the_target_radius_where_there_is_one(reached, fixed):
    assert [text.get_text() for text in drawn(reached).get_legend().get_texts()] == ["target radius"]
    assert drawn(reached).lines[-1].get_ydata()[0] == 0.125
    assert drawn(fixed).get_legend() is None
