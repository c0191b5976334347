"""`edgers build`: TensorRT plans of a bundle, for the GPU that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgers.cli.options import PATH, json_option
from edgers.cli.output import interruption, print_json, stderr, stdout
from edgers_engines.errors import EdgersError

if TYPE_CHECKING:
    from edgers_engines.plan_builder import Built, Progress


@click.command("build")
@click.argument("path", type=PATH, metavar="[BUNDLE]", required=False)
@click.option("--device", default="cuda:0", show_default=True, help="The GPU: cuda:N.")
@click.option("--max-batch", type=int, help="Most samples that are answered at once  [default: 32]")
@click.option(
    "--max-length",
    type=int,
    help="Positions of image, question and answer together  [default: as most questions need]",
)
@json_option
def command(
    *, path: Path | None, device: str, max_batch: int | None, max_length: int | None, as_json: bool
) -> int:
    """Build TensorRT plans of a bundle's graphs, for `--backend tensorrt`; of the demo bundle unless given.

    Plans are built on the GPU that will run them, and stored in this user's cache when they compute what the
    bundle's self-tests have. What was built before is not built again, also after an interruption. The
    precision is the bundle's: another one is another bundle (`edgers export --precision`).
    """
    from edgers.demo import load_bundle
    from edgers_engines.plan_builder import Sizes, build_plans
    from edgers_engines.plans import Plans

    bundle = load_bundle(path)
    sizes = Sizes.of(bundle.manifest, max_batch, max_length)
    plans = Plans(waiting=lambda text: stderr().print(text, markup=False, soft_wrap=True))
    with _progress() as progress:
        built = build_plans(bundle, device, sizes, progress, plans)
    removed = plans.prune(keep=[one.plan.record.key for one in built])
    if as_json:
        keys = [plan.record.key for plan in removed]
        print_json({"folder": str(plans.folder), "plans": [_record(one) for one in built], "removed": keys})
        return 0
    out = stdout()
    for plan, new in built:
        record = plan.record
        how = f"built in {record.seconds:.1f} s" if new else "was there already"
        out.print(f"{record.source.graph}: {record.size / 1e6:.1f} MB, {how}", markup=False)
    for plan in removed:
        out.print(f"removed, not used for longest: a plan of {plan.record.source.graph}", markup=False)
    out.print(
        f"They take up to {sizes.max_batch} samples at once and {sizes.max_length} positions, and lie in "
        f"{plans.folder}. Use them with --backend tensorrt --device {device}.",
        markup=False,
    )
    return 0


def _record(built: Built) -> dict[str, object]:
    return {"key": built.plan.record.key, "new": built.new, "plan": built.plan.record}


@contextmanager
def _progress() -> Iterator[Progress]:
    """The phase that a graph is in, with the time it has taken and will take; Ctrl-C ends the build."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = stderr()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with (
        interruption(catch=True) as interrupted,
        Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("")

        def tell(graph: str, phase: str, step: int, steps: int) -> bool:
            description = f"{graph}: {phase}"
            if bar.tasks[task].description != description:
                bar.reset(task, total=steps, description=description)
            bar.update(task, completed=step)
            return not interrupted()

        try:
            yield tell
        except EdgersError:
            if not interrupted():
                raise
        if interrupted():
            raise KeyboardInterrupt  # which is why the library gave up, if it did
