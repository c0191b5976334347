"""`edgers inspect`: what a bundle is, after checking all of it."""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli.options import PATH, json_option
from edgers.cli.output import print_json, stdout
from edgers_engines.errors import printable


@click.command("inspect")
@click.argument("path", type=PATH, metavar="BUNDLE", required=False)
@json_option
def command(*, path: Path | None, as_json: bool) -> int:
    """Check a bundle's files and manifest and show what it is; the demo bundle unless one is given."""
    from edgers.demo import load_bundle

    bundle = load_bundle(path)
    m = bundle.manifest
    if as_json:
        print_json({"digest": bundle.digest, "manifest": m})
        return 0
    from rich.table import Table
    from rich.text import Text

    size, parity, height_width = m.dimensions, m.parity, m.preparation.canvas_size
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("name", f"{m.name} ({m.family}, {m.precision}), licence {m.licence}"),
        ("digest", bundle.digest),
        ("folder", str(bundle.path)),
        ("source", f"{m.provenance.source}, weights {m.provenance.weights_sha256[:16]}"),
        ("written by", ", ".join(f"{tool} {version}" for tool, version in m.provenance.tools.items())),
        (
            "image",
            f"{height_width[1]}×{height_width[0]} canvas, {m.preparation.filter}, {size.image_tokens} tokens",
        ),
        ("prompt", repr(f"<image>{m.prompt.text_before}PROMPT{m.prompt.text_after}")),
        (
            "decoder",
            f"{size.layers} layers, hidden {size.hidden}, {size.kv_heads} KV heads of {size.head_dim}, "
            f"vocabulary {size.vocabulary}, up to {size.max_length} positions",
        ),
        (
            "parity",
            f"{parity.equal_tokens}/{parity.tokens} tokens as PyTorch, largest logit difference "
            f"{parity.largest_logit_difference:.2g}; margin tolerance {m.decoding.margin_tolerance:.2g}",
        ),
        ("files", ", ".join(f"{file.path} {file.size / 1e6:.2f} MB" for file in m.files)),
        *((f"oracle {o.name}", "; ".join(f"{r.pattern} → {r.label}" for r in o.rules)) for o in m.oracles),
    ):
        table.add_row(Text(name, style="dim"), Text(printable(value)))
    stdout().print(table)
    return 0
