"""Images in: safe decoding, linear preparation, and the operator norm that carries a radius to the camera.

Preparation (pad, resize, crop, scale to [0, 1]) is done in float64, and no value is rounded to 8 bits on the
way. So canvas = A * camera + b for a fixed matrix A and a fixed background b, and an L2 radius on the canvas
is a radius in camera pixels once divided by the largest singular value of A.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from edgers_engines.errors import ImageError
from edgers_engines.files import read_regular
from edgers_engines.records import Record
from edgers_engines.resampling import Filter, resize_matrix, spectral_norm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image
    from scipy.sparse import csr_array

MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384
MAX_SCANS = 64  # of a progressive JPEG: encoders make about ten, and each one costs time for every pixel
MAX_NOTES = 512  # parts of a file that hold no pixels; each one costs time, and some cost memory
MAX_CHUNKS = 65_536  # of a PNG's pixels; encoders make them a few KiB or larger
MAX_ASPECT = 64  # beyond it, scaling the shorter edge up would make an image of absurd length
FORMATS = ("JPEG", "PNG", "WEBP")

_ORIENTATION = 0x0112  # the EXIF tag; for each value, Pillow's transpose that turns the image upright
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}

# A JPEG marker that begins a part: neither a stuffed zero nor a restart inside a scan.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9

Side = Annotated[int, Meta(ge=1, le=2304)]  # LLaVA-OneVision's largest grid of tiles
Level = Annotated[float, Meta(ge=0, le=1)]
CameraSide = Annotated[int, Meta(ge=1, le=MAX_SIDE)]


class Preparation(Record, frozen=True, kw_only=True):
    """From a camera image to the canvas, as the checkpoint's image processor does it.

    First `pad` puts the image in the middle of a square as wide as its longer side; it is the background, one
    number in [0, 1] for each of red, green and blue. Then exactly one of `exact` (height, width) and
    `shortest_edge` (pixels) says how to resize; a padded square has `exact`. Last `crop` (height, width)
    takes the centre. `frame` (height, width) is the camera's, where a model looks at an image in tiles: their
    number depends on its shape, so images of another are refused.
    """

    exact: tuple[Side, Side] | None = None
    shortest_edge: Side | None = None
    filter: Filter = "bicubic"
    crop: tuple[Side, Side] | None = None
    pad: tuple[Level, Level, Level] | None = None
    frame: tuple[CameraSide, CameraSide] | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out.

        Raises:
            ValueError: not exactly one way to resize, a padded square resized by its shortest edge, or a crop
                larger than what it is cut from.
        """
        if (self.exact is None) == (self.shortest_edge is None):
            raise ValueError("a preparation has exactly one of `exact` and `shortest_edge`")
        if self.pad is not None and self.exact is None:
            raise ValueError("a preparation with `pad` resizes the square to `exact`, not by `shortest_edge`")
        if self.frame and (self.exact is None or self.crop or self.pad):
            raise ValueError("a preparation for a `frame` resizes to `exact` and does nothing else")
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
        check_size(*self.size, self.source or "the array")
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
    _check_parts(data, path)
    from PIL import Image, UnidentifiedImageError  # imported here: `edgers --help` does not need it

    try:
        with warnings.catch_warnings():
            # Of bombs, on which check_size is stricter, and of broken metadata, which does not matter here.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            check_size(picture.height, picture.width, str(path))
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


def _check_parts(data: bytes, path: Path) -> None:
    """Refuse a file that is made to keep a decoder busy: a small one can ask for hours."""
    jpeg = data.startswith(b"\xff\xd8")
    most, count, notes = MAX_SCANS if jpeg else MAX_CHUNKS, 0, 0
    for holds_pixels in _jpeg_parts(data) if jpeg else _png_parts(data):
        count, notes = count + holds_pixels, notes + (not holds_pixels)
        if count > most:
            raise ImageError(
                f"{path} has its pixels in over {most} parts; save it again with common settings"
            )
        if notes > MAX_NOTES:
            raise ImageError(f"{path} has over {MAX_NOTES} parts without pixels; save it without metadata")


def _jpeg_parts(data: bytes) -> Iterator[bool]:
    """For each marker of a JPEG up to its end: whether it begins a scan."""
    place = 2
    while (found := _MARKER.search(data, place)) and found[1][0] != _END_OF_IMAGE:
        yield found[1][0] == _START_OF_SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")


