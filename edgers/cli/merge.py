"""`edgers merge`: all parts of one certificate's samples in, the certificate out."""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli import ABSTAINED
from edgers.cli.options import PATH, json_option
from edgers.cli.output import print_json, stdout, write_new
from edgers_engines.atomic import check_new


@click.command("merge")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PART.json...")
@json_option
@click.option("--save", type=PATH, help="Write the certificate here.")
def command(*, paths: tuple[Path, ...], as_json: bool, save: Path | None) -> int:
    """Make one certificate of all its parts, which `edgers certify --part` counted.

    Sample i is the same on every device, so the certificate is the one that a single run would have given;
    `edgers verify --replay` runs it again as one. Exit code 0: certified. 10: abstained.
    """
    from edgers.certificate import Certificate
    from edgers.part import merge

    if save is not None:
        check_new(save)
    certificate = merge([Certificate.load(path) for path in paths])
    if as_json:
        print_json(certificate)
    else:
        from edgers.report.text import certificate_panel

        stdout().print(certificate_panel(certificate, f"{len(paths)} parts"))
    if save is not None:
        write_new(save, certificate.to_json())
    return 0 if certificate.certified else ABSTAINED
