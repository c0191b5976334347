"""The built wheel in an empty environment: what users install, without torch and without this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from edgers import demo

ROOT = Path(__file__).parents[1]
WHEELHOUSE = ROOT / "build" / "wheelhouse"
PACKAGES = ((ROOT, "edgers"), (ROOT / "export", "edgers_export"), (ROOT / "engines", "edgers_engines"))
CERTIFY = ("certify", "x.png", "--prompt", "what", "--choices", "a,b", "--sigma", 1)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without network from the installed build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--quiet", "--wheel-dir", folder, ROOT], check=True)
    return next(folder.glob("edgers-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An empty environment with the wheel and its device-side dependencies; returns its bin folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-index"]
    subprocess.run([*install, "--find-links", WHEELHOUSE, f"edgers[cpu] @ {wheel.as_uri()}"], check=True)
    return folder / "bin"


def run(program, *arguments, cwd):
    """Run a program of the empty environment, away from this checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [program, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_wheel_holds_three_packages_and_their_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    packaged = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert {name.split("/")[0] for name in packaged} == {"edgers", "edgers_engines", "edgers_export"}
    sources = {
        path.relative_to(base).as_posix()
        for base, package in PACKAGES
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packaged == sources


def test_torch_is_not_there_and_edgers_still_imports(environment, tmp_path):
    assert run(environment / "python", "-c", "import torch", cwd=tmp_path).returncode != 0
    assert run(environment / "python", "-c", "import edgers; edgers.Certifier", cwd=tmp_path).returncode == 0


def test_every_command_works_from_the_wheel_alone(environment, tmp_path):
    edgers = environment / "edgers"
    assert run(edgers, "demo", "--frames", "frames", cwd=tmp_path).returncode == 0
    frame = sorted((tmp_path / "frames").glob("*.png"))[0]
    options = ["--prompt", demo.PROMPT, "--choices", ",".join(demo.ACTIONS), "--sigma", 0.25, "--samples", 60]
    certified = run(edgers, "certify", frame, *options, "--json", "--save", "c.json", cwd=tmp_path)
    assert certified.returncode == 0, certified.stderr
    assert json.loads(certified.stdout)["certified"] is True
    for arguments in (
        ("verify", "c.json", "--replay"),
        ("radius", "--votes", 100, "--of", 100, "--sigma", 0.5),
        ("doctor", "--json"),
        ("plan", "--memory"),
        ("engines", "list"),
        ("--help",),
    ):
        done = run(edgers, *arguments, cwd=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)


def test_a_command_that_needs_more_says_what_to_install(environment, tmp_path):
    (tmp_path / "model").mkdir()
    for arguments, extra in (
        (("export", "model", "--out", "bundle"), "edgers[export]"),
        ((*CERTIFY, "--plot", "p.png"), "edgers[plot]"),
    ):
        done = run(environment / "edgers", *arguments, cwd=tmp_path)
        assert done.returncode in (1, 2)
        assert extra in done.stderr
        assert len(done.stderr.splitlines()) == 1
