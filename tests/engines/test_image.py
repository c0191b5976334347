"""The preparation: Pillow's resize as an affine map of float64 values, and the norm of its linear part."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgers_engines.errors import ImageError
from edgers_engines.image import CameraImage, Preparation, operator_norm, prepare
from edgers_engines.records import parse

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
BACKGROUND = (122, 116, 104)  # CLIP's mean in whole levels, as LlavaImageProcessor pads with it


def pattern(height=24, width=20):
    """Random pixels: nothing about them is symmetric."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


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
            pytest.param(
                {"frame": (3, 4), "exact": (4, 4), "crop": (4, 4)}, "does nothing else", id="frame-and-crop"
            ),
            pytest.param(
                {"frame": (3, 4), "exact": (4, 4), "pad": (0, 0, 0)}, "does nothing else", id="frame-and-pad"
            ),
            pytest.param(
                {"frame": (3, 4), "shortest_edge": 4, "crop": (4, 4)},
                "does nothing else",
                id="frame-by-the-edge",
            ),
            pytest.param(
                {"shortest_edge": 4, "crop": (4, 4), "pad": (0, 0, 0)},
                "`exact`",
                id="square-by-shortest-edge",
            ),
            pytest.param(
                {"exact": (4, 4), "crop": (5, 4), "pad": (0, 0, 0)}, "larger", id="crop-over-the-padded"
            ),
        ],
    )
    def test_a_preparation_that_cannot_be_carried_out_is_refused(self, fields, says):
        with pytest.raises(ValueError, match=says):
            Preparation(**fields)


def stored(**fields):
    """The preparation as a manifest with these fields has it."""
    return parse(json.dumps({"exact": [8, 8], **fields}).encode(), Preparation)


class TestPadding:
    @pytest.mark.parametrize("name", FILTERS)
    @pytest.mark.parametrize(
        "size", [(30, 41), (41, 30), (7, 64), (1, 40), (40, 1), (33, 33), (2, 3), (101, 14)], ids=str
    )
    @pytest.mark.parametrize("fields", [{"exact": (24, 20)}, {"exact": (57, 64), "crop": (50, 41)}], ids=str)
    def test_it_is_the_preparation_of_the_image_in_the_middle_of_a_square(self, size, fields, name):
        """The middle as LlavaImageProcessor.pad_to_square has it: an odd rest goes below and to the right."""
        height, width = size
        square = np.empty((max(size), max(size), 3), np.uint8)
        square[:] = BACKGROUND
        top, left = (max(size) - height) // 2, (max(size) - width) // 2
        square[top : top + height, left : left + width] = pattern(height, width)
        padded = Preparation(**fields, filter=name, pad=tuple(level / 255 for level in BACKGROUND))
        found = prepare(CameraImage(pattern(height, width)), padded)
        expected = prepare(CameraImage(square), Preparation(**fields, filter=name))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)

    def test_the_background_shows_beside_the_image_and_nowhere_in_a_square_one(self):
        black = CameraImage(np.zeros((10, 20, 3), np.uint8))
        canvas = prepare(black, Preparation(exact=(8, 8), filter="box", pad=(0.25, 0.5, 1)))
        for plane, level in zip(canvas, (0.25, 0.5, 1), strict=True):
            np.testing.assert_allclose(plane[[0, 1, 6, 7]], level, rtol=1e-14)
            np.testing.assert_allclose(plane[2:6], 0, atol=1e-14)
        square = CameraImage(np.zeros((20, 20, 3), np.uint8))
        assert np.abs(prepare(square, Preparation(exact=(8, 8), pad=(1, 1, 1)))).max() <= 1e-14

    @pytest.mark.parametrize(
        "pad",
        [[0.5, 0.5], [0.5] * 4, [0.5, 0.5, 1.01], [-0.01, 0, 0], ["0", 0, 0], [None, 0, 0], 0.5, True],
        ids=str,
    )
    def test_a_background_that_is_no_colour_is_refused(self, pad):
        with pytest.raises(ValueError, match="pad"):
            stored(pad=pad)

    def test_a_stored_preparation_without_padding_has_none(self):
        assert stored().pad is None
        assert stored(pad=[0, 0.5, 1]).pad == (0, 0.5, 1)


