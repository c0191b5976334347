"""A bundle beside its checkpoint in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgers_engines.bundle import Bundle
from edgers_engines.noise import Stream, noisy_copies, to_lattice
from edgers_engines.vlm import VisionLanguageModel
from edgers_export.checkpoint import load
from edgers_export.parity import Reference, reference
from edgers_export.vision import read_vision

ROWS, STEPS = 8, 16
PROMPT = "Which way should the robot go?"
PROMPTS = (
    PROMPT,
    "Go?",
    "Is a person in the way, or a box, or a cone? Answer yes or no, and say which.",
)


class Case:
    """A bundle, its checkpoint in PyTorch, and eight noisy canvases."""

    def __init__(self, bundle: Bundle, checkpoint: Path, pool: int = 1) -> None:
        self.bundle = bundle
        self.runtime = VisionLanguageModel(bundle)
        source = load(checkpoint)
        self.torch, preparation = source.model, bundle.manifest.preparation
        image_processor = source.processor.image_processor
        self.vision, _ = read_vision(self.torch, image_processor, frame=preparation.frame or None, pool=pool)
        size = preparation.canvas_size
        canvas = to_lattice(np.random.default_rng(7).random((3, *size)))
        self.canvases = np.empty((ROWS, *canvas.shape), np.float32)
        noisy_copies(canvas, 0.5, seed=1, stream=Stream.SELECTION, first=0, out=self.canvases)

    def want(self, prompt: str = PROMPT) -> Reference:
        """What transformers' `generate` answers."""
        ids = (self.runtime.prompts.prefix, self.runtime.prompts.suffix(prompt))
        return reference(self.torch, self.vision, ids, prompt, canvases=self.canvases, steps=STEPS)
