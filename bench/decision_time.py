"""Time to a certified decision against the plain way: python bench/decision_time.py [FOLDER] [THREADS].

Needs the workstation side. Is R >= 0.25 at sigma 0.5 and alpha 0.001? Frames of which a reference, not timed,
gives the winner a share of 0.99 or more: new scenes for the demo model and, where FOLDER keeps the miniature
(`miniature.py`), others for it. From decoded RGB to the verdict, selection counted on both sides, in turns,
frame by frame:

  edgers      the method sequential with its defaults: held to the choices, and in free text read by rules,
              until its class is settled. No sample only selects: the class leads the votes, at half of alpha.
              On the demo model the same with a selection too: what another default would cost.
  generate    transformers' `generate`, eager, with torch's normal noise: as many samples to select by,
              n = 100, Clopper and Pearson's radius (`plain.py`). For choices one new token held to them
              (`prefix_allowed_tokens_fn`). Where every choice is the first word of free text, as on the demo
              model, in two ways more: one new token held to nothing, and free text; all are sound. Each takes
              the batch size that is fastest for it, all samples in one batch among them. What is cut at the
              first word stands beside the free text too: it is what stopping there saves the plain way.

Targets are judged against the fastest baseline that answers in the same way. The demo model is so light that
drawing noise takes a third of the processor's time; the miniature, of 37 million parameters, is nearer to
what is certified on a device. The miniature's free text is read by its last word, so that none ends early.

All are held to THREADS cores and threads, all cores unless given. With more than one, neighbours spoil the
ratios: torch's threads, which wait for each other, suffer more from them than ONNX Runtime's. FRAMES comes
from the environment; then nothing is stored.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from measure import CORES, FrameByFrame, in_turns, ratio, store
from plain import ALPHA, SIGMA, TARGET, Generate, Pixels, Verdict
from scipy.stats import binom
from workloads import CHOICES, FREE_TEXT, Workload, scenes_for_the_miniature, scenes_of_the_demo

from edgers import Certifier
from edgers.certify import DEFAULT_LOOK, DEFAULT_SELECTION
from edgers.smoothing.planning import Target, make_plans
from edgers_engines.engine import open_backend

CAP = 400
TARGETS = {CHOICES: 6, FREE_TEXT: 4}
Seconds = dict[str, list[float]]  # of every contender, frame by frame
Verdicts = dict[str, list[Verdict]]


class Edgers:
    """The sequential method with so many samples to select by."""

    def __init__(self, workload: Workload, way: str, selection: int, threads: int) -> None:
        self._prompt, self._how = workload.prompt, workload.ways[way]
        self._certifier = Certifier(
            workload.bundle,
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
        made = self._certifier.certify(image, self._prompt, **self._how)
        return Verdict(made.label, made.certified, made.samples_spent)


def ours(way: str, selection: int = 0) -> str:
    """The name of one of edgers' contenders."""
    return f"edgers, {way}" + (f", n0 = {selection}" if selection else "")


