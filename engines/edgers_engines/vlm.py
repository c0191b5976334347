"""The vision-language model at run time: encode, prefill, decode, for many noisy copies of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgers_engines import memory, self_test
from edgers_engines.bundle import Bundle
from edgers_engines.decoder_graph import DecoderGraph
from edgers_engines.device import Array, Buffer
from edgers_engines.engine import Backend, EngineRecord, open_backend
from edgers_engines.errors import InputError
from edgers_engines.generation import MAX_ROWS, Answer, Constraint, Generation, Status
from edgers_engines.graph_record import held_as
from edgers_engines.kv_cache import KVCache
from edgers_engines.oracle_record import Classifier, Clusters
from edgers_engines.prompt import PromptEncoder
from edgers_engines.text_classifier import TextClassifier
from edgers_engines.text_embedder import TextEmbedder
from edgers_engines.workspace import Workspace

__all__ = ["MAX_ROWS", "Answer", "Constraint", "Question", "Status", "VisionLanguageModel"]


class VisionLanguageModel:
    """A bundle's graphs, loaded on one backend.

    Args:
        bundle: verified bundle.
        backend: where to run; ONNX Runtime on the CPU with all cores unless given.
        decoder: which of the bundle's decoder graphs; the backend's choice unless given.

    Raises:
        BackendError: a graph cannot be loaded there, or gives other numbers than the bundle's self-test has.
        BundleError: the tokenizer is broken, the self-test cannot be asked, or the weights changed since the
            bundle was loaded.
    """

    def __init__(
        self, bundle: Bundle, backend: Backend | None = None, decoder: DecoderGraph | None = None
    ) -> None:
        self.bundle = bundle
        self.backend = backend or open_backend()
        graphs = bundle.manifest.graphs
        self.decoder_graph = decoder or self.backend.decoder(graphs)
        self.prompts = PromptEncoder(bundle)
        with bundle.weights() as weights:
            self.vision, self.embed, self.decoder = (
                self.backend.load(bundle.read(graph.file), graph, weights)
                for graph in (graphs.vision, graphs.embed, self.decoder_graph.graph)
            )
        self.workspace = Workspace(self)
        self_test.check(self)
        self._classifiers: dict[str, TextClassifier] = {}
        self._embedders: dict[str, TextEmbedder] = {}

    def engine_record(self, oracle: str) -> EngineRecord:
        """What answers, and classifies if the oracle is one of the bundle's that have a graph."""
        text = self._classifiers.get(oracle) or self._embedders.get(oracle)
        engines = [self.vision, self.embed, self.decoder, *([text.engine] if text else [])]
        record = self.backend.record(self.bundle.manifest.precision, engines)
        return replace(record, decoder=self.decoder_graph.name)

    @property
    def shared_prefix(self) -> tuple[int, ...]:
        """The tokens before the image, where all rows share their keys and values; none where they cannot."""
        return self.prompts.prefix if self.decoder_graph.shares_prefix else ()

    @property
    def max_rows(self) -> int:
        """The largest batch that can be answered."""
        return self.limited_rows or MAX_ROWS

    @property
    def limited_rows(self) -> int | None:
        """The largest batch that all graphs take, where they take a limited one."""
        limits = (engine.limits.get("batch") for engine in (self.vision, self.embed, self.decoder))
        return min((limit.most for limit in limits if limit), default=None)

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
        """Image features of canvases: [rows, image_tokens, hidden], held as the activation type is."""
        manifest = self.bundle.manifest
        sizes = manifest.dimensions
        memory.check(self.backend.device, manifest, len(canvases), 0)
        features = np.empty((len(canvases), sizes.image_tokens, sizes.hidden), held_as(manifest.activations))
        self.vision.run({"canvas": canvases}, {"features": features})
        return features

    def embeddings(self, tokens: Sequence[int]) -> Array:
        """Embeddings of token ids: [len(tokens), hidden], held as the activation type is."""
        manifest = self.bundle.manifest
        out: Array = np.empty((len(tokens), manifest.dimensions.hidden), held_as(manifest.activations))
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
        positions = self.decoder_graph.positions(rows, new, position, length)
        self.decoder.run(
            {"embeddings": embeddings, **positions, **cache.inputs(rows)},
            {"logits": logits, **cache.outputs(rows)},
        )


class Question(Generation):
    """One prompt, ready to be asked about batches of canvases. All its memory is allocated here, once.

    Args:
        model: the loaded model.
        prompt: the user's text.
        rows: the largest batch.
        constraint: which answers are allowed; free text unless given.
        guard: make an answer UNDECIDED when a token's lead is within the bundle's margin tolerance.
        max_new_tokens: the bundle's unless given.
        settled: of free text, whether an answer that begins like this needs no more tokens.
        cautious: refuse more rows than are predicted to fit, for a caller that can do with fewer.

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
        settled: Callable[[str], bool] | None = None,
        cautious: bool = False,
    ) -> None:
        dimensions = model.bundle.manifest.dimensions
        suffix = model.prompts.suffix(prompt)
        super().__init__(
            model,
            dimensions.image_tokens + len(suffix),
            rows=rows,
            constraint=constraint,
            guard=guard,
            max_new_tokens=max_new_tokens,
            settled=settled,
            cautious=cautious,
        )
        shape = (rows, dimensions.image_tokens, dimensions.hidden)
        self._features = self.device.empty(shape, held_as(model.bundle.manifest.activations))
        after = np.broadcast_to(model.embeddings(suffix), (rows, len(suffix), dimensions.hidden))
        self.device.paste(after, self._block, self._start + dimensions.image_tokens)
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
        self._encode(canvases)
        return self._answers(count)

    def _encode(self, canvases: Buffer) -> None:
        with self._timed("encode"):
            features = self._features[: len(canvases)]
            self._model.vision.run({"canvas": canvases}, {"features": features})
            self.device.paste(features, self._block[: len(canvases)], self._start)
