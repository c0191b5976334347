"""Noise ahead of time: the next chunk's is drawn in a second thread while the model answers this one's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from edgers_engines.device import Buffer, Device
from edgers_engines.noise import Stream


@dataclass(frozen=True, slots=True)
class Chunk:
    """The samples first, first + 1, ..., first + rows - 1 of one stream."""

    stream: Stream
    first: int
    rows: int


Draw = Callable[[Chunk, Buffer], None]


class NoiseAhead:
    """Two buffers: while the caller reads one, a thread fills the other.

    A thread ends with the one chunk it draws. So there is nothing to close, and whoever is interrupted or
    stops early leaves no thread behind that waits for more.

    Args:
        draw: writes the noisy copies of a chunk into an array of that many rows; called from either thread.
        shape: of a buffer: the largest chunk's rows, then the canvas' shape.
        device: where the buffers lie.
    """

    def __init__(self, draw: Draw, shape: tuple[int, ...], device: Device) -> None:
        self._draw = draw
        self._current, self._other = (device.empty(shape, np.float32) for _ in range(2))
        self._begun: tuple[Chunk, Future[None]] | None = None

    def take(self, chunk: Chunk, following: Chunk | None) -> Buffer:
        """The noisy copies of a chunk, and a beginning with those of the chunk that will be asked for next.

        Args:
            chunk: what to return; drawn now unless it was the `following` of the call before.
            following: what to begin with. A wrong guess costs its time and changes nothing.

        Returns:
            float32 [chunk.rows, *canvas.shape], valid until the next call.

        Raises:
            Exception: whatever `draw` raised for this chunk.
        """
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != chunk:
            if begun is not None:
                wait([begun[1]])  # it writes where the chunk after this one will be drawn
            self._draw(chunk, self._current[: chunk.rows])
        else:
            begun[1].result()
            self._current, self._other = self._other, self._current
        if following is not None:
            with suppress(RuntimeError):  # no thread is to be had: then it is drawn when it is asked for
                self._begun = following, self._begin(following)
        return self._current[: chunk.rows]

    def finish(self) -> None:
        """Wait for the noise that is being drawn: until then its thread holds what it draws for."""
        if self._begun is not None:
            wait([self._begun[1]])

    def _begin(self, chunk: Chunk) -> Future[None]:
        worker = ThreadPoolExecutor(1, "noise")
        try:
            return worker.submit(self._draw, chunk, self._other[: chunk.rows])
        finally:
            worker.shutdown(wait=False)
