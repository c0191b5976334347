"""Preparation and prompt template as the checkpoint's own processor and chat template have them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessor

from edgers_engines.image import CameraImage, prepare
from edgers_engines.prompt import PromptEncoder
from edgers_export.errors import ExportError
from edgers_export.processor import read_normalisation, read_preparation, read_template
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


@pytest.mark.parametrize("size", [(48, 64), (300, 200), (112, 112), (113, 401)])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"size": SQUARE, "do_center_crop": False, "resample": 2}, id="exact, bilinear"),
        pytest.param(
            {"size": {"shortest_edge": 112}, "crop_size": SQUARE, "resample": 3}, id="crop, bicubic"
        ),
    ],
)
def test_a_smooth_image_is_prepared_as_the_checkpoint_does_within_one_255th(options, size):
    image_processor = CLIPImageProcessor(**options, do_normalize=False)
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    smooth = np.stack([rows, columns, (rows + columns) / 2], -1)
    pixels = (40 + 160 * smooth).astype(np.uint8)
    want = image_processor(Image.fromarray(pixels), return_tensors="np").pixel_values[0]
    got = prepare(CameraImage(pixels), read_preparation(image_processor))
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1 / 255


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"do_resize": False}, "must resize"),
        ({"do_rescale": False}, "rescale"),
        ({"rescale_factor": 1 / 127.5}, "1/255"),
        ({"resample": 0}, "nearest"),
        ({"do_center_crop": False}, "crop"),
        ({"size": {"shortest_edge": 100}, "crop_size": SQUARE}, "larger"),
    ],
)
def test_a_preparation_that_is_not_one_linear_map_to_one_size_is_refused(options, reason):
    with pytest.raises(ExportError, match=reason):
        read_preparation(CLIPImageProcessor(**options))


def test_padding_is_refused_for_now():
    image_processor = CLIPImageProcessor()
    image_processor.do_pad = True
    with pytest.raises(ExportError, match="pads"):
        read_preparation(image_processor)


def test_no_normalisation_is_mean_0_and_deviation_1():
    assert read_normalisation(CLIPImageProcessor(do_normalize=False)).std == (1.0, 1.0, 1.0)
    assert read_normalisation(CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3])).mean == (0.1, 0.2, 0.3)


def test_a_template_with_special_tokens_behind_the_prompt_keeps_them_as_ids(processor, monkeypatch):
    monkeypatch.setattr(
        processor,
        "chat_template",
        "<image>USER {{ messages[0]['content'][1]['text'] }}</s>ASSISTANT:{{ '\\n' }}",
    )
    template = read_template(processor, processor.image_token_id)
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
        read_template(processor, processor.image_token_id)