def _png_parts(data: bytes) -> Iterator[bool]:
    """For each chunk of a PNG, or of nothing if it is none: whether it holds pixels."""
    place = 8 if data.startswith(b"\x89PNG") else len(data)
    while place < len(data):
        yield data[place + 4 : place + 8] == b"IDAT"
        place += 12 + int.from_bytes(data[place : place + 4], "big")


def check_size(height: int, width: int, what: str) -> None:
    """Refuse an image's size.

    Args:
        height: in pixels.
        width: in pixels.
        what: has this size.

    Raises:
        ImageError: it has too many pixels, or is far longer than wide.
    """
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

    A checkpoint's own processor lets Pillow round to 8 bits and clip to 0..255 after resizing one axis, and
    again after the other. Where nothing is clipped, it gives this canvas to within (1 + w) / 2 levels of 255,
    w being the largest sum of absolute weights of an output pixel along one axis. That is 1 level for box,
    bilinear and hamming, and at most 1.14 for bicubic and 1.3 for lanczos, whose negative lobes carry the
    first rounding further. At hard edges close to black or white these two overshoot, by at most (w - 1) / 2
    of the contrast along each axis. The processor clips that; this canvas keeps it: clipping is not linear.

    Returns:
        float64 [3, height, width], about [0, 1] (filters with negative lobes overshoot a little), not yet on
        the lattice.
    """
    rows, columns = _matrices(camera.size, preparation)
    canvas = np.empty((3, *preparation.canvas_size))
    for channel, plane in zip(canvas, camera.pixels.transpose(2, 0, 1), strict=True):
        # One channel at a time: a 12-megapixel frame takes 100 MB in float64.
        channel[:] = (columns @ (rows @ (plane / 255.0)).T).T
    if preparation.pad is not None:
        # Weights add up to 1, so what the image does not contribute to a canvas pixel is the background's.
        background = 1 - np.outer(rows.sum(axis=1), columns.sum(axis=1))
        canvas += np.multiply.outer(preparation.pad, background)
    return canvas


@lru_cache(maxsize=8)  # a camera's frames all have one size
def operator_norm(camera_size: tuple[int, int], preparation: Preparation) -> float:
    """The largest singular value of the linear part of the map from camera to canvas values, rounded up.

    Both in units where 0..255 is 0..1. The linear part is a Kronecker product of one matrix per axis, so its
    norm is the product of theirs. A padding's background is a constant, which no change of the image moves.

    Args:
        camera_size: height and width in pixels.
        preparation: how the canvas is made.
    """
    rows, columns = _matrices(camera_size, preparation)
    return spectral_norm(rows) * spectral_norm(columns) * (1 + 1e-12)


@lru_cache(maxsize=4)
def _matrices(camera_size: tuple[int, int], preparation: Preparation) -> tuple[csr_array, csr_array]:
    """The two factors of the linear part: [canvas height, camera height] and [canvas width, camera width]."""
    _check_shape(camera_size, preparation)
    padded = camera_size if preparation.pad is None else (max(camera_size),) * 2
    resized = _resized(padded, preparation)
    rows, columns = (
        resize_matrix(whole, new, (new - kept) // 2, kept, preparation.filter)[:, start : start + old]
        for old, whole, new, kept in zip(camera_size, padded, resized, preparation.canvas_size, strict=True)
        for start in [(whole - old) // 2]
    )
    return rows, columns


def _check_shape(size: tuple[int, int], preparation: Preparation) -> None:
    """Refuse an image that would be squashed by more than a pixel of the canvas, where its shape matters."""
    if not preparation.frame:
        return
    (height, width), (frame_height, frame_width) = size, preparation.frame
    stretch = (height * frame_width) / (width * frame_height)
    if abs(stretch - 1) * max(preparation.canvas_size) > 1:
        raise ImageError(
            f"the image is {width}x{height}; this bundle was exported for {frame_width}x{frame_height} and "
            f"others of that shape: crop it, or export with --frame {width}x{height}"
        )


def _resized(size: tuple[int, int], preparation: Preparation) -> tuple[int, int]:
    if preparation.exact is not None:
        return preparation.exact
    edge = preparation.shortest_edge or 0
    height, width = size
    # The longer side is rounded down, as in transformers' get_resize_output_image_size.
    return (edge, edge * width // height) if height <= width else (edge * height // width, edge)
