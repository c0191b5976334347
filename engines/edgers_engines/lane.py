"""A lane: some rows of a batch, decoded greedily in lockstep, each of which is a function of itself alone.

The rows are equally long, so there is no padding. Rows that are finished leave. A batch may have several
lanes, which run in threads of their own and share nothing that is written.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgers_engines.device import Buffer
from edgers_engines.kv_cache import KVCache

if TYPE_CHECKING:
    from edgers_engines.vlm import VisionLanguageModel


class Constraint(Protocol):
    """Which answers are allowed; the choices of edgers.oracle implement it. Several lanes ask at once."""

    def allowed(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Token ids that may follow `tokens`; none when the answer is already determined."""


class Status(Enum):
    """How an answer came to its end."""

    COMPLETE = "complete"
    UNDECIDED = "undecided"  # a token led by less than rounding can explain
    FAILED = "failed"  # a logit was NaN or infinite


@dataclass(slots=True)
class Row:
    """An answer being written: `slot` is its row in the lane's memory."""

    slot: int
    tokens: list[int] = field(default_factory=list)
    status: Status | None = None
    margin: float = float("inf")


@dataclass(frozen=True, slots=True)
class Decoding:
    """How all rows of a batch are decoded.

    Attributes:
        prefix: positions of the tokens that all rows share.
        length: positions that the cache has.
        tolerance: of a token's lead, in logits, where the margin guard is on.
        end_tokens: each ends an answer.
        max_new_tokens: so many end it too.
        constraint: which answers are allowed; free text where there is none.
    """

    prefix: int
    length: int
    tolerance: float | None
    end_tokens: tuple[int, ...]
    max_new_tokens: int
    constraint: Constraint | None


@dataclass(frozen=True, slots=True)
class Memory:
    """What rows are answered in.

    Attributes:
        block: embeddings behind the prefix, [rows, positions, hidden].
        token: embeddings of one token a row, [rows, 1, hidden].
        logits: float32 [rows, vocabulary].
        cache: keys and values.
    """

    block: Buffer
    token: Buffer
    logits: Buffer
    cache: KVCache

    def of(self, rows: slice) -> Memory:
        """The part that some of the rows have."""
        return Memory(self.block[rows], self.token[rows], self.logits[rows], self.cache.of(rows))


class Lane:
    """Rows that are answered together.

    Args:
        model: the loaded model.
        decoding: how.
        memory: of these rows alone; the prefix is in the cache already.
        place: which rows of the batch they are.

    Attributes:
        memory: as given, like `place`.
        rows: the answers.
        seconds: of each stage.
        steps: passes of the decoder after the prefill.
        began: when the first token was chosen, on the clock of time.perf_counter.
    """

    def __init__(self, model: VisionLanguageModel, decoding: Decoding, memory: Memory, place: slice) -> None:
        self._model, self._decoding, self.memory, self.place = model, decoding, memory, place
        self.rows = [Row(slot) for slot in range(len(memory.block))]
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.steps = 0
        self.began: float | None = None

    @property
    def sound(self) -> bool:
        """Whether every answer came to its end with numbers that are finite."""
        return all(row.status not in (Status.FAILED, None) for row in self.rows)

    def answer(self) -> None:
        """Answer all rows.

        Raises:
            BackendError, MemoryError: a graph failed to run.
        """
        decoding = self._decoding
        with self.timed("prefill"):
            logits = self._decode(self.memory.block, decoding.prefix)
            active = self._advance(self.rows, logits)  # waits for a GPU, which has only been told to prefill
        self.began = time.perf_counter()
        with self.timed("decode"):
            position = decoding.prefix + self.memory.block.shape[1]
            while active:
                self._drop_finished(active, logits, position)
                logits = self._step([row.tokens[-1] for row in active], position)
                position += 1
                self.steps += 1
                active = self._advance(active, logits)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds to the stage's seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def _decode(self, embeddings: Buffer, position: int) -> Buffer:
        logits = self.memory.logits[: len(embeddings)]
        self._model.decode(embeddings, position, self._decoding.length, self.memory.cache, logits)
        return logits

    def _step(self, tokens: list[int], position: int) -> Buffer:
        embeddings = self.memory.token[: len(tokens)]
        self._model.embed.run({"input_ids": np.array(tokens, np.int64)[:, None]}, {"embeddings": embeddings})
        return self._decode(embeddings, position)

    def _advance(self, rows: list[Row], logits: Buffer) -> list[Row]:
        """Choose the next token of every row; return the rows that go on."""
        decoding = self._decoding
        allowed = None
        if decoding.constraint is not None:
            allowed = [decoding.constraint.allowed(tuple(row.tokens)) for row in rows]
        top = self._model.backend.device.top(logits, allowed)
        for row, token, margin, sound in zip(
            rows, top.token.tolist(), top.lead.tolist(), top.finite.tolist(), strict=True
        ):
            if not sound:
                row.status = Status.FAILED
                continue
            row.margin = min(row.margin, margin)
            if decoding.tolerance is not None and margin <= decoding.tolerance:
                row.status = Status.UNDECIDED
            elif token in decoding.end_tokens:
                row.status = Status.COMPLETE
            else:
                row.tokens.append(token)
                if len(row.tokens) == decoding.max_new_tokens or self._determined(row):
                    row.status = Status.COMPLETE
        return [row for row in rows if row.status is None]

    def _determined(self, row: Row) -> bool:
        constraint = self._decoding.constraint
        return constraint is not None and not constraint.allowed(tuple(row.tokens))

    def _drop_finished(self, active: list[Row], logits: Buffer, position: int) -> None:
        """Move the active rows to the front of the cache, where the next, smaller batch is."""
        if len(active) < len(logits):
            self.memory.cache.keep([row.slot for row in active], self._decoding.prefix, position)
            for slot, row in enumerate(active):
                row.slot = slot


def shares(rows: int, lanes: int) -> list[slice]:
    """The rows 0, 1, ... in as many parts as there are lanes, or as rows if they are fewer; alike in size."""
    edges = np.linspace(0, rows, min(rows, lanes) + 1).astype(int).tolist()
    return [slice(*ends) for ends in pairwise(edges)]


def at_once(tasks: Sequence[Callable[[], None]]) -> None:
    """Run tasks, the first in this thread and the others in threads of their own, until all have ended.

    Raises:
        Exception: what one of them raised, the first one's before the others'.
    """
    first, *others = tasks
    begun = [_begun(task) for task in others]
    try:
        first()
    finally:
        wait(begun)  # until then they write into the rows' memory
    for each in begun:
        each.result()


def _begun(task: Callable[[], None]) -> Future[None]:
    """The task in a thread that ends with it; where no thread is to be had, here and now."""
    worker = ThreadPoolExecutor(1, "lane")
    try:
        return worker.submit(task)
    except RuntimeError:
        ended: Future[None] = Future()
        task()
        ended.set_result(None)
        return ended
    finally:
        worker.shutdown(wait=False)
