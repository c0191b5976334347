"""What a bundle needs of a device's memory, from its manifest alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgers_engines.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a model holds; what a runtime needs besides while it computes is not in it.

    Attributes:
        weights: of all graphs, as they lie on disk.
        sample: of each sample that is answered at once, with the longest prompt: noise, features, embeddings,
            logits and cache.
        cache: the keys and values in `sample`.
    """

    weights: int
    sample: int
    cache: int


def needed(manifest: Manifest) -> Memory:
    """The memory of a bundle's weights, and of each sample in a batch."""
    sizes = manifest.dimensions
    item = np.dtype(manifest.activations).itemsize
    cache = 2 * sizes.layers * sizes.kv_heads * sizes.max_length * sizes.head_dim * item
    canvas = 3 * math.prod(manifest.preparation.canvas_size) * 4
    positions = (sizes.image_tokens + sizes.max_length) * sizes.hidden * item
    return Memory(
        weights=sum(file.size for file in manifest.files),
        sample=2 * canvas + positions + 4 * sizes.vocabulary + cache,
        cache=cache,
    )
