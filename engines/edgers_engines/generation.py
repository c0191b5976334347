"""Generation: greedy decoding of many rows in lockstep, each of which is a function of itself alone.

All rows of a batch are equally long, so there is no padding. The tokens before the image are the same for
all rows: their keys and values are computed once. Rows that are finished leave the batch.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgers_engines import memory
from edgers_engines.device import Buffer
from edgers_engines.errors import InputError
from edgers_engines.graph_record import held_as
from edgers_engines.kv_cache import KVCache
from edgers_engines.prompt import PromptEncoder

if TYPE_CHECKING:
    from edgers_engines.vlm import VisionLanguageModel

MAX_ROWS = 4096


class Constraint(Protocol):
    """Which answers are allowed; the choices of edgers.oracle implement it."""

    def allowed(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Token ids that may follow `tokens`; none when the answer is already determined."""


class Status(Enum):
    """How an answer came to its end."""

    COMPLETE = "complete"
    UNDECIDED = "undecided"  # a token led by less than rounding can explain
    FAILED = "failed"  # a logit was NaN or infinite


@dataclass(frozen=True, slots=True)
class Answer:
    """One row's answer.

    `margin` is the smallest lead, in logits, that a chosen token had over the runner-up; infinite when no
    token had a rival. `settled` says that it ended before the model ended it: no more was needed.
    """

    tokens: tuple[int, ...]
    text: str
    status: Status
    margin: float
    settled: bool = False


