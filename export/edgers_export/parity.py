"""PyTorch in float32 against the exported graphs: the slow reference that judges every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from edgers_engines.bundle import Parity
from edgers_engines.kv_cache import KVCache
from edgers_engines.vlm import VisionLanguageModel
from edgers_export.llava import Vision

POISON = 1e4  # what unwritten cache positions hold: attention that reads one of them is found out


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
        vision: its vision module, for the normalisation and the features.
        ids: token ids before and after the image.
        prompt: the text that gave them.
        canvases: float32 [rows, 3, H, W].
        steps: new tokens.
    """
    prefix, suffix = ids
    pixels = torch.from_numpy(canvases)
    with torch.no_grad():
        features = vision(pixels)
        image = [model.config.image_token_id] * features.shape[1]
        input_ids = torch.tensor([[*prefix, *image, *suffix]]).repeat(len(canvases), 1)
        out = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            pixel_values=(pixels - vision.mean) / vision.std,
            generation_config=GenerationConfig(
                max_new_tokens=steps,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=model.lm_head.out_features,  # no token has this id, so nothing stops early
            ),
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = out.sequences[:, input_ids.shape[1] :].T
    logits = torch.stack(out.logits)
    return Reference(canvases, prompt, features.numpy(), tokens.numpy(), logits.numpy())


def compare(model: VisionLanguageModel, want: Reference) -> Parity:
    """Run the graphs along the reference's tokens, from a poisoned cache, and compare every step."""
    features = np.empty_like(want.features)
    model.vision.run({"canvas": want.canvases}, {"features": features})
    got = _logits(model, features, want)
    return Parity(
        tokens=want.tokens.size,
        equal_tokens=int((got.argmax(-1) == want.tokens).sum()),
        largest_logit_difference=float(np.abs(got - want.logits).max()),
        largest_feature_difference=float(np.abs(features - want.features).max()),
    )


def _logits(
    model: VisionLanguageModel, features: NDArray[np.float32], want: Reference
) -> NDArray[np.float32]:
    steps, rows = want.tokens.shape
    prefix, suffix = (
        np.repeat(model.embeddings(ids)[None], rows, 0)
        for ids in (model.prompts.prefix, model.prompts.suffix(want.prompt))
    )
    pieces = [prefix, np.concatenate([features, suffix], 1)]  # prefill in two pieces, as the runtime does
    pieces += [model.embeddings(tokens.tolist())[:, None] for tokens in want.tokens[:-1]]
    length = sum(piece.shape[1] for piece in pieces)
    cache = KVCache(model.bundle.manifest.dimensions, rows, length)
    for array in cache.inputs(rows).values():
        array.fill(POISON)
    logits = np.empty((steps + 1, rows, want.logits.shape[-1]), np.float32)
    position = 0
    for step, piece in enumerate(pieces):
        new = position + np.arange(piece.shape[1])
        visible = np.arange(length) <= new[:, None]
        model.decoder.run(
            {
                "embeddings": np.ascontiguousarray(piece),
                "write_index": np.full(rows, position, np.int64),
                "mask": np.broadcast_to(visible, (rows, 1, *visible.shape)).copy(),
                **cache.inputs(rows),
            },
            {"logits": logits[step], **cache.outputs(rows)},
        )
        position += piece.shape[1]
    return logits[1:]
