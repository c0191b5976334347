"""The demo's learned oracle: the rules of its first question teach a student what the robot should do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from PIL import Image

from edgers import demo
from edgers.answers import StoredAnswer
from edgers.collect import collect
from edgers.distill import Distilled, distill, taught, train
from edgers.oracle.named import open_text_oracle
from edgers.split import Split, split
from edgers_engines.bundle import Bundle
from edgers_engines.vlm import VisionLanguageModel

NAME, TEACHER = "robot-action", "action"
# A fifth of the scenes is held out, and calibrates: one answer about each of 1,000.
SCENES, SCENE_SEED = 5000, 30_000
DETOURS, DETOUR = 5, 0.2  # more answers about each scene, for texts that the model does not say by itself
EPOCHS = 10

Progress = Callable[[str], None]


def lessons(bundle: Bundle, *, scenes: int, progress: Progress = lambda _stage: None) -> Split:
    """Labelled answers of the demo model about drawn scenes under noise; needs the workstation side.

    Args:
        bundle: the demo bundle, with its rules.
        scenes: how many to draw.
        progress: called with what is done next.
    """
    from edgers_export.demo.scenes import draw_pool

    model = VisionLanguageModel(bundle)
    teacher = open_text_oracle(model, TEACHER).classify_texts
    with tempfile.TemporaryDirectory() as folder:
        progress("drawing scenes")
        images = []
        for number, scene in enumerate(draw_pool(scenes, seed=SCENE_SEED, ambiguity=None).images):
            images.append(Path(folder) / f"{number:05d}.png")
            Image.fromarray(scene).save(images[-1], compress_level=1)
        progress("collecting answers")
        return split(list(taught(_answers(model, images), teacher)), seed=0)


def _answers(model: VisionLanguageModel, images: list[Path]) -> Iterator[StoredAnswer]:
    """Of each image one answer as the model gives it, and others on detours."""
    said = collect(model, images, demo.PROMPT, sigma=2 * demo.SIGMA, each=1, seed=0)
    more = collect(model, images, demo.PROMPT, sigma=2 * demo.SIGMA, each=DETOURS, detour=DETOUR, seed=1)
    return chain(said, more)


def teach(bundle: Bundle, parts: Split, out: Path, *, name: str = NAME, epochs: int = EPOCHS) -> Distilled:
    """A copy of the bundle with the student as one more oracle.

    Args:
        bundle: the demo bundle.
        parts: from `lessons`.
        out: directory to make.
        name: of the oracle.
        epochs: of training.
    """
    student = train(parts, encoder=None, epochs=epochs, seed=0)
    return distill(bundle, parts, student, name, out, seed=0)
