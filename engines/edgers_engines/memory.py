"""What a bundle needs of a device's memory, from its manifest alone, and whether it is there."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from edgers_engines.device import Device
from edgers_engines.graph_record import held_as
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
    canvas = 3 * math.prod(manifest.preparation.canvas_size) * 4
    return Memory(
        weights=sum(file.size for file in manifest.files),
        sample=2 * canvas + row_bytes(manifest, sizes.max_length),
        cache=cache_bytes(manifest, sizes.max_length),
    )


def check(device: Device, manifest: Manifest, rows: int, length: int) -> None:
    """Refuse what the device cannot hold, before the system kills the process for it.

    Args:
        device: where it would be.
        manifest: the bundle's.
        rows: sequences that are answered at once.
        length: positions of each.

    Raises:
        MemoryError: cache, features, embeddings and logits exceed the device's free memory, or where it
            does not say, the machine's.
    """
    wanted, there = rows * row_bytes(manifest, length), device.free_bytes()
    if there is None:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > there:
        raise MemoryError(
            f"{rows} rows of {length} positions need {wanted / 2**30:.3g} GiB, and there are "
            f"{there / 2**30:.3g}"
        )


def row_bytes(manifest: Manifest, length: int) -> int:
    """What is held for each row of so many positions: cache, features, embeddings and logits."""
    sizes = manifest.dimensions
    embeddings = (sizes.image_tokens + length) * sizes.hidden * _item(manifest)
    return cache_bytes(manifest, length) + embeddings + 4 * sizes.vocabulary


def cache_bytes(manifest: Manifest, length: int) -> int:
    """The keys and values of a row of so many positions."""
    sizes = manifest.dimensions
    return 2 * sizes.layers * sizes.kv_heads * length * sizes.head_dim * _item(manifest)


def _item(manifest: Manifest) -> int:
    return held_as(manifest.activations).itemsize
