"""`edgers pack` and `edgers unpack`: what they say, how they end, and that nothing half-written stays."""

import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import sysconfig
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edgers import cli, demo
from edgers.cli import transfer
from edgers_engines.archive import pack
from edgers_engines.bundle import Bundle
from tests.engines.hostile_archives import CASES, MANIFEST

EDGERS = Path(sysconfig.get_path("scripts")) / "edgers"
GUARD = 120  # seconds after which a process that should have ended is taken for hung


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run a command in this process: its exit code, stdout and stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["edgers", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


@pytest.fixture
def packed(tmp_path, bundle_copy):
    """The demo bundle's archive."""
    return pack(bundle_copy, tmp_path / "archive").path


@pytest.fixture(params=["pack", "unpack"])
def call(request, tmp_path, bundle_copy, packed):
    """Either command, with a target that is not there yet."""
    return request.param, {"pack": bundle_copy, "unpack": packed}[request.param], tmp_path / "target"


def refused(ended, code):
    """One line on stderr, nothing on stdout, the right exit code; returns the line."""
    found, out, err = ended[0], ended[1], ended[2].lstrip("\n")  # click ends the line that a Ctrl-C is on
    assert (found, out) == (code, ""), ended
    assert err.startswith("edgers: "), err
    assert err.endswith("\n"), err
    assert err[:-1].isprintable(), err
    assert "internal error" not in err
    return err[:-1]


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_bundle_goes_there_and_back(edgers, tmp_path, bundle_copy):
    digest = Bundle.load(bundle_copy).digest
    code, out, err = edgers("pack", bundle_copy, tmp_path / "archive")
    assert (code, err) == (0, "")
    size = (tmp_path / "archive").stat().st_size
    assert out == f"{tmp_path / 'archive'}: {size / 1e6:.2f} MB, digest {digest}\n"
    code, out, err = edgers("unpack", tmp_path / "archive", tmp_path / "back")
    assert (code, err) == (0, "")
    assert out == f"{tmp_path / 'back'}: {size / 1e6:.2f} MB, digest {digest}\n"
    assert Bundle.load(tmp_path / "back").digest == digest
    assert names(tmp_path) == {"bundle", "archive", "back"}


def test_json_is_the_path_the_digest_and_the_bytes_of_the_archive(edgers, call, packed, bundle_copy):
    code, out, err = edgers(*call, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "path": str(call[-1]),
        "digest": Bundle.load(bundle_copy).digest,
        "bytes": packed.stat().st_size,
    }


def test_the_installed_command_packs_the_demo_bundle(tmp_path):
    done = subprocess.run([EDGERS, "pack", demo.BUNDLE, tmp_path / "archive"], check=False, timeout=GUARD)
    assert done.returncode == 0
    assert names(tmp_path) == {"archive"}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_archive_ends_in_one_line_and_leaves_nothing(edgers, tmp_path, demo_files, name):
    (tmp_path / "archive").write_bytes(CASES[name][0](demo_files))
    line = refused(edgers("unpack", tmp_path / "archive", tmp_path / "back", "--json"), 1)
    assert str(tmp_path / "archive") in line
    assert names(tmp_path) == {"archive"}


@pytest.fixture(scope="module")
def demo_files():
    """The demo bundle's files, in the order of its manifest."""
    text = (demo.BUNDLE / MANIFEST).read_bytes()
    return {
        name: (demo.BUNDLE / name).read_bytes()
        for name in (MANIFEST, *(file["path"] for file in json.loads(text)["files"]))
    }


WRONG = {
    "pack: nothing": (["pack"], 2, "Missing argument 'DIR'"),
    "pack: no file": (["pack", "{}/bundle"], 2, "Missing argument 'FILE'"),
    "unpack: nothing": (["unpack"], 2, "Missing argument 'FILE'"),
    "unpack: no folder": (["unpack", "{}/archive"], 2, "Missing argument 'DIR'"),
    "pack: onto a file": (["pack", "{}/bundle", "{}/archive"], 2, "archive is there already"),
    "pack: onto a folder": (["pack", "{}/bundle", "{}/bundle"], 2, "bundle is there already"),
    "pack: onto a pipe": (["pack", "{}/bundle", "{}/pipe"], 2, "pipe is there already"),
    "pack: onto a device": (["pack", "{}/bundle", "/dev/null"], 2, "/dev/null is there already"),
    "pack: into no folder": (["pack", "{}/bundle", "{}/none/a"], 2, "none is not a folder: make it first"),
    "pack: into the bundle": (["pack", "{}/bundle", "{}/bundle/a"], 2, "would lie inside the bundle"),
    "pack: not there": (["pack", "{}/none", "{}/a"], 1, "cannot read the bundle"),
    "pack: a file": (["pack", "{}/archive", "{}/a"], 1, "is not a directory"),
    "pack: no bundle": (["pack", "{}", "{}/a"], 1, "has no manifest.json"),
    "unpack: onto a folder": (["unpack", "{}/archive", "{}/bundle"], 2, "bundle is there already"),
    "unpack: onto a file": (["unpack", "{}/archive", "{}/archive"], 2, "archive is there already"),
    "unpack: into no folder": (["unpack", "{}/archive", "{}/none/b"], 2, "none is not a folder"),
    "unpack: not there": (["unpack", "{}/none", "{}/b"], 1, "cannot read .*none: No such file"),
    "unpack: a folder": (["unpack", "{}/bundle", "{}/b"], 1, "[Dd]irectory|not a regular file"),
    "unpack: a pipe": (["unpack", "{}/pipe", "{}/b"], 1, "not a regular file"),
    "unpack: without end": (["unpack", "/dev/zero", "{}/b"], 1, "not a regular file"),
    "unpack: a name of 300 letters": (["unpack", "{}/archive", "{}/" + "b" * 300], 2, "too long"),
    "unpack: a terminal escape": (["unpack", "{}/\x1b[2J", "{}/b"], 1, r"\\x1b\[2J"),
}


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_end_in_one_line_and_change_nothing(edgers, tmp_path, case):
    os.mkfifo(tmp_path / "pipe")
    arguments, code, says = WRONG[case]
    before = names(tmp_path), names(tmp_path / "bundle")
    line = refused(edgers(*(text.replace("{}", str(tmp_path)) for text in arguments)), code)
    assert re.search(says, line), line
    assert (names(tmp_path), names(tmp_path / "bundle")) == before


def test_ctrl_c_in_the_middle_leaves_nothing(edgers, tmp_path, call, monkeypatch):
    """The signal comes when more than half is written, and a scratch file is there to be left behind."""

    @contextmanager
    def interrupting(_description):
        def progress(done, total):
            if 2 * done > total:
                assert any(name.startswith(".edgers-") for name in names(tmp_path))
                signal.raise_signal(signal.SIGINT)

        yield progress

    monkeypatch.setattr(transfer, "bytes_bar", interrupting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        line = refused(edgers(*call), 130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted" in line
    assert names(tmp_path) == {"bundle", "archive"}


def test_a_file_that_may_not_grow_further_leaves_nothing(tmp_path, call):
    """The operating system itself refuses a write in the middle."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does; the write fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [EDGERS, *call], check=False, capture_output=True, text=True, timeout=GUARD, preexec_fn=limit
    )
    line = refused((done.returncode, done.stdout, done.stderr), 1)
    assert line == f"edgers: cannot write {tmp_path / 'target'}: File too large"
    assert names(tmp_path) == {"bundle", "archive"}


def test_people_see_a_bar_of_bytes_and_programs_do_not(call):
    """On a terminal; that stderr is empty where there is none, other tests say."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([EDGERS, *call], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux's way to say that the other end is closed
            while piece := os.read(ours, 1 << 16):
                shown += piece
        os.close(ours)
        assert b"digest" in process.communicate(timeout=GUARD)[0]
    assert process.returncode == 0
    assert re.search(rb"(\d+\.\d)/\1 MB", shown), shown
    assert (b"unpack archive" if call[0] == "unpack" else b"pack target") in shown
