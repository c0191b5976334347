"""Everything that needs a GPU, checked and measured on any machine that has one.

    PYTHONPATH=.:engines:export:bench python bench/gpu/suite.py [--device cuda:0] [PART ...]

Parts, all unless named:

  limits     the device's matrix products and copy bandwidth, by PyTorch
  kernels    what `edgers_engines.cuda` does, against NumPy; how fast it draws noise
  placement  which nodes of the demo bundle's graphs ONNX Runtime leaves to the CPU
  bundles    of the demo bundle and those below $BUNDLES: the self-test, and tokens against the CPU's
  oracle     the demo bundle's learned oracle: labels and logits against the CPU's, texts per second
  demo       the demo frames, certified on both with the same seed: labels, votes, time
  plans      TensorRT, where it is installed: plans of the demo bundle, and the demo frames by them
  footprint  memory of a batch, beside the prediction of `edgers plan --memory`
  batches    samples/s and latency of the same bundles as in `bundles`, by the batch size
  memory     the demo bundle when the device has next to none left: smaller chunks, the same votes
  full       LLaVA-1.5-7B's architecture (full_size.py), from the graphs in $HOLLOW (hollow.py)

What was printed goes into gpu.md, the raw numbers into gpu.json, both in $OUT or bench/results. Needs
PyTorch, and for `full` transformers. With --device cpu it goes through as much of itself as needs no GPU, and
stores nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import batches
import checks
import footprint
import full_size
import plans
import torch

from edgers import demo

PACKAGES = ("edgers", "numpy", "torch", "transformers", "onnxruntime-gpu", "cuda-bindings", "tensorrt")


class Transcript:
    """What was printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        """Print one line."""
        print(line, flush=True)
        self.lines.append(line)


def environment(device: str, say: checks.Say) -> dict[str, Any]:
    """Hardware and versions."""
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": sys.version.split()[0],
    }
    if device != "cpu":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["gpu memory"] = torch.cuda.get_device_properties(device).total_memory
        facts["cuda"] = torch.version.cuda
        driver = Path("/proc/driver/nvidia/version")
        facts["driver"] = driver.read_text().split("  ")[1] if driver.exists() else None
    for name, value in {**facts, **{package: _version(package) for package in PACKAGES}}.items():
        facts[name] = value
        say(f"  {name}: {value}")
    return facts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def limits(device: str, say: checks.Say) -> dict[str, float]:
    """The device's peaks: what it could do at most."""
    if device == "cpu":
        return {}
    found = {}
    for kind, size in ((torch.bfloat16, 8192), (torch.float16, 8192), (torch.float32, 4096)):
        a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        product = torch.empty_like(a)
        found[str(kind)] = 2 * size**3 / _seconds(torch.mm, a, b, out=product) / 1e12
        say(f"  {kind} matrix product, {size}^3: {found[str(kind)]:.0f} TFLOP/s")
    source = torch.randn(1 << 30, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / _seconds(target.copy_, source) / 1e12
    say(f"  copy, bytes read and written: {found['copy']:.2f} TB/s")
    return found


def _seconds(call: Callable[..., object], *arguments: Any, **options: Any) -> float:
    repeats = 10
    for _ in range(3):
        call(*arguments, **options)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call(*arguments, **options)
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / repeats / 1e3


def batch_sizes(device: str, say: checks.Say) -> dict[str, Any]:
    """The curve of batches.py."""
    found = {}
    for bundle in checks.bundles_to_try():
        name = f"{bundle.manifest.name}, {bundle.manifest.precision}"
        curve = batches.curve(name, bundle, demo.PROMPT, most=batches.SAMPLES, device=device)
        for line in batches.table(curve).splitlines():
            say(f"  {line}")
        found[name] = curve.seconds
    return found


PARTS: dict[str, Callable[[str, checks.Say], Any]] = {
    "limits": limits,
    "kernels": checks.kernels,
    "placement": checks.placement,
    "bundles": checks.bundles,
    "oracle": checks.oracle,
    "demo": checks.demo_frames,
    "plans": plans.main,
    "footprint": footprint.main,
    "batches": batch_sizes,
    "memory": checks.memory,
    "full": full_size.main,
}


def main(device: str, parts: list[str]) -> int:
    """Run the parts; one that fails does not stop the others."""
    say, failed = Transcript(), []
    say("environment")
    results = {"environment": environment(device, say)}
    for name in parts or PARTS:
        say(name)
        try:
            results[name] = PARTS[name](device, say)
        except Exception:  # noqa: BLE001  reported
            failed.append(name)
            say(traceback.format_exc(limit=-6))
        torch.cuda.empty_cache()
    say(f"failed: {', '.join(failed) or 'none'}")
    if device != "cpu":
        out = Path(os.environ.get("OUT", Path(__file__).parents[1] / "results"))
        (out / "gpu.md").write_text("\n".join(["# gpu", "", *(f"    {line}" for line in say.lines), ""]))
        (out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    return len(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*PARTS, []])
    arguments = parser.parse_args()
    sys.exit(main(arguments.device, arguments.parts))
