"""What the commands share: the console for people, JSON for programs, files that are never half-written."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgers_engines.atomic import new_file
from edgers_engines.errors import printable

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


def tell_failure(error: Exception, image: Path, *, as_json: bool) -> None:
    """Of several images, one that failed: a line on stderr, and for programs an object among the others."""
    click.echo(f"edgers: {error}", err=True)
    if as_json:
        print_json({"image": printable(str(image)), "error": str(error)})


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Progress]:
    """A bar with samples per second and time left on stderr; silent where stderr is not a terminal.

    Args:
        description: what is done.
        total: how many samples it takes, where that is known.
    """
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


@contextmanager
def interruption(catch: bool) -> Iterator[Callable[[], bool]]:
    """Says whether Ctrl-C was pressed. Only the first one is caught, and only if asked to."""
    pressed = False

    def note(_signal: int, _frame: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    if catch and before is signal.default_int_handler:  # who is told to ignore it goes on ignoring it
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)


def write_new(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; see `edgers_engines.atomic`."""
    with new_file(path) as out:
        out.write(content)
