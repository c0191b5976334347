"""A gate under faults: stalls, jumping clocks, NaN logits, failing oracles and memory, in a real model."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from unittest import mock

import numpy as np

from edgers import demo, ending, gate, poll
from edgers.gate import Outcome
from edgers.poll import Poll
from edgers.verify import verify
from edgers_engines.errors import BackendError
from edgers_engines.onnxruntime import OnnxRuntimeEngine

FAULTS = (
    "none",
    "stall",
    "clock goes back",
    "NaN logits",
    "oracle fails",
    "no memory",
    "graph fails",
    "late",
)
RADII = (0.05, 0.125, 0.3, 5.0)


class Clock:
    """The system's monotonic clock, which a fault may move at its n-th reading."""

    def __init__(self):
        self.offset, self.readings, self.jump = 0.0, 0, None

    def monotonic(self):
        self.readings += 1
        if self.jump is not None and self.readings == self.jump[0]:
            self.offset += self.jump[1]
        return time.monotonic() + self.offset


class Simulation:
    """Decisions about the demo's frames; each has one fault, at a random moment, or none.

    Attributes:
        outcomes: how often each outcome followed each fault.
        violations: what must never happen, in words; empty unless the gate is broken.
    """

    def __init__(self, decider, seed):
        self.gate, self.rng = decider, np.random.default_rng(seed)
        self.outcomes, self.violations = Counter(), []
        self._graphs = OnnxRuntimeEngine._run
        self._labels, self._label = Poll._labels, poll.label

    def run(self, decisions):
        for number in range(decisions):
            self.decide(FAULTS[number % len(FAULTS)])
        return self

    def decide(self, fault):
        clock, begun = Clock(), []
        radius = float(self.rng.choice(RADII[:3] if fault != "none" else RADII))
        deadline = float(self.rng.choice([5, 40])) if fault == "late" else 2000.0
        frame = self.rng.choice(demo.frames())
        with ExitStack() as stack:
            for module in (gate, ending):
                stack.enter_context(mock.patch.object(module, "time", clock))
            self._break(stack, fault, clock)
            start = clock.monotonic()

            def labels(*args):
                begun.append(time.monotonic() + clock.offset - start)
                return self._labels(*args)

            stack.enter_context(mock.patch.object(Poll, "_labels", labels))
            try:
                record = self.gate.decide(frame, demo.PROMPT, demo.ACTIONS, radius, deadline)
            except Exception as error:  # noqa: BLE001  whatever it is, it must not come out
                self.violations.append(f"{fault}: {type(error).__name__} came out: {error}")
                return
        self.outcomes[fault, record.outcome] += 1
        self._check(fault, record, begun)

    def _break(self, stack, fault, clock):
        at = int(self.rng.integers(1, 12))
        if fault in {"stall", "clock goes back"}:
            clock.jump = (at + 2, 10.0 if fault == "stall" else -100.0)
        if fault in {"NaN logits", "no memory", "graph fails"}:
            stack.enter_context(mock.patch.object(OnnxRuntimeEngine, "_run", self._graph(fault, at)))
        if fault == "oracle fails":
            stack.enter_context(mock.patch.object(poll, "label", self._oracle(at % 4)))

    def _graph(self, fault, at):
        calls = iter(range(10**9))

        def run(engine, inputs, outputs):
            hit = next(calls) >= at
            if hit and fault == "no memory":
                raise MemoryError("no memory")
            if hit and fault == "graph fails":
                raise BackendError("the graph failed")
            self._graphs(engine, inputs, outputs)
            if hit and fault == "NaN logits" and "logits" in outputs:
                outputs["logits"][:] = np.nan

        return run

    def _oracle(self, at):
        calls = iter(range(10**9))

        def label(*args):
            if next(calls) >= at:
                raise RuntimeError("the oracle failed")
            return self._label(*args)

        return label

    def _check(self, fault, record, begun):
        late = [at for at in begun if 1000 * at > record.deadline_ms]
        if late and fault != "clock goes back":
            self.violations.append(f"{fault}: a batch was begun {late[0]:.3f} s after the call")
        if record.outcome is not Outcome.EXECUTE:
            if record.action is not None:
                self.violations.append(f"{fault}: an action without EXECUTE")
            return
        certificate = record.certificate
        verify(certificate)
        if not (certificate.certified and certificate.radius >= record.required_radius):
            self.violations.append(f"{fault}: EXECUTE below the required radius")
        if record.elapsed_ms > record.deadline_ms or record.action != certificate.label:
            self.violations.append(f"{fault}: EXECUTE too late, or of another action")
