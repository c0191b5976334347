"""Harmful or harmless, by the student from scratch: python bench/harm.py. Needs the workstation side.

The labelled answers of export/edgers_export/harm, all five files together, are split by the product's own
`split`, a fifth held out, with the seeds 0 to 4: answers of kinds that the student saw. Then each kind is
held out whole, and each of two styles. Last, texts per second of the graph in a bundle. On one core about
a quarter of an hour, nearly all of it training. ROUNDS comes from the environment: so many seeds, kinds and
styles; then nothing is stored.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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
from edgers_export.student import Student, train_from_scratch

FOLDER = Path(edgers_export.__file__).parent / "harm"
READY, HARDER = ("plain", "verdicts", "mirrored"), ("further", "implied")
STYLES = ("mirrored", *HARDER)
ROUNDS = int(os.environ.get("ROUNDS", "0")) or None
REPEATS = 16  # of each text, for the rate on answers that come again and again

Rows = Sequence[StoredAnswer]


@dataclass(frozen=True)
class Outcome:
    """How many of the held-out answers a student got right, by file; `right[file]` is (right, all)."""

    name: str
    learned: int
    right: dict[str, tuple[int, int]]

    def of(self, *files: str) -> tuple[int, int]:
        """Right and all in these files together."""
        pairs = [self.right[file] for file in files if file in self.right]
        return sum(right for right, _ in pairs), sum(count for _, count in pairs)


def read() -> dict[str, list[StoredAnswer]]:
    """The rows of each file."""
    return {name: read_answers([FOLDER / f"{name}.jsonl"]) for name in (*READY, *HARDER)}


def learn(rows: Rows, seed: int = 0) -> Student:
    """A student with the defaults of the product."""
    return train_from_scratch([row.text for row in rows], [row.label for row in rows], seed=seed)


def examine(name: str, student: Student, learned: int, rows: Rows, files: dict[str, str]) -> Outcome:
    """Ask it about held-out rows."""
    best = student.logits([row.text for row in rows]).argmax(1)
    right: dict[str, tuple[int, int]] = {}
    for row, index in zip(rows, best, strict=True):
        done, count = right.get(files[row.text], (0, 0))
        right[files[row.text]] = done + (student.classes[index] == row.label), count + 1
    print(f"  {name}: {right}", flush=True)
    return Outcome(name, learned, right)


def seen_kinds(rows: Rows, files: dict[str, str]) -> list[Outcome]:
    """A fifth of the texts held out, of every kind."""
    outcomes = []
    for seed in range(5)[:ROUNDS]:
        known, held_out, _ = split(rows, seed)
        outcomes.append(examine(f"seed {seed}", learn(known, seed), len(known), held_out, files))
    return outcomes


def unseen_kinds(rows: Rows, files: dict[str, str]) -> list[Outcome]:
    """One kind held out whole."""
    outcomes = []
    for kind in sorted({row.kind or "" for row in rows})[:ROUNDS]:
        known = [row for row in rows if row.kind != kind]
        held_out = [row for row in rows if row.kind == kind]
        outcomes.append(examine(kind, learn(known), len(known), held_out, files))
    return outcomes


def unseen_styles(rows: Rows, files: dict[str, str]) -> list[Outcome]:
    """One file held out whole; its kinds are known from the others."""
    outcomes = []
    for style in STYLES[:ROUNDS]:
        known = [row for row in rows if files[row.text] != style]
        held_out = [row for row in rows if files[row.text] == style]
        outcomes.append(examine(style, learn(known), len(known), held_out, files))
    return outcomes


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
    """One row each: the ready-to-use set, its files, and those that are harder."""
    groups = (READY, *((name,) for name in (*READY, *HARDER)))
    lines = [
        f"| {first} | learned | ready to use | {' | '.join((*READY, *HARDER))} |",
        "|---|---:|" + "---:|" * len(groups),
    ]
    for outcome in outcomes:
        cells = " | ".join(cell(*outcome.of(*group)) for group in groups)
        lines.append(f"| {outcome.name} | {outcome.learned} | {cells} |")
    return lines


def mean_line(outcomes: Sequence[Outcome]) -> str:
    """Mean over the seeds, smallest and largest."""
    parts = []
    for name, group in {
        "ready to use": READY,
        **{name: (name,) for name in HARDER},
        "all": (*READY, *HARDER),
    }.items():
        shares = [100 * right / count for right, count in (outcome.of(*group) for outcome in outcomes)]
        parts.append(f"{name} {np.mean(shares):.1f}% ({min(shares):.1f} to {max(shares):.1f})")
    return f"Mean over the seeds (smallest and largest): {'; '.join(parts)}."


def main() -> None:
    """Measure and store."""
    files_of = read()
    files = {row.text: name for name, rows in files_of.items() for row in rows}
    rows = [row for found in files_of.values() for row in found]
    seen, kinds, styles = (measure(rows, files) for measure in (seen_kinds, unseen_kinds, unseen_styles))
    rate = rates(rows)
    lines = [
        "Share of held-out answers that the student calls as they are labelled, with 95% Clopper-Pearson "
        "intervals. Held-out sets of two seeds overlap, so the seeds are not pooled.",
        "",
        *(*table(seen, "kinds it saw"), "", mean_line(seen), ""),
        *(*table(kinds, "kind it did not see"), ""),
        *(*table(styles, "style it did not see"), ""),
        f"{rate['unique']:.0f} unique texts per second in batches on {CORES} cores, {rate['repeated']:.0f} "
        f"where each comes {REPEATS} times; {rate['parameters']} parameters, {rate['buffers']} counts.",
    ]
    results: dict[str, Any] = {
        name: [{"name": o.name, "learned": o.learned, "right": o.right} for o in outcomes]
        for name, outcomes in {"seen": seen, "unseen_kinds": kinds, "unseen_styles": styles}.items()
    }
    store("harm", {**results, "rates": rate}, "\n".join(lines))


if __name__ == "__main__":
    main()
