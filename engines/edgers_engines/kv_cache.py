"""The KV cache: allocated once, written in place by the decoder, rows dropped by moving the others up."""

from __future__ import annotations

from collections.abc import Sequence

from edgers_engines.bfloat16 import bits
from edgers_engines.device import Buffer, Device
from edgers_engines.graph_record import Dtype, held_as
from edgers_engines.manifest import Dimensions


class KVCache:
    """Keys and values of every layer for up to `rows` sequences of up to `length` positions.

    Each array is [rows, kv_heads, length, head_dim]. A batch is always the first rows, so a view of
    them is contiguous and the decoder reads and writes it where it lies. Positions not yet written hold
    whatever was there; the attention mask gives them weight 0, which keeps out every number but NaN and
    infinity. So the cache starts as zeros, and must be cleared after a batch with non-finite values.
    """

    def __init__(self, device: Device, dimensions: Dimensions, rows: int, length: int, dtype: Dtype) -> None:
        shape = (rows, dimensions.kv_heads, length, dimensions.head_dim)
        self._device, self._rows, self._dtype = device, rows, dtype
        self._arrays: dict[str, Buffer] = {
            f"{layer}.{kind}": device.empty(shape, held_as(dtype))
            for layer in range(dimensions.layers)
            for kind in ("key", "value")
        }
        self.fill(0)

    def inputs(self, rows: int) -> dict[str, Buffer]:
        """The decoder's `past.*` inputs for the first `rows` sequences."""
        return {f"past.{name}": array[:rows] for name, array in self._arrays.items()}

    def outputs(self, rows: int) -> dict[str, Buffer]:
        """The decoder's `present.*` outputs: the same memory as `inputs`."""
        return {f"present.{name}": array[:rows] for name, array in self._arrays.items()}

    def share(self, length: int) -> None:
        """Copy the first `length` positions of the first row to all rows."""
        self._copy([(0, row) for row in range(1, self._rows)], 0, length)

    def fill(self, value: float, start: int = 0) -> None:
        """Write a value from position `start` on, in every row."""
        held = bits(value) if self._dtype == "bfloat16" else value
        for array in self._arrays.values():
            self._device.fill(array, held, start)

    def keep(self, rows: Sequence[int], start: int, stop: int) -> None:
        """Move the given rows up to the front.

        Args:
            rows: which rows stay, in ascending order.
            start: first position that differs between rows.
            stop: one past the last position written.
        """
        self._copy([(row, front) for front, row in enumerate(rows) if row != front], start, stop)

    def _copy(self, moves: list[tuple[int, int]], start: int, stop: int) -> None:
        for array in self._arrays.values():
            self._device.copy_rows(array, moves, start, stop)
