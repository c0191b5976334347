"""`edgers export`: the one command here that needs the workstation side."""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli.options import PATH, json_option
from edgers.cli.output import print_json, stderr
from edgers_engines.errors import EdgersError


@click.command("export")
@click.argument("checkpoint", type=PATH, metavar="MODEL_DIR")
@click.option("--out", type=PATH, required=True, help="Bundle directory to make.")
@click.option("--licence", default="unknown", show_default=True, help="The weights' licence.")
@json_option
def command(*, checkpoint: Path, out: Path, licence: str, as_json: bool) -> int:
    """Turn a local Hugging Face LLaVA checkpoint into a bundle, and compare it with PyTorch."""
    try:
        from edgers_export.bundle import export_bundle
    except ImportError as error:
        raise EdgersError(
            f"exporting needs the workstation side ({error.name} is missing): install edgers[export]"
        ) from None

    console = stderr()
    bundle = export_bundle(
        checkpoint, out, licence=licence, progress=lambda stage: console.print(f"{stage} …", style="dim")
    )
    if as_json:
        print_json({"path": str(out), "digest": bundle.digest, "parity": bundle.manifest.parity})
    else:
        parity = bundle.manifest.parity
        click.echo(f"{out}: {parity.equal_tokens}/{parity.tokens} tokens as PyTorch, digest {bundle.digest}")
    return 0
