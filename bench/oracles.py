"""The demo's learned oracle, made anew: python bench/oracles.py.

Draws scenes, collects the demo bundle's answers, lets its rules teach a student, and asks the student about
answers that were held out: how often it errs, and how many it reads a second on all cores; new texts and
repeated ones apart.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import CORES, spread, store
from msgspec import to_builtins

from edgers import demo
from edgers.demo.teach import SCENES, lessons, teach
from edgers.distill import Distilled, lesson
from edgers.oracle.classifier import Classified
from edgers.split import Split
from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.text_classifier import TextClassifier

ROUNDS, REPEATED, CHUNK = 7, 20_000, 32
NAME = "taught-anew"
TEXTS, ERRORS, RATE = 2000, 0.01, 2000  # the targets


def seconds(work: Callable[[], object]) -> list[float]:
    """Of each round, after one that warms up."""
    found = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found[1:]


def rates(taught: Bundle, parts: Split) -> dict[str, list[float]]:
    """Texts per second, in each round."""
    record = next(each for each in taught.manifest.classifiers if each.name == NAME)
    oracle = Classified(TextClassifier(taught, record, open_backend()), taught.manifest)
    texts = list(lesson(parts.test))
    said = [answer.text for answer in parts.test if not answer.detour]
    repeated = np.random.default_rng(0).choice(said, REPEATED).tolist()
    chunks = [texts[at : at + CHUNK] for at in range(0, len(texts), CHUNK)]
    return {
        "new texts, all at once": [
            len(texts) / each for each in seconds(lambda: oracle.classify_texts(texts))
        ],
        f"new texts, {CHUNK} at once": [
            len(texts) / each for each in seconds(lambda: [oracle.classify_texts(chunk) for chunk in chunks])
        ],
        "repeated answers": [REPEATED / each for each in seconds(lambda: oracle.classify_texts(repeated))],
    }


def tables(made: Distilled, found: dict[str, list[float]]) -> str:
    """As Markdown."""
    shown = "\n".join(f"| {name} | {spread(values)} |" for name, values in found.items())
    return (
        f"Wrong on {made.errors} of {made.held_out_texts} held-out texts "
        f"({made.errors / made.held_out_texts:.2%}; target: {ERRORS:.0%} of {TEXTS} or more). Calibrated on "
        f"answers about {made.calibration_images} images, {made.calibration_errors} of them given a false "
        f"class.\n\n| | texts a second on {CORES} cores (target: {RATE} new ones) |\n|---|---|\n{shown}"
    )


def main() -> None:
    """Print and store the figures."""
    bundle = demo.load_bundle()
    parts = lessons(bundle, scenes=SCENES, progress=print)
    with tempfile.TemporaryDirectory() as folder:
        made = teach(bundle, parts, Path(folder) / "taught", name=NAME)
        found = rates(Bundle.load(Path(folder) / "taught"), parts)
    distilled = to_builtins(made)
    del distilled["bundle"]  # a folder that is gone
    store("oracles", {"distilled": distilled, "texts per second": found}, tables(made, found))


if __name__ == "__main__":
    main()
