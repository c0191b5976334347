"""Hostile circumstances: the disk, the memory, the signals, the backend. Nothing half-written ever stays."""

import functools
import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from edgers import demo
from edgers.certificate import Certificate
from edgers.certify import Certifier
from edgers.oracle.base import OTHER
from edgers_engines.errors import BackendError, InputError
from edgers_engines.noise import Stream
from edgers_engines.vlm import Question
from tests.edgers.hostile import EDGERS, FEW, GUARD, QUESTION, Ended, command, process, refused


def files(folder):
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def script(text, *arguments):
    """Run a script of Python; Ctrl-C reaches it also where the tests run in the background."""
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=GUARD,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    return Ended(done.returncode, done.stdout, done.stderr)


# --- the disk -----------------------------------------------------------------------------------------------


FILLS = """
import resource, sys
from edgers import cli
from edgers.certify import Certifier

certify = Certifier.certify
def and_then_the_disk_is_full(*args, **more):
    made = certify(*args, **more)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
    return made

Certifier.certify = and_then_the_disk_is_full
sys.argv = ["edgers", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize("size", [0, 1, 1000, 2500])
@pytest.mark.parametrize("option", ["--save", "--plot"])
def test_a_disk_that_fills_ends_in_one_line_and_leaves_no_part(first_frame, tmp_path, option, size):
    target = tmp_path / {"--save": "c.json", "--plot": "plot.png"}[option]
    arguments = (first_frame, *QUESTION, *FEW, "--json", option, target)
    ended = script(FILLS.format(size=size), "certify", *arguments)
    assert json.loads(ended.out)["label"], "the result is not lost with the file"
    refused(ended._replace(out=""), 1, "File too large")
    assert files(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1000, 10**6])
def test_a_disk_too_small_for_the_models_weights_is_one_line(first_frame, tmp_path, size):
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    arguments = (first_frame, *QUESTION, *FEW, "--json", "--save", tmp_path / "c.json")
    refused(process("certify", *arguments, preexec_fn=limit), 1, "cannot make a private copy of the weights")
    assert files(tmp_path) == []


OUTPUTS = [
    pytest.param("--save", "/proc/c.json", 1, "cannot write", id="save where nobody may write"),
    pytest.param("--plot", "/proc/plot.png", 1, "cannot write", id="plot where nobody may write"),
    pytest.param("--save", "/dev/null", 2, "is there already", id="save onto a device"),
    pytest.param("--save", "/dev/full", 2, "is there already", id="save onto a full device"),
    pytest.param("--save", "/proc/self/c.json/d.json", 2, "is not a folder", id="save below a missing file"),
    pytest.param("--save", "/", 2, "is there already", id="save onto the root"),
    pytest.param("--save", "c" * 300 + ".json", 2, "File name too long", id="a name that is too long"),
    pytest.param("--save", "", 2, "is there already", id="a name that is empty"),
    pytest.param("--plot", "c.json", 2, "must end in one of", id="plot as JSON"),
]


@pytest.mark.parametrize(("option", "target", "code", "said"), OUTPUTS)
def test_a_target_that_cannot_be_written_is_one_line(
    *, monkeypatch, capsys, first_frame, tmp_path, option, target, code, said
):
    monkeypatch.chdir(tmp_path)
    ended = command(monkeypatch, capsys, "certify", first_frame, *QUESTION, *FEW, "--json", option, target)
    refused(ended._replace(out=""), code, said)
    assert files(tmp_path) == []


def stamp(path):
    """What a change of a file or link would change; to read it changes when it was last read."""
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link", "pipe"])
def test_what_is_there_already_stays_as_it_is(monkeypatch, capsys, first_frame, tmp_path, kind):
    target = tmp_path / "c.json"
    {
        "file": lambda: target.write_text("mine"),
        "folder": target.mkdir,
        "link": lambda: target.symlink_to(first_frame),
        "dangling link": lambda: target.symlink_to(tmp_path / "none"),
        "pipe": lambda: os.mkfifo(target),
    }[kind]()
    before = stamp(target)
    ended = command(monkeypatch, capsys, "certify", first_frame, *QUESTION, *FEW, "--save", target)
    refused(ended, 2, "is there already")
    assert (files(tmp_path), stamp(target)) == (["c.json"], before)


def test_two_who_save_under_one_name_leave_one_whole_file(first_frame, tmp_path):
    target = tmp_path / "c.json"
    arguments = [EDGERS, "certify", first_frame, *QUESTION, *FEW, "--json", "--save", target]
    two = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [one.communicate(timeout=GUARD) for one in two]
    assert files(tmp_path) == ["c.json"]
    Certificate.load(target)
    (wrote,) = {one.returncode for one in two} - {2}  # who came first is certified, or abstained
    assert wrote in {0, 10}
    assert 2 in {one.returncode for one in two}, said


# --- signals ------------------------------------------------------------------------------------------------

STOPS = """
import os, signal, sys
from edgers import cli
{before}
sys.argv = ["edgers", *sys.argv[1:]]
cli.main()
"""
# Where the process is when the signal comes: the model answers, the file is open, the file has its name.
MOMENTS = {
    "while the model answers": (
        "from edgers_engines.vlm import Question\n"
        "Question.answers = lambda *_: os.kill(os.getpid(), signal.{signal})",
        [],
    ),
    "while the file is written": (
        "import os\nsync = os.fsync\nos.fsync = lambda _: os.kill(os.getpid(), signal.{signal})",
        [".edgers-"],
    ),
    "before the file has its name": (
        "from pathlib import Path\nPath.hardlink_to = lambda *_: os.kill(os.getpid(), signal.{signal})",
        [".edgers-"],
    ),
}


def stopped(tmp_path, first_frame, moment, name):
    """A command that sends itself a signal at one moment."""
    return script(
        STOPS.format(before=MOMENTS[moment][0].format(signal=name)),
        *("certify", first_frame, *QUESTION, *FEW, "--json", "--save", tmp_path / "c.json"),
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_leaves_nothing_and_says_so(first_frame, tmp_path, moment):
    ended = stopped(tmp_path, first_frame, moment, "SIGINT")
    refused(ended._replace(out=""), 130, "interrupted; what was not finished is not there")
    assert files(tmp_path) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_no_file_under_the_name_that_was_asked_for(first_frame, tmp_path, moment):
    """Nothing can clean up after SIGKILL; what may stay is a hidden scratch file, never half a result."""
    ended = stopped(tmp_path, first_frame, moment, "SIGKILL")
    assert ended.code == -signal.SIGKILL
    assert [name[: len(".edgers-")] for name in files(tmp_path)] == MOMENTS[moment][1]
    again = process("certify", first_frame, *QUESTION, *FEW, "--json", "--save", tmp_path / "c.json")
    assert json.loads(again.out)["label"]
    Certificate.load(tmp_path / "c.json")


# --- the backend --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["--backend", "tensorrt"], 1, "install", id="TensorRT without a GPU"),
        pytest.param(["--backend", "abacus"], 2, "'abacus' is not one of", id="a backend there never was"),
        pytest.param(["--device", "cuda:999"], 1, "CUDA", id="a device that is not there"),
        pytest.param(["--device", "cuda:1000"], 2, "no device", id="a device beyond all"),
        pytest.param(["--device", "CPU"], 2, "no device 'CPU'", id="a device in capitals"),
        pytest.param(["--device", ""], 2, "no device ''", id="a device without a name"),
    ],
)
def test_a_backend_that_is_not_there_is_one_line_and_never_another_one(
    *, monkeypatch, capsys, first_frame, arguments, code, said
):
    refused(
        command(monkeypatch, capsys, "certify", first_frame, *QUESTION, *FEW, "--json", *arguments),
        code,
        said,
    )


# --- the oracle ---------------------------------------------------------------------------------------------


def test_an_oracle_that_fails_ends_in_that_error_and_in_no_certificate(
    demo_certifier, first_frame, monkeypatch
):
    from edgers.oracle.choices import Choices

    def fail(*_):
        raise BackendError("the oracle fell off the robot")

    monkeypatch.setattr(Choices, "classify", fail)
    with pytest.raises(BackendError, match="the oracle fell off the robot"):
        demo_certifier.certify(first_frame, demo.PROMPT, choices=demo.ACTIONS)


def test_an_oracle_that_understands_nothing_certifies_nothing(reserved):
    assert (reserved.label, reserved.certified, reserved.radius) == (OTHER, False, None)


# --- memory -------------------------------------------------------------------------------------------------

SEED = "00112233445566778899aabbccddeeff"


@pytest.fixture
def ask(demo_bundle, first_frame):
    """Certify with chunks of 32, on one frame, from one seed."""
    certifier = Certifier(demo_bundle, sigma=0.6, samples=70, selection=9, batch_size=32)
    return lambda **more: certifier.certify(first_frame, demo.PROMPT, choices=demo.ACTIONS, seed=SEED, **more)


def scarce(monkeypatch, holder, name, rows_of, most):
    """Let a call fail for want of memory as long as it asks for more than `most` rows."""
    whole, asked = getattr(holder, name), []

    def short(*args, **more):
        asked.append(rows_of(args, more))
        if asked[-1] > most:
            raise MemoryError
        return whole(*args, **more)

    monkeypatch.setattr(holder, name, short)
    return asked


SCARCE = {
    "when a question's buffers are made": ("edgers.asked.Question", "__init__", lambda _a, m: m["rows"]),
    "when the noise's buffers are made": ("edgers.poll.NoiseAhead", "__init__", lambda a, _m: a[2][0]),
    "when noise is drawn": ("edgers_engines.device", "noisy_copies", lambda _a, m: len(m["out"])),
    "in a run of the model": ("edgers.asked.Question", "answers", lambda a, _m: len(a[1])),
}


@pytest.mark.parametrize("most", [1, 5, 16])
@pytest.mark.parametrize("moment", SCARCE)
def test_too_little_memory_halves_the_chunk_and_changes_no_vote(ask, monkeypatch, moment, most):
    from pydoc import locate

    expected = ask()
    assert len({n for n in expected.votes.certification.values() if n}) > 1, "the votes are split"
    path, name, rows_of = SCARCE[moment]
    asked = scarce(monkeypatch, locate(path), name, rows_of, most)
    found = ask()
    assert max(asked) > most
    assert found.batch_size in {1, 2, 4, 8, 16}
    assert found.batch_size <= most
    assert found.votes == expected.votes
    assert (found.radius, found.label) == (expected.radius, expected.label)


def test_a_chunk_that_has_no_half_becomes_its_largest_divisor(demo_bundle, first_frame, monkeypatch):
    certifier = Certifier(demo_bundle, sigma=0.25, samples=15, selection=2, batch_size=15)
    scarce(monkeypatch, Question, "answers", lambda a, _m: len(a[1]), 14)
    assert certifier.certify(first_frame, demo.PROMPT, choices=demo.ACTIONS).batch_size == 5


def test_memory_that_ends_after_the_selection_does_not_count_a_sample_twice(ask, monkeypatch):
    expected, whole, done = ask(), Question.answers, []
    asked = scarce(monkeypatch, Question, "answers", lambda a, _m: len(a[1]) if done.count(9) else 0, 16)
    found = ask(progress=done.append)
    assert found.votes == expected.votes
    assert Question.answers is not whole
    assert max(asked) == 32
    assert sum(done) == 79
    assert min(done) == -9


def test_no_memory_for_a_single_sample_is_one_line(monkeypatch, capsys, first_frame):
    scarce(monkeypatch, Question, "answers", lambda a, _m: len(a[1]), 0)
    ended = command(monkeypatch, capsys, "certify", first_frame, *QUESTION, *FEW, "--json")
    refused(ended, 1, "out of memory, even with one sample at a time")


def test_a_wrong_question_is_not_taken_for_want_of_memory(ask, monkeypatch):
    def wrong(*_args, **_more):
        raise InputError("the prompt is wrong")

    monkeypatch.setattr(Question, "__init__", wrong)
    with pytest.raises(InputError, match="the prompt is wrong"):
        ask()


REAL = """
import resource, sys
from edgers import demo
from edgers.certify import Certifier
from edgers_engines.engine import open_backend

