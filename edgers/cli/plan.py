"""`edgers plan`: how many samples a radius takes, and what n samples keep. No model, no image."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgers.cli.distribution import distribution_of
from edgers.cli.options import PATH, json_option
from edgers.cli.output import print_json, stdout, write_new
from edgers_engines.errors import EdgersError, InputError, printable

if TYPE_CHECKING:
    from edgers.smoothing.planning import Plan, Target

PROBABILITIES = (0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
DISTRIBUTION = "uniform:0.7:1"
CURVE_SAMPLES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


@click.command("plan")
@click.option("--sigma", type=float, help="Noise, in the radius' unit.")
@click.option("--target-radius", type=float, help="The L2 radius to certify; 0: any at all.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Allowed error probability.")
@click.option(
    "--p",
    "probabilities",
    type=float,
    multiple=True,
    help="The class's probability under noise; may be repeated  [default: several]",
)
@click.option("--power", type=float, help="Probability that the fixed n certifies  [default: 0.9]")
@click.option("--batch", type=int, help="Samples between two looks when stopping early  [default: 8]")
@click.option("--cap", type=int, help="Most samples when stopping early  [default: 4000]")
@click.option("--measured", type=PATH, help="A saved certificate, whose time per sample is used.")
@click.option("--plot", type=PATH, help="Draw samples against p here, as PNG, SVG or PDF.")
@click.option("--curve", type=PATH, help="Instead: draw here which share of the radius n samples keep.")
@click.option(
    "--distribution",
    help="With --curve, how p is spread over inputs: uniform:LOW:HIGH, beta:A:B, or a file of "
    f"probabilities, one a line or a JSON list  [default: {DISTRIBUTION}]",
)
@click.option("--memory", is_flag=True, help="Instead: what memory a bundle takes, and where it fits.")
@click.option("--bundle", "bundle_path", type=PATH, help="With --memory, its directory; or the demo bundle.")
@click.option("--profile", "profiles", multiple=True, help="With --memory, a kind of device  [default: all]")
@click.option("--max-length", type=int, help="With --memory, positions of image, question and answer.")
@json_option
def command(
    *,
    sigma: float | None,
    target_radius: float | None,
    alpha: float,
    probabilities: tuple[float, ...],
    power: float | None,
    batch: int | None,
    cap: int | None,
    measured: Path | None,
    plot: Path | None,
    curve: Path | None,
    distribution: str | None,
    memory: bool,
    bundle_path: Path | None,
    profiles: tuple[str, ...],
    max_length: int | None,
    as_json: bool,
) -> int:
    """Plan how many samples to draw, before drawing any.

    How many samples certify a target radius when the class has probability p: with a fixed number, and when
    stopping early. With --curve: which share of the average radius n samples keep. All figures are exact for
    independent samples and a class chosen beforehand; samples that choose it come on top. Where none do (a
    certificate without a selection), give half of its --alpha.

    With --memory: what a bundle takes of a device's memory, and how many samples can be answered at once on
    kinds of devices that need not be there. That figure is a prediction.
    """
    if memory:
        if distribution is not None or any(
            given not in (None, ()) for given in (sigma, target_radius, measured, plot, curve, probabilities)
        ):
            raise InputError("--memory goes with --bundle, --profile, --max-length and --json alone")
        _memory(bundle_path, profiles, max_length, as_json=as_json)
        return 0
    if bundle_path is not None or profiles or max_length is not None:
        raise InputError("--bundle, --profile and --max-length go with --memory")
    choices: dict[str, Any] = {"power": power, "batch": batch, "cap": cap}
    tuning = {name: value for name, value in choices.items() if value is not None}
    if curve is not None:
        if tuning or probabilities or (sigma, target_radius, measured, plot) != (None,) * 4:
            raise InputError(
                "--curve is of any radius, in sigmas: leave out all but --alpha, --distribution and --json"
            )
        _curve(curve, distribution or DISTRIBUTION, alpha, as_json=as_json)
        return 0
    if distribution is not None:
        raise InputError("--distribution goes with --curve")
    if sigma is None or target_radius is None:
        raise InputError("give --sigma and --target-radius, or --curve")
    _check_target(plot)
    from edgers.smoothing.planning import Target

    target = Target(sigma, target_radius, alpha, **tuning)
    _plan(target, probabilities or PROBABILITIES, measured, plot, as_json=as_json)
    return 0


def _plan(
    target: Target,
    probabilities: tuple[float, ...],
    measured: Path | None,
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    from edgers.smoothing.planning import make_plans, unanimous_samples

    ms = None if measured is None else _ms_per_sample(measured)
    try:
        unanimous = unanimous_samples(target.threshold, target.alpha)
        plans = make_plans(target, probabilities)
    except ValueError as error:
        raise InputError(str(error)) from None
    if as_json:
        print_json(
            {
                **asdict(target),
                "required_probability": target.threshold,
                "unanimous_samples": unanimous,
                "ms_per_sample": ms,
                "plans": [_record(plan, ms) for plan in plans],
            }
        )
    else:
        _show_plans(target, unanimous, plans, ms)
    if plot is not None:
        from edgers.report.plan import plot_plans

        step = (1 - target.threshold) / 30
        drawn = make_plans(target, [*(1 - step * i for i in range(27, 0, -1)), 1.0])
        write_new(plot, plot_plans(target, drawn, plot.suffix[1:]))


def _show_plans(target: Target, unanimous: int, plans: list[Plan], ms: float | None) -> None:
    from edgers.report.plan import plan_table

    out = stdout()
    out.print(
        f"To certify R ≥ {target.target_radius:g} at sigma {target.sigma:g}, alpha {target.alpha:g}, the "
        f"class's probability p must exceed {_below_one(target.threshold)}. It takes at least {unanimous} "
        "samples, all of them for the class."
    )
    out.print(plan_table(plans, ms))
    out.print(
        f"fixed: the smallest n that certifies with probability {target.power:.12g} or more. sequential, "
        f"batched: looks after each batch of {target.batch}, at most {target.cap} samples; their mean, with "
        "the runs that give up. The first look of sequential is the first that can certify. Samples that "
        "select the class come on top; without a selection none do, but each class is tested at half of "
        f"alpha: that is --alpha {target.alpha / 2:g} here."
        + ("" if ms is None else f" Time at the {ms:.3g} ms a sample that were measured.")
    )


def _below_one(probability: float) -> str:
    """With four decimals, or as many as show that it is not 1."""
    decimals = max(4, 1 - math.floor(math.log10(1 - probability)))
    return f"{probability:.{decimals}f}"


def _record(plan: Plan, ms: float | None) -> dict[str, object]:
    """The plan, each method with its expected time in milliseconds."""
    record = asdict(plan)
    for name, samples in (
        ("fixed", "samples"),
        ("sequential", "expected_samples"),
        ("batched", "expected_samples"),
    ):
        if (method := record[name]) is not None:
            method["expected_ms"] = None if ms is None else method[samples] * ms
    return record


def _ms_per_sample(path: Path) -> float:
    from edgers.certificate import Certificate

    certificate = Certificate.load(path)
    total = certificate.timings_ms.get("total", 0)
    if total <= 0:
        raise EdgersError(f"{path} has no total time: choose a certificate that was measured")
    return total / certificate.samples_spent


def _curve(path: Path, spread: str, alpha: float, *, as_json: bool) -> None:
    _check_target(path)
    distribution = distribution_of(spread)
    from edgers.report.plan import RADII, curve_points, curve_table, plot_curve
    from edgers.smoothing.scaling import certified_share

    try:
        points = curve_points(distribution, alpha, CURVE_SAMPLES)
        ideal = certified_share(distribution, RADII, None, alpha)
    except ValueError as error:
        raise InputError(str(error)) from None
    if as_json:
        print_json(
            {
                "alpha": alpha,
                "distribution": printable(spread),
                "ideal_mean_radius": distribution.mean_quantile(),
                "radii": RADII,
                "ideal_certified": ideal,
                "points": [asdict(point) for point in points],
            }
        )
    else:
        out = stdout()
        out.print(f"p: {printable(spread)}; alpha {alpha:g}", markup=False)
        out.print(curve_table(points))
        out.print(
            "keeps: share of the infinite-sample average radius that n samples keep, exact. law: "
            "1 - 1.64 z/√n (arXiv 2509.16088), an approximation that fails for small n and for p below 0.7. "
            "Then the share of inputs certified at all, and with a radius of so many sigma (infinite n: "
            + ", ".join(f"{share:.3f}" for share in ideal)
            + ")."
        )
    title = f"p: {spread}; α = {alpha:g}"
    write_new(path, plot_curve(points, distribution, alpha, title, path.suffix[1:]))


def _memory(path: Path | None, names: tuple[str, ...], positions: int | None, *, as_json: bool) -> None:
    from edgers.demo import load_bundle
    from edgers.report.memory import memory_sentence, memory_table
    from edgers_engines.device_profile import device_profile, device_profiles
    from edgers_engines.memory_plan import fewest_positions, plan_memory

    profiles = [device_profile(name) for name in names] or device_profiles()
    bundle = load_bundle(path)
    plan = plan_memory(bundle, positions)
    if as_json:
        devices = [
            {
                "profile": profile,
                "free_bytes": profile.free_bytes,
                "samples_at_once": plan.rows(profile.free_bytes),
                "missing_bytes": plan.missing(profile.free_bytes),
            }
            for profile in profiles
        ]
        print_json({"bundle": bundle.digest, **asdict(plan), "sample": plan.sample, "devices": devices})
        return
    out = stdout()
    shortest = plan_memory(bundle, fewest_positions(bundle.manifest))
    out.print(memory_table(bundle.manifest, plan, shortest, profiles))
    out.print(memory_sentence(bundle.manifest, plan), markup=False)


def _check_target(path: Path | None) -> None:
    if path is not None:
        from edgers.report.plot import check_plotting
        from edgers_engines.atomic import check_new

        check_new(path)
        check_plotting(path)
