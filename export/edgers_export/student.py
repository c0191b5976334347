"""A student learns what a teacher calls texts, and becomes a graph and a tokenizer that a device runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from edgers_engines.errors import InputError
from edgers_engines.manifest import Graph
from edgers_export.convolutions import Committee, Convolutions
from edgers_export.ngrams import NGrams, learn_tokenizer
from edgers_export.onnx import GraphWriter
from edgers_export.threads import torch_threads

MAX_TOKENS = 256  # of a text; longer ones are of no class
OPSET = 24
_BATCH, _RATE, _WEIGHT_DECAY = 32, 2e-3, 0.01
_SMOOTHING = 0.05  # of labels: a teacher errs
_MEMBERS = 3  # more learn little more, and take longer

Progress = Callable[[int], None]
Rows = list[torch.Tensor]  # the ids of each text, int64 [tokens]


@dataclass(frozen=True)
class Student:
    """A classifier of texts.

    Attributes:
        model: (ids, mask), int64 [batch, seq], to logits, float32 [batch, classes].
        tokenizer: texts to ids.
        classes: what the logits stand for, in order.
    """

    model: nn.Module
    tokenizer: Tokenizer
    classes: tuple[str, ...]

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits, [texts, classes]."""
        with torch.no_grad():
            parts = [self.model(*_padded(part)) for part in _parts(_encode(texts, self.tokenizer))]
        found: NDArray[np.float32] = torch.cat(parts).numpy()
        return found

    def write(self, directory: Path, name: str) -> Graph:
        """Write `name.onnx`, its weights `name.bin` and `name.json`, the tokenizer.

        Returns:
            The graph's record.
        """
        self.tokenizer.save(str(directory / f"{name}.json"))
        free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=MAX_TOKENS)}
        ids, mask = torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)
        with GraphWriter(directory, OPSET, weights=f"{name}.bin") as writer:
            return writer.write(
                self.model,
                f"{name}.onnx",
                example=(ids, mask),
                dynamic_shapes=(free, free),
                inputs=["ids", "mask"],
                outputs=["logits"],
            )


class Scratch(nn.Module):
    """What a text's n-grams say linearly, and what a committee of small networks has learned, added up.

    Args:
        vocabulary: how many token ids there are.
        classes: how many logits to give.
    """

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.linear = NGrams(vocabulary, classes)
        self.learned = Committee([Convolutions(vocabulary, classes) for _ in range(_MEMBERS)])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [batch, classes], of ids, int64 [batch, seq]; the mask is 0 on padding, else 1."""
        logits: torch.Tensor = self.linear(ids, mask) + self.learned(ids, mask)
        return logits


def train_from_scratch(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    epochs: int = 20,
    seed: int = 0,
    progress: Progress = lambda _texts: None,
) -> Student:
    """A student of its own tokenizer and at most two million parameters; the same seed gives the same one.

    Args:
        texts: to learn from.
        labels: the class of each.
        epochs: how often each text is seen.
        seed: of the first weights, the order and the noise.
        progress: called with the number of texts learned from since the last call.

    Raises:
        InputError: fewer than two classes, no texts, or not one label for each.
    """
    classes = tuple(sorted(set(labels)))
    if len(texts) != len(labels) or len(classes) < 2:
        raise InputError(f"{len(texts)} texts with {len(labels)} labels of the classes {list(classes)}")
    # One thread: the layers are so small that a second one costs more than it computes.
    with torch.random.fork_rng(devices=[]), torch_threads(1):
        torch.manual_seed(seed)
        tokenizer = learn_tokenizer(texts)
        model = Scratch(tokenizer.get_vocab_size(), len(classes))
        student = Student(model, tokenizer, classes)
        wanted = torch.tensor([classes.index(label) for label in labels])
        rows = _encode(texts, tokenizer)
        model.linear.fit(map(_padded, _parts(rows)), wanted)
        _learn(model.learned, rows, wanted, epochs, progress)
    model.eval()
    return student


def _learn(
    committee: Committee,
    rows: Rows,
    labels: torch.Tensor,
    epochs: int,
    progress: Progress,
) -> None:
    steps = epochs * math.ceil(len(rows) / _BATCH)
    optimizer = torch.optim.AdamW(committee.parameters(), _RATE, weight_decay=_WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    committee.train()
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(rows)), _BATCH):
            ids, mask = _padded([rows[index] for index in chosen])
            wanted = labels[chosen]
            optimizer.zero_grad()
            for member in committee.members:  # each is to be right alone
                loss = functional.cross_entropy(member(ids, mask), wanted, label_smoothing=_SMOOTHING)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(len(chosen))


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> Rows:
    return [torch.tensor(encoded.ids) for encoded in tokenizer.encode_batch(list(texts))]


def _parts(rows: Rows) -> Iterator[Rows]:
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _padded(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, int64 [rows, longest]."""
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids, mask
