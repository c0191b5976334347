"""What a model's graphs compute in on a GPU, predicted: so that the first batch that is tried fits.

A runtime takes this memory while it runs, and keeps it. Where the prediction is too small, memory runs out
and a smaller batch is tried; where it is too large, a smaller batch is answered than could be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from edgers_engines import memory
from edgers_engines.errors import BundleError
from edgers_engines.memory_plan import computing_bytes

if TYPE_CHECKING:
    from edgers_engines.graph_record import Graph
    from edgers_engines.vlm import VisionLanguageModel

# Of what is predicted: ONNX Runtime took about 1.7 times as much for LLaVA-1.5-7B's graphs with the standard
# decoder, twice as much with the one for CUDA (bench/results/gpu.md: memory in use, less two copies of the
# weights), for it cuts its memory into pieces.
_TAKEN = 2
_UNIT = 64  # positions are rounded up to it: a graph is read anew for few questions


class Workspace:
    """The memory that a loaded model computes in.

    Args:
        model: its graphs are read when the first batch of several rows is asked about on a device that says
            what is free; the decoder's anew where a question is much longer or shorter.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self._bundle, self._backend = model.bundle, model.backend
        self._decoder = model.decoder_graph.graph
        self._rows: dict[tuple[int, int], int] = {}
        self._kept = 0

    def check(self, rows: int, new: int, length: int) -> None:
        """Refuse a batch for which there will be no memory, before anything is allocated for it.

        One row is never refused: there is no smaller batch, and it may fit all the same.

        Args:
            rows: of the batch.
            new: positions that are prefilled at once.
            length: positions of the cache.

        Raises:
            MemoryError: less is free than noise, features, embeddings, logits, cache and the graphs need.
        """
        free = None if rows == 1 else self._backend.device.free_bytes()
        if free is None:
            return
        manifest = self._bundle.manifest
        noise = 2 * 4 * 3 * math.prod(manifest.preparation.canvas_size)
        held = rows * (memory.row_bytes(manifest, length) + noise)
        wanted = held + max(rows * self._row_bytes(new, length) - self._kept, 0)
        if wanted > free:
            raise MemoryError(
                f"{rows} rows of {length} positions need {wanted / 2**30:.3g} GiB with what computes them, "
                f"and {free / 2**30:.3g} are free"
            )

    def ran(self, rows: int, new: int, length: int) -> None:
        """So many rows were answered: what the runtime took for them, it has for the next."""
        self._kept = max(self._kept, rows * self._rows.get(_rounded(new, length), 0))

    def _row_bytes(self, new: int, length: int) -> int:
        """For each row: a runtime that takes memory while it runs keeps that of each graph apart."""
        if not self._backend.grows:
            return 0
        key = _rounded(new, length)
        if key not in self._rows:
            sizes = {"batch": 1, "seq": key[0], "max_len": key[1]}
            self._rows[key] = _TAKEN * (self._vision + self._computing(self._decoder, sizes))
        return self._rows[key]

    @cached_property
    def _vision(self) -> int:
        return self._computing(self._bundle.manifest.graphs.vision, {"batch": 1})

    def _computing(self, graph: Graph, sizes: Mapping[str, int]) -> int:
        try:
            return computing_bytes(self._bundle, graph, sizes)
        except BundleError:  # an operator whose shapes are not known: then the batch is tried
            return 0


def _rounded(new: int, length: int) -> tuple[int, int]:
    return new + -new % _UNIT, length + -length % _UNIT
