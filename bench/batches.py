"""Samples/s and latency against the batch size: python bench/batches.py [FOLDER] [DEVICE].

The paper's O(n/B): n = 128 samples in free text, in batches of B = 1, 2, 4 ..., of the demo model and of the
miniature (`miniature.py`), all sizes in turns. What a certificate's counting stream pays is timed: noise,
encode, prefill, decode, count. A batch's latency is its share of that, for batches follow each other.

FOLDER keeps the miniature for the next time; DEVICE is cpu unless given. SAMPLES and ROUNDS come from the
environment; then nothing is stored.
"""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import miniature
from measure import in_turns, spread, store, store_drawing
from recorder import Recorder

from edgers import Bundle, demo
from edgers.poll import Poll
from edgers_engines.engine import open_backend
from edgers_engines.image import prepare, read_image
from edgers_engines.noise import Stream, to_lattice
from edgers_engines.vlm import Question, VisionLanguageModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLES = int(os.environ.get("SAMPLES", "128"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SIGMA = 0.5
COLOUR = "#2a7f4f"


@dataclass(frozen=True)
class Curve:
    """One model on one device.

    Attributes:
        model: its name.
        seconds: of SAMPLES samples in every round, by batch size.
    """

    model: str
    seconds: dict[int, list[float]]

    def rate(self, batch: int) -> float:
        """Samples per second, the median over rounds."""
        return SAMPLES / statistics.median(self.seconds[batch])

    def latency(self, batch: int) -> float:
        """Seconds of a batch, the median over rounds."""
        return batch / self.rate(batch)


def curve(model: str, bundle: Bundle, prompt: str, *, most: int, device: str) -> Curve:
    """Measure one model on a demo frame.

    Args:
        model: its name.
        bundle: what holds it.
        prompt: the question.
        most: the largest batch.
        device: where the graphs run, as `edgers_engines.engine.open_backend` takes it.
    """
    loaded, manifest = VisionLanguageModel(bundle, open_backend(device=device)), bundle.manifest
    canvas = to_lattice(prepare(read_image(demo.frames()[0]), manifest.preparation))
    sizes = [1 << power for power in range(min(most, SAMPLES).bit_length())]
    questions = {size: Question(loaded, prompt, rows=size, guard=False) for size in sizes}

    def count(size: int) -> None:
        recorder = Recorder(manifest.decoding.max_new_tokens)
        poll = Poll(questions[size], recorder, canvas, sigma=SIGMA, seed=1, progress=lambda _samples: None)
        poll.count(Stream.CERTIFICATION, SAMPLES)

    seconds = in_turns({str(size): partial(count, size) for size in sizes}, ROUNDS)
    return Curve(model, {int(size): spent for size, spent in seconds.items()})


def table(found: Curve) -> str:
    """One model's sizes."""
    lines = [
        f"## {found.model}",
        "",
        f"| B | batches for {SAMPLES} samples | s for all samples | samples/s | of the best | ms a batch |",
        "|---:|---:|---|---:|---:|---:|",
    ]
    best = max(map(found.rate, found.seconds))
    for batch, spent in found.seconds.items():
        lines.append(
            f"| {batch} | {-(-SAMPLES // batch)} | {spread(spent)} | {found.rate(batch):.1f} "
            f"| {found.rate(batch) / best:.0%} | {1000 * found.latency(batch):.1f} |"
        )
    return "\n".join(lines)


def figure(curves: list[Curve]) -> Figure:
    """Samples/s and latency of every model."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 3.4 * len(curves)), layout="constrained")
    for found, (left, right) in zip(curves, drawn.subplots(len(curves), 2, squeeze=False), strict=True):
        sizes = list(found.seconds)
        _draw(left, sizes, [found.rate(size) for size in sizes], "samples/s")
        _draw(right, sizes, [1000 * found.latency(size) for size in sizes], "ms a batch")
        left.set_title(found.model, fontsize=10)
        left.set_ylim(bottom=0)
        right.set_yscale("log")
    return drawn


def _draw(axes: Axes, sizes: list[int], values: list[float], name: str) -> None:
    axes.plot(sizes, values, "o-", color=COLOUR)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("batch size B")
    axes.set_ylabel(name)
    axes.spines[["top", "right"]].set_visible(False)


def main(cache: str | None = None, device: str = "cpu") -> None:
    """Measure, draw and store."""
    curves = [curve("demo model", demo.load_bundle(), demo.PROMPT, most=SAMPLES, device=device)]
    with miniature.folder(cache) as root:
        bundle = Bundle.load(miniature.write(root)[1])
        curves.append(curve("miniature", bundle, miniature.PROMPT, most=64, device=device))
    facts = f"{SAMPLES} samples on {device}, {ROUNDS} rounds."
    store("batches", [asdict(found) for found in curves], "\n\n".join([facts, *map(table, curves)]))
    store_drawing("batches", figure(curves))


if __name__ == "__main__":
    main(*sys.argv[1:3])
