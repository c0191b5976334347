"""What the commands share: the console for people, JSON for programs, files that are never half-written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgers_engines.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from edgers.poll import Progress


def print_json(value: object) -> None:
    """One JSON object on one line of stdout."""
    click.echo(msgspec.json.encode(value).decode())


def stderr() -> Console:
    """The console for progress and remarks; stdout stays free for results."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """The console for results that people read."""
    from rich.console import Console

    return Console(highlight=False)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Progress]:
    """A bar with samples per second and time left on stderr; silent where stderr is not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.0f} samples/s")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
    )
    console = stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda samples: bar.advance(task, samples)


def check_new(path: Path | None) -> None:
    """Refuse a path to write to before any work is done for it.

    Raises:
        InputError: something is there already, or its folder is not.
    """
    if path is None:
        return
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already: choose another name, or remove it first")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder: make it first")


def write_new(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: it appears under its name only when complete, and replaces nothing.

    Raises:
        InputError: something is there by now.
        OSError: it cannot be written.
    """
    scratch = path.parent / f".edgers-{secrets.token_hex(8)}"
    try:
        with scratch.open("xb") as handle:
            handle.write(content)
        try:
            path.hardlink_to(scratch)  # unlike a rename, this fails where a file is
        except FileExistsError:
            raise InputError(f"{path} is there already: choose another name, or remove it first") from None
        except OSError:  # a file system without links, as on memory cards
            check_new(path)
            scratch.rename(path)
    finally:
        scratch.unlink(missing_ok=True)
