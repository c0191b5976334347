"""What `pack` and `unpack` share: a bar that counts bytes, and what is said in the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edgers.cli.output import print_json, stderr
from edgers_engines.errors import printable

if TYPE_CHECKING:
    from edgers_engines.archive import Copied, Progress


@contextmanager
def bytes_bar(description: str) -> Iterator[Progress]:
    """A bar with bytes per second and time left on stderr; silent where stderr is not a terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(description), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(copied: Copied, *, as_json: bool) -> None:
    """What was made, the bundle's digest, and the bytes of the archive."""
    if as_json:
        print_json({"path": str(copied.path), "digest": copied.digest, "bytes": copied.size})
    else:
        click.echo(f"{printable(str(copied.path))}: {copied.size / 1e6:.2f} MB, digest {copied.digest}")
