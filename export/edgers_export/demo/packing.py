"""Four questions over one image in one sequence, so that a training step encodes each image once.

    <s> user : <image> x 36 | question, answer | question, answer | question, answer | question, answer

A block mask lets each part see the image prefix and itself only, and positions start anew after the prefix,
so that each part is computed exactly as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from edgers_export.demo.canvas import PATCHES
from edgers_export.demo.layout import KEY_WORDS
from edgers_export.demo.questions import (
    END,
    IMAGE,
    PROMPT_TEMPLATE,
    QUESTIONS,
    SPECIAL_TOKENS,
    Question,
    answer,
    wants_one_word,
)

PAD_ID, END_ID, IMAGE_ID = 0, SPECIAL_TOKENS.index(END), SPECIAL_TOKENS.index(IMAGE)


@dataclass(frozen=True, eq=False)
class Packing:
    """The layout of one packed sequence.

    `ids`: int64 [length], with padding where answers go. `mask`: bool [1, 1, length, length], True where a
    row may look. `positions`: int64 [1, length]. `predicting`: int64 [answer tokens], where the model
    predicts each answer token, which itself stands one place further. `tables`: for each question the
    answers, int64 [key words, blockers, answer length].
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    predicting: torch.Tensor
    tables: tuple[torch.Tensor, ...]

    def targets(self, answers: torch.Tensor) -> torch.Tensor:
        """The answer tokens to learn, int64 [n, answer tokens], for key word indices, int64 [n, 4]."""
        blockers = answers[:, list(KEY_WORDS).index("blocker")]
        rows = [table[answers[:, column], blockers] for column, table in enumerate(self.tables)]
        return torch.cat(rows, dim=1)

    def inputs(self, targets: torch.Tensor) -> torch.Tensor:
        """The sequences to feed, int64 [n, length], with the targets in their places."""
        ids = self.ids.repeat(len(targets), 1)
        ids[:, self.predicting + 1] = targets
        return ids


class Packer:
    """Lays out packed sequences; it encodes the prefix and the answers once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        before, self._after = PROMPT_TEMPLATE.split("{prompt}")
        prefix = tokenizer.encode(before).ids
        place = prefix.index(IMAGE_ID)
        self.prefix: list[int] = prefix[:place] + [IMAGE_ID] * PATCHES + prefix[place + 1 :]
        self._tables = {
            (question.name, is_brief): self._answer_table(question, wording)
            for question in QUESTIONS
            for is_brief, wording in _one_of_each(question).items()
        }

    def pack(self, wordings: Sequence[str]) -> Packing:
        """The layout for one wording per question, in the order of QUESTIONS."""
        pairs = zip(QUESTIONS, wordings, strict=True)
        tables = tuple(self._tables[question.name, wants_one_word(wording)] for question, wording in pairs)
        ids, positions, parts = list(self.prefix), list(range(len(self.prefix))), [0] * len(self.prefix)
        predicting: list[int] = []
        for part, (wording, table) in enumerate(zip(wordings, tables, strict=True), start=1):
            prompt, answer_length = self._encode(wording + self._after), table.shape[-1]
            first = len(ids) + len(prompt) - 1
            predicting += range(first, first + answer_length)
            length = len(prompt) + answer_length
            ids += prompt + [PAD_ID] * answer_length
            positions += range(len(self.prefix), len(self.prefix) + length)
            parts += [part] * length
        return Packing(
            ids=torch.tensor(ids),
            mask=_block_mask(torch.tensor(parts)),
            positions=torch.tensor(positions)[None],
            predicting=torch.tensor(predicting),
            tables=tables,
        )

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _answer_table(self, question: Question, wording: str) -> torch.Tensor:
        """All answers, padded at the end; pairs that cannot occur stay empty."""
        encoded = {
            pair: [*self._encode(answer(question, wording, *pair)), END_ID] for pair in question.answers
        }
        blockers = KEY_WORDS["blocker"]
        longest = max(map(len, encoded.values()))
        table = torch.full((len(question.key_words), len(blockers), longest), PAD_ID)
        for (key_word, blocker), ids in encoded.items():
            table[question.key_words.index(key_word), blockers.index(blocker), : len(ids)] = torch.tensor(ids)
        return table


def _one_of_each(question: Question) -> dict[bool, str]:
    """A wording that asks for one word, and one that does not."""
    return {wants_one_word(wording): wording for wording in question.wordings}


def _block_mask(parts: torch.Tensor) -> torch.Tensor:
    """Causal, and limited to the prefix (part 0) and a row's own part: bool [1, 1, length, length]."""
    is_earlier = torch.ones(len(parts), len(parts), dtype=torch.bool).tril()
    is_visible = (parts[None] == 0) | (parts[:, None] == parts[None])
    return (is_earlier & is_visible)[None, None]
