"""`edgers distill`: labelled texts in, a bundle with an oracle that learned them out (workstation)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgers.cli.options import PATH, bundle_option, json_option
from edgers.cli.output import print_json, progress_bar
from edgers_engines.atomic import check_new
from edgers_engines.errors import EdgersError, printable

if TYPE_CHECKING:
    from edgers.distill import Distilled


@click.command("distill")
@click.argument("labels", type=PATH, metavar="LABELS.jsonl")
@bundle_option
@click.option("--name", required=True, help="Of the oracle: letters, digits and . _ -")
@click.option("--out", type=PATH, required=True, help="Bundle directory to make.")
@click.option("--epochs", type=click.IntRange(1, 10_000), default=40, show_default=True)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split and of training."
)
@json_option
def command(
    *,
    labels: Path,
    bundle_path: Path | None,
    name: str,
    out: Path,
    epochs: int,
    seed: int,
    as_json: bool,
) -> int:
    """Train a small text classifier on labelled answers, and put it into a copy of a bundle as an oracle.

    Each line of LABELS.jsonl is an object with `text`, `label` and, where the text is an answer about an
    image, `image`: a fifth of the images is held out, and the student is tested on their texts.
    """
    check_new(out)
    from edgers.demo import load_bundle
    from edgers.labelled import read_labelled

    rows, bundle = read_labelled(labels), load_bundle(bundle_path)
    try:
        from edgers.distill import distill

        with progress_bar("learning", epochs * len(rows)) as progress:
            made = distill(bundle, rows, name, out, epochs=epochs, seed=seed, progress=progress)
    except ImportError as error:
        raise EdgersError(
            f"distilling needs the workstation side ({error.name} is missing): install edgers[export]"
        ) from None
    if as_json:
        print_json(made)
    else:
        _show(made)
    return 0


def _show(made: Distilled) -> None:
    classes = ", ".join(f"{name} {count}" for name, count in made.classes.items())
    for line in (
        f"{made.bundle}: oracle {made.oracle}, digest {made.digest}",
        f"{sum(made.classes.values())} rows ({classes}), {made.repeated_texts} texts repeated, "
        f"{made.texts_with_two_labels} with two labels",
        f"learned from {made.learned}; {made.dropped} dropped, their texts being held out",
        f"wrong on {made.errors} of {made.held_out} held-out rows ({made.held_out_texts} texts)",
        *(
            f"  {each.count} × {each.teacher} taken for {each.student}, as in {each.example!r}"
            for each in made.worst
        ),
    ):
        click.echo(printable(line))
