"""Batches of noisy, normalised scenes to train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from edgers_export.demo.model import PIXEL_MEAN, PIXEL_STD
from edgers_export.demo.scenes import ScenePool, mirror_answers, mirror_images, mirror_patches

BATCH = 64
BATCH_STREAM = 1  # of the seed; the scenes use stream 3


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's scenes.

    `pixels`: float32 [n, 3, 96, 96], noisy and normalised. `patches`: float32 [n, 36, 8]. `answers`: int64
    [n, 4].
    """

    pixels: torch.Tensor
    patches: torch.Tensor
    answers: torch.Tensor


class Batches:
    """An endless, seeded stream of shuffled batches; half of the scenes are flipped, all get fresh noise."""

    def __init__(self, pool: ScenePool, seed: int) -> None:
        self._pool = pool
        self._rng = np.random.default_rng([seed, BATCH_STREAM])
        self._noise = torch.Generator().manual_seed(seed)
        self._order: npt.NDArray[np.int64] = np.arange(0)

    def draw(self, max_sigma: float) -> Batch:
        """The next batch, with a noise level drawn for each image from [0, max_sigma]."""
        if len(self._order) < BATCH:
            self._order = self._rng.permutation(len(self._pool))
        rows, self._order = self._order[:BATCH], self._order[BATCH:]
        pool = self._pool
        images, patches, answers = pool.images[rows], pool.patches[rows], pool.answers[rows]
        flipped = self._rng.random(BATCH) < 0.5
        images[flipped] = mirror_images(images[flipped])
        patches[flipped] = mirror_patches(patches[flipped])
        answers[flipped] = mirror_answers(answers[flipped])
        sigma = torch.rand(BATCH, 1, 1, 1, generator=self._noise) * max_sigma
        pixels = noisy_pixels(images, sigma, self._noise)
        return Batch(pixels, torch.from_numpy(patches), torch.from_numpy(answers))


def noisy_pixels(
    images: npt.NDArray[np.uint8], sigma: float | torch.Tensor, noise: torch.Generator
) -> torch.Tensor:
    """The model's input, float32 [n, 3, height, width], for images uint8 [n, height, width, 3].

    The noise is added to pixels in [0, 1], not clipped, and then normalised with them.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255
    pixels += sigma * torch.randn(pixels.shape, generator=noise)
    return (pixels - PIXEL_MEAN) / PIXEL_STD
