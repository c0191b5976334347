"""What the tables of hostile input share: a command in this process, and the law that every refusal keeps."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

from edgers import cli, demo

EDGERS = Path(sysconfig.get_path("scripts")) / "edgers"
GUARD = 120  # seconds after which a process that should have ended is taken for hung
QUESTION = ("--prompt", demo.PROMPT, "--choices", ",".join(demo.ACTIONS))
FEW = ("--sigma", "0.25", "--samples", "12", "--selection", "2")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def command(monkeypatch, capsys, *args):
    """Run a command in this process."""
    monkeypatch.setattr(sys, "argv", ["edgers", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return Ended(stop.value.code, *capsys.readouterr())


def process(*args, **more):
    """Run the installed command as another program would."""
    arguments = [EDGERS, *map(str, args)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=GUARD, **more)
    return Ended(done.returncode, done.stdout, done.stderr)


def refused(ended, code, said):
    """The law: one printable line on stderr that says what is wrong, no output, the right exit code."""
    assert (ended.code, ended.out) == (code, ""), ended
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert len(lines) == 1, ended
    assert lines[0].startswith("edgers: ")
    assert lines[0].isprintable()
    assert "internal error" not in lines[0]
    assert len(lines[0]) < 2100, "a line that a person reads"
    assert re.search(said, lines[0]), ended
