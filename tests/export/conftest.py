"""Checkpoints and their bundles: the demo's, and a miniature with grouped KV heads of size 64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from edgers_engines.bundle import Bundle
from edgers_export.bundle import export_bundle
from edgers_export.demo.canvas import SIZE
from edgers_export.demo.model import save_checkpoint
from edgers_export.demo.questions import build_tokenizer
from tests.conftest import CHECKPOINT


@pytest.fixture(scope="session")
def miniature_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, 6 heads of size 64 over 2 KV heads, features of the last layer but one."""
    tokenizer = build_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=16,
    )
    text = LlamaConfig(
        hidden_size=384,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=512,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, vision_feature_layer=-2)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():  # as initialised, all logits are nearly equal; scaled up, rows differ
        model.lm_head.weight.mul_(20)
        model.get_input_embeddings().weight.mul_(30)
    folder = tmp_path_factory.mktemp("miniature") / "checkpoint"
    save_checkpoint(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def miniature(miniature_checkpoint: Path) -> Bundle:
    """The miniature, exported."""
    return export_bundle(miniature_checkpoint, miniature_checkpoint.parent / "bundle")


@pytest.fixture(scope="session")
def demo_export(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo checkpoint, exported anew."""
    return export_bundle(CHECKPOINT, tmp_path_factory.mktemp("demo") / "demo bundle", max_new_tokens=12)
