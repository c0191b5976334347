"""A student learns what a teacher calls texts, and becomes a graph and a tokenizer that a device runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
from edgers_engines.tokenizer import frame
from edgers_export.ngrams import NGrams, learn_tokenizer
from edgers_export.onnx import GraphWriter
from edgers_export.threads import torch_threads

MAX_TOKENS = 256  # of a text; longer ones are of no class
OPSET = 24
_BATCH, _WEIGHT_DECAY = 32, 0.01
_RATE = 2e-3  # of learning from scratch
_SMOOTHING = 0.05  # of labels: a teacher errs
_NOISE = 0.1  # share of tokens that training replaces, so that no single word decides

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Student:
    """A classifier of texts.

    Attributes:
        model: (ids, mask), int64 [batch, seq], to logits, float32 [batch, classes].
        tokenizer: texts to ids.
        classes: what the logits stand for, in order.
        max_tokens: of a text, with the special tokens that the tokenizer puts around it.
    """

    model: nn.Module
    tokenizer: Tokenizer
    classes: tuple[str, ...]
    max_tokens: int = MAX_TOKENS

    @property
    def vocabulary(self) -> int:
        """All token ids are below."""
        return int(max(self.tokenizer.get_vocab().values())) + 1

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits, [texts, classes]; NaN for a text that has no token of its own, or too many."""
        rows = self.rows(texts)
        found = np.full((len(rows), len(self.classes)), np.nan, np.float32)
        places = torch.tensor([place for place, row in enumerate(rows) if row], dtype=torch.int64)
        with torch.no_grad():
            for part in torch.split(places, _BATCH):
                found[part] = self.model(*_padded([rows[place] for place in part]))
        return found

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; none at all for one that has no token of its own, or too many."""
        fewest = len(frame(self.tokenizer)) + 1
        encoded = [text.ids for text in self.tokenizer.encode_batch(list(texts))]
        return [ids if fewest <= len(ids) <= self.max_tokens else [] for ids in encoded]

    def write(self, directory: Path, name: str) -> Graph:
        """Write `name.onnx`, its weights `name.bin` and `name.json`, the tokenizer.

        Returns:
            The graph's record.
        """
        self.tokenizer.save(str(directory / f"{name}.json"))
        free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=self.max_tokens)}
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


def train_from_scratch(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    epochs: int = 40,
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
    classes = classes_of(texts, labels)
    # One thread: the layers are so small that a second one costs more than it computes.
    with torch.random.fork_rng(devices=[]), torch_threads(1):
        torch.manual_seed(seed)
        tokenizer = learn_tokenizer(texts)
        model = NGrams(tokenizer.get_vocab_size(), len(classes))
        student = Student(model, tokenizer, classes)
        learn(student, texts, labels, epochs=epochs, rate=_RATE, noise=_NOISE, progress=progress)
    return student


def classes_of(texts: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """The classes that there are to learn, in order.

    Raises:
        InputError: fewer than two classes, no texts, or not one label for each.
    """
    classes = tuple(sorted(set(labels)))
    if len(texts) != len(labels) or len(classes) < 2:
        raise InputError(f"{len(texts)} texts with {len(labels)} labels of the classes {list(classes)}")
    return classes


def learn(
    student: Student,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    epochs: int,
    rate: float,
    noise: float = 0.0,
    progress: Progress,
) -> None:
    """Teach a student in place, by torch's random numbers; texts that it cannot read are left out.

    Args:
        student: with one logit for each class.
        texts: to learn from.
        labels: the class of each.
        epochs: how often each text is seen.
        rate: of learning, at its highest.
        noise: share of tokens that are replaced by others.
        progress: called with the number of texts learned from since the last call.

    Raises:
        InputError: no text of some class can be read.
    """
    rows, wanted = _readable(student, texts, labels)
    steps = epochs * math.ceil(len(rows) / _BATCH)
    optimizer = torch.optim.AdamW(student.model.parameters(), rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    student.model.train()
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(rows)), _BATCH):
            ids, mask = _padded([rows[index] for index in chosen])
            others = torch.randint(student.vocabulary, ids.shape)
            ids = torch.where(torch.rand(ids.shape) < noise, others, ids)
            loss = functional.cross_entropy(
                student.model(ids, mask), wanted[chosen], label_smoothing=_SMOOTHING
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(len(chosen))
    student.model.eval()


def _readable(
    student: Student, texts: Sequence[str], labels: Sequence[str]
) -> tuple[list[list[int]], torch.Tensor]:
    """Token ids, and the index of the class, of each text that has any."""
    pairs = [(row, label) for row, label in zip(student.rows(texts), labels, strict=True) if row]
    if unread := sorted(set(student.classes) - {label for _, label in pairs}):
        raise InputError(
            f"no text of the class {unread[0]!r} has 1 to {student.max_tokens} tokens, which a student reads"
        )
    rows = [row for row, _ in pairs]
    return rows, torch.tensor([student.classes.index(label) for _, label in pairs])


def _padded(rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, int64 [rows, longest]."""
    tensors = [torch.tensor(row) for row in rows]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
    return ids, mask
