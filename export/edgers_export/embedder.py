"""Sentence embeddings: what a student finds in a text before it names a class, and from where texts match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgers_engines.errors import InputError
from edgers_engines.oracle_record import Pairs
from edgers_export.convolutions import Committee
from edgers_export.student import Scratch, Student
from edgers_export.text_reader import TextReader

FALSE_MATCHES = 0.01  # share of pairs with two labels that may match
_COMPARED = 2000  # texts; of more, the first: pairs grow with the square
_DIGITS = 1e4  # of a threshold, which is read by people


@dataclass(frozen=True, kw_only=True)
class Embedder(TextReader):
    """Texts to vectors, float32 [batch, width] of any length, whose cosines say how alike they are."""


class _Centred(nn.Module):
    def __init__(self, model: Committee, centre: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.centre = nn.Parameter(centre, requires_grad=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        centred: torch.Tensor = self.model.features(ids, mask) - self.centre
        return centred


class _Features(nn.Module):
    def __init__(self, model: Committee) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model.features(ids, mask)


def embedder_of(student: Student, texts: Sequence[str]) -> Embedder:
    """The features that a student from scratch has learned, before its last layer, less their mean.

    No feature is negative, so without that every two texts would look alike.

    Args:
        student: trained from scratch.
        texts: whose mean it is; those that it learned from.

    Raises:
        InputError: no texts, or a student of another kind.
    """
    if not isinstance(student.model, Scratch) or not texts:
        raise InputError("an embedder is made of a student trained from scratch, and texts that it learned")
    features = Embedder(model=_Features(student.model.learned), tokenizer=student.tokenizer).vectors(texts)
    centre = torch.tensor(np.nanmean(features, axis=0, dtype=np.float64), dtype=torch.float32)
    return Embedder(model=_Centred(student.model.learned, centre), tokenizer=student.tokenizer)


@dataclass(frozen=True)
class Cosines:
    """Of pairs of texts that have one label, and of those that have two."""

    same: NDArray[np.float64]
    different: NDArray[np.float64]

    @property
    def threshold(self) -> float:
        """The smallest that at most 1% of the pairs with two labels exceed, but at least 0; four digits."""
        falling = np.sort(self.different)[::-1]
        smallest = max(float(falling[int(FALSE_MATCHES * len(falling))]), 0.0)
        return math.ceil(_DIGITS * smallest) / _DIGITS

    def matching(self, threshold: float, tolerance: float) -> tuple[Pairs, Pairs]:
        """How many of one label match, and how many of two, as `edgers.oracle.clusters` would have it."""
        one, two = (
            Pairs(matching=int((cosines - threshold > tolerance).sum()), pairs=len(cosines))
            for cosines in (self.same, self.different)
        )
        return one, two


def cosines(directions: NDArray[np.float64], labels: Sequence[str]) -> Cosines:
    """The cosines of all pairs of different texts, of more than 2,000 those of the first.

    Args:
        directions: unit vectors [texts, width], one for each different text; NaN for one that has none.
        labels: of the texts.

    Raises:
        InputError: no two texts of one label, or none of two.
    """
    readable = np.isfinite(directions).all(1)
    vectors, named = directions[readable][:_COMPARED], np.array(labels)[readable][:_COMPARED]
    first, second = np.triu_indices(len(vectors), 1)
    found, same = (vectors @ vectors.T)[first, second], named[first] == named[second]
    if not (same.any() and (~same).any()):
        raise InputError(
            f"{len(vectors)} held-out texts with the labels {sorted(set(named.tolist()))}: to choose when "
            "texts mean the same, give several of each of two labels or more"
        )
    return Cosines(found[same], found[~same])
