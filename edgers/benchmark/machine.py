"""Where a benchmark was measured."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from edgers.benchmark.record import MachineRecord
from edgers_engines.device import gpu_number
from edgers_engines.engine import Backend, EngineRecord
from edgers_engines.errors import printable
from edgers_engines.version import __version__

BOARD = Path("/proc/device-tree/model")  # as the device tree of a Jetson or another ARM board names it
CPUINFO = Path("/proc/cpuinfo")

_PACKAGES = ("numpy", "scipy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "cuda-bindings")


def machine(backend: Backend, engine: EngineRecord) -> MachineRecord:
    """This machine, and what ran the graphs on it."""
    return MachineRecord(
        processor=processor(CPUINFO) or platform.machine(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        model=board(BOARD),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        threads=backend.threads,
        engine=engine,
        versions={"edgers": __version__, "python": platform.python_version(), **_packages(), **_gpu(engine)},
    )


def board(path: Path) -> str | None:
    """A board's name, which ends with a null byte in the device tree; None where there is no such file."""
    text = _read(path).rstrip("\0").strip()
    return printable(text) or None


def processor(path: Path) -> str | None:
    """The processor's name in a /proc/cpuinfo; None where it has none, as on some ARM."""
    match = re.search(r"^model name\s*:\s*(.+?)\s*$", _read(path), re.MULTILINE)
    return None if match is None else printable(match[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _gpu(engine: EngineRecord) -> dict[str, str]:
    """The GPU's name and its driver, where it ran on one."""
    number = gpu_number(engine.device)
    if number is None:
        return {}
    from edgers_engines.cuda import driver_version, gpus

    return {"GPU": printable(gpus()[number].name), "NVIDIA driver": driver_version()}
