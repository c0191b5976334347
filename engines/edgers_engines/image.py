"""Images in: safe decoding, linear preparation, and the operator norm that carries a radius to the camera.

Preparation (resize, crop, scale to [0, 1]) stays linear and in float64: no value is rounded to 8 bits on the
way. So canvas = A * camera for a fixed matrix A, and an L2 radius on the canvas is a radius in camera pixels
once divided by the largest singular value of A.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgers_engines.errors import ImageError
from edgers_engines.files import read_regular
from edgers_engines.records import Record

if TYPE_CHECKING:
    from PIL import Image

MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384
MAX_ASPECT = 64  # beyond it, scaling the shorter edge up would make an image of absurd length
FORMATS = ("JPEG", "PNG", "WEBP")

_ORIENTATION = 0x0112  # the EXIF tag; for each value, Pillow's transpose that turns the image upright
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}

Side = Annotated[int, Meta(ge=1, le=2048)]
CameraSide = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Filter = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]


class Preparation(Record, frozen=True, kw_only=True):
    """From a camera image to the canvas, as the checkpoint's image processor does it.

    Exactly one of `exact` (height, width) and `shortest_edge` (pixels) says how to resize; `crop` (height,
    width) then takes the centre.
    """

    exact: tuple[Side, Side] | None = None
    shortest_edge: Side | None = None
    filter: Filter = "bicubic"
    crop: tuple[Side, Side] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out.

        Raises:
            ValueError: not exactly one way to resize, or a crop larger than what it is cut from.
        """
        if (self.exact is None) == (self.shortest_edge is None):
            raise ValueError("a preparation has exactly one of `exact` and `shortest_edge`")
        if self.crop is None:
            if self.exact is None:
                raise ValueError("a preparation by `shortest_edge` needs a `crop`: the canvas has one size")
            return
        least = self.exact or (self.shortest_edge, self.shortest_edge)
        if any(c > s for c, s in zip(self.crop, least, strict=True) if s is not None):
            raise ValueError(f"the crop {self.crop} is larger than the resized image {least}")

    @property
    def canvas_size(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        size = self.crop or self.exact
        if size is None:
            raise ValueError("a preparation without crop or exact size")
        return size


@dataclass(frozen=True, slots=True, eq=False)
class CameraImage:
    """A decoded image: RGB pixels, uint8 [height, width, 3], and what was done to get them."""

    pixels: NDArray[np.uint8]
    source: str | None = None
    rotated: bool = False

    def __post_init__(self) -> None:
        """Keep a copy of its own, so that a camera may write its next frame where this one was.

        Raises:
            ImageError: the array is not uint8 [height, width, 3], or too large.
        """
        pixels = self.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ImageError(
                f"an image array is uint8 [height, width, 3]; this is {pixels.dtype} {list(pixels.shape)}"
            )
        _check_size(*self.size, self.source or "the array")
        own = pixels.copy(order="C")
        own.flags.writeable = False
        object.__setattr__(self, "pixels", own)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in camera pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def sha256(self) -> str:
        """Digest of the decoded pixels: of 'HEIGHTxWIDTH RGB8 ' and the raw bytes, row by row."""
        height, width = self.size
        return hashlib.sha256(f"{height}x{width} RGB8 ".encode() + self.pixels.tobytes()).hexdigest()

    @classmethod
    def of(cls, source: CameraImage | str | Path | NDArray[np.uint8]) -> CameraImage:
        """An image from a file's path or from an RGB array.

        Raises:
            ImageError: the file cannot be read safely, or the array is not uint8 [height, width, 3].
        """
        if isinstance(source, CameraImage):
            return source
        if isinstance(source, np.ndarray):
            return cls(source)
        if not isinstance(source, (str, Path)):
            raise ImageError(f"an image is a file's path or an RGB array, not {type(source).__name__}")
        return read_image(Path(source))


def read_image(path: Path) -> CameraImage:
    """Decode a JPEG, PNG or WebP file to RGB, upright.

    Args:
        path: a regular file of at most 64 MiB with one frame of 8-bit grey or RGB, at most 50 megapixels.

    Returns:
        The pixels. An EXIF orientation is applied, and `rotated` says so.

    Raises:
        ImageError: anything else; names the file and the reason.
    """
    data = _read_file(path)
    from PIL import Image, UnidentifiedImageError  # imported here: `edgers --help` does not need it

    try:
        with warnings.catch_warnings():
            # Of bombs, on which _check_size is stricter, and of broken metadata, which does not matter here.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(picture.height, picture.width, str(path))
            _check_frame(picture, data, path)
            turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
            rgb = picture.convert("RGB")
        pixels = np.asarray(rgb if turn is None else rgb.transpose(Image.Transpose(turn)), dtype=np.uint8)
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a JPEG, PNG or WebP image") from None
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{path} is far larger than the {MAX_PIXELS} pixels that are accepted") from None
    except Exception as error:  # noqa: BLE001  Pillow's readers raise whatever broken bytes bring about
        raise ImageError(f"{path} cannot be decoded: {error}") from None
    # A name that is not valid Unicode could not be written into a certificate.
    source = str(path).encode(errors="backslashreplace").decode()
    return CameraImage(pixels, source, rotated=turn is not None)


def _read_file(path: Path) -> bytes:
    try:
        data = read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        raise ImageError(f"cannot read the image {str(path)!r}: {error.strerror}") from None
    if not data:
        raise ImageError(f"{path} has 0 bytes: it is empty")
    return data


def _check_size(height: int, width: int, what: str) -> None:
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ImageError(f"{what} is {height}x{width}; one side is over {MAX_ASPECT} times the other")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise ImageError(
            f"{what} is {height}x{width}; at most {MAX_PIXELS} pixels and {MAX_SIDE} a side are accepted"
        )


def _check_frame(picture: Image.Image, data: bytes, path: Path) -> None:
    frames, mode = getattr(picture, "n_frames", 1), picture.mode
    # Pillow reads a 16-bit colour PNG as 8-bit without a word; its header has the depth in byte 24.
    if picture.format == "PNG" and data[24] == 16:
        mode = "16 bits"
    if frames != 1:
        raise ImageError(f"{path} has {frames} frames; give one frame as its own file")
    if mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        raise ImageError(f"{path} has transparency; flatten it onto the background you mean first")
    if mode not in {"L", "RGB", "P", "1"}:
        raise ImageError(f"{path} has pixel format {mode}; 8-bit grey or RGB is accepted: convert it first")


def prepare(camera: CameraImage, preparation: Preparation) -> NDArray[np.float64]:
    """The canvas of a camera image.

    Returns:
        float64 [3, height, width], about [0, 1] (filters with negative lobes overshoot a little), not yet on
        the lattice.
    """
    rows, columns = _matrices(camera.size, preparation)
    canvas = np.empty((3, *preparation.canvas_size))
    for channel, plane in zip(canvas, camera.pixels.transpose(2, 0, 1), strict=True):
        # One channel at a time: a 12-megapixel frame takes 100 MB in float64.
        np.matmul(rows @ (plane / 255.0), columns.T, out=channel)
    return canvas


@lru_cache(maxsize=8)  # a camera's frames all have one size
def operator_norm(camera_size: tuple[int, int], preparation: Preparation) -> float:
    """The largest singular value of the linear map from camera values to canvas values, rounded up.

    Both in units where 0..255 is 0..1. The map is a Kronecker product of one matrix per axis, so its norm is
    the product of theirs.

    Args:
        camera_size: height and width in pixels.
        preparation: how the canvas is made.
    """
    rows, columns = _matrices(camera_size, preparation)
    return _spectral_norm(rows) * _spectral_norm(columns) * (1 + 1e-12)


def _spectral_norm(matrix: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.linalg.eigvalsh(matrix @ matrix.T)[-1]))


