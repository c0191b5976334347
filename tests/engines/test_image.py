"""Images: hostile files are refused in one line, and the preparation is linear with a known norm."""

import hashlib
import io
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from edgers_engines.errors import ImageError
from edgers_engines.image import (
    MAX_ASPECT,
    MAX_FILE_BYTES,
    MAX_PIXELS,
    CameraImage,
    Preparation,
    operator_norm,
    prepare,
    read_image,
)

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
ORIENTATION = 0x0112


def pattern(height=24, width=20):
    """Random pixels: nothing about them is symmetric."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photo(kind, mode="RGB", **options):
    return encoded(Image.fromarray(pattern()).convert(mode), kind, **options)


def animation(kind):
    frames = [Image.fromarray(pattern() // (number + 1)) for number in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows=b"", *, extra=b""):
    """A PNG file written by hand: any header over any data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = (
        png_chunk(b"IHDR", header),
        extra,
        png_chunk(b"IDAT", zlib.compress(rows)),
        png_chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def exif(*entries):
    """An EXIF block written by hand: (tag, type, count, at most four bytes) each, whatever they mean."""
    body = struct.pack("<H", len(entries))
    for tag, kind, count, value in sorted(entries):
        body += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0\x08\0\0\0" + body + b"\0\0\0\0"


def turned(orientation):
    return exif((ORIENTATION, 3, 1, struct.pack("<H", orientation)))


def half(data):
    return data[: len(data) // 2]


def refusal(path):
    """The one line that refuses the image at `path`; nothing of Pillow's own error hangs on it."""
    with pytest.raises(ImageError) as caught:
        read_image(path)
    error, text = caught.value, str(caught.value)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    assert text.isprintable(), text
    assert path.name.encode("unicode_escape").decode() in text
    return text


HOSTILE = (
    pytest.param("empty.png", b"", "0 bytes", id="empty"),
    pytest.param("text.png", b"a text file\n" * 50, "not a JPEG, PNG or WebP", id="text-named-png"),
    pytest.param("pickle.jpg", b"\x80\x04\x95\x0b\0\0\0", "not a JPEG, PNG or WebP", id="pickle-named-jpg"),
    pytest.param("half.jpg", half(photo("JPEG")), "cannot be decoded", id="half-jpeg"),
    pytest.param("half.png", half(photo("PNG")), "cannot be decoded", id="half-png"),
    pytest.param("half.webp", half(photo("WEBP")), "not a|cannot be decoded", id="half-webp"),
    pytest.param("header.jpg", photo("JPEG")[:30], "not a|cannot be decoded", id="jpeg-header-only"),
    pytest.param("header.png", photo("PNG")[:33], "not a|cannot be decoded", id="png-header-only"),
    pytest.param("thin.png", png(1, 65535, 8, 0, b"\0\0" * 65535), f"over {MAX_ASPECT} times", id="1x65535"),
    pytest.param("flat.png", png(65535, 1, 8, 0, b"\0" * 65536), f"over {MAX_ASPECT} times", id="65535x1"),
    pytest.param("none.png", png(0, 5, 8, 0), "not a JPEG, PNG or WebP", id="0x5"),
    pytest.param("bomb.png", png(20_000, 20_000, 8, 2), "far larger", id="20000x20000"),
    pytest.param("large.png", png(8000, 8000, 8, 0), f"at most {MAX_PIXELS} pixels", id="8000x8000"),
    pytest.param(
        "short.png", png(3000, 3000, 8, 2, b"\0" * 9), "cannot be decoded", id="nine-bytes-of-pixels"
    ),
    pytest.param(
        "words.png",
        png(1, 1, 8, 0, b"\0\0", extra=png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(70 << 20)))),
        "cannot be decoded",
        id="text-chunk-bomb",
    ),
    pytest.param("moving.png", animation("PNG"), "3 frames", id="animated-png"),
    pytest.param("moving.webp", animation("WEBP"), "3 frames", id="animated-webp"),
    pytest.param("moving.jpg", animation("MPO"), "3 frames", id="several-jpegs-in-one"),
    pytest.param("moving.gif", animation("GIF"), "not a JPEG, PNG or WebP", id="animated-gif"),
    pytest.param("cmyk.jpg", photo("JPEG", "CMYK"), "pixel format CMYK", id="cmyk"),
    pytest.param("deep.png", png(2, 1, 16, 0, b"\0" + bytes(range(4))), "16 bit|;16", id="16-bit-grey"),
    pytest.param("deeper.png", png(2, 1, 16, 2, b"\0" + bytes(range(12))), "16 bit|;16", id="16-bit-rgb"),
    pytest.param("alpha.png", photo("PNG", "RGBA"), "transparency", id="rgba-png"),
    pytest.param("grey-alpha.png", photo("PNG", "LA"), "transparency", id="grey-with-alpha-png"),
    pytest.param(
        "alpha.webp",
        encoded(Image.new("RGBA", (5, 4), (9, 8, 7, 128)), "WEBP"),
        "transparency",
        id="rgba-webp",
    ),
    pytest.param("key.png", photo("PNG", transparency=(1, 2, 3)), "transparency", id="transparent-colour"),
    pytest.param("index.png", photo("PNG", "P", transparency=0), "transparency", id="transparent-index"),
    pytest.param("grey-key.png", photo("PNG", "L", transparency=0), "transparency", id="transparent-grey"),
    pytest.param("one.gif", photo("GIF", "P"), "not a JPEG, PNG or WebP", id="gif"),
    pytest.param("named.png", photo("GIF", "P"), "not a JPEG, PNG or WebP", id="gif-named-png"),
    pytest.param("one.bmp", photo("BMP"), "not a JPEG, PNG or WebP", id="bmp"),
    pytest.param("one.tiff", photo("TIFF"), "not a JPEG, PNG or WebP", id="tiff"),
    pytest.param("one.ppm", photo("PPM"), "not a JPEG, PNG or WebP", id="ppm"),
    pytest.param("one.eps", photo("EPS"), "not a JPEG, PNG or WebP", id="eps"),
    pytest.param("two\nlines\x1b[2J.png", b"", "0 bytes", id="control-characters-in-the-name"),
)


