"""Preparation and prompt template as the checkpoint's own processor and chat template have them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers import (
    AutoProcessor,
    CLIPImageProcessor,
    DonutImageProcessor,
    JanusImageProcessor,
    LevitImageProcessor,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    LlavaOnevisionImageProcessor,
    SiglipImageProcessor,
)

from edgers_engines.image import CameraImage, prepare, read_image
from edgers_engines.prompt import PromptEncoder
from edgers_export.errors import ExportError
from edgers_export.processor import read_normalisation, read_preparation
from edgers_export.template import read_template, read_tokenizer
from tests.conftest import CHECKPOINT

SQUARE = {"height": 112, "width": 112}


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(CHECKPOINT, local_files_only=True)


@pytest.mark.parametrize("prompt", ["What should the robot do?", "Is a person in view", "left, right?\nno"])
def test_prompts_become_the_token_ids_that_the_checkpoint_gives(processor, demo_bundle, prompt):
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = Image.new("RGB", (96, 96))
    want = processor(text=text, images=image, return_tensors="np").input_ids[0].tolist()
    prompts = PromptEncoder(demo_bundle)
    tokens = demo_bundle.manifest.dimensions.image_tokens
    assert [*prompts.prefix, *[processor.image_token_id] * tokens, *prompts.suffix(prompt)] == want


SIZES = (
    *((112, 112), (48, 64), (300, 200), (113, 401), (97, 131), (480, 641), (31, 17)),
    *((100, 700), (701, 100), (17, 900), (900, 17), (1, 64), (64, 1), (2, 3), (1, 1)),
)
RESIZED = {"height": 150, "width": 131}
PROCESSORS = (
    pytest.param(SiglipImageProcessor, {"size": SQUARE}, id="exact"),
    pytest.param(SiglipImageProcessor, {"size": RESIZED, "do_convert_rgb": True}, id="exact-rectangle"),
    pytest.param(CLIPImageProcessor, {"size": {"shortest_edge": 112}, "crop_size": SQUARE}, id="edge-crop"),
    pytest.param(CLIPImageProcessor, {"size": 130, "crop_size": 111}, id="numbers"),
    pytest.param(
        CLIPImageProcessor, {"size": 112, "use_square_size": True, "do_center_crop": False}, id="square"
    ),
    pytest.param(CLIPImageProcessor, {"size": (150, 131), "crop_size": (99, 90)}, id="pairs"),
    pytest.param(LlavaImageProcessor, {"size": 112, "crop_size": 112}, id="llava"),
    pytest.param(LlavaImageProcessor, {"do_pad": True, "size": 112, "crop_size": 112}, id="padded"),
    pytest.param(
        LlavaImageProcessor, {"do_pad": True, "size": 112, "do_center_crop": False}, id="padded-uncropped"
    ),
    pytest.param(
        LlavaImageProcessor,
        {
            "do_pad": True,
            "size": RESIZED,
            "crop_size": {"height": 99, "width": 90},
            "image_mean": [0.3, 0.5, 0.7],
        },
        id="padded-rectangle-cropped",
    ),
)
FILTERS = {"lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
# Two roundings to 8 bits make one level, which negative lobes enlarge to (1 + sum of absolute weights) / 2.
LEVELS = {"lanczos": 1.3, "bicubic": 1.14}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("kind", "options"), PROCESSORS)
def test_images_are_prepared_as_the_checkpoint_does_within_the_rounding_to_8_bits(kind, options, name):
    """Noise between 70 and 185: no filter overshoots 0 or 255, where the checkpoint would clip."""
    image_processor = kind(**options, resample=FILTERS[name], do_normalize=False)
    preparation = read_preparation(image_processor)
    for size in SIZES:
        pixels = np.random.default_rng(0).integers(70, 186, (*size, 3), dtype=np.uint8)
        want = pixel_values(image_processor, pixels)
        got = prepare(CameraImage(pixels), preparation)
        assert got.shape == want.shape
        assert 0 < want.min() < want.max() < 1
        levels = 255 * np.abs(got - want).max()
        assert levels <= LEVELS.get(name, 1) + 1e-4, size  # pixel values are float32


def pixel_values(image_processor, pixels):
    # Told so: of itself, it would take an image that is 1 or 3 pixels high to have its channels first.
    options = {"return_tensors": "np", "input_data_format": "channels_last"}
    return image_processor(Image.fromarray(pixels), **options).pixel_values[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_is_prepared_as_the_checkpoint_does_once_it_is_upright(tmp_path, orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    rows, columns = np.mgrid[0:150, 0:230]
    waves = [np.sin(rows / 20), np.sin(columns / 30), np.cos((rows + columns) / 25)]
    photo = (127.5 + 80 * np.stack(waves, axis=-1)).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95, exif=block)
    image_processor = LlavaImageProcessor(do_pad=True, size=112, crop_size=112, do_normalize=False)
    with Image.open(tmp_path / "photo.jpg") as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    got = prepare(read_image(tmp_path / "photo.jpg"), read_preparation(image_processor))
    assert 255 * np.abs(got - pixel_values(image_processor, upright)).max() <= LEVELS["bicubic"]


def test_only_an_overshoot_that_the_checkpoint_clips_makes_a_larger_difference():
    """The line between black and white: bicubic overshoots it, and a linear map may not clip."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    image_processor = SiglipImageProcessor(size=SQUARE, do_normalize=False)
    want = pixel_values(image_processor, pixels)
    got = prepare(CameraImage(pixels), read_preparation(image_processor))
    assert 255 * np.abs(got - want).max() > 10
    assert 255 * np.abs(got.clip(0, 1) - want).max() <= LEVELS["bicubic"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"do_resize": False}, "must resize"),
        ({"resample": 0}, "nearest"),
        ({"resample": None}, "None"),
        ({"do_center_crop": False}, "crop"),
        ({"size": {"shortest_edge": 100}, "crop_size": SQUARE}, "larger"),
        ({"size": {"height": 100, "width": 300}, "crop_size": SQUARE}, "larger"),
        ({"size": {"shortest_edge": 4000}}, "2304"),
        ({"size": {"shortest_edge": 0}}, ">= 1"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "not one fixed size"),
        ({"size": {"longest_edge": 300}}, "not one fixed size"),
        ({"crop_size": {"shortest_edge": 112}}, "not one fixed size"),
    ],
    ids=str,
)
def test_a_preparation_that_is_not_one_linear_map_to_one_size_is_refused(options, reason):
    with pytest.raises(ExportError, match=reason):
        read_preparation(CLIPImageProcessor(**options))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(LlavaNextImageProcessor, "tiles", id="llava-next"),
        pytest.param(LlavaOnevisionImageProcessor, "tiles", id="llava-onevision"),
        pytest.param(DonutImageProcessor, "do_thumbnail", id="a-step-of-its-own"),
        pytest.param(LevitImageProcessor, "off what it says", id="resizes-otherwise-than-it-says"),
        pytest.param(JanusImageProcessor, "off what it says", id="pads-after-it-resizes"),
        pytest.param(
            lambda: SiglipImageProcessor(do_center_crop=True, crop_size=200), "makes", id="crops-not"
        ),
        pytest.param(lambda: SiglipImageProcessor(size=224), "crop", id="a-number-that-siglip-cannot-use"),
        pytest.param(lambda: CLIPImageProcessor(do_pad=True), "not to a square", id="pads-who-knows-where"),
        pytest.param(
            lambda: LlavaImageProcessor(do_pad=True, image_mean=[0.5, 0.5, 1.2]), "pad", id="beyond-white"
        ),
        pytest.param(
            lambda: LlavaImageProcessor(do_pad=True, image_mean=[0.5] * 2), "3 channels", id="2-channels"
        ),
    ],
)
def test_a_processor_that_does_something_else_is_refused(make, reason):
    with pytest.raises(ExportError, match=reason):
        read_preparation(make())


