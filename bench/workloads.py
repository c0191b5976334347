"""What `decision_time.py` decides: frames whose class is clear, of the demo model and of the miniature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import miniature
import numpy as np
from peers.generate import Transformers, prompt_ids
from PIL import Image
from plain import BATCHES, FRAMES, SIGMA, Generate, Pixels, Read

from edgers import Bundle, Certifier, demo
from edgers.certify import DEFAULT_SELECTION
from edgers.oracle.base import OTHER, RESERVED
from edgers_export.demo.scenes import draw

CHOICES, FREE_TEXT = "choices", "free text"
HELD, CUT, FREE = (
    "generate, held to the choices",
    "generate, cut at the first word",
    "generate, free text",
)
CLEAR = 0.99
DEMO_CHECKPOINT = Path(__file__).parent.parent / "tests" / "data" / "demo-checkpoint"
SIDES = ("left", "right")  # what the miniature may choose from


@dataclass(frozen=True, eq=False)
class Workload:
    """One model, one question in two ways, and the plain ways to answer it.

    Attributes:
        name: of the model.
        bundle: what edgers loads.
        prompt: the question.
        ways: of each way, how `certify` is asked.
        baselines: by name.
        against: of each way, the baselines that answer in it.
        beside: of each way, those that only stand beside it.
        selections: how many samples edgers may select by.
        frames: RGB, of the canvas' size.
        found: how they were found.
    """

    name: str
    bundle: Bundle
    prompt: str
    ways: Mapping[str, dict[str, Any]]
    baselines: Mapping[str, Generate]
    against: Mapping[str, Sequence[str]]
    beside: Mapping[str, Sequence[str]]
    selections: Sequence[int]
    frames: Sequence[Pixels]
    found: str


def scenes_of_the_demo() -> Workload:
    """FRAMES new scenes; every answer's first word is its class."""
    bundle, ways = demo.load_bundle(), {CHOICES: {"choices": demo.ACTIONS}, FREE_TEXT: {"oracle": "action"}}
    frames, drawn = _clear(bundle, demo.PROMPT, ways, FRAMES, 1000)
    read, tokens = _by_first_token(DEMO_CHECKPOINT, demo.ACTIONS)
    ids, longest = prompt_ids(DEMO_CHECKPOINT, bundle, demo.PROMPT), bundle.manifest.decoding.max_new_tokens
    answering = partial(Transformers, DEMO_CHECKPOINT, ids, BATCHES[-1])
    baselines = {
        HELD: Generate(answering(new_tokens=1, held_to=tokens), read),
        CUT: Generate(answering(new_tokens=1), read),
        FREE: Generate(answering(new_tokens=longest), read),
    }
    for each in baselines.values():
        each.tune(frames[0], 5)
    return Workload(
        "demo",
        bundle,
        demo.PROMPT,
        ways,
        baselines,
        against={CHOICES: (HELD, CUT, FREE), FREE_TEXT: (FREE,)},
        beside={FREE_TEXT: (CUT,)},
        selections=(0, 8, DEFAULT_SELECTION),
        frames=frames,
        found=f"the clear ones of {drawn} drawn, by references of n = 1000",
    )


def scenes_for_the_miniature(root: Path) -> Workload:
    """Three quarters as many; its oracle, `miniature.last_word`, is written into `root` as well."""
    checkpoint, folder = miniature.write(root)
    bundle, ways = (
        Bundle.load(folder),
        {CHOICES: {"choices": SIDES}, FREE_TEXT: {"oracle": miniature.last_word(root)}},
    )
    frames, drawn = _clear(bundle, miniature.PROMPT, {CHOICES: ways[CHOICES]}, 3 * FRAMES // 4, 200)
    read, tokens = _by_first_token(checkpoint, SIDES)
    answering = partial(
        Transformers, checkpoint, prompt_ids(checkpoint, bundle, miniature.PROMPT), BATCHES[0]
    )
    baselines = {
        HELD: Generate(answering(new_tokens=1, held_to=tokens), read),
        FREE: Generate(answering(), _by_last_word(checkpoint)),
    }
    for each in baselines.values():
        each.tune(frames[0], 3)
    return Workload(
        "miniature",
        bundle,
        miniature.PROMPT,
        ways,
        baselines,
        against={CHOICES: (HELD,), FREE_TEXT: (FREE,)},
        beside={},
        selections=(0,),
        frames=frames,
        found=f"the clear ones of {drawn} drawn, by references of n = 200; its weights are random",
    )


def _clear(
    bundle: Bundle, prompt: str, ways: Mapping[str, dict[str, Any]], frames: int, samples: int
) -> tuple[list[Pixels], int]:
    """Scenes whose winner has the share CLEAR in all ways, and how many were drawn to find them."""
    rng, reference = np.random.default_rng(6), Certifier(bundle, sigma=SIGMA, samples=samples)

    def share(image: Pixels, how: dict[str, Any]) -> float:
        votes = reference.certify(image, prompt, **how).votes.certification
        return max(votes[name] for name in votes.keys() - set(RESERVED)) / samples

    height, width = bundle.manifest.preparation.canvas_size
    found: list[Pixels] = []
    drawn = 0
    while len(found) < frames:
        image, drawn = Image.fromarray(draw(rng).image).resize((width, height)), drawn + 1
        pixels = np.asarray(image)
        if all(share(pixels, how) >= CLEAR for how in ways.values()):
            found.append(pixels)
    return found, drawn


def _tokenizer(checkpoint: Path) -> Any:  # noqa: ANN401  transformers' classes are typed loosely
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


def _by_first_token(checkpoint: Path, names: Sequence[str]) -> tuple[Read, list[int]]:
    """The class of an answer by its first token, and these tokens."""
    tokenizer = _tokenizer(checkpoint)
    classes = {tokenizer(name, add_special_tokens=False).input_ids[0]: name for name in names}
    assert len(classes) == len(names)
    return lambda tokens: classes.get(tokens[0], OTHER), list(classes)


def _by_last_word(checkpoint: Path) -> Read:
    """`miniature.last_word` as a function."""
    tokenizer = _tokenizer(checkpoint)
    return lambda tokens: "stop" if tokenizer.decode(tokens).endswith(" stop") else "anything"
