"""A student's learned half: filters over neighbouring token embeddings, several times over and averaged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_WIDTHS = (1, 3, 5)  # tokens; odd, so that a window has a middle
_HIDDEN, _FILTERS, _DROPOUT = 64, 64, 0.5
_NOISE = 0.1  # share of tokens that training replaces, so that no single word decides


class Convolutions(nn.Module):
    """Filters over neighbouring token embeddings, the maximum of each over the text, one linear layer.

    Source: Kim, Convolutional Neural Networks for Sentence Classification (EMNLP 2014).

    Args:
        vocabulary: how many token ids there are.
        classes: how many logits to give.
    """

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, _HIDDEN)
        self.filters = nn.ModuleList(
            nn.Conv1d(_HIDDEN, _FILTERS, width, padding=width // 2) for width in _WIDTHS
        )
        self.dropout = nn.Dropout(_DROPOUT)
        self.head = nn.Linear(_FILTERS * len(_WIDTHS), classes)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [batch, classes], of ids, int64 [batch, seq]; the mask is 0 on padding, else 1."""
        logits: torch.Tensor = self.head(self.dropout(self.features(ids, mask)))
        return logits

    def features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the filters find, float32 [batch, filters of all widths], none of it negative."""
        if self.training:
            others = torch.randint(self.embedding.num_embeddings, ids.shape)
            ids = torch.where(torch.rand(ids.shape) < _NOISE, others, ids)
        inside = mask[:, None].to(torch.float32)
        values = self.embedding(ids).transpose(1, 2) * inside  # padding looks like what lies beyond the text
        found = [(torch.relu(each(values)) * inside).amax(-1) for each in self.filters]
        return torch.cat(found, -1)


class Committee(nn.Module):
    """Several networks that differ in their first weights: together they err less than one.

    Args:
        members: trained each by itself.
    """

    def __init__(self, members: Iterable[Convolutions]) -> None:
        super().__init__()
        self.members: Iterable[Convolutions] = nn.ModuleList(members)  # type: ignore[assignment]

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean of their logits, float32 [batch, classes]."""
        return torch.stack([member(ids, mask) for member in self.members]).mean(0)

    def features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The features of all members, float32 [batch, members * filters]."""
        return torch.cat([member.features(ids, mask) for member in self.members], -1)
