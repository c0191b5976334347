"""`edgers predict`: which class the model answers with under noise, without a radius."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgers.cli.images import for_each
from edgers.cli.options import PATH, backend_options, bundle_option, json_option, named, question_options
from edgers.cli.output import print_json, progress_bar
from edgers_engines.errors import printable

if TYPE_CHECKING:
    from edgers.prediction import Prediction


@click.command("predict")
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@bundle_option
@question_options
@click.option("--samples", type=int, default=100, show_default=True, help="Noisy copies that vote.")
@click.option(
    "--alpha",
    type=float,
    default=0.001,
    show_default=True,
    help="Allowed probability of an answer that is not the most likely class.",
)
@click.option("--seed", help="32 hexadecimal digits, to repeat a run; drawn by the system unless given.")
@click.option("--batch-size", type=int, help="Samples answered at once  [default: 32]")
@backend_options
@json_option
def command(
    *,
    images: tuple[Path, ...],
    bundle_path: Path | None,
    prompt: str,
    choices: str | None,
    oracle: str | None,
    sigma: float,
    samples: int,
    alpha: float,
    seed: str | None,
    batch_size: int | None,
    backend: str,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Answer a question about one or more images by the vote of noisy copies.

    It is about each very image: how far the answer holds for others, `edgers certify` says. Exit code 0: all
    answered. 10: one vote was too close, none failed. 1: one failed; the others are still done.
    """
    from edgers.certify import Certifier
    from edgers.demo import load_bundle
    from edgers_engines.engine import open_backend

    certifier = Certifier(
        load_bundle(bundle_path),
        sigma=sigma,
        samples=samples,
        alpha=alpha,
        batch_size=batch_size,
        backend=open_backend(backend, device=device, threads=threads),
    )

    def answered(image: Path) -> bool:
        with progress_bar(image.name, samples) as progress:
            found = certifier.predict(
                image, prompt, choices=named(choices), oracle=oracle, seed=seed, progress=progress
            )
        if as_json:
            print_json(found)
        else:
            click.echo(printable(_said(found)))
        return found.label is not None

    return for_each(images, answered, as_json=as_json)


def _said(found: Prediction) -> str:
    counts = sorted(found.votes.items(), key=lambda item: -item[1])
    votes = ", ".join(f"{name} {count}" for name, count in counts if count)
    how = f"{votes} of {found.n} votes; p-value {found.p_value:.3g}"
    if found.label is None:
        close = found.p_value > found.alpha
        why = f"above alpha {found.alpha:g}, try more --samples" if close else "the winner is never answered"
        return f"{found.image}: abstained ({how}: {why})"
    return (
        f"{found.image}: {found.label} ({how}; a class that is not the likeliest is answered with "
        f"probability at most {found.alpha:g}; no radius is claimed)"
    )
