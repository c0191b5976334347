"""The sheet that a scene is drawn on: a picture, and a map of what each pixel of it shows.

Coordinates are shares of the image's width and height, (0, 0) at the top left. Colours are three floats in
[0, 1]. The map is what training teaches the vision tower to read first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edgers_export.demo.layout import KINDS

SIZE = 96
PATCH = 16
PATCHES = (SIZE // PATCH) ** 2
SUPERSAMPLING = 2

BACKGROUND = 0
DOOR = 2 * len(KINDS) + 1
CONTENTS = DOOR + 1  # background, near box/cone/person, far box/cone/person, door

Colour = Sequence[float] | npt.NDArray[np.float64]
Point = tuple[float, float]
Bounds = tuple[float, float, float, float]  # left, top, right, bottom
Rung = tuple[float, float]  # height in the image, half width


def content_of(kind: str, *, is_near: bool) -> int:
    """The number in the content map of a near or far thing of this kind."""
    return 1 + KINDS.index(kind) + (0 if is_near else len(KINDS))


class Canvas:
    """A picture at twice the final size, and beside it the map of what each final pixel shows."""

    def __init__(self) -> None:
        self.side = SIZE * SUPERSAMPLING
        self.picture = Image.new("RGB", (self.side, self.side))
        self.contents = Image.new("L", (SIZE, SIZE), BACKGROUND)
        self._pen = ImageDraw.Draw(self.picture)
        self._content_pen = ImageDraw.Draw(self.contents)

    def polygon(self, corners: Sequence[Point], colour: Colour, content: int | None = None) -> None:
        """Fill a polygon in the picture and, if `content` is given, in the map."""
        self._pen.polygon([(x * self.side, y * self.side) for x, y in corners], fill=_rgb(colour))
        if content is not None:
            self._content_pen.polygon([(x * SIZE, y * SIZE) for x, y in corners], fill=content)

    def rectangle(self, bounds: Bounds, colour: Colour, content: int | None = None) -> None:
        """Fill a rectangle."""
        left, top, right, bottom = bounds
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour, content)

    def trapezium(
        self, x: float, bottom: Rung, top: Rung, colour: Colour, content: int | None = None
    ) -> None:
        """Fill a symmetric shape around `x` that narrows or widens from `bottom` to `top`."""
        (low, wide), (high, narrow) = bottom, top
        corners = [(x - wide, low), (x + wide, low), (x + narrow, high), (x - narrow, high)]
        self.polygon(corners, colour, content)

    def ellipse(self, bounds: Bounds, colour: Colour, content: int | None = None) -> None:
        """Fill the ellipse that touches the bounds."""
        self._pen.ellipse([value * self.side for value in bounds], fill=_rgb(colour))
        if content is not None:
            self._content_pen.ellipse([value * SIZE for value in bounds], fill=content)

    def dome(self, bounds: Bounds, colour: Colour) -> None:
        """Fill the upper half of an ellipse, in the picture only."""
        self._pen.pieslice([value * self.side for value in bounds], 180, 360, fill=_rgb(colour))

    def line(self, start: Point, end: Point, colour: Colour) -> None:
        """Draw a line one final pixel wide, in the picture only."""
        points = [(x * self.side, y * self.side) for x, y in (start, end)]
        self._pen.line(points, fill=_rgb(colour), width=SUPERSAMPLING)

    def patches(self) -> npt.NDArray[np.float32]:
        """The share of each content in each patch, row by row: float32 [PATCHES, CONTENTS], rows sum to 1."""
        rows = SIZE // PATCH
        one_hot = np.eye(CONTENTS, dtype=np.float32)[np.asarray(self.contents)]
        squares = one_hot.reshape(rows, PATCH, rows, PATCH, CONTENTS)
        shares: npt.NDArray[np.float32] = squares.mean(axis=(1, 3))
        return shares.reshape(PATCHES, CONTENTS)


def _rgb(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (int(max(0.0, min(255.0, value * 255))) for value in colour)
    return red, green, blue
