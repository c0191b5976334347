"""edgers against transformers, on the same noisy canvases: python bench/against_transformers.py [FOLDER].

The miniature (`miniature.py`), the same weights for all, answers n noisy copies of one canvas in chunks of
BATCH, greedily, with exactly NEW_TOKENS new tokens a sample. In turns, in one process held to as many cores
as threads:

  edgers    noise, vision, prefill, decode and count. It draws the noise within its time.
  eager     transformers' `generate` (attention: sdpa). It is given the noisy canvases.
  compiled  the same with a static cache and `torch.compile` around the model's forward, prefill and decode.

FOLDER keeps the miniature for the next time. SAMPLES and ROUNDS come from the environment.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from measure import CORES, in_turns, ratio, spread, store
from miniature import NEW_TOKENS, POSITIONS, PROMPT, TEXT, VISION, folder, write
from numpy.typing import NDArray
from peak import environment, peak
from recorder import Recorder, Tokens

from edgers import Bundle
from edgers.poll import Poll
from edgers_engines.engine import open_backend
from edgers_engines.noise import Stream, noisy_copies, to_lattice
from edgers_engines.vlm import Question, VisionLanguageModel

SAMPLES = int(os.environ.get("SAMPLES", "100"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
BATCH, SIGMA, SEED = 25, 0.25, 1
IMAGE_TOKENS = (VISION["image_size"] // VISION["patch_size"]) ** 2
TARGETS = {"eager": 1.4, "share of the peak": 0.8}


class Edgers:
    """The pipeline of one certificate's counting stream."""

    def __init__(self, bundle: Path, canvas: NDArray[np.float64], threads: int) -> None:
        self.model = VisionLanguageModel(Bundle.load(bundle), open_backend(threads=threads))
        self._canvas = canvas
        self.graph_seconds: list[float] = []
        self.tokens: Tokens = []

    def __call__(self) -> None:
        """One poll of SAMPLES samples."""
        question, recorder = Question(self.model, PROMPT, rows=BATCH, guard=False), Recorder(NEW_TOKENS)
        poll = Poll(question, recorder, self._canvas, sigma=SIGMA, seed=SEED, progress=lambda _samples: None)
        poll.count(Stream.CERTIFICATION, SAMPLES)
        self.tokens = recorder.tokens
        self.graph_seconds.append(question.seconds["encode"] + question.seconds["prefill"])


class Transformers:
    """`generate` on the same canvases, normalised as the vision graph does it."""

    def __init__(
        self, checkpoint: Path, ids: list[int], canvases: NDArray[np.float32], *, compiled: bool
    ) -> None:
        import torch
        from transformers import GenerationConfig, LlavaForConditionalGeneration

        self._model: Any = LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
        processor = json.loads((checkpoint / "preprocessor_config.json").read_text())
        self._mean, self._std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (processor["image_mean"], processor["image_std"])
        )
        self._chunks = torch.from_numpy(canvases).split(BATCH)
        self._ids = torch.tensor([ids])
        self._settings = GenerationConfig(
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=2,
            cache_implementation="static" if compiled else None,
            disable_compile=True,  # transformers' own covers the decode step only
        )
        if compiled:
            self._model.forward = torch.compile(self._model.forward)
        self.tokens: Tokens = []

    def __call__(self) -> None:
        """All chunks."""
        import torch

        self.tokens = []
        with torch.inference_mode():
            for chunk in self._chunks:
                ids = self._ids.repeat(len(chunk), 1)
                out = self._model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    pixel_values=(chunk - self._mean) / self._std,
                    generation_config=self._settings,
                )
                self.tokens += [tuple(row) for row in out[:, ids.shape[1] :].tolist()]


def gflop(prefix: int) -> float:
    """Work of encoding and prefilling one sample, counted from the architecture: 2 a multiply-add.

    Only what the answer needs is counted: the layers up to the one whose features are taken (the last but
    one); new positions behind the shared prefix; attention to visible positions; and of the decoder's last
    layer keys and values of all positions, the rest and the logits of the last one. transformers does more.
    """
    h, wide, patches = VISION["hidden_size"], VISION["intermediate_size"], IMAGE_TOKENS
    tokens, layers = patches + 1, VISION["num_hidden_layers"] - 1
    vision = patches * 3 * VISION["patch_size"] ** 2 * h
    vision += layers * (tokens * (4 * h * h + 2 * h * wide) + 2 * tokens * tokens * h)
    hidden = TEXT["hidden_size"]
    projector = patches * (h * hidden + hidden * hidden)
    kv = 2 * hidden * hidden * TEXT["num_key_value_heads"] // TEXT["num_attention_heads"]
    rest = 2 * hidden * hidden + 3 * hidden * TEXT["intermediate_size"]
    new, visible = POSITIONS - prefix, sum(range(prefix + 1, POSITIONS + 1))
    full = TEXT["num_hidden_layers"] - 1
    decoder = full * (new * (kv + rest) + 2 * visible * hidden)
    decoder += new * kv + rest + 2 * POSITIONS * hidden + hidden * TEXT["vocab_size"]
    return 2 * (vision + projector + decoder) / 1e9