class Generation:
    """Prompts of one length, ready to be answered. All memory is allocated here, once.

    Whoever inherits from it writes the embeddings of what stands between prefix and answer into `_block`,
    [rows, start + block, hidden], from position `_start` on, and calls `_share_prefix` once. Before `_start`
    stands the prefix where the decoder's rows cannot share it, otherwise nothing.

    Args:
        model: the loaded model.
        block: positions of each prompt behind the prefix.
        rows: the largest batch.
        constraint: which answers are allowed; free text unless given.
        guard: make an answer UNDECIDED when a token's lead is within the bundle's margin tolerance.
        max_new_tokens: the bundle's unless given.
        settled: of free text, whether an answer that begins like this needs no more tokens.
        cautious: refuse more rows than are predicted to fit, for a caller that can do with fewer.

    Attributes:
        seconds: of each stage.
        decode_steps: passes of the decoder after a prefill.
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
        settled: Callable[[str], bool] | None = None,
        cautious: bool = False,
    ) -> None:
        if not 1 <= rows <= model.max_rows:
            raise InputError(f"the batch size is {rows}; it must lie between 1 and {model.max_rows}")
        manifest = model.bundle.manifest
        dimensions = manifest.dimensions
        self._prefix_length = len(model.shared_prefix)
        self._start = len(model.prompts.prefix) - self._prefix_length
        block += self._start
        limit = manifest.decoding.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise InputError(f"max_new_tokens is {limit}; it must be at least 1")
        self.max_new_tokens = limit
        # The last new token is chosen but never fed back, so it needs no position.
        self._length = self._prefix_length + block + self.max_new_tokens - 1
        if self._length > dimensions.max_length:
            raise InputError(
                f"the prompt needs {self._prefix_length + block} positions and the answer up to "
                f"{self.max_new_tokens}; the model has {dimensions.max_length}: shorten the prompt"
            )
        self._length += -self._length % model.backend.device.alignment
        self._length = model.decoder.fitting("max_len", self._length)
        memory.check(model.backend.device, manifest, rows, self._length)
        if cautious:
            model.workspace.check(rows, block, self._length)
        self.rows = rows
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.decode_steps = 0
        self.first_token_at: float | None = None
        self._model, self._constraint = model, constraint
        self._settled = None if settled is None else _of_tokens(settled, model.prompts)
        self._tolerance = manifest.decoding.margin_tolerance if guard else None
        self._end = manifest.decoding.end_tokens
        dtype, device = held_as(manifest.activations), model.backend.device
        self.device = device
        self._block = device.empty((rows, block, dimensions.hidden), dtype)
        if self._start:
            prefix = model.embeddings(model.prompts.prefix)
            device.paste(np.broadcast_to(prefix, (rows, *prefix.shape)), self._block, 0)
        self._token = device.empty((rows, 1, dimensions.hidden), dtype)
        self._logits = device.empty((rows, dimensions.vocabulary), np.float32)
        self._cache = KVCache(device, dimensions, rows, self._length, manifest.activations)

    def _answers(self, count: int) -> list[Answer]:
        """Answer the first `count` rows of the block."""
        rows = [_Row(slot) for slot in range(count)]
        try:
            self._generate(rows)
        finally:
            if any(row.status in (Status.FAILED, None) for row in rows):
                self._cache.fill(0, self._prefix_length)  # or its NaNs would reach the next batch
        self._model.workspace.ran(count, self._block.shape[1], self._length)
        return [self._answer(row) for row in rows]

    def _generate(self, rows: list[_Row]) -> None:
        # With its first token, for which a GPU is waited for: a pass of the decoder may only have been begun.
        with self._timed("prefill"):
            logits = self._decode(self._block[: len(rows)], self._prefix_length)
            active = self._advance(rows, logits)
        self.first_token_at = self.first_token_at or time.perf_counter()
        with self._timed("decode"):
            position = self._prefix_length + self._block.shape[1]
            while active:
                self._drop_finished(active, logits, position)
                logits = self._step([row.tokens[-1] for row in active], position)
                position += 1
                self.decode_steps += 1
                active = self._advance(active, logits)

    def _decode(self, embeddings: Buffer, position: int) -> Buffer:
        logits = self._logits[: len(embeddings)]
        self._model.decode(embeddings, position, self._length, self._cache, logits)
        return logits

    def _step(self, tokens: list[int], position: int) -> Buffer:
        embeddings = self._token[: len(tokens)]
        self._model.embed.run({"input_ids": np.array(tokens, np.int64)[:, None]}, {"embeddings": embeddings})
        return self._decode(embeddings, position)

    def _advance(self, rows: list[_Row], logits: Buffer) -> list[_Row]:
        """Choose the next token of every row; return the rows that go on."""
        constraint = self._constraint
        allowed = None if constraint is None else [constraint.allowed(tuple(row.tokens)) for row in rows]
        top = self.device.top(logits, allowed)
        for row, token, margin, sound in zip(
            rows, top.token.tolist(), top.lead.tolist(), top.finite.tolist(), strict=True
        ):
            if not sound:
                row.status = Status.FAILED
                continue
            row.margin = min(row.margin, margin)
            if self._tolerance is not None and margin <= self._tolerance:
                row.status = Status.UNDECIDED
            elif token in self._end:
                row.status = Status.COMPLETE
            else:
                row.tokens.append(token)
                row.settled = self._determined(row)
                if row.settled or len(row.tokens) == self.max_new_tokens:
                    row.status = Status.COMPLETE
        return [row for row in rows if row.status is None]

    def _determined(self, row: _Row) -> bool:
        tokens = tuple(row.tokens)
        if self._constraint is not None:
            return not self._constraint.allowed(tokens)
        return self._settled is not None and self._settled(tokens)

    def _drop_finished(self, active: list[_Row], logits: Buffer, position: int) -> None:
        """Move the active rows to the front of the cache, where the next, smaller batch is."""
        if len(active) < len(logits):
            self._cache.keep([row.slot for row in active], self._prefix_length, position)
            for slot, row in enumerate(active):
                row.slot = slot

    def _answer(self, row: _Row) -> Answer:
        tokens = tuple(row.tokens)
        text = self._model.prompts.decode(tokens)
        return Answer(tokens, text, row.status or Status.FAILED, row.margin, row.settled)

    def _share_prefix(self) -> None:
        if self._prefix_length == 0:
            return
        self._decode(self._model.embeddings(self._model.shared_prefix)[None], 0)
        self._cache.share(self._prefix_length)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


def _of_tokens(settled: Callable[[str], bool], prompts: PromptEncoder) -> Callable[[tuple[int, ...]], bool]:
    """The same of tokens, each beginning looked at once: noisy copies of one image answer much alike."""
    return lru_cache(maxsize=1024)(lambda tokens: settled(prompts.beginning(tokens)))


@dataclass(slots=True)
class _Row:
    """An answer being written: `slot` is its row in the cache."""

    slot: int
    tokens: list[int] = field(default_factory=list)
    status: Status | None = None
    margin: float = float("inf")
    settled: bool = False