NORM_CASES = (
    pytest.param((9, 7), {"exact": (4, 5)}, id="shrink"),
    pytest.param((5, 4), {"exact": (9, 8)}, id="enlarge"),
    pytest.param((4, 9), {"exact": (7, 3)}, id="mixed"),
    pytest.param((6, 6), {"exact": (6, 6)}, id="identity"),
    pytest.param((8, 8), {"exact": (6, 6), "crop": (3, 2)}, id="cropped"),
    pytest.param((6, 9), {"shortest_edge": 5, "crop": (4, 5)}, id="shortest-edge"),
    pytest.param((1, 5), {"exact": (6, 1)}, id="one-row"),
    pytest.param((9, 5), {"shortest_edge": 7, "crop": (5, 6)}, id="shortest-edge-enlarged"),
    pytest.param((5, 9), {"exact": (6, 4), "pad": (0.2, 0.4, 0.6)}, id="padded-wide"),
    pytest.param((9, 4), {"exact": (11, 14), "pad": (0.2, 0.4, 0.6)}, id="padded-tall-enlarged"),
    pytest.param((8, 3), {"exact": (6, 7), "crop": (5, 4), "pad": (1, 1, 1)}, id="padded-and-cropped"),
    pytest.param((1, 8), {"exact": (8, 8), "pad": (1, 0, 1)}, id="padded-row-that-fits"),
    pytest.param((7, 7), {"exact": (5, 5), "pad": (0, 1, 0)}, id="padded-square"),
)


def dense(size, preparation):
    """The linear part for one plane as a matrix, one column a camera pixel, found by trying each."""
    background = prepare(CameraImage(np.zeros((*size, 3), np.uint8)), preparation)[0]
    columns = []
    for place in np.ndindex(size):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[(*place, 0)] = 255
        columns.append((prepare(CameraImage(pixels), preparation)[0] - background).ravel())
    return np.stack(columns, axis=1)


LARGE_CASES = (
    # Camera size, preparation; then for each axis: pixels resized from and to, which of the image's pixels
    # are among the former, and which of the latter are kept.
    pytest.param(
        (1080, 1920),
        {"shortest_edge": 336, "crop": (336, 336)},
        ((1080, 336, slice(None), slice(None)), (1920, 597, slice(None), slice(130, 466))),
        id="hd-cropped",
    ),
    pytest.param(
        (4032, 3024),
        {"exact": (384, 384)},
        ((4032, 384, slice(None), slice(None)), (3024, 384, slice(None), slice(None))),
        id="12-megapixels",
    ),
    pytest.param(
        (1080, 1920),
        {"exact": (336, 336), "pad": (0.5, 0.5, 0.5)},
        ((1920, 336, slice(420, 1500), slice(None)), (1920, 336, slice(None), slice(None))),
        id="hd-padded",
    ),
    pytest.param(
        (301, 200),
        {"exact": (448, 500), "crop": (301, 333), "pad": (0.5, 0.5, 0.5)},
        ((301, 448, slice(None), slice(73, 374)), (301, 500, slice(50, 250), slice(83, 416))),
        id="enlarged-padded-cropped",
    ),
)


