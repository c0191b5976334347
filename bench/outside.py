"""How much of a certificate's time no graph runs: python bench/outside.py [FOLDER].

The demo frame at n = 100, with choices (the first token decides) and in free text; and, where FOLDER keeps
the miniature (`miniature.py`), as many samples of it in free text. What counts is the time in which no graph
runs in any thread: waiting for noise, choosing tokens, moving rows, Python. Where it goes is listed by part,
summed over threads, so that parts beside a graph that runs are in it too. ROUNDS comes from the environment.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from graph_time import GraphTime
from measure import Target, figure, store, targets

from edgers import Bundle, Certifier, demo
from edgers.noise_ahead import NoiseAhead
from edgers.poll import Poll
from edgers_engines.engine import Engine
from edgers_engines.kv_cache import KVCache
from edgers_engines.noise import Stream, to_lattice
from edgers_engines.onnxruntime import OnnxRuntimeEngine
from edgers_engines.prompt import PromptEncoder
from edgers_engines.vlm import Question, VisionLanguageModel

ROUNDS, SAMPLES = int(os.environ.get("ROUNDS", "9")), 100
BATCH, SIGMA, SEED = 25, 0.25, 1
DEMO, MINIATURE = 0.10, 0.03  # at most
# What is wrapped, outermost first; each one's time is without that of those inside it.
PARTS: dict[str, tuple[type, str]] = {
    "ask (python)": (Question, "answers"),
    "set up the question": (Question, "__init__"),
    "wait for noise": (NoiseAhead, "take"),
    "encode, copy features": (Question, "_encode"),
    "choose tokens": (Question, "_advance"),
    "drop finished rows": (KVCache, "keep"),
    "make the mask, bind": (VisionLanguageModel, "decode"),
    "check arrays": (Engine, "run"),
    "graphs": (OnnxRuntimeEngine, "_run"),
    "read texts": (PromptEncoder, "decode"),
}

Ask = Callable[[], object]


class Clock:
    """Seconds of each part in all threads, without the parts inside it."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._lock, self._thread = threading.Lock(), threading.local()

    def wrapped(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, on the clock."""

        def timed(*args: Any, **options: Any) -> Any:  # noqa: ANN401  whatever it takes
            inside: list[float] = self._thread.__dict__.setdefault("inside", [0.0])
            inside.append(0.0)
            start = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                spent = time.perf_counter() - start
                with self._lock:
                    self.seconds[part] += spent - inside.pop()
                inside[-1] += spent

        return timed


def measure(ask: Ask) -> dict[str, float]:
    """Of one certificate: seconds, the share of them in which no graph runs, and each part's."""
    clock, graphs = Clock(), GraphTime()
    with ExitStack() as stack:
        stack.enter_context(graphs.recording())
        for part, (owner, name) in PARTS.items():
            stack.enter_context(mock.patch.object(owner, name, clock.wrapped(part, getattr(owner, name))))
        ask()
    parts = {part: spent / graphs.wall for part, spent in clock.seconds.items()}
    return {"seconds": graphs.wall, "no graph": graphs.outside, **parts}


def demo_asks() -> dict[str, Ask]:
    """The demo frame, with choices and in free text."""
    certifier = Certifier(demo.load_bundle(), sigma=demo.SIGMA, samples=SAMPLES)
    oracle = certifier.bundle.manifest.oracles[0].name
    frame = demo.frames()[0]
    return {
        "demo, choices": lambda: certifier.certify(frame, demo.PROMPT, choices=demo.ACTIONS),
        "demo, free text": lambda: certifier.certify(frame, demo.PROMPT, oracle=oracle),
    }


def miniature_ask(folder: Path) -> Ask:
    """The miniature: its tokens spell no text, so what is counted is that it answered."""
    from miniature import NEW_TOKENS, PROMPT, VISION, write
    from recorder import Recorder

    model = VisionLanguageModel(Bundle.load(write(folder)[1]))
    canvas = to_lattice(np.random.default_rng(0).random((3, VISION["image_size"], VISION["image_size"])))

    def ask() -> None:
        question = Question(model, PROMPT, rows=BATCH, guard=False)
        recorder = Recorder(NEW_TOKENS)
        poll = Poll(question, recorder, canvas, sigma=SIGMA, seed=SEED, progress=lambda _samples: None)
        poll.count(Stream.CERTIFICATION, SAMPLES)

    return ask


def table(results: Mapping[str, list[dict[str, float]]]) -> str:
    """Targets, then where the time goes."""
    found = [
        Target(
            f"{name}: no graph runs",
            figure([run["no graph"] for run in runs]),
            MINIATURE if name == "miniature" else DEMO,
            least=False,
            form=".1%",
        )
        for name, runs in results.items()
    ]
    lines = [f"n = {SAMPLES}, {ROUNDS} rounds.", "", targets(found), ""]
    lines += ["| of the wall time, summed over threads |" + "".join(f" {name} |" for name in results)]
    lines += ["|---|" + "---|" * len(results)]
    for part in ("seconds", *PARTS):
        middles = [figure([run[part] for run in runs]).median for runs in results.values()]
        lines.append(
            f"| {part} |" + "".join(f" {m:.3f} |" if part == "seconds" else f" {m:.1%} |" for m in middles)
        )
    return "\n".join(lines)


def main(folder: Path | None) -> None:
    """Measure in turns, after one round that is not kept."""
    asks = demo_asks() | ({} if folder is None else {"miniature": miniature_ask(folder)})
    rounds = [{name: measure(ask) for name, ask in asks.items()} for _ in range(ROUNDS + 1)][1:]
    results = {name: [each[name] for each in rounds] for name in asks}
    store("outside", results, table(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
