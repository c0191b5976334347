"""The gate before an actuator: an action passes only with a certificate, in time, for the newest frame."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from enum import Enum
from numbers import Real
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgers.asked import fitting
from edgers.certificate import Certificate
from edgers.certify import DEFAULT_ALPHA, DEFAULT_LOOK, Certifier
from edgers.verify import verify
from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend
from edgers_engines.errors import InputError, printable, short
from edgers_engines.image import CameraImage
from edgers_engines.records import Record
from edgers_engines.vlm import Question

DEFAULT_CAP = 400
_BATCHES = 8  # in one deadline at least: what it can be overrun by is one of them
_MEMORY = 0.5  # weight of the newest measurement of speed


class Outcome(Enum):
    """Only EXECUTE may move anything."""

    EXECUTE = "EXECUTE"  # the action is certified at the required radius, in time, for the newest frame
    HOLD = "HOLD"  # a newer frame came: its decision counts
    ABSTAIN = "ABSTAIN"  # the votes do not certify an action at the required radius
    DEADLINE = "DEADLINE"  # there was no time for more samples, or the certificate came too late
    ERROR = "ERROR"  # something failed; `reason` says what


class GateRecord(Record, frozen=True, kw_only=True):
    """One decision. `action` is None unless the outcome is EXECUTE; times are in milliseconds."""

    outcome: Outcome
    action: str | None
    reason: str
    certificate: Certificate | None
    required_radius: float
    deadline_ms: float
    elapsed_ms: float


class Gate:
    """Decides about one frame after another; see `decide`.

    Args:
        bundle: verified bundle.
        sigma: standard deviation of the noise, in units where pixel values span [0, 1].
        samples: the most certification samples that one decision takes.
        alpha: allowed probability, per decision, of executing what is not certified truly.
        selection: samples that choose the action; 0: it is the one with the most votes, at half of alpha.
        backend: where the graphs run; ONNX Runtime on the CPU unless given.

    Raises:
        InputError: a number out of range.
        BackendError: a graph cannot be loaded or run on the backend.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        sigma: float,
        samples: int = DEFAULT_CAP,
        alpha: float = DEFAULT_ALPHA,
        selection: int = 0,
        backend: Backend | None = None,
    ) -> None:
        self._certifier = Certifier(
            bundle,
            sigma=sigma,
            samples=samples,
            alpha=alpha,
            selection=selection,
            method="sequential",
            backend=backend,
        )
        self._newest, self._counting = 0, threading.Lock()
        self._turn = threading.Lock()
        self._seconds_per_sample = self._measured()

    def decide(
        self,
        frame: CameraImage | str | Path | NDArray[np.uint8],
        prompt: str,
        actions: Sequence[str],
        required_radius: float,
        deadline_ms: float,
    ) -> GateRecord:
        """Whether one of the actions may be executed.

        May be called from several threads: the newest call wins, and an older one ends before its next batch.
        Who asks again before each answer has come gets no answer but HOLD. Whatever fails is an outcome. What
        is no failure passes through: KeyboardInterrupt, SystemExit.

        Args:
            frame: a file's path, or RGB pixels, uint8 [height, width, 3].
            prompt: the question.
            actions: the answers that are allowed; one should be safe in any case.
            required_radius: L2, on the model's canvas, values in [0, 1].
            deadline_ms: milliseconds from the call. A batch is begun only if by the speed measured so far it
                ends in time, so the deadline is overrun by one batch at most, or by what preparing the frame
                and checking the certificate take.
        """
        watch = certificate = None
        try:
            watch = _Watch(self, deadline_ms)
            if self._turn.acquire(timeout=watch.patience):
                try:
                    certificate, (outcome, reason) = self._decided(
                        frame, prompt, actions, required_radius, watch
                    )
                finally:
                    self._turn.release()
            else:
                outcome, reason = watch.late() or (Outcome.DEADLINE, "the decision before took all the time")
        except Exception as error:  # noqa: BLE001  whatever went wrong, nothing moves
            outcome, reason = Outcome.ERROR, _said(error)
        return GateRecord(
            outcome=outcome,
            action=certificate.answer if certificate and outcome is Outcome.EXECUTE else None,
            reason=reason,
            certificate=certificate,
            required_radius=_number(required_radius),
            deadline_ms=_number(deadline_ms),
            elapsed_ms=watch.elapsed_ms if watch else 0.0,
        )

    def _decided(
        self,
        frame: CameraImage | str | Path | NDArray[np.uint8],
        prompt: str,
        actions: Sequence[str],
        required_radius: float,
        watch: _Watch,
    ) -> tuple[Certificate | None, tuple[Outcome, str]]:
        """One decision whose turn has come."""
        if (late := watch.late()) is not None:
            return None, late
        batch = watch.batch_size(self._seconds_per_sample)
        certifier = self._certifier.deciding(required_radius, batch)
        watch.expect(batch * self._seconds_per_sample)
        certificate = certifier.certify(frame, prompt, choices=actions, cancelled=watch.over)
        self._learn(certificate, watch)
        return certificate, _judged(certificate, actions, required_radius, watch)

    def _learn(self, certificate: Certificate, watch: _Watch) -> None:
        """How long a sample takes, from those that were drawn."""
        if certificate.samples_spent:
            spent = sum(certificate.timings_ms.get(stage, 0.0) for stage in ("noise", "model", "oracle"))
            newest = spent / 1000 / certificate.samples_spent
            self._seconds_per_sample += _MEMORY * (newest - self._seconds_per_sample)
        elif watch.late() is None:
            # Only the expected time forbade a batch. Believed for ever, one stall would end everything.
            self._seconds_per_sample *= 1 - _MEMORY

    def _measured(self) -> float:
        """Seconds a sample takes, from one batch of grey canvases that is answered with one token."""
        return fitting(min(DEFAULT_LOOK, self._certifier.model.max_rows), self._measured_with)

    def _measured_with(self, rows: int) -> float:
        model = self._certifier.model
        question = Question(model, "?", rows=rows, max_new_tokens=1)
        height, width = model.bundle.manifest.preparation.canvas_size
        grey = np.full((rows, 3, height, width), 0.5, np.float32)
        start = time.monotonic()
        question.answers(grey)
        return (time.monotonic() - start) / rows

    def _ticket(self) -> int:
        with self._counting:  # or of two calls at once the older could be left as the newest
            self._newest += 1
            return self._newest

    def _superseded(self, ticket: int) -> bool:
        return ticket != self._newest


