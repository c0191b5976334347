"""The vision-language model at run time: encode, prefill, decode, for many noisy copies of one image.

All rows of a batch are equally long, so there is no padding. The tokens before the image are the same for
all rows: their keys and values are computed once per prompt. Decoding is greedy and in lockstep; a row's
answer is a function of that row alone, and rows that are finished leave the batch.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgers_engines import memory, self_test
from edgers_engines.bundle import Bundle
from edgers_engines.device import Array, Buffer
from edgers_engines.engine import Backend, open_backend
from edgers_engines.errors import InputError
from edgers_engines.kv_cache import KVCache
from edgers_engines.manifest import Classifier, Clusters
from edgers_engines.prompt import PromptEncoder
from edgers_engines.text_classifier import TextClassifier
from edgers_engines.text_embedder import TextEmbedder

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
    token had a rival.
    """

    tokens: tuple[int, ...]
    text: str
    status: Status
    margin: float


class VisionLanguageModel:
    """A bundle's graphs, loaded on one backend.

    Args:
        bundle: verified bundle.
        backend: where to run; ONNX Runtime on the CPU with all cores unless given.

    Raises:
        BackendError: a graph cannot be loaded there, or gives other numbers than the bundle's self-test has.
        BundleError: the tokenizer is broken, the self-test cannot be asked, or the weights changed since the
            bundle was loaded.
    """

    def __init__(self, bundle: Bundle, backend: Backend | None = None) -> None:
        self.bundle = bundle
        self.backend = backend or open_backend()
        self.prompts = PromptEncoder(bundle)
        with bundle.weights() as weights:
            self.vision, self.embed, self.decoder = (
                self.backend.load(bundle.read(graph.file), graph, weights)
                for _, graph in bundle.manifest.graphs.named()
            )
        self_test.check(self)
        self._classifiers: dict[str, TextClassifier] = {}
        self._embedders: dict[str, TextEmbedder] = {}

    def classifier(self, record: Classifier) -> TextClassifier:
        """One of the bundle's classifiers, loaded when it is first asked for.

        Raises:
            BackendError, BundleError: see `TextClassifier`.
        """
        if record.name not in self._classifiers:
            self._classifiers[record.name] = TextClassifier(self.bundle, record, self.backend)
        return self._classifiers[record.name]

    def embedder(self, record: Clusters) -> TextEmbedder:
        """The embedder of one of the bundle's clusters oracles, loaded when it is first asked for.

        Raises:
            BackendError, BundleError: see `TextEmbedder`.
        """
        if record.name not in self._embedders:
            self._embedders[record.name] = TextEmbedder(self.bundle, record, self.backend)
        return self._embedders[record.name]

    def encode(self, canvases: NDArray[np.float32]) -> Array:
        """Image features of canvases: [rows, image_tokens, hidden], in the bundle's activation type."""
        manifest = self.bundle.manifest
        sizes = manifest.dimensions
        memory.check(self.backend.device, manifest, len(canvases), 0)
        features = np.empty((len(canvases), sizes.image_tokens, sizes.hidden), manifest.activations)
        self.vision.run({"canvas": canvases}, {"features": features})
        return features

    def embeddings(self, tokens: Sequence[int]) -> Array:
        """Embeddings of token ids: [len(tokens), hidden], in the bundle's activation type."""
        manifest = self.bundle.manifest
        out: Array = np.empty((len(tokens), manifest.dimensions.hidden), manifest.activations)
        if tokens:
            self.embed.run({"input_ids": np.array([tokens], np.int64)}, {"embeddings": out[None]})
        return out

    def decode(self, embeddings: Buffer, position: int, length: int, cache: KVCache, logits: Buffer) -> None:
        """One pass of the decoder: each new position sees those before it and itself.

        Args:
            embeddings: [rows, new, hidden].
            position: where the first of the new positions is.
            length: positions that the cache has.
            cache: read, and written at the new positions.
            logits: float32 [rows, vocabulary], of the last position; overwritten.
        """
        rows, new, _ = embeddings.shape
        visible = np.arange(length) <= position + np.arange(new)[:, None]
        self.decoder.run(
            {
                "embeddings": embeddings,
                "write_index": np.full(rows, position, np.int64),
                "mask": np.broadcast_to(visible, (rows, 1, *visible.shape)).copy(),
                **cache.inputs(rows),
            },
            {"logits": logits, **cache.outputs(rows)},
        )


