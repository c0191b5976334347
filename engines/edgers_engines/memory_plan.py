"""How much memory a bundle will need, and how many samples that leaves room for, before it is loaded.

Weights, cache, features, embeddings and logits are exact. What a graph computes in is a prediction: the most
that its values need at one time if none is computed in place, with the scores of an attention in float32, as
runtimes have them that do not fuse it. A runtime that fuses more needs less; how it cuts its memory into
pieces may need more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from edgers_engines import memory
from edgers_engines.bundle import Bundle
from edgers_engines.errors import BundleError, InputError
from edgers_engines.graph_record import Graph
from edgers_engines.graph_shapes import Step, steps
from edgers_engines.manifest import CudaDecoder, Manifest
from edgers_engines.onnx_graph import read_graph

_VIEWS = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze"})  # the same bytes under another shape
_SCORE_BYTES = 4
TEXT_POSITIONS = 128  # of a long question with its template


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes.

    Attributes:
        weights: of all graphs; where they are stored in fewer bits than products are computed in, also the
            largest of them in those, for a runtime that cannot multiply by what is stored.
        positions: of the cache of each sample.
        cache: keys and values of a sample.
        held: all else that is held for a sample: noise, features, embeddings, logits.
        computing: what the graphs compute in for a sample, predicted.
    """

    weights: int
    positions: int
    cache: int
    held: int
    computing: int

    @property
    def sample(self) -> int:
        """For each sample that is answered at once."""
        return self.cache + self.held + self.computing

    def rows(self, free: int) -> int:
        """How many samples can be answered at once in so many bytes; 0 where it is none.

        Args:
            free: what the device has left for a model.
        """
        return max(free - self.weights, 0) // self.sample

    def missing(self, free: int) -> int:
        """How many bytes more one sample at a time would need; 0 where it fits."""
        return max(self.weights + self.sample - free, 0)


def plan_memory(bundle: Bundle, positions: int | None = None) -> MemoryPlan:
    """What a bundle needs.

    Args:
        bundle: verified bundle.
        positions: of image, question and answer together; enough for a long question unless given.

    Raises:
        InputError: the model has fewer positions, or an image and an answer take more.
        BundleError: a graph has an operator whose shapes are not known here.
    """
    manifest, sizes = bundle.manifest, bundle.manifest.dimensions
    least = fewest_positions(manifest)
    length = min(least + TEXT_POSITIONS, sizes.max_length) if positions is None else positions
    if not least <= length <= sizes.max_length:
        raise InputError(f"{length} positions; this model takes {least} to {sizes.max_length}")
    cache, row = memory.cache_bytes(manifest, length), memory.row_bytes(manifest, length)
    question = length - manifest.decoding.max_new_tokens
    computed = (
        (manifest.graphs.vision, {"batch": 1}),
        (manifest.graphs.decoder, {"batch": 1, "seq": question, "max_len": length}),
    )
    return MemoryPlan(
        weights=sum(file.size for file in manifest.files)
        + max(_counted(bundle, graph, partial(wide_bytes, sizes=shapes)) for graph, shapes in computed),
        positions=length,
        cache=cache,
        held=row - cache + 2 * _canvas_bytes(manifest),
        computing=max(computing_bytes(bundle, *each) for each in computed),
    )


def fewest_positions(manifest: Manifest) -> int:
    """Those of an image and an answer."""
    return manifest.dimensions.image_tokens + manifest.decoding.max_new_tokens


def computing_bytes(bundle: Bundle, graph: Graph, sizes: Mapping[str, int]) -> int:
    """What a graph of a bundle computes in.

    Raises:
        BundleError: it has an operator whose shapes are not known here.
    """
    for_cuda = isinstance(graph, CudaDecoder)
    return _counted(bundle, graph, partial(peak_bytes, sizes=sizes, for_cuda=for_cuda))


def _counted(bundle: Bundle, graph: Graph, count: Callable[[bytes], int]) -> int:
    try:
        return count(bundle.read(graph.file))
    except ValueError as error:
        raise BundleError(f"the memory that {graph.file} computes in cannot be predicted: {error}") from None


def peak_bytes(content: bytes, sizes: Mapping[str, int], *, for_cuda: bool = False) -> int:
    """The most bytes that values within a graph, not its inputs and outputs, need at one time.

    Widened weights are not among them: they are the same for all rows.

    Args:
        content: an ONNX file's bytes, which `read_graph` has checked.
        sizes: of every free dimension, by name.
        for_cuda: see `read_graph`.

    Raises:
        ValueError: see `graph_shapes.steps`.
    """
    nodes = [step for step in steps(content, sizes) if step.outputs]
    # The first the caller's, such as the cache.
    outside = {*read_graph(content, for_cuda=for_cuda).outputs, *_widened(nodes)}
    owner: dict[str, str] = {}  # of a view, the value whose bytes it shows
    last: dict[str, int] = {}
    for index, step in enumerate(nodes):
        if step.operator in _VIEWS and step.inputs[0]:
            source = step.inputs[0][0]
            owner[step.outputs[0][0]] = owner.get(source, source)
        for name, _ in filter(None, step.inputs):
            last[owner.get(name, name)] = index
    alive: dict[str, int] = {}
    live = peak = 0
    for index, step in enumerate(nodes):
        for name, value in step.outputs:
            if name in last and name not in outside:  # a view is not in `last`, its owner is
                alive[name] = value.nbytes
                live += value.nbytes
        peak = max(peak, live + _scratch(step))
        for name in [name for name in alive if last[name] <= index]:
            live -= alive.pop(name)
    return peak


def wide_bytes(content: bytes, sizes: Mapping[str, int]) -> int:
    """The bytes of the largest weight that is stored in fewer bits than products are computed in, in those.

    Args, Raises: as of `peak_bytes`.
    """
    return max(_widened(list(steps(content, sizes))).values(), default=0)


def _widened(nodes: Sequence[Step]) -> dict[str, int]:
    """What is dequantized though no node computes it: weights, by name, in bytes."""
    computed = {name for step in nodes for name, _ in step.outputs}
    return {
        name: value.nbytes
        for step in nodes
        if step.operator == "DequantizeLinear" and step.inputs[0] and step.inputs[0][0] not in computed
        for name, value in step.outputs
    }


def _scratch(step: Step) -> int:
    """What an attention's scores take, [batch, heads, positions, positions that are attended to].

    GroupQueryAttention never has them in memory, but the rotated query.
    """
    if step.operator == "GroupQueryAttention":
        (_, query), *_ = filter(None, step.inputs)
        return query.nbytes
    if step.operator != "Attention":
        return 0
    query, keys = (value for _, value in filter(None, step.inputs[:2]))
    return math.prod(query.shape[:-1]) * keys.shape[-2] * _SCORE_BYTES


def _canvas_bytes(manifest: Manifest) -> int:
    return 3 * math.prod(manifest.preparation.canvas_size) * 4