class _Watch:
    """One decision's clock and ticket."""

    def __init__(self, gate: Gate, deadline_ms: float) -> None:
        self._start = self._now = time.monotonic()
        self._gate, self._ticket = gate, gate._ticket()
        self._next_batch = 0.0
        self._deadline_ms = _number(deadline_ms)
        if not 0 < self._deadline_ms < math.inf:
            raise InputError(f"the deadline is {deadline_ms!r} ms; it must be a number above 0")
        self.over_because: tuple[Outcome, str] | None = None

    @property
    def elapsed_ms(self) -> float:
        """Until the clock was last read."""
        return 1000 * (self._now - self._start)

    @property
    def patience(self) -> float:
        """Seconds that may be waited for the decision before."""
        return min(self._deadline_ms / 1000, threading.TIMEOUT_MAX)

    def batch_size(self, seconds_per_sample: float) -> int:
        """So many samples that several batches fit into the deadline."""
        fitting = self._deadline_ms / 1000 / _BATCHES / max(seconds_per_sample, 1e-9)
        return int(min(max(fitting, 1), DEFAULT_LOOK))

    def expect(self, seconds: float) -> None:
        """How long the next batch will take."""
        self._next_batch = seconds

    def over(self) -> bool:
        """Whether to begin no further batch; `over_because` says why."""
        self.over_because = self.late(self._next_batch)
        return self.over_because is not None

    def late(self, seconds: float = 0.0) -> tuple[Outcome, str] | None:
        """The outcome if nothing could be decided within so many seconds from now.

        Raises:
            RuntimeError: the clock went backwards, so nobody knows what is late.
        """
        now = time.monotonic()
        if not now >= self._now:
            raise RuntimeError(f"the clock went from {self._now} s back to {now} s")
        self._now = now
        if self._gate._superseded(self._ticket):
            return Outcome.HOLD, "a newer frame came"
        if self.elapsed_ms + 1000 * seconds > self._deadline_ms:
            batch = f", and a batch takes {1000 * seconds:.0f}" if seconds else ""
            return Outcome.DEADLINE, f"{self.elapsed_ms:.0f} of {self._deadline_ms:g} ms are over{batch}"
        return None


def _judged(
    certificate: Certificate, actions: Sequence[str], required_radius: float, watch: _Watch
) -> tuple[Outcome, str]:
    """The outcome of a decision that came to its end.

    Raises:
        CertificateError: the certificate does not follow from its own counts.
    """
    late = watch.late()
    if late is None:
        verify(certificate)
        late = watch.late()  # checking takes time too
    if late is not None:
        return late
    radius = certificate.radius
    if certificate.certified and certificate.label in actions and radius and radius >= required_radius:
        return Outcome.EXECUTE, certificate.stopped_because
    if watch.over_because is not None:
        return watch.over_because
    return Outcome.ABSTAIN, certificate.stopped_because


def _number(value: object) -> float:
    """A number as the record holds it, however wrong; not a number where it is none."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except Exception:  # noqa: BLE001  an object of the caller's may do anything
        return math.nan


def _said(error: Exception) -> str:
    """What went wrong, in one line."""
    try:
        return short(printable(f"{type(error).__name__}: {error}"))
    except Exception:  # noqa: BLE001  an error that cannot even say what it is
        return type(error).__name__
