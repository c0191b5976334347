"""What n costs: time grows linearly, memory does not grow: python bench/growth.py [FOLDER].

Certificates with a fixed n, each in a process of its own, whose peak memory is the operating system's: the
demo model in both ways, and the miniature (`miniature.py`) in free text. A process loads, makes a certificate
of a part of the samples to warm up, then the one that is timed. All n take turns. The line that is fitted,
seconds = a + b n, has the least squares of the relative residuals.

FOLDER keeps the miniature for the next time. SAMPLES, a list like 100,1000, and ROUNDS come from the
environment; then nothing is stored.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import spread, store
from miniature import folder, last_word

SAMPLES = tuple(map(int, os.environ.get("SAMPLES", "100,300,1000,3000,10000").split(",")))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SIGMA, WARM_UP, SEED = 0.5, 50, "0123456789abcdeffedcba9876543210"
MINIATURE = "miniature, free text"
LARGEST = {"demo, choices": 10_000, "demo, free text": 10_000, MINIATURE: 1000}


@dataclass(frozen=True)
class Run:
    """One process: n, seconds of its certificate, peak resident bytes of all of it."""

    samples: int
    seconds: float
    peak_bytes: int


def ask(workload: str, folder: Path) -> dict[str, Any]:
    """How a workload's answers become classes; the random miniature's are one, known at their end."""
    from edgers import demo

    if workload == "demo, choices":
        return {"choices": demo.ACTIONS}
    if workload == "demo, free text":
        return {"oracle": "action"}
    return {"oracle": last_word(folder)}


def certify(workload: str, samples: int, root: Path) -> float:
    """Seconds of one certificate, in a process that does nothing else."""
    from edgers import Bundle, Certifier, demo
    from edgers.part import Part

    bundle = Bundle.load(root / "bundle") if workload == MINIATURE else demo.load_bundle()
    certifier, frame = Certifier(bundle, sigma=SIGMA, samples=samples), demo.frames()[0]
    with tempfile.TemporaryDirectory() as folder:
        how = ask(workload, Path(folder))
        part = Part(number=1, of=max(samples // WARM_UP, 2))
        certifier.certify(frame, demo.PROMPT, part=part, seed=SEED, **how)
        start = time.perf_counter()
        certificate = certifier.certify(frame, demo.PROMPT, **how)
        spent = time.perf_counter() - start
    assert certificate.samples_counted == samples, certificate.stopped_because
    return spent


def run(workload: str, samples: int, root: Path) -> Run:
    """One process, from outside."""
    command = [sys.executable, __file__, str(root), workload, str(samples)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    said = child.stdout.read()
    # Linux begins a child's account with its parent's peak: so this process imports nothing heavy.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    return Run(samples, float(said), usage.ru_maxrss * 1024)


def fit(runs: Sequence[Run]) -> tuple[float, float, dict[int, float]]:
    """Seconds of none and of each sample, and what is left over at each n, relative to what was measured."""
    medians = {n: statistics.median(seconds_of(runs, n)) for n in sizes(runs)}
    n, seconds = np.array(list(medians)), np.array(list(medians.values()))
    columns = np.stack([np.ones_like(seconds), n], axis=1) / seconds[:, None]
    (fixed, each), *_ = np.linalg.lstsq(columns, np.ones_like(seconds), rcond=None)
    return (
        float(fixed),
        float(each),
        dict(zip(medians, (seconds / (fixed + each * n) - 1).tolist(), strict=True)),
    )


def sizes(runs: Sequence[Run]) -> list[int]:
    """Every n, increasing."""
    return sorted({each.samples for each in runs})


def seconds_of(runs: Sequence[Run], samples: int) -> list[float]:
    """Of every process with so many samples."""
    return [each.seconds for each in runs if each.samples == samples]


def table(workload: str, runs: Sequence[Run]) -> str:
    """One workload: time, the line through it, memory."""
    fixed, each, left = fit(runs)
    lines = [
        f"## {workload}",
        "",
        "| n | s (smallest to largest) | ms a sample | off the line | peak MB (smallest to largest) |",
        "|---:|---|---:|---:|---|",
    ]
    for n in sizes(runs):
        seconds = seconds_of(runs, n)
        peaks = [one.peak_bytes / 1e6 for one in runs if one.samples == n]
        lines.append(
            f"| {n} | {spread(seconds)} | {1000 * statistics.median(seconds) / n:.3f} | {left[n]:+.1%} "
            f"| {statistics.median(peaks):.0f} ({min(peaks):.0f} to {max(peaks):.0f}) |"
        )
    return "\n".join([*lines, "", f"Line: {1000 * fixed:.0f} ms + {1000 * each:.3f} ms a sample."])


def main(root: Path) -> None:
    """All workloads, every n in every round, in a new order each time."""
    command = [sys.executable, str(Path(__file__).parent / "miniature.py"), str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # torch stays out of this process
    jobs = [(workload, n) for workload, most in LARGEST.items() for n in SAMPLES if n <= most]
    runs: dict[str, list[Run]] = {workload: [] for workload in LARGEST}
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for job in rng.permutation(len(jobs)):
            workload, n = jobs[job]
            runs[workload].append(run(workload, n, root))
    results = {workload: [asdict(each) for each in made] for workload, made in runs.items()}
    store("growth", results, "\n\n".join(table(*item) for item in runs.items()))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(certify(sys.argv[2], int(sys.argv[3]), Path(sys.argv[1])))
    else:
        with folder(sys.argv[1] if len(sys.argv) > 1 else None) as root:
            main(root)
