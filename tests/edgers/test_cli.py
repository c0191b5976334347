"""The command line: exit codes, one line for each error, JSON alone on stdout, files whole or not at all."""

import io
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import threading
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from edgers import cli, demo
from edgers.certificate import Certificate
from edgers.certify import Certifier
from edgers.cli import output
from edgers.oracle.base import RESERVED
from edgers_engines.errors import EdgersError, InputError
from edgers_engines.version import __version__

EDGERS = Path(sysconfig.get_path("scripts")) / "edgers"
QUESTION = ("--prompt", demo.PROMPT, "--choices", ",".join(demo.ACTIONS))
FEW = ("--sigma", "0.25", "--samples", "12", "--selection", "2")
GUARD = 120  # seconds after which a process that should have ended is taken for hung


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run a command in this process."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["edgers", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return sound(Ended(stop.value.code, *capsys.readouterr()))

    return run


def sound(ended):
    """Whatever was asked, the answer is never a traceback, nor an error that edgers did not foresee."""
    assert "Traceback" not in ended.err
    assert "internal error" not in ended.err, ended
    return ended


def process(*args, **more):
    """Run the installed command as another program would."""
    done = subprocess.run(
        [EDGERS, *map(str, args)], check=False, capture_output=True, text=True, timeout=GUARD, **more
    )
    return sound(Ended(done.returncode, done.stdout, done.stderr))


def refused(ended, code, said):
    """One line on stderr, nothing on stdout, the right exit code."""
    assert ended.code == code, ended
    assert re.search(said, ended.err), ended
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert len(lines) == 1, ended
    assert lines[0].startswith("edgers: ")
    assert ended.out == ""


# --- help and version ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", cli._COMMANDS)
def test_every_command_explains_itself(edgers, command, flag):
    ended = edgers(command, flag)
    assert (ended.code, ended.err) == (0, "")
    assert re.match(rf"Usage: .*edgers {command} ", ended.out)
    assert "--json" in ended.out or command == "engines"  # whose own commands have it


def test_the_help_lists_every_command_with_its_summary(edgers):
    ended = edgers("--help")
    assert ended.code == 0
    text = " ".join(ended.out.split())
    for command, summary in cli._COMMANDS.items():
        assert f"{command} {summary}" in text


def test_edgers_alone_shows_its_help_on_many_lines(edgers):
    ended = edgers()
    assert ended.code in {0, 2}
    assert len((ended.out + ended.err).splitlines()) > len(cli._COMMANDS)


def test_the_version_is_said(edgers):
    assert __version__ in edgers("--version").out


# --- what is wrong is said in one line ----------------------------------------------------------------------


