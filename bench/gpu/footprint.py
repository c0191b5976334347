"""What a batch takes of the GPU's memory, beside what `edgers plan --memory` predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from checks import Say, bundles_to_try

from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.memory_plan import plan_memory
from edgers_engines.noise import Stream, to_lattice
from edgers_engines.vlm import Question, VisionLanguageModel

FEW, MANY = 64, 512
PROMPT = "Which way?"


def main(device: str, say: Say) -> dict[str, Any]:
    """For the demo bundle and those below $BUNDLES: bytes for each further row between few and many."""
    if device == "cpu":
        return {}
    found: dict[str, Any] = {}
    for bundle in bundles_to_try():
        few, many = (_taken(bundle, device, rows) for rows in (FEW, MANY))
        measured, predicted = (many[0] - few[0]) / (MANY - FEW), plan_memory(bundle, many[1]).sample
        say(
            f"  {bundle.manifest.name}, {bundle.manifest.precision}: {measured / 1e6:.3f} MB for a further "
            f"row, {predicted / 1e6:.3f} predicted"
        )
        found[bundle.manifest.name] = {"measured": measured, "predicted": predicted}
    return found


def _taken(bundle: Bundle, device: str, rows: int) -> tuple[int, int]:
    """Bytes that answering so many rows took of what was free, and the positions that each has.

    A model of its own each time: ONNX Runtime keeps what it took, so afterwards the most that it needed is
    gone from what is free.
    """
    model = VisionLanguageModel(bundle, open_backend(device=device))
    where, size = model.backend.device, bundle.manifest.preparation.canvas_size
    before, _ = torch.cuda.mem_get_info()
    question = Question(model, PROMPT, rows=rows, guard=False)
    canvases = where.empty((rows, 3, *size), np.float32)
    canvas = to_lattice(np.full((3, *size), 0.5))
    where.noisy_copies(canvas, 0.25, seed=1, stream=Stream.SELECTION, first=0, out=canvases)
    question.answers(canvases)
    after, _ = torch.cuda.mem_get_info()
    manifest = bundle.manifest
    text = len(model.prompts.prefix) + len(model.prompts.suffix(PROMPT))
    return before - after, text + manifest.dimensions.image_tokens + manifest.decoding.max_new_tokens
