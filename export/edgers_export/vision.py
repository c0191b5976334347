"""The vision graph's module: noisy canvas in, image features as the decoder takes them out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from edgers_engines.image import Preparation, check_size
from edgers_export.errors import ExportError
from edgers_export.processor import (
    Normalisation,
    read_filter,
    read_normalisation,
    read_preparation,
    read_tiled_preparation,
)
from edgers_export.recipe import Recipe
from edgers_export.tiles import Tiles, read_grid


class Average(nn.Module):
    """Features [views, before, hidden], averaged by a matrix [after, before]."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix: Tensor
        self.register_buffer("matrix", matrix)

    def forward(self, features: Tensor) -> Tensor:
        """[views, after, hidden]."""
        return self.matrix.to(features.dtype) @ features


class Vision(nn.Module):
    """Canvas [batch, 3, H, W] in [0, 1] -> image features [batch, image_tokens, hidden].

    Args:
        model: the checkpoint's.
        normalisation: its image processor's.
        tiles: how it cuts a canvas into several views, if it does.
        pool: neighbouring features of a view, along each side, that become one: their average.

    Raises:
        ExportError: a view has fewer features than are to become one, or others than a square of them where
            they are to be pooled or put together from tiles.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: Any,  # noqa: ANN401  transformers is untyped
        normalisation: Normalisation,
        tiles: Tiles | None = None,
        pool: int = 1,
    ) -> None:
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        layers = model.config.vision_feature_layer
        self.layers = [layers] if isinstance(layers, int) else list(layers)
        self.drop_class_token = model.config.vision_feature_select_strategy == "default"
        self.tiles, self.newline = tiles, model.model.image_newline if tiles else None
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, 3, 1, 1))
        self.pooling = None if pool == 1 else Average(_pooling(model.config, pool))
        self.side = -(-_side(model.config) // pool)
        count = _features(model.config) if self.pooling is None else len(self.pooling.matrix)
        self.image_tokens = count if tiles is None else tiles.tokens
        if tiles is not None and count != tiles.side**2:
            raise ExportError(f"a tile has {count} features; the grid puts squares of {tiles.side} together")

    def views(self, canvas: Tensor) -> Tensor:
        """What the tower sees, normalised in float32: one view of each canvas, or all of its tiles."""
        return self.normalised(canvas if self.tiles is None else self.tiles.cut(canvas))

    def normalised(self, views: Tensor) -> Tensor:
        """Views [views, 3, height, width] in the range that the tower was trained on."""
        return (views - self.mean.float()) / self.std.float()

    def forward(self, canvas: Tensor) -> Tensor:
        """Run the vision tower, take the features of its layers, project, pool and pack them."""
        states = self.tower(self.views(canvas).to(self.tower.dtype), output_hidden_states=True).hidden_states
        chosen = [states[layer] for layer in self.layers]
        features = torch.cat([state[:, 1:] if self.drop_class_token else state for state in chosen], dim=-1)
        projected: Tensor = self.projector(features)
        if self.pooling is not None:
            projected = self.pooling(projected)
        if self.tiles is None or self.newline is None:
            return projected
        return self.tiles.pack(projected, self.newline)


def read_vision(
    model: Any,  # noqa: ANN401  as above
    image_processor: Any,  # noqa: ANN401
    *,
    frame: tuple[int, int] | None = None,
    pool: int = 1,
) -> tuple[Vision, Preparation]:
    """A checkpoint's vision module, and how a device prepares its canvas.

    Args:
        model: the checkpoint's.
        image_processor: the checkpoint's.
        frame: height and width of the camera's images, for families that cut them into tiles.
        pool: see `Vision`.

    Raises:
        ExportError: see `read_preparation`, `read_grid` and `Vision`; or the tower takes another size.
    """
    config, tiles = model.config, None
    if frame is not None:
        side = -(-_side(config) // pool)
        grid = read_grid(config, image_processor, frame)
        tiles = Tiles(grid, config, read_filter(image_processor.resample), side)
    preparation = (
        read_preparation(image_processor) if tiles is None else read_tiled_preparation(image_processor, tiles)
    )
    vision = Vision(model, read_normalisation(image_processor), tiles, pool)
    size = config.vision_config.image_size
    if tiles is None and preparation.canvas_size != (size, size):
        height, width = preparation.canvas_size
        raise ExportError(
            f"the image processor makes {width}x{height}; the vision tower takes a square of {size}"
        )
    return vision, preparation


def check_frame(recipe: Recipe, frame: tuple[int, int] | None) -> None:
    """Refuse a family with tiles without a frame, and a frame for another, or one that no image can have.

    Raises:
        ExportError, ImageError: as said.
    """
    if recipe.tiles and frame is None:
        raise ExportError(
            f"{recipe.title} cuts an image into tiles by its size: give the camera's with --frame, such as "
            "640x480"
        )
    if frame is not None:
        check_size(*frame, "the camera's image")
    if frame is not None and not recipe.tiles:
        raise ExportError(f"--frame is for models with tiles; {recipe.title} takes images of any size")


def _side(config: Any) -> int:  # noqa: ANN401  as above
    """Features along each side of what the tower sees."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def _features(config: Any) -> int:  # noqa: ANN401  as above
    """Features of what the tower sees; CLIP has one more before the square, and the first may be dropped."""
    first = config.vision_config.model_type == "clip_vision_model"
    dropped = config.vision_feature_select_strategy == "default"
    return int(_side(config) ** 2 + first - dropped)


def _pooling(config: Any, pool: int) -> Tensor:  # noqa: ANN401  as above
    """Average over squares of `pool` features on each side, as a matrix [features after, before].

    What is left at the right and below is averaged by itself; a class token before the square stays.
    """
    side, first = _side(config), _features(config) - _side(config) ** 2
    if not 1 <= pool <= side or first < 0:
        raise ExportError(f"--pool is {pool}; this tower has {side} features along each side")
    before = torch.eye(side * side).view(-1, 1, side, side)
    after = avg_pool2d(before, pool, ceil_mode=True, count_include_pad=False).flatten(1).T
    stays = torch.zeros(first + len(after), first + after.shape[1])
    stays[:first, :first], stays[first:, first:] = torch.eye(first), after
    return stays
