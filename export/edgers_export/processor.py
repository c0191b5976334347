"""What a checkpoint does with an image before its weights see it: preparation and normalisation.

All of it is read from the checkpoint's own processor and tried out against it; nothing is assumed by family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgers_engines.image import CameraImage, Preparation, prepare
from edgers_engines.resampling import Filter
from edgers_export.errors import ExportError
from edgers_export.tiles import Tiles

_STEPS = {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "do_center_crop", "do_pad"}
_PROBE_SIZES = ((240, 320), (331, 180), (224, 224))
_PROBE_TOLERANCE = 2 / 255  # Pillow's two roundings to 8 bits make up to 1.3


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Per-channel mean and standard deviation, in units of [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_preparation(image_processor: Any) -> Preparation:  # noqa: ANN401  transformers is untyped
    """The padding, resize and crop of a checkpoint's image processor, tried out against the processor itself.

    What the processor does counts, not its class. Where it would convert an image to RGB makes no difference:
    a camera image is RGB. How it scales and normalises values is `read_normalisation`'s matter.

    Raises:
        ExportError: it is not one affine map to one fixed size, or does not do what its attributes say.
    """
    p = image_processor
    _check_steps(p)
    if getattr(p, "image_grid_pinpoints", None):
        raise ExportError("the image processor cuts an image into tiles, which this model does not look at")
    size, crop = _size(p, "size"), _size(p, "crop_size") if getattr(p, "do_center_crop", False) else None
    exact, edge = _pair(size), size.get("shortest_edge")
    pad = _background(p) if getattr(p, "do_pad", False) else None
    if pad is not None and edge is not None:
        exact, edge = (edge, edge), None  # of a square
    fields = {"exact": exact, "shortest_edge": edge, "crop": crop and _pair(crop), "pad": pad}
    preparation = _preparation(p, f"resizes to {size} and crops to {crop}", **fields)
    for height, width in _PROBE_SIZES:
        _check_image(p, preparation, height, width)
    return preparation


def read_tiled_preparation(image_processor: Any, tiles: Tiles) -> Preparation:  # noqa: ANN401  as above
    """How the canvas is made that tiles are cut from, tried out against the processor itself.

    The processor shrinks the camera's image to an overview; `Tiles` shrinks the canvas, which is of another
    size, so there its values may be a little further off.

    Raises:
        ExportError: the canvas is too large, or the processor does not do what its attributes say.
    """
    p, grid = image_processor, tiles.grid
    _check_steps(p)
    preparation = _preparation(p, f"resizes to {grid.canvas}", exact=grid.canvas, frame=grid.frame)
    _check_image(p, preparation, *grid.frame, tiles)
    return preparation


def _preparation(p: Any, what: str, **fields: Any) -> Preparation:  # noqa: ANN401
    try:
        return msgspec.convert({**fields, "filter": read_filter(p.resample)}, Preparation)
    except ValueError as error:
        raise ExportError(f"the image processor {what}: {error}") from None


def read_normalisation(image_processor: Any) -> Normalisation:  # noqa: ANN401  transformers is untyped
    """What the processor subtracts from canvas values, and then divides them by.

    A processor multiplies 0..255 by its rescale factor or by nothing, then normalises or not. All of that is
    one mean and deviation per channel in units of [0, 1]: 0 and 1 where it rescales by 1/255 and no more.

    Raises:
        ExportError: no mean and deviation for three channels.
    """
    p = image_processor
    factor = p.rescale_factor if getattr(p, "do_rescale", False) else 1
    if not (isinstance(factor, (int, float)) and 0 < factor < math.inf):
        raise ExportError(f"the image processor rescales by {factor!r}, not by a positive number")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if getattr(p, "do_normalize", False):
        mean, std = _per_channel(p, "image_mean"), _per_channel(p, "image_std")
    if min(std) <= 0:
        raise ExportError(f"the image processor divides by {std}; a standard deviation is positive")
    white = 255 * factor
    return Normalisation(
        (mean[0] / white, mean[1] / white, mean[2] / white), (std[0] / white, std[1] / white, std[2] / white)
    )


def _check_steps(p: Any) -> None:  # noqa: ANN401
    if not getattr(p, "do_resize", False):
        raise ExportError("the image processor must resize: a canvas has one size")
    others = [n for n in dir(p) if n.startswith("do_") and getattr(p, n) is True and n not in _STEPS]
    if others:
        raise ExportError(f"the image processor has a step that cannot be exported: {', '.join(others)}")


def _size(p: Any, name: str) -> dict[str, int]:  # noqa: ANN401
    """An attribute as transformers reads it: a plain number is a square crop, or the shorter edge."""
    from transformers.image_processing_utils import get_size_dict

    found = getattr(p, name, None)
    try:
        size = dict(get_size_dict(found, default_to_square=name == "crop_size", param_name=name))
    except ValueError as error:
        raise ExportError(f"the image processor's {name} is {found!r}: {error}") from None
    if set(size) != {"height", "width"} and (set(size) != {"shortest_edge"} or name == "crop_size"):
        raise ExportError(f"the image processor's {name} is {found!r}, which is not one fixed size")
    return size


def _pair(size: dict[str, int]) -> tuple[int, int] | None:
    return (size["height"], size["width"]) if "height" in size else None


def _background(p: Any) -> tuple[float, float, float]:  # noqa: ANN401
    """What LlavaImageProcessor pads an image to a square with: its mean, as whole levels of 255."""
    if not hasattr(p, "pad_to_square"):
        raise ExportError("the image processor pads, but not to a square before it resizes")
    red, green, blue = (int(mean * 255) / 255 for mean in _per_channel(p, "image_mean"))
    return red, green, blue


def _per_channel(p: Any, name: str) -> tuple[float, float, float]:  # noqa: ANN401
    found = getattr(p, name, None)
    numbers = [found] * 3 if isinstance(found, (int, float)) else found
    if not (isinstance(numbers, (list, tuple)) and len(numbers) == 3 and all(map(_is_finite, numbers))):
        raise ExportError(f"the image processor's {name} is {found!r}, not a number for each of 3 channels")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _is_finite(number: object) -> bool:
    return isinstance(number, (int, float)) and math.isfinite(number)


def _check_image(
    p: Any,  # noqa: ANN401
    preparation: Preparation,
    height: int,
    width: int,
    tiles: Tiles | None = None,
) -> None:
    """The processor's own output for a smooth image, compared with what a device will compute."""
    import torch
    from PIL import Image

    what, pixels = f"a {width}x{height} image", _smooth(height, width)
    try:
        values = np.asarray(p(Image.fromarray(pixels), return_tensors="pt").pixel_values)
    except Exception as error:  # noqa: BLE001  a processor raises whatever its settings bring about
        raise ExportError(f"the image processor fails on {what}: {type(error).__name__}: {error}") from None
    canvas = np.clip(prepare(CameraImage(pixels), preparation), 0, 1)[None]
    views = canvas if tiles is None else tiles.cut(torch.from_numpy(canvas).float()).numpy()[None]
    if values.shape != views.shape:
        raise ExportError(f"the image processor makes {values.shape} of {what}, not {views.shape} as it says")
    normalisation = read_normalisation(p)
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (normalisation.mean, normalisation.std))
    if (worst := np.abs(values * std + mean - views).max()) > _PROBE_TOLERANCE:
        raise ExportError(
            f"the image processor's values for {what} are {255 * worst:.1f}/255 off what it says it does"
        )


def _smooth(height: int, width: int) -> NDArray[np.uint8]:
    """Slow waves, different in each channel and without symmetry, far from where Pillow clips."""
    x, y = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    waves = np.stack([np.cos(9 * x + 4 * y), np.sin(7 * y), np.sin(5 * x - 8 * y)], axis=-1)
    return (127.5 + 80 * waves).astype(np.uint8)


def read_filter(resample: int) -> Filter:
    """The filter that an image processor resizes by.

    Raises:
        ExportError: it is no linear one.
    """
    from PIL.Image import Resampling

    name = Resampling(resample).name.lower()
    for known in get_args(Filter):
        if name == known:
            return known  # type: ignore[no-any-return]  # get_args is untyped
    raise ExportError(f"the image processor resizes by {name}, which is not a linear filter")
