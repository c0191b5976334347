"""LLaVA-NeXT and LLaVA-OneVision look at an image as a whole and in tiles: here all are cut from one canvas.

Their processors choose a grid of tiles by the image's size, resize the image to fit into it, pad what is
left, and beside the tiles shrink the image to one more. The canvas is the image as it fits into the grid:
noise is added to it once, and padding, tiles and overview are made of it inside the vision graph, so they
belong to the model that is certified. Sources: Liu et al., LLaVA-NeXT (2024); Li et al., LLaVA-OneVision
(arXiv 2408.03326); the grid, the sizes and what is cut away again are transformers' own functions.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from edgers_engines.resampling import Filter, resize_matrix
from edgers_export.errors import ExportError

_LIMITED = re.compile(r"anyres_max_(\d{1,3})")
# Features of a grid beyond its limit are shrunk, but not for a few more: transformers' own threshold.
_FEW_MORE = 1.1


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the tiles of images of one size lie, all in pixels as (height, width).

    Attributes:
        frame: of the camera's image.
        canvas: what it is resized to.
        padded: with a margin around the canvas, whole tiles.
        side: height and width of a tile.
    """

    frame: tuple[int, int]
    canvas: tuple[int, int]
    padded: tuple[int, int]
    side: int

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return self.padded[0] // self.side, self.padded[1] // self.side


def read_grid(config: Any, image_processor: Any, frame: tuple[int, int]) -> Grid:  # noqa: ANN401  transformers is untyped
    """The grid that a checkpoint's processor chooses for images of one size.

    Args:
        config: the checkpoint's.
        image_processor: the checkpoint's.
        frame: height and width of the camera's images.

    Raises:
        ExportError: model and processor know different grids, or ones that are no whole tiles.
    """
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

    side, grids = config.vision_config.image_size, config.image_grid_pinpoints
    if getattr(image_processor, "image_grid_pinpoints", None) != grids:
        raise ExportError("the image processor's image_grid_pinpoints are not those of config.json")
    try:
        whole = all(size > 0 and size % side == 0 for grid in grids for size in grid)
        padded = select_best_resolution(frame, grids)
        image = np.broadcast_to(np.uint8(0), (3, *frame))
        height, width = get_patch_output_size(image, padded, "channels_first")
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ExportError(f"image_grid_pinpoints is {grids!r:.100}, not sizes of whole tiles of {side}")
    return Grid(frame, (height, width), (padded[0], padded[1]), side)


