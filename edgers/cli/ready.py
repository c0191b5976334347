"""`edgers ready`: definitions of oracles and labelled answers that come with edgers."""

from __future__ import annotations

import click

from edgers.cli.output import stdout


@click.command("ready")
@click.argument("name", required=False)
def command(*, name: str | None) -> int:
    """List what comes with edgers for oracles, or print one of them, to be saved in a file of your own.

    As in: edgers ready harm-judge > judge.json
    """
    from edgers.oracle.ready import READY, ready

    if name is not None:
        click.echo(ready(name).content(), nl=False)
        return 0
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for each, what in READY.items():
        table.add_row(each, what.summary)
    stdout().print(table)
    return 0
