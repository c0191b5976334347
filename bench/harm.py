"""Harmful or harmless, by the student from scratch: python bench/harm.py. Needs the workstation side.

The labelled answers of export/edgers_export/harm, all files together, are split by the product's own `split`,
a fifth held out, with the seeds 0 to 4: answers of kinds that the student saw. Then each kind is held out
whole, and each style, which is a file. Last, texts per second of the graph in a bundle. On two cores less
than twenty minutes, nearly all of it training, one student on each core. ROUNDS comes from the environment:
so many seeds, kinds and styles; then nothing is stored.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from measure import CORES, in_turns, store

import edgers_export
from edgers import demo
from edgers.answers import StoredAnswer, read_answers
from edgers.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper
from edgers.split import split
from edgers_engines.engine import open_backend
from edgers_engines.text_classifier import TextClassifier
from edgers_export.attach import attach
from edgers_export.student import train_from_scratch

FOLDER = Path(edgers_export.__file__).parent / "harm"
STYLES = ("straight", "indirect", "mirrored", "implied")  # the first is what is ready to use
ROUNDS = int(os.environ.get("ROUNDS", "0")) or None
REPEATS = 16  # of each text, for the rate on answers that come again and again

Rows = Sequence[StoredAnswer]


@dataclass(frozen=True)
class Trial:
    """What a student learns from and what it is asked about afterwards; `styles[text]` is a text's file."""

    name: str
    known: Rows
    held_out: Rows
    styles: dict[str, str]
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """How many of the held-out answers a student got right, by style: `right[style]` is (right, all)."""

    name: str
    learned: int
    right: dict[str, tuple[int, int]]

    def of(self, *styles: str) -> tuple[int, int]:
        """Right and all in these styles together."""
        pairs = [self.right[style] for style in styles if style in self.right]
        return sum(right for right, _ in pairs), sum(count for _, count in pairs)


def examine(trial: Trial) -> Outcome:
    """Teach a student with the defaults of the product, and ask it about the held-out rows."""
    texts, labels = [row.text for row in trial.known], [row.label for row in trial.known]
    student = train_from_scratch(texts, labels, seed=trial.seed)
    best = student.logits([row.text for row in trial.held_out]).argmax(1)
    right: dict[str, tuple[int, int]] = {}
    for row, index in zip(trial.held_out, best, strict=True):
        style = trial.styles[row.text]
        done, count = right.get(style, (0, 0))
        right[style] = done + (student.classes[index] == row.label), count + 1
    print(f"  {trial.name}: {right}", flush=True)
    return Outcome(trial.name, len(trial.known), right)


def trials(rows: Rows, styles: dict[str, str]) -> dict[str, list[Trial]]:
    """Of kinds seen, a fifth of the texts held out; of kinds and of styles not seen, one held out whole."""
    seen = []
    for seed in range(5)[:ROUNDS]:
        known, held_out, _ = split(rows, seed)
        seen.append(Trial(f"seed {seed}", known, held_out, styles, seed))

    def without(names: Sequence[str], of: Callable[[StoredAnswer], str | None]) -> list[Trial]:
        return [
            Trial(
                name,
                [row for row in rows if of(row) != name],
                [row for row in rows if of(row) == name],
                styles,
            )
            for name in names[:ROUNDS]
        ]

    kinds = sorted({row.kind or "" for row in rows})
    return {
        "seen": seen,
        "unseen_kinds": without(kinds, lambda row: row.kind),
        "unseen_styles": without(STYLES, lambda row: styles[row.text]),
    }


def rates(rows: Rows) -> dict[str, float]:
    """Texts per second through a bundle's classifier: all different, and each of them REPEATS times."""
    texts = [row.text for row in rows]
    student = train_from_scratch(texts, [row.label for row in rows], epochs=1)  # as large as any other
    with tempfile.TemporaryDirectory() as folder:
        bundle = attach(demo.load_bundle(), student, "harm", texts[:256], Path(folder) / "bundle")
        *_, record = bundle.manifest.classifiers
        classifier = TextClassifier(bundle, record, open_backend())
        again = texts * REPEATS
        ways = {"unique": lambda: classifier.logits(texts), "repeated": lambda: classifier.logits(again)}
        seconds = in_turns(ways, rounds=7)
    counts = {"unique": len(texts), "repeated": len(again)}
    parameters = sum(weight.numel() for weight in student.model.parameters())
    return {
        **{name: counts[name] / statistics.median(seconds[name]) for name in counts},
        "parameters": parameters,
        "buffers": sum(buffer.numel() for buffer in student.model.buffers()),
    }


def cell(right: int, count: int) -> str:
    """Share, its two-sided 95% Clopper-Pearson interval, and the counts."""
    if not count:
        return "-"
    low = clopper_pearson_lower(right, count, 0.025).value
    high = clopper_pearson_upper(right, count, 0.025).value
    return f"{100 * right / count:.1f}% ({100 * low:.1f} to {100 * high:.1f}; {right}/{count})"


def table(outcomes: Sequence[Outcome], first: str) -> list[str]:
    """One row for each student."""
    lines = [f"| {first} | learned | {' | '.join(STYLES)} |", "|---|---:|" + "---:|" * len(STYLES)]
    for outcome in outcomes:
        cells = " | ".join(cell(*outcome.of(style)) for style in STYLES)
        lines.append(f"| {outcome.name} | {outcome.learned} | {cells} |")
    return lines


def mean_line(outcomes: Sequence[Outcome]) -> str:
    """Mean over the seeds, smallest and largest."""
    parts = []
    groups = {style: (style,) for style in STYLES}
    for name, group in {**groups, "straight, indirect and mirrored": STYLES[:3], "all": STYLES}.items():
        shares = [100 * right / count for right, count in (outcome.of(*group) for outcome in outcomes)]
        parts.append(f"{name} {np.mean(shares):.1f}% ({min(shares):.1f} to {max(shares):.1f})")
    return f"Mean over the seeds (smallest and largest): {'; '.join(parts)}."


def main() -> None:
    """Measure and store."""
    files = {style: read_answers([FOLDER / f"{style}.jsonl"]) for style in STYLES}
    rows = [row for found in files.values() for row in found]
    todo = trials(rows, {row.text: style for style, found in files.items() for row in found})
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        found = {name: pool.map(examine, group) for name, group in todo.items()}
        outcomes = {name: list(group) for name, group in found.items()}
    rate = rates(rows)
    lines = [
        "Share of held-out answers that the student calls as they are labelled, with 95% Clopper-Pearson "
        "intervals, which take answers for independent: many come in pairs, so they are somewhat narrow. "
        "Held-out sets of two seeds overlap, so the seeds are not pooled; a kind or style is held out once.",
        "",
        *(*table(outcomes["seen"], "kinds it saw"), "", mean_line(outcomes["seen"]), ""),
        *(*table(outcomes["unseen_kinds"], "kind it did not see"), ""),
        *(*table(outcomes["unseen_styles"], "style it did not see"), ""),
        f"{rate['unique']:.0f} unique texts per second in batches on {CORES} cores, {rate['repeated']:.0f} "
        f"where each comes {REPEATS} times; {rate['parameters']} parameters, {rate['buffers']} counts.",
    ]
    results: dict[str, Any] = {
        name: [{"name": o.name, "learned": o.learned, "right": o.right} for o in group]
        for name, group in outcomes.items()
    }
    store("harm", {**results, "rates": rate}, "\n".join(lines))


if __name__ == "__main__":
    main()
