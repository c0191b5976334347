"""`edgers engines`: the TensorRT plans that are stored on this machine."""

from __future__ import annotations

import time

import click

from edgers.cli.options import json_option
from edgers.cli.output import print_json, stderr, stdout
from edgers_engines.plans import MOST_BYTES, Plans, Stored


@click.group("engines")
def command() -> None:
    """List and remove the TensorRT plans that `edgers build` stored for this user."""


@command.command("list")
@json_option
def list_plans(*, as_json: bool) -> int:
    """Show all plans, the last used first."""
    plans = Plans()
    stored = plans.stored()
    if as_json:
        print_json({"folder": str(plans.folder), "plans": [_record(plan) for plan in stored]})
        return 0
    if not stored:
        stdout().print(f"No plans in {plans.folder}: `edgers build` makes them.", markup=False)
        return 0
    from rich import box
    from rich.table import Table

    table = Table("key", "graph", "batch", "built for", "MB", "last used", box=box.SIMPLE)
    for plan in stored:
        record, target = plan.record, plan.record.target
        batch = max(profile["batch"].most for profile in record.profiles)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(plan.used))
        place = f"{target.gpu}, {target.library}, CUDA {target.cuda}"
        table.add_row(record.key[:12], record.source.graph, str(batch), place, f"{plan.size / 1e6:.1f}", when)
    out = stdout()
    out.print(table, markup=False)
    total = sum(plan.size for plan in stored)
    out.print(f"{total / 1e9:.2f} GB in {plans.folder}; `edgers build` keeps {MOST_BYTES / 1e9:.0f} GB.")
    return 0


@command.command("prune")
@click.option(
    "--keep-gb",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Keep the last used plans, so many gigabytes of them.",
)
@json_option
def prune(*, keep_gb: float, as_json: bool) -> int:
    """Remove plans, those first that were not used for longest."""
    plans = Plans(waiting=lambda text: stderr().print(text, markup=False, soft_wrap=True))
    removed = plans.prune(int(keep_gb * 1e9), unproven=True)
    if as_json:
        print_json({"removed": [_record(plan) for plan in removed]})
    else:
        total = sum(plan.size for plan in removed)
        stdout().print(f"{len(removed)} plans removed, {total / 1e9:.2f} GB")
    return 0


def _record(plan: Stored) -> dict[str, object]:
    return {"key": plan.record.key, "last_used": plan.used, "plan": plan.record}
