"""`edgers export`: the one command here that needs the workstation side."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgers.cli.options import PATH, json_option
from edgers.cli.output import print_json, stderr
from edgers.workstation import workstation
from edgers_engines.atomic import check_new
from edgers_engines.errors import InputError

if TYPE_CHECKING:
    from edgers_engines.manifest import Parity, Precision, Quantization
    from edgers_engines.oracle_record import Rules
    from edgers_export.bundle import Progress


class Frame(click.ParamType[tuple[int, int]]):
    """WIDTHxHEIGHT, as height and width."""

    name = "frame"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read both numbers."""
        found = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", str(value), re.ASCII)
        if not found:
            self.fail(f"{value!r} is not a width and a height, such as 640x480", param, ctx)
        return int(found[2]), int(found[1])


@click.command("export")
@click.argument("checkpoint", type=PATH, metavar="MODEL_DIR")
@click.option("--out", type=PATH, required=True, help="Bundle directory to make.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of weights and activations; half precision is another base classifier.",
)
@click.option(
    "--quantize",
    "quantization",
    type=click.Choice(["int8-weights", "int4-weights", "int8", "fp8"]),
    help="Store the weights of the decoder's layers in fewer bits, or multiply 8-bit numbers in all layers; "
    "again another base classifier.",
)
@click.option(
    "--calibrate",
    type=PATH,
    metavar="FOLDER",
    help="Images like those to be asked about, whose largest inputs become the scales of int8 and fp8.",
)
@click.option(
    "--frame",
    type=Frame(),
    metavar="WIDTHxHEIGHT",
    help="The camera's, such as 640x480, for models that cut an image into tiles by its size.",
)
@click.option(
    "--pool",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Average N by N image features into one: fewer tokens, and another base classifier.",
)
@click.option(
    "--cuda-decoder",
    is_flag=True,
    help="Add a second decoder graph that ONNX Runtime runs faster on CUDA; with --precision fp16.",
)
@click.option("--max-length", type=int, help="Positions for image, prompt and answer  [default: all]")
@click.option(
    "--opset", type=click.IntRange(24, 25), default=24, show_default=True, help="ONNX opset of the graphs."
)
@click.option(
    "--rules",
    "rules_paths",
    type=PATH,
    multiple=True,
    metavar="FILE.json",
    help="Rules that read free answers, as an oracle of the bundle; may be repeated.",
)
@click.option("--licence", default="unknown", show_default=True, help="The weights' licence.")
@json_option
def command(
    *,
    checkpoint: Path,
    out: Path,
    precision: Precision,
    frame: tuple[int, int] | None,
    pool: int,
    cuda_decoder: bool,
    quantization: Quantization | None,
    calibrate: Path | None,
    max_length: int | None,
    opset: int,
    rules_paths: tuple[Path, ...],
    licence: str,
    as_json: bool,
) -> int:
    """Turn a local Hugging Face LLaVA checkpoint into a bundle, and compare it with PyTorch."""
    from edgers.collect import images_in
    from edgers_engines.manifest import CALIBRATED

    check_new(out)  # before torch is imported, which takes a while
    if not checkpoint.is_dir():
        raise InputError(f"there is no folder {checkpoint}: download the checkpoint first, nothing here does")
    if (quantization in CALIBRATED) != (calibrate is not None):
        raise click.UsageError("--quantize int8 and fp8 need --calibrate FOLDER, and nothing else does")
    images = images_in([calibrate]) if calibrate else []
    oracles = _read_rules(rules_paths)
    start = time.perf_counter()
    with _stages() as progress:
        with workstation("exporting"):
            from edgers_export.bundle import export_bundle
        bundle = export_bundle(
            checkpoint,
            out,
            licence=licence,
            oracles=oracles,
            precision=precision,
            frame=frame,
            pool=pool,
            cuda_decoder=cuda_decoder,
            quantization=quantization,
            calibration=images,
            opset=opset,
            max_length=max_length,
            progress=progress,
        )
    seconds = time.perf_counter() - start
    manifest = bundle.manifest
    size = sum(file.size for file in manifest.files)
    cuda = manifest.graphs.cuda_decoder
    if as_json:
        report = {"path": str(out), "digest": bundle.digest, "precision": precision, "bytes": size}
        if cuda:
            report["cuda_parity"] = cuda.parity
        print_json({**report, "parity": manifest.parity, "seconds": round(seconds, 3)})
    else:
        click.echo(
            f"{out}: {size / 1e6:.1f} MB in {seconds:.0f} s, {_parity(manifest.parity)}, "
            + (f"with {cuda.file} {_parity(cuda.parity)}, " if cuda else "")
            + f"digest {bundle.digest}"
        )
    return 0


def _parity(parity: Parity) -> str:
    return (
        f"{parity.equal_tokens}/{parity.tokens} tokens as PyTorch (largest logit difference "
        f"{parity.largest_logit_difference:.2g})"
    )


def _read_rules(paths: tuple[Path, ...]) -> tuple[Rules, ...]:
    """The oracles that files define; rules that are never reached are told on stderr."""
    from edgers.cli.lint_rules import described
    from edgers.oracle.definition import read_rules
    from edgers.oracle.lint import lint

    oracles: dict[str, Rules] = {}
    for path in paths:
        rules = read_rules(path)
        if rules.name in oracles:
            raise InputError(f"{path} defines the oracle {rules.name!r}, as another file of --rules does")
        oracles[rules.name] = rules
        for finding in lint(rules).unreachable:
            click.echo(f"edgers: warning: oracle {rules.name}, {described(finding)}", err=True)
    return tuple(oracles.values())


@contextmanager
def _stages() -> Iterator[Progress]:
    """Each stage on a line of stderr with the seconds it took; silent where stderr is not a terminal."""
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    console = stderr()
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:

        def next_stage(name: str) -> None:
            end_stage()
            bar.add_task(name, total=None)

        def end_stage() -> None:
            for task in bar.tasks:
                bar.update(task.id, total=1, completed=1)

        next_stage("import PyTorch")
        yield next_stage
        end_stage()
