"""What is imported when: the device lives without the workstation's libraries, and the rooms keep apart."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from edgers import demo

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "edgers": ROOT / "edgers",
    "edgers_engines": ROOT / "engines" / "edgers_engines",
    "edgers_export": ROOT / "export" / "edgers_export",
}
WORKSTATION = ("torch", "transformers", "onnx", "onnxscript", "optimum", "matplotlib", "edgers_export")
HEAVY = ("numpy", "scipy", "onnxruntime", "PIL", "tokenizers", "rich", "matplotlib", "torch")


def python(program, *args):
    """The JSON that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *args], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- what is not there is not missed ------------------------------------------------------------------------

RUN = """
import contextlib, io, json, sys
blocked, commands = map(json.loads, sys.argv[1:])

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from edgers.cli import main
ended = []
for command in commands:
    sys.argv = ["edgers", *command]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            ended.append([stop.code, out.getvalue(), err.getvalue()])
print(json.dumps(ended))
"""


def run_without(blocked, *commands):
    """[exit code, stdout, stderr] of each command, in one interpreter that cannot import some modules."""
    return python(RUN, json.dumps(blocked), json.dumps(commands))


def test_every_command_of_the_device_works_without_the_workstations_libraries(first_frame, tmp_path):
    question = ["--prompt", demo.PROMPT, "--choices", ",".join(demo.ACTIONS), "--sigma", "0.25"]
    saved = str(tmp_path / "c.json")
    commands = (
        ["certify", str(first_frame), *question, "--samples", "20", "--save", saved],
        ["verify", saved],
        ["verify", saved, "--replay"],
        ["radius", "--votes", "100", "--of", "100", "--sigma", "0.5"],
        ["plan", "--sigma", "0.5", "--target-radius", "0.25", "--p", "0.9", "--cap", "200"],
        ["inspect", str(demo.BUNDLE)],
        ["lint-rules"],
        ["bench", "--duration", "0.001", "--warmup", "0"],
        ["doctor"],
        ["demo", "--help"],
        ["--help"],
    )
    (certified, *others) = run_without(WORKSTATION, *commands)
    assert certified[0] in {0, 10}, certified
    for command, (code, out, err) in zip(commands[1:], others, strict=True):
        assert (code, err) == (0, ""), command
        assert out


@pytest.mark.parametrize(
    "name", ["demo", "certify", "predict", "verify", "radius", "plan", "inspect", "doctor", "export"]
)
def test_every_commands_module_can_be_imported_without_the_workstations_libraries(name):
    program = (
        "import json, sys, importlib; sys.modules.update(dict.fromkeys(json.loads(sys.argv[1]))); "
        "print(json.dumps(importlib.import_module(sys.argv[2]).command.name))"
    )
    assert python(program, json.dumps(WORKSTATION), f"edgers.cli.{name}") == name


def test_export_says_in_one_line_what_to_install(tmp_path):
    ((code, out, err),) = run_without(["torch"], ["export", str(tmp_path), "--out", str(tmp_path / "out")])
    assert (code, out) == (1, "")
    assert err == "edgers: exporting needs the workstation side (torch is missing): install edgers[export]\n"


def test_statistics_and_verification_need_no_runtime(certified, tmp_path):
    saved = tmp_path / "c.json"
    saved.write_bytes(certified.to_json())
    ended = run_without(
        [*WORKSTATION, "onnxruntime"],
        ["radius", "--votes", "100", "--of", "100", "--sigma", "0.5"],
        ["plan", "--sigma", "0.5", "--target-radius", "0.25", "--p", "0.9", "--cap", "200"],
        ["verify", str(saved), "--json"],
        ["inspect", str(demo.BUNDLE), "--json"],
    )
    assert [code for code, _, _ in ended] == [0, 0, 0, 0], ended


def test_without_a_runtime_certifying_and_doctor_say_what_to_install(first_frame):
    question = ["--prompt", demo.PROMPT, "--choices", "left,right", "--sigma", "0.25"]
    certify, doctor = run_without(
        ["onnxruntime"], ["certify", str(first_frame), *question], ["doctor", "--json"]
    )
    assert certify[:2] == [1, ""]
    assert certify[2].startswith("edgers: ONNX Runtime cannot be imported")
    assert "install edgers[cpu]" in certify[2]
    report = json.loads(doctor[1])
    assert (doctor[0], report["ok"], report["providers"]) == (1, False, [])


