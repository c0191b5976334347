"""Trains the demo model on drawn scenes: about fifteen minutes on two cores.

Two phases, counted in steps so that a seed repeats. First the vision tower alone learns to name what each
patch shows, through a linear head that is thrown away afterwards; without this phase training stalls. Then
the whole model learns to answer. All images carry Gaussian noise of a random level, for the model will be
smoothed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgers_export.demo.batches import BATCH, Batches
from edgers_export.demo.canvas import CONTENTS, PATCHES
from edgers_export.demo.model import VISION_WIDTH, build_model, save_checkpoint
from edgers_export.demo.packing import IMAGE_ID, PAD_ID, Packer, Packing
from edgers_export.demo.progress import Done, Report
from edgers_export.demo.questions import QUESTIONS, Question, build_tokenizer
from edgers_export.demo.scenes import draw_pool
from edgers_export.threads import torch_threads

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

WARM_UP = 100
MAX_SIGMA = 0.6  # the largest noise level, in units of [0, 1] pixels
FIRST_SIGMA = 0.1  # the largest noise level when phase 1 begins
VISION_RATE, ANSWER_RATE = 1.5e-3, 2e-3
VISION_SHARE = 0.4  # of the learning rate, for the vision tower in phase 2
CANONICAL_SHARE = 0.3  # of the steps, for each question
WORDING_STREAM = 2  # of the seed; the batches use stream 1


def train(
    directory: Path,
    *,
    seed: int = 0,
    steps: tuple[int, int] = (1311, 2417),
    scenes: int = 24_000,
    threads: int = 2,
) -> None:
    """Train the demo model and save it to `directory` as a Hugging Face checkpoint in float32.

    `steps` are the optimizer steps of the two phases, `scenes` the number of distinct scenes to draw. The
    same seed and number of threads give the same model on the same machine. Progress goes to stderr.
    `threads` is also the number of processes that draw, which are started afresh, so a script that calls
    this needs the usual `if __name__ == "__main__":`.

    Raises ValueError if `scenes` is smaller than a batch, or a number of steps or threads is below 1.
    """
    if scenes < BATCH or min(*steps, threads) < 1:
        raise ValueError(
            f"scenes is {scenes}, steps is {steps} and threads is {threads}; "
            f"need at least {BATCH} scenes, 1 step in each phase and 1 thread"
        )
    tokenizer = build_tokenizer()
    model = build_model(tokenizer.get_vocab_size(), seed=seed)
    with torch_threads(threads), Report() as report:
        drawn = report.begin("drawing scenes", scenes)
        pool = draw_pool(scenes, seed=seed, processes=threads, on_drawn=lambda count: drawn(count, ""))
        trainer = _Trainer(model, _new_head(seed), Batches(pool, seed))
        trainer.learn_to_see(steps[0], report.begin("seeing", steps[0]))
        wording_rng = np.random.default_rng([seed, WORDING_STREAM])
        trainer.learn_to_answer(Packer(tokenizer), wording_rng, steps[1], report.begin("answering", steps[1]))
    model.eval()
    save_checkpoint(model, tokenizer, directory)


def answer_logits(
    model: LlavaForConditionalGeneration, pixels: torch.Tensor, ids: torch.Tensor, packing: Packing
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits [n, answer tokens, vocabulary], and the vision tower's features [n, 36, hidden]."""
    features = see(model, pixels)
    embeddings = model.get_input_embeddings()(ids)
    start = int((packing.ids == IMAGE_ID).nonzero()[0])
    projected = model.model.multi_modal_projector(features)
    embeddings = torch.cat([embeddings[:, :start], projected, embeddings[:, start + PATCHES :]], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=packing.mask.expand(len(ids), -1, -1, -1),
        position_ids=packing.positions.expand(len(ids), -1),
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden[:, packing.predicting]), features


def see(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """The vision tower's features of the patches, float32 [n, 36, hidden]."""
    features: torch.Tensor = model.model.vision_tower(pixel_values=pixels).last_hidden_state
    return features[:, 1:]  # without the class token


@dataclass(frozen=True, eq=False)
class _Trainer:
    """A model in training, its scenes, and the head that reads a patch's contents off its features."""

    model: LlavaForConditionalGeneration
    head: nn.Linear
    batches: Batches

    def learn_to_see(self, steps: int, done: Done) -> None:
        """Phase 1: the vision tower alone; the noise grows over the first 30% of the steps."""
        optimizer = _optimizer([self._seeing()])
        self.model.train()
        for step in range(steps):
            progress = step / steps
            decay = 1 if progress < 0.5 else 1 - 1.4 * (progress - 0.5)
            _set_rates(optimizer, [VISION_RATE * _warm_up(step) * decay])
            batch = self.batches.draw(FIRST_SIGMA + (MAX_SIGMA - FIRST_SIGMA) * min(1, progress / 0.3))
            loss = self._patch_loss(see(self.model, batch.pixels), batch.patches)
            _descend(optimizer, loss)
            done(1, f"loss {loss.item():.3f}")

    def learn_to_answer(self, packer: Packer, rng: np.random.Generator, steps: int, done: Done) -> None:
        """Phase 2: everything, with four questions on each image; the patches count less and less."""
        seeing = self._seeing()
        seen = {id(parameter) for parameter in seeing}
        optimizer = _optimizer([[p for p in self.model.parameters() if id(p) not in seen], seeing])
        self.model.train()
        for step in range(steps):
            progress = step / steps
            rate = ANSWER_RATE * _warm_up(step) * (0.5 * (1 + math.cos(math.pi * progress)) + 0.005)
            _set_rates(optimizer, [rate, rate * VISION_SHARE])
            batch = self.batches.draw(MAX_SIGMA)
            packing = packer.pack([_draw_wording(rng, question) for question in QUESTIONS])
            targets = packing.targets(batch.answers)
            logits, features = answer_logits(self.model, batch.pixels, packing.inputs(targets), packing)
            words = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD_ID)
            patches = self._patch_loss(features, batch.patches)
            _descend(optimizer, words + max(0.1, 0.5 - progress) * patches)
            done(1, f"loss {words.item():.3f}, patches {patches.item():.3f}")

    def _seeing(self) -> list[nn.Parameter]:
        return [*self.model.model.vision_tower.parameters(), *self.head.parameters()]

    def _patch_loss(self, features: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        logs = functional.log_softmax(self.head(features), dim=-1)
        return functional.kl_div(logs, patches, reduction="none").sum(dim=-1).mean()


def _new_head(seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(VISION_WIDTH, CONTENTS)


def _draw_wording(rng: np.random.Generator, question: Question) -> str:
    if rng.random() < CANONICAL_SHARE:
        return question.canonical
    return question.wordings[int(rng.integers(len(question.wordings)))]


def _optimizer(groups: list[list[nn.Parameter]]) -> torch.optim.AdamW:
    return torch.optim.AdamW([{"params": group} for group in groups], betas=(0.9, 0.98), weight_decay=0.02)


def _set_rates(optimizer: torch.optim.AdamW, rates: list[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _warm_up(step: int) -> float:
    return min(1.0, (step + 1) / WARM_UP)


def _descend(optimizer: torch.optim.AdamW, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
