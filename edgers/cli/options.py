"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

PATH = click.Path(path_type=Path)


def bundle_option(command: Command) -> Command:
    """--bundle, the demo bundle by default."""
    return click.option(
        "--bundle", "bundle_path", type=PATH, help="Bundle directory; the demo bundle unless given."
    )(command)


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout, one object a line.")(command)


def backend_options(command: Command) -> Command:
    """--backend, --device and --threads."""
    for option in (
        click.option("--threads", type=int, help="Computing threads; all cores unless given."),
        click.option("--device", default="cpu", show_default=True, help="cpu or cuda:N."),
        click.option(
            "--backend",
            type=click.Choice(["onnxruntime", "tensorrt"]),
            default="onnxruntime",
            show_default=True,
            help="What runs the graphs.",
        ),
    ):
        command = option(command)
    return command
