"""The smallest student: what a text's n-grams say, at most two million parameters, trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn

VOCABULARY = 4096
_WIDTHS = (1, 3, 5)  # tokens; odd, so that a window has a middle
_HIDDEN, _FILTERS, _DROPOUT = 96, 128, 0.5


class NGrams(nn.Module):
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
        """What the filters found, float32 [batch, filters]: that from which the logits follow."""
        inside = mask[:, None].to(torch.float32)
        values = self.embedding(ids).transpose(1, 2) * inside  # padding looks like what lies beyond the text
        found = [(torch.relu(each(values)) * inside).amax(-1) for each in self.filters]
        return torch.cat(found, -1)


def learn_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-pair encoding of these texts, in lower case: every text has tokens, and none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
