"""`edgers unpack`: one file to a bundle, or nothing."""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli.options import PATH, json_option


@click.command("unpack")
@click.argument("archive", type=PATH, metavar="FILE")
@click.argument("bundle_path", type=PATH, metavar="DIR")
@json_option
def command(*, archive: Path, bundle_path: Path, as_json: bool) -> int:
    """Make the bundle DIR from a FILE that `edgers pack` wrote, checking every byte.

    DIR appears only when the bundle in it is sound, and replaces nothing. That does not make the bundle
    trusted: anyone can pack one. Compare its digest with one that came another way.
    """
    from edgers.cli.transfer import bytes_bar, say
    from edgers_engines.archive import unpack

    with bytes_bar(f"unpack {archive.name}") as progress:
        copied = unpack(archive, bundle_path, progress=progress)
    say(copied, as_json=as_json)
    return 0
