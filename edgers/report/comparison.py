"""Two bundles side by side, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from edgers.advice import floored
from edgers.comparison import FrameComparison, Side
from edgers.oracle.base import UNDECIDED
from edgers_engines.errors import printable


def comparison_table(frames: Sequence[FrameComparison]) -> Table:
    """One line for each frame."""
    table = Table("image", box=box.SIMPLE)
    for name in ("tokens", "answers", "labels", "undecided"):
        table.add_column(name, justify="right")
    for name in ("first", "second"):
        table.add_column(f"{name}: R")
    for frame in frames:
        table.add_row(
            printable(Path(frame.image).name),
            f"{frame.equal_tokens}/{frame.tokens}",
            f"{frame.equal_answers}/{frame.samples}",
            f"{frame.equal_labels}/{frame.samples}",
            ", ".join(str(side.votes[UNDECIDED]) for side in frame.sides),
            *map(_verdict, frame.sides),
            style="" if frame.same_verdict else "yellow",
        )
    return table


def comparison_summary(frames: Sequence[FrameComparison]) -> str:
    """All frames together, and what the columns mean."""
    samples = sum(frame.samples for frame in frames)

    def share(equal: int, of: int) -> str:
        return f"{100 * equal / of:.2f}% ({equal} of {of})" if of else "none"

    radii = [sum(frame.sides[side].radius or 0.0 for frame in frames) / len(frames) for side in (0, 1)]
    certified = [sum(frame.sides[side].certified for frame in frames) for side in (0, 1)]
    tokens = share(sum(frame.equal_tokens for frame in frames), sum(frame.tokens for frame in frames))
    return (
        f"Equal tokens {tokens}, each where all before it are equal and both "
        f"chose one; answers "
        f"{share(sum(f.equal_answers for f in frames), samples)}; labels "
        f"{share(sum(f.equal_labels for f in frames), samples)}. The same verdict on "
        f"{sum(f.same_verdict for f in frames)} of {len(frames)} frames; certified {certified[0]} and "
        f"{certified[1]}; mean radius {floored(radii[0])} and {floored(radii[1])}, 0 where it abstains."
    )


def _verdict(side: Side) -> str:
    radius = floored(side.radius) if side.certified and side.radius is not None else "abstains"
    return f"{printable(side.label)} {radius}"
