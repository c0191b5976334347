"""The power mode: a Jetson's from nvpmodel, elsewhere the governor of the processor's clocks."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

from edgers_engines.sysfs import UnreadableError, attempt, listing, read_text

_SECONDS = 10.0
_MODE = re.compile(r"^NV Power Mode:\s*(\S+)", re.M)


def power_mode(root: Path, missing: dict[str, str]) -> str | None:
    """Such as "MAXN" or "15W", or "governor schedutil"."""
    reasons: dict[str, str] = {}
    mode = attempt(reasons, "nvpmodel", _nvpmodel) or attempt(reasons, "cpufreq", partial(_governors, root))
    if mode is None:
        missing["power mode"] = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return mode


def _nvpmodel() -> str:
    program = shutil.which("nvpmodel")
    if program is None:
        raise UnreadableError("there is no such program on PATH")
    try:
        done = subprocess.run(  # noqa: S603  NVIDIA's program; asking needs no root, only setting does
            [program, "-q"], check=False, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreadableError(f"it cannot be run: {error}") from None
    if match := _MODE.search(done.stdout.decode(errors="replace")):
        return match[1]
    said = (done.stderr or done.stdout).decode(errors="replace").strip().partition("\n")[0]
    raise UnreadableError(f"it names no mode: {said or f'it ended with {done.returncode}'}")


def _governors(root: Path) -> str:
    files = listing(root / "sys/devices/system/cpu/cpufreq", "policy*/scaling_governor")
    if not files:
        raise UnreadableError("there is none")
    return f"governor {', '.join(sorted({read_text(file) for file in files}))}"
