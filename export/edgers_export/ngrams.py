"""A student's linear half: which runs of one to three tokens a text has, each with weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional

from edgers_export.text_reader import ROWS, padded

VOCABULARY = 4096
_WEIGHTS = 1 << 19  # of all classes together
_LONGEST = 3  # tokens
_MULTIPLIER = 1_000_003  # a prime; the code of a run stays far below 2^63
_PRIOR = 0.3  # texts of each class that are thought to have a run before any is counted
_LEAST = 0.5  # what a run counts for that all classes have alike
_LOSS = 50.0  # weight of the texts' loss beside that of the squared weights
_STEPS = 60  # of L-BFGS; the loss is convex, and no longer moves


class NGrams(nn.Module):
    """A linear classifier of hashed n-grams; one that a single class has counts for more than one all have.

    Runs of tokens share their weights where their hashes meet. One that no text had counts for nothing,
    unless it meets another.

    Source: Wang and Manning, Baselines and Bigrams (ACL 2012), for the log-count ratio that n-grams are
    scaled by, here the largest over the classes; Joulin et al., Bag of Tricks for Efficient Text
    Classification (EACL 2017), for hashing them.

    Args:
        vocabulary: how many token ids there are.
        classes: how many logits to give.
    """

    telling: torch.Tensor

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self._edge, self._classes, self._buckets = vocabulary, classes, _WEIGHTS // classes
        self.weight = nn.Parameter(torch.zeros(self._buckets, classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("telling", torch.zeros(self._buckets))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [batch, classes], of ids, int64 [batch, seq]; the mask is 0 on padding, else 1."""
        runs, inside = self._runs(ids, mask)
        values = self._values(runs, inside)
        return (self.weight[runs] * values[..., None]).sum(1) + self.bias

    def fit(self, texts: Sequence[Sequence[int]], labels: torch.Tensor) -> None:
        """Solve for the weights; the loss is convex, so there is one solution and no seed.

        Args:
            texts: token ids of each.
            labels: int64 [texts].
        """
        runs, lengths = self._flat(texts)
        rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        self._count(runs, rows, labels)
        values = self.telling[runs]
        values /= torch.zeros(len(lengths)).index_add(0, rows, values.square()).sqrt()[rows]
        starts = lengths.cumsum(0) - lengths
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            logits = functional.embedding_bag(
                runs, self.weight, starts, mode="sum", per_sample_weights=values
            )
            wrong = functional.cross_entropy(logits + self.bias, labels, reduction="sum")
            total = _LOSS * wrong + self.weight.square().sum() / 2
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]

    def _flat(self, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The runs of all texts, one text after another, and how many each has."""
        runs, lengths = [], []
        for start in range(0, len(texts), ROWS):
            found, inside = self._runs(*padded(texts[start : start + ROWS]))
            runs.append(found[inside > 0])
            lengths.append(inside.sum(1))
        return torch.cat(runs), torch.cat(lengths)

    def _count(self, runs: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor) -> None:
        """How much each run tells: the texts of a class that have it, beside the mean of the other classes.

        Classes are counted as if they had equally many texts.
        """
        once = torch.unique(rows * self._buckets + runs)
        place, label = once % self._buckets, labels[once // self._buckets]
        counts = torch.bincount(place * self._classes + label, minlength=self._buckets * self._classes)
        sizes = torch.bincount(labels, minlength=self._classes)
        having = counts.view(self._buckets, self._classes) / sizes * sizes.float().mean()
        together = having.sum(1, keepdim=True)
        others = (together - having) / (self._classes - 1)
        ratio = ((having + _PRIOR) / (others + _PRIOR)).log().abs().amax(1)
        self.telling.copy_(torch.where(together[:, 0] > 0, ratio + _LEAST, 0.0))

    def _runs(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The bucket of each run, and 1 where its first token is of the text: [batch, runs].

        A run may begin before the first token and end behind the last: being there is part of what it says.
        """
        length = mask.shape[1] + 1
        marked = torch.where(mask == 1, ids, self._edge)
        edge = torch.full_like(ids[:, :1], self._edge)  # joined, for CUDA has no padding of whole numbers
        edged = torch.cat([edge, marked, *[edge] * (_LONGEST - 1)], 1)
        code = torch.zeros_like(edged[:, :length])
        runs = []
        for start in range(_LONGEST):
            code = (code * _MULTIPLIER + edged[:, start : start + length] + 1) % self._buckets
            runs.append(code)
        inside = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        return torch.cat(runs, 1), torch.cat([inside] * _LONGEST, 1)

    def _values(self, runs: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """How much each run counts, float32 [batch, runs]; a row has length 1, or 0 without a known run."""
        values = self.telling[runs] * inside
        return values / values.square().sum(1, keepdim=True).clamp(min=_LEAST**2).sqrt()


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
