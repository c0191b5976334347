"""Time to a certified decision against the plain way: python bench/decision_time.py [THREADS].

Needs the workstation side. Is R >= 0.25 at sigma 0.5 and alpha 0.001? Demo model, new scenes of which a
reference of n = 1000, not timed, gives the winner a share of 0.99 or more, held to the choices and in free
text. From decoded RGB to the verdict, selection counted on both sides, in turns, frame by frame:

  edgers      the method sequential with its defaults: held to the choices, and in free text read by the
              bundle's oracle, until its class is settled. No sample only selects: the class leads the votes,
              at half of alpha. The same with a selection: what another default would cost.
  generate    transformers' `generate`, eager, with torch's normal noise: as many samples to select by,
              n = 100, Clopper and Pearson's radius. A text's class is its first word, as the oracle's rules
              have it. For choices in two ways more: one new token held to them (`prefix_allowed_tokens_fn`),
              and one new token held to nothing, since every choice is one word; all are sound. Each takes
              the batch size that is fastest for it, all samples in one batch among them. What is cut at the
              first word stands beside the free text too: it is what stopping there saves the plain way.

Targets are judged against the fastest baseline that answers in the same way. All are held to THREADS cores
and threads, all cores unless given. With more than one, neighbours spoil the ratios: torch's threads, which
wait for each other, suffer more from them than ONNX Runtime's. FRAMES comes from the environment; then
nothing is stored.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import CORES, FrameByFrame, in_turns, ratio, store
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri
from scipy.stats import binom

from edgers import Certifier, demo
from edgers.certify import DEFAULT_LOOK, DEFAULT_SELECTION
from edgers.oracle.base import OTHER
from edgers.smoothing.planning import Target, make_plans
from edgers_engines.engine import open_backend
from edgers_export.demo.scenes import draw

FRAMES = int(os.environ.get("FRAMES", "40"))
SIGMA, ALPHA, TARGET, CAP, FIXED, REFERENCE, CLEAR = 0.5, 0.001, 0.25, 400, 100, 1000, 0.99
CHECKPOINT = Path(__file__).parent.parent / "tests" / "data" / "demo-checkpoint"
ORACLE = "action"
WAYS: dict[str, dict[str, Any]] = {"choices": {"choices": demo.ACTIONS}, "free text": {"oracle": ORACLE}}
TARGETS = {"choices": 6, "free text": 4}
SELECTIONS = (0, 8, DEFAULT_SELECTION)
BATCHES = (25, 32, 58, FIXED + DEFAULT_SELECTION)
HELD, CUT, FREE = (
    "generate, held to the choices",
    "generate, cut at the first word",
    "generate, free text",
)
BASELINES = {"choices": (HELD, CUT, FREE), "free text": (FREE,)}
BESIDE = {"choices": (), "free text": (CUT,)}
Pixels = NDArray[np.uint8]
Seconds = dict[str, list[float]]  # of every contender, frame by frame


@dataclass(frozen=True)
class Verdict:
    """A label, whether R >= TARGET is certified for it, and the samples spent, selection included."""

    label: str
    certified: bool
    samples: int


Verdicts = dict[str, list[Verdict]]


class Generate:
    """The plain way.

    Args:
        new_tokens: the longest answer.
        held: to the choices, or to nothing.
    """

    def __init__(self, new_tokens: int, *, held: bool) -> None:
        import torch
        from transformers import AutoTokenizer, GenerationConfig, LlavaForConditionalGeneration

        self._model: Any = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT).eval()
        tokenizer: Any = AutoTokenizer.from_pretrained(CHECKPOINT)
        content = [{"type": "image"}, {"type": "text", "text": demo.PROMPT}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        image = tokenizer.image_token
        ids = tokenizer(text.replace(image, image * self._model.config.image_seq_length)).input_ids
        self._ids = torch.tensor([ids])
        self._classes = {tokenizer.convert_tokens_to_ids(name): name for name in demo.ACTIONS}
        choices = list(self._classes)
        self._held = {"prefix_allowed_tokens_fn": lambda _row, _ids: choices} if held else {}
        self._settings = GenerationConfig(
            max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, bos_token_id=1, eos_token_id=2
        )
        self.batch = BATCHES[-1]

    def __call__(self, image: Pixels, batch: int | None = None) -> Verdict:
        """Select by the first samples, certify by the others."""
        import torch

        canvas, labels = torch.from_numpy(image).permute(2, 0, 1) / 255, []
        total = DEFAULT_SELECTION + FIXED
        with torch.inference_mode():
            for first in range(0, total, batch or self.batch):
                rows = min(batch or self.batch, total - first)
                labels += self._labels(canvas + SIGMA * torch.randn(rows, *canvas.shape))
        label = Counter(labels[:DEFAULT_SELECTION]).most_common(1)[0][0]
        votes = labels[DEFAULT_SELECTION:].count(label)
        radius = SIGMA * ndtri(betaincinv(votes, FIXED - votes + 1, ALPHA)) if votes else 0.0
        return Verdict(label, bool(radius >= TARGET) and label != OTHER, total)

    def _labels(self, canvases: Any) -> list[str]:  # noqa: ANN401  a tensor
        import torch

        ids = self._ids.expand(len(canvases), -1)
        out = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=(canvases - 0.5) / 0.5,
            generation_config=self._settings,
            **self._held,
        )
        return [self._classes.get(token, OTHER) for token in out[:, ids.shape[1]].tolist()]

    def tune(self, image: Pixels) -> None:
        """Take the fastest batch size."""
        seconds = in_turns({str(batch): partial(self, image, batch) for batch in BATCHES}, min(5, FRAMES))
        self.batch = int(min(seconds, key=lambda name: statistics.median(seconds[name])))


class Edgers:
    """The sequential method with so many samples to select by."""

    def __init__(self, way: str, selection: int, threads: int) -> None:
        self._how = WAYS[way]
        self._certifier = Certifier(
            demo.load_bundle(),
            sigma=SIGMA,
            samples=CAP,
            alpha=ALPHA,
            method="sequential",
            target_radius=TARGET,
            selection=selection,
            backend=open_backend(threads=threads),
        )

    def __call__(self, image: Pixels) -> Verdict:
        """One certificate."""
        made = self._certifier.certify(image, demo.PROMPT, **self._how)
        return Verdict(made.label, made.certified, made.samples_spent)


def clear_frames() -> tuple[list[Pixels], int]:
    """FRAMES scenes whose winner has the share CLEAR in both ways, and how many were drawn to find them."""
    rng, reference = np.random.default_rng(6), Certifier(demo.load_bundle(), sigma=SIGMA, samples=REFERENCE)

    def share(image: Pixels, how: dict[str, Any]) -> float:
        votes = reference.certify(image, demo.PROMPT, **how).votes.certification
        return votes[max(demo.ACTIONS, key=lambda name: votes[name])] / REFERENCE

    found: list[Pixels] = []
    drawn = 0
    while len(found) < FRAMES:
        image, drawn = draw(rng).image, drawn + 1
        if all(share(image, how) >= CLEAR for how in WAYS.values()):
            found.append(image)
    return found, drawn


def ours(way: str, selection: int = 0) -> str:
    """The name of one of edgers' contenders."""
    return f"edgers, {way}" + (f", n0 = {selection}" if selection else "")


