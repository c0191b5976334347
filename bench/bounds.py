"""Bounds per second: python bench/bounds.py.

A million pairs (k, n) at once against the target of one second, and one pair at a time beside it. Wall time
is the median of ROUNDS; processor time is what one core alone would take.
"""

from __future__ import annotations

import os
import platform
import statistics
import time

import numpy as np
import scipy

from edgers.smoothing.bounds import clopper_pearson_lower, clopper_pearson_lower_many

PAIRS, ALPHA, ROUNDS, TARGET_SECONDS = 10**6, 0.001, 5, 1.0


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Votes and samples: of one n, of every n up to 10^4, and of n spread evenly in its logarithm to 10^7."""
    rng = np.random.default_rng(4)
    shares = rng.uniform(size=PAIRS)
    samples = {
        "n = 1000": np.full(PAIRS, 1000),
        "n up to 10^4": rng.integers(1, 10**4 + 1, PAIRS),
        "n up to 10^7, log-uniform": (10 ** rng.uniform(0, 7, PAIRS)).astype(np.int64),
    }
    return {name: (np.floor(shares * (n + 1)).astype(np.int64), n) for name, n in samples.items()}


def main() -> None:
    """Print the table."""
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.machine()}, {cores} cores, numpy {np.__version__}, scipy {scipy.__version__}")
    for name, (votes, samples) in pairs().items():
        walls, processor = [], []
        for _ in range(ROUNDS):
            wall, cpu = time.perf_counter(), time.process_time()
            clopper_pearson_lower_many(votes, samples, ALPHA)
            walls.append(time.perf_counter() - wall)
            processor.append(time.process_time() - cpu)
        seconds = statistics.median(walls)
        print(
            f"{name:28} {PAIRS / seconds:12,.0f} pairs/s: "
            f"{seconds:.2f} s ({min(walls):.2f} to {max(walls):.2f}, processor "
            f"{statistics.median(processor):.2f}) for 10^6, target {TARGET_SECONDS:g} s"
        )
    start = time.perf_counter()
    for k, n in zip(votes[: 10**4].tolist(), samples[: 10**4].tolist(), strict=True):
        clopper_pearson_lower(k, n, ALPHA)
    print(f"{'the last, one at a time':28} {10**4 / (time.perf_counter() - start):12,.0f} pairs/s")


if __name__ == "__main__":
    main()
