"""The KV cache: allocated once, written in place by the decoder, rows dropped by moving the others up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgers_engines.engine import Array
from edgers_engines.manifest import Dimensions, Dtype


class KVCache:
    """Keys and values of every layer for up to `rows` sequences of up to `length` positions.

    Each array is [rows, kv_heads, length, head_dim]. A batch is always the first rows, so a view of
    them is contiguous and the decoder reads and writes it where it lies. Positions not yet written hold
    whatever was there; the attention mask gives them weight 0, which keeps out every number but NaN and
    infinity. So the cache starts as zeros, and must be cleared after a batch with non-finite values.
    """

    def __init__(self, dimensions: Dimensions, rows: int, length: int, dtype: Dtype) -> None:
        shape = (rows, dimensions.kv_heads, length, dimensions.head_dim)
        self._arrays: dict[str, Array] = {
            f"{layer}.{kind}": np.zeros(shape, dtype)
            for layer in range(dimensions.layers)
            for kind in ("key", "value")
        }

    def inputs(self, rows: int) -> dict[str, Array]:
        """The decoder's `past.*` inputs for the first `rows` sequences."""
        return {f"past.{name}": array[:rows] for name, array in self._arrays.items()}

    def outputs(self, rows: int) -> dict[str, Array]:
        """The decoder's `present.*` outputs: the same memory as `inputs`."""
        return {f"present.{name}": array[:rows] for name, array in self._arrays.items()}

    def share(self, length: int) -> None:
        """Copy the first `length` positions of the first row to all rows."""
        for array in self._arrays.values():
            array[1:, :, :length] = array[:1, :, :length]

    def clear(self, start: int) -> None:
        """Write zeros from position `start` on, in every row."""
        for array in self._arrays.values():
            array[:, :, start:] = 0

    def keep(self, rows: Sequence[int], start: int, stop: int) -> None:
        """Move the given rows up to the front.

        Args:
            rows: which rows stay, in ascending order.
            start: first position that differs between rows.
            stop: one past the last position written.
        """
        for array in self._arrays.values():
            for target, source in enumerate(rows):
                if target != source:
                    array[target, :, start:stop] = array[source, :, start:stop]
