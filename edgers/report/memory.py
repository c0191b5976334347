"""Memory plans for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from edgers_engines.device_profile import DeviceProfile
from edgers_engines.manifest import Manifest
from edgers_engines.memory_plan import MemoryPlan

_MOST_ROWS = 4096  # what is said where more fit than anybody answers at once

# LLaVA-1.5-7B's 14.1 GB in fp16 are 4.5 with the decoder's layers in blocks of 4 bits.
_BY_FOUR_BITS = 3


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
        f"{manifest.name}, {manifest.numbers}: {_size(plan.weights)} of weights; for each sample that is "
        f"answered at once {_size(plan.sample)}: {_size(plan.cache)} of cache ({plan.positions} positions), "
        f"{_size(plan.held)} of noise, features, embeddings and logits, and {_size(plan.computing)} that the "
        "graphs compute in, which is predicted. free: without what the system and CUDA take, an estimate. "
        "Where memory runs out all the same, the chunk is halved and the votes stay."
    )


def _remedy(manifest: Manifest, plan: MemoryPlan, shortest: MemoryPlan, free: int) -> str:
    """What would make it fit."""
    if shortest.rows(free):
        return f"a smaller --max-length, {shortest.positions} at least"
    wide, weights, sample = manifest.precision == "fp32", plan.weights, plan.sample
    if wide:
        weights, sample = weights // 2, sample // 2
        if weights + sample < free:
            return "export with --precision fp16"
    if manifest.quantization is None and weights // _BY_FOUR_BITS + sample < free:
        return "export with " + "--precision fp16 " * wide + "--quantize int4-weights"
    return "a smaller model"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
