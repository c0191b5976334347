"""A student learns what a teacher calls texts, and becomes a graph and a tokenizer that a device runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from edgers_engines.errors import InputError
from edgers_export.convolutions import Committee, Convolutions
from edgers_export.ngrams import NGrams, learn_tokenizer
from edgers_export.text_reader import ROWS, TextReader, padded
from edgers_export.threads import torch_threads

_WEIGHT_DECAY = 0.01
_RATE = 2e-3  # of learning from scratch
_SMOOTHING = 0.05  # of labels: a teacher errs
_MEMBERS = 3  # more learn little more, and take longer

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


class Scratch(nn.Module):
    """What a text's n-grams say linearly, and what a committee of small networks has learned, added up.

    Args:
        vocabulary: how many token ids there are.
        classes: how many logits to give.
    """

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.linear = NGrams(vocabulary, classes)
        self.learned = Committee(Convolutions(vocabulary, classes) for _ in range(_MEMBERS))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [batch, classes], of ids, int64 [batch, seq]; the mask is 0 on padding, else 1."""
        logits: torch.Tensor = self.linear(ids, mask) + self.learned(ids, mask)
        return logits


@dataclass(frozen=True)
class Lesson:
    """Texts that a student can read, as token ids, and the index of each one's class, int64 [texts]."""

    rows: list[list[int]]
    labels: torch.Tensor

    @classmethod
    def of(cls, student: Student, texts: Sequence[str], labels: Sequence[str]) -> Lesson:
        """Texts with a label each; those that cannot be read are left out.

        Raises:
            InputError: no text of some class can be read.
        """
        pairs = [(row, label) for row, label in zip(student.rows(texts), labels, strict=True) if row]
        if unread := sorted(set(student.classes) - {label for _, label in pairs}):
            raise InputError(
                f"no text of the class {unread[0]!r} has 1 to {student.max_tokens} tokens, which a student "
                "reads"
            )
        indices = [student.classes.index(label) for _, label in pairs]
        return cls([row for row, _ in pairs], torch.tensor(indices))


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
    classes = classes_of(texts, labels)
    # One thread: the layers are so small that a second one costs more than it computes.
    with torch.random.fork_rng(devices=[]), torch_threads(1):
        torch.manual_seed(seed)
        tokenizer = learn_tokenizer(texts)
        model = Scratch(tokenizer.get_vocab_size(), len(classes))
        student = Student(model=model, tokenizer=tokenizer, classes=classes)
        lesson = Lesson.of(student, texts, labels)
        model.linear.fit(lesson.rows, lesson.labels)
        learn(model.learned.members, lesson, epochs=epochs, rate=_RATE, progress=progress)
    model.eval()
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
    members: Iterable[nn.Module], lesson: Lesson, *, epochs: int, rate: float, progress: Progress
) -> None:
    """Teach networks in place, by torch's random numbers: each is to be right alone.

    Args:
        members: from (ids, mask) to a logit for each class.
        lesson: what to learn.
        epochs: how often each text is seen.
        rate: of learning, at its highest.
        progress: called with the number of texts learned from since the last call.
    """
    networks = nn.ModuleList(members).train()
    steps = epochs * math.ceil(len(lesson.rows) / ROWS)
    optimizer = torch.optim.AdamW(networks.parameters(), rate, weight_decay=_WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(lesson.rows)), ROWS):
            ids, mask = padded([lesson.rows[index] for index in chosen])
            wanted = lesson.labels[chosen]
            optimizer.zero_grad()
            for network in networks:
                loss = functional.cross_entropy(network(ids, mask), wanted, label_smoothing=_SMOOTHING)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(len(chosen))
    networks.eval()
