"""What stopping early saves on the demo model: python bench/sequential.py. Needs the workstation side.

New scenes, one of four ambiguous. For each: is R >= 0.25 at sigma 0.5 and alpha 0.001, decided by the
sequential method, beside what a fixed n = 1000 says, of which the shares of the votes are taken too. Samples
are counted, not timed, so the machine's load does not matter. FRAMES comes from the environment; then nothing
is stored.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass

import numpy as np
from measure import store

from edgers import Certifier, demo
from edgers.certificate import Certificate
from edgers_export.demo.scenes import draw

FRAMES = int(os.environ.get("FRAMES", "60"))
SIGMA, ALPHA, TARGET, BATCH, CAP, REFERENCE = 0.5, 0.001, 0.25, 8, 400, 1000
CLEAR = 0.99


@dataclass(frozen=True)
class Row:
    """One frame: the share of the winner among the reference's votes, and both certificates."""

    share: float
    early: Certificate
    fixed: Certificate

    @property
    def fixed_says(self) -> bool:
        """Whether n = 1000 certifies the target."""
        return (self.fixed.radius or 0.0) >= TARGET


def measure() -> list[Row]:
    """Both methods on every frame."""
    bundle, rng = demo.load_bundle(), np.random.default_rng(4)
    early = Certifier(
        bundle,
        sigma=SIGMA,
        samples=CAP,
        alpha=ALPHA,
        method="sequential",
        target_radius=TARGET,
        batch_size=BATCH,
    )
    fixed = Certifier(bundle, sigma=SIGMA, samples=REFERENCE, alpha=ALPHA)
    rows = []
    for number in range(FRAMES):
        image = draw(rng, "equal gaps" if number % 4 == 3 else None).image
        both = [one.certify(image, demo.PROMPT, choices=demo.ACTIONS) for one in (early, fixed)]
        votes = both[1].votes.certification
        rows.append(Row(max(votes.values()) / max(sum(votes.values()), 1), *both))
    return rows


def table(rows: list[Row]) -> str:
    """Groups by the winner's share: samples, verdicts, agreement."""
    lines = [
        f"R >= {TARGET} at sigma {SIGMA}, alpha {ALPHA}, batches of {BATCH}, at most {CAP} samples; "
        f"{rows[0].early.n_selection or 'no'} more select the class. Beside it a fixed n = {REFERENCE}.",
        "",
        "| winner's share | frames | samples, mean (median, most) | certified | out of reach | open "
        "| fixed n certifies | verdicts agree |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, low, high in (("0.99 and more", CLEAR, 1.1), ("0.7 to 0.99", 0.7, CLEAR), ("below", -1, 0.7)):
        group = [row for row in rows if low <= row.share < high]
        if group:
            lines.append(f"| {name} | {len(group)} | {_cells(group)} |")
    return "\n".join(lines)


def _cells(group: list[Row]) -> str:
    spent = [row.early.samples_counted for row in group]
    endings = [row.early.stopped_because for row in group]
    certified = sum(row.early.certified for row in group)
    hopeless = sum("out of reach" in ending or "never certified" in ending for ending in endings)
    agree = sum(row.early.certified == row.fixed_says for row in group)
    return " | ".join(
        [
            f"{statistics.mean(spent):.1f} ({statistics.median(spent):.0f}, {max(spent)})",
            *map(str, (certified, hopeless, len(group) - certified - hopeless)),
            *map(str, (sum(row.fixed_says for row in group), agree)),
        ]
    )


def main() -> None:
    """Measure and store."""
    rows = measure()
    records = [
        {
            "share": row.share,
            "samples": row.early.samples_counted,
            "stopped_because": row.early.stopped_because,
            "certified": row.early.certified,
            "fixed_radius": row.fixed.radius,
        }
        for row in rows
    ]
    store("sequential", records, table(rows))


if __name__ == "__main__":
    main()
