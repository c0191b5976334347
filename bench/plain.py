"""The plain way to a certified decision: eager `generate` for a fixed number of samples, then one radius."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from measure import in_turns
from numpy.typing import NDArray
from peers.generate import Transformers
from scipy.special import betaincinv, ndtri

from edgers.certify import DEFAULT_SELECTION
from edgers.oracle.base import OTHER

FRAMES = int(os.environ.get("FRAMES", "40"))
SIGMA, ALPHA, TARGET, FIXED = 0.5, 0.001, 0.25, 100
BATCHES = (25, 32, 58, FIXED + DEFAULT_SELECTION)
Pixels = NDArray[np.uint8]
Read = Callable[[tuple[int, ...]], str]  # new tokens of an answer -> its class


@dataclass(frozen=True)
class Verdict:
    """A label, whether R >= TARGET is certified for it, and the samples spent, selection included."""

    label: str
    certified: bool
    samples: int


class Generate:
    """Noise, answers and votes of so many samples to select by, then of FIXED that count.

    Args:
        model: answers a batch.
        read: the class of an answer.
    """

    def __init__(self, model: Transformers, read: Read) -> None:
        self._model, self._read = model, read

    @property
    def batch(self) -> int:
        """Rows at once; samples that select and those that count share batches."""
        return self._model.batch

    def __call__(self, image: Pixels) -> Verdict:
        """One certificate, with Clopper and Pearson's bound."""
        labels = self._labels(image)
        label = Counter(labels[:DEFAULT_SELECTION]).most_common(1)[0][0]
        votes = labels[DEFAULT_SELECTION:].count(label)
        radius = SIGMA * ndtri(betaincinv(votes, FIXED - votes + 1, ALPHA)) if votes else 0.0
        return Verdict(label, bool(radius >= TARGET) and label != OTHER, len(labels))

    def _labels(self, image: Pixels) -> Sequence[str]:
        import torch

        canvas, labels = torch.tensor(image).permute(2, 0, 1) / 255, []
        total = DEFAULT_SELECTION + FIXED
        for first in range(0, total, self.batch):
            rows = min(self.batch, total - first)
            answers = self._model.answers(canvas + SIGMA * torch.randn(rows, *canvas.shape))
            labels += map(self._read, answers)
        return labels

    def tune(self, image: Pixels, rounds: int) -> None:
        """Take the fastest batch size."""
        turns = {str(batch): partial(self._with, batch, image) for batch in BATCHES}
        seconds = in_turns(turns, min(rounds, FRAMES))
        self._model.batch = int(min(seconds, key=lambda name: statistics.median(seconds[name])))

    def _with(self, batch: int, image: Pixels) -> None:
        self._model.batch = batch
        self(image)