class Question:
    """One prompt, ready to be asked about batches of canvases. All its memory is allocated here, once.

    Args:
        model: the loaded model.
        prompt: the user's text.
        rows: the largest batch.
        constraint: which answers are allowed; free text unless given.
        guard: make an answer UNDECIDED when a token's lead is within the bundle's margin tolerance.
        max_new_tokens: the bundle's unless given.

    Raises:
        InputError: the prompt is empty or leaves no room for an answer, or rows is below 1.
        MemoryError: so many rows need more memory than there is.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompt: str,
        *,
        rows: int,
        constraint: Constraint | None = None,
        guard: bool = True,
        max_new_tokens: int | None = None,
    ) -> None:
        if not 1 <= rows <= MAX_ROWS:
            raise InputError(f"the batch size is {rows}; it must lie between 1 and {MAX_ROWS}")
        manifest = model.bundle.manifest
        dimensions = manifest.dimensions
        suffix = model.prompts.suffix(prompt)
        self._prefix_length = len(model.prompts.prefix)
        limit = manifest.decoding.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise InputError(f"max_new_tokens is {limit}; it must be at least 1")
        self.max_new_tokens = limit
        block = dimensions.image_tokens + len(suffix)
        # The last new token is chosen but never fed back, so it needs no position.
        self._length = self._prefix_length + block + self.max_new_tokens - 1
        if self._length > dimensions.max_length:
            raise InputError(
                f"the prompt needs {self._prefix_length + block} positions and the answer up to "
                f"{self.max_new_tokens}; the model has {dimensions.max_length}: shorten the prompt"
            )
        self._length += -self._length % model.backend.device.alignment
        memory.check(model.backend.device, manifest, rows, self._length)
        self.rows = rows
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._model, self._constraint = model, constraint
        self._tolerance = manifest.decoding.margin_tolerance if guard else None
        self._end = manifest.decoding.end_tokens
        dtype, device = manifest.activations, model.backend.device
        self.device = device
        self._features = device.empty((rows, dimensions.image_tokens, dimensions.hidden), dtype)
        self._block = device.empty((rows, block, dimensions.hidden), dtype)
        after = np.broadcast_to(model.embeddings(suffix), (rows, len(suffix), dimensions.hidden))
        device.paste(after, self._block, dimensions.image_tokens)
        self._token = device.empty((rows, 1, dimensions.hidden), dtype)
        self._logits = device.empty((rows, dimensions.vocabulary), np.float32)
        self._cache = KVCache(device, dimensions, rows, self._length, dtype)
        self._share_prefix()

    def answers(self, canvases: Buffer) -> list[Answer]:
        """Answer the question about each canvas.

        Args:
            canvases: float32 [n, 3, height, width] with 1 <= n <= rows, of the model's device or the host;
                only read.

        Returns:
            n answers, in order.

        Raises:
            InputError: the array has another shape or dtype.
            BackendError: a graph failed to run.
        """
        count = len(canvases)
        if not 1 <= count <= self.rows:
            raise InputError(f"a batch holds between 1 and {self.rows} canvases; got {count}")
        rows = [_Row(slot) for slot in range(count)]
        try:
            self._encode(canvases)
            self._generate(rows)
        finally:
            if any(row.status in (Status.FAILED, None) for row in rows):
                self._cache.fill(0, self._prefix_length)  # or its NaNs would reach the next batch
        return [self._answer(row) for row in rows]

    def _generate(self, rows: list[_Row]) -> None:
        with self._timed("prefill"):
            logits = self._decode(self._block[: len(rows)], self._prefix_length)
        with self._timed("decode"):
            position = self._prefix_length + self._block.shape[1]
            active = self._advance(rows, logits)
            while active:
                self._drop_finished(active, logits, position)
                logits = self._step([row.tokens[-1] for row in active], position)
                position += 1
                active = self._advance(active, logits)

    def _encode(self, canvases: Buffer) -> None:
        with self._timed("encode"):
            features = self._features[: len(canvases)]
            self._model.vision.run({"canvas": canvases}, {"features": features})
            self.device.paste(features, self._block[: len(canvases)], 0)

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
                if len(row.tokens) == self.max_new_tokens or self._determined(row):
                    row.status = Status.COMPLETE
        return [row for row in rows if row.status is None]

    def _determined(self, row: _Row) -> bool:
        return self._constraint is not None and not self._constraint.allowed(tuple(row.tokens))

    def _drop_finished(self, active: list[_Row], logits: Buffer, position: int) -> None:
        """Move the active rows to the front of the cache, where the next, smaller batch is."""
        if len(active) < len(logits):
            self._cache.keep([row.slot for row in active], self._prefix_length, position)
            for slot, row in enumerate(active):
                row.slot = slot

    def _answer(self, row: _Row) -> Answer:
        tokens = tuple(row.tokens)
        return Answer(tokens, self._model.prompts.decode(tokens), row.status or Status.FAILED, row.margin)

    def _share_prefix(self) -> None:
        if self._prefix_length == 0:
            return
        self._decode(self._model.embeddings(self._model.prompts.prefix)[None], 0)
        self._cache.share(self._prefix_length)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


@dataclass(slots=True)
class _Row:
    """An answer being written: `slot` is its row in the cache."""

    slot: int
    tokens: list[int] = field(default_factory=list)
    status: Status | None = None
    margin: float = float("inf")
