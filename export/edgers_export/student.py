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
from edgers_export.ngrams import NGrams, learn_tokenizer
from edgers_export.onnx import GraphWriter
from edgers_export.threads import torch_threads

MAX_TOKENS = 256  # of a text; longer ones are of no class
OPSET = 24
_BATCH, _RATE, _WEIGHT_DECAY = 32, 2e-3, 0.01
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
    """

    model: nn.Module
    tokenizer: Tokenizer
    classes: tuple[str, ...]

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits, [texts, classes]."""
        return answers(self.model, self.tokenizer, texts)

    def write(self, directory: Path, name: str) -> Graph:
        """Write `name.onnx`, its weights `name.bin` and `name.json`, the tokenizer.

        Returns:
            The graph's record.
        """
        return write_text_graph(self.model, self.tokenizer, directory, name, "logits")


def answers(model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.float32]:
    """What a model of (ids, mask), int64 [batch, seq], gives for texts: [texts, width]."""
    with torch.no_grad():
        parts = [model(*_padded(part, tokenizer)) for part in _parts(texts)]
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def write_text_graph(
    model: nn.Module, tokenizer: Tokenizer, directory: Path, name: str, output: str
) -> Graph:
    """Write `name.onnx`, its weights `name.bin` and `name.json`, the tokenizer.

    Args:
        model: of (ids, mask), int64 [batch, seq], to float32 [batch, width].
        tokenizer: texts to ids.
        directory: where to.
        name: of the files.
        output: what the graph calls what it gives.

    Returns:
        The graph's record.
    """
    tokenizer.save(str(directory / f"{name}.json"))
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=MAX_TOKENS)}
    ids, mask = torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)
    with GraphWriter(directory, OPSET, weights=f"{name}.bin") as writer:
        return writer.write(
            model,
            f"{name}.onnx",
            example=(ids, mask),
            dynamic_shapes=(free, free),
            inputs=["ids", "mask"],
            outputs=[output],
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
    classes = tuple(sorted(set(labels)))
    if len(texts) != len(labels) or len(classes) < 2:
        raise InputError(f"{len(texts)} texts with {len(labels)} labels of the classes {list(classes)}")
    # One thread: the layers are so small that a second one costs more than it computes.
    with torch.random.fork_rng(devices=[]), torch_threads(1):
        torch.manual_seed(seed)
        tokenizer = learn_tokenizer(texts)
        model = NGrams(tokenizer.get_vocab_size(), len(classes))
        student = Student(model, tokenizer, classes)
        _learn(student, texts, torch.tensor([classes.index(label) for label in labels]), epochs, progress)
    model.eval()
    return student


def _learn(
    student: Student, texts: Sequence[str], labels: torch.Tensor, epochs: int, progress: Progress
) -> None:
    steps = epochs * math.ceil(len(texts) / _BATCH)
    optimizer = torch.optim.AdamW(student.model.parameters(), _RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    student.model.train()
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(texts)), _BATCH):
            ids, mask = _padded([texts[index] for index in chosen], student.tokenizer)
            others = torch.randint(student.tokenizer.get_vocab_size(), ids.shape)
            ids = torch.where(torch.rand(ids.shape) < _NOISE, others, ids)
            loss = functional.cross_entropy(
                student.model(ids, mask), labels[chosen], label_smoothing=_SMOOTHING
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(len(chosen))


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))


def _padded(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, int64 [texts, longest]."""
    rows = [torch.tensor(encoded.ids) for encoded in tokenizer.encode_batch(list(texts))]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids, mask