def axis_matrix(old, new, name):
    """One axis of a resize: the other one stays as it is and takes a third of the unit vectors a channel."""
    pixels = np.zeros((old, -(-old // 3), 3), np.uint8)
    place = np.arange(old)
    pixels[place, place // 3, place % 3] = 255
    canvas = prepare(CameraImage(pixels), Preparation(exact=(new, pixels.shape[1]), filter=name))
    return canvas.transpose(1, 2, 0).reshape(new, -1)[:, :old]


def power_iteration(matrix):
    """The largest singular value after 2^40 steps: the Gram matrix squared 40 times, no eigensolver."""
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    powered = gram
    for _ in range(40):
        powered = powered @ powered
        powered /= np.abs(powered).max()
    vector = powered[:, np.argmax(np.diagonal(powered))]
    return np.sqrt(vector @ gram @ vector / (vector @ vector))


class TestOperatorNorm:
    @pytest.mark.parametrize("name", FILTERS)
    @pytest.mark.parametrize(("size", "fields"), NORM_CASES)
    def test_it_is_the_largest_singular_value_of_the_whole_map(self, size, fields, name):
        preparation = Preparation(**fields, filter=name)
        true = np.linalg.svd(dense(size, preparation), compute_uv=False)[0]
        assert true * (1 - 1e-12) <= operator_norm(size, preparation) <= true * (1 + 1e-11)

    @pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
    @pytest.mark.parametrize(("size", "fields", "axes"), LARGE_CASES)
    def test_it_is_what_power_iteration_finds_on_a_large_picture(self, size, fields, axes, name):
        matrices = [axis_matrix(old, new, name)[kept, image] for old, new, image, kept in axes]
        found = np.prod([power_iteration(matrix) for matrix in matrices])
        norm = operator_norm(size, Preparation(**fields, filter=name))
        assert found * (1 - 1e-13) <= norm <= found * (1 + 1e-9)

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

    @pytest.mark.parametrize("size", [(480, 640), (240, 320), (481, 641), (1080, 1440)])
    def test_an_image_of_the_frames_shape_is_resized_as_any_other(self, size):
        fields = {"exact": (504, 672), "filter": "bilinear"}
        framed = Preparation(frame=(480, 640), **fields)
        assert operator_norm(size, framed) == operator_norm(size, Preparation(**fields))

    @pytest.mark.parametrize("size", [(640, 480), (480, 480), (480, 641), (479, 640), (1080, 1920)])
    def test_an_image_of_another_shape_than_the_frames_is_refused(self, size):
        preparation = Preparation(exact=(504, 672), frame=(480, 640))
        height, width = size
        for use in (
            lambda: operator_norm(size, preparation),
            lambda: prepare(CameraImage(np.zeros((*size, 3), np.uint8)), preparation),
        ):
            with pytest.raises(
                ImageError, match=f"{width}x{height}; .* for 640x480 .*--frame {width}x{height}"
            ):
                use()

    def test_the_background_has_no_part_in_it(self):
        norms = {
            operator_norm((30, 40), Preparation(exact=(16, 16), pad=pad)) for pad in [(0, 0, 0), (1, 0.3, 1)]
        }
        assert len(norms) == 1


sides = st.integers(1, 40)
sizes = st.tuples(sides, sides)


@st.composite
def preparations(draw):
    """Any of the three kinds: a whole image, the middle of a resized one, an image in a square."""
    resized = draw(sizes)
    name = draw(st.sampled_from(sorted(FILTERS)))
    crop = tuple(draw(st.integers(1, side)) for side in resized)
    kind = draw(st.sampled_from(["exact", "shortest edge", "padded"]))
    if kind == "shortest edge":
        return Preparation(shortest_edge=max(crop), crop=crop, filter=name)
    pad = draw(st.tuples(*[st.floats(0, 1)] * 3)) if kind == "padded" else None
    return Preparation(exact=resized, crop=draw(st.sampled_from([None, crop])), filter=name, pad=pad)


class TestAffinity:
    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(size=sizes, preparation=preparations(), seed=st.integers(0, 2**32))
    def test_images_of_equal_sum_have_canvases_of_equal_sum(self, size, preparation, seed):
        """That is affinity; rounding or clipping anywhere would break it."""
        rng = np.random.default_rng(seed)
        first, second = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
        images = first, second, np.maximum(first, second), np.minimum(first, second)
        a, b, c, d = (prepare(CameraImage(image), preparation) for image in images)
        np.testing.assert_allclose(a + b, c + d, rtol=0, atol=1e-13)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(size=sizes, preparation=preparations(), seed=st.integers(0, 2**32))
    def test_no_two_canvases_are_farther_apart_than_the_norm_allows(self, size, preparation, seed):
        rng = np.random.default_rng(seed)
        first, second = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
        apart = prepare(CameraImage(first), preparation) - prepare(CameraImage(second), preparation)
        change = np.linalg.norm(first / 255 - second / 255)
        norm = operator_norm(size, preparation)
        assert norm > 0
        assert np.linalg.norm(apart) <= norm * change + 1e-13