class TestHostileFiles:
    @pytest.mark.parametrize(("name", "data", "says"), HOSTILE)
    def test_a_file_that_is_no_plain_picture_is_refused_in_one_line(self, tmp_path, name, data, says):
        path = tmp_path / name
        path.write_bytes(data)
        text = refusal(path)
        assert re.search(says, text), text

    def test_a_missing_file_is_refused(self, tmp_path):
        assert "No such file" in refusal(tmp_path / "missing.png")

    def test_a_directory_is_refused(self, tmp_path):
        assert "Is a directory" in refusal(tmp_path)

    def test_a_device_is_refused(self):
        assert "not a regular file" in refusal(Path("/dev/zero"))

    def test_a_name_with_a_zero_byte_is_refused(self, tmp_path):
        with pytest.raises(ImageError, match=r"a\\x00b.*null"):
            read_image(tmp_path / "a\0b.png")

    @pytest.mark.usefixtures("no_hang")
    def test_a_named_pipe_is_refused_without_waiting_for_a_writer(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        assert "not a regular file" in refusal(tmp_path / "pipe.png")

    def test_a_file_over_the_limit_is_refused_before_it_is_read(self, tmp_path):
        path = tmp_path / "huge.png"
        path.touch()
        os.truncate(path, MAX_FILE_BYTES + 1)
        assert f"{MAX_FILE_BYTES + 1} bytes" in refusal(path)

    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32))
    @pytest.mark.filterwarnings("ignore")
    def test_a_damaged_file_gives_a_picture_or_an_image_error_and_nothing_else(self, tmp_path_factory, seed):
        """Bytes changed at random, mostly in the headers, with PNG's checksums put right again."""
        path = tmp_path_factory.getbasetemp() / "damaged"
        path.write_bytes(damaged(np.random.default_rng(seed)))
        try:
            camera = read_image(path)
        except ImageError as error:
            line = str(error)
        else:
            line = ""
            assert camera.pixels.shape == (*camera.size, 3)
        assert line.isprintable()


def _metadata():
    block = Image.Exif()
    block[ORIENTATION] = 6
    block[0x010F] = "maker"
    block.get_ifd(0x8769)[0x9000] = b"0230"
    notes = PngImagePlugin.PngInfo()
    notes.add_text("a", "b" * 50, zip=True)
    notes.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    return {"exif": block}, notes


def _intact():
    block, notes = _metadata()
    return (
        photo("JPEG", **block, dpi=(72, 72), comment="hello"),
        photo("JPEG", **block, progressive=True),
        photo("PNG", **block, pnginfo=notes, dpi=(72, 72)),
        photo("PNG", "P"),
        photo("WEBP", **block, lossless=True),
        photo("WEBP", **block),
        animation("PNG"),
        animation("MPO"),
    )


