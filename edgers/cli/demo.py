"""`edgers demo`: certifies the frames that come with edgers, with the bundle that comes with it."""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli.options import PATH, json_option
from edgers.cli.output import print_json, progress_bar, stdout, write_new
from edgers_engines.errors import InputError


@click.command("demo")
@click.option("--frames", "folder", type=PATH, help="Write the demo frames into this folder first.")
@json_option
def command(*, folder: Path | None, as_json: bool) -> int:
    """Certify what a robot should do in each demo frame.

    Some frames are hard on purpose: an abstention there is the right answer.
    """
    from edgers.certify import Certifier
    from edgers.demo import ACTIONS, PROMPT, SAMPLES, SIGMA, frames, load_bundle

    images = frames() if folder is None else _write_frames(frames(), folder)
    certifier = Certifier(load_bundle(), sigma=SIGMA, samples=SAMPLES)
    certificates = []
    with progress_bar("demo frames", len(images) * certifier.samples_per_certificate) as progress:
        for image in images:
            certificate = certifier.certify(image, PROMPT, choices=ACTIONS, progress=progress)
            certificates.append((image.stem, certificate))
            if as_json:
                print_json(certificate)
    if not as_json:
        from edgers.report.text import summary_table

        console = stdout()
        console.print(f"{PROMPT}  ({', '.join(ACTIONS)}; sigma {SIGMA:g}, {SAMPLES} samples)")
        console.print(summary_table(certificates))
        console.print(
            "A model for drawn scenes only: do not let it move a real robot. Hard frames should abstain."
        )
    return 0


def _write_frames(sources: list[Path], folder: Path) -> list[Path]:
    """Copies of the frames; a file that is there already must be the same."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{folder} is a file: choose another folder") from None
    written = []
    for source in sources:
        target = folder / source.name
        content = source.read_bytes()
        if not target.exists():
            write_new(target, content)
        elif target.read_bytes() != content:
            raise InputError(f"{target} is there already and is another image: choose another folder")
        written.append(target)
    return written
