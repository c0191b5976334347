"""A student that knows its language already: a local BERT-like checkpoint with a new head for the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from edgers_export.checkpoint import ATTENTION, check_folder, check_report
from edgers_export.errors import ExportError
from edgers_export.student import Lesson, Progress, Student, classes_of, learn
from edgers_export.text_model import load_weights, positions, text_tokenizer
from edgers_export.text_reader import MAX_TOKENS

TYPES = ("bert", "distilbert", "roberta")  # MiniLM is a bert
_RATE = 5e-5  # Devlin et al., BERT (NAACL 2019), appendix A.3: 5e-5, 3e-5 and 2e-5 work across tasks
_FEWEST_POSITIONS = 8


class Encoder(nn.Module):
    """A sequence classifier of transformers with a student's signature.

    Args:
        model: of one of `TYPES`.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401  transformers is untyped
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [batch, classes], of ids, int64 [batch, seq]; the mask is 0 on padding, else 1."""
        options: dict[str, torch.Tensor] = {}
        kind = self.model.config.model_type
        if kind != "distilbert":
            options["token_type_ids"] = torch.zeros_like(ids)
        if kind == "roberta":
            # transformers counts the ids that are not padding's; a student's padding is what the mask says.
            options["position_ids"] = mask.cumsum(1) * mask + self.model.config.pad_token_id
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, **options).logits
        return logits


def fine_tune(
    folder: Path,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    epochs: int = 4,
    seed: int = 0,
    rate: float = _RATE,
    progress: Progress = lambda _texts: None,
) -> Student:
    """A student out of an encoder's checkpoint; the same seed gives the same one on the same machine.

    Args:
        folder: a Hugging Face directory of one of `TYPES`, with safetensors and tokenizer.json.
        texts: to learn from.
        labels: the class of each.
        epochs: how often each text is seen.
        seed: of the head's weights, the order and dropout.
        rate: of learning, at its highest.
        progress: called with the number of texts learned from since the last call.

    Raises:
        InputError: fewer than two classes, not one label for each text, or no readable text of some class.
        ExportError: the directory is no such checkpoint, or wants code of its own to be run.
    """
    classes = classes_of(texts, labels)
    check_folder(folder, TYPES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _untaught(folder, classes)
        lesson = Lesson.of(student, texts, labels)
        learn([student.model], lesson, epochs=epochs, rate=rate, progress=progress)
    return student


def _untaught(folder: Path, classes: tuple[str, ...]) -> Student:
    model, report = load_weights(
        transformers.AutoModelForSequenceClassification,
        folder,
        num_labels=len(classes),
        attn_implementation=ATTENTION,
        ignore_mismatched_sizes=True,
    )
    _check_body(folder, model.base_model_prefix, report)
    for name, part in model.named_children():
        if name != model.base_model_prefix:
            part.apply(model._init_weights)
    limit = positions(model)
    if limit < _FEWEST_POSITIONS:
        raise ExportError(f"{folder} reads {limit} tokens; at least {_FEWEST_POSITIONS} are expected")
    tokenizer = text_tokenizer(folder, model.config.vocab_size)
    return Student(
        model=Encoder(model), tokenizer=tokenizer, classes=classes, max_tokens=min(limit, MAX_TOKENS)
    )


def _check_body(folder: Path, body: str, report: dict[str, Any]) -> None:
    """Heads may come and go; what is under them must be the checkpoint's, and all of it."""

    def under(problem: str) -> list[str]:
        return [name for name in report[problem] if name.startswith(f"{body}.")]

    check_report(
        folder,
        {
            "missing_keys": [
                name for name in under("missing_keys") if ".pooler." not in name
            ],  # some lack it
            "mismatched_keys": under("mismatched_keys"),
            "unexpected_keys": [name for name in report["unexpected_keys"] if "layer." in name],
        },
    )
