"""What deciding costs, and how many samples it saves: python bench/decisions.py.

First the time of 4,000 decisions, one after each sample, in three ways; the target is 50 ms in all. Then the
expected samples of each rule, exactly, at alpha = .001 and sigma = .5 with a cap of 4,000: the mixture test
looking at every sample and at every eighth, alpha-spending at every eighth, and the fixed n that certifies
with probability .99, beside Wald's lower bound. ROUNDS comes from the environment.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from edgers.smoothing.batched import spending_boundary
from edgers.smoothing.sequential import MixtureTest, anytime_lower
from edgers.smoothing.stopping import (
    Decision,
    even_looks,
    fixed_boundary,
    least_expected_samples,
    operating_characteristics,
    size,
)

ROUNDS = int(os.environ.get("ROUNDS", "7"))
ALPHA, SIGMA, CAP, BATCH = 0.001, 0.5, 4000, 8
TARGET_MS = 50
QUESTIONS = {0.25: (0.5, 0.8, 0.9, 0.95, 0.99, 1.0), 0.5: (0.5, 0.95, 0.99, 1.0), 0.75: (0.5, 0.99, 1.0)}


def votes(p: float) -> list[int]:
    """The votes after each of CAP samples, at random."""
    return np.cumsum(np.random.default_rng(0).random(CAP) < p).tolist()


def by_boundary(p0: float, counted: list[int]) -> None:
    """The boundary is computed first, within the time."""
    rule = MixtureTest(p0, ALPHA).boundary(even_looks(CAP, 1))
    for samples, k in enumerate(counted, 1):
        rule.decide(k, samples)


def by_test(p0: float, counted: list[int]) -> None:
    """Each decision computes its own evidence."""
    test = MixtureTest(p0, ALPHA)
    for samples, k in enumerate(counted, 1):
        test.certifies(k, samples)


def milliseconds(work: Callable[[], object]) -> str:
    """Median, smallest and largest of ROUNDS after a warm-up."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        seconds.append(1000 * (time.perf_counter() - start))
    kept = seconds[1:]
    return f"{statistics.median(kept):8.2f} ms ({min(kept):.2f} to {max(kept):.2f})"


def fixed_samples(p0: float, p: float) -> int | None:
    """The smallest n whose single look certifies at p with probability .99."""
    for samples in range(1, CAP + 1):
        if size(fixed_boundary(p0, ALPHA, samples), p) >= 0.99:
            return samples
    return None


def times() -> None:
    """Print what decisions cost."""
    p0 = float(ndtr(0.25 / SIGMA))
    counted, looks = votes(p0), even_looks(CAP, 1)
    rule = MixtureTest(p0, ALPHA).boundary(looks)
    print(f"{CAP} decisions, one after each sample (target: {TARGET_MS} ms)")
    print(f"  boundary, then looked up   {milliseconds(lambda: by_boundary(p0, counted))}")
    print(f"  the boundary alone         {milliseconds(lambda: MixtureTest(p0, ALPHA).boundary(looks))}")
    print(f"  evidence of each           {milliseconds(lambda: by_test(p0, counted))}")
    print("one each")
    print(f"  bound at any stopping time {milliseconds(lambda: anytime_lower(900, 1000, ALPHA))}")
    print(f"  spending, 500 looks        {milliseconds(lambda: spending_boundary(p0, ALPHA, looks[7::8]))}")
    print(f"  operating characteristics  {milliseconds(lambda: operating_characteristics(rule, 0.75))}\n")


def table() -> None:
    """Print expected samples, with the probability of each decision where it is not certain."""
    heads = ("R >=", "p", "Wald", "each", f"by {BATCH}", "spending", "fixed n", "certified", "hopeless")
    print("".join(f"{head:>10}" for head in heads))
    for radius, ps in QUESTIONS.items():
        p0 = float(ndtr(radius / SIGMA))
        test, batches = MixtureTest(p0, ALPHA), even_looks(CAP, BATCH)
        rules = [test.boundary(even_looks(CAP, 1)), test.boundary(batches)]
        rules.append(spending_boundary(p0, ALPHA, batches))
        for p in ps:
            does = [operating_characteristics(rule, p) for rule in rules]
            wald = f"{least_expected_samples(p, p0, ALPHA):.1f}" if p > p0 else "-"
            fixed = fixed_samples(p0, p) if p > p0 else None
            row = (radius, p, wald, *(f"{each.expected_samples:.1f}" for each in does), fixed or "-")
            print(
                "".join(
                    f"{cell:>10}" for cell in (*row, f"{does[0].certified:.4f}", f"{does[0].hopeless:.4f}")
                )
            )


if __name__ == "__main__":
    assert MixtureTest(0.7, ALPHA).boundary([30]).decide(30, 30) is Decision.CERTIFIED
    times()
    table()
