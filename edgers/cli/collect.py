"""`edgers collect`: a bundle's own answers about noisy images, into a file that can be gone on with."""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli.options import PATH, bundle_option, json_option
from edgers.cli.output import print_json, progress_bar
from edgers_engines.errors import InputError


@click.command("collect")
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@bundle_option
@click.option("--prompt", required=True, help="The question.")
@click.option("--sigma", type=float, required=True, help="Noise, where pixel values span [0, 1].")
@click.option(
    "--each", type=click.IntRange(1), default=1, show_default=True, help="Answers about each image."
)
@click.option(
    "--detour",
    type=float,
    default=0.0,
    show_default=True,
    help="Share of the vocabulary that decoding is kept from at each step, for texts to learn from.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the noise.")
@click.option("--out", type=PATH, required=True, help="JSONL file; one that is there is gone on with.")
@json_option
def command(
    *,
    images: tuple[Path, ...],
    bundle_path: Path | None,
    prompt: str,
    sigma: float,
    each: int,
    detour: float,
    seed: int,
    out: Path,
    as_json: bool,
) -> int:
    """Write what a bundle answers, in free text, about noisy copies of images; IMAGE may be a folder.

    The file is for `edgers distill`, to learn an oracle from, and for `edgers ablate-oracles`. What was
    written before an interruption is kept: the same command goes on after it.
    """
    from edgers.answers import read_answers, write_answers
    from edgers.collect import collect, images_in
    from edgers.demo import load_bundle
    from edgers_engines.vlm import VisionLanguageModel

    files = images_in(images)
    done = read_answers([out]) if out.exists() else []
    for number, answer in enumerate(done):
        wanted = (str(files[number // each]), prompt, sigma) if number < each * len(files) else None
        if (answer.image, answer.prompt, answer.sigma) != wanted or answer.detour != (detour > 0):
            raise InputError(
                f"{out}, line {number + 1}, is not what this command would write: choose another --out, or "
                "the options it was begun with"
            )
    model = VisionLanguageModel(load_bundle(bundle_path))
    left = each * len(files) - len(done)
    with progress_bar("answers", left) as progress:
        answers = collect(
            model,
            files,
            prompt,
            sigma=sigma,
            each=each,
            detour=detour,
            seed=seed,
            first=len(done),
            progress=progress,
        )
        done.extend(write_answers(out, answers))
    texts = len({answer.text for answer in done})
    if as_json:
        print_json({"path": str(out), "answers": len(done), "texts": texts, "images": len(files)})
    else:
        click.echo(f"{out}: {len(done)} answers about {len(files)} images, {texts} different texts")
    return 0
