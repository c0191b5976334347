"""`edgers inject-oracle-errors`: what oracle errors do to each mode's certificates. No model, no image."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgers.cli.options import PATH, json_option
from edgers.cli.output import print_json, stderr, stdout, write_new
from edgers_engines.errors import InputError

if TYPE_CHECKING:
    from edgers.injection import Finding, Setting

_SIGNIFICANT = 1e-4  # less than one in the number of cases


@click.command("inject-oracle-errors")
@click.option(
    "--rates", default="0.05,0.1,0.2", show_default=True, help="Rates of the injected errors, below 0.5."
)
@click.option("--samples", type=int, default=100, show_default=True, help="Samples of a certificate.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Allowed error probability.")
@click.option("--sigma", type=float, default=0.5, show_default=True, help="Noise, in the radius' unit.")
@click.option(
    "--audited", type=int, default=50, show_default=True, help="Votes for the class that mode audit labels."
)
@click.option(
    "--calibration-size",
    type=int,
    default=1000,
    show_default=True,
    help="Labelled answers of the calibrated modes.",
)
@click.option(
    "--simulations",
    type=int,
    default=20_000,
    show_default=True,
    help="Certificates simulated at each boundary, beside the exact sums.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the simulations.")
@click.option("--plot", type=PATH, help="Draw false certificates against alpha here, as PNG, SVG or PDF.")
@json_option
def command(
    *,
    rates: str,
    samples: int,
    alpha: float,
    sigma: float,
    audited: int,
    calibration_size: int,
    simulations: int,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Inject errors into an oracle, and see which modes keep their promise.

    For symmetric and one-sided errors and every mode but pairwise: the probability of a certificate that
    claims more than is true, at a true radius of 0, 0.5 and 1 sigma, by exact sums; and what the
    mode keeps of the radius where the class is true with probability 0.95.
    """
    from edgers.injection import Setting, study

    if plot is not None:
        from edgers.report.plot import check_plotting
        from edgers_engines.atomic import check_new

        check_new(plot)
        check_plotting(plot)
    try:
        setting = Setting(samples, alpha, sigma, audited, calibration_size, simulations, seed)
        with stderr().status("summing and simulating certificates"):
            findings = study(_rates(rates), setting)
    except ValueError as error:
        raise InputError(str(error)) from None
    if as_json:
        print_json({**asdict(setting), "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings, setting)
    if plot is not None:
        from edgers.report.injection import plot_findings

        write_new(plot, plot_findings(findings, alpha, plot.suffix[1:]))


def _rates(text: str) -> list[float]:
    try:
        return [float(rate) for rate in text.split(",")]
    except ValueError:
        raise InputError(f"--rates is {text!r}; it must be numbers with commas, as in 0.05,0.1") from None


def _show(findings: list[Finding], setting: Setting) -> None:
    from edgers.injection import INSIDE
    from edgers.report.injection import tables

    out = stdout()
    for table in tables(findings):
        out.print(table)
    out.print(
        f"false: the probability, exact and at the worst of the true radii, that a certificate of "
        f"{setting.samples} samples claims more than is true; promised is {setting.alpha:g}. certifies, "
        f"mean R: where the class is true with probability {INSIDE:g}, a true radius of "
        f"{findings[0].inside.radius:.3f}. Each mode is told its rates as they are at this input; symmetric: "
        "the share of wrong labels, low: half of it, high: how often two such oracles disagree. audit labels "
        f"{setting.audited} votes, calibrated {setting.calibration} answers. composite speaks of the label; "
        "its line shows what comes of taking it for the truth."
    )
    out.print(
        "by assumption: it holds because both classes are flipped alike, and fails where they are not. not "
        "promised: no more false ones than alpha here, but the mode does not cover these errors."
    )
    if setting.simulations:
        out.print(_simulated(findings, setting))


def _simulated(findings: list[Finding], setting: Setting) -> str:
    drawn = [
        (boundary.simulated.p_value, boundary.wrong)
        for finding in findings
        for boundary in finding.boundaries
        if boundary.simulated is not None
    ]
    beyond = [p_value < _SIGNIFICANT for p_value, wrong in drawn if wrong > setting.alpha]
    within = [p_value < _SIGNIFICANT for p_value, wrong in drawn if wrong <= setting.alpha]
    return (
        f"Simulated beside the sums: {setting.simulations} certificates of each mode at each of the true "
        f"radii. A binomial test finds more false ones than alpha (p-value below {_SIGNIFICANT:g}) in "
        f"{sum(beyond)} of the {len(beyond)} cases whose sum is above alpha, and in {sum(within)} of the "
        f"{len(within)} others."
    )
