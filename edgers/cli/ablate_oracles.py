"""`edgers ablate-oracles`: oracles side by side on the same stored answers."""

from __future__ import annotations

from pathlib import Path

import click

from edgers.cli.options import PATH, bundle_option, json_option
from edgers.cli.output import print_json, progress_bar, stdout, write_new
from edgers_engines.atomic import check_new


@click.command("ablate-oracles")
@click.argument("answers", nargs=-1, required=True, type=PATH, metavar="ANSWERS.jsonl...")
@bundle_option
@click.option(
    "--oracle",
    "names",
    multiple=True,
    required=True,
    help="What is compared: an oracle of the bundle, or a file that defines one; given once for each.",
)
@click.option(
    "--reference",
    help="The oracle that is taken to be right, as a judge or teacher; else the first --oracle.",
)
@click.option(
    "--selection", type=click.IntRange(1), default=16, show_default=True, help="Of each frame's answers."
)
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Of each certificate.")
@click.option(
    "--plot", type=PATH, help="Draw radius, certified share, errors and time here, as PNG, SVG or PDF."
)
@json_option
def command(
    *,
    answers: tuple[Path, ...],
    bundle_path: Path | None,
    names: tuple[str, ...],
    reference: str | None,
    selection: int,
    alpha: float,
    plot: Path | None,
    as_json: bool,
) -> int:
    """Compare oracles on answers that `edgers collect` wrote: radius, certified share, errors, time.

    Each image needs the same number of answers: the first select the class, the others certify it. Clusters
    are shown twice: frozen by the selection, and as they must not be made, from the answers that count.
    """
    if plot is not None:
        check_new(plot)
        from edgers.report.plot import check_plotting

        check_plotting(plot)
    from edgers.ablation import Reference, contenders, frames_of, rule_of, score
    from edgers.answers import read_answers
    from edgers.demo import load_bundle
    from edgers.oracle.named import open_named, open_text_oracle
    from edgers.report.ablation import plot_scores, score_notes, score_table
    from edgers_engines.vlm import VisionLanguageModel

    stored = read_answers(answers)
    frames, model = frames_of(stored, selection), VisionLanguageModel(load_bundle(bundle_path))
    rule = rule_of(stored, frames, model.bundle.manifest, alpha)
    truth = Reference(open_text_oracle(model, reference or names[0]))
    compared = [contender for name in names for contender in contenders(open_named(model, name))]
    scores = []
    with progress_bar("oracles", len(compared)) as progress:
        for contender in compared:
            scores.append(score(contender, frames, truth, rule))
            progress(1)
            if as_json:
                print_json(scores[-1])
            if scores[-1].failed:
                click.echo(f"{contender.name} could not be asked about {scores[-1].failed} votes", err=True)
    if not as_json:
        stdout().print(score_table(scores))
        stdout().print(score_notes(scores))
    if plot is not None:
        write_new(plot, plot_scores(scores, plot.suffix[1:]))
    return 0
