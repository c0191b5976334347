"""Run the fuzz targets and print what was tried.

    python -m fuzz.run                             every target with its own number of inputs
    python -m fuzz.run --target graph --runs 1000  one target

Inputs that crash, hang or take too much memory are kept in build/fuzz/NAME.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fuzz.targets import TARGETS

KEPT = Path("build/fuzz")
MEMORY = Path("/dev/shm")  # files that live for one input: a disk would set the pace
SECONDS_EACH, MEGABYTES = 20, 3000  # beyond them an input counts as a crash
CRASHES = 10  # a target stops after so many


class Tried(NamedTuple):
    """What one target did."""

    name: str
    inputs: int
    seconds: float
    crashes: int


def fuzz(name: str, runs: int) -> Tried:
    """Fuzz one target, going on after a crash until the inputs are used up."""
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    start, inputs, crashes = time.perf_counter(), 0, 0
    with tempfile.TemporaryDirectory(
        prefix="edgers-fuzz-", dir=MEMORY if MEMORY.is_dir() else None
    ) as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(TARGETS[name].seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
        while inputs < runs and crashes < CRASHES:
            code, log = _guided(name, runs - inputs, crashes + 1, corpus, folder)
            tried = _executed(log)
            inputs += tried
            crashes += code != 0
            if code:
                print(log[-4000:], flush=True)
            if not tried:
                break
    return Tried(name, inputs, time.perf_counter() - start, crashes)


def _guided(name: str, runs: int, seed: int, corpus: Path, folder: Path) -> tuple[int, str]:
    options = (
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={TARGETS[name].longest}",
        f"-timeout={SECONDS_EACH}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        "-verbosity=0",
    )
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.guided", name, *options, str(corpus)],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(corpus.parent), "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout + done.stderr


def _executed(log: str) -> int:
    found = re.search(r"stat::number_of_executed_units:\s+(\d+)", log)
    return int(found[1]) if found else 0


def table(results: list[Tried]) -> Iterator[str]:
    """The results as Markdown."""
    yield "| target | inputs | seconds | crashes |"
    yield "|---|---:|---:|---:|"
    for result in results:
        yield f"| {result.name} | {result.inputs:,} | {result.seconds:.0f} | {result.crashes} |"
    inputs, seconds, crashes = (sum(column) for column in list(zip(*results, strict=True))[1:])
    yield f"| all | {inputs:,} | {seconds:.0f} | {crashes} |"


def main() -> int:
    """Exit code 0 without a crash, 1 with one."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run")
    parser.add_argument("--target", choices=TARGETS, action="append", help="one target; all unless given")
    parser.add_argument("--runs", type=int, help="inputs per target; each target's own number unless given")
    options = parser.parse_args()
    results = []
    for name in options.target or TARGETS:
        results.append(fuzz(name, options.runs or TARGETS[name].inputs))
        print(f"{name}: {results[-1]}", file=sys.stderr, flush=True)
    print("\n".join(table(results)))
    return int(any(result.crashes for result in results))


if __name__ == "__main__":
    sys.exit(main())
