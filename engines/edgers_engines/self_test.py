"""The self-test: before anything is certified, does this machine compute what PyTorch computed?

A bundle stores the largest logits of a few greedy steps over known noise. The graphs are run along those
tokens, from a cache full of large numbers, all rows at once and one row alone. Differences beyond the
bundle's margin tolerance mean that its graphs are not the certified model here: attention that reads
positions never written, a runtime's bug, arithmetic that couples the rows of a batch, or lost precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgers_engines import memory
from edgers_engines.device import Array
from edgers_engines.errors import BackendError, BundleError, InputError, NoMemoryError
from edgers_engines.kv_cache import KVCache
from edgers_engines.manifest import Expected
from edgers_engines.noise import Stream, noisy_copies

if TYPE_CHECKING:
    from edgers_engines.vlm import VisionLanguageModel

POISON = 1e4  # what unwritten cache positions hold: attention that reads one of them is found out
_GREY, _SIGMA, _SEED = 0.5, 0.25, 0


def canvases(canvas_size: tuple[int, int], rows: int) -> NDArray[np.float32]:
    """The noise that the stored answers are about: float32 [rows, 3, height, width]."""
    out = np.empty((rows, 3, *canvas_size), np.float32)
    grey = np.full((3, *canvas_size), _GREY)
    noisy_copies(grey, _SIGMA, seed=_SEED, stream=Stream.SELECTION, first=0, out=out)
    return out


def forced_logits(
    model: VisionLanguageModel, features: Array, prompt: str, tokens: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Logits of every step along given tokens, from a poisoned cache, with prefill in pieces as in use.

    Args:
        model: the loaded model.
        features: [rows, image_tokens, hidden], in the model's activation type.
        prompt: the question.
        tokens: int64 [steps, rows]; the last step's tokens are not fed back.

    Returns:
        float32 [steps, rows, vocabulary].
    """
    manifest, (steps, rows) = model.bundle.manifest, tokens.shape
    prefix, suffix = (
        np.repeat(model.embeddings(ids)[None], rows, 0)
        for ids in (model.prompts.prefix, model.prompts.suffix(prompt))
    )
    begun = [prefix, np.concatenate([features, suffix], 1)]
    if not model.decoder_graph.shares_prefix:
        begun = [np.concatenate(begun, 1)]
    pieces = [piece for piece in begun if piece.shape[1]]
    pieces += [model.embeddings(step.tolist())[:, None] for step in tokens[:-1]]
    length = model.decoder.fitting("max_len", sum(piece.shape[1] for piece in pieces))
    memory.check(model.backend.device, manifest, rows, length)
    cache = KVCache(model.backend.device, manifest.dimensions, rows, length, manifest.activations)
    cache.fill(POISON)
    logits = np.empty((len(pieces), rows, manifest.dimensions.vocabulary), np.float32)
    position = 0
    for piece, out in zip(pieces, logits, strict=True):
        model.decode(np.ascontiguousarray(piece), position, length, cache, out)
        position += piece.shape[1]
    return logits[-steps:]


def check(model: VisionLanguageModel) -> None:
    """Run the bundle's self-test, all rows at once and one row alone.

    Where the graphs take a limited number of rows, the test's come again and again until they are so many:
    other kernels may be chosen for them.

    Raises:
        BackendError: a logit differs from the stored one by more than the bundle's margin tolerance.
        BundleError: the stored question cannot be asked.
    """
    try:
        _compare(model)
    except InputError as error:
        raise BundleError(f"{model.bundle.path}: its self-test cannot be asked: {error}") from None
    except MemoryError:
        raise NoMemoryError(f"not enough memory for the self-test of {model.bundle.path}") from None


def _compare(model: VisionLanguageModel) -> None:
    manifest = model.bundle.manifest
    expected = manifest.self_test.steps
    stored = len(expected[0])
    images = canvases(manifest.preparation.canvas_size, stored)
    for rows, what in ((max(stored, model.limited_rows or 0), "together"), (1, "alone")):
        turns = [row % stored for row in range(rows)]
        wanted = [[step[row] for row in turns] for step in expected]
        features = model.encode(images[turns])
        tokens = np.array([[row.tokens[0] for row in step] for step in wanted], np.int64)
        found = forced_logits(model, features, manifest.self_test.prompt, tokens)
        difference = _largest_difference(found, wanted)
        if not difference <= manifest.decoding.margin_tolerance:
            raise BackendError(
                f"the self-test of {model.bundle.path} failed on this machine: with {rows} rows {what} a "
                f"logit is {difference:.2g} off, and the bundle allows "
                f"{manifest.decoding.margin_tolerance:.2g}; "
                "try another backend or version of it, or export the bundle anew"
            )


def _largest_difference(found: NDArray[np.float32], wanted: Sequence[Sequence[Expected]]) -> float:
    differences = [
        abs(found[step, row, list(answer.tokens)] - np.array(answer.logits)).max()
        for step, rows in enumerate(wanted)
        for row, answer in enumerate(rows)
    ]
    return float(np.max(differences))  # NaN stays NaN, and fails
