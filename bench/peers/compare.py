"""edgers beside what else answers with the same weights: python bench/peers/compare.py [FOLDER].

The miniature (`miniature.py`); the same weights, tokens and threads for all, in turns, in one process for
each number of threads, held to as many cores. Three comparisons:

Pipelines answer n noisy copies of one canvas in chunks of BATCH, greedily, NEW_TOKENS new tokens each:
  edgers         noise, vision, prefill, decode and count, as in a certificate. It draws the noise within
                 its time; the others are given the noisy canvases.
  eager          transformers' `generate` (attention: sdpa).
  compiled       the same with a static cache and `torch.compile` around the model's forward.
  concatenated   edgers' vision graph, then the decoder as optimum exports it (`graphs.py`).
  genai's graph  edgers' vision graph, then the decoder that onnxruntime-genai's builder writes.

Decoders take one chunk's prompts, tokens that are drawn at random, whole, since genai's graph continues no
batch behind a prefix: prefill, then NEW_TOKENS - 1 steps. Graphs are fed embeddings by one loop
(`decoders.py`); genai's own runtime takes token ids only. Its graph runs with edgers' session options and
with ONNX Runtime's: the target is against the faster.

Certificates: n0 samples for the class, n that count, free text, by edgers and as Cohen et al. write it down:
float32 noise, eager `generate`, votes, one after the other, batch after batch.

FOLDER keeps the miniature and the graphs for the next time. SAMPLES and ROUNDS come from the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from graph_time import GraphTime
from measure import CORES, in_turns, store
from miniature import NEW_TOKENS, POSITIONS, PROMPT, TEXT, VISION, folder, write
from numpy.typing import NDArray
from peak import environment, peak
from peers.decoders import (
    ConcatenatedDecoder,
    Decoder,
    EdgersDecoder,
    GroupedDecoder,
    OwnRuntime,
    greedy,
    open_session,
)
from peers.generate import Cohen, Generate, Transformers, prompt_ids
from peers.graphs import PeerGraphs
from peers.graphs import write as write_graphs
from peers.tables import report
from peers.work import gflop
from recorder import FirstToken, Recorder, Tokens

from edgers import Bundle
from edgers.oracle.base import winner
from edgers.poll import Poll
from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.radius import certified_radius
from edgers_engines.noise import Stream, noisy_copies, to_lattice
from edgers_engines.onnxruntime import OnnxRuntimeBackend
from edgers_engines.vlm import Question, VisionLanguageModel

SAMPLES = int(os.environ.get("SAMPLES", "100"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
DECODER_ROUNDS = 3 * ROUNDS  # one chunk each: a difference of a few percent is looked for
BATCH, SIGMA, SEED = 25, 0.25, 1
SELECTION, ALPHA = 16, 0.001

Contenders = dict[str, Callable[[], object]]


class Pipeline:
    """edgers: one poll of SAMPLES samples."""

    def __init__(self, model: VisionLanguageModel, canvas: NDArray[np.float64]) -> None:
        self._model, self._canvas = model, canvas
        self._time = GraphTime()
        self.tokens: Tokens = []
        self.begun_seconds: list[float] = []  # in which encode or prefill ran
        self.outside: list[float] = []  # share of the time in which no graph ran

    def __call__(self) -> None:
        """Ask and count."""
        recorder = Recorder(NEW_TOKENS)
        with self._time.recording():
            poll = _poll(self._model, self._canvas, recorder)
            poll.count(Stream.CERTIFICATION, SAMPLES)
        self.tokens = recorder.tokens
        self.begun_seconds.append(self._time.seconds(("encode", "prefill")))
        self.outside.append(self._time.outside)


class Assembled:
    """edgers' vision graph, then another decoder, over given canvases."""

    def __init__(
        self,
        model: VisionLanguageModel,
        decoder: Decoder,
        canvases: NDArray[np.float32],
        table: NDArray[np.float32],
    ) -> None:
        self._model, self._decoder, self._canvases, self._table = model, decoder, canvases, table
        before, after = model.prompts.prefix, model.prompts.suffix(PROMPT)
        self._around = [np.repeat(table[list(ids)][None], BATCH, 0) for ids in (before, after)]
        self.tokens: Tokens = []

    def __call__(self) -> None:
        """All chunks."""
        self.tokens = []
        for first in range(0, SAMPLES, BATCH):
            features = self._model.encode(self._canvases[first : first + BATCH])
            before, after = (part[: len(features)] for part in self._around)
            prompts = np.concatenate([before, features, after], 1)
            self.tokens += map(tuple, greedy(self._decoder, prompts, self._table).tolist())


