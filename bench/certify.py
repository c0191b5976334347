"""What one certificate costs on this machine: python bench/certify.py PATH_TO_EDGERS.

Whole processes are timed from outside, and the peak memory is the operating system's account of each. The
first run of each command is a warm-up. Medians of RUNS, with the smallest and largest beside them.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnxruntime

from edgers import Bundle, Certifier, demo

RUNS = 7


def process(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak MB of one process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def row(name: str, values: list[float], unit: str, target: float) -> None:
    """One line: median, smallest, largest, target."""
    median = statistics.median(values)
    print(f"{name:34} {median:8.3f} {unit:3} ({min(values):.3f} to {max(values):.3f}), target {target:g}")


def loaded() -> list[float]:
    """Seconds of one certificate with everything loaded."""
    certifier = Certifier(Bundle.load(demo.BUNDLE), sigma=demo.SIGMA, samples=100)
    seconds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        certificate = certifier.certify(demo.frames()[0], demo.PROMPT, choices=demo.ACTIONS)
        seconds.append(time.perf_counter() - start)
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in certificate.timings_ms.items())
    print(f"stages of the last one, in ms: {stages}")
    return seconds[1:]


def main(edgers: str) -> None:
    """Print the table."""
    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, ONNX Runtime {onnxruntime.__version__}"
    print(f"{platform.machine()}, {cores} cores, {versions}")
    row("one frame, n = 100, after load", loaded(), "s", 3)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([edgers, "demo", "--frames", folder], check=True, capture_output=True)
        frame = sorted(Path(folder).glob("*.png"))[0]
        certify = [
            edgers,
            "certify",
            str(frame),
            "--prompt",
            demo.PROMPT,
            "--choices",
            ",".join(demo.ACTIONS),
        ]
        certify += ["--sigma", str(demo.SIGMA), "--samples", "100", "--json"]
        radius = [edgers, "radius", "--votes", "100", "--of", "100", "--sigma", "0.5"]
        for name, command, target in (
            ("edgers certify, start to finish", certify, 5),
            ("edgers radius", radius, 1),
            ("edgers --help", [edgers, "--help"], 0.4),
        ):
            runs = [process(command) for _ in range(RUNS + 1)][1:]
            row(name, [seconds for seconds, _ in runs], "s", target)
            if command is certify:
                row("edgers certify, peak memory", [memory for _, memory in runs], "MB", 400)


if __name__ == "__main__":
    main(sys.argv[1])