class Tiles(nn.Module):
    """Cuts canvases into views, the whole first and then its tiles, and puts their features together again.

    Args:
        grid: where the tiles lie.
        config: the checkpoint's.
        filter: how its processor resizes.
        side: features along each side of a view.

    Raises:
        ExportError: the checkpoint limits a grid's features in a way that is not known here.
    """

    zero: Tensor
    rows: Tensor
    columns: Tensor
    down: Tensor
    across: Tensor

    def __init__(self, grid: Grid, config: Any, filter: Filter, side: int) -> None:  # noqa: A002, ANN401
        super().__init__()
        self.grid, self.side = grid, side
        self.register_buffer("zero", torch.zeros(1))
        for name, length in zip(("rows", "columns"), grid.canvas, strict=True):
            matrix = resize_matrix(length, grid.side, 0, grid.side, filter).toarray()
            self.register_buffer(name, torch.from_numpy(matrix).float())
        self.kept = _unpadded(grid, side)
        rows, columns = (kept.stop - kept.start for kept in self.kept)
        shrink = _shrinkage(config, rows, columns, side)
        self.lines = (rows, columns)
        if shrink > _FEW_MORE:
            self.lines = (int(rows // shrink), int(columns // shrink))
        self.register_buffer("down", _interpolation(rows, self.lines[0]))
        self.register_buffer("across", _interpolation(columns, self.lines[1]))

    @property
    def views(self) -> int:
        """Views of one canvas."""
        return 1 + math.prod(self.grid.tiles)

    @property
    def tokens(self) -> int:
        """Features of one canvas: the overview's, and the grid's with one more at the end of each line."""
        rows, columns = self.lines
        return int(self.side**2 + rows * (columns + 1))

    def cut(self, canvas: Tensor) -> Tensor:
        """Canvases [batch, 3, *grid.canvas] -> views [batch * views, 3, side, side] of the tower's size."""
        overview = self.rows @ canvas @ self.columns.T
        (height, width), (down, across), side = self.grid.canvas, self.grid.tiles, self.grid.side
        spare = (self.grid.padded[0] - height, self.grid.padded[1] - width)
        (top, left), (bottom, right) = ((s // 2 for s in spare), (s - s // 2 for s in spare))
        padded = self._margin(self._margin(canvas, 2, top, bottom), 3, left, right)
        tiles = padded.reshape(-1, 3, down, side, across, side).permute(0, 2, 4, 1, 3, 5)
        views = torch.cat((overview[:, None], tiles.reshape(-1, down * across, 3, side, side)), dim=1)
        return views.reshape(-1, 3, side, side)

    def _margin(self, canvas: Tensor, axis: int, before: int, after: int) -> Tensor:
        """Zeros before and after; not by ONNX's Pad, which CUDA has no kernel for in some ONNX Runtimes."""
        shape = list(canvas.shape)
        zeros = [
            [self.zero.expand(*shape[:axis], size, *shape[axis + 1 :])] if size else []
            for size in (before, after)
        ]
        return torch.cat([*zeros[0], canvas, *zeros[1]], dim=axis)

    def pack(self, features: Tensor, newline: Tensor) -> Tensor:
        """Features of the views [batch * views, side², hidden] -> of the canvases [batch, tokens, hidden].

        Args:
            features: in the order of `cut`.
            newline: [hidden], what ends each line of the grid.
        """
        (down, across), side, hidden = self.grid.tiles, self.side, features.shape[-1]
        views = features.reshape(-1, self.views, side * side, hidden)
        grid = views[:, 1:].reshape(-1, down, across, side, side, hidden).permute(0, 1, 3, 2, 4, 5)
        grid = grid.reshape(-1, down * side, across * side, hidden)[:, self.kept[0], self.kept[1]]
        rows, columns = self.lines
        if grid.shape[1:3] != self.lines:
            grid = self.down.to(grid.dtype) @ grid.flatten(2)
            grid = self.across.to(grid.dtype) @ grid.reshape(-1, self.across.shape[1], hidden)
            grid = grid.reshape(-1, rows, columns, hidden)
        ends = newline.expand(grid.shape[0], rows, 1, hidden)
        lines = torch.cat((grid, ends), dim=2).reshape(-1, rows * (columns + 1), hidden)
        return torch.cat((views[:, 0], lines), dim=1)


def _unpadded(grid: Grid, side: int) -> tuple[slice, slice]:
    """Rows and columns of the grid's features that show the image and not its margin."""
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    height, width = (tiles * side for tiles in grid.tiles)
    kept = unpad_image(torch.arange(height * width).view(1, height, width), grid.frame)[0]
    if not kept.numel():
        frame = "{1}x{0}".format(*grid.frame)
        raise ExportError(f"of {frame} images, no feature of the tiles would be left: they are too narrow")
    rows, columns = kept[:, 0] // width, kept[0] % width
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _shrinkage(config: Any, rows: int, columns: int, side: int) -> float:  # noqa: ANN401
    """By what a grid of so many features is too long on each side; LLaVA-NeXT takes any."""
    named = getattr(config, "vision_aspect_ratio", None)
    if named is None:
        return 1.0
    if not isinstance(named, str) or not (limit := _LIMITED.fullmatch(named)):
        raise ExportError(f"vision_aspect_ratio is {named!r:.60}; anyres_max_N can be exported")
    return math.sqrt(rows * columns / (max(int(limit[1]), 1) * side**2))


def _interpolation(old: int, new: int) -> Tensor:
    """Bilinear interpolation of one axis, without antialiasing, as a matrix [new, old]."""
    return interpolate(torch.eye(old)[None], size=new, mode="linear")[0].T.contiguous()
