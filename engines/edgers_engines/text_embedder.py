"""A bundle's sentence embedding at run time: texts in, directions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend
from edgers_engines.oracle_record import Clusters
from edgers_engines.text_graph import TextGraph, check_self_test


class TextEmbedder(TextGraph):
    """The graph and tokenizer of a clusters oracle, loaded on one backend and tested.

    Args:
        bundle: verified bundle.
        record: one of its clusters oracles.
        backend: where to run.

    Raises:
        BackendError: the graph cannot be loaded there, or gives other directions than the self-test has.
        BundleError: the tokenizer is broken, or the weights changed since the bundle was loaded.
    """

    def __init__(self, bundle: Bundle, record: Clusters, backend: Backend) -> None:
        super().__init__(bundle, record, backend)
        self.record = record
        texts = [embedded.text for embedded in record.self_test]
        wanted = directions(np.array([embedded.embedding for embedded in record.self_test]))
        for vectors in (self.vectors, self.crowded):
            difference = cosine_difference(directions(vectors(texts)), wanted)
            check_self_test(record.name, "cosine", difference, record.tolerance)

    def directions(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Unit vectors [texts, width]; NaN for a text that cannot be read, or whose embedding has none.

        Raises:
            BackendError, BundleError: see `vectors`.
        """
        return directions(self.vectors(texts))


def directions(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Each row divided by its length, in float64; NaN where it is zero or not finite."""
    wide = vectors.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def cosine_difference(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """By how much the cosine of two of these rows can differ at most; NaN where a row is NaN.

    |a.b - a'.b'| <= |a - a'| |b| + |a'| |b - b'|, and all are unit vectors.
    """
    return 2 * float(np.linalg.norm(found - wanted, axis=1).max())
