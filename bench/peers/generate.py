"""transformers' `generate` over the miniature, and certification as it is written down in papers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from miniature import NEW_TOKENS
from numpy.typing import NDArray
from recorder import Tokens

from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.radius import certified_radius
from edgers_engines.bundle import Bundle
from edgers_engines.prompt import PromptEncoder


def prompt_ids(checkpoint: Path, bundle: Bundle, prompt: str) -> list[int]:
    """The tokens that edgers feeds, the image's among them."""
    from transformers import AutoConfig

    prompts, image = PromptEncoder(bundle), AutoConfig.from_pretrained(checkpoint).image_token_id
    features = [image] * bundle.manifest.dimensions.image_tokens
    return [*prompts.prefix, *features, *prompts.suffix(prompt)]


class Transformers:
    """`generate` (attention: sdpa) about canvases that it normalises as the vision graph does.

    Args:
        checkpoint: Hugging Face directory.
        ids: the prompt's tokens, see `prompt_ids`.
        batch: rows at once.
        new_tokens: the longest answer.
        held_to: the only tokens that may be chosen; any unless given.
        compiled: with a static cache, and `torch.compile` around the model's forward, prefill and decode.
    """

    def __init__(
        self,
        checkpoint: Path,
        ids: list[int],
        batch: int,
        *,
        new_tokens: int = NEW_TOKENS,
        held_to: Sequence[int] | None = None,
        compiled: bool = False,
    ) -> None:
        import torch
        from transformers import GenerationConfig, LlavaForConditionalGeneration

        self._model: Any = LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
        processor = json.loads((checkpoint / "preprocessor_config.json").read_text())
        self._mean, self._std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (processor["image_mean"], processor["image_std"])
        )
        self._ids, self.batch = torch.tensor([ids]), batch
        self._settings = GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cache_implementation="static" if compiled else None,
            disable_compile=True,  # transformers' own covers the decode step only
        )
        self._held = {} if held_to is None else {"prefix_allowed_tokens_fn": lambda _row, _ids: held_to}
        if compiled:
            self._model.forward = torch.compile(self._model.forward)

    def answers(self, canvases: Any) -> Tokens:  # noqa: ANN401  a tensor
        """New tokens of one batch; canvases float32 [rows, 3, H, W], a tensor."""
        import torch

        ids = self._ids.repeat(len(canvases), 1)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=(canvases - self._mean) / self._std,
                generation_config=self._settings,
                **self._held,
            )
        return [tuple(row) for row in out[:, ids.shape[1] :].tolist()]


class Generate:
    """All given canvases, batch after batch."""

    def __init__(self, model: Transformers, canvases: NDArray[np.float32]) -> None:
        import torch

        self._model, self._chunks = model, torch.from_numpy(canvases).split(model.batch)
        self.tokens: Tokens = []

    def __call__(self) -> None:
        """Answer them."""
        self.tokens = [row for chunk in self._chunks for row in self._model.answers(chunk)]


class Cohen:
    """Cohen et al. 2019, algorithm 1, as its code does it: noise, model and vote of a batch, then the next.

    n0 samples choose the class, n others count; float32 noise from PyTorch's generator.

    Args:
        model: answers a batch.
        oracle: classifies the tokens of an answer.
        canvas: float64 [3, H, W].
        sigma, selection, samples, alpha: of the certificate.
    """

    def __init__(
        self,
        model: Transformers,
        oracle: Any,  # noqa: ANN401  `FirstToken`
        canvas: NDArray[np.float64],
        *,
        sigma: float,
        selection: int,
        samples: int,
        alpha: float,
    ) -> None:
        import torch

        self._model, self._oracle, self._sigma, self._alpha = model, oracle, sigma, alpha
        self._canvas = torch.from_numpy(canvas).float()
        self._selection, self._samples = selection, samples
        self.radius: float | None = None

    def __call__(self) -> None:
        """One certificate."""
        label = self._votes(self._selection).most_common(1)[0][0]
        votes = self._votes(self._samples)[label]
        lower = clopper_pearson_lower(votes, self._samples, self._alpha)
        self.radius = certified_radius(lower, self._sigma)

    def _votes(self, samples: int) -> Counter[str]:
        import torch

        votes: Counter[str] = Counter()
        for done in range(0, samples, self._model.batch):
            batch = self._canvas.repeat(min(self._model.batch, samples - done), 1, 1, 1)
            noisy = batch + torch.randn_like(batch) * self._sigma
            votes.update(map(self._oracle.of_tokens, self._model.answers(noisy)))
        return votes