def table(workload: Workload, seconds: Seconds, verdicts: Verdicts) -> str:
    """Times, ratios to edgers in the same way, verdicts, samples."""
    lines = [
        "| contender | ms, median (p10 to p90) | samples, mean | certified | times as long as edgers: median "
        "(95% interval), p10 to p90 | same verdict as edgers |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for way, baselines in workload.against.items():
        for name in (ours(way), *baselines, *workload.beside.get(way, ())):
            spent, said = seconds[name], verdicts[name]
            same = sum(
                (a.label, a.certified) == (b.label, b.certified)
                for a, b in zip(said, verdicts[ours(way)], strict=True)
            )
            p10, p90 = np.quantile(spent, [0.1, 0.9]) * 1000
            plain = workload.baselines.get(name)
            batch = f", batches of {plain.batch}" if plain else ""
            lines.append(
                f"| {name}{batch} | {1000 * statistics.median(spent):.0f} ({p10:.0f} to {p90:.0f}) "
                f"| {statistics.mean(each.samples for each in said):.1f} "
                f"| {sum(each.certified for each in said)} of {len(said)} "
                f"| {_ratio(spent, seconds[ours(way)])} | {same} |"
            )
    return "\n".join([*lines, "", *(verdict(workload, way, seconds, verdicts) for way in workload.ways)])


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    middle, low, high = ratio(slow, fast)
    p10, p90 = np.quantile(np.array(slow) / np.array(fast), [0.1, 0.9])
    return f"{middle:.2f} ({low:.2f} to {high:.2f}), {p10:.2f} to {p90:.2f}"


def verdict(workload: Workload, way: str, seconds: Seconds, verdicts: Verdicts) -> str:
    """One target, against the fastest baseline, and how much of it is fewer samples."""
    name = min(workload.against[way], key=lambda each: statistics.median(seconds[each]))
    middle, low, high = ratio(seconds[name], seconds[ours(way)])
    plain, mine = (statistics.mean(one.samples for one in verdicts[each]) for each in (name, ours(way)))
    met = "met" if middle >= TARGETS[way] else "missed"
    return (
        f"- {way}: {middle:.2f} times as fast ({low:.2f} to {high:.2f}) as the fastest baseline, {name}: "
        f"{plain / mine:.2f} by fewer samples, {middle * mine / plain:.2f} by each one's time. "
        f"Target {TARGETS[way]}: {met}."
    )


def selections(workload: Workload, seconds: Seconds) -> str:
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
    for selection in workload.selections:
        level = ALPHA if selection else ALPHA / 2
        target = Target(sigma=SIGMA, target_radius=TARGET, alpha=level, batch=DEFAULT_LOOK, cap=CAP)
        plans = [plan.sequential for plan in make_plans(target, shares)]
        wrong = ", ".join(f"{binom.cdf(selection // 2, selection, p):.2g}" for p in shares if selection)
        samples = ", ".join(f"{selection + plan.expected_samples:.0f}" for plan in plans)
        times = " | ".join(_ratio(seconds[ours(way, selection)], seconds[ours(way)]) for way in TARGETS)
        lines.append(f"| {selection} | {wrong or 'none'} | {samples} | {times} |")
    return "\n".join(lines)


def decide(workload: Workload, threads: int) -> tuple[Seconds, Verdicts]:
    """All contenders, frame by frame."""
    mine = {
        ours(way, n0): Edgers(workload, way, n0, threads)
        for way in workload.ways
        for n0 in workload.selections
    }
    contenders: dict[str, Generate | Edgers] = {**workload.baselines, **mine}
    turns = {name: FrameByFrame(each, workload.frames) for name, each in contenders.items()}
    seconds = in_turns(turns, len(workload.frames))
    return seconds, {name: turn.results for name, turn in turns.items()}


def section(workload: Workload, seconds: Seconds, verdicts: Verdicts) -> str:
    """One model's tables."""
    found = f"{len(workload.frames)} frames, {workload.found}."
    parts = [f"## {workload.name}", found, table(workload, seconds, verdicts)]
    if len(workload.selections) > 1:
        parts.append(selections(workload, seconds))
    return "\n\n".join(parts)


def raw(workload: Workload, seconds: Seconds, verdicts: Verdicts) -> dict[str, Any]:
    """One model's numbers, to be stored."""
    return {
        "batches": {name: each.batch for name, each in workload.baselines.items()},
        "seconds": seconds,
        "verdicts": {name: [asdict(one) for one in said] for name, said in verdicts.items()},
    }


def main(root: Path | None, threads: int) -> None:
    """Measure and store."""
    import torch

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    workloads = [scenes_of_the_demo(), *([scenes_for_the_miniature(root)] if root else [])]
    decided = {each: decide(each, threads) for each in workloads}
    facts = (
        f"R >= {TARGET} at sigma {SIGMA}, alpha {ALPHA}. By `generate`, {DEFAULT_SELECTION} samples select "
        f"the class. Threads: {threads}."
    )
    results = {each.name: raw(each, *of) for each, of in decided.items()}
    store(
        "decision_time", results, "\n\n".join([facts, *(section(each, *of) for each, of in decided.items())])
    )


if __name__ == "__main__":
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else CORES
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None, threads)
