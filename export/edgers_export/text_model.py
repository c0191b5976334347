"""A local Hugging Face text model: its weights, and its tokenizer as a device would use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer

from edgers_engines.tokenizer import read_tokenizer
from edgers_export.checkpoint import LOCAL, WEIGHTS, reading
from edgers_export.errors import ExportError
from edgers_export.template import plain_tokenizer


def load_weights(kind: Any, folder: Path, **options: object) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401  transformers is untyped
    """A model in float32 of one of transformers' auto classes, and its report of what did not fit.

    The caller has had the folder checked.

    Raises:
        ExportError: transformers cannot load it.
    """
    with reading(folder):
        model, report = kind.from_pretrained(folder, **WEIGHTS, **options)
    return model.eval(), report


def load_tokenizer(folder: Path) -> Any:  # noqa: ANN401  as above
    """The checkpoint's own tokenizer.

    Raises:
        ExportError: transformers cannot load it, or it is none that runs without Python.
    """
    with reading(folder):
        own = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, **LOCAL)
    if not hasattr(own, "backend_tokenizer"):
        raise ExportError(f"the tokenizer of {folder}, a {type(own).__name__}, is no fast one")
    return own


def text_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """The checkpoint's tokenizer for whole texts, read as a device reads it.

    Special tokens stand around a text, and inside it they are plain text.

    Args:
        folder: the checkpoint's.
        vocabulary: all its ids are below.

    Raises:
        ExportError: a device would refuse it.
    """
    tokenizer = plain_tokenizer(load_tokenizer(folder), first=True)
    try:
        return read_tokenizer(tokenizer.to_str().encode(), vocabulary)
    except ValueError as error:
        raise ExportError(f"the tokenizer of {folder} {error}") from None


def positions(model: Any) -> int:  # noqa: ANN401  as above
    """How many tokens a text may have; RoBERTa and its kin number them from behind the padding's id."""
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if table is None:
        return int(model.config.max_position_embeddings)
    return int(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
