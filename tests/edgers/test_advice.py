"""What a certificate says to a person: what it means, which case an abstention is, and what to try."""

import math
from dataclasses import replace as replace_rule

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from edgers import demo
from edgers.accounting import accounting
from edgers.advice import advice, floored, meaning
from edgers.assumption import assumption
from edgers.certificate import camera_radius
from edgers.ending import OUT_OF_REACH
from edgers.oracle.base import FAILED, OTHER, RESERVED, UNDECIDED
from edgers.report.text import certificate_panel, summary_table
from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.oracle_error import Audit, Calibrated
from edgers.smoothing.radius import certified_radius

FIRST, SECOND, *_ = demo.ACTIONS


@pytest.fixture
def drawn(certified):
    """A certificate as it is, but with these votes, and with a drawn seed and a quick oracle."""

    def make(label=FIRST, floor=0.5, **votes):
        counts = {**dict.fromkeys(certified.votes.certification, 0), **votes}
        rule = replace_rule(certified.rule, samples=sum(votes.values()) or certified.n, floor=floor)
        conclusion = rule.conclude(label, counts)
        return replace(
            certified,
            label=label,
            votes=replace(certified.votes, certification=counts),
            n=sum(votes.values()) or certified.n,
            q_lower=conclusion.q_lower,
            p_lower=conclusion.p_lower,
            certified=conclusion.certified,
            floor=floor,
            radius=conclusion.radius,
            radius_camera=camera_radius(
                conclusion.radius, values=certified.values, operator_norm=certified.preparation.operator_norm
            ),
            seed_source="operating system",
            timings_ms={"model": 100.0, "oracle": 1.0, "total": 110.0},
        )

    return make


# --- meaning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.30830027, "0.3083"),
        (0.30839999, "0.3083"),
        (1.0, "1.0000"),
        (12.34567, "12.3456"),
        (0.001, "0.0010"),
        (0.00012345678, "0.0001234"),
        (1e-9, "0.000000001000"),
        (0.0, "0.0000"),
    ],
)
def test_a_number_is_shown_rounded_down_with_four_digits(value, text):
    assert floored(value) == text


@settings(deadline=None)
@given(st.floats(1e-12, 100))
def test_a_number_is_never_shown_larger_than_it_is_nor_much_smaller(value):
    shown_as = float(floored(value))
    assert value * (1 - 1e-3) - 1e-4 <= shown_as <= value
    assert shown_as >= value * 0.89


def test_a_radius_is_said_in_the_camera_on_the_canvas_and_as_a_change_of_every_value(drawn):
    c = drawn(**{FIRST: 60})
    said = meaning(c)
    uniform = 255 * c.radius / math.sqrt(3 * math.prod(c.preparation.canvas_size))
    for words in (
        f"The class {FIRST!r} wins the vote under noise for every image within L2 distance",
        f"{floored(c.radius_camera)} in camera pixels",
        f"{floored(c.radius)} on the model's canvas",
        f"that is {floored(uniform)}/255 each",
    ):
        assert words in said


def test_a_radius_of_a_large_canvas_is_said_plainly_although_it_is_small(drawn):
    """R = .75 at 336 x 336 is .33/255 a value."""
    c = drawn(**{FIRST: 60})
    large = replace(c, radius=0.75, preparation=replace(c.preparation, canvas_size=(336, 336)))
    assert "that is 0.3286/255 each" in meaning(large)


def test_an_abstention_says_that_nothing_is_certified(drawn, abstained, reserved):
    for certificate in (drawn(**{FIRST: 30, SECOND: 30}), abstained, reserved):
        assert meaning(certificate).startswith("No class is certified for this image at this noise")


def test_a_floor_is_said_in_words_where_it_is_more_than_the_majority(drawn):
    said = meaning(drawn(floor=0.7, **{FIRST: 60}))
    assert said.startswith(
        f"The class {FIRST!r} keeps a probability of at least 0.7 under noise for every image"
    )
    assert "wins the vote" not in said
    assert "No class is certified to keep a probability of 0.9 for" in meaning(
        drawn(floor=0.9, **{FIRST: 60})
    )
    assert "keep" not in meaning(drawn(**{FIRST: 60})) + meaning(drawn(**{FIRST: 30, SECOND: 30}))


# --- advice -------------------------------------------------------------------------------------------------


def test_a_clear_certificate_needs_no_advice(drawn):
    c = drawn(**{FIRST: 60})
    assert c.radius > 0.1
    assert advice(c) == []


@pytest.mark.parametrize(("radius", "small"), [(1e-6, True), (0.0999, True), (0.1, False), (0.15, False)])
def test_a_small_radius_suggests_more_noise_or_a_model_made_for_it(drawn, radius, small):
    said = " ".join(advice(replace(drawn(**{FIRST: 60}), radius=radius)))
    assert ("below 0.1" in said) == ("larger --sigma" in said) == ("adapted to noise" in said) == small


