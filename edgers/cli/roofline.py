"""`edgers roofline`: how close a bundle's graphs come to what a device can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgers.cli.options import PATH, as_share, backend_options, bundle_option, json_option
from edgers.cli.output import print_json, stdout, write_new
from edgers_engines.device_profile import device_profiles
from edgers_engines.errors import InputError

if TYPE_CHECKING:
    from edgers.roofline import Roofline
    from edgers_engines.bundle import Bundle

_ROWS, _SAMPLES = 25, 100
_PROFILES = ", ".join(profile.name for profile in device_profiles())


@click.command("roofline", epilog=f"\b\nKinds of devices:\n  {_PROFILES}")
@bundle_option
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME",
    help="Predict for this kind of device, which need not be here; may be repeated. Named below.",
)
@click.option(
    "--share",
    callback=as_share,
    metavar="SHARE",
    help="With --profile: the share of the limit that is assumed to be reached: 50% or 0.5  "
    "[default: 100%, the limit]",
)
@click.option("--roofs", metavar="NAME", help="Measure here, but under the roofs of such a kind of device.")
@click.option("--rows", type=click.IntRange(1), default=_ROWS, show_default=True, help="Samples at once.")
@click.option(
    "--samples", type=click.IntRange(1), default=_SAMPLES, show_default=True, help="Of a certificate, in all."
)
@click.option("--tokens", type=click.IntRange(1), help="Of an answer  [default: the most the bundle allows]")
@click.option("--prompt", help="The question  [default: the one of the bundle's self-test]")
@backend_options
@click.option("--plot", type=PATH, help="Draw the roofline here, as PNG, SVG or PDF.")
@json_option
def command(
    *,
    bundle_path: Path | None,
    profiles: tuple[str, ...],
    share: float | None,
    roofs: str | None,
    rows: int,
    samples: int,
    tokens: int | None,
    prompt: str | None,
    backend: str,
    device: str | None,
    threads: int | None,
    plot: Path | None,
    as_json: bool,
) -> int:
    """Show how close a bundle's graphs come to what a device can do.

    Counts operations and bytes of vision, prefill and a decode step, measures this machine's peak of matrix
    products and its memory's bandwidth, runs each graph for real, and says what binds it and which share of
    the limit it reaches. Takes half a minute, on an otherwise idle machine.

    With --profile: the same count under what the maker of another device states of it. Such times are
    predictions, and without --share the limit, which nothing reaches.
    """
    _check(profiles, share, roofs, (backend, device, threads), plot)
    from edgers.demo import load_bundle
    from edgers.roofline import measure, predict
    from edgers_engines.device_profile import device_profile
    from edgers_engines.engine import open_backend
    from edgers_engines.stages import question_sizes
    from edgers_engines.vlm import VisionLanguageModel

    kinds = [device_profile(name) for name in profiles]
    given = None if roofs is None else device_profile(roofs)
    bundle = load_bundle(bundle_path)
    if kinds:
        sizes = question_sizes(bundle, rows, prompt, tokens)
        found = [predict(bundle, kind, sizes, samples, 1.0 if share is None else share) for kind in kinds]
    else:
        model = VisionLanguageModel(bundle, open_backend(backend, device=device, threads=threads))
        sizes = question_sizes(bundle, rows, prompt, tokens, model.decoder_graph)
        found = [measure(model, sizes, samples, given)]
    _show(bundle, found, as_json=as_json)
    if plot is not None:
        from edgers.report.roofline import plot_rooflines

        write_new(plot, plot_rooflines(found, plot.suffix[1:]))
    return 0


def _check(
    profiles: tuple[str, ...],
    share: float | None,
    roofs: str | None,
    engine: tuple[str, str | None, int | None],
    plot: Path | None,
) -> None:
    """Refuse what does not go together, before anything takes time."""
    if profiles and (roofs is not None or engine != ("onnxruntime", None, None)):
        raise InputError("--profile runs nothing: leave out --roofs, --backend, --device and --threads")
    if not profiles and share is not None:
        raise InputError("--share goes with --profile: here the share is measured")
    if not profiles and roofs is None and engine[0] != "onnxruntime":
        raise InputError(
            f"--backend {engine[0]} runs plans of a bundle only, so its peaks cannot be measured: give the "
            "device's kind with --roofs, whose published peaks are taken"
        )
    if plot is not None:
        from edgers.report.plot import check_plotting
        from edgers_engines.atomic import check_new

        check_new(plot)
        check_plotting(plot)


def _show(bundle: Bundle, found: list[Roofline], *, as_json: bool) -> None:
    if as_json:
        for roofline in found:
            print_json(_object(roofline))
        return
    from edgers.report.roofline import roofline_sentences, roofline_table

    out, manifest = stdout(), bundle.manifest
    out.print(f"{manifest.name}, {manifest.numbers}", markup=False)
    for roofline in found:
        subject, *others = roofline_sentences(roofline)
        out.print(subject, markup=False)
        out.print(roofline_table(roofline))
        for sentence in others:
            out.print(sentence, markup=False)


def _object(roofline: Roofline) -> dict[str, object]:
    """The record with what follows from it."""
    from msgspec import to_builtins

    record: dict[str, object] = to_builtins(roofline)
    record["stages"] = [
        {
            **to_builtins(stage),
            "flops": stage.work.total_flops,
            "bytes": stage.work.nbytes,
            "flops_per_second": stage.flops_per_second,
            "share": stage.share,
        }
        for stage in roofline.stages
    ]
    record["certificate_seconds"] = roofline.certificate_seconds
    record["certificate_limit_seconds"] = roofline.certificate_limit_seconds
    return record
