"""The command line of modes, targets, deadlines and Ctrl-C: verdicts, exit codes, one line for each error."""

import json
import os
import signal
import subprocess
import sys

import pytest

from edgers import demo
from edgers.certificate import Certificate
from edgers.cli.output import interruption
from edgers.verify import verify
from edgers_engines.records import parse
from tests.edgers.hostile import GUARD, QUESTION, command, refused

VOTES = ("--votes", 95, "--of", 100, "--sigma", 0.5)


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run a command in this process."""

    def run(*args):
        ended = command(monkeypatch, capsys, *args)
        assert "Traceback" not in ended.err
        assert "internal error" not in ended.err
        return ended

    return run


# --- radius -------------------------------------------------------------------------------------------------

MODES = {
    "composite": (),
    "pairwise": ("--others", "3,2,0"),
    "adversarial": ("--error-rate", 0.01),
    "false-positive": ("--false-positive-rate", 0.01),
    "asymmetric": ("--false-positive-rate", 0.01, "--false-negative-rate", 0.001),
    "symmetric": ("--error-rate", 0.01),
    "unknown": (),
    "audit": ("--audited", "200/200"),
    "calibrated": ("--calibration", "3/1000"),
    "calibrated-false-positive": ("--calibration", "3/1000, 0/500"),
}


TWO = ("--choices", "forward,stop")


@pytest.mark.parametrize("mode", MODES)
def test_radius_takes_every_mode_and_says_what_it_assumes(edgers, mode):
    options = ("radius", *VOTES, "--assume", mode, *MODES[mode])
    ended = edgers(*options, "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["certified"], found["assumption"]["mode"]) == (0, True, mode)
    assert found["radius"] > 0
    assert "recorded" not in found["assumption"]["sentence"], "for nothing is"
    out = edgers(*options).out
    assert found["assumption"]["sentence"] in " ".join(out.split())
    about_truth = "the class is true under most of the noise" in " ".join(out.split())
    assert about_truth == (mode not in {"composite", "pairwise"})
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "pairwise"])
def test_radius_of_votes_that_one_could_stop_at_any_time_is_smaller(edgers, mode):
    options = ("radius", *VOTES, "--assume", mode, *MODES[mode], "--json")
    fixed, early = (json.loads(edgers(*options, "--method", m).out) for m in ("fixed", "sequential"))
    assert 0 < early["radius"] < fixed["radius"]


WRONG = {
    "no such mode": (("--assume", "trust"), "there is no mode 'trust'"),
    "a number too many": (("--error-rate", 0.1), "composite takes no number; it was given --"),
    "a number too few": (
        ("--assume", "asymmetric", "--false-positive-rate", 0.1),
        "takes --false-positive-rate and --false-negative-rate; it",
    ),
    "no number": (("--assume", "adversarial"), "takes --error-rate; it was given no number"),
    "an error rate of nan": (("--assume", "adversarial", "--error-rate", "nan"), "the error rate is nan"),
    "an error rate of inf": (("--assume", "adversarial", "--error-rate", "inf"), "the error rate is inf"),
    "an error rate below 0": (("--assume", "adversarial", "--error-rate", "-0.1"), "the error rate is -0.1"),
    "an even chance": (("--assume", "symmetric", "--error-rate", 0.5), "the error rate is 0.5"),
    "a contradiction": (("--assume", "symmetric", "--error-rate", 0.3), "its assumption does not hold"),
    "rates that add up": (
        ("--assume", "asymmetric", "--false-positive-rate", 0.6, "--false-negative-rate", 0.4),
        "below 1 together",
    ),
    "calibration that is no counts": (("--assume", "calibrated", "--calibration", "3"), "must be two counts"),
    "calibration of text": (("--assume", "calibrated", "--calibration", "a/b"), "must be two counts"),
    "negative calibration": (("--assume", "calibrated", "--calibration", "-3/9"), "must be two counts"),
    "calibration of none": (("--assume", "calibrated", "--calibration", "0/0"), "samples is 0"),
    "more errors than answers": (("--assume", "calibrated", "--calibration", "9/3"), "9 votes of 3"),
    "too many answers": (("--assume", "calibrated", "--calibration", "9/9999999999"), "9999999999"),
    "several pairs for one": (("--assume", "calibrated", "--calibration", "1/9,1/9"), "two counts"),
    "an empty pair": (("--assume", "calibrated-false-positive", "--calibration", "1/9,"), "two counts"),
    "calibration where none is": (("--calibration", "3/9"), "composite takes no number; it was given --"),
    "an audit of nothing": (("--assume", "audit", "--audited", "0/0"), "samples is 0"),
    "pairwise without the others": (("--assume", "pairwise"), "with --others"),
    "others that do not add up": (("--assume", "pairwise", "--others", "3,3"), "add up to the 5"),
    "negative others": (("--assume", "pairwise", "--others", "6,-1"), "add up to the 5"),
    "others of text": (("--others", "x"), "must be counts with commas"),
    "others of nothing": (("--others", ""), "must be counts with commas"),
    "pairwise at any time": (
        ("--assume", "pairwise", "--others", "5,0", "--method", "sequential"),
        "goes with the method fixed",
    ),
    "pairwise with a floor": (("--assume", "pairwise", "--others", "5,0", "--floor", 0.6), "the floor 0.5"),
    "batched votes": (("--method", "batched"), "Invalid value for '--method'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_radius_refuses_numbers_that_no_mode_takes(edgers, name):
    options, said = WRONG[name]
    refused(edgers("radius", *VOTES, *options), 2, said)


# --- certify ------------------------------------------------------------------------------------------------


def certify(edgers, *options, frame=None):
    options = ("--sigma", demo.SIGMA, "--selection", 8, *options)
    return edgers("certify", frame or demo.frames()[0], *QUESTION, *options)


def read(ended):
    certificate = parse(ended.out.encode(), Certificate)
    verify(certificate)
    return certificate


def test_a_target_is_sequential_unless_said_otherwise_and_exits_with_0(edgers):
    ended = certify(edgers, "--target-radius", 0.1, "--json")
    c = read(ended)
    assert (ended.code, c.method, c.certified, c.look_every) == (0, "sequential", True, 8)
    ended = certify(edgers, "--target-radius", 0.1, "--method", "batched", "--json")
    assert (ended.code, read(ended).method) == (0, "batched")


def test_a_deadline_is_sequential_and_its_certificate_verifies(edgers):
    ended = certify(edgers, "--deadline-ms", 0.001, "--json")
    c = read(ended)
    assert (ended.code, c.method, c.stopped_because) == (10, "sequential", "the deadline passed")
    assert "The deadline passed after 0 of 100 samples" in certify(edgers, "--deadline-ms", 0.001).out


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "pairwise"])
def test_certify_takes_every_mode(edgers, mode):
    options = [mode, *MODES[mode]]
    if mode in {"symmetric", "unknown"}:
        options += TWO
    if mode == "calibrated-false-positive":
        options[-1] += ", 0/500"  # four choices: three classes besides the certified one
    ended = certify(edgers, "--assume", *options, "--samples", 60, "--json")
    assert (ended.code, read(ended).assumption.mode) == (0, mode)


def test_certify_takes_a_floor_and_says_what_it_means(edgers):
    ended = certify(edgers, "--floor", 0.6, "--samples", 60, "--json")
    assert (ended.code, read(ended).floor) == (0, 0.6)
    text = certify(edgers, "--floor", 0.6, "--samples", 60).out
    assert "keeps a probability of at least 0.6 under noise" in " ".join(text.replace("│", "").split())


WRONG_CERTIFY = {
    **{
        f"a floor of {number}": (("--floor", number), "the floor is") for number in ("0.4", "1", "nan", "inf")
    },
    "pairwise with a floor": (("--floor", 0.6, "--assume", "pairwise"), "the floor 0.5"),
    **{
        f"a target of {number}": (("--target-radius", number), "target radius is")
        for number in ("0", "-1", "nan", "inf", "-inf")
    },
    "a huge target": (("--target-radius", "1e308"), "no vote certifies"),
    "a target that all votes miss": (("--target-radius", 0.6), "cannot certify a radius of 0.6"),
    **{
        f"a deadline of {number}": (("--deadline-ms", number), "the deadline is")
        for number in ("0", "-1", "nan", "inf")
    },
    "fixed with a target": (("--target-radius", 0.1, "--method", "fixed"), "decides no target radius"),
    "fixed with a deadline": (("--deadline-ms", 100, "--method", "fixed"), "has no deadline"),
    "batched without a target": (("--method", "batched"), "give one"),
    "a billion looks": (("--target-radius", 0.1, "--samples", 10**9), "more than 100000 looks"),
    "pairwise with a target": (("--target-radius", 0.1, "--assume", "pairwise"), "the method fixed"),
    "no such method": (("--method", "peeking"), "Invalid value for '--method'"),
}


@pytest.mark.parametrize("name", WRONG_CERTIFY)
def test_certify_refuses_what_no_rule_can_be(edgers, name):
    options, said = WRONG_CERTIFY[name]
    refused(certify(edgers, *options), 2, said)


def test_votes_that_contradict_the_mode_fail_their_image_and_not_the_others(edgers):
    options = ("--assume", "symmetric", "--error-rate", 0.2, *TWO, "--samples", 60)
    refused(certify(edgers, *options), 1, "its assumption does not hold here")
    both = (*demo.frames()[:1], *QUESTION, "--sigma", demo.SIGMA, *options, "--json")
    ended = edgers("certify", demo.frames()[-1], *both)
    assert ended.code == 1
    hard, clear = (json.loads(line) for line in ended.out.splitlines())
    assert "error" not in hard
    assert "its assumption does not hold here" in clear["error"]


# --- Ctrl-C -------------------------------------------------------------------------------------------------

# The signal comes when the batch of that number was answered: no sleep, no race.
PRESSES = """
import os, signal, sys
from edgers import cli
from edgers_engines.vlm import Question
answers, batches = Question.answers, [0]
def pressing(question, canvases):
    batches[0] += 1
    found = answers(question, canvases)
    if batches[0] == {batch}:
        for _ in range({presses}):
            os.kill(os.getpid(), signal.SIGINT)
    return found
