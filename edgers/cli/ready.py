"""`edgers ready`: definitions of oracles and labelled answers that come with edgers."""

from __future__ import annotations

import click

from edgers.cli.options import json_option
from edgers.cli.output import print_json, stdout


@click.command("ready")
@click.argument("name", required=False)
@json_option
def command(*, name: str | None, as_json: bool) -> int:
    """List what comes with edgers for oracles, or print one of them, to be saved in a file of your own.

    As in: edgers ready harm-judge > judge.json
    """
    from edgers.oracle.ready import READY, ready

    if name is not None:
        click.echo(ready(name).content(), nl=False)
        return 0
    if as_json:
        for each, what in READY.items():
            print_json({"name": each, "summary": what.summary})
        return 0
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for each, what in READY.items():
        table.add_row(each, what.summary)
    stdout().print(table)
    return 0
