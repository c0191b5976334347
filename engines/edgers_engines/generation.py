"""Generation: prompts of one length, answered together in memory that is allocated once.

The tokens before the image are the same for all rows: their keys and values are computed once. The rows are
shared out to lanes, as many as the backend runs at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgers_engines import memory
from edgers_engines.errors import InputError
from edgers_engines.graph_record import held_as
from edgers_engines.kv_cache import KVCache
from edgers_engines.lane import Constraint, Decoding, Lane, Memory, Row, Status, at_once, shares

if TYPE_CHECKING:
    from edgers_engines.vlm import VisionLanguageModel

MAX_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """One row's answer.

    `margin` is the smallest lead, in logits, that a chosen token had over the runner-up; infinite when no
    token had a rival.
    """

    tokens: tuple[int, ...]
    text: str
    status: Status
    margin: float


class Generation:
    """Prompts of one length, ready to be answered. All memory is allocated here, once.

    Whoever inherits from it writes the embeddings of what stands between prefix and answer into the memory's
    block, [rows, start + block, hidden], from position `_start` on, and calls `_share_prefix` once. Before
    `_start` stands the prefix where the decoder's rows cannot share it, otherwise nothing.

    Args:
        model: the loaded model.
        block: positions of each prompt behind the prefix.
        rows: the largest batch.
        constraint: which answers are allowed; free text unless given.
        guard: make an answer UNDECIDED when a token's lead is within the bundle's margin tolerance.
        max_new_tokens: the bundle's unless given.
        cautious: refuse more rows than are predicted to fit, for a caller that can do with fewer.

    Attributes:
        model: as given, like `rows` and `max_new_tokens`.
        seconds: of each stage; where lanes ran at once, their mean.
        decode_steps: passes of the decoder after a prefill; where lanes ran at once, the most of one.
        first_token_at: when the first batch had its first token, on the clock of time.perf_counter; None
            before. Who measures one batch after another sets it back.

    Raises:
        InputError: the prompt leaves no room for an answer, or rows is below 1.
        MemoryError: so many rows need more memory than there is.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        block: int,
        *,
        rows: int,
        constraint: Constraint | None,
        guard: bool,
        max_new_tokens: int | None,
        cautious: bool = False,
    ) -> None:
        if not 1 <= rows <= model.max_rows:
            raise InputError(f"the batch size is {rows}; it must lie between 1 and {model.max_rows}")
        manifest = model.bundle.manifest
        dimensions = manifest.dimensions
        prefix = len(model.shared_prefix)
        self._start = len(model.prompts.prefix) - prefix
        block += self._start
        limit = manifest.decoding.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise InputError(f"max_new_tokens is {limit}; it must be at least 1")
        # The last new token is chosen but never fed back, so it needs no position.
        length = prefix + block + limit - 1
        if length > dimensions.max_length:
            raise InputError(
                f"the prompt needs {prefix + block} positions and the answer up to {limit}; the model has "
                f"{dimensions.max_length}: shorten the prompt"
            )
        length += -length % model.backend.device.alignment
        length = model.decoder.fitting("max_len", length)
        memory.check(model.backend.device, manifest, rows, length)
        if cautious:
            model.workspace.check(rows, block, length)
        self.rows, self.max_new_tokens = rows, limit
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.decode_steps = 0
        self.first_token_at: float | None = None
        self.model = model
        self._decoding = Decoding(
            prefix=prefix,
            length=length,
            tolerance=manifest.decoding.margin_tolerance if guard else None,
            end_tokens=manifest.decoding.end_tokens,
            max_new_tokens=limit,
            constraint=constraint,
        )
        self.device = device = model.backend.device
        dtype, hidden = held_as(manifest.activations), dimensions.hidden
        self._memory = Memory(
            block=device.empty((rows, block, hidden), dtype),
            token=device.empty((rows, 1, hidden), dtype),
            logits=device.empty((rows, dimensions.vocabulary), np.float32),
            cache=KVCache(device, dimensions, rows, length, manifest.activations),
        )
        if self._start:
            before = model.embeddings(model.prompts.prefix)
            device.paste(np.broadcast_to(before, (rows, *before.shape)), self._memory.block, 0)

    def _answers(self, count: int, begin: Callable[[Lane], None] = lambda _lane: None) -> list[Answer]:
        """Answer the first `count` rows of the block.

        Args:
            count: at least one.
            begin: called by each lane before it answers, to write its rows of the block.
        """
        places = shares(count, self.model.lanes)
        lanes = [Lane(self.model, self._decoding, self._memory.of(place), place) for place in places]

        def answer(lane: Lane) -> None:
            begin(lane)
            lane.answer()

        try:
            at_once([partial(answer, lane) for lane in lanes])
        finally:
            if not all(lane.sound for lane in lanes):
                # Or its NaNs would reach the next batch.
                self._memory.cache.fill(0, self._decoding.prefix)
            self._measure(lanes)
        self.model.workspace.ran(count, self._memory.block.shape[1], self._decoding.length)
        return [self._answer(row) for lane in lanes for row in lane.rows]

    def _measure(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            for stage, seconds in lane.seconds.items():
                self.seconds[stage] += seconds / len(lanes)
        self.decode_steps += max(lane.steps for lane in lanes)
        if self.first_token_at is None:
            self.first_token_at = min((lane.began for lane in lanes if lane.began), default=None)

    def _answer(self, row: Row) -> Answer:
        tokens = tuple(row.tokens)
        return Answer(tokens, self.model.prompts.decode(tokens), row.status or Status.FAILED, row.margin)

    def _share_prefix(self) -> None:
        prefix, memory = self.model.shared_prefix, self._memory
        if prefix:
            embeddings = self.model.embeddings(prefix)[None]
            self.model.decode(embeddings, 0, self._decoding.length, memory.cache, memory.logits[:1])
            memory.cache.share(len(prefix))
