"""Odd and hostile images: each is refused in one line or read at its size, at once and in little memory."""

import hashlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from edgers_engines.errors import ImageError
from edgers_engines.image import (
    MAX_ASPECT,
    MAX_CHUNKS,
    MAX_FILE_BYTES,
    MAX_NOTES,
    MAX_PIXELS,
    MAX_SCANS,
    CameraImage,
    read_image,
)

ORIENTATION = 0x0112
FOREIGN = "not a JPEG, PNG or WebP"
BROKEN = "cannot be decoded"
ROOT = Path(__file__).parents[2]


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


def riff(*chunks):
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def huge_webp(flags=0):
    """A canvas of 16,383 a side that shows a picture of 5x4."""
    bitstream = encoded(Image.fromarray(pattern(4, 5)), "WEBP", lossless=True)[20:]
    return riff((b"VP8X", bytes([flags, 0, 0, 0]) + (16_382).to_bytes(3, "little") * 2), (b"VP8L", bitstream))


def noted(*chunks):
    """A PNG of one pixel that these chunks stand in."""
    return png(1, 1, 8, 0, b"\0\0", extra=b"".join(png_chunk(kind, body) for kind, body in chunks))


def scans(count):
    """A progressive JPEG whose last scan comes again and again: each costs a pass over all pixels."""
    data = photo("JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def marked(segments):
    data = photo("JPEG")
    return data[:2] + segments + data[2:]


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def svg():
    return b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


def interlaced():
    """Adam7 by hand: of 1x1 pixel, all there is is the first pass."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0\x07")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def pipe(folder):
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def listener(folder):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.png"))  # an address has at most 107 bytes
    return folder / "socket.png"


def sparse(folder):
    (folder / "sparse.png").touch()
    os.truncate(folder / "sparse.png", MAX_FILE_BYTES + 1)
    return folder / "sparse.png"


def link(target):
    def make(folder):
        (folder / "whole.png").write_bytes(photo("PNG"))
        (folder / "link.png").symlink_to(folder / target)
        return folder / "link.png"

    return make


def subfolder(folder):
    (folder / "folder.png").mkdir()
    return folder / "folder.png"


BOMB = zlib.compress(bytes(70 << 20))

# A file's name and bytes, or what makes something else; then why it is refused, or its height and width.
CASES = (
    # damaged
    ("empty.png", b"", "0 bytes"),
    ("half.jpg", half(photo("JPEG")), BROKEN),
    ("half-progressive.jpg", half(photo("JPEG", progressive=True)), BROKEN),
    ("half.png", half(photo("PNG")), BROKEN),
    ("half.webp", half(photo("WEBP")), f"{FOREIGN}|{BROKEN}"),
    ("header-alone.jpg", photo("JPEG")[:30], f"{FOREIGN}|{BROKEN}"),
    ("header-alone.png", photo("PNG")[:33], f"{FOREIGN}|{BROKEN}"),
    ("signature-alone.png", photo("PNG")[:8], f"{FOREIGN}|{BROKEN}"),
    ("bad-header-checksum.png", flipped(photo("PNG"), 29), f"{FOREIGN}|{BROKEN}"),
    ("bad-chunk-checksum.png", flipped(photo("PNG"), -13), (24, 20)),  # zlib's own checksum holds the pixels
    ("bad-pixels.png", flipped(photo("PNG"), 60), BROKEN),
    ("nine-bytes-of-pixels.png", png(3000, 3000, 8, 2, b"\0" * 9), BROKEN),
    ("no-pixels.png", png(0, 5, 8, 0), FOREIGN),
    # sizes
    ("1x1.png", png(1, 1, 8, 0, b"\0\0"), (1, 1)),
    ("as-thin-as-allowed.png", encoded(Image.fromarray(pattern(1, MAX_ASPECT)), "PNG"), (1, MAX_ASPECT)),
    ("as-tall-as-allowed.jpg", encoded(Image.fromarray(pattern(MAX_ASPECT, 1)), "JPEG"), (MAX_ASPECT, 1)),
    ("65535x1.png", png(1, 65535, 8, 0, b"\0\0" * 65535), f"over {MAX_ASPECT} times"),
    ("1x65535.png", png(65535, 1, 8, 0, b"\0" * 65536), f"over {MAX_ASPECT} times"),
    ("8000x8000.png", png(8000, 8000, 8, 0), f"at most {MAX_PIXELS} pixels"),
    ("20000x20000.png", png(20_000, 20_000, 8, 2), "far larger"),
    ("2-gigapixel-sides.png", png(2**31 - 1, 2**31 - 1, 8, 2), f"far larger|{BROKEN}"),
    ("16383x16383.webp", huge_webp(), "far larger"),
    # bombs of time and memory
    ("text-bomb.png", noted((b"zTXt", b"a\0\0" + BOMB)), BROKEN),
    ("international-text-bomb.png", noted((b"iTXt", b"a\0\1\0\0\0" + BOMB)), BROKEN),
    ("colour-profile-bomb.png", noted((b"iCCP", b"a\0\0" + BOMB)), BROKEN),
    ("exif-in-text-bomb.png", noted((b"zTXt", b"Raw profile type exif\0\0" + BOMB)), BROKEN),
    ("chunk-flood.png", noted(*[(b"abCd", b"")] * (MAX_NOTES + 1)), f"over {MAX_NOTES} parts without"),
    ("empty-pixel-flood.png", noted(*[(b"IDAT", b"")] * MAX_CHUNKS), f"over {MAX_CHUNKS} parts"),
    ("marker-flood.jpg", marked(b"\xff\xe5\0\2" * MAX_NOTES), f"over {MAX_NOTES} parts without"),
    ("scan-flood.jpg", scans(MAX_SCANS), f"over {MAX_SCANS} parts"),
    # several frames
    ("animated.png", animation("PNG"), "3 frames"),
    ("animated.webp", animation("WEBP"), "3 frames"),
    ("several-in-one.jpg", animation("MPO"), "3 frames"),
    ("animated.gif", animation("GIF"), FOREIGN),
    # pixel formats
    ("cmyk.jpg", photo("JPEG", "CMYK"), "pixel format CMYK"),
    ("16-bit-grey.png", png(2, 1, 16, 0, b"\0" + bytes(range(4))), "16 bit|;16"),
    ("16-bit-colour.png", png(2, 1, 16, 2, b"\0" + bytes(range(12))), "16 bit|;16"),
    ("16-bit-alpha.png", png(1, 1, 16, 6, b"\0" + bytes(range(8))), "16 bit|;16"),
    ("alpha.png", photo("PNG", "RGBA"), "transparency"),
    ("grey-alpha.png", photo("PNG", "LA"), "transparency"),
    ("alpha.webp", encoded(Image.new("RGBA", (5, 4), (9, 8, 7, 128)), "WEBP"), "transparency"),
    ("transparent-colour.png", photo("PNG", transparency=(1, 2, 3)), "transparency"),
    ("transparent-index.png", photo("PNG", "P", transparency=0), "transparency"),
    ("transparent-indices.png", photo("PNG", "P", transparency=b"\0\x80\xff"), "transparency"),
    ("transparent-grey.png", photo("PNG", "L", transparency=0), "transparency"),
    ("grey.jpg", photo("JPEG", "L"), (24, 20)),
    ("grey.png", photo("PNG", "L"), (24, 20)),
    ("1-bit.png", photo("PNG", "1"), (24, 20)),
    ("palette.png", photo("PNG", "P"), (24, 20)),
    ("interlaced.png", interlaced(), (1, 1)),
    ("progressive.jpg", photo("JPEG", progressive=True), (24, 20)),
    ("lossless.webp", photo("WEBP", lossless=True), (24, 20)),
    ("lossy.webp", photo("WEBP"), (24, 20)),
    # broken metadata around good pixels
    ("nonsense-exif.jpg", photo("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), (24, 20)),
    ("cut-exif.jpg", photo("JPEG", exif=half(turned(6))), (24, 20)),
    ("endless-exif.jpg", photo("JPEG", exif=turned(6)[:-4] + b"\x08\0\0\0"), (20, 24)),
    ("exif-value-beyond-the-end.jpg", photo("JPEG", exif=exif((0x010F, 2, 4000, b"\xff\0\0\0"))), (24, 20)),
    ("orientation-as-text.jpg", photo("JPEG", exif=exif((ORIENTATION, 2, 2, b"6\0"))), (24, 20)),
    ("bad-colour-profile.jpg", photo("JPEG", icc_profile=b"nonsense"), (24, 20)),
    # other formats, other names
    ("one.gif", photo("GIF", "P"), FOREIGN),
    ("one.bmp", photo("BMP"), FOREIGN),
    ("one.tiff", photo("TIFF"), FOREIGN),
    ("one.ico", photo("ICO"), FOREIGN),
    ("one.ppm", photo("PPM"), FOREIGN),
    ("one.pdf", photo("PDF"), FOREIGN),
    ("one.eps", photo("EPS"), FOREIGN),
    ("one.svg", svg(), FOREIGN),
    ("one.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), FOREIGN),
    ("one.avif", b"\0\0\0\x1cftypavif" + bytes(64), FOREIGN),
    ("text.png", b"a text file\n" * 50, FOREIGN),
    ("pickle.jpg", b"\x80\x04\x95\x0b\0\0\0", FOREIGN),
    ("gif-inside.png", photo("GIF", "P"), FOREIGN),
    ("jpeg-inside.png", photo("JPEG"), (24, 20)),
    ("no-suffix", photo("PNG"), (24, 20)),
    ("two\nlines\x1b[2J.png", b"", "0 bytes"),
    ("two\nlines\x1b[2J and a picture.png", photo("PNG"), (24, 20)),
    (os.fsdecode(b"not-utf-8-\xff.png"), b"", "0 bytes"),
    (os.fsdecode(b"not-utf-8-\xff and a picture.png"), photo("PNG"), (24, 20)),
    # no regular file
    ("missing", lambda folder: folder / "missing.png", "No such file"),
    ("folder", subfolder, "Is a directory|not a regular file"),
    ("named-pipe", pipe, "not a regular file"),
    ("socket", listener, "cannot read the image"),
    ("device", lambda _: Path("/dev/zero"), "not a regular file"),
    ("over-the-limit", sparse, f"{MAX_FILE_BYTES + 1} bytes"),
    ("link-to-a-picture", link("whole.png"), (24, 20)),
    ("link-to-nothing", link("gone.png"), "No such file"),
    ("link-to-itself", link("link.png"), "symbolic links"),
    ("name-with-a-zero-byte", lambda folder: folder / "a\0b.png", r"a\\x00b.*null"),
    ("name-of-300-letters", lambda folder: folder / ("a" * 300), "too long"),
    # arrays
    ("array", lambda _: pattern(), (24, 20)),
    ("array-mirrored", lambda _: pattern()[:, ::-1], (24, 20)),
    ("array-by-columns", lambda _: np.asfortranarray(pattern()), (24, 20)),
    ("array-every-second-pixel", lambda _: pattern()[::2, ::2], (12, 10)),
    ("array-float", lambda _: pattern() / np.float32(255), "float32"),
    ("array-16-bit", lambda _: pattern().astype(np.uint16), "uint16"),
    ("array-signed", lambda _: pattern().astype(np.int8), "int8"),
    ("array-boolean", lambda _: pattern() > 99, "bool"),
    ("array-of-objects", lambda _: pattern().astype(object), "object"),
    ("array-grey", lambda _: pattern()[..., 0], r"\[24, 20\]"),
    ("array-four-channels", lambda _: np.zeros((4, 5, 4), np.uint8), r"\[4, 5, 4\]"),
    ("array-channels-first", lambda _: pattern().transpose(2, 0, 1), r"\[3, 24, 20\]"),
    ("array-batch", lambda _: pattern()[None], r"\[1, 24, 20, 3\]"),
    ("array-no-rows", lambda _: np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
    ("array-of-one-number", lambda _: np.uint8(7), "uint8"),
    ("array-too-thin", lambda _: np.zeros((1, MAX_ASPECT + 1, 3), np.uint8), f"over {MAX_ASPECT} times"),
    ("array-too-large", lambda _: np.broadcast_to(np.uint8(0), (8000, 8000, 3)), f"at most {MAX_PIXELS}"),
    ("list", lambda _: pattern().tolist(), "not list"),
    ("bytes", lambda _: photo("PNG"), "not bytes"),
    ("nothing", lambda _: None, "not NoneType"),
)
IDS = [
    name.encode("unicode_escape", "surrogateescape").decode() if name.isascii() else repr(name)
    for name, *_ in CASES
]


def made(folder, name, source):
    """The image of one case: a path, an array, or something that is neither."""
    if callable(source):
        return source(folder)
    (folder / name).write_bytes(source)
    return folder / name


def outcome(source):
    """What becomes of it: its height and width, or the line that refuses it."""
    try:
        return CameraImage.of(source).size
    except ImageError as error:
        return str(error)


def refused(image, says):
    """One printable line names the file and the reason; nothing of Pillow's own error hangs on it."""
    with pytest.raises(ImageError, match=says) as caught:
        CameraImage.of(image)
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    assert str(error).isprintable()
    if isinstance(image, Path):
        assert all(part in str(error) for part in re.split(r"[^ -~]", image.name))


class TestOddImages:
    @pytest.mark.usefixtures("no_hang")
    @pytest.mark.parametrize(("name", "source", "expected"), CASES, ids=IDS)
    def test_it_is_read_at_its_size_or_refused_in_one_line_that_names_it(
        self, tmp_path, name, source, expected
    ):
        image = made(tmp_path, name, source)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            if isinstance(expected, tuple):
                assert CameraImage.of(image).size == expected
            else:
                refused(image, expected)
        assert [str(warning.message) for warning in heard] == []

    def test_all_of_them_together_need_little_memory(self, tmp_path):
        """A quarter of a gigabyte over what the imports take; no error may be the lack of it."""
        code = (
            "import resource, sys; from PIL import Image; from edgers_engines.image import *; Image.init()\n"
            "from tests.engines.test_image_files import *\n"
            "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
            "resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)\n"
            "print(json.dumps([outcome(Path(os.fsdecode(bytes.fromhex(p)))) for p in sys.argv[1:]]))"
        )
        paths, expected = [], []
        for number, (name, source, says) in enumerate(CASES):
            folder = tmp_path / str(number)
            folder.mkdir()
            if isinstance(image := made(folder, name, source), Path) and "\0" not in str(image):
                paths.append(os.fsencode(image).hex())
                expected.append(says)
        ended = subprocess.run(
            [sys.executable, "-c", code, *paths], capture_output=True, timeout=60, cwd=ROOT, check=False
        )
        assert ended.returncode == 0, ended.stderr
        for found, says, path in zip(json.loads(ended.stdout), expected, paths, strict=True):
            agrees = found == list(says) if isinstance(says, tuple) else re.search(says, str(found))
            assert agrees, (bytes.fromhex(path), found)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_a_file_cut_anywhere_is_refused_or_gives_every_pixel(self, tmp_path, kind):
        data = encoded(Image.fromarray(pattern(5, 6)), kind)
        (tmp_path / "whole").write_bytes(data)
        whole, refused = read_image(tmp_path / "whole"), 0
        for length in range(len(data)):
            (tmp_path / "cut").write_bytes(data[:length])
            try:
                np.testing.assert_array_equal(read_image(tmp_path / "cut").pixels, whole.pixels)
            except ImageError:
                refused += 1
        assert refused >= len(data) - 20

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

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_every_orientation_is_what_pillow_itself_makes_of_it(self, tmp_path, kind, orientation):
        path = tmp_path / "turned"
        path.write_bytes(photo(kind, exif=turned(orientation)))
        with Image.open(path) as picture:
            expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        np.testing.assert_array_equal(read_image(path).pixels, expected)


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

    def test_the_digest_is_of_the_size_and_the_decoded_pixels(self, tmp_path):
        expected = hashlib.sha256(b"24x20 RGB8 " + pattern().tobytes()).hexdigest()
        assert CameraImage.of(pattern()).sha256 == expected
        (tmp_path / "a.png").write_bytes(photo("PNG"))
        assert read_image(tmp_path / "a.png").sha256 == expected
        assert CameraImage.of(pattern().reshape(20, 24, 3)).sha256 != expected
