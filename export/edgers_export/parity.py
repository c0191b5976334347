"""PyTorch in float32 against the exported graphs: the slow reference that judges every backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import GenerationConfig

from edgers_engines.bfloat16 import floats
from edgers_engines.manifest import Expected, Parity, SelfTest
from edgers_engines.self_test import forced_logits
from edgers_engines.vlm import VisionLanguageModel
from edgers_export.vision import Vision

_TEST_ROWS, _TEST_STEPS, _TEST_LOGITS = 2, 4, 8  # what a bundle keeps of the reference for its self-test


@dataclass(frozen=True, slots=True)
class Reference:
    """What PyTorch answered.

    canvases: float32 [rows, 3, H, W]. features: float32 [rows, image_tokens, hidden].
    tokens: int64 [steps, rows]. logits: float32 [steps, rows, vocab].
    """

    canvases: NDArray[np.float32]
    prompt: str
    features: NDArray[np.float32]
    tokens: NDArray[np.int64]
    logits: NDArray[np.float32]

    def self_test(self) -> SelfTest:
        """The part that a bundle carries to the device."""
        top = np.argsort(-self.logits, axis=-1, kind="stable")[:_TEST_STEPS, :_TEST_ROWS, :_TEST_LOGITS]
        values = np.take_along_axis(self.logits[:_TEST_STEPS, :_TEST_ROWS], top, -1)
        return SelfTest(
            prompt=self.prompt,
            steps=tuple(
                tuple(
                    Expected(tokens=tuple(tokens.tolist()), logits=tuple(logits.tolist()))
                    for tokens, logits in zip(*rows, strict=True)
                )
                for rows in zip(top, values, strict=True)
            ),
        )


def reference(
    model: Any,  # noqa: ANN401  transformers is untyped
    vision: Vision,
    ids: tuple[tuple[int, ...], tuple[int, ...]],
    prompt: str,
    *,
    canvases: NDArray[np.float32],
    steps: int,
) -> Reference:
    """Let transformers' own `generate` answer, greedily, without stopping at an end token.

    Args:
        model: the checkpoint in float32.
        vision: its vision module, which says what the model gets to see.
        ids: token ids before and after the image.
        prompt: the text that gave them.
        canvases: float32 [rows, 3, H, W].
        steps: new tokens.
    """
    pixels = torch.from_numpy(canvases)
    with torch.no_grad(), _averaging(model, vision):
        features = vision(pixels)
        out = model.generate(
            **_asked(model, vision, ids, pixels),
            generation_config=GenerationConfig(
                max_new_tokens=steps,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=model.lm_head.out_features,  # no token has this id, so nothing stops early
            ),
            use_model_defaults=False,  # a checkpoint may like to sample, or to punish repetition
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = out.sequences[:, -steps:].T
    logits = torch.stack(out.logits)
    return Reference(canvases, prompt, features.numpy(), tokens.numpy(), logits.numpy())


def _asked(
    model: Any,  # noqa: ANN401  as above
    vision: Vision,
    ids: tuple[tuple[int, ...], tuple[int, ...]],
    pixels: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Images and prompt as `generate` takes them."""
    rows = len(pixels)
    before, after = (torch.tensor(part, dtype=torch.int64).expand(rows, -1) for part in ids)
    image = torch.full((rows, vision.image_tokens), model.config.image_token_id)
    input_ids = torch.cat((before, image, after), dim=1)
    views = vision.views(pixels)
    asked = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    if vision.tiles is None:
        return {**asked, "pixel_values": views}
    sizes = torch.tensor([vision.tiles.grid.frame] * rows)
    return {**asked, "pixel_values": views.reshape(rows, -1, *views.shape[1:]), "image_sizes": sizes}


@contextmanager
def _averaging(model: Any, vision: Vision) -> Iterator[None]:  # noqa: ANN401  as above
    """Let transformers' own model average what its projector gives, where the vision module does.

    It still chooses layers and features, and puts tiles together, by itself. How many there are it finds by
    the size of a patch: it is told one of which as many fit along a side as there are averages.
    """
    if vision.pooling is None:
        yield
        return
    parts, config = model.model, model.config.vision_config
    projector, patch = parts.multi_modal_projector, config.patch_size
    parts.multi_modal_projector = nn.Sequential(projector, vision.pooling)
    config.patch_size = config.image_size // vision.side
    try:
        yield
    finally:
        parts.multi_modal_projector, config.patch_size = projector, patch


def compare(model: VisionLanguageModel, want: Reference) -> Parity:
    """Run the graphs along the reference's tokens, from a poisoned cache, and compare every step."""
    features = model.encode(want.canvases)
    got = forced_logits(model, features, want.prompt, want.tokens)
    return Parity(
        tokens=want.tokens.size,
        equal_tokens=int((got.argmax(-1) == want.tokens).sum()),
        largest_logit_difference=float(np.abs(got - want.logits).max()),
        largest_feature_difference=float(np.abs(floats(features) - want.features).max()),
    )