INTACT = _intact()


def damaged(rng):
    data = bytearray(INTACT[rng.integers(len(INTACT))])
    reach = min(len(data), 400) if rng.random() < 0.7 else len(data)
    for place in rng.integers(reach, size=rng.integers(1, 7)):
        data[place] = rng.choice([0, 255, rng.integers(256), data[place] ^ 1 << rng.integers(8)])
    if rng.random() < 0.1:
        del data[rng.integers(len(data)) :]
    return with_checksums(bytes(data)) if data.startswith(b"\x89PNG") else bytes(data)


def with_checksums(data):
    out, place = data[:8], 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        out += data[place:end] + struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return out + data[place:]


class TestGoodFiles:
    @pytest.mark.parametrize(
        ("name", "kind", "mode"),
        [
            pytest.param("rgb.png", "PNG", "RGB", id="rgb-png"),
            pytest.param("grey.png", "PNG", "L", id="grey-png"),
            pytest.param("palette.png", "PNG", "P", id="palette-png"),
            pytest.param("bits.png", "PNG", "1", id="black-and-white-png"),
            pytest.param("photo.jpg", "JPEG", "RGB", id="jpeg"),
            pytest.param("grey.jpg", "JPEG", "L", id="grey-jpeg"),
            pytest.param("photo.webp", "WEBP", "RGB", id="webp"),
            pytest.param("named.png", "JPEG", "RGB", id="jpeg-named-png"),
        ],
    )
    def test_a_plain_picture_is_decoded_to_the_pixels_pillow_sees(self, tmp_path, name, kind, mode):
        path = tmp_path / name
        path.write_bytes(photo(kind, mode))
        camera = read_image(path)
        with Image.open(path) as picture:
            np.testing.assert_array_equal(camera.pixels, np.asarray(picture.convert("RGB")))
        assert (camera.size, camera.source, camera.rotated) == ((24, 20), str(path), False)
        assert camera.pixels.flags.c_contiguous

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_a_lossless_picture_keeps_every_pixel(self, tmp_path, kind):
        path = tmp_path / "exact"
        path.write_bytes(photo(kind, **({"lossless": True} if kind == "WEBP" else {})))
        np.testing.assert_array_equal(read_image(path).pixels, pattern())

    @pytest.mark.parametrize("size", [(1, 1), (1, MAX_ASPECT), (MAX_ASPECT, 1)])
    def test_the_smallest_and_the_thinnest_pictures_are_accepted(self, tmp_path, size):
        path = tmp_path / "small.png"
        path.write_bytes(encoded(Image.fromarray(pattern(*size)), "PNG"))
        assert read_image(path).size == size

    @pytest.mark.parametrize(
        ("orientation", "upright"),
        [
            pytest.param(2, lambda p: p[:, ::-1], id="2-mirrored"),
            pytest.param(3, lambda p: p[::-1, ::-1], id="3-upside-down"),
            pytest.param(4, lambda p: p[::-1], id="4-flipped"),
            pytest.param(5, lambda p: p.swapaxes(0, 1), id="5-transposed"),
            pytest.param(6, lambda p: np.rot90(p, -1), id="6-clockwise"),
            pytest.param(7, lambda p: p[::-1, ::-1].swapaxes(0, 1), id="7-transversed"),
            pytest.param(8, np.rot90, id="8-anticlockwise"),
        ],
    )
    def test_a_rotation_in_the_exif_is_applied_and_said(self, tmp_path, orientation, upright):
        path = tmp_path / "turned.jpg"
        path.write_bytes(photo("JPEG", exif=turned(orientation)))
        camera = read_image(path)
        with Image.open(path) as picture:
            np.testing.assert_array_equal(camera.pixels, upright(np.asarray(picture)))
        assert camera.rotated

    @pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
    def test_an_orientation_that_turns_nothing_is_not_called_a_rotation(self, tmp_path, orientation):
        """1 is upright; 0 and numbers beyond 8 mean nothing, and cameras do write 0."""
        path = tmp_path / "upright.jpg"
        path.write_bytes(photo("JPEG", exif=turned(orientation)))
        camera = read_image(path)
        with Image.open(path) as picture:
            np.testing.assert_array_equal(camera.pixels, np.asarray(picture))
        assert not camera.rotated

    @pytest.mark.parametrize(
        "entry",
        [
            pytest.param((0x011A, 2, 3, b"ab\0"), id="resolution-as-text"),
            pytest.param((0x0100, 2, 3, b"ab\0"), id="width-as-text"),
            pytest.param((0x0100, 9, 1, struct.pack("<i", -5)), id="negative-width"),
            pytest.param((0x010F, 11, 1, struct.pack("<f", 0.5)), id="maker-as-a-number"),
        ],
    )
    def test_nonsense_elsewhere_in_the_exif_does_not_stop_a_rotation(self, tmp_path, entry):
        path = tmp_path / "odd.jpg"
        path.write_bytes(photo("JPEG", exif=exif((ORIENTATION, 3, 1, b"\x06\0"), entry)))
        camera = read_image(path)
        assert (camera.size, camera.rotated) == ((20, 24), True)

    def test_a_broken_exif_block_makes_no_noise(self, tmp_path):
        """Pillow's warnings are about metadata that nobody asked for."""
        path = tmp_path / "loud.jpg"
        path.write_bytes(photo("JPEG", exif=exif((0x010F, 2, 4000, b"\xff\0\0\0"))))
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            read_image(path)
        assert [str(warning.message) for warning in heard] == []


