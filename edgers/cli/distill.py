"""`edgers distill`: labelled texts in, a bundle with an oracle that learned them out (workstation)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgers.cli.options import PATH, bundle_option, json_option
from edgers.cli.output import print_json, progress_bar
from edgers.workstation import workstation
from edgers_engines.atomic import check_new
from edgers_engines.errors import InputError, printable

if TYPE_CHECKING:
    from edgers.answers import StoredAnswer
    from edgers.distill import Clustered, Distilled
    from edgers.poll import Progress
    from edgers_engines.bundle import Bundle
    from edgers_engines.vlm import VisionLanguageModel

_DETOUR = 0.2  # share of the vocabulary that is withheld


@click.command("distill")
@click.argument("labels", nargs=-1, type=PATH, metavar="[LABELS.jsonl]...")
@bundle_option
@click.option("--name", required=True, help="Of the oracle: letters, digits and . _ -")
@click.option("--out", type=PATH, required=True, help="Bundle directory to make.")
@click.option(
    "--from-bundle",
    "images",
    multiple=True,
    type=PATH,
    metavar="IMAGES",
    help="Learn from what the bundle answers about noisy copies of these images, too: a folder, or a file; "
    "may be given again.",
)
@click.option("--prompt", "prompts", multiple=True, help="The question about them; may be given again.")
@click.option("--sigma", type=float, help="The noise on them.")
@click.option(
    "--each",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Answers to a question about each image: the first as the bundle gives it, the others on detours, "
    "for learning only (see `edgers collect`).",
)
@click.option(
    "--teacher",
    metavar="ORACLE",
    help="Labels the answers that have no label: an oracle of the bundle, a file that defines one, or the "
    "folder of a local Hugging Face text classifier.",
)
@click.option(
    "--as",
    "kind",
    type=click.Choice(["classifier", "clusters"]),
    default="classifier",
    show_default=True,
    help="classifier: names the classes. clusters: tells which texts mean the same, for classes that "
    "nobody knows before.",
)
@click.option("--labelled", type=PATH, help="Write all answers with their labels here, as they come.")
@click.option(
    "--student",
    "encoder",
    type=PATH,
    help="Folder of a local Hugging Face encoder to start from; from scratch unless given.",
)
@click.option("--epochs", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Of training.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of noise, split and training."
)
@json_option
def command(
    *,
    labels: tuple[Path, ...],
    bundle_path: Path | None,
    name: str,
    out: Path,
    images: tuple[Path, ...],
    prompts: tuple[str, ...],
    sigma: float | None,
    each: int,
    teacher: str | None,
    labelled: Path | None,
    kind: str,
    encoder: Path | None,
    epochs: int,
    seed: int,
    as_json: bool,
) -> int:
    """Train a small text classifier on labelled answers, and put it into a copy of a bundle as an oracle.

    Each line of LABELS.jsonl is an object with `text`, `label` and, where the text is an answer about an
    image, `image`. A fifth of the images is held out. The student is tested on their texts, of which it
    learned none, and calibrated on one answer about each: these counts go into the bundle, where
    `certify --assume calibrated` finds them.
    """
    for target in (out, labelled):
        if target is not None:
            check_new(target)
    if not bool(images) == bool(prompts) == (sigma is not None):
        raise InputError("--from-bundle, --prompt and --sigma belong together")
    from edgers.answers import read_answers, write_answers
    from edgers.collect import images_in
    from edgers.demo import load_bundle
    from edgers_engines.vlm import VisionLanguageModel

    given, bundle = read_answers(labels), load_bundle(bundle_path)
    _check_name(name, bundle)
    if images and not teacher:
        raise InputError("the bundle's answers have no labels: name who gives them, by --teacher")
    files = images_in(images)
    with workstation("distilling"):
        from edgers.distill import cluster, distill, lesson, taught, train
        from edgers.split import split

        answers: Iterable[StoredAnswer] = given
        if teacher or files:
            model = VisionLanguageModel(bundle)
            answers = chain(
                given, _collected(model, files, prompts, sigma=sigma or 0.0, each=each, seed=seed)
            )
        if teacher:
            answers = taught(answers, _teacher(model, teacher))
        if labelled:
            answers = write_answers(labelled, answers)
        with progress_bar("answers", len(given) + len(files) * len(prompts) * each) as progress:
            answers = list(_counted(answers, progress))
        parts = split(answers, seed)
        with progress_bar("learning", epochs * len(lesson(parts.learn))) as progress:
            student = train(parts, encoder=encoder, epochs=epochs, seed=seed, progress=progress)
        made: Distilled | Clustered = (
            distill(bundle, parts, student, name, out, seed=seed)
            if kind == "classifier"
            else cluster(bundle, parts, student, name, out)
        )
    if as_json:
        print_json(made)
    else:
        for line in _lines(made):
            click.echo(printable(line))
    return 0


def _check_name(name: str, bundle: Bundle) -> None:
    """Refuse a name that the bundle could not have, before hours are spent on the oracle."""
    from edgers.oracle.definition import SUFFIX
    from edgers_engines.fields import NAME

    if not re.fullmatch(NAME, name) or name.endswith(SUFFIX):
        raise InputError(f"--name {name!r}: letters, digits and . _ -, without {SUFFIX} at its end")
    if name in {oracle.name for oracle in bundle.manifest.oracles}:
        raise InputError(f"the bundle has an oracle {name!r} already: choose another --name")


def _collected(
    model: VisionLanguageModel,
    images: Sequence[Path],
    prompts: Sequence[str],
    *,
    sigma: float,
    each: int,
    seed: int,
) -> Iterator[StoredAnswer]:
    """Of each question about each image: one answer as it is, the others on detours."""
    from edgers.collect import collect

    for number, prompt in enumerate(prompts):
        yield from collect(model, images, prompt, sigma=sigma, each=1, seed=2 * (seed + number))
        yield from collect(
            model, images, prompt, sigma=sigma, each=each - 1, detour=_DETOUR, seed=2 * (seed + number) + 1
        )


def _teacher(model: VisionLanguageModel, name: str) -> Callable[[Sequence[str]], Sequence[str]]:
    if Path(name).is_dir():
        from edgers.distill import local_labeller

        return local_labeller(Path(name))
    from edgers.oracle.named import open_text_oracle

    return open_text_oracle(model, name).classify_texts


def _counted(answers: Iterable[StoredAnswer], progress: Progress) -> Iterator[StoredAnswer]:
    for answer in answers:
        yield answer
        progress(1)


def _lines(made: Distilled | Clustered) -> Iterator[str]:
    from edgers.distill import Distilled

    yield f"{made.bundle}: oracle {made.oracle}, digest {made.digest}"
    yield from _classifier(made) if isinstance(made, Distilled) else _clusters(made)


def _classifier(made: Distilled) -> Iterator[str]:
    from edgers.calibration import ENOUGH

    classes = ", ".join(f"{name} {count}" for name, count in made.classes.items())
    few = f"; fewer than {ENOUGH} images say little" if made.calibration_images < ENOUGH else ""
    yield (
        f"{sum(made.classes.values())} labelled answers ({classes}), {made.not_labelled} without a label; "
        f"{made.repeated_texts} texts repeated, {made.texts_with_two_labels} with two labels"
    )
    yield f"learned from {made.learned}; {made.dropped} dropped, their texts being held out"
    yield f"wrong on {made.errors} of {made.held_out_texts} held-out texts"
    for each in made.worst:
        yield f"  {each.count} × {each.teacher} taken for {each.student}, as in {each.example!r}"
    if not made.calibration_images:
        yield "not calibrated: no held-out answer with a label is about an image"
        return
    yield (
        f"calibrated on one answer about each of {made.calibration_images} held-out images, of which "
        f"{made.calibration_errors} got a false class{few}"
    )


def _clusters(made: Clustered) -> Iterator[str]:
    yield (
        f"texts mean the same above a cosine of {made.threshold}: of held-out pairs "
        f"{made.same.matching} of {made.same.pairs} with one label, and "
        f"{made.different.matching} of {made.different.pairs} with two"
    )
