"""`edgers doctor`: what this machine has, what is wrong, and what to do."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import click

from edgers.cli.options import json_option
from edgers.cli.output import print_json, stdout
from edgers_engines.errors import BackendError, EdgersError, printable
from edgers_engines.version import __version__

_PACKAGES = (
    "numpy",
    "scipy",
    "msgspec",
    "Pillow",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "cuda-bindings",
    "tensorrt",
    "nvidia-cuda-nvrtc",
    "nvidia-ml-py",
    "matplotlib",
    "torch",
    "transformers",
)
_BOTH_RUNTIMES = (
    "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
    "uninstall both, then install one"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that CUDA needs.

    Attributes:
        ok: whether it is there.
        text: what is there, or what is missing and what to do next.
    """

    ok: bool
    text: str


@click.command("doctor")
@json_option
def command(*, as_json: bool) -> int:
    """Report versions, devices and problems; exit code 1 when something is broken.

    What CUDA lacks is no problem: only --device cuda:N needs it.
    """
    cuda = _cuda()
    device = "cuda:0" if cuda["GPUs"].ok else "cpu"
    versions = {name: version for name in _PACKAGES if (version := _version(name)) is not None}
    problems = _problems(versions)
    report = {
        "edgers": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": versions,
        "providers": _providers(problems),
        "cuda": cuda,
        "tensorrt": _step(_tensorrt) if cuda["GPUs"].ok else Step(False, "not looked at without a GPU"),
        "energy": _step(partial(_energy, device)),
        "problems": problems,
        "ok": not problems,
    }
    if as_json:
        print_json(report)
    else:
        _show(report)
    return 1 if problems else 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _providers(problems: list[str]) -> list[str]:
    try:
        from edgers_engines.onnxruntime import available_providers
    except EdgersError as error:
        problems.append(str(error))
        return []
    return available_providers()


def _problems(versions: dict[str, str]) -> list[str]:
    found = []
    if {"onnxruntime", "onnxruntime-gpu"} <= versions.keys():
        found.append(_BOTH_RUNTIMES)
    from edgers.demo import load_bundle

    try:
        load_bundle()
    except EdgersError as error:
        found.append(f"the demo bundle is damaged, reinstall edgers: {error}")
    return found


def _cuda() -> dict[str, Step]:
    """What --device cuda:N needs, in the order in which to get it; the last step is to use it all."""
    looks: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
        "driver": (_driver, ()),
        "bindings": (_bindings, ()),
        "compiler": (_compiler, ("bindings",)),
        "GPUs": (_gpus, ("driver", "bindings", "compiler")),
        "ONNX Runtime": (_cuda_provider, ()),
        "demo model": (_demo_on_cuda, ("GPUs", "ONNX Runtime")),
    }
    steps: dict[str, Step] = {}
    for name, (look, needs) in looks.items():
        absent = ", ".join(need for need in needs if not steps[need].ok)
        steps[name] = Step(False, f"not looked at without {absent}") if absent else _step(look)
    return steps


def _step(look: Callable[[], str]) -> Step:
    try:
        return Step(True, look())
    except (EdgersError, MemoryError) as error:
        return Step(False, str(error))


def _driver() -> str:
    return f"NVIDIA's driver is there, for CUDA up to {_dotted(_driver_version())}"


def _driver_version() -> tuple[int, int]:
    """The newest CUDA that the driver runs; asked without the bindings, which may be missing."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise BackendError("NVIDIA's driver is not on this machine (no libcuda.so.1): install it") from None
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


def _bindings() -> str:
    from edgers_engines import cuda  # noqa: F401  it fails without them

    return "NVIDIA's CUDA bindings for Python are there"


def _compiler() -> str:
    from edgers_engines.cuda import nvrtc_version

    return f"NVRTC {_dotted(nvrtc_version())} is there"


def _gpus() -> str:
    from edgers_engines.cuda import compiled, gpus, nvrtc_version

    nvrtc, runs = nvrtc_version(), _driver_version()
    if runs[0] < nvrtc[0]:
        raise BackendError(
            f"NVRTC {_dotted(nvrtc)} makes code that this driver, for CUDA up to {_dotted(runs)}, cannot "
            f"load: install a driver for CUDA {nvrtc[0]}"
        )
    there = gpus()
    for gpu in there:
        compiled(*gpu.capability)
    return "; ".join(
        f"cuda:{number} is {gpu.name}, {gpu.memory_bytes / 2**30:.1f} GiB, "
        f"compute capability {_dotted(gpu.capability)}"
        for number, gpu in enumerate(there)
    )


def _cuda_provider() -> str:
    from edgers_engines.onnxruntime import available_providers

    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        raise BackendError(_BOTH_RUNTIMES)
    if "CUDAExecutionProvider" not in available_providers():
        raise BackendError(
            "this build of ONNX Runtime has no CUDAExecutionProvider: "
            "pip uninstall onnxruntime, then install edgers[gpu]"
        )
    return "this build of ONNX Runtime has CUDAExecutionProvider"


def _demo_on_cuda() -> str:
    from edgers.demo import load_bundle
    from edgers_engines.engine import open_backend
    from edgers_engines.vlm import VisionLanguageModel

    VisionLanguageModel(load_bundle(), open_backend(device="cuda:0"))
    return "it loads on cuda:0 and passes its self-test"


def _tensorrt() -> str:
    from edgers_engines.plans import Plans
    from edgers_engines.tensorrt import TensorRTBackend

    target = TensorRTBackend("cuda:0").target
    ready = [plan for plan in Plans().stored() if plan.record.target == target]
    return f"{target.library} is there, with {len(ready)} plans for this GPU (`edgers build` makes them)"


def _energy(device: str) -> str:
    from edgers_engines.energy import open_source
    from edgers_engines.power.source import Site

    source, reason = open_source(Site(device, Path("/"), interval_ms=100.0))
    if source is None:
        raise BackendError(f"nothing measures it for {device} ({reason})")
    source.close()
    return f"{source.name} measures it for {device}: {source.rail}"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _show(report: dict[str, object]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in _rows(report):
        table.add_row(Text(name, style="dim"), Text(printable(value)))
    stdout().print(table)


def _rows(report: dict[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in report.items():
        match value:
            case dict() if name == "cuda":
                ready = all(step.ok for step in value.values())
                yield name, "ready" if ready else "not ready, which matters to --device cuda:N only"
                yield from ((f"  {step}", found.text) for step, found in value.items())
            case Step():
                yield name, value.text
            case dict():
                yield name, ", ".join(f"{key} {item}" for key, item in value.items())
            case list():
                yield name, "; ".join(map(str, value)) or "none"
            case _:
                yield name, str(value)
