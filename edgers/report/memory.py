"""Memory plans for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from edgers_engines.device_profile import DeviceProfile
from edgers_engines.manifest import Manifest
from edgers_engines.memory_plan import MemoryPlan

_MOST_ROWS = 4096  # what is said where more fit than anybody answers at once


def memory_table(
    manifest: Manifest, plan: MemoryPlan, shortest: MemoryPlan, profiles: Sequence[DeviceProfile]
) -> Table:
    """One line for each kind of device: what is free there, and how many samples it answers at once.

    Args:
        manifest: the bundle's.
        plan: what it takes.
        shortest: the same for the shortest question.
        profiles: the kinds.
    """
    table = Table("profile", box=box.SIMPLE)
    for name in ("memory", "free", "samples at once"):
        table.add_column(name, justify="right")
    table.add_column("")
    for profile in profiles:
        free, rows = profile.free_bytes, plan.rows(profile.free_bytes)
        said = f"{_MOST_ROWS} or more" if rows >= _MOST_ROWS else str(rows) if rows else "none"
        remedy = (
            ""
            if rows
            else f"{_size(plan.missing(free))} too little: {_remedy(manifest, plan, shortest, free)}"
        )
        sizes = _size(profile.memory_bytes), _size(free)
        table.add_row(profile.name, *sizes, said, remedy)
    return table


def memory_sentence(manifest: Manifest, plan: MemoryPlan) -> str:
    """What the figures are made of."""
    return (
        f"{manifest.name}, {manifest.precision}: {_size(plan.weights)} of weights; for each sample that is "
        f"answered at once {_size(plan.sample)}: {_size(plan.cache)} of cache ({plan.positions} positions), "
        f"{_size(plan.held)} of noise, features, embeddings and logits, and {_size(plan.computing)} that the "
        "graphs compute in, which is predicted. free: without what the system and CUDA take, an estimate. "
        "Where memory runs out all the same, the chunk is halved and the votes stay."
    )


def _remedy(manifest: Manifest, plan: MemoryPlan, shortest: MemoryPlan, free: int) -> str:
    """What would make it fit."""
    if shortest.rows(free):
        return f"a smaller --max-length, {shortest.positions} at least"
    if manifest.precision == "fp32" and plan.weights // 2 + plan.sample // 2 < free:
        return "export with --precision fp16"
    return "a smaller model, or narrower weights"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
