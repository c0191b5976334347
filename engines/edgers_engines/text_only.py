"""A bundle's decoder without its eyes: prompts are answered from their text alone, no image among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgers_engines.errors import InputError
from edgers_engines.generation import Answer, Constraint, Generation
from edgers_engines.vlm import VisionLanguageModel


class TextQuestion(Generation):
    """Prompts of one length in tokens, answered together, so that none is padded.

    A prompt becomes before_image | text_before + prompt + text_after | after: the bundle's template with
    nothing where the image would be. The margin guard is on: an answer depends on its neighbours by rounding
    at most, and where rounding could decide, it is UNDECIDED.

    Args:
        model: the loaded model.
        prompts: token ids of each, from `PromptEncoder.suffix`.
        constraint: which answers are allowed; free text unless given.
        max_new_tokens: the bundle's unless given.

    Raises:
        InputError: there is no prompt, they differ in length, or they leave no room for an answer.
        MemoryError: so many rows need more memory than there is.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompts: Sequence[Sequence[int]],
        *,
        constraint: Constraint | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        lengths = {len(prompt) for prompt in prompts}
        if len(lengths) != 1:
            raise InputError(f"prompts of one length are answered together; these have {sorted(lengths)}")
        super().__init__(
            model,
            *lengths,
            rows=len(prompts),
            constraint=constraint,
            guard=True,
            max_new_tokens=max_new_tokens,
        )
        embeddings = np.stack([model.embeddings(prompt) for prompt in prompts])
        self.device.paste(embeddings, self._block, self._start)
        self._share_prefix()

    def answers(self) -> list[Answer]:
        """One answer for each prompt, in order.

        Raises:
            BackendError: a graph failed to run.
        """
        return self._answers(self.rows)
