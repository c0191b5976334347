"""`edgers radius`: votes in, bound and radius out. No model, no image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgers.cli import ABSTAINED
from edgers.cli.options import mode_of_options, mode_options
from edgers.cli.output import print_json, stdout
from edgers_engines.errors import InputError

if TYPE_CHECKING:
    from edgers.rule import Conclusion, Rule


@click.command("radius")
@click.option("--votes", type=int, required=True, help="Samples that voted for the class.")
@click.option("--of", "samples", type=int, required=True, help="Samples in all.")
@click.option("--others", help="Votes of each other class, with commas; mode pairwise needs them.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Allowed error probability.")
@click.option("--sigma", type=float, required=True, help="Standard deviation of the noise.")
@click.option("--floor", type=float, default=0.5, show_default=True, help="Probability the class must keep.")
@click.option(
    "--method",
    type=click.Choice(["fixed", "sequential"]),
    default="fixed",
    show_default=True,
    help="fixed: the number of samples was set before. sequential: one could stop at any time.",
)
@mode_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    *,
    votes: int,
    samples: int,
    others: str | None,
    alpha: float,
    sigma: float,
    floor: float,
    method: str,
    assume: str,
    as_json: bool,
    **numbers: Any,  # noqa: ANN401  the options of `mode_options`
) -> int:
    """The certified radius of a vote count, for ideal noise: a certificate takes its sampler's distance off.

    The class, what is assumed, and with the method fixed the number of samples must have been chosen before
    these votes were seen. Where the class is the one that leads these votes, give half of --alpha.
    """
    from edgers.assumption import assumption
    from edgers.rule import Rule
    from edgers.smoothing.bounds import check_counts

    mode = mode_of_options(assume, **numbers)
    try:
        check_counts(votes, samples)
        counts = {"A": votes, **_others(others, samples - votes, assume)}
        rule = Rule(
            samples,
            alpha,
            sigma,
            method="sequential" if method == "sequential" else "fixed",
            mode=mode,
            floor=floor,
        )
        found = rule.conclude("A", counts)
    except ValueError as error:
        raise InputError(str(error)) from None
    if as_json:
        print_json(
            {
                "votes": votes,
                "n": samples,
                "alpha": alpha,
                "sigma": sigma,
                "floor": floor,
                "method": method,
                "assumption": assumption(mode, recorded=False),
                "q_lower": found.q_lower,
                "p_lower": found.p_lower,
                "certified": found.certified,
                "radius": found.radius,
            }
        )
    else:
        _show(found, rule)
    return 0 if found.certified else ABSTAINED


def _show(found: Conclusion, rule: Rule) -> None:
    from edgers.advice import floored, of_the_label, premise
    from edgers.assumption import assumption
    from edgers.rule import FLOOR

    bound = f"lower bound {floored(found.p_lower)}"
    if found.radius is None:
        enough = "the upper bound of another class" if rule.mode.name == "pairwise" else f"{rule.floor:g}"
        said = [f"abstain: the {bound} is not above {enough}"]
    else:
        said = [
            f"R = {floored(found.radius)}  ({bound}, wrong with probability at most {rule.alpha:g})",
            assumption(rule.mode, recorded=False).sentence,
        ]
        if not of_the_label(rule.mode.name):
            said.append(f"{premise(rule.mode.name)}, the class is true under most of the noise within R.")
        if rule.floor != FLOOR:
            said.append(f"Within R the class keeps a probability above {rule.floor:g}.")
    for line in said:
        stdout().print(line, markup=False)


def _others(text: str | None, rest: int, assume: str) -> dict[str, int]:
    """Votes of the other classes; they add up to the rest."""
    if text is None:
        if assume == "pairwise":
            raise InputError("the mode pairwise compares classes: give the others' votes with --others")
        return {"": rest}
    try:
        counts = [int(count) for count in text.split(",")]
    except ValueError:
        raise InputError(f"--others is {text!r}; it must be counts with commas, as in 7,2,0") from None
    if min(counts) < 0 or sum(counts) != rest:
        raise InputError(f"--others is {text!r}; its counts must add up to the {rest} votes that are left")
    return {str(position): count for position, count in enumerate(counts)}
