"""One picture of a report, and the table that says the same without seeing it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgers_engines.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture.

    Attributes:
        key: its name in addresses.
        title: what it shows.
        caption: how to read it, in a sentence or two.
        header: of the table.
        rows: of the table, as wide as the header.
        draw: into empty axes, the title included.
    """

    key: str
    title: str
    caption: str
    header: Row
    rows: tuple[Row, ...]
    draw: Callable[[Axes], None]


def head(axes: Axes, title: str) -> None:
    """The title and the frame that all pictures have."""
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def write_instead(axes: Axes, title: str, text: str) -> None:
    """A reason where there is nothing to draw."""
    head(axes, title)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    lines = "\n".join(textwrap.wrap(printable(text), 52, max_lines=9, placeholder=" …"))
    axes.text(0.5, 0.5, lines, ha="center", va="center", fontsize=10, parse_math=False)


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3g}"
