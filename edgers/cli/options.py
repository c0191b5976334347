"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgers_engines.errors import InputError

if TYPE_CHECKING:
    from edgers.smoothing.mode import Mode
    from edgers_engines.manifest import Manifest

Command = Callable[..., Any]

# Where a mode's numbers come from.
_OPTIONS = {
    "error_rate": "--error-rate",
    "false_positive_rate": "--false-positive-rate",
    "false_negative_rate": "--false-negative-rate",
    "errors": "--calibration",
    "total": "--calibration",
    "counts": "--calibration",
    "correct": "--audited",
    "audited": "--audited",
}

PATH = click.Path(path_type=Path)


def bundle_option(command: Command) -> Command:
    """--bundle, the demo bundle by default."""
    return click.option(
        "--bundle", "bundle_path", type=PATH, help="Bundle directory; the demo bundle unless given."
    )(command)


def as_share(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """The share that 5% or 0.05 says; without the sign at most 1, for a bare 5 might mean anything.

    Raises:
        BadParameter: it is none of at least 0.
    """
    if text is None:
        return None
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not (0 <= number < math.inf and (text.endswith("%") or number <= 1)):
        raise click.BadParameter(f"{text!r} is not a share of at least 0, such as 5% or 0.05")
    return number / 100 if text.endswith("%") else number


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout, one object a line.")(command)


def backend_options(command: Command) -> Command:
    """--backend, --device and --threads."""
    for option in (
        click.option("--threads", type=int, help="Computing threads; all cores unless given."),
        click.option("--device", help="cpu or cuda:N  [default: cpu; with TensorRT cuda:0]"),
        click.option(
            "--backend",
            type=click.Choice(["onnxruntime", "tensorrt", "tensorrt-cuda-graphs"]),
            default="onnxruntime",
            show_default=True,
            help="What runs the graphs.",
        ),
    ):
        command = option(command)
    return command


def question_options(command: Command, *, defaults: str = "") -> Command:
    """--prompt, --choices (see `named`), --oracle and --sigma.

    Args:
        command: what takes them.
        defaults: what is said of those that need not be given; the prompt and sigma must be otherwise.
    """
    for option in (
        click.option(
            "--sigma",
            type=float,
            required=not defaults,
            help=f"Noise, where pixel values span [0, 1]; above 0, at most 1.7. Try 0.25.{defaults}",
        ),
        click.option(
            "--oracle",
            help="What reads free answers: an oracle of the bundle (see `edgers inspect`), or a .json file "
            "that defines rules, a judge or clusters.",
        ),
        click.option("--choices", help=f"Allowed answers, as in left,right,stop; each is a class.{defaults}"),
        click.option("--prompt", required=not defaults, help=f"The question.{defaults}"),
    ):
        command = option(command)
    return command


def named(choices: str | None) -> list[str] | None:
    """The names that --choices lists."""
    return None if choices is None else [name.strip() for name in choices.split(",")]


def mode_options(command: Command) -> Command:
    """--assume, and the numbers that its modes take; `mode_of_options` reads them."""
    for option in (
        click.option(
            "--audited",
            help="Votes for the class that a teacher labelled, and with how many it agrees: AGREED/LABELLED.",
        ),
        click.option(
            "--calibration",
            help="The oracle's errors in labelled data with one answer per image: ERRORS/TOTAL; in mode "
            "calibrated-false-positive one such pair for each other class, with commas between. Where images "
            "are certified with an oracle that the bundle has counts of, these unless given.",
        ),
        click.option("--false-negative-rate", type=float, help="Lower bound of the oracle's misses."),
        click.option("--false-positive-rate", type=float, help="Upper bound of the oracle's false alarms."),
        click.option("--error-rate", type=float, help="Upper bound; in mode symmetric a lower bound."),
        click.option(
            "--assume",
            default="composite",
            show_default=True,
            metavar="MODE",
            help="What is claimed and assumed: composite, pairwise, adversarial, false-positive, asymmetric, "
            "symmetric, unknown, audit, calibrated or calibrated-false-positive.",
        ),
    ):
        command = option(command)
    return command


def mode_of_options(
    assume: str,
    *,
    error_rate: float | None,
    false_positive_rate: float | None,
    false_negative_rate: float | None,
    calibration: str | None,
    audited: str | None,
) -> Mode:
    """The mode that the options name.

    Raises:
        InputError: no such mode, or other numbers than it takes.
    """
    from edgers.smoothing.mode import parameters
    from edgers.smoothing.oracle_error import MODES, mode

    given: dict[str, object] = {
        "error_rate": error_rate,
        "false_positive_rate": false_positive_rate,
        "false_negative_rate": false_negative_rate,
    }
    if calibration is not None and assume == "calibrated-false-positive":
        given["counts"] = tuple(pair("--calibration", each) for each in calibration.split(","))
    elif calibration is not None:
        given["errors"], given["total"] = pair("--calibration", calibration)
    if audited is not None:
        given["correct"], given["audited"] = pair("--audited", audited)
    given = {name: value for name, value in given.items() if value is not None}
    takes, options = _options_of(parameters(MODES[assume]) if assume in MODES else given), _options_of(given)
    if takes != options:
        raise InputError(f"--assume {assume} takes {_listed(takes)}; it was given {_listed(options)}")
    try:
        return mode(assume, **given)
    except ValueError as error:
        raise InputError(str(error)) from None


def bundle_mode(
    assume: str,
    manifest: Manifest,
    oracle: str | None,
    prompt: str,
    sigma: float,
    **numbers: Any,  # noqa: ANN401  those of `mode_of_options`
) -> Mode:
    """The mode that the options name; the calibrated ones without --calibration by the bundle's counts.

    Raises:
        InputError: as `mode_of_options`; or the bundle has no such counts.
    """
    from edgers.calibration import calibrated
    from edgers.smoothing.oracle_error import Calibrated, CalibratedFalsePositive

    if assume in {Calibrated.name, CalibratedFalsePositive.name} and not any(
        number is not None for number in numbers.values()
    ):
        return calibrated(manifest, oracle, assume, prompt, sigma)
    return mode_of_options(assume, **numbers)


def _options_of(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(_OPTIONS[name] for name in names if name in _OPTIONS))


def _listed(options: list[str]) -> str:
    return " and ".join(options) or "no number"


def pair(option: str, text: str) -> tuple[int, int]:
    """Two counts that an option gives with a slash between.

    Raises:
        InputError: it is none.
    """
    match = re.fullmatch(r"\s*([0-9]{1,10})/([0-9]{1,10})\s*", text)
    if match is None:
        raise InputError(f"{option} is {text!r}; it must be two counts, as in 3/1000")
    return int(match[1]), int(match[2])
