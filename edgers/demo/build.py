"""Makes the demo from nothing: trains the model, exports it, picks the frames, measures, writes the card.

`make demo-model` runs it on the workstation side; the result is committed as package data.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgers import demo
from edgers.certify import Certifier
from edgers.cli.output import stderr
from edgers.demo.accuracy import Accuracy, measure, table
from edgers_engines.bundle import Bundle
from edgers_engines.oracle_record import Rule, Rules
from edgers_engines.records import dump, parse

CARD = Path(__file__).parent / "MODEL_CARD.md"
TABLE_BEGINS, TABLE_ENDS = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"

# Scenes of the training set have seed 0; these are fresh.
FRAME_SEED, ACCURACY_SEED = 20_000, 10_000
CLEAR_SCENES, HARD_SCENES = 2000, 400
_PROBE_SAMPLES = 400


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), default=Path("build/demo-checkpoint"))
@click.option("--seed", default=0, show_default=True)
def command(checkpoint: Path, seed: int) -> None:
    """Train into CHECKPOINT unless it is there already, and rebuild the demo's package data."""
    from edgers_export.bundle import export_bundle
    from edgers_export.demo.training import train

    say = stderr().print
    if not checkpoint.exists():
        train(checkpoint, seed=seed)
    plain = checkpoint.with_name("demo-bundle")
    shutil.rmtree(plain, ignore_errors=True)
    exported = export_bundle(
        checkpoint,
        plain,
        name="edgers-demo",
        licence="Apache-2.0",
        oracles=rule_oracles(),
        max_new_tokens=12,
        progress=lambda stage: say(f"exporting: {stage}"),
    )
    bundle = with_learned_oracle(exported, say)
    shutil.rmtree(demo.FRAMES, ignore_errors=True)
    demo.FRAMES.mkdir()
    for name, image in pick_frames(bundle):
        say(f"frame {name}")
        Image.fromarray(image).save(demo.FRAMES / f"{name}.png", optimize=True)
    accuracy = measure(
        bundle,
        clear=CLEAR_SCENES,
        hard=HARD_SCENES,
        seed=ACCURACY_SEED,
        progress=lambda stage: say(f"measuring: {stage}"),
    )
    demo.ACCURACY.write_bytes(dump(accuracy))
    CARD.write_text(with_table(CARD.read_text(), accuracy))


def with_learned_oracle(exported: Bundle, say: Callable[[str], None]) -> Bundle:
    """The demo bundle: what was exported, and an oracle that learned from its answers."""
    from edgers.demo.teach import SCENES, lessons, teach

    parts = lessons(exported, scenes=SCENES, progress=lambda stage: say(f"teaching: {stage}"))
    shutil.rmtree(demo.BUNDLE, ignore_errors=True)
    made = teach(exported, parts, demo.BUNDLE)
    say(f"taught: wrong on {made.errors} of {made.held_out_texts} held-out texts")
    return demo.load_bundle()


def rule_oracles() -> tuple[Rules, ...]:
    """One oracle a question: every answer begins with its key word, which is its class."""
    from edgers_export.demo.layout import KEY_WORDS

    return tuple(
        Rules(name=name, rules=tuple(Rule(pattern=f"{word} *", label=word) for word in words))
        for name, words in KEY_WORDS.items()
    )


def pick_frames(bundle: Bundle) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Ten frames: two clear scenes for each action, then two on which the vote is split.

    The clear ones are the first drawn on which the action's class gets over 99% of the votes, so that the
    demo shows certificates; the hard ones are the first ambiguous ones whose vote is close to even.
    """
    from edgers_export.demo.layout import EQUAL_GAPS, MIDDLE_DEPTH

    probe = Certifier(bundle, sigma=demo.SIGMA, samples=_PROBE_SAMPLES)
    wanted = [*demo.ACTIONS, *demo.ACTIONS]
    for number, action in enumerate(wanted, 1):
        yield f"{number:02d}-{action}", _first_scene(probe, number, None, action)
    for number, ambiguity in enumerate((EQUAL_GAPS, MIDDLE_DEPTH), len(wanted) + 1):
        yield f"{number:02d}-hard-{ambiguity.replace(' ', '-')}", _first_scene(probe, number, ambiguity, None)


def _first_scene(
    probe: Certifier, number: int, ambiguity: str | None, action: str | None
) -> NDArray[np.uint8]:
    from edgers_export.demo.scenes import draw

    rng = np.random.default_rng([FRAME_SEED, number])
    while True:
        scene = draw(rng, ambiguity)
        if action not in (None, scene.action):
            continue
        certificate = probe.certify(scene.image, demo.PROMPT, choices=demo.ACTIONS)
        # Of the largest class, which the few selection samples need not have found.
        share = max(certificate.votes.certification.values()) / probe.rule.samples
        if (share > 0.99 and certificate.label == action) if action else (0 < share < 0.54):
            return scene.image


def with_table(card: str, accuracy: Accuracy) -> str:
    """The model card with its accuracy table replaced."""
    before, _, rest = card.partition(TABLE_BEGINS)
    after = rest.partition(TABLE_ENDS)[2]
    return f"{before}{TABLE_BEGINS}\n{table(accuracy)}\n{TABLE_ENDS}{after}"


def stored_accuracy() -> Accuracy:
    """The measurement that is committed with the bundle."""
    return parse(demo.ACCURACY.read_bytes(), Accuracy)


if __name__ == "__main__":
    sys.exit(command())
