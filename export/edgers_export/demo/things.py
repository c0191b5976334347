"""The things in a scene: cartons, traffic cones and people, each drawn where a Place says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgers_export.demo.canvas import Canvas, Colour, content_of
from edgers_export.demo.layout import BOX, CONE, PERSON

SIZES = {  # the ranges of width and height of near things, in image widths and heights
    BOX: ((0.25, 0.29), (0.27, 0.34)),
    CONE: ((0.22, 0.26), (0.36, 0.42)),
    PERSON: ((0.19, 0.23), (0.60, 0.70)),
}
BOX_COLOURS = (
    (0.55, 0.38, 0.20),
    (0.65, 0.50, 0.30),
    (0.20, 0.30, 0.55),
    (0.25, 0.45, 0.30),
    (0.50, 0.50, 0.52),
    (0.35, 0.20, 0.15),
)
CONE_COLOURS = ((0.95, 0.40, 0.08), (0.90, 0.20, 0.10), (0.95, 0.75, 0.10))
SKIN_COLOURS = ((0.92, 0.75, 0.62), (0.75, 0.55, 0.40), (0.50, 0.34, 0.24), (0.33, 0.22, 0.16))
CONE_STRIPES = ((0.35, 0.50), (0.65, 0.75))
STRIPE_COLOUR = (0.93, 0.93, 0.90)


@dataclass(frozen=True)
class Place:
    """Where a thing stands: the middle of its foot, its size, and its number in the content map."""

    x: float
    bottom: float
    width: float
    height: float
    content: int


def choose_place(
    rng: np.random.Generator, kind: str, x: float, bottom: float, scale: float, *, is_near: bool
) -> Place:
    """Choose the size of a thing of this kind; `scale` is 1 for a near one."""
    widths, heights = SIZES[kind]
    width, height = rng.uniform(*widths) * scale, rng.uniform(*heights) * scale
    return Place(x, bottom, width, height, content_of(kind, is_near=is_near))


def any_colour(rng: np.random.Generator, low: float, high: float) -> npt.NDArray[np.float64]:
    """Three channels, each uniform between `low` and `high`."""
    return rng.uniform(low, high, 3)


def _one_of(rng: np.random.Generator, colours: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    return np.array(colours[int(rng.integers(len(colours)))])


def draw_box(canvas: Canvas, rng: np.random.Generator, box: Place) -> None:
    """A carton: front, lid, and a strip of tape or a seam."""
    colour = np.clip(_one_of(rng, BOX_COLOURS) + rng.uniform(-0.08, 0.08, 3), 0.04, 0.95)
    half, top = box.width / 2, box.bottom - box.height
    edge = top + box.height * 0.2
    lean = rng.uniform(-0.25, 0.25) * box.width * 0.3
    canvas.rectangle((box.x - half, edge, box.x + half, box.bottom), colour, box.content)
    lid = [
        (box.x - half, edge),
        (box.x + half, edge),
        (box.x + half * 0.8 + lean, top),
        (box.x - half * 0.8 + lean, top),
    ]
    canvas.polygon(lid, colour * 1.35, box.content)
    if rng.random() < 0.6:
        tape = box.width * 0.06
        canvas.rectangle((box.x - tape, edge, box.x + tape, box.bottom), colour * 0.72)
    else:
        seam_top, seam_bottom = (box.bottom - box.height * share for share in (0.45, 0.38))
        canvas.rectangle((box.x - half, seam_top, box.x + half, seam_bottom), colour * 0.65)


def draw_cone(canvas: Canvas, rng: np.random.Generator, cone: Place) -> None:
    """A traffic cone on its foot, with one or two pale stripes."""
    colour = _one_of(rng, CONE_COLOURS) + rng.uniform(-0.05, 0.05, 3)

    def ring(share: float) -> tuple[float, float]:
        """The height in the image and the half width of the cone at a share of its height."""
        return cone.bottom - cone.height * share, cone.width * (0.38 - 0.33 * (share - 0.1) / 0.9)

    foot = cone.width / 2
    canvas.rectangle((cone.x - foot, ring(0.1)[0], cone.x + foot, cone.bottom), colour * 0.8, cone.content)
    canvas.trapezium(cone.x, ring(0.1), ring(1.0), colour, cone.content)
    for low, high in CONE_STRIPES[: 1 + int(rng.integers(2))]:
        canvas.trapezium(cone.x, ring(low), ring(high), STRIPE_COLOUR)


def draw_person(canvas: Canvas, rng: np.random.Generator, person: Place) -> None:
    """Two legs, a shirt with two arms, a head with hair."""
    x, bottom, width, height = person.x, person.bottom, person.width, person.height
    skin, shirt = _one_of(rng, SKIN_COLOURS), any_colour(rng, 0.08, 0.95)
    trousers, hair = any_colour(rng, 0.03, 0.4), any_colour(rng, 0.02, 0.35)
    leg, gap = width * 0.2, width * rng.uniform(0.04, 0.12)

    def part(left: float, right: float, low: float, high: float, colour: Colour) -> None:
        canvas.rectangle(
            (x + left, bottom - height * high, x + right, bottom - height * low), colour, person.content
        )

    part(-gap - leg, -gap + leg * 0.2, 0, 0.5, trousers)
    part(gap - leg * 0.2, gap + leg, 0, 0.5, trousers)
    part(-width * 0.34, width * 0.34, 0.45, 0.8, shirt)
    part(-width * 0.5, -width * 0.34, 0.42, 0.79, shirt * 0.8)
    part(width * 0.34, width * 0.5, 0.42, 0.79, shirt * 0.8)
    radius, top = height * 0.105, bottom - height
    chin = top + 2 * radius
    canvas.ellipse((x - radius * 0.85, top, x + radius * 0.85, chin), skin, person.content)
    canvas.dome((x - radius * 0.9, top - height * 0.01, x + radius * 0.9, chin), hair)


DRAW: Mapping[str, Callable[[Canvas, np.random.Generator, Place], None]] = {
    BOX: draw_box,
    CONE: draw_cone,
    PERSON: draw_person,
}
