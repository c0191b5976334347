"""A student learns what a teacher calls texts, and becomes a graph and a tokenizer that a device runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edgers_engines.errors import InputError
from edgers_export.ngrams import NGrams, learn_tokenizer
from edgers_export.text_reader import ROWS, TextReader, padded
from edgers_export.threads import torch_threads

_WEIGHT_DECAY = 0.01
_RATE = 2e-3  # of learning from scratch
_SMOOTHING = 0.05  # of labels: a teacher errs
_NOISE = 0.1  # share of tokens that training replaces, so that no single word decides

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Student(TextReader):
    """A classifier of texts.

    Attributes:
        classes: what the logits that its model gives, float32 [batch, classes], stand for.
    """

    classes: tuple[str, ...]
    output: ClassVar[str] = "logits"

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits, [texts, classes]; see `vectors`."""
        return self.vectors(texts)


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
        student = Student(model=model, tokenizer=tokenizer, classes=classes)
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
    steps = epochs * math.ceil(len(rows) / ROWS)
    optimizer = torch.optim.AdamW(student.model.parameters(), rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    student.model.train()
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(rows)), ROWS):
            ids, mask = padded([rows[index] for index in chosen])
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
