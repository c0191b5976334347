"""What this machine can do at most: operations of matrix products a second, and bytes of memory a second.

Both are measured, not looked up: with the backend, the device and the threads that a model runs with. The
best of several tries is the peak, for what else the machine does can only make a try slower; the median says
how much it did.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgers_engines.device import Buffer, Device, Host
from edgers_engines.engine import Backend
from edgers_engines.fields import Count, NonNegative
from edgers_engines.product_graph import operand, product
from edgers_engines.records import Record

PROCESSOR_SIZES = (512, 1024, 2048)  # of square matrices; the best one counts
GPU_SIZES = (2048, 4096, 8192)
_SECONDS, _LEAST_TRIES, _MOST_TRIES = 0.5, 5, 200  # of one thing that is measured
_CACHES = 4  # times the last cache's bytes that an array has, as STREAM has it
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 512 << 20  # of an array all the same
_GPU_BYTES = 256 << 20  # more than any GPU's cache
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_BLAS = "from edgers_engines.peaks import blas_seconds; print(*blas_seconds({size}))"


class Rate(Record, frozen=True, kw_only=True):
    """Operations or bytes a second, in several tries of the kind that did best.

    Attributes:
        best: of all.
        median: of that kind's tries.
        least: of these.
        tries: how many.
        by: the kind.
    """

    best: NonNegative
    median: NonNegative
    least: NonNegative
    tries: Count
    by: str


class Peaks(Record, frozen=True, kw_only=True):
    """What was measured of a device.

    Attributes:
        products: operations a second in dense products, 2 for each multiply-add, by the type of the numbers.
        bandwidth: bytes a second that are read from memory, or read and written.
    """

    products: dict[str, Rate]
    bandwidth: Rate


def measure_peaks(backend: Backend, kinds: Iterable[str], *, shrink: int = 1) -> Peaks:
    """Measure the machine; takes some seconds.

    Args:
        backend: what models run on; its device and its number of threads are measured.
        kinds: the numbers that are multiplied; see `product_graph.product`.
        shrink: by what sizes are divided, where only the way is of interest.

    Raises:
        BackendError: the backend cannot load a product, as one that runs plans only.
        MemoryError: the device has no memory for it.
    """
    products = {kind: product_rate(backend, kind, shrink=shrink) for kind in kinds}
    return Peaks(products=products, bandwidth=bandwidth(backend.device, backend.threads, shrink=shrink))


def product_rate(backend: Backend, kind: str, *, shrink: int = 1) -> Rate:
    """The best of several sizes; on the processor also of NumPy's BLAS: no runtime judges itself.

    Args, Raises: as of `measure_peaks`.
    """
    host = isinstance(backend.device, Host)
    rates = []
    for size in (each // shrink for each in (PROCESSOR_SIZES if host else GPU_SIZES)):
        with _loaded(backend, size, kind) as run:
            rates.append(_rate(2 * size**3, seconds(run), f"{backend_name(backend)}, {size}×{size}"))
        if host and kind == "float32":
            rates.append(_rate(2 * size**3, _blas(size, backend.threads), f"NumPy's BLAS, {size}×{size}"))
    return max(rates, key=lambda rate: rate.best)


def bandwidth(device: Device, threads: int, *, shrink: int = 1) -> Rate:
    """Bytes a second of arrays that no cache holds: copied, and in the host's memory also only read.

    A copied byte counts as one that is read and one that is written; that a processor may read a line before
    it overwrites it is not counted (as in STREAM, https://www.cs.virginia.edu/stream/).
    """
    host = isinstance(device, Host)
    size = (array_bytes() if host else _GPU_BYTES) // shrink
    pieces = threads if host else 1
    arrays = [device.empty((pieces, size // pieces // 4), np.uint32) for _ in range(2)]
    for array in arrays:
        device.fill(array, 1)
    source, target = ([array[i : i + 1] for i in range(pieces)] for array in arrays)
    with ThreadPoolExecutor(pieces) as pool:

        def copy() -> None:
            list(pool.map(device.copy, source, target))
            device.wait()

        rates = [_rate(2 * arrays[0].nbytes, seconds(copy), "copy")]
        if host:
            rates.append(_rate(arrays[0].nbytes, seconds(lambda: list(pool.map(_read, source))), "read"))
    return max(rates, key=lambda rate: rate.best)


def seconds(run: Callable[[], object]) -> list[float]:
    """Of several tries, after two that are not kept: caches, clocks and a runtime's memory settle first."""
    for _ in range(2):
        run()
    found: list[float] = []
    while len(found) < _LEAST_TRIES or (sum(found) < _SECONDS and len(found) < _MOST_TRIES):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def blas_seconds(size: int) -> list[float]:
    """Of NumPy's product of two float32 matrices, with the threads that this process' environment gave it."""
    a, b = (operand(size, "float32")[0] for _ in range(2))
    out = np.empty_like(a)
    return seconds(lambda: np.matmul(a, b, out=out))


def array_bytes() -> int:
    """How large an array is that the processor's last cache holds a part of only."""
    sizes = [_kibibytes(file) for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return min(max(_CACHES * 1024 * max(sizes, default=0), _LEAST_BYTES), _MOST_BYTES)


def backend_name(backend: Backend) -> str:
    """The library and its version."""
    record = backend.record("fp32")
    return f"{record.backend} {record.version}"


@contextmanager
def _loaded(backend: Backend, size: int, kind: str) -> Iterator[Callable[[], None]]:
    """Runs a product once, with everything where the device has it."""
    with product(size, kind) as (content, graph, weights):
        engine, device = backend.load(content, graph, weights), backend.device
        factor = operand(size, graph.inputs[0].dtype)
        a, y = (device.empty(factor.shape, factor.dtype) for _ in range(2))
        device.paste(factor, a, 0)

        def run() -> None:
            engine.run({"a": a}, {"y": y})
            device.wait()

        yield run


def _blas(size: int, threads: int) -> list[float]:
    """In a process of its own: a BLAS takes its number of threads from the environment when it is loaded."""
    environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", _BLAS.format(size=size)]
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603  our own
    return [float(text) for text in run.stdout.split()]


def _read(array: Buffer) -> object:
    return np.bitwise_or.reduce(np.asarray(array), axis=None)


def _rate(amount: int, spent: list[float], by: str) -> Rate:
    return Rate(
        best=amount / min(spent),
        median=amount / statistics.median(spent),
        least=amount / max(spent),
        tries=len(spent),
        by=by,
    )


def _kibibytes(file: Path) -> int:
    try:
        return int(file.read_text().strip().removesuffix("K"))
    except (OSError, ValueError):
        return 0
