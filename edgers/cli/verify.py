"""`edgers verify`: does a certificate follow from its counts, and does it replay?"""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli.options import PATH, bundle_option, json_option
from edgers.cli.output import print_json, progress_bar, stdout
from edgers_engines.errors import InputError


@click.command("verify")
@click.argument("path", type=PATH, metavar="CERT.json")
@click.option("--replay", "with_replay", is_flag=True, help="Run the model again and compare the votes.")
@bundle_option
@click.option("--image", type=PATH, help="Where the image is now, for --replay.")
@click.option("--oracle", type=PATH, help="The .json file that defines the oracle, for --replay.")
@click.option("--teacher", type=PATH, help="The .json file that defines an audit's teacher, for --replay.")
@json_option
def command(
    *,
    path: Path,
    with_replay: bool,
    bundle_path: Path | None,
    image: Path | None,
    oracle: Path | None,
    teacher: Path | None,
    as_json: bool,
) -> int:
    """Check a certificate.

    Recomputes bound, radius and verdict from the counts. Whether image, prompt and model gave these counts is
    for --replay to say; who made the certificate, for nobody: it is not signed. Exit code 0: consistent, also
    when the certificate abstains. 1: a field does not follow; the first one is named.
    """
    from edgers.certificate import Certificate
    from edgers.verify import replay, verify

    if image is not None and not with_replay:
        raise InputError("--image goes with --replay: without it no image is looked at")
    if oracle is not None and not with_replay:
        raise InputError("--oracle goes with --replay: without it no answer is read")
    if teacher is not None and not with_replay:
        raise InputError("--teacher goes with --replay: without it no answer is read")

    certificate = Certificate.load(path)
    verify(certificate)
    if with_replay:
        from edgers.demo import load_bundle

        bundle = load_bundle(bundle_path)
        with progress_bar("replay", certificate.samples_spent) as progress:
            replay(
                certificate,
                bundle,
                image,
                beside=path.parent,
                oracle=oracle,
                teacher=teacher,
                progress=progress,
            )
    if as_json:
        print_json(
            {
                "consistent": True,
                "replayed": with_replay,
                "certified": certificate.certified,
                "image": certificate.image,
                "prompt": certificate.prompt,
                "classes": certificate.oracle.classes,
                "label": certificate.label,
                "radius": certificate.radius,
                "floor": certificate.floor,
                "assumption": certificate.assumption,
                "alpha": certificate.alpha,
                "accounting": certificate.accounting,
            }
        )
        return 0
    from edgers.report.text import certificate_panel

    stdout().print(certificate_panel(certificate, path.name))
    stdout().print(
        "consistent: bound, radius and verdict follow from the counts"
        + (
            ", and the replay gave the same votes."
            if with_replay
            else ". Image, prompt and model were not looked at: --replay does."
        )
    )
    return 0
