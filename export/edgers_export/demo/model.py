"""The demo model itself: a LLaVA of 0.8 million parameters, and how it is saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer

from edgers_export.demo.canvas import PATCH, PATCHES, SIZE
from edgers_export.demo.questions import END, IMAGE, MAX_TOKENS, PAD, SPECIAL_TOKENS, START, wrap_tokenizer

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

PIXEL_MEAN = PIXEL_STD = 0.5
VISION_WIDTH = 128
VOCABULARY_MULTIPLE = 32

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_model(vocabulary: int, *, seed: int) -> LlavaForConditionalGeneration:
    """A new model for a tokenizer of `vocabulary` words; the same seed gives the same weights."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=320,
        projection_dim=VISION_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=-(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=False,
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        bos_token_id=SPECIAL_TOKENS.index(START),
        eos_token_id=SPECIAL_TOKENS.index(END),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=SPECIAL_TOKENS.index(IMAGE),
        image_seq_length=PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random stream as it was
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config)


def save_checkpoint(model: LlavaForConditionalGeneration, tokenizer: Tokenizer, directory: Path) -> None:
    """Write a Hugging Face directory: float32 weights, configs, tokenizer, image processor, chat template."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    size = {"height": SIZE, "width": SIZE}
    image_processor = CLIPImageProcessor(
        size=size,
        crop_size=size,
        do_center_crop=False,
        resample=2,  # bilinear, in Pillow's numbering
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=wrap_tokenizer(tokenizer),
        patch_size=PATCH,
        num_additional_image_tokens=1,  # CLIP's class token, which the "default" strategy drops
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, safe_serialization=True)
    processor.save_pretrained(directory)
