"""The runs of graphs that answers are made of, vision, prefill, decode step: their sizes, work and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgers_engines import memory
from edgers_engines.bundle import Bundle
from edgers_engines.decoder_graph import DecoderGraph, standard_decoder
from edgers_engines.device import Buffer
from edgers_engines.errors import BundleError, InputError
from edgers_engines.graph_record import Graph, held_as
from edgers_engines.graph_work import Work, graph_work
from edgers_engines.kv_cache import KVCache
from edgers_engines.noise import Stream
from edgers_engines.peaks import seconds
from edgers_engines.prompt import PromptEncoder
from edgers_engines.vlm import VisionLanguageModel

StageName = Literal["vision", "prefill", "decode step"]
_GREY, _SIGMA, _SEED = 0.5, 0.25, 0  # of the canvases that are timed; what is on them decides no time


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the graphs are run for.

    Attributes:
        rows: samples that are answered at once.
        prompt: the question.
        prefix: positions before the image that all rows share, which are computed once.
        new: positions that each row is prefilled with.
        length: positions of the cache.
        tokens: of an answer.
    """

    rows: int
    prompt: str
    prefix: int
    new: int
    length: int
    tokens: int


def question_sizes(
    bundle: Bundle,
    rows: int,
    prompt: str | None = None,
    tokens: int | None = None,
    decoder: DecoderGraph | None = None,
) -> Sizes:
    """Those of a question.

    Args:
        bundle: verified bundle.
        rows: samples that are answered at once.
        prompt: the question; the bundle's self-test's unless given.
        tokens: of an answer; as many as the bundle allows unless given.
        decoder: the graph that decodes; the standard one unless given.

    Raises:
        InputError: a number is below 1, the prompt is empty, or the model has fewer positions than question
            and answer take.
    """
    manifest, encoder = bundle.manifest, PromptEncoder(bundle)
    asked = manifest.self_test.prompt if prompt is None else prompt
    answer = manifest.decoding.max_new_tokens if tokens is None else tokens
    if rows < 1 or answer < 1:
        raise InputError(f"{rows} rows and answers of {answer} tokens: both numbers must be at least 1")
    before = len(encoder.prefix)
    shared = before if (decoder or standard_decoder(manifest.graphs)).shares_prefix else 0
    new = before - shared + manifest.dimensions.image_tokens + len(encoder.suffix(asked))
    length = shared + new + max(answer - 1, 1)  # an answer of one token takes no step, but one is looked at
    if length > manifest.dimensions.max_length:
        raise InputError(
            f"question and answer take {length} positions; this model has "
            f"{manifest.dimensions.max_length}: shorten the prompt, or the answer"
        )
    return Sizes(rows, asked, shared, new, length, answer)


def stage_works(bundle: Bundle, sizes: Sizes, decoder: DecoderGraph | None = None) -> dict[StageName, Work]:
    """What each stage takes, once for all rows; the decode step is the first one.

    Args: as of `question_sizes`.

    Raises:
        BundleError: a graph has an operator whose shapes are not known.
    """
    graphs, rows = bundle.manifest.graphs, {"batch": sizes.rows}
    decoding = (decoder or standard_decoder(graphs)).graph
    cache = {**rows, "max_len": sizes.length}
    return {
        "vision": _work(bundle, graphs.vision, rows),
        "prefill": _work(bundle, decoding, {**cache, "seq": sizes.new}, sizes.prefix),
        "decode step": _work(bundle, decoding, {**cache, "seq": 1}, sizes.prefix + sizes.new),
    }


def _work(bundle: Bundle, graph: Graph, sizes: dict[str, int], first: int = 0) -> Work:
    try:
        return graph_work(bundle.read(graph.file), sizes, first)
    except ValueError as error:
        raise BundleError(f"the work of {graph.file} cannot be counted: {error}") from None


def time_stages(model: VisionLanguageModel, sizes: Sizes) -> dict[StageName, list[float]]:
    """Seconds of each stage in several tries, on noisy canvases; see `peaks.seconds`.

    Args:
        model: loaded, on the backend that is judged.
        sizes: by its decoder graph.

    Raises:
        InputError: the model takes no such sizes.
        MemoryError: the rows need more memory than there is.
        BackendError: a graph failed.
    """
    length = sizes.length + -sizes.length % model.backend.device.alignment
    length = model.decoder.fitting("max_len", length)
    memory.check(model.backend.device, model.bundle.manifest, sizes.rows, length)
    runs = _Runs(model, sizes, length)
    each: dict[StageName, Callable[[], None]] = {
        "vision": runs.vision,
        "prefill": runs.prefill,
        "decode step": runs.step,
    }
    return {name: seconds(run) for name, run in each.items()}


class _Runs:
    """The stages over one set of arrays, on the model's device."""

    def __init__(self, model: VisionLanguageModel, sizes: Sizes, length: int) -> None:
        manifest, self._device = model.bundle.manifest, model.backend.device
        dimensions, held = manifest.dimensions, held_as(manifest.activations)
        rows, hidden = sizes.rows, dimensions.hidden
        self._model, self._sizes, self._length = model, sizes, length
        canvas = np.full((3, *manifest.preparation.canvas_size), _GREY)
        self._canvases = self._device.empty((rows, *canvas.shape), np.float32)
        self._device.noisy_copies(
            canvas, _SIGMA, seed=_SEED, stream=Stream.SELECTION, first=0, out=self._canvases
        )
        self._features = self._device.empty((rows, dimensions.image_tokens, hidden), held)
        self._block = self._device.empty((rows, sizes.new, hidden), held)
        self._token = self._device.empty((rows, 1, hidden), held)
        self._logits = self._device.empty((rows, dimensions.vocabulary), np.float32)
        self._cache = KVCache(self._device, dimensions, rows, length, manifest.activations)
        self._fill()

    def _fill(self) -> None:
        """The numbers that a question has: a prefix where it is not shared, the image, the text after it."""
        prompts, rows = self._model.prompts, self._sizes.rows
        suffix = self._model.embeddings(prompts.suffix(self._sizes.prompt))
        before = self._sizes.new - self._features.shape[1] - len(suffix)
        self.vision()
        self._device.paste(self._features, self._block, before)
        for embeddings, target, start in (
            (self._model.embeddings(prompts.prefix[:before]), self._block, 0),
            (suffix, self._block, self._sizes.new - len(suffix)),
            (suffix[:1], self._token, 0),
        ):
            self._device.paste(np.broadcast_to(embeddings, (rows, *embeddings.shape)), target, start)

    def vision(self) -> None:
        """Encode."""
        self._model.vision.run({"canvas": self._canvases}, {"features": self._features})
        self._device.wait()

    def prefill(self) -> None:
        """All new positions."""
        self._decode(self._block, self._sizes.prefix)

    def step(self) -> None:
        """One position behind them."""
        self._decode(self._token, self._sizes.prefix + self._sizes.new)

    def _decode(self, embeddings: Buffer, position: int) -> None:
        self._model.decode(embeddings, position, self._length, self._cache, self._logits)
        self._device.wait()
