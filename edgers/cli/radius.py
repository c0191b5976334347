"""`edgers radius`: votes in, bound and radius out. No model, no image."""

from __future__ import annotations

import click

from edgers.cli import ABSTAINED
from edgers.cli.output import print_json
from edgers_engines.errors import InputError


@click.command("radius")
@click.option("--votes", type=int, required=True, help="Samples that voted for the class.")
@click.option("--of", "samples", type=int, required=True, help="Samples in all.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Allowed error probability.")
@click.option("--sigma", type=float, required=True, help="Standard deviation of the noise.")
@click.option("--floor", type=float, default=0.5, show_default=True, help="Probability the class must keep.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(*, votes: int, samples: int, alpha: float, sigma: float, floor: float, as_json: bool) -> int:
    """The certified radius of a vote count.

    The class and the number of samples must have been chosen before these votes were seen.
    """
    from edgers.advice import floored
    from edgers.smoothing.bounds import clopper_pearson_lower
    from edgers.smoothing.radius import certified_radius

    try:
        q_lower = clopper_pearson_lower(votes, samples, alpha)
        radius = certified_radius(q_lower, sigma, floor)
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
                "method": "fixed",
                "assumption": {"mode": "composite", "parameters": {}},
                "q_lower": q_lower.value,
                "p_lower": q_lower.value,
                "certified": radius is not None,
                "radius": radius,
            }
        )
    elif radius is None:
        click.echo(f"abstain: the lower bound {floored(q_lower.value)} is not above {floor:g}")
    else:
        bound = f"lower bound {floored(q_lower.value)}, wrong with probability at most {alpha:g}"
        click.echo(f"R = {floored(radius)}  ({bound})")
    return ABSTAINED if radius is None else 0
