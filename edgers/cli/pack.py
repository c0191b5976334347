"""`edgers pack`: a bundle as one file, to carry it to a device."""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli.options import PATH, json_option


@click.command("pack")
@click.argument("bundle_path", type=PATH, metavar="DIR")
@click.argument("archive", type=PATH, metavar="FILE")
@json_option
def command(*, bundle_path: Path, archive: Path, as_json: bool) -> int:
    """Check the bundle in DIR and write it into one FILE, an uncompressed ZIP.

    The same bundle gives the same bytes. FILE appears only when it is complete, and replaces nothing.
    """
    from edgers.cli.transfer import bytes_bar, say
    from edgers_engines.archive import pack

    with bytes_bar(f"pack {archive.name}") as progress:
        copied = pack(bundle_path, archive, progress=progress)
    say(copied, as_json=as_json)
    return 0