def _image_token(checkpoint: Path) -> int:
    from transformers import AutoConfig

    token: int = AutoConfig.from_pretrained(checkpoint).image_token_id
    return token


def with_threads(checkpoint: Path, bundle: Path, threads: int) -> dict[str, Any]:
    """All contenders with so many threads, in this process."""
    import torch

    os.sched_setaffinity(
        0, sorted(os.sched_getaffinity(0))[:threads]
    )  # edgers draws its noise in a thread more
    torch.set_num_threads(threads)
    canvas = to_lattice(np.random.default_rng(0).random((3, VISION["image_size"], VISION["image_size"])))
    canvases = np.empty((SAMPLES, *canvas.shape), np.float32)
    noisy_copies(canvas, SIGMA, seed=SEED, stream=Stream.CERTIFICATION, first=0, out=canvases)
    edgers = Edgers(bundle, canvas, threads)
    prefix, suffix = edgers.model.prompts.prefix, edgers.model.prompts.suffix(PROMPT)
    assert len(prefix) + IMAGE_TOKENS + len(suffix) == POSITIONS
    ids = [*prefix, *[_image_token(checkpoint)] * IMAGE_TOKENS, *suffix]
    eager = Transformers(checkpoint, ids, canvases, compiled=False)
    contenders: dict[str, Any] = {"edgers": edgers, "eager": eager}
    reason = None
    try:
        contenders["compiled"] = Transformers(checkpoint, ids, canvases, compiled=True)
        contenders["compiled"]()
    except Exception as error:  # noqa: BLE001  whatever the compiler throws is the finding
        contenders.pop("compiled", None)
        reason = " ".join(str(error).split())[:300]
    peaks: list[float] = []
    seconds = in_turns({**contenders, "peak": lambda: peaks.append(peak())}, ROUNDS)
    return {
        "threads": threads,
        "seconds": seconds,
        "peak_gflops": max(peaks),
        "gflop_per_sample": gflop(len(prefix)),
        "graph_seconds": edgers.graph_seconds[1:],
        "equal_answers": {
            name: sum(a == b for a, b in zip(edgers.tokens, other.tokens, strict=True))
            for name, other in contenders.items()
        },
        "new_tokens": sorted({len(row) for other in contenders.values() for row in other.tokens}),
        "not_compiled_because": reason,
    }


def table(result: dict[str, Any]) -> str:
    """One thread count's results for people."""
    seconds = result["seconds"]
    lines = [
        f"## {result['threads']} threads",
        "",
        "| contender | s for all samples | samples/s | times as long as edgers | equal answers |",
        "|---|---|---|---|---|",
    ]
    for name, equal in result["equal_answers"].items():
        middle, low, high = ratio(seconds[name], seconds["edgers"])
        rate = SAMPLES / statistics.median(seconds[name])
        lines.append(
            f"| {name} | {spread(seconds[name])} | {rate:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) "
            f"| {equal} of {SAMPLES} |"
        )
    if result["not_compiled_because"]:
        lines.append(f"\nNot compiled: {result['not_compiled_because']}")
    work, best = SAMPLES * result["gflop_per_sample"], result["peak_gflops"]
    speed = [work / spent for spent in result["graph_seconds"]]
    share = statistics.median(speed) / best
    lines += [
        "",
        f"New tokens a sample: {result['new_tokens']}. Target: eager takes {TARGETS['eager']} times as long.",
        f"Encode and prefill: {result['gflop_per_sample']:.3f} GFLOP a sample, {spread(speed)} GFLOP/s, "
        f"{share:.0%} of the sgemm peak of {best:.0f} GFLOP/s (target {TARGETS['share of the peak']:.0%}).",
        "",
    ]
    return "\n".join(lines)


def main(root: Path) -> None:
    """Each thread count in a process of its own: libraries fix theirs when they start."""
    write(root)
    results = []
    for threads in range(1, CORES + 1):
        command = [sys.executable, __file__, str(root), "--threads", str(threads)]
        run = subprocess.run(command, env=environment(threads), check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(run.stdout.splitlines()[-1]))
    facts = (
        f"n = {SAMPLES}, chunks of {BATCH}, {POSITIONS} positions, {NEW_TOKENS} new tokens, {ROUNDS} rounds."
    )
    store("against_transformers", results, "\n".join([facts, "", *map(table, results)]))


if __name__ == "__main__":
    if "--threads" in sys.argv:
        print(json.dumps(with_threads(*write(Path(sys.argv[1])), int(sys.argv[-1]))))
    else:
        with folder(sys.argv[1] if len(sys.argv) > 1 else None) as root:
            main(root)