@pytest.mark.parametrize("kind", [SiglipImageProcessor, CLIPImageProcessor, LlavaImageProcessor])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_normalize": False},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"image_mean": 0.4, "image_std": 0.2},
        {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [64.0] * 3},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        {"do_convert_rgb": False},
    ],
    ids=str,
)
def test_the_canvas_normalised_is_what_the_checkpoint_gives_its_model(kind, options):
    image_processor = kind(**options)
    pixels = np.random.default_rng(0).integers(70, 186, (90, 120, 3), dtype=np.uint8)
    normalisation = read_normalisation(image_processor)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (normalisation.mean, normalisation.std))
    canvas = prepare(CameraImage(pixels), read_preparation(image_processor))
    want = pixel_values(image_processor, pixels)
    assert 255 * np.abs((canvas - mean) / std - want).max() <= LEVELS["bicubic"] / std.min() + 1e-3


def test_no_normalisation_is_mean_0_and_deviation_1():
    assert read_normalisation(CLIPImageProcessor(do_normalize=False)).std == (1.0, 1.0, 1.0)
    assert read_normalisation(CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3])).mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_mean": [0.5, 0.5]}, "3 channels"),
        ({"image_std": [0.5, 0.5, "0.5"]}, "3 channels"),
        ({"image_std": [0.5, 0.5, 0.0]}, "positive"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "3 channels"),
        ({"rescale_factor": 0}, "rescales by 0"),
        ({"rescale_factor": None}, "rescales by None"),
    ],
    ids=str,
)
def test_a_normalisation_that_is_none_is_refused(options, reason):
    with pytest.raises(ExportError, match=reason):
        read_normalisation(CLIPImageProcessor(**options))


def test_a_template_with_special_tokens_behind_the_prompt_keeps_them_as_ids(processor, monkeypatch):
    monkeypatch.setattr(
        processor,
        "chat_template",
        "<image>USER {{ messages[0]['content'][1]['text'] }}</s>ASSISTANT:{{ '\\n' }}",
    )
    template = read_template(processor, read_tokenizer(processor), processor.image_token_id)
    assert template.text_before == "USER "
    assert template.text_after == ""
    assert template.after[0] == 2
    assert template.answer_prefix == ""


def test_a_tokenizer_that_joins_text_across_the_image_is_refused(processor, monkeypatch):
    encode = processor.tokenizer.__class__.__call__

    def joined(self, text, **options):
        encoded = encode(self, text, **options)
        if options.get("add_special_tokens", True):
            encoded["input_ids"].append(7)
        return encoded

    monkeypatch.setattr(processor.tokenizer.__class__, "__call__", joined)
    with pytest.raises(ExportError, match="joins text"):
        read_template(processor, read_tokenizer(processor), processor.image_token_id)