class TestCameraImage:
    def test_an_array_is_taken_as_it_is(self):
        camera = CameraImage.of(pattern())
        np.testing.assert_array_equal(camera.pixels, pattern())
        assert (camera.size, camera.source, camera.rotated) == ((24, 20), None, False)

    def test_a_view_is_made_contiguous(self):
        camera = CameraImage.of(pattern()[:, ::-1])
        np.testing.assert_array_equal(camera.pixels, pattern()[:, ::-1])
        assert camera.pixels.flags.c_contiguous

    def test_an_image_is_returned_as_it_is(self):
        camera = CameraImage.of(pattern())
        assert CameraImage.of(camera) is camera

    def test_a_path_may_be_a_string(self, tmp_path):
        (tmp_path / "a.png").write_bytes(photo("PNG"))
        np.testing.assert_array_equal(CameraImage.of(str(tmp_path / "a.png")).pixels, pattern())

    @pytest.mark.parametrize(
        "array",
        [
            pytest.param(pattern().astype(np.float32), id="float"),
            pytest.param(pattern().astype(np.uint16), id="16-bit"),
            pytest.param(pattern()[..., 0], id="grey"),
            pytest.param(np.zeros((4, 4, 4), np.uint8), id="four-channels"),
            pytest.param(np.zeros((1, 4, 4, 3), np.uint8), id="a-batch"),
            pytest.param(np.zeros((0, 4, 3), np.uint8), id="no-rows"),
            pytest.param(np.broadcast_to(np.uint8(0), (8000, 8000, 3)), id="too-many-pixels"),
            pytest.param(np.zeros((1, MAX_ASPECT + 1, 3), np.uint8), id="too-thin"),
        ],
    )
    def test_an_array_that_is_no_picture_is_refused(self, array):
        with pytest.raises(ImageError):
            CameraImage.of(array)

    def test_the_digest_is_of_the_size_and_the_decoded_pixels(self, tmp_path):
        expected = hashlib.sha256(b"24x20 RGB8 " + pattern().tobytes()).hexdigest()
        assert CameraImage.of(pattern()).sha256 == expected
        (tmp_path / "a.png").write_bytes(photo("PNG"))
        assert read_image(tmp_path / "a.png").sha256 == expected
        assert CameraImage.of(pattern().reshape(20, 24, 3)).sha256 != expected


SIZES = (
    pytest.param((96, 96), (24, 24), id="shrink"),
    pytest.param((97, 131), (48, 61), id="shrink-unevenly"),
    pytest.param((31, 17), (96, 80), id="enlarge"),
    pytest.param((40, 90), (64, 30), id="taller-and-narrower"),
    pytest.param((64, 50), (64, 25), id="one-side-only"),
    pytest.param((1, 1), (8, 8), id="one-pixel"),
    pytest.param((5, 3), (1, 1), id="to-one-pixel"),
)