@pytest.mark.parametrize(
    ("votes", "of", "share"),
    [(9, 9, "100%"), (5, 5, "100%"), (40, 60, "67%"), (36, 60, "60%"), (65, 100, "65%"), (2600, 5000, "52%")],
)
def test_too_few_samples_are_told_with_the_number_that_would_do(drawn, votes, of, share):
    c = drawn(**{FIRST: votes, SECOND: of - votes})
    assert not c.certified
    needed = next(
        n
        for n in (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
        if n > of and certified_radius(clopper_pearson_lower(votes * n // of, n, c.alpha), c.sigma)
    )
    first, *rest = advice(c)
    assert first.startswith(f"{share} of {of} samples say {FIRST!r}, but {of} are too few to be sure")
    assert f"--samples {needed} " in first
    assert "repeating it until it certifies would not be a certificate at this alpha; --attempt" in first
    assert rest == []
    stream = replace(c, accounting=accounting("schedule", c.alpha, 1))
    assert advice(stream)[0].endswith("Set it for the next image, or for the next attempt.")


@pytest.mark.parametrize(
    ("votes", "of", "said"),
    [
        pytest.param(
            38, 40, "but 100 are too few to be sure of a radius of 0.25; about --samples 200 ", id="cap"
        ),
        pytest.param(
            28, 40, "70% of 40 samples say 'forward': too few for a radius of 0.25. Ask for", id="far"
        ),
        pytest.param(
            16, 40, "uncertain under this noise: 40% 'forward' against 60% 'left'", id="no majority"
        ),
    ],
)
def test_a_target_out_of_reach_is_told_with_what_would_bring_it_into_reach(drawn, votes, of, said):
    c = replace(
        drawn(**{FIRST: votes, SECOND: of - votes}),
        n=100,
        method="sequential",
        target_radius=0.25,
        look_every=4,
        certified=False,
        radius=None,
        stopped_because=OUT_OF_REACH,
    )
    assert said in advice(c)[0]


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        pytest.param({FIRST: 30, SECOND: 30}, f"50% {FIRST!r} against 50% {SECOND!r}", id="a tie"),
        pytest.param(
            {FIRST: 20, SECOND: 40}, f"33% {FIRST!r} against 67% {SECOND!r}", id="the selection erred"
        ),
        pytest.param(
            {FIRST: 28, SECOND: 2, OTHER: 30}, f"47% {FIRST!r} against 50% 'OTHER'", id="against OTHER"
        ),
        pytest.param({FIRST: 20, FAILED: 40}, f"33% {FIRST!r} against 67% 'FAILED'", id="against failures"),
    ],
)
def test_a_model_that_is_uncertain_is_told_with_its_two_answers(drawn, votes, said):
    c = drawn(**votes)
    assert not c.certified
    assert advice(c) == [
        f"The model is uncertain under this noise: {said}. "
        "Lower --sigma, take a clearer image, or ask another question."
    ]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        pytest.param(
            Audit(correct=0, audited=20), "of 20 votes the teacher called 0 the same. See that it", id="audit"
        ),
        pytest.param(
            Calibrated(errors=0, total=2),
            "calibrated allows the oracle too many errors. Cal",
            id="calibrated",
        ),
    ],
)
def test_where_only_the_truth_is_not_certified_the_model_is_not_called_uncertain(drawn, mode, said):
    c = replace(drawn(**{FIRST: 60}), assumption=assumption(mode), certified=False, radius=None)
    (told,) = advice(c)
    assert f"The votes certify the label {FIRST!r}, but not its truth: " in told
    assert said in told


def test_an_audit_rests_on_its_teacher_and_not_on_how_the_oracle_errs(drawn):
    c = replace(drawn(**{FIRST: 60}), assumption=assumption(Audit(correct=50, audited=50)))
    assert meaning(c).startswith(f"If the teacher is right, {FIRST!r} is true under most of the noise")


def test_a_judge_whose_replies_are_no_class_is_named_as_the_reason(drawn):
    c = replace(drawn(**{FIRST: 60}), label=OTHER, certified=False, radius=None)
    (told,) = advice(replace(c, oracle=replace(c.oracle, kind="judge")))
    assert told.startswith("Most replies of the judge were no class and nothing else")


def test_what_misses_a_floor_is_advised_to_lower_it(drawn):
    (said,) = advice(drawn(floor=0.8, **{FIRST: 46, SECOND: 14}))
    assert "Lower --sigma, lower the floor of 0.8, take" in said
    (said,) = advice(drawn(floor=0.7, **{FIRST: 50, SECOND: 10}))
    assert "--samples 200 certify such a share" in said


@pytest.mark.parametrize(
    ("label", "words"),
    [
        pytest.param(OTHER, ("belong to no class of the oracle", "--choices"), id=OTHER),
        pytest.param(UNDECIDED, ("rounding could decide", "clearer image"), id=UNDECIDED),
        pytest.param(FAILED, ("not finite", "--sigma", "check the bundle"), id=FAILED),
    ],
)
def test_a_reserved_winner_is_told_with_its_own_reason(drawn, label, words):
    c = drawn(label)
    assert not c.certified
    said, *rest = advice(c)
    assert all(part in said for part in words)
    assert rest == []


