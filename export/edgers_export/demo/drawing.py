"""How a scene looks: a room with a door, and the boxes, cones and people in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgers_export.demo.canvas import DOOR, SIZE, Canvas, Colour
from edgers_export.demo.layout import CENTRE, FAINT_DOOR, LEFT, PERSON, RIGHT, Layout
from edgers_export.demo.things import DRAW, Place, any_colour, choose_place, draw_person

NEAR_LANES = (0.17, 0.5, 0.83)
FAR_LANES = (0.25, 0.5, 0.75)
DOOR_LANES = (0.20, 0.5, 0.80)
POSTER_LANES = (0.22, 0.5, 0.78)
FAR_SCALE, FAR_BOTTOM, NEAR_BOTTOM = 0.56, 0.595, 0.93

HANDLE_COLOUR = (0.90, 0.85, 0.40)


@dataclass(frozen=True)
class Room:
    """What later drawing needs to know of the room: where floor meets wall, and the wall's colour."""

    horizon: float
    wall: npt.NDArray[np.float64]


def draw_layout(
    layout: Layout, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Draw a layout; returns the image, uint8 [SIZE, SIZE, 3], and the patches' content shares."""
    canvas = Canvas()
    room = _draw_room(canvas, rng)
    if rng.random() < 0.3:
        _draw_poster(canvas, rng, layout)
    if layout.door_lane is not None:
        _draw_door(canvas, rng, room, layout.door_lane, is_faint=layout.ambiguity == FAINT_DOOR)
    for lane, kind in enumerate(layout.far):
        if kind is not None:
            x = FAR_LANES[lane] + rng.uniform(-0.03, 0.03)
            DRAW[kind](
                canvas, rng, choose_place(rng, kind, x, rng.uniform(0.57, 0.62), FAR_SCALE, is_near=False)
            )
    if layout.middle_nearness is not None:
        _draw_middle_person(canvas, rng, layout.middle_nearness, is_near=layout.action == "stop")
    for lane in (LEFT, RIGHT, CENTRE) if rng.random() < 0.5 else (RIGHT, LEFT, CENTRE):
        near_kind = layout.near[lane]
        if near_kind is not None:
            _draw_near(canvas, rng, layout, lane, near_kind)
    return _photograph(canvas, rng), canvas.patches()


def _draw_room(canvas: Canvas, rng: np.random.Generator) -> Room:
    """Back wall, side walls, ceiling and a floor that is plain, boarded or tiled."""
    horizon = rng.uniform(0.40, 0.46)
    wall, floor = _greyish(any_colour(rng, 0.35, 0.85)), _greyish(any_colour(rng, 0.2, 0.7))
    if np.abs(wall - floor).max() < 0.12:
        floor = np.clip(floor - 0.2, 0.05, 1)
    left, right, ceiling = rng.uniform(0.02, 0.07), 1 - rng.uniform(0.02, 0.07), rng.uniform(0.04, 0.09)
    canvas.rectangle((0, 0, 1, 1), wall * 0.82)
    canvas.rectangle((left, 0, right, horizon), wall)
    canvas.polygon([(left, horizon), (right, horizon), (1.3, 1), (-0.3, 1)], floor)
    canvas.polygon([(0, 0), (1, 0), (right, ceiling), (left, ceiling)], wall * 1.15)
    _draw_floor_lines(canvas, rng, horizon, floor * rng.uniform(0.8, 1.2))
    canvas.rectangle((left, horizon - 0.015, right, horizon), wall * 0.6)
    return Room(horizon, wall)


def _greyish(colour: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    mixed: npt.NDArray[np.float64] = colour * 0.4 + colour.mean() * 0.6
    return mixed


def _draw_floor_lines(canvas: Canvas, rng: np.random.Generator, horizon: float, colour: Colour) -> None:
    style = ("plain", "boards", "tiles")[int(rng.integers(3))]
    vanishing_x = rng.uniform(0.4, 0.6)
    if style != "plain":
        for x in np.linspace(-1.5, 2.5, int(rng.integers(7, 14))).tolist():
            canvas.line((vanishing_x + (x - vanishing_x) * 0.25, horizon), (x, 1), colour)
    if style == "tiles":
        for row in range(1, 7):
            y = horizon + (1 - horizon) * (row / 6) ** 1.8
            canvas.line((0, y), (1, y), colour)


def _draw_poster(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    """A coloured sheet on the wall, never where the door is: something the model must learn to ignore."""
    lanes = [lane for lane in range(3) if lane != layout.door_lane]
    x = POSTER_LANES[lanes[int(rng.integers(len(lanes)))]] + rng.uniform(-0.05, 0.05)
    width, top = rng.uniform(0.06, 0.10), rng.uniform(0.10, 0.14)
    height = width * rng.uniform(0.7, 1.0)
    canvas.rectangle((x - width / 2, top, x + width / 2, top + height), any_colour(rng, 0.1, 0.95))


def _draw_door(canvas: Canvas, rng: np.random.Generator, room: Room, lane: int, *, is_faint: bool) -> None:
    x, width = DOOR_LANES[lane] + rng.uniform(-0.03, 0.03), rng.uniform(0.17, 0.21)
    top = rng.uniform(0.09, 0.13)
    colour = _door_colour(rng, room.wall)
    if is_faint:
        colour = room.wall + (colour - room.wall) * rng.uniform(0.06, 0.22)
    left, right = x - width / 2, x + width / 2
    frame = colour * (0.97 if is_faint else 0.6)
    canvas.rectangle((left - 0.015, top - 0.015, right + 0.015, room.horizon), frame, DOOR)
    canvas.rectangle((left, top, right, room.horizon), colour, DOOR)
    if not is_faint:
        handle = x + width * 0.3
        canvas.ellipse((handle, top + 0.17, handle + 0.03, top + 0.2), HANDLE_COLOUR)


def _door_colour(rng: np.random.Generator, wall: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A colour that stands out from the wall; after fifty tries the last one must do."""
    for _ in range(50):
        colour = any_colour(rng, 0.05, 0.95)
        if np.abs(colour - wall).max() > 0.35 and abs(colour.mean() - wall.mean()) > 0.12:
            break
    return colour


def _draw_middle_person(canvas: Canvas, rng: np.random.Generator, nearness: float, *, is_near: bool) -> None:
    bottom = FAR_BOTTOM + nearness * (NEAR_BOTTOM - FAR_BOTTOM)
    scale = FAR_SCALE + nearness * (1 - FAR_SCALE)
    x = 0.5 + rng.uniform(-0.02, 0.02)
    draw_person(canvas, rng, choose_place(rng, PERSON, x, bottom, scale, is_near=is_near))


def _draw_near(canvas: Canvas, rng: np.random.Generator, layout: Layout, lane: int, kind: str) -> None:
    bottom = rng.uniform(0.88, 0.97)
    x = NEAR_LANES[lane] + rng.uniform(-0.025, 0.025)
    if lane == CENTRE and layout.centre_shift:
        x = NEAR_LANES[CENTRE] + layout.centre_shift  # without jitter, which would decide an equal gap
    place = choose_place(rng, kind, x, bottom, 1.0, is_near=True)
    if lane == layout.hiding_lane:
        place = replace(place, height=rng.uniform(0.42, 0.50))
        _draw_hidden_person(canvas, rng, place)
    DRAW[kind](canvas, rng, place)


def _draw_hidden_person(canvas: Canvas, rng: np.random.Generator, box: Place) -> None:
    """A person of whom 4 to 30% show above the box that is drawn next."""
    person = choose_place(rng, PERSON, box.x + rng.uniform(-0.03, 0.03), 0.0, 0.85, is_near=True)
    box_top, shown = box.bottom - box.height, rng.uniform(0.04, 0.30)
    # Feet that would show under the box would give the person away.
    height = min(person.height, (box.height - 0.03) / (1 - shown))
    draw_person(canvas, rng, replace(person, bottom=box_top + (1 - shown) * height, height=height))


def _photograph(canvas: Canvas, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Shrink the picture and light it: a gradient, a tint, soft blotches and a little sensor noise."""
    small = canvas.picture.resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32) / 255
    slope_x, slope_y = rng.uniform(-0.18, 0.18, 2)
    ramp = np.linspace(-1, 1, SIZE)
    light = rng.uniform(0.62, 1.08) * (1 + slope_x * ramp[None, :] + slope_y * ramp[:, None])
    tint = 1 + rng.uniform(-0.06, 0.06, 3)
    coarse = Image.fromarray(rng.normal(0, 0.03, (7, 7)).astype(np.float32))
    blotches = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    lit = (pixels + blotches[..., None]) * light[..., None] * tint + rng.normal(0, 0.01, pixels.shape)
    image: npt.NDArray[np.uint8] = (np.clip(lit, 0, 1) * 255 + 0.5).astype(np.uint8)
    return image