Question.answers = pressing
sys.argv = ["edgers", *sys.argv[1:]]
cli.main()
"""


def pressed(*args, batch=3, presses=1):
    script = PRESSES.replace("{batch}", str(batch)).replace("{presses}", str(presses))
    base = [sys.executable, "-c", script, "certify", *args, *QUESTION, "--sigma", demo.SIGMA]
    return subprocess.run(
        [*map(str, base), "--selection", "8", "--batch-size", "16", "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=GUARD,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_ctrl_c_ends_the_samples_and_certifies_what_they_prove():
    ended = pressed(demo.frames()[0], "--method", "sequential", "--samples", 10**9)
    assert ended.returncode == 0, ended.stderr
    c = parse(ended.stdout.encode(), Certificate)
    verify(c)
    assert (c.stopped_because, sum(c.votes.certification.values()), c.n) == ("it was cancelled", 32, 10**9)
    assert c.radius > 0


def test_ctrl_c_in_the_selection_is_an_abstention():
    ended = pressed(demo.frames()[0], "--method", "sequential", batch=1)
    assert ended.returncode == 10, ended.stderr
    verify(parse(ended.stdout.encode(), Certificate))


@pytest.mark.parametrize(
    ("options", "presses"),
    [
        pytest.param(("--method", "fixed"), 1, id="a fixed number of samples"),
        pytest.param(("--method", "sequential"), 2, id="pressed twice"),
    ],
)
def test_ctrl_c_aborts_what_would_prove_nothing_and_what_was_asked_to_end_before(options, presses):
    ended = pressed(demo.frames()[0], *options, "--samples", 10**9, presses=presses)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.strip() == "edgers: interrupted; what was not finished is not there: run it again"


def test_a_target_that_is_not_reached_exits_with_10_though_a_radius_is_proven():
    ended = pressed(demo.frames()[0], "--target-radius", 0.4, "--samples", 1000, batch=4)
    assert ended.returncode == 10, ended.stderr
    c = parse(ended.stdout.encode(), Certificate)
    verify(c)
    assert not c.certified
    assert 0 < c.radius < 0.4


def test_images_that_ctrl_c_left_undone_are_not_called_done():
    first, second, *_ = demo.frames()
    ended = pressed(first, second, "--method", "sequential", "--samples", 10**9)
    assert ended.returncode == 130
    (certificate,) = ended.stdout.splitlines()
    verify(parse(certificate.encode(), Certificate))


def test_only_the_first_ctrl_c_is_caught_and_the_handler_is_put_back():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with interruption(True) as interrupted:
            assert not interrupted()
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupted()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("catch", [True, False])
def test_who_is_told_to_ignore_ctrl_c_goes_on_ignoring_it(catch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption(catch) as interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupted()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