def test_every_reserved_class_has_a_reason_of_its_own(drawn):
    assert len({advice(drawn(label))[0] for label in RESERVED}) == len(RESERVED)


@pytest.mark.parametrize(
    ("timings", "told"),
    [
        pytest.param({"oracle": 200.0, "model": 100.0}, True, id="slower than the model"),
        pytest.param({"oracle": 100.0, "model": 200.0}, False, id="quicker than the model"),
        pytest.param({"oracle": 100.0, "model": 100.0}, False, id="as quick as the model"),
        pytest.param({"oracle": 1.0}, True, id="no model at all"),
        pytest.param({}, False, id="nothing was timed"),
    ],
)
def test_an_oracle_slower_than_the_model_is_named_as_the_bottleneck(drawn, timings, told):
    said = " ".join(advice(replace(drawn(**{FIRST: 60}), timings_ms=timings)))
    assert ("oracle takes longer than the model" in said) == told


def test_a_judge_slower_than_the_model_is_named_with_the_way_to_do_without_it(drawn):
    c = drawn(**{FIRST: 60})
    judge = replace(c.oracle, kind="judge", name="harm")
    slow = replace(c, oracle=judge, timings_ms={"model": 400.0, "oracle": 9000.0})
    (said,) = advice(slow)
    assert said.startswith("The oracle takes longer than the model: the judge 'harm' is")
    assert "`edgers distill --teacher JUDGE.json`" in said
    assert advice(replace(slow, timings_ms={"model": 9000.0, "oracle": 400.0})) == []
    assert "distill" not in advice(replace(slow, oracle=c.oracle))[0]


def test_a_chosen_seed_is_named_as_what_it_is(drawn):
    said = advice(replace(drawn(**{FIRST: 60}), seed_source="given"))
    assert said == [
        "The seed was chosen, not drawn: this repeats a run, but convinces nobody who doubts the choice."
    ]


def test_what_helps_most_comes_first(drawn):
    c = replace(
        drawn(**{FIRST: 30, SECOND: 30}), seed_source="given", timings_ms={"oracle": 2.0, "model": 1.0}
    )
    assert [line.split()[0:3] for line in advice(c)] == [
        ["The", "model", "is"],
        ["The", "oracle", "takes"],
        ["The", "seed", "was"],
    ]


# --- the panel and the table --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e-301, 1e-310, 5e-324])
def test_a_number_too_small_to_scale_is_shown_as_nothing(value):
    assert floored(value) == "0.0000"


def shown(renderable):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def words_of(panel):
    """What a panel says, without its borders and line ends."""
    return " ".join(shown(panel).replace("│", " ").split())


def test_the_panel_shows_verdict_votes_evidence_and_advice(drawn):
    c = replace(drawn(**{FIRST: 60}), seed_source="given")
    said = words_of(certificate_panel(c, "frame.png"))
    assert "wrong with probability at most 0.001" in said
    assert "Of Q such certificates up to Q × 0.001 are wrong on average" in said
    for words in (
        "frame.png",
        f"certified {FIRST}",
        f"R = {floored(c.radius)}",
        "60",
        "composite",
        "→ The seed",
    ):
        assert words in said


def test_the_panel_names_the_question_and_the_first_of_many_classes(drawn):
    c = drawn(**{FIRST: 60})
    assert f"{demo.PROMPT!r} → {', '.join(demo.ACTIONS)} " in words_of(certificate_panel(c, ""))
    many = replace(c.oracle, classes=tuple(f"c{i}" for i in range(11)))
    assert "→ c0, c1, c2, c3, c4, c5, c6, c7 and 3 more" in words_of(
        certificate_panel(replace(c, oracle=many), "")
    )
    rules = replace(c.oracle, kind="rules", name="action")
    assert "stop (by the oracle 'action')" in words_of(certificate_panel(replace(c, oracle=rules), ""))


def test_the_panel_of_an_abstention_says_so(drawn, reserved):
    for certificate in (drawn(**{FIRST: 30, SECOND: 30}), reserved):
        said = words_of(certificate_panel(certificate, "frame.png"))
        assert "abstained" in said
        assert "R =" not in said


def test_the_table_has_a_line_for_each_certificate(drawn):
    said = shown(summary_table([("one", drawn(**{FIRST: 60})), ("two", drawn(**{FIRST: 30, SECOND: 30}))]))
    one, two = (line for line in said.splitlines() if line.split()[:1] in (["one"], ["two"]))
    assert one.split()[1:4] == [FIRST, "60/60", "certified"]
    assert two.split()[1:4] == [f"({FIRST})", "30/60", "abstained"]


def test_names_are_shown_as_they_are_and_not_read_as_console_markup(certified):
    said = shown(certificate_panel(certified, "[red]frame[/red].png"))
    assert "[red]frame[/red].png" in said