def certify():
    rows, backend = int(sys.argv[1]), open_backend(threads=1)
    bundle = demo.load_bundle()
    certifier = Certifier(bundle, sigma=0.6, samples=rows, selection=2, batch_size=rows, backend=backend)
    few = Certifier(bundle, sigma=0.6, samples=2, selection=1, backend=backend)
    few.certify(demo.frames()[0], demo.PROMPT, choices=demo.ACTIONS)  # loads what is loaded on first use
    if sys.argv[2] != "all":
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
    made = certifier.certify(demo.frames()[0], demo.PROMPT, choices=demo.ACTIONS, seed="0" * 32)
    print(made.batch_size, made.votes.certification)

certify()
"""


def really(rows, megabytes):
    """Certify in a process that may have only so much memory more; chunk and votes."""
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(rows), str(megabytes)],
        check=False,
        capture_output=True,
        text=True,
        timeout=GUARD,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr
    chunk, votes = done.stdout.split(" ", 1)
    return int(chunk), votes, done.stderr


def test_with_half_the_memory_a_chunk_really_gets_smaller_and_the_votes_stay():
    roomy, tight = really(384, "all"), really(384, 150)
    assert roomy[0] == 384
    assert tight[0] < 384
    assert tight[1] == roomy[1]
    assert tight[2] == "", "the backend's own log is silent: an error is one line, or none"


def test_the_largest_batch_is_no_more_than_the_samples_need(demo_bundle, first_frame):
    certifier = Certifier(demo_bundle, sigma=0.25, samples=3, selection=2, batch_size=4096)
    made = certifier.certify(first_frame, demo.PROMPT, choices=demo.ACTIONS)
    assert made.batch_size == 3


def test_every_stream_is_drawn_from_its_first_sample_again_after_a_halving(ask, monkeypatch):
    """What is answered again is the same noise: streams and numbers of samples, not fresh draws."""
    from edgers_engines import device

    drawn, whole = [], device.noisy_copies

    def noted(*args, **more):
        drawn.append((more["stream"], more["first"], len(more["out"])))
        return whole(*args, **more)

    monkeypatch.setattr(device, "noisy_copies", noted)
    scarce(monkeypatch, Question, "answers", lambda a, _m: len(a[1]), 8)
    ask()
    chunks = [(Stream.SELECTION, 0, 8), (Stream.SELECTION, 8, 1)]
    chunks += [(Stream.CERTIFICATION, first, min(8, 70 - first)) for first in range(0, 70, 8)]
    assert drawn[-len(chunks) :] == chunks
