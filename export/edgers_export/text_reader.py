"""What reads texts on a workstation, and becomes a graph and a tokenizer that a device runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from edgers_engines.graph_record import Graph
from edgers_engines.tokenizer import frame
from edgers_export.onnx import GraphWriter

MAX_TOKENS = 256  # of a text; longer ones are not read
OPSET = 24
ROWS = 32  # texts read at once


@dataclass(frozen=True, kw_only=True)
class TextReader:
    """A model of texts, and its tokenizer.

    Attributes:
        model: (ids, mask), int64 [batch, seq], to vectors, float32 [batch, width].
        tokenizer: texts to ids.
        max_tokens: of a text, with the special tokens that the tokenizer puts around it.
        output: what the graph calls the vectors.
    """

    model: nn.Module
    tokenizer: Tokenizer
    max_tokens: int = MAX_TOKENS
    output: ClassVar[str] = "vector"

    @property
    def vocabulary(self) -> int:
        """All token ids are below."""
        return int(max(self.tokenizer.get_vocab().values())) + 1

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, [texts, width]; NaN for a text that has no token of its own, or too many."""
        rows = self.rows(texts)
        places = torch.tensor([place for place, row in enumerate(rows) if row], dtype=torch.int64)
        with torch.no_grad():
            parts = [
                self.model(*padded([rows[place] for place in part])) for part in torch.split(places, ROWS)
            ]
        read = torch.cat(parts)
        found = np.full((len(rows), read.shape[1]), np.nan, np.float32)
        found[places] = read
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
                outputs=[self.output],
            )


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, int64 [rows, longest]."""
    tensors = [torch.tensor(row) for row in rows]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
    return ids, mask
