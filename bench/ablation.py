"""What each switch is worth: python bench/ablation.py [FOLDER].

Every setting differs from the defaults in one thing. All settings of a workload run in turns, so each ratio
is of neighbours in time. Three workloads: the miniature (`miniature.py`) and the demo model in free text, and
the demo model with choices. None of the switches is an option of edgers: they are flipped from outside, here.
The chunk size that is the default is listed too: its distance from "as it is" is the measurement's noise.
FOLDER keeps the exported graphs for the next time. SAMPLES and ROUNDS come from the environment.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from measure import CORES, in_turns, ratio, spread, store
from miniature import PROMPT, folder, write
from numpy.typing import NDArray

from edgers import Bundle, demo
from edgers.certify import DEFAULT_BATCH_SIZE
from edgers.noise_ahead import Chunk, NoiseAhead
from edgers.oracle.base import OTHER, Oracle
from edgers.oracle.choices import Choices, choices_record
from edgers.poll import Poll
from edgers_engines.generation import _Row
from edgers_engines.image import CameraImage, prepare
from edgers_engines.noise import Stream, to_lattice
from edgers_engines.onnxruntime import OnnxRuntimeBackend
from edgers_engines.vlm import Answer, Question, VisionLanguageModel

SAMPLES = int(os.environ.get("SAMPLES", "100"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
CHECKPOINT = Path(__file__).parent.parent / "tests" / "data" / "demo-checkpoint"
Options = Any  # onnxruntime.SessionOptions


class FreeText:
    """An oracle without a constraint."""

    record = choices_record(("none",))
    constraint = failure = None

    def __init__(self, max_new_tokens: int | None) -> None:
        self.max_new_tokens = max_new_tokens

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """OTHER for all."""
        return [OTHER] * len(answers)


class WholePrompt(Question):
    """Every row prefills the tokens before the image itself."""

    def _share_prefix(self) -> None:
        prefix = self._model.embeddings(self._model.prompts.prefix)
        repeated = np.broadcast_to(prefix, (self.rows, *prefix.shape))
        self._block = np.concatenate([repeated, self._block], axis=1)
        self._before, self._prefix_length = len(prefix), 0

    def _encode(self, canvases: NDArray[np.float32]) -> None:
        features = self._model.encode(canvases)
        self._block[: len(canvases), self._before : self._before + features.shape[1]] = features


class AllRows(Question):
    """Finished rows stay in the batch until the last one is finished."""

    def _generate(self, rows: list[_Row]) -> None:
        logits = self._decode(self._block[: len(rows)], self._prefix_length)
        position = self._prefix_length + self._block.shape[1]
        active = self._advance(rows, logits)
        while active:
            logits = self._step([row.tokens[-1] if row.tokens else 0 for row in rows], position)
            position += 1
            active = self._advance(active, logits[[row.slot for row in active]])


class ToTheEnd(Choices):
    """A row goes on to its choice's end token, although a shorter text decides."""

    def _following(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        ahead = {(*choice, self._end_token)[len(tokens)] for choice in self._matching(tokens)}
        return tuple(sorted(ahead))


@dataclass(frozen=True)
class Setting:
    """The defaults, with one of them changed."""

    name: str = "as it is"
    threads: int = CORES
    options: Callable[[Options], None] | None = None
    rows: int = DEFAULT_BATCH_SIZE
    question: type[Question] = Question
    guard: bool | None = None
    noise_ahead: bool = True
    to_the_end: bool = False
    graphs: str = "bundle"


def entry(key: str, value: str) -> Callable[[Options], None]:
    """A session's config entry."""
    return lambda options: options.add_session_config_entry(key, value)


def attribute(name: str, value: Any) -> Callable[[Options], None]:  # noqa: ANN401  as many types as options
    """A session's option."""
    return lambda options: setattr(options, name, value)


def settings() -> list[Setting]:
    """All but those that only one workload has."""
    import onnxruntime as ort

    level = ort.GraphOptimizationLevel
    return [
        Setting(),
        *(Setting(f"threads {threads}", threads=threads) for threads in range(1, CORES)),
        Setting("memory arena on", options=attribute("enable_cpu_mem_arena", True)),
        Setting("memory pattern off", options=attribute("enable_mem_pattern", False)),
        Setting("spinning on", options=entry("session.intra_op.allow_spinning", "1")),
        Setting("prepacking off", options=entry("session.disable_prepacking", "1")),
        Setting("denormals flushed", options=entry("session.set_denormal_as_zero", "1")),
        Setting(
            "graph optimization off", options=attribute("graph_optimization_level", level.ORT_DISABLE_ALL)
        ),
        Setting(
            "graph optimization basic", options=attribute("graph_optimization_level", level.ORT_ENABLE_BASIC)
        ),
        *(Setting(f"chunks of {rows}", rows=rows) for rows in (8, 16, 25, 32, 50, 100)),
        Setting("prefix not shared", question=WholePrompt),
        Setting("finished rows stay", question=AllRows),
        Setting("noise not ahead", noise_ahead=False),
        Setting("last layer whole, all logits", graphs="all logits"),
        Setting("last layer whole", graphs="whole last layer"),
        Setting("norms and rotations written out", graphs="written out"),
        Setting("pixels normalised one by one", graphs="pixels normalised one by one"),
    ]


@dataclass
class Workload:
    """One model, prompt and way to answer."""

    name: str
    root: Path
    prompt: str
    canvas: NDArray[np.float64]
    choices: tuple[str, ...] | None = None
    models: dict[tuple[Any, ...], VisionLanguageModel] = field(default_factory=dict)

    def settings(self) -> list[Setting]:
        """What can be switched here."""
        guard = self.choices is not None
        more = [Setting("margin guard off" if guard else "margin guard on", guard=not guard)]
        return settings() + more + ([Setting("no early end", to_the_end=True)] if guard else [])

    def run(self, setting: Setting) -> None:
        """One poll of SAMPLES samples."""
        key = (setting.threads, setting.options, setting.graphs)
        if key not in self.models:
            bundle = Bundle.load(self.root / setting.graphs)
            self.models[key] = VisionLanguageModel(bundle, Changed(setting))
        model = self.models[key]
        oracle = self._oracle(model, setting)
        question = setting.question(
            model,
            self.prompt,
            rows=min(setting.rows, SAMPLES),
            constraint=oracle.constraint,
            guard=bool(self.choices) if setting.guard is None else setting.guard,
            max_new_tokens=oracle.max_new_tokens,
        )
        poll = Poll(question, oracle, self.canvas, sigma=0.25, seed=1, progress=lambda _samples: None)
        with ExitStack() as stack:
            if not setting.noise_ahead:
                stack.enter_context(mock.patch.object(NoiseAhead, "take", _take_now))
            poll.count(Stream.CERTIFICATION, SAMPLES)

    def _oracle(self, model: VisionLanguageModel, setting: Setting) -> Oracle:
        if self.choices is None:
            return FreeText(None)
        end = model.bundle.manifest.decoding.end_tokens[0]
        return (ToTheEnd if setting.to_the_end else Choices)(self.choices, self.prompt, model.prompts, end)


class Changed(OnnxRuntimeBackend):
    """ONNX Runtime with one of its options changed."""

    def __init__(self, setting: Setting) -> None:
        super().__init__("cpu", setting.threads)
        self._change = setting.options

    def _session_options(self, weights: Path) -> Options:
        options = super()._session_options(weights)
        if self._change is not None:
            self._change(options)
        return options


_take = NoiseAhead.take


def _take_now(noise: NoiseAhead, chunk: Chunk, _following: Chunk | None) -> NDArray[np.float32]:
    return _take(noise, chunk, None)


def export_variants(checkpoint: Path, root: Path) -> None:
    """The decoder's graph as it would be without each of the exporter's savings."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

    from edgers_export import lean, llava
    from edgers_export.bundle import export_bundle

    every_position = (lean, "_last_position", lambda _module, inputs: inputs)
    variants: dict[str, tuple[tuple[Any, str, Any], ...]] = {
        "bundle": (),
        "whole last layer": (every_position,),
        "all logits": (every_position, (llava.Decoder, "forward", _all_logits)),
        "pixels normalised one by one": ((llava, "normalising", nullcontext),),
        "written out": ((lean, "_rms_norm", LlamaRMSNorm.forward), (lean, "_rotate", apply_rotary_pos_emb)),
    }
    for name, patches in variants.items():
        if not (root / name).exists():
            with ExitStack() as stack:
                for patch in patches:
                    stack.enter_context(mock.patch.object(*patch))
                export_bundle(checkpoint, root / name, max_new_tokens=8)


def _all_logits(decoder: Any, embeddings: Any, write_index: Any, mask: Any, past: Any) -> Any:  # noqa: ANN401
    """`edgers_export.llava.Decoder.forward`, with the head before the choice of the last position."""
    import torch

    from edgers_export import attention

    positions = write_index[:, None] + torch.arange(embeddings.shape[1])[None]
    with attention.tracing(attention.CacheTrace(past, write_index, mask)) as trace:
        hidden = decoder.language_model(
            inputs_embeds=embeddings, position_ids=positions, use_cache=False, attention_mask=None
        ).last_hidden_state
    return decoder.head(hidden)[:, -1].float(), *(trace.present[i] for i in range(len(past)))


def tables(workload: Workload, seconds: dict[str, list[float]]) -> str:
    """One workload's results for people."""
    lines = [f"## {workload.name}", "", "| setting | s | times as long as it is |", "|---|---|---|"]
    for name, values in seconds.items():
        middle, low, high = ratio(values, seconds["as it is"])
        lines.append(f"| {name} | {spread(values)} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join([*lines, ""])


def main(root: Path) -> None:
    """Run every setting of every workload."""
    import onnxruntime as ort

    checkpoint, _ = write(root)
    export_variants(checkpoint, root)
    export_variants(CHECKPOINT, root / "demo")
    frame = CameraImage.of(demo.frames()[0])
    steps = demo.load_bundle().manifest.preparation
    canvas = to_lattice(prepare(frame, steps))
    noise = to_lattice(np.random.default_rng(0).random((3, 112, 112)))
    ort.set_default_logger_severity(3)  # it would warn of every option that is set a second time
    workloads = [
        Workload("demo model, choices", root / "demo", demo.PROMPT, canvas, demo.ACTIONS),
        Workload("demo model, free text", root / "demo", demo.PROMPT, canvas),
        Workload("miniature, free text of 8 tokens", root, PROMPT, noise),
    ]
    results, texts = (
        {},
        [f"n = {SAMPLES}, {ROUNDS} rounds, {CORES} threads, chunks of {DEFAULT_BATCH_SIZE}.\n"],
    )
    for workload in workloads:
        start = time.perf_counter()
        runs = {setting.name: lambda s=setting, w=workload: w.run(s) for setting in workload.settings()}
        results[workload.name] = in_turns(runs, ROUNDS)
        workload.models.clear()
        texts.append(tables(workload, results[workload.name]))
        print(f"{workload.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    store("ablation", results, "\n".join(texts))


if __name__ == "__main__":
    with folder(sys.argv[1] if len(sys.argv) > 1 else None) as root:
        main(root)
