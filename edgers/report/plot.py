"""A certificate as a picture: the frame, the votes, and how the certified radius follows from them."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgers.advice import floored, meaning
from edgers.certificate import Certificate
from edgers.oracle.base import OTHER
from edgers.report.colours import AMBER, GREEN, GREY
from edgers.rule import Rule
from edgers_engines.errors import InputError, printable
from edgers_engines.image import CameraImage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")
_TICK = 40  # characters of a class's name
_POINTS = 200  # of the curve, or up to twice as many


def check_plotting(path: Path) -> None:
    """Refuse a plot that cannot be drawn before any work is done for it.

    Raises:
        InputError: an unknown file type, or matplotlib is not installed.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise InputError(f"{path} must end in one of {', '.join('.' + name for name in FORMATS)}")
    if find_spec("matplotlib") is None:  # not imported yet: what is measured first would count its memory
        raise InputError("plots need matplotlib: install edgers[plot]")


def plot_certificate(certificate: Certificate, camera: CameraImage, file_type: str) -> bytes:
    """Draw one certificate.

    Args:
        certificate: what to draw.
        camera: the image it is about.
        file_type: one of `FORMATS`.

    Returns:
        The file's bytes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    frame, votes, curve = figure.subplots(1, 3, width_ratios=(1, 1.1, 1.2))
    frame.imshow(camera.pixels, interpolation="nearest")
    frame.set_axis_off()
    frame.set_title(printable(certificate.prompt), fontsize=10, wrap=True, parse_math=False)
    _draw_votes(votes, certificate)
    _draw_radius(curve, certificate)
    figure.suptitle(printable(meaning(certificate)), fontsize=9, wrap=True, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_type.lower(), dpi=150)
    return buffer.getvalue()


def _draw_votes(axes: Axes, c: Certificate) -> None:
    # When the selection chose a class that is never certified, its votes are all there is.
    votes = c.votes.certification if sum(c.votes.certification.values()) else c.votes.selection
    drawn = sum(votes.values())
    counts = {name: votes[name] for name in votes if votes[name] or name in c.oracle.classes}
    names = list(counts)[::-1]
    winner = GREEN if c.certified else AMBER
    bars = axes.barh(
        range(len(names)),
        [counts[name] for name in names],
        color=[winner if name == c.label else GREY for name in names],
    )
    axes.set_yticks(range(len(names)), [_tick(name) for name in names], parse_math=False)
    axes.bar_label(bars, padding=3)
    axes.axvline(drawn / 2, color=GREY, linewidth=1, linestyle=":")
    axes.set_xlim(0, max(drawn, 1) * 1.12)
    axes.set_xticks(sorted({0, drawn // 2, drawn}))
    axes.set_title(f"votes of {drawn} noisy copies, σ = {c.sigma:g}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _tick(name: str) -> str:
    """A class beside an axis: a cluster's name is a whole answer."""
    text = printable(name)
    return text if len(text) <= _TICK else f"{text[: _TICK - 1]}…"


def _draw_radius(axes: Axes, c: Certificate) -> None:
    """The radius that every possible count would give, and where this one lies."""
    n, votes = c.samples_counted or c.n, c.votes.certification[c.label]
    first = min(n // 2, votes)
    rule = replace(c.rule, samples=n) if c.method == "fixed" else c.rule
    counts = [*range(first, n, max((n - first) // _POINTS, 1)), n]
    radii = [_radius(rule, c, k, n) for k in counts]
    axes.plot(counts, radii, color=GREY)
    axes.plot([votes], [c.radius or 0.0], "o", color=GREEN if c.certified else AMBER)
    if c.target_radius is not None:
        axes.axhline(c.target_radius, color=GREY, linewidth=1, linestyle=":", label="target radius")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlim(first - 0.01 * n, n * 1.01)
    axes.set_xlabel("votes for the selected class")
    axes.set_ylabel("certified L2 radius")
    verdict = f"R = {floored(c.radius)}" if c.certified and c.radius is not None else "abstained"
    title = f"{_tick(c.label)}: {verdict}, α = {c.alpha:g}"
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)


def _radius(rule: Rule, c: Certificate, votes: int, samples: int) -> float:
    """Not a number where so many votes would contradict what the mode assumes."""
    counts = {**dict.fromkeys(c.votes.certification, 0), OTHER: samples - votes, c.label: votes}
    try:
        return rule.conclude(c.label, counts).radius or 0.0
    except ValueError:
        return math.nan