def smooth(height, width):
    """Slow waves between 40 and 215, far from where Pillow would clip a filter's overshoot."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(2 * np.pi * (y * a / height + x * b / width)) for a, b in ((1, 0), (0, 1), (1, 1))]
    return np.stack([127.5 + 87 * wave for wave in waves], axis=-1).round().astype(np.uint8)


class TestPreparation:
    @pytest.mark.parametrize(("old", "new"), SIZES)
    @pytest.mark.parametrize("name", FILTERS)
    def test_it_is_pillows_resize_to_within_one_in_255(self, name, old, new):
        """Pillow rounds to half a level twice; weights below 0 carry the first rounding a little further."""
        pixels = smooth(*old)
        found = prepare(CameraImage(pixels), Preparation(exact=new, filter=name))
        expected = np.asarray(Image.fromarray(pixels).resize(new[::-1], FILTERS[name]))
        assert found.shape == (3, *new)
        assert found.dtype == np.float64
        limit = 1.2 if name in ("bicubic", "lanczos") else 1 + 1e-9
        assert np.abs(found.transpose(1, 2, 0) - expected / 255).max() <= limit / 255

    @pytest.mark.parametrize(("old", "new"), SIZES)
    @pytest.mark.parametrize("name", FILTERS)
    def test_it_is_pillows_resize_of_floating_point_planes_to_six_digits(self, name, old, new):
        """Any picture, also one of pure noise: Pillow neither rounds nor clips planes of mode F."""
        pixels = pattern(*old)
        found = prepare(CameraImage(pixels), Preparation(exact=new, filter=name))
        for plane, values in enumerate(pixels.transpose(2, 0, 1).astype(np.float32)):
            expected = np.asarray(Image.fromarray(values).resize(new[::-1], FILTERS[name])) / 255
            np.testing.assert_allclose(found[plane], expected, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("name", FILTERS)
    def test_a_picture_that_fits_is_only_scaled(self, name):
        found = prepare(CameraImage(pattern()), Preparation(exact=(24, 20), filter=name))
        np.testing.assert_array_equal(found, pattern().transpose(2, 0, 1) / 255)

    @pytest.mark.parametrize("name", FILTERS)
    def test_a_sum_of_pictures_becomes_the_sum_of_their_canvases(self, name):
        """Rounding to 8 bits anywhere on the way would break it."""
        preparation = Preparation(exact=(17, 33), filter=name)
        first, second = pattern() // 2, pattern()[::-1] // 3
        canvases = [prepare(CameraImage(p), preparation) for p in (first, second, first + second)]
        np.testing.assert_allclose(canvases[0] + canvases[1], canvases[2], rtol=0, atol=1e-14)
        tripled = prepare(CameraImage(second * 3), preparation)
        np.testing.assert_allclose(3 * canvases[1], tripled, rtol=0, atol=1e-14)

    @pytest.mark.parametrize("name", FILTERS)
    def test_a_white_picture_stays_white(self, name):
        white = CameraImage(np.full((31, 47, 3), 255, np.uint8))
        np.testing.assert_allclose(prepare(white, Preparation(exact=(20, 64), filter=name)), 1, atol=1e-13)

    @pytest.mark.parametrize(
        ("resized", "crop"),
        [
            pytest.param((40, 50), (20, 30), id="even"),
            pytest.param((41, 50), (20, 31), id="odd"),
            pytest.param((40, 50), (40, 50), id="all"),
            pytest.param((40, 50), (1, 1), id="one"),
        ],
    )
    def test_a_crop_takes_the_centre(self, resized, crop):
        camera = CameraImage(pattern(60, 70))
        whole = prepare(camera, Preparation(exact=resized))
        top, left = ((r - c) // 2 for r, c in zip(resized, crop, strict=True))
        found = prepare(camera, Preparation(exact=resized, crop=crop))
        np.testing.assert_allclose(
            found, whole[:, top : top + crop[0], left : left + crop[1]], rtol=0, atol=1e-15
        )

    @pytest.mark.parametrize(
        ("size", "resized"),
        [
            pytest.param((60, 90), (32, 48), id="wide"),
            pytest.param((91, 60), (48, 32), id="tall-rounded-down"),
            pytest.param((20, 20), (32, 32), id="square-enlarged"),
        ],
    )
    def test_the_shortest_edge_keeps_the_aspect(self, size, resized):
        camera = CameraImage(pattern(*size))
        found = prepare(camera, Preparation(shortest_edge=32, crop=(30, 31)))
        expected = prepare(camera, Preparation(exact=resized, crop=(30, 31)))
        np.testing.assert_array_equal(found, expected)
        assert Preparation(shortest_edge=32, crop=(30, 31)).canvas_size == (30, 31)

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            pytest.param({}, "exactly one", id="no-size"),
            pytest.param(
                {"exact": (4, 4), "shortest_edge": 4, "crop": (4, 4)}, "exactly one", id="two-sizes"
            ),
            pytest.param({"shortest_edge": 4}, "needs a `crop`", id="no-canvas-size"),
            pytest.param({"exact": (4, 4), "crop": (5, 4)}, "larger", id="crop-too-high"),
            pytest.param({"exact": (4, 4), "crop": (4, 5)}, "larger", id="crop-too-wide"),
            pytest.param({"shortest_edge": 4, "crop": (4, 5)}, "larger", id="crop-over-the-edge"),
        ],
    )
    def test_a_preparation_that_cannot_be_carried_out_is_refused(self, fields, says):
        with pytest.raises(ValueError, match=says):
            Preparation(**fields)


NORM_CASES = (
    pytest.param((9, 7), {"exact": (4, 5)}, id="shrink"),
    pytest.param((5, 4), {"exact": (9, 8)}, id="enlarge"),
    pytest.param((4, 9), {"exact": (7, 3)}, id="mixed"),
    pytest.param((6, 6), {"exact": (6, 6)}, id="identity"),
    pytest.param((8, 8), {"exact": (6, 6), "crop": (3, 2)}, id="cropped"),
    pytest.param((6, 9), {"shortest_edge": 5, "crop": (4, 5)}, id="shortest-edge"),
    pytest.param((1, 5), {"exact": (6, 1)}, id="one-row"),
)


def dense(size, preparation):
    """The whole preparation of one plane as a matrix, one column a camera pixel, found by trying each."""
    columns = []
    for place in np.ndindex(size):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[(*place, 0)] = 255
        columns.append(prepare(CameraImage(pixels), preparation)[0].ravel())
    return np.stack(columns, axis=1)


class TestOperatorNorm:
    @pytest.mark.parametrize("name", FILTERS)
    @pytest.mark.parametrize(("size", "fields"), NORM_CASES)
    def test_it_is_the_largest_singular_value_of_the_whole_map(self, size, fields, name):
        preparation = Preparation(**fields, filter=name)
        true = np.linalg.svd(dense(size, preparation), compute_uv=False)[0]
        assert true * (1 - 1e-12) <= operator_norm(size, preparation) <= true * (1 + 1e-11)

    @pytest.mark.parametrize("name", FILTERS)
    def test_it_is_what_power_iteration_finds_on_a_larger_picture(self, name):
        size, preparation = (96, 131), Preparation(exact=(48, 70), crop=(40, 64), filter=name)
        rows, columns = (axis_matrix(size, preparation, axis) for axis in (0, 1))
        vector = np.random.default_rng(0).normal(size=size)
        found = 0.0
        for _ in range(400):
            vector /= np.linalg.norm(vector)
            image = rows @ vector @ columns.T
            found = np.linalg.norm(image)
            vector = rows.T @ image @ columns
        norm = operator_norm(size, preparation)
        assert found * (1 - 1e-12) <= norm <= found * (1 + 2e-3)  # it nears the norm slowly, from below

    @pytest.mark.parametrize("name", FILTERS)
    @pytest.mark.parametrize(("size", "fields"), NORM_CASES)
    def test_no_change_of_the_picture_grows_by_more_and_the_worst_grows_by_as_much(self, size, fields, name):
        preparation = Preparation(**fields, filter=name)
        matrix, norm = dense(size, preparation), operator_norm(size, preparation)
        changes = np.random.default_rng(1).normal(size=(size[0] * size[1], 200))
        grown = np.linalg.norm(matrix @ changes, axis=0) / np.linalg.norm(changes, axis=0)
        assert np.all(grown <= norm)
        worst = np.linalg.svd(matrix)[2][0]
        assert np.linalg.norm(matrix @ worst) == pytest.approx(norm, rel=1e-9)
        assert np.linalg.norm(matrix @ worst) <= norm

    def test_a_picture_that_fits_has_norm_one(self):
        assert 1 <= operator_norm((30, 40), Preparation(exact=(30, 40))) <= 1 + 1e-11


def axis_matrix(size, preparation, axis):
    """One axis of the preparation: stripes along the other axis show it, since weights add up to 1."""
    stripes = []
    for place in range(size[axis]):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[(slice(None),) * axis + (place,)] = 255
        canvas = prepare(CameraImage(pixels), preparation)[0]
        stripes.append(canvas[:, 0] if axis == 0 else canvas[0])
    return np.stack(stripes, axis=1)