def contenders(image: Pixels, threads: int) -> dict[str, Generate | Edgers]:
    """All of them, the baselines at their fastest batch size."""
    longest = demo.load_bundle().manifest.decoding.max_new_tokens
    baselines = {
        HELD: Generate(1, held=True),
        CUT: Generate(1, held=False),
        FREE: Generate(longest, held=False),
    }
    for each in baselines.values():
        each.tune(image)
    mine = {ours(way, n0): Edgers(way, n0, threads) for way in WAYS for n0 in SELECTIONS}
    return {**baselines, **mine}


def table(seconds: Seconds, verdicts: Verdicts, batches: dict[str, int]) -> str:
    """Times, ratios to edgers in the same way, verdicts, samples."""
    lines = [
        "| contender | ms, median (p10 to p90) | samples, mean | certified | times as long as edgers: median "
        "(95% interval), p10 to p90 | same verdict as edgers |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for way in WAYS:
        for name in (ours(way), *BASELINES[way], *BESIDE[way]):
            spent, said = seconds[name], verdicts[name]
            same = sum(
                (a.label, a.certified) == (b.label, b.certified)
                for a, b in zip(said, verdicts[ours(way)], strict=True)
            )
            p10, p90 = np.quantile(spent, [0.1, 0.9]) * 1000
            batch = f", batches of {batches[name]}" if name in batches else ""
            lines.append(
                f"| {name}{batch} | {1000 * statistics.median(spent):.0f} ({p10:.0f} to {p90:.0f}) "
                f"| {statistics.mean(each.samples for each in said):.1f} "
                f"| {sum(each.certified for each in said)} of {len(said)} "
                f"| {_ratio(spent, seconds[ours(way)])} | {same} |"
            )
    return "\n".join([*lines, "", *(verdict(way, seconds, verdicts) for way in WAYS)])


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    middle, low, high = ratio(slow, fast)
    p10, p90 = np.quantile(np.array(slow) / np.array(fast), [0.1, 0.9])
    return f"{middle:.2f} ({low:.2f} to {high:.2f}), {p10:.2f} to {p90:.2f}"


def verdict(way: str, seconds: Seconds, verdicts: Verdicts) -> str:
    """One target, against the fastest baseline, and how much of it is fewer samples."""
    name = min(BASELINES[way], key=lambda each: statistics.median(seconds[each]))
    middle, low, high = ratio(seconds[name], seconds[ours(way)])
    plain, mine = (statistics.mean(one.samples for one in verdicts[each]) for each in (name, ours(way)))
    met = "met" if middle >= TARGETS[way] else "missed"
    return (
        f"- {way}: {middle:.2f} times as fast ({low:.2f} to {high:.2f}) as the fastest baseline, {name}: "
        f"{plain / mine:.2f} by fewer samples, {middle * mine / plain:.2f} by each one's time. "
        f"Target {TARGETS[way]}: {met}."
    )


def selections(seconds: Seconds) -> str:
    """What samples to select by cost, and how often they choose wrongly."""
    shares = (0.99, 0.95, 0.9, 0.8)
    lines = [
        "Samples to select by (n0); none is the default. A wrong choice is an abstention, never a wrong "
        "certificate. Its probability is the most it can be: all other votes are one rival's, who wins ties. "
        "Samples: n0 and those that certify, exact means. Times: of the frames above.",
        "",
        f"| n0 | wrong choice at p = {', '.join(map(str, shares))} | samples at these p "
        "| choices, of n0's default | free text, of n0's default |",
        "|---:|---|---|---|---|",
    ]
    for selection in SELECTIONS:
        level = ALPHA if selection else ALPHA / 2
        target = Target(sigma=SIGMA, target_radius=TARGET, alpha=level, batch=DEFAULT_LOOK, cap=CAP)
        plans = [plan.sequential for plan in make_plans(target, shares)]
        wrong = ", ".join(f"{binom.cdf(selection // 2, selection, p):.2g}" for p in shares if selection)
        samples = ", ".join(f"{selection + plan.expected_samples:.0f}" for plan in plans)
        times = " | ".join(_ratio(seconds[ours(way, selection)], seconds[ours(way)]) for way in WAYS)
        lines.append(f"| {selection} | {wrong or 'none'} | {samples} | {times} |")
    return "\n".join(lines)


def main(threads: int) -> None:
    """Measure and store."""
    import torch

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    frames, drawn = clear_frames()
    each = contenders(frames[0], threads)
    turns = {name: FrameByFrame(contender, frames) for name, contender in each.items()}
    seconds = in_turns(turns, len(frames))
    verdicts = {name: turn.results for name, turn in turns.items()}
    batches = {name: one.batch for name, one in each.items() if isinstance(one, Generate)}
    facts = (
        f"R >= {TARGET} at sigma {SIGMA}, alpha {ALPHA}; {len(frames)} frames, the clear ones of {drawn} "
        f"drawn. By `generate`, {DEFAULT_SELECTION} samples select the class. Threads: {threads}."
    )
    results = {
        "batches": batches,
        "seconds": seconds,
        "verdicts": {name: [asdict(one) for one in said] for name, said in verdicts.items()},
    }
    tables = [facts, "", table(seconds, verdicts, batches), "", selections(seconds)]
    store("decision_time", results, "\n".join(tables))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else CORES)