class Certificate:
    """edgers: one certificate of the oracle's class."""

    def __init__(self, model: VisionLanguageModel, oracle: FirstToken, canvas: NDArray[np.float64]) -> None:
        self._model, self._oracle, self._canvas = model, oracle, canvas
        self.radius: float | None = None

    def __call__(self) -> None:
        """Select, count, bound."""
        poll = _poll(self._model, self._canvas, self._oracle)
        selection = poll.select(SELECTION, (Stream.CERTIFICATION, SAMPLES))
        label = winner(selection, self._oracle.record.classes)
        votes = poll.count(Stream.CERTIFICATION, SAMPLES)[label]
        self.radius = certified_radius(clopper_pearson_lower(votes, SAMPLES, ALPHA), SIGMA)


def _poll(model: VisionLanguageModel, canvas: NDArray[np.float64], oracle: Any) -> Poll:  # noqa: ANN401
    question = Question(model, PROMPT, rows=BATCH, guard=False, max_new_tokens=NEW_TOKENS)
    return Poll(question, oracle, canvas, sigma=SIGMA, seed=SEED, progress=lambda _samples: None)


def with_threads(checkpoint: Path, bundle: Path, graphs: PeerGraphs, threads: int) -> dict[str, Any]:
    """All comparisons with so many threads, in this process."""
    import torch

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # edgers has threads besides
    torch.set_num_threads(threads)
    backend = OnnxRuntimeBackend("cpu", threads)
    model = VisionLanguageModel(Bundle.load(bundle), backend)
    table = model.embeddings(range(TEXT["vocab_size"]))
    ids = prompt_ids(checkpoint, model.bundle, PROMPT)
    assert len(ids) == POSITIONS
    canvas = to_lattice(np.random.default_rng(0).random((3, VISION["image_size"], VISION["image_size"])))
    sessions = {
        "concatenated": open_session(graphs.concatenated, backend, defaults=True),
        "defaults": open_session(graphs.grouped, backend, defaults=True),
        "as edgers": open_session(graphs.grouped, backend, defaults=False),
    }
    eager = Transformers(checkpoint, ids, BATCH)
    compiled = Transformers(checkpoint, ids, BATCH, compiled=True)
    return {
        "threads": threads,
        "samples": SAMPLES,
        "gflop_per_sample": gflop(len(model.prompts.prefix)),
        "pipelines": _pipelines(model, canvas, table, sessions, {"eager": eager, "compiled": compiled}),
        "decoders": _decoders(model, table, sessions, OwnRuntime(graphs.ids, threads)),
        "certificates": _certificates(model, canvas, eager),
    }


def _pipelines(
    model: VisionLanguageModel,
    canvas: NDArray[np.float64],
    table: NDArray[np.float32],
    sessions: dict[str, Any],
    transformers: dict[str, Transformers],
) -> dict[str, Any]:
    canvases = np.empty((SAMPLES, *canvas.shape), np.float32)
    noisy_copies(canvas, SIGMA, seed=SEED, stream=Stream.CERTIFICATION, first=0, out=canvases)
    edgers = Pipeline(model, canvas)
    contenders: dict[str, Any] = {
        "edgers": edgers,
        **{name: Generate(peer, canvases) for name, peer in transformers.items()},
        "concatenated": Assembled(model, ConcatenatedDecoder(sessions["concatenated"]), canvases, table),
        "genai's graph": Assembled(model, GroupedDecoder(sessions["defaults"], BATCH), canvases, table),
    }
    reason = None
    try:
        contenders["compiled"]()
    except Exception as error:  # noqa: BLE001  whatever the compiler throws is the finding
        del contenders["compiled"]
        reason = " ".join(str(error).split())[:300]
    peaks: list[float] = []
    seconds = in_turns({**contenders, "peak": lambda: peaks.append(peak())}, ROUNDS)
    del seconds["peak"]
    return {
        "seconds": seconds,
        "equal": {name: _equal(other.tokens, edgers.tokens) for name, other in contenders.items()},
        "of": SAMPLES,
        "not_compiled_because": reason,
        "peak_gflops": max(peaks),
        "begun_seconds": edgers.begun_seconds[1:],
        "outside": edgers.outside[1:],
    }