def png(width, height, rows=b""):
    """A PNG of 8-bit grey that says how large it is, and holds whatever rows."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture(scope="module")
def things(tmp_path_factory, first_frame):
    """A folder of images and other things that no certificate can be made of."""
    folder = tmp_path_factory.mktemp("things")
    shutil.copy(first_frame, folder / "frame.png")
    content = first_frame.read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "half.png").write_bytes(content[: len(content) // 2])
    (folder / "huge.png").write_bytes(png(20_000, 20_000))
    (folder / "strip.png").write_bytes(png(65_535, 1, b"\0" * 65_536))
    (folder / "bare.svg").write_text("<svg/>")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    grey = Image.fromarray(np.zeros((96, 96), np.uint8))
    grey.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.zeros((96, 96), np.uint16)).save(folder / "16bit.png")
    grey.convert("CMYK").save(folder / "cmyk.jpg")
    grey.save(folder / "frame.gif")
    noise = Image.fromarray(np.full((96, 96), 255, np.uint8))
    grey.save(folder / "animated.png", save_all=True, append_images=[noise])
    (folder / "taken.json").write_text("mine")
    (folder / "empty bundle").mkdir()
    (folder / "broken bundle").mkdir()
    (folder / "broken bundle" / "manifest.json").write_text('{"schema_version": 1, "schema_version": 2}')
    return folder


def asked(*more, image="{things}/frame.png", question=QUESTION, sigma="0.25"):
    return ["certify", image, *question, "--sigma", sigma, *more]


def prompted(prompt, *more):
    return asked(*more, question=("--prompt", prompt, "--choices", "left,right"))


def chosen(choices, *more):
    return asked(*more, question=("--prompt", demo.PROMPT, "--choices", choices))


def counted(votes="9", of="10", alpha="0.001", sigma="0.5", *more):
    return ["radius", "--votes", votes, "--of", of, "--alpha", alpha, "--sigma", sigma, *more]


WRONG = {
    # the shape of a call
    "an unknown command": (["bake"], 2, r"No such command 'bake'\.? \(see --help\)"),
    "a command with a slip": (["certfy"], 2, "No such command 'certfy'. Did you mean 'certify'"),
    "an unknown option": ([*asked(), "--verbose"], 2, "No such option:? '?--verbose"),
    "an argument with a line break": (["demo", "x\ny"], 2, "unexpected extra argument"),
    "an argument with a terminal escape": (["demo", "\x1b[2J"], 2, r"unexpected extra argument.*\\x1b"),
    "no image": (["certify", *QUESTION, "--sigma", "0.25"], 2, "Missing argument 'IMAGE...'"),
    "no prompt": (["certify", "{things}/frame.png", "--sigma", "1"], 2, "Missing option '--prompt'"),
    "no sigma": (["certify", "{things}/frame.png", *QUESTION], 2, "Missing option '--sigma'"),
    "an option without its value": ([*asked(), "--samples"], 2, "'--samples' requires an argument"),
    "radius without votes": (["radius", "--of", "10", "--sigma", "1"], 2, "Missing option '--votes'"),
    "verify without a certificate": (["verify"], 2, "Missing argument 'CERT.json'"),
    "demo with an argument": (["demo", "x"], 2, "unexpected extra argument"),
    "doctor with an argument": (["doctor", "x"], 2, "unexpected extra argument"),
    "export without an output": (["export", "checkpoint"], 2, "Missing option '--out'"),
    "export: half a frame": (["export", "x", "--out", "y", "--frame", "640"], 2, "such as 640x480"),
    "export: an empty frame": (["export", "x", "--out", "y", "--frame", "0x480"], 2, "such as 640x480"),
    "export: no pooling": (
        ["export", "x", "--out", "y", "--pool", "0"],
        2,
        "'--pool': 0 is not in the range",
    ),
    # numbers of radius
    "radius: more votes than samples": (counted("11"), 2, "11 votes of 10 samples"),
    "radius: negative votes": (counted("-1"), 2, "-1 votes of 10 samples"),
    "radius: no samples": (counted("0", "0"), 2, "the number of samples is 0"),
    "radius: 10^12 samples": (counted("1", str(10**12)), 2, "the number of samples is 1000000000000"),
    "radius: half a vote": (counted("9.5"), 2, "'9.5' is not a valid integer"),
    "radius: alpha 0": (counted(alpha="0"), 2, "alpha is 0"),
    "radius: alpha 0.5": (counted(alpha="0.5"), 2, "alpha is 0.5"),
    "radius: alpha nan": (counted(alpha="nan"), 2, "alpha is nan"),
    "radius: alpha -1": (counted(alpha="-1"), 2, "alpha is -1"),
    "radius: sigma 0": (counted(sigma="0"), 2, "sigma is 0"),
    "radius: sigma -1": (counted(sigma="-1"), 2, "sigma is -1"),
    "radius: sigma nan": (counted(sigma="nan"), 2, "sigma is nan"),
    "radius: sigma inf": (counted(sigma="inf"), 2, "sigma is inf"),
    "radius: sigma 1e12": (counted(sigma="1e12"), 2, "sigma is 1000000000000"),
    "radius: sigma five": (counted(sigma="five"), 2, "'five' is not a valid float"),
    "radius: floor 0.4": ([*counted(), "--floor", "0.4"], 2, "the floor is 0.4"),
    "radius: floor 1": ([*counted(), "--floor", "1"], 2, "the floor is 1"),
    "radius: floor nan": ([*counted(), "--floor", "nan"], 2, "the floor is nan"),
    # numbers of certify
    "certify: sigma 0": (asked(sigma="0"), 2, "sigma is 0"),
    "certify: sigma -0.25": (asked(sigma="-0.25"), 2, "sigma is -0.25"),
    "certify: sigma nan": (asked(sigma="nan"), 2, "sigma is nan"),
    "certify: sigma inf": (asked(sigma="inf"), 2, "sigma is inf"),
    "certify: sigma beyond the lattice": (asked(sigma="1.8"), 2, "sigma is 1.8; .* at most 1.7"),
    "certify: alpha 0": (asked("--alpha", "0"), 2, "alpha is 0"),
    "certify: alpha 0.5": (asked("--alpha", "0.5"), 2, "alpha is 0.5"),
    "certify: no samples": (asked("--samples", "0"), 2, "the number of samples is 0"),
    "certify: -5 samples": (asked("--samples", "-5"), 2, "the number of samples is -5"),
    "certify: a selection below 0": (asked("--selection", "-1"), 2, "selection is -1"),
    "certify: batches of none": (asked("--batch-size", "0"), 2, "the batch size is 0"),
    "certify: no threads": (asked("--threads", "0"), 2, "threads is 0"),
    "certify: a million threads": (asked("--threads", "1000000"), 2, "threads is 1000000"),
    "certify: a short seed": (asked("--seed", "0123"), 2, "'0123' is not 32 hexadecimal digits"),
    "certify: a seed in words": (asked("--seed", "x" * 32), 2, "is not 32 hexadecimal digits"),
    # texts
    "an empty prompt": (prompted(""), 2, "the prompt is empty"),
    "a blank prompt": (prompted(" \n "), 2, "the prompt is empty"),
    "a prompt of a million letters": (prompted("x" * 10**6), 2, "the prompt has 1000000 characters"),
    "a prompt beyond the model": (prompted("left " * 3000), 2, "shorten the prompt"),
    "a prompt with a lone surrogate": (prompted("a\udcff"), 2, "the prompt is not valid Unicode"),
    "neither choices nor oracle": (
        asked(question=("--prompt", "Which?")),
        2,
        "give either choices or an oracle",
    ),
    "choices and an oracle": (asked("--oracle", "action"), 2, "give either choices or an oracle"),
    "an oracle that is not there": (
        asked("--oracle", "nobody", question=("--prompt", "Which?")),
        2,
        "no oracle 'nobody'; it has: .*action",
    ),
    "no choices": (chosen(""), 2, "choices given: 1"),
    "one choice": (chosen("left"), 2, "choices given: 1"),
    "a choice twice": (chosen("left,right,left"), 2, "'left' is named twice"),
    "a choice in two cases": (chosen("left,LEFT"), 2, "cannot tell 'LEFT' from 'left'"),
    "an empty choice": (chosen("left,,right"), 2, "a class has no name.* two commas"),
    "a reserved choice": (chosen("left,OTHER"), 2, "'OTHER' cannot name a class"),
    "a choice the model cannot write": (chosen("left,zzgrmpf"), 2, "cannot write the choice 'zzgrmpf'"),
    "a choice with a lone surrogate": (chosen("left,a\udcff"), 2, "not valid Unicode|cannot name"),
    "1001 choices": (chosen(",".join(f"c{i}" for i in range(1001))), 2, "choices given: 1001"),
    # images
    "a missing image": (asked(image="{things}/none.png"), 1, "none.png.*No such file"),
    "an empty image": (asked(image="{things}/empty.png"), 1, "empty.png has 0 bytes"),
    "a text called png": (asked(image="{things}/text.png"), 1, "text.png is not a JPEG, PNG or WebP image"),
    "half an image": (asked(image="{things}/half.png"), 1, "half.png cannot be decoded"),
    "20,000 x 20,000": (
        asked(image="{things}/huge.png"),
        1,
        "huge.png is .*(20000x20000|than the 50000000 pixels)",
    ),
    "a strip of one pixel": (asked(image="{things}/strip.png"), 1, "strip.png is 1x65535"),
    "a folder called png": (
        asked(image="{things}/folder.png"),
        1,
        "folder.png.*([Dd]irectory|not a regular file)",
    ),
    "a named pipe": (asked(image="{things}/pipe.png"), 1, "pipe.png.* not a regular file"),
    "a device": (asked(image="/dev/zero"), 1, "/dev/zero.* not a regular file"),
    "an image with transparency": (asked(image="{things}/alpha.png"), 1, "alpha.png has transparency"),
    "16 bits a channel": (asked(image="{things}/16bit.png"), 1, "16bit.png has pixel format (16 bits|I;16)"),
    "an image in CMYK": (asked(image="{things}/cmyk.jpg"), 1, "cmyk.jpg has pixel format CMYK"),
    "a GIF": (asked(image="{things}/frame.gif"), 1, "frame.gif is not a JPEG, PNG or WebP image"),
    "an animation": (asked(image="{things}/animated.png"), 1, "animated.png has 2 frames"),
    # bundles
    "a bundle that is not there": (asked("--bundle", "{things}/none"), 1, "cannot read the bundle"),
    "a bundle that is a file": (asked("--bundle", "{things}/frame.png"), 1, "is not a directory"),
    "a folder that is no bundle": (asked("--bundle", "{things}/empty bundle"), 1, "has no manifest.json"),
    "a manifest with a key twice": (
        asked("--bundle", "{things}/broken bundle"),
        1,
        "'schema_version' is there twice",
    ),
    "inspect: not there": (["inspect", "{things}/none"], 1, "cannot read the bundle"),
    "inspect: a file": (["inspect", "{things}/frame.png"], 1, "is not a directory"),
    "inspect: no bundle": (["inspect", "{things}/empty bundle"], 1, "has no manifest.json"),
    # devices
    "a backend there never was": (asked("--backend", "abacus"), 2, "'abacus' is not one of"),
    "TensorRT without a GPU": (
        asked("--backend", "tensorrt"),
        1,
        "(TensorRT cannot be imported|driver).*install",
    ),
    "TensorRT on the CPU": (asked("--backend", "tensorrt", "--device", "cpu"), 2, "use --device cuda:N"),
    "a device there never was": (asked("--device", "tpu"), 2, "no device 'tpu'; use cpu or cuda:N"),
    "a device by half": (asked("--device", "cuda"), 2, "no device 'cuda'; use cpu or cuda:N"),
    # outputs
    "save onto a file": (asked("--save", "{things}/taken.json"), 2, "taken.json is there already"),
    "save onto a folder": (asked("--save", "{things}/folder.png"), 2, "folder.png is there already"),
    "save into no folder": (asked("--save", "{things}/none/c.json"), 2, "none is not a folder"),
    "plot onto a file": (asked("--plot", "{things}/half.png"), 2, "half.png is there already"),
    "plot into no folder": (asked("--plot", "{things}/none/plot.png"), 2, "none is not a folder"),
    "plot as a GIF": (asked("--plot", "{things}/plot.gif"), 2, r"must end in one of \.png, \.svg, \.pdf"),
    "plot as nothing": (asked("--plot", "{things}/plot"), 2, "must end in one of"),
    "save several": (asked("{things}/frame.png", "--save", "{things}/c.json"), 2, "take one image"),
    "plot several": (asked("{things}/frame.png", "--plot", "{things}/c.png"), 2, "take one image"),
    "frames into a file": (["demo", "--frames", "{things}/taken.json"], 2, "taken.json is a file"),
    # certificates
    "verify: not there": (["verify", "{things}/none.json"], 1, "cannot read .*none.json.*No such file"),
    "verify: a folder": (["verify", "{things}"], 1, "cannot read .*not a regular file"),
    "verify: not JSON": (["verify", "{things}/taken.json"], 1, "taken.json is not a certificate"),
    "verify: an image": (["verify", "{things}/frame.png"], 1, "frame.png is not a certificate"),
    "verify: an image but no replay": (
        ["verify", "c.json", "--image", "x.png"],
        2,
        "--image goes with --replay",
    ),
    "verify: without end": (["verify", "/dev/zero"], 1, "/dev/zero.* not a regular file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(edgers, things, name):
    args, code, said = WRONG[name]
    before = sorted(things.rglob("*"))
    refused(edgers(*(arg.format(things=things) for arg in args)), code, said)
    assert sorted(things.rglob("*")) == before
    assert (things / "taken.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("folder", "code", "said"),
    [
        pytest.param("none", 2, "there is no folder .*none", id="a checkpoint that is not there"),
        pytest.param("empty bundle", 1, "empty bundle has no config", id="a folder that is no checkpoint"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_said_in_one_line(  # noqa: PLR0917  fixtures and a row of the table
    edgers, things, tmp_path, folder, code, said
):
    refused(edgers("export", things / folder, "--out", tmp_path / "out"), code, said)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_an_error_and_never_the_cpu_instead(edgers, things):
    from edgers_engines.onnxruntime import available_providers

    if "CUDAExecutionProvider" in available_providers():
        device, said = "cuda:999", "cuda:999|CUDA"
    else:
        device, said = "cuda:0", "cuda:0 needs CUDAExecutionProvider.*--device cpu"
    refused(edgers("certify", things / "frame.png", *QUESTION, *FEW, "--device", device), 1, said)


def test_an_error_of_our_own_is_one_line_and_asks_to_be_reported(monkeypatch, capsys):
    monkeypatch.setattr("edgers.rule.clopper_pearson_lower", lambda *_: 1 / 0)
    monkeypatch.delenv("EDGERS_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "argv", ["edgers", *counted()])
    with pytest.raises(SystemExit, match=r"^1$"):
        cli.main()
    said = "edgers: internal error, please report it (ZeroDivisionError: division by zero)\n"
    assert capsys.readouterr() == ("", said)


def test_an_error_of_our_own_shows_where_it_comes_from_when_asked(monkeypatch):
    monkeypatch.setattr("edgers.rule.clopper_pearson_lower", lambda *_: 1 / 0)
    monkeypatch.setenv("EDGERS_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["edgers", *counted()])
    with pytest.raises(ZeroDivisionError):
        cli.main()


# --- radius -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("votes", "code"), [(100, 0), (66, 0), (65, 10), (0, 10)])
def test_radius_exits_with_the_verdict(edgers, votes, code):
    ended = edgers("radius", "--votes", votes, "--of", 100, "--sigma", 0.5, "--json")
    result = json.loads(ended.out)
    assert (ended.code, ended.err) == (code, "")
    assert result["certified"] == (code == 0) == (result["radius"] is not None)
    assert (result["votes"], result["n"], result["alpha"], result["sigma"]) == (votes, 100, 0.001, 0.5)


def test_radius_tells_a_person_too(edgers):
    certified = edgers("radius", "--votes", 100, "--of", 100, "--sigma", 0.5).out
    bound, *assumed = certified.splitlines()
    assert bound == "R = 0.7502  (lower bound 0.9332, wrong with probability at most 0.001)"
    assert assumed[0].startswith("The certified label is the oracle's")


@pytest.mark.parametrize(
    ("more", "enough"),
    [
        ((), "0.5"),
        (("--floor", 0.6), "0.6"),
        (("--assume", "pairwise", "--others", "40,10"), "the upper bound of another class"),
    ],
)
def test_radius_says_what_would_have_been_enough(edgers, more, enough):
    out = edgers("radius", "--votes", 50, "--of", 100, "--sigma", 0.5, *more).out
    assert re.fullmatch(rf"abstain: the lower bound 0\.3\d+ is not above {enough}\n", out)


def test_radius_with_a_floor_says_what_the_class_keeps(edgers):
    args = ("radius", "--votes", 100, "--of", 100, "--sigma", 0.5)
    assert "keeps" not in edgers(*args).out
    assert edgers(*args, "--floor", 0.8).out.endswith("Within R the class keeps a probability above 0.8.\n")


def test_radius_with_a_floor_is_smaller(edgers):
    args = ("radius", "--votes", 100, "--of", 100, "--sigma", 0.5, "--json")
    assert json.loads(edgers(*args, "--floor", 0.8).out)["radius"] < json.loads(edgers(*args).out)["radius"]


# --- certify ------------------------------------------------------------------------------------------------


def test_certify_prints_the_certificate_that_it_saves(edgers, first_frame, tmp_path):
    ended = edgers("certify", first_frame, *QUESTION, *FEW, "--json", "--save", tmp_path / "c.json")
    assert ended.code in {0, 10}
    assert ended.out.count("\n") == 1
    assert json.loads(ended.out) == json.loads((tmp_path / "c.json").read_text())
    assert (tmp_path / "c.json").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_certify_tells_a_person_what_it_means(edgers, first_frame, hard_frame):
    arguments = (*QUESTION, "--sigma", demo.SIGMA, "--samples", demo.SAMPLES, "--seed", "0" * 32)
    certified = edgers("certify", first_frame, *arguments)
    assert certified.code == 0
    text = " ".join(certified.out.split())
    for words in (
        f"certified {demo.ACTIONS[0]}",
        "R = 0.",
        "L2 distance",
        "/255 each",
        "The seed was chosen",
    ):
        assert words in text.replace("│ │ ", ""), words
    uncertain = edgers("certify", hard_frame, *arguments)
    assert uncertain.code == 10
    assert "abstained" in uncertain.out


def test_several_images_are_one_line_of_json_each_in_their_order(edgers, first_frame, hard_frame):
    ended = edgers("certify", first_frame, hard_frame, first_frame, *QUESTION, *FEW, "--json")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["image"] for line in lines] == [str(first_frame), str(hard_frame), str(first_frame)]
    assert ended.code == (0 if all(line["certified"] for line in lines) else 10)


def test_one_broken_image_costs_none_of_the_others(edgers, first_frame, things):
    ended = edgers("certify", first_frame, things / "half.png", first_frame, *QUESTION, *FEW, "--json")
    assert ended.code == 1
    one, broken, other = map(json.loads, ended.out.splitlines())
    assert [one["image"], other["image"]] == [str(first_frame)] * 2
    assert {one["label"], other["label"]} <= {*demo.ACTIONS, *RESERVED}
    assert set(broken) == {"image", "error"}
    assert broken["image"] == str(things / "half.png")
    assert ended.err == f"edgers: {broken['error']}\n"
    assert "half.png cannot be decoded" in ended.err
    assert ended.err.count("\n") == 1


def test_a_hostile_name_among_several_images_is_one_harmless_line(edgers, first_frame, tmp_path):
    hostile = tmp_path / "a\n\x1b[2Jb.png"
    hostile.write_text("not an image")
    ended = edgers("certify", hostile, first_frame, *QUESTION, *FEW, "--json")
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert "\x1b" not in ended.err + ended.out
    broken, one = map(json.loads, ended.out.splitlines())
    assert "error" in broken
    assert one["image"] == str(first_frame)


def test_one_abstention_among_certified_images_is_told_by_the_exit_code(edgers, first_frame, foreign_oracle):
    arguments = ("--prompt", demo.PROMPT, "--oracle", foreign_oracle, *FEW, "--json")
    ended = edgers("certify", first_frame, first_frame, *arguments)
    assert ended.code == 10
    assert [json.loads(line)["label"] for line in ended.out.splitlines()] == ["OTHER", "OTHER"]


def test_a_wrong_question_is_asked_of_no_second_image(edgers, first_frame):
    refused(
        edgers("certify", first_frame, first_frame, "--prompt", "", "--choices", "left,right", *FEW),
        2,
        "the prompt is empty",
    )


def test_an_image_whose_name_is_not_unicode_is_certified_or_refused_in_one_line(
    edgers, first_frame, tmp_path
):
    image = tmp_path / os.fsdecode(b"\xff.png")
    shutil.copy(first_frame, image)
    ended = edgers("certify", image, *QUESTION, *FEW, "--json")
    if ended.code in {0, 10}:
        assert json.loads(ended.out)["label"]
    else:
        refused(ended, ended.code, "edgers: ")


# --- files are whole or not there ---------------------------------------------------------------------------


def test_save_does_not_replace_what_came_to_be_there_in_the_meantime(
    edgers, first_frame, tmp_path, monkeypatch
):
    """The path is free when the command starts; another program takes it while the model runs."""
    from edgers.certify import Certifier

    path, certify = tmp_path / "c.json", Certifier.certify

    def slowly(*args, **more):
        certificate = certify(*args, **more)
        path.write_text("mine")
        return certificate

    monkeypatch.setattr(Certifier, "certify", slowly)
    ended = edgers("certify", first_frame, *QUESTION, *FEW, "--save", path)
    assert path.read_text() == "mine"
    assert ended.code in {1, 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.json"]


def test_save_and_plot_under_one_name_are_refused_before_any_work(edgers, first_frame, tmp_path):
    path = tmp_path / "both.png"
    refused(edgers("certify", first_frame, *QUESTION, *FEW, "--save", path, "--plot", path), 2, "both.png")
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_checked_before_the_bundle_is_even_opened(edgers, things):
    arguments = ("--bundle", things / "none", "--save", things / "taken.json")
    refused(
        edgers("certify", things / "frame.png", *QUESTION, *FEW, *arguments), 2, "taken.json is there already"
    )


def test_a_dangling_link_is_something_that_is_there(edgers, first_frame, tmp_path):
    (tmp_path / "c.json").symlink_to(tmp_path / "elsewhere.json")
    arguments = ("--bundle", tmp_path / "none", "--save", tmp_path / "c.json")
    refused(edgers("certify", first_frame, *QUESTION, *FEW, *arguments), 2, "c.json is there already")
    assert (tmp_path / "c.json").is_symlink()


def test_a_file_that_cannot_be_finished_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "hardlink_to", full)
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(EdgersError, match=r"cannot write .*c.json: No space left"):
        output.write_new(tmp_path / "c.json", b"content")
    assert list(tmp_path.iterdir()) == []


def no_links(*_):
    raise PermissionError(1, "Operation not permitted")  # what a FAT file system says


def test_a_file_system_without_links_is_written_to_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "hardlink_to", no_links)
    output.write_new(tmp_path / "c.json", b"content")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"c.json": b"content"}


def test_a_file_system_without_links_loses_nothing_either(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "hardlink_to", no_links)
    (tmp_path / "c.json").write_bytes(b"mine")
    with pytest.raises(InputError, match="is there already"):
        output.write_new(tmp_path / "c.json", b"content")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"c.json": b"mine"}


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        pytest.param("plot.png", b"\x89PNG\r\n", id="PNG"),
        pytest.param("plot.SVG", b"<?xml", id="SVG, in capitals"),
        pytest.param("plot.pdf", b"%PDF", id="PDF"),
    ],
)
def test_a_plot_is_written_in_the_format_its_name_says(edgers, first_frame, tmp_path, name, starts):
    ended = edgers("certify", first_frame, *QUESTION, *FEW, "--json", "--plot", tmp_path / name)
    assert ended.code in {0, 10}
    assert (tmp_path / name).read_bytes().startswith(starts)


def test_no_picture_is_made_of_an_image_that_was_changed_meanwhile(
    edgers, first_frame, tmp_path, monkeypatch
):
    frame, whole = tmp_path / "frame.png", Certifier.certify
    frame.write_bytes(first_frame.read_bytes())

    def certify(self, image, *args, **more):
        made = whole(self, image, *args, **more)
        frame.write_bytes(demo.frames()[1].read_bytes())
        return made

    monkeypatch.setattr(Certifier, "certify", certify)
    ended = edgers("certify", frame, *QUESTION, *FEW, "--plot", tmp_path / "plot.png")
    assert (ended.code, "forward" in ended.out) == (2, True)
    assert "was changed while it was certified" in ended.err
    assert not (tmp_path / "plot.png").exists()


def test_an_abstention_is_plotted_too(abstained, reserved, first_frame):
    from edgers.report.plot import plot_certificate
    from edgers_engines.image import CameraImage

    for certificate in (abstained, reserved):
        picture = plot_certificate(certificate, CameraImage.of(first_frame), "png")
        with Image.open(io.BytesIO(picture)) as drawn:
            assert drawn.size == (1800, 630)


def test_without_matplotlib_a_plot_is_refused_before_any_work(edgers, things, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = edgers("certify", things / "frame.png", *QUESTION, *FEW, "--plot", things / "plot.png")
    refused(ended, 2, r"plots need matplotlib: install edgers\[plot\]")


# --- verify -------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(request, tmp_path):
    """Save a certificate, with some fields overwritten."""

    def save(name, **fields):
        certificate = request.getfixturevalue(name)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**json.loads(certificate.to_json()), **fields}))
        return path

    return save


@pytest.mark.parametrize("name", ["certified", "abstained", "reserved"])
def test_verify_accepts_what_is_consistent_whatever_the_verdict(edgers, saved, name):
    ended = edgers("verify", saved(name), "--json")
    result = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert (result["consistent"], result["replayed"]) == (True, False)
    assert result["certified"] == (name == "certified")
    assert result["assumption"]["mode"] == "composite"
    assert result["prompt"] == demo.PROMPT
    assert result["classes"][: len(demo.ACTIONS)] == list(demo.ACTIONS) or name == "reserved"


def test_verify_tells_a_person_that_it_is_consistent(edgers, saved):
    ended = edgers("verify", saved("certified"))
    assert ended.code == 0
    assert "consistent: bound, radius and verdict follow from the counts" in ended.out
    assert "--replay" in ended.out
    assert f"{demo.PROMPT!r} → {', '.join(demo.ACTIONS)}" in " ".join(ended.out.split())


def test_verify_can_replay(edgers, saved):
    ended = edgers("verify", saved("certified"), "--replay")
    assert ended.code == 0
    assert "the replay gave the same votes" in " ".join(ended.out.split())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"radius": 0.9}, "radius is 0.9, but 0", id="radius"),
        pytest.param({"certified": False}, "certified is false, but true", id="certified"),
        pytest.param({"alpha": 0.01}, "alpha is", id="alpha"),
        pytest.param({"n": 59}, "votes.certification's sum is 60, but 59", id="n"),
        pytest.param({"votes": {"left": 60}}, r"not a certificate.*\$\.votes", id="votes of another shape"),
        pytest.param({"sigma": 1e12}, "sigma is 1000000000000", id="sigma"),
        pytest.param({"extra": 1}, "unknown field `extra`", id="an unknown field"),
    ],
)
def test_verify_refuses_a_forgery_in_one_line(edgers, saved, fields, said):
    refused(edgers("verify", saved("certified", **fields)), 1, said)


def test_verify_refuses_a_replay_with_another_image(edgers, saved, hard_frame):
    path = saved("certified")
    refused(edgers("verify", path, "--replay", "--image", hard_frame), 1, "not have the pixels")


def test_verify_refuses_a_replay_with_a_bundle_that_is_not_there(edgers, saved, tmp_path):
    path = saved("certified")
    refused(edgers("verify", path, "--replay", "--bundle", tmp_path / "none"), 1, "cannot read the bundle")


def renamed(certificate, name):
    """The fields of a certificate whose winning class has another name."""
    tree = json.loads(certificate.to_json())
    for counts in tree["votes"].values():
        counts[name] = counts.pop(tree["label"])
    tree["oracle"]["classes"] = [name if c == tree["label"] else c for c in tree["oracle"]["classes"]]
    tree["label"] = name
    return tree


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["for a person", "as JSON"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("\ud800", id="a lone surrogate"),
        pytest.param("\x1b[2J\x1b[32mcertified", id="terminal escapes"),
        pytest.param("a\nb", id="a line break"),
        pytest.param("[bold]x[/nonsense]", id="console markup"),
        pytest.param("x" * 5000, id="5000 letters"),
    ],
)
def test_a_hostile_class_name_is_refused_or_shown_harmlessly(edgers, saved, certified, name, flags):
    ended = edgers("verify", saved("certified", **renamed(certified, name)), *flags)
    assert ended.code in {0, 1}
    assert "\x1b" not in ended.out + ended.err


@pytest.mark.parametrize(
    "timings",
    [
        pytest.param({}, id="none"),
        pytest.param({"total": 0.0}, id="nothing but a total of zero"),
        pytest.param({"total": -1e300, "model": 1e300}, id="absurd ones"),
    ],
)
def test_a_certificate_with_other_timings_is_shown_all_the_same_or_refused(edgers, saved, timings):
    ended = edgers("verify", saved("certified", timings_ms=timings))
    assert ended.code in {0, 1}


@pytest.mark.parametrize("size", [[1 << 40, 96], [96, 1 << 40], [20_000_000, 96]], ids=str)
def test_an_absurd_camera_is_named_and_does_not_take_the_machines_memory(saved, certified, size):
    preparation = {**json.loads(certified.to_json())["preparation"], "camera_size": size}

    def little():
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    ended = process("verify", saved("certified", preparation=preparation), preexec_fn=little)
    refused(ended, 1, "camera")


# --- demo, inspect, doctor ----------------------------------------------------------------------------------


@pytest.fixture
def short_demo(monkeypatch):
    """The demo with few samples, so that it is quick."""
    monkeypatch.setattr(demo, "SAMPLES", 4)


def test_the_demo_certifies_every_frame_and_succeeds_whatever_the_verdicts(edgers, short_demo):
    ended = edgers("demo", "--json")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert (ended.code, ended.err) == (0, "")
    assert [line["image"] for line in lines] == [str(path) for path in demo.frames()]
    assert all(line["label"] in {*demo.ACTIONS, *RESERVED} for line in lines)
    assert len(lines) >= 8


@pytest.fixture
def two_frames(monkeypatch, short_demo):
    """The demo with its first two frames."""
    first_two = demo.frames()[:2]
    monkeypatch.setattr(demo, "frames", lambda: first_two)
    return first_two


def test_the_demo_shows_a_person_one_line_a_frame(edgers, two_frames):
    ended = edgers("demo")
    assert ended.code == 0
    for words in (demo.PROMPT, *(frame.stem for frame in two_frames), "verdict", "drawn scenes only"):
        assert words in ended.out


def test_the_demo_writes_its_frames_and_does_so_again_over_the_same(edgers, two_frames, tmp_path):
    folder = tmp_path / "new" / "frames"
    for _ in range(2):
        ended = edgers("demo", "--frames", folder, "--json")
        assert ended.code == 0
        assert [json.loads(line)["image"] for line in ended.out.splitlines()] == [
            str(folder / frame.name) for frame in two_frames
        ]
        written = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert written == {frame.name: frame.read_bytes() for frame in two_frames}


def test_the_demo_does_not_replace_an_image_of_the_same_name(edgers, two_frames, tmp_path):
    (tmp_path / two_frames[1].name).write_bytes(b"mine")
    refused(edgers("demo", "--frames", tmp_path), 2, "is there already and is another image")
    assert (tmp_path / two_frames[1].name).read_bytes() == b"mine"


def test_inspect_shows_the_manifest_and_the_digest(edgers, demo_bundle):
    ended = edgers("inspect", demo.BUNDLE, "--json")
    result = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert result["digest"] == demo_bundle.digest
    assert result["manifest"] == json.loads((demo.BUNDLE / "manifest.json").read_text())


def test_inspect_shows_the_demo_bundle_unless_one_is_given(edgers, demo_bundle):
    assert json.loads(edgers("inspect", "--json").out)["digest"] == demo_bundle.digest


def test_inspect_tells_a_person_what_the_bundle_is(edgers, demo_bundle):
    ended = edgers("inspect", demo.BUNDLE)
    assert ended.code == 0
    for words in (demo_bundle.manifest.name, demo_bundle.digest[:16], "oracle action", "parity"):
        assert words in ended.out


def test_inspect_finds_one_flipped_bit(edgers, bundle_copy):
    graph = bundle_copy / "vision.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    refused(edgers("inspect", bundle_copy), 1, "vision.onnx has SHA-256")


def test_doctor_finds_nothing_wrong_here(edgers):
    ended = edgers("doctor", "--json")
    report = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert (report["ok"], report["problems"], report["edgers"]) == (True, [], __version__)
    assert "CPUExecutionProvider" in report["providers"]
    assert report["cores"] >= 1
    assert {"numpy", "scipy", "tokenizers"} <= set(report["packages"])


def test_doctor_tells_a_person_too(edgers):
    ended = edgers("doctor")
    assert ended.code == 0
    assert re.search(r"problems\s+none", ended.out)


def test_doctor_names_a_damaged_bundle_and_fails(edgers, bundle_copy, monkeypatch):
    (bundle_copy / "tokenizer.json").unlink()
    monkeypatch.setattr(demo, "BUNDLE", bundle_copy)
    ended = edgers("doctor", "--json")
    report = json.loads(ended.out)
    assert (ended.code, report["ok"]) == (1, False)
    assert "lacks tokenizer.json" in report["problems"][0]


def test_doctor_names_two_runtimes_that_overwrite_each_other(edgers, monkeypatch):
    monkeypatch.setattr("edgers.cli.doctor._version", lambda _name: "1.0")
    ended = edgers("doctor", "--json")
    assert ended.code == 1
    assert "are both installed and overwrite each other" in json.loads(ended.out)["problems"][0]


# --- as a process -------------------------------------------------------------------------------------------


def test_a_process_certifies_with_json_alone_on_stdout(first_frame, tmp_path):
    arguments = (*QUESTION, "--sigma", demo.SIGMA, "--samples", demo.SAMPLES, "--seed", "0" * 32)
    ended = process("certify", first_frame, *arguments, "--json", "--save", tmp_path / "c.json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == json.loads((tmp_path / "c.json").read_text())
    assert Certificate.load(tmp_path / "c.json").certified


@pytest.mark.parametrize(
    ("args", "code"),
    [
        pytest.param(
            ("radius", "--votes", "100", "--of", "100", "--sigma", "1", "--json"), 0, id="certified"
        ),
        pytest.param(
            ("radius", "--votes", "50", "--of", "100", "--sigma", "1", "--json"), 10, id="abstained"
        ),
        pytest.param(
            ("radius", "--votes", "101", "--of", "100", "--sigma", "1", "--json"), 2, id="wrong usage"
        ),
        pytest.param(("verify", "no such file.json", "--json"), 1, id="any other error"),
    ],
)
def test_a_process_ends_with_the_code_of_its_verdict(tmp_path, args, code):
    ended = process(*args, cwd=tmp_path)
    if code in {0, 10}:
        assert (ended.code, ended.err) == (code, "")
        assert json.loads(ended.out)["certified"] == (code == 0)
    else:
        refused(ended, code, "")


def test_the_module_can_be_run_like_the_command():
    arguments = ("radius", "--votes", "100", "--of", "100", "--sigma", "0.5", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "edgers", *arguments], check=True, capture_output=True, timeout=GUARD
    )
    assert json.loads(done.stdout)["certified"]


def read_until(descriptor, pattern, seen=b""):
    """What a terminal shows, up to a pattern or, with no pattern, to the end."""
    while pattern is None or not re.search(pattern, seen):
        assert select.select([descriptor], [], [], GUARD)[0], f"nothing more after {seen[-300:]!r}"
        try:
            more = os.read(descriptor, 65536)
        except OSError:  # the other side of the terminal is closed
            more = b""
        if not more:
            assert pattern is None, f"ended without {pattern!r}: {seen[-300:]!r}"
            break
        seen += more
    return seen


def test_ctrl_c_in_the_middle_of_a_long_run_leaves_no_file_and_says_so_in_one_line(first_frame, tmp_path):
    terminal, side = pty.openpty()
    arguments = (*QUESTION, "--sigma", "0.25", "--samples", "1000000", "--batch-size", "8")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [EDGERS, "certify", first_frame, *arguments, "--save", tmp_path / "c.json", "--json"],
        stdout=subprocess.PIPE,
        stderr=side,
        env=environment,
        # A job in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads here
    ) as running:
        os.close(side)
        watchdog = threading.Timer(GUARD, running.kill)
        watchdog.start()
        try:
            read_until(terminal, rb"[1-9]\d*/1000016")  # samples are being answered
            running.send_signal(signal.SIGINT)
            shown = read_until(terminal, None)
            out = running.communicate(timeout=GUARD)[0]
        finally:
            watchdog.cancel()
            running.kill()
            os.close(terminal)
    assert running.returncode == 130
    assert out == b""
    assert list(tmp_path.iterdir()) == []
    said = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert re.search(r"(^|[\r\n])edgers: interrupted; what was not finished is not there[^\r\n]*\s*$", said)
    assert "Traceback" not in said