@lru_cache(maxsize=4)
def _matrices(
    camera_size: tuple[int, int], preparation: Preparation
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    resized = _resized(camera_size, preparation)
    rows, columns = (
        _resize_matrix(old, new, (new - kept) // 2, kept, preparation.filter)
        for old, new, kept in zip(camera_size, resized, preparation.canvas_size, strict=True)
    )
    return rows, columns


def _resized(camera_size: tuple[int, int], preparation: Preparation) -> tuple[int, int]:
    if preparation.exact is not None:
        return preparation.exact
    edge = preparation.shortest_edge or 0
    height, width = camera_size
    # The longer side is rounded down, as in transformers' get_resize_output_image_size.
    return (edge, edge * width // height) if height <= width else (edge * height // width, edge)


def _resize_matrix(old: int, new: int, start: int, kept: int, name: Filter) -> NDArray[np.float64]:
    """Pillow's antialiased resampling of one axis from `old` to `new` pixels, as a matrix.

    Only the rows that the crop keeps are made: [kept, old], beginning with output pixel `start`. The identity
    where nothing is resized.
    """
    if old == new:
        return np.eye(kept, old, start)
    kernel, radius = _KERNELS[name]
    scale = old / new
    stretch = max(scale, 1.0)
    centres = (np.arange(start, start + kept) + 0.5) * scale
    # Pillow takes whole source pixels from floor(centre - support + .5) up to floor(centre + support + .5).
    first = np.maximum(np.floor(centres - radius * stretch + 0.5), 0)
    last = np.minimum(np.floor(centres + radius * stretch + 0.5), old)
    source = np.arange(old)
    inside = (source >= first[:, None]) & (source < last[:, None])
    weights = np.where(inside, kernel((source + 0.5 - centres[:, None]) / stretch), 0.0)
    matrix: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return matrix


def _box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    triangle: NDArray[np.float64] = np.maximum(1 - np.abs(x), 0)
    return triangle


def _hamming(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a = -0.5  # Keys' cubic convolution with the a that Pillow uses
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


_KERNELS = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
