"""How long training has got."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINES = 20  # a log file gets about this many of each task

Done = Callable[[int, str], None]
"""Hears how many steps (or scenes) were just done, and a few words about them."""


class Report:
    """A progress bar on stderr for people; where stderr is a file, a line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:>15}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Report:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, title: str, total: int) -> Done:
        """Start a bar of `total`; returns what to call as work is done."""
        task = self._progress.add_task(title, total=total, note="")
        finished = 0

        def done(count: int, note: str) -> None:
            nonlocal finished
            before, finished = finished, finished + count
            self._progress.update(task, advance=count, note=note)
            is_due = finished * LINES // total > before * LINES // total
            if is_due and not self._console.is_terminal:
                self._console.print(f"{title} {finished}/{total} {note}")

        return done