# --- what is not needed is not loaded -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "unloaded"),
    [
        pytest.param("import edgers", HEAVY, id="the package"),
        pytest.param("import edgers.cli", HEAVY, id="the command line"),
        pytest.param("from edgers.cli import radius", HEAVY, id="a command that has not run"),
        pytest.param("from edgers import Bundle", ("scipy", "onnxruntime", "PIL", "tokenizers"), id="Bundle"),
        pytest.param("from edgers import Certificate", ("onnxruntime", "PIL", "torch"), id="Certificate"),
        pytest.param("import edgers.smoothing.radius", ("onnxruntime", "PIL", "msgspec"), id="statistics"),
        pytest.param("from edgers import Certifier", ("matplotlib", "rich", "torch", "onnx"), id="Certifier"),
    ],
)
def test_importing_loads_nothing_that_is_not_needed(statement, unloaded):
    loaded = python(f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))")
    assert set(unloaded) & set(loaded) == set()


def test_the_package_offers_its_names_and_no_others():
    import edgers

    for name in edgers.__all__:
        assert getattr(edgers, name) is not None
    with pytest.raises(AttributeError, match="module 'edgers' has no attribute 'Certifyer'"):
        edgers.Certifyer  # noqa: B018  the attribute access is the test


# --- the arrows between the rooms ---------------------------------------------------------------------------


@pytest.fixture
def copy_of_the_rooms(tmp_path):
    """The source of the three packages and the contracts about them."""
    for package in PACKAGES.values():
        shutil.copytree(
            package, tmp_path / package.relative_to(ROOT), ignore=shutil.ignore_patterns("*.onnx", "*.png")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder):
    """import-linter's report on a copy."""
    places = [folder, folder / "engines", folder / "export"]
    return subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "lint-imports", "--no-cache"],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "COLUMNS": "500"},
        timeout=300,
    )


def test_the_rooms_as_they_are_keep_every_contract(copy_of_the_rooms):
    report = lint_imports(copy_of_the_rooms)
    assert report.returncode == 0, report.stdout
    assert "0 broken" in report.stdout


@pytest.mark.parametrize(
    ("module", "forbidden", "contract"),
    [
        (
            "engines/edgers_engines/noise.py",
            "edgers.oracle.base",
            "the engines know neither of the other rooms",
        ),
        (
            "engines/edgers_engines/noise.py",
            "edgers_export.onnx",
            "the engines know neither of the other rooms",
        ),
        ("export/edgers_export/onnx.py", "edgers.poll", "the export room never reaches for the certifier"),
        ("edgers/poll.py", "torch", "the device side never imports torch, transformers or onnx"),
        (
            "engines/edgers_engines/image.py",
            "onnx",
            "the device side never imports torch, transformers or onnx",
        ),
        ("edgers/smoothing/bounds.py", "msgspec", "the statistics stand alone"),
        ("edgers/smoothing/radius.py", "edgers_engines.errors", "the statistics stand alone"),
        (
            "edgers/poll.py",
            "edgers.oracle.unsound_clusters",
            "no certificate comes near the unsound clusters",
        ),
        ("edgers/certify.py", "onnxruntime", "a backend's library is imported in that backend's file only"),
    ],
)
def test_an_import_across_the_rooms_breaks_its_contract(copy_of_the_rooms, module, forbidden, contract):
    path = copy_of_the_rooms / module
    path.write_text(f"{path.read_text()}\n\ndef _late() -> None:\n    import {forbidden}\n")
    report = lint_imports(copy_of_the_rooms)
    assert report.returncode != 0
    broken = [line for line in report.stdout.splitlines() if line.rstrip().endswith("BROKEN")]
    assert any(contract in line for line in broken), report.stdout


def test_the_mutants_above_break_every_contract_there_is(copy_of_the_rooms):
    """A contract without a violation that is tried here could be void."""
    mark = next(
        mark
        for mark in test_an_import_across_the_rooms_breaks_its_contract.pytestmark
        if mark.name == "parametrize"
    )
    report = lint_imports(copy_of_the_rooms)
    kept = [line for line in report.stdout.splitlines() if line.rstrip().endswith("KEPT")]
    tried = {contract for _, _, contract in mark.args[1]}
    assert len(kept) >= 5
    assert [line for line in kept if not any(contract in line for contract in tried)] == []
