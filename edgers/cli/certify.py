"""`edgers certify`: images and a question in, certificates out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgers.cli.images import for_each
from edgers.cli.options import (
    PATH,
    backend_options,
    bundle_mode,
    bundle_option,
    json_option,
    mode_options,
    named,
    pair,
    question_options,
)
from edgers.cli.output import interruption, print_json, progress_bar, stdout, write_new
from edgers_engines.atomic import check_new
from edgers_engines.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgers.accounting import Kind
    from edgers.certificate import Certificate
    from edgers.part import Part
    from edgers.rule import Method


@click.command("certify")
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@bundle_option
@question_options
@click.option(
    "--samples",
    type=int,
    default=100,
    show_default=True,
    help="Samples that count; where one may stop early, the most.",
)
@click.option(
    "--selection",
    type=int,
    help="Samples that choose the class. 0: it is the one with the most votes, at half of alpha  [default: 0 "
    "with --target-radius and the method sequential, else 16; 16 where clusters or --assume need one]",
)
@click.option(
    "--alpha",
    type=float,
    default=0.001,
    show_default=True,
    help="Allowed error probability of each certificate; of all together with --among or --attempt.",
)
@click.option(
    "--among",
    type=click.IntRange(1),
    metavar="Q",
    help="These are among Q certificates, declared before the first: that any is wrong has probability alpha "
    "(Bonferroni: each is made at alpha/Q).",
)
@click.option(
    "--attempt",
    type=click.IntRange(1),
    metavar="I",
    help="This is the I-th attempt, from 1, of a stream without end: that any certificate of it is wrong has "
    "probability alpha (made at 6 alpha/(pi I)^2). Every attempt counts; several images count on from I.",
)
@click.option(
    "--method",
    type=click.Choice(["fixed", "sequential", "batched"]),
    help="fixed: all samples are drawn. sequential: it may end at any time. batched: a target is decided at "
    "looks laid down before  [default: sequential with --target-radius or --deadline-ms, else fixed]",
)
@click.option(
    "--target-radius",
    type=float,
    help="End when this L2 radius, on the model's canvas, is certified or out of reach.",
)
@click.option(
    "--floor",
    type=float,
    default=0.5,
    show_default=True,
    help="Probability that the class keeps within the radius: 0.5 is the majority, more is a smaller radius.",
)
@click.option(
    "--deadline-ms",
    type=float,
    help="Begin no batch after so many milliseconds, from when the image is read.",
)
@mode_options
@click.option(
    "--audit",
    type=click.IntRange(1),
    metavar="M",
    help="Have --teacher label M of each image's votes for the class, and certify truth by mode audit.",
)
@click.option(
    "--teacher", metavar="ORACLE", help="For --audit: an oracle of the bundle, or a file that defines one."
)
@click.option("--seed", help="32 hexadecimal digits, to repeat a run; drawn by the system unless given.")
@click.option(
    "--part",
    metavar="NUMBER/OF",
    help="Count one part of the samples, as in 2/4, for `edgers merge`; all parts share a --seed.",
)
@click.option("--batch-size", type=int, help="Samples answered at once  [default: 32; 8 with a target]")
@backend_options
@json_option
@click.option("--save", type=PATH, help="Write the certificate here (one image).")
@click.option("--plot", type=PATH, help="Draw frame, votes and radius here, as PNG, SVG or PDF (one image).")
def command(
    *,
    images: tuple[Path, ...],
    bundle_path: Path | None,
    prompt: str,
    choices: str | None,
    oracle: str | None,
    sigma: float,
    samples: int,
    selection: int | None,
    alpha: float,
    among: int | None,
    attempt: int | None,
    method: Method | None,
    target_radius: float | None,
    floor: float,
    deadline_ms: float | None,
    assume: str,
    audit: int | None,
    teacher: str | None,
    seed: str | None,
    part: str | None,
    batch_size: int | None,
    backend: str,
    device: str | None,
    threads: int | None,
    as_json: bool,
    save: Path | None,
    plot: Path | None,
    **numbers: Any,  # noqa: ANN401  the options of `mode_options`
) -> int:
    """Certify the answer to a question about one or more images.

    With the method sequential, Ctrl-C ends the samples and certifies what they prove; a second one aborts.

    Exit code 0: all certified, with --target-radius at that radius; or counted, as a part. 10: one abstained,
    none failed. 1: one failed; the others are still done. 130: Ctrl-C left images undone.
    """
    _check_outputs(images, save, plot)
    counted = _counted(len(images), among, attempt)
    early = target_radius is not None or deadline_ms is not None
    method = method or ("sequential" if early else "fixed")
    from edgers.certify import Certifier
    from edgers.demo import load_bundle
    from edgers.ending import ONE_PART
    from edgers_engines.engine import open_backend

    bundle = load_bundle(bundle_path)
    if audit is not None and assume != "composite":
        raise InputError("--audit is a mode of its own: give it without --assume")
    if audit is not None and any(number is not None for number in numbers.values()):
        raise InputError("--audit finds its numbers itself: give it without those of --assume")
    certifier = Certifier(
        bundle,
        sigma=sigma,
        samples=samples,
        alpha=alpha,
        selection=selection,
        method=method,
        target_radius=target_radius,
        mode=None if audit else bundle_mode(assume, bundle.manifest, oracle, prompt, sigma, **numbers),
        audit=audit,
        teacher=teacher,
        floor=floor,
        batch_size=batch_size,
        backend=open_backend(backend, device=device, threads=threads),
    )
    certifier = certifier.accounted(*counted[-1])  # the smallest level: refused before the first image
    remaining = iter(counted)
    interrupted: Callable[[], bool] = bool  # of the image before

    def answered(image: Path) -> bool:
        nonlocal interrupted
        if interrupted():
            raise KeyboardInterrupt
        counts_as = next(remaining)
        total = certifier.samples_per_certificate
        with progress_bar(image.name, total) as progress, interruption(method != "fixed") as interrupted:
            certificate = certifier.accounted(*counts_as).certify(
                image,
                prompt,
                choices=named(choices),
                oracle=oracle,
                seed=seed,
                part=_part(part),
                deadline_ms=deadline_ms,
                cancelled=interrupted,
                progress=progress,
            )
        _deliver(certificate, image, as_json=as_json, save=save, plot=plot)
        return certificate.certified or certificate.stopped_because == ONE_PART

    return for_each(images, answered, as_json=as_json)


def _part(text: str | None) -> Part | None:
    from edgers.part import Part

    return None if text is None else Part(**dict(zip(("number", "of"), pair("--part", text), strict=True)))


def _counted(images: int, among: int | None, attempt: int | None) -> list[tuple[Kind, int | None]]:
    """How the certificate of each image is accounted for."""
    if among is not None and attempt is not None:
        raise InputError("--among declares how many certificates there will be, --attempt does not: give one")
    if among is not None and among < images:
        raise InputError(f"--among {among}, but there are {images} images: declare at least so many")
    if attempt is not None:
        return [("schedule", attempt + done) for done in range(images)]
    return [("each", None) if among is None else ("among", among)] * images


def _check_outputs(images: tuple[Path, ...], save: Path | None, plot: Path | None) -> None:
    if len(images) > 1 and (save or plot):
        raise InputError("--save and --plot take one image; for several, use --json and redirect the output")
    if save is not None and save == plot:
        raise InputError(f"--save and --plot both name {save}: give each its own file")
    for target in (save, plot):
        if target is not None:
            check_new(target)
    if plot is not None:
        from edgers.report.plot import check_plotting

        check_plotting(plot)


def _deliver(
    certificate: Certificate,
    image: Path,
    *,
    as_json: bool,
    save: Path | None,
    plot: Path | None,
) -> None:
    # Shown first: should writing fail, the result is not lost.
    if as_json:
        print_json(certificate)
    else:
        from edgers.report.text import certificate_panel

        stdout().print(certificate_panel(certificate, certificate.image or ""))
    if save is not None:
        write_new(save, certificate.to_json())
    if plot is not None:
        from edgers.report.plot import plot_certificate
        from edgers_engines.image import CameraImage

        camera = CameraImage.of(image)
        if camera.sha256 != certificate.image_sha256:
            raise InputError(
                f"{image} was changed while it was certified: there is no picture of what it was"
            )
        write_new(plot, plot_certificate(certificate, camera, plot.suffix[1:]))
