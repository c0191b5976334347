"""`edgers compare-bundles`: how much of one bundle's answers another one gives, on the same noise."""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli.options import PATH, backend_options, json_option, named, question_options
from edgers.cli.output import print_json, progress_bar, stdout


@click.command("compare-bundles")
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@question_options
@click.option("--samples", type=click.IntRange(1), default=100, show_default=True, help="That certify.")
@click.option("--selection", type=click.IntRange(1), default=16, show_default=True, help="That choose.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Of the certificates.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the noise.")
@backend_options
@json_option
def command(
    *,
    first: Path,
    second: Path,
    images: tuple[Path, ...],
    prompt: str,
    choices: str | None,
    oracle: str | None,
    sigma: float,
    samples: int,
    selection: int,
    alpha: float,
    seed: int,
    backend: str,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Compare two bundles, such as one in fp32 and one in fp16, on the same noisy copies of images.

    Token by token, label by label, and by what their votes certify; IMAGE may be a folder. The radii have a
    fixed seed: they compare, they certify nothing.
    """
    from edgers.collect import images_in
    from edgers.comparison import Contestant, compare
    from edgers.demo import load_bundle
    from edgers.report.comparison import comparison_summary, comparison_table
    from edgers_engines.engine import open_backend
    from edgers_engines.vlm import VisionLanguageModel

    files = images_in(images)

    def contestant(path: Path) -> Contestant:
        return Contestant(
            VisionLanguageModel(load_bundle(path), open_backend(backend, device=device, threads=threads)),
            prompt,
            choices=named(choices),
            oracle=oracle,
            sigma=sigma,
            samples=samples,
            selection=selection,
            alpha=alpha,
            seed=seed,
        )

    contestants = contestant(first), contestant(second)
    with progress_bar("answers", 2 * len(files) * (samples + selection)) as progress:
        frames = list(compare(contestants, files, progress))
    if as_json:
        print_json({"bundles": [str(first), str(second)], "sigma": sigma, "alpha": alpha, "frames": frames})
        return 0
    out = stdout()
    out.print(comparison_table(frames))
    out.print(comparison_summary(frames), markup=False)
    return 0
