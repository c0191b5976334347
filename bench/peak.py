"""This machine's peak in float32 matrix products: python bench/peak.py [THREADS].

The best of several sizes and of two libraries, NumPy's BLAS and PyTorch's. NumPy's takes its thread count
from the environment when it is imported, so both are measured in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

SIZES = (512, 1024, 2048)
_REPEATS = 5
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment(threads: int) -> dict[str, str]:
    """The environment in which every numerical library uses so many threads."""
    return {**os.environ, **dict.fromkeys(_VARIABLES, str(threads))}


def peak() -> float:
    """GFLOP/s of this process' best square sgemm, with the threads that its environment gave it."""
    import numpy as np
    import torch

    best = 0.0
    for size in SIZES:
        a, b, out = (np.full((size, size), 0.5, np.float32) for _ in range(3))
        tensors = [torch.from_numpy(array) for array in (a, b, out)]
        for multiply in (
            lambda a=a, b=b, out=out: np.matmul(a, b, out=out),
            lambda a=tensors[0], b=tensors[1], out=tensors[2]: torch.mm(a, b, out=out),
        ):
            for _ in range(_REPEATS):
                start = time.perf_counter()
                multiply()
                best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


def peak_of(threads: int) -> float:
    """`peak` with so many threads."""
    command = [sys.executable, __file__, "--here"]
    run = subprocess.run(command, env=environment(threads), check=True, capture_output=True, text=True)
    return float(run.stdout)


if __name__ == "__main__":
    if "--here" in sys.argv:
        print(peak())
    else:
        threads = int(sys.argv[1]) if len(sys.argv) > 1 else len(os.sched_getaffinity(0))
        print(f"{threads} threads: {peak_of(threads):.0f} GFLOP/s")