def _decoders(
    model: VisionLanguageModel, table: NDArray[np.float32], sessions: dict[str, Any], own: OwnRuntime
) -> dict[str, Any]:
    prefix = model.prompts.prefix
    ids = np.random.default_rng(0).integers(0, TEXT["vocab_size"], (BATCH, POSITIONS))
    ids[:, : len(prefix)] = prefix
    whole = table[ids]
    behind = np.ascontiguousarray(whole[:, len(prefix) :])
    loops: dict[str, Callable[[], NDArray[np.int64]]] = {
        "edgers' graph": partial(greedy, EdgersDecoder(model, BATCH), whole, table),
        "edgers' graph, prefix shared": partial(greedy, EdgersDecoder(model, BATCH, prefix), behind, table),
        "genai's graph": partial(greedy, GroupedDecoder(sessions["defaults"], BATCH), whole, table),
        "genai's graph, edgers' session options": partial(
            greedy, GroupedDecoder(sessions["as edgers"], BATCH), whole, table
        ),
        "genai's own runtime (token ids)": partial(own.answers, ids),
        "concatenated": partial(greedy, ConcatenatedDecoder(sessions["concatenated"]), whole, table),
    }
    tokens = {name: list(map(tuple, loop().tolist())) for name, loop in loops.items()}
    return {
        "seconds": in_turns(loops, DECODER_ROUNDS),
        "equal": {name: _equal(found, tokens["edgers' graph"]) for name, found in tokens.items()},
        "of": BATCH,
    }


def _certificates(
    model: VisionLanguageModel, canvas: NDArray[np.float64], eager: Transformers
) -> dict[str, Any]:
    oracle = FirstToken(NEW_TOKENS, TEXT["vocab_size"])
    how = {"sigma": SIGMA, "selection": SELECTION, "samples": SAMPLES, "alpha": ALPHA}
    contenders = {
        "edgers": Certificate(model, oracle, canvas),
        "Cohen et al.": Cohen(eager, oracle, canvas, **how),
    }
    return {
        "seconds": in_turns(contenders, ROUNDS),
        "radius": {name: contender.radius for name, contender in contenders.items()},
    }


def _equal(found: Tokens, wanted: Tokens) -> int:
    """How many rows are equal, in all tokens."""
    assert {len(row) for row in (*found, *wanted)} == {NEW_TOKENS}
    return sum(a == b for a, b in zip(found, wanted, strict=True))


def main(root: Path) -> None:
    """Each number of threads in a process of its own: libraries fix theirs when they start."""
    write_graphs(write(root)[0], root / "peers")
    results = []
    for threads in sorted({1, CORES}):
        command = [sys.executable, __file__, str(root), "--threads", str(threads)]
        run = subprocess.run(command, env=environment(threads), check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(run.stdout.splitlines()[-1]))
    facts = (
        f"n = {SAMPLES}, chunks of {BATCH}, {POSITIONS} positions, {NEW_TOKENS} new tokens; {ROUNDS} rounds, "
        f"of decoders {DECODER_ROUNDS}. Certificates: {SELECTION} samples more for the class."
    )
    store("peers", results, "\n".join([facts, "", *map(report, results)]))


if __name__ == "__main__":
    if "--threads" in sys.argv:
        root = Path(sys.argv[1])
        checkpoint, bundle = write(root)
        graphs = write_graphs(checkpoint, root / "peers")
        print(json.dumps(with_threads(checkpoint, bundle, graphs, int(sys.argv[-1]))))
    else:
        with folder(sys.argv[1] if len(sys.argv) > 1 else None) as root:
            main(root)
