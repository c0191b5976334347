"""Decoder graphs of the same weights under one greedy loop, and onnxruntime-genai's own.

Every decoder is begun for a batch of rows, then takes embeddings [rows, new, hidden] and returns the logits
of the last position. What chooses tokens and looks up their embeddings is the same for all, in NumPy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from miniature import NEW_TOKENS, POSITIONS, TEXT
from numpy.typing import NDArray
from peers.graphs import KINDS

from edgers_engines.device import Buffer
from edgers_engines.kv_cache import KVCache
from edgers_engines.onnxruntime import OnnxRuntimeBackend
from edgers_engines.vlm import VisionLanguageModel

_LENGTH = POSITIONS + NEW_TOKENS - 1  # the last new token is not fed back
_HEAD = TEXT["hidden_size"] // TEXT["num_attention_heads"]
_NAMES = [f"{layer}.{kind}" for layer in range(TEXT["num_hidden_layers"]) for kind in KINDS]

Logits = NDArray[np.float32]


class Decoder(Protocol):
    """A decoder graph and its cache."""

    def begin(self, rows: int) -> None:
        """Forget what was fed, and expect so many rows."""

    def step(self, embeddings: NDArray[np.float32]) -> Logits:
        """Feed new positions; the logits of the last one, [rows, vocabulary], valid until the next call."""


def greedy(
    decoder: Decoder, embeddings: NDArray[np.float32], table: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The tokens after these prompts: [rows, NEW_TOKENS].

    Args:
        decoder: computes the logits.
        embeddings: of the prompts, [rows, positions, hidden].
        table: of all tokens, [vocabulary, hidden].
    """
    decoder.begin(len(embeddings))
    tokens = []
    for _ in range(NEW_TOKENS):
        tokens.append(decoder.step(embeddings).argmax(1))
        embeddings = table[tokens[-1]][:, None]
    return np.stack(tokens, 1)


class EdgersDecoder:
    """The bundle's decoder graph through the product's engine and cache.

    Args:
        model: the loaded model.
        rows: of a batch.
        prefix: computed once, its keys and values copied to all rows; what is fed comes after.
    """

    def __init__(self, model: VisionLanguageModel, rows: int, prefix: tuple[int, ...] = ()) -> None:
        manifest, device = model.bundle.manifest, model.backend.device
        self._model, self._prefix = model, model.embeddings(prefix)[None]
        self._cache = KVCache(device, manifest.dimensions, rows, _LENGTH, manifest.activations)
        self._logits = np.empty((rows, manifest.dimensions.vocabulary), np.float32)
        self._position = 0

    def begin(self, rows: int) -> None:  # noqa: ARG002  the cache is for any number
        """See `Decoder`."""
        self._position = 0
        if self._prefix.size:
            self.step(self._prefix)
            self._cache.share(self._position)

    def step(self, embeddings: Buffer) -> Logits:
        """See `Decoder`."""
        logits = self._logits[: len(embeddings)]
        self._model.decode(embeddings, self._position, _LENGTH, self._cache, logits)
        self._position += embeddings.shape[1]
        return logits


class GroupedDecoder:
    """onnxruntime-genai's graph, its cache bound in place: what goes in is the memory that comes out."""

    def __init__(self, session: ort.InferenceSession, rows: int) -> None:
        self._session = session
        shape = (rows, TEXT["num_key_value_heads"], _LENGTH, _HEAD)
        self._cache = {name: np.zeros(shape, np.float32) for name in _NAMES}
        self._logits = np.empty((rows, 1, TEXT["vocab_size"]), np.float32)
        self._values: dict[str, ort.OrtValue] = {}
        self._position = 0

    def begin(self, rows: int) -> None:
        """See `Decoder`."""
        self._position = 0
        self._values = {name: _value(array[:rows]) for name, array in self._cache.items()}

    def step(self, embeddings: NDArray[np.float32]) -> Logits:
        """See `Decoder`."""
        rows, new, _ = embeddings.shape
        self._position += new
        logits = self._logits[:rows]
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("inputs_embeds", _value(embeddings))
        binding.bind_ortvalue_input("attention_mask", _value(np.ones((rows, self._position), np.int64)))
        binding.bind_ortvalue_output("logits", _value(logits))
        for name, value in self._values.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        self._session.run_with_iobinding(binding)
        return logits[:, 0]


class ConcatenatedDecoder:
    """The graph as optimum exports it: each step's longer cache is the next step's past, where it lies."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._cache: list[ort.OrtValue] = []
        self._position = 0

    def begin(self, rows: int) -> None:
        """See `Decoder`."""
        self._position = 0
        nothing = np.empty((rows, TEXT["num_key_value_heads"], 0, _HEAD), np.float32)
        self._cache = [_value(nothing) for _ in _NAMES]

    def step(self, embeddings: NDArray[np.float32]) -> Logits:
        """See `Decoder`."""
        rows, new, _ = embeddings.shape
        positions = np.arange(self._position, self._position + new)
        self._position += new
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("inputs_embeds", _value(embeddings))
        binding.bind_ortvalue_input("attention_mask", _value(np.ones((rows, self._position), np.int64)))
        binding.bind_ortvalue_input("position_ids", _value(np.tile(positions, (rows, 1))))
        binding.bind_output("logits", "cpu")
        for name, value in zip(_NAMES, self._cache, strict=True):
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_output(f"present.{name}", "cpu")
        self._session.run_with_iobinding(binding)
        logits, *self._cache = binding.get_outputs()
        last: Logits = logits.numpy()[:, -1]
        return last


class OwnRuntime:
    """onnxruntime-genai's `Generator`, which takes token ids: it cannot be fed embeddings."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime_genai as genai

        config = genai.Config(str(folder))
        options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._genai, self._model = genai, genai.Model(config)

    def answers(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """New tokens, [rows, NEW_TOKENS], after prompts of ids [rows, POSITIONS]."""
        rows, positions = ids.shape
        settings: Any = self._genai.GeneratorParams(self._model)
        length = positions + NEW_TOKENS
        settings.set_search_options(
            batch_size=rows, max_length=length, do_sample=False, past_present_share_buffer=True
        )
        generator = self._genai.Generator(self._model, settings)
        generator.append_tokens(ids.astype(np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return np.stack([generator.get_sequence(row)[positions:] for row in range(rows)]).astype(np.int64)


def open_session(folder: Path, backend: OnnxRuntimeBackend, *, defaults: bool) -> ort.InferenceSession:
    """model.onnx of a folder with the backend's threads.

    Args:
        folder: where it is.
        backend: edgers'.
        defaults: ONNX Runtime's session options (an arena, threads that spin while they wait), not edgers'.
    """
    options = backend._session_options(folder)
    if defaults:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = backend.threads, 1
    options.log_severity_level = 3
    return ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])


def _value(array: NDArray[Any]) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
