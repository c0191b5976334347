"""How much of a certificate's time is not a graph's: python bench/outside.py.

The demo frame at n = 100, with choices (the first token decides) and in free text. Time in `Engine.run`'s
backend is the graphs'; the rest is waiting for noise, choosing tokens, moving rows, Python.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

from edgers import Certifier, demo
from edgers.noise_ahead import NoiseAhead
from edgers_engines.engine import Engine
from edgers_engines.kv_cache import KVCache
from edgers_engines.onnxruntime import OnnxRuntimeEngine
from edgers_engines.prompt import PromptEncoder
from edgers_engines.vlm import Question, VisionLanguageModel

RUNS, SAMPLES = 9, 100
TARGET = 0.15
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


class Clock:
    """Seconds of each part, without the parts inside it."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inside = [0.0]

    def wrapped(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, on the clock."""

        def timed(*args: Any, **options: Any) -> Any:  # noqa: ANN401  whatever it takes
            self._inside.append(0.0)
            start = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                spent = time.perf_counter() - start
                self.seconds[part] += spent - self._inside.pop()
                self._inside[-1] += spent

        return timed


def measure(certifier: Certifier, how: dict[str, Any]) -> dict[str, float]:
    """Share of each part in one certificate's wall time."""
    clock = Clock()
    with ExitStack() as stack:
        for part, (owner, name) in PARTS.items():
            stack.enter_context(mock.patch.object(owner, name, clock.wrapped(part, getattr(owner, name))))
        start = time.perf_counter()
        certifier.certify(demo.frames()[0], demo.PROMPT, **how)
        total = time.perf_counter() - start
    shares = {part: spent / total for part, spent in clock.seconds.items()}
    return {**shares, "everything else": 1 - sum(shares.values()), "seconds": total}


def main() -> None:
    """Print both tables."""
    certifier = Certifier(demo.load_bundle(), sigma=demo.SIGMA, samples=SAMPLES)
    for title, how in (
        ("choices", {"choices": demo.ACTIONS}),
        ("free text", {"oracle": certifier.bundle.manifest.oracles[0].name}),
    ):
        runs = [measure(certifier, how) for _ in range(RUNS + 1)][1:]
        middle = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
        print(f"{title}, n = {SAMPLES}: {1000 * middle.pop('seconds'):.0f} ms")
        for part, share in sorted(middle.items(), key=lambda item: -item[1]):
            print(f"  {part:24} {share:6.1%}")
        print(f"  not a graph's: {1 - middle['graphs']:.1%} (target {TARGET:.0%})")


if __name__ == "__main__":
    main()
