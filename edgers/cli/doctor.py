"""`edgers doctor`: what this machine has, what is wrong, and what to do."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import click

from edgers.cli.options import json_option
from edgers.cli.output import print_json, stdout
from edgers_engines.errors import EdgersError
from edgers_engines.version import __version__

_PACKAGES = (
    "numpy",
    "scipy",
    "msgspec",
    "Pillow",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "matplotlib",
    "torch",
    "transformers",
)


@click.command("doctor")
@json_option
def command(*, as_json: bool) -> int:
    """Report versions, devices and problems; exit code 1 when something is broken."""
    versions = {name: version for name in _PACKAGES if (version := _version(name)) is not None}
    problems = _problems(versions)
    report = {
        "edgers": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": versions,
        "providers": _providers(problems),
        "problems": problems,
        "ok": not problems,
    }
    if as_json:
        print_json(report)
    else:
        _show(report)
    return 1 if problems else 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _providers(problems: list[str]) -> list[str]:
    try:
        from edgers_engines.onnxruntime import available_providers
    except EdgersError as error:
        problems.append(str(error))
        return []
    return available_providers()


def _problems(versions: dict[str, str]) -> list[str]:
    found = []
    if {"onnxruntime", "onnxruntime-gpu"} <= versions.keys():
        found.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "uninstall both, then install one"
        )
    from edgers.demo import load_bundle

    try:
        load_bundle()
    except EdgersError as error:
        found.append(f"the demo bundle is damaged, reinstall edgers: {error}")
    return found


def _show(report: dict[str, object]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in report.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            text = "; ".join(map(str, value)) or "none"
        else:
            text = str(value)
        table.add_row(Text(name, style="dim"), Text(text))
    stdout().print(table)
