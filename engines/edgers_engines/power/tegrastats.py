"""NVIDIA's tegrastats, which prints lines such as `RAM 6334/15388MB ... VDD_IN 5299mW/5299mW VDD_SOC ...`."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
from contextlib import suppress

from edgers_engines.power.rails import total, whole_module
from edgers_engines.power.source import EndedError, PowerSource, Site
from edgers_engines.sysfs import UnreadableError

_PATIENCE = 2.0  # seconds for a line; the first comes after one interval
# The rail's name, its power now, the average and, in JetPack 7, the peak; before JetPack 5 without a unit.
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (-?\d{1,9})(?:mW)?(?:/-?\d{1,9}(?:mW)?){1,2}(?!\S)")


class Tegrastats(PowerSource):
    """A process of its own, which ends with `close`, or at its next line when this process is gone.

    Raises:
        UnreadableError: there is no tegrastats, or it prints no line with the whole module's power.
    """

    name = "tegrastats"
    waits = True

    def __init__(self, site: Site) -> None:
        program = shutil.which("tegrastats")
        if program is None:
            raise UnreadableError("there is no such program on PATH")
        self.interval_ms = site.interval_ms
        self._process = _started([program, "--interval", str(max(1, round(site.interval_ms)))])
        self._text, self._silent = b"", False
        try:
            self._names = whole_module(rails(self._line()))
        except BaseException:
            self.close()
            raise
        self.rail = " + ".join(self._names)

    def read(self) -> float:
        """See `Source.read`."""
        return total(rails(self._line()), self._names)

    def close(self) -> None:
        """See `Source.close`."""
        ends = [self._process.kill] if self._silent else [self._process.terminate, self._process.kill]
        for end in ends:  # what hangs was waited for already
            end()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
                break
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _line(self) -> str:
        """The newest whole line, waiting for one."""
        pipe = _pipe(self._process)
        deadline = time.monotonic() + _PATIENCE
        while b"\n" not in self._text:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self._silent = True
                raise UnreadableError(f"it printed no line for {_PATIENCE:g} s")
            got = os.read(pipe, 1 << 16)
            if not got:
                raise EndedError("it ended")
            self._text = (self._text + got)[-(1 << 16) :]
        self._silent = False
        *lines, self._text = self._text.split(b"\n")
        return lines[-1].decode(errors="replace")


def rails(line: str) -> dict[str, float]:
    """The power now of each rail in a line of tegrastats, in watts."""
    return {name: int(milliwatts) / 1e3 for name, milliwatts in _RAIL.findall(line)}


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603  NVIDIA's program, with a number
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for the benchmark, which still reads a last line
        )
    except OSError as error:
        raise UnreadableError(f"it cannot be run: {(error.strerror or str(error)).lower()}") from None


def _pipe(process: subprocess.Popen[bytes]) -> int:
    if process.stdout is None:
        raise UnreadableError("it was started without a pipe")
    return process.stdout.fileno()
