"""TensorRT's own road on a GPU: plans are built, compared, and asked beside ONNX Runtime on the CPU."""

from __future__ import annotations

import time
from typing import Any

from checks import SEED, Say

from edgers import Certifier, demo
from edgers_engines.engine import open_backend
from edgers_engines.errors import EdgersError
from edgers_engines.plan_builder import Sizes, build_plans


def main(device: str, say: Say) -> dict[str, Any]:
    """The demo bundle: seconds to build its plans, the demo frames' votes, milliseconds of a certificate."""
    try:
        open_backend("tensorrt", device=device)
    except EdgersError as error:
        say(f"  {error}")
        return {"missing": str(error)}
    bundle = demo.load_bundle()
    built = build_plans(bundle, device, Sizes.of(bundle.manifest, 100, None))
    for plan, _ in built:
        record = plan.record
        say(f"  {record.source.graph}: {record.size / 1e6:.1f} MB, built in {record.seconds:.1f} s")
    found: dict[str, Any] = {"seconds to build": {p.record.source.graph: p.record.seconds for p, _ in built}}
    cpu, there = (
        Certifier(bundle, sigma=0.5, samples=100, backend=open_backend(name, device=where))
        for name, where in (("onnxruntime", "cpu"), ("tensorrt", device))
    )
    for frame in demo.frames():
        certificates, seconds = [], []
        for certifier in (cpu, there, there):  # TensorRT once more: what it does at its first run is over
            start = time.perf_counter()
            certificates.append(certifier.certify(frame, demo.PROMPT, choices=demo.ACTIONS, seed=SEED))
            seconds.append(time.perf_counter() - start)
        one, _, other = certificates
        assert (one.label, one.certified) == (other.label, other.certified)
        equal = one.votes == other.votes
        say(
            f"  {frame.name}: {other.label} {other.certified}, votes {'equal' if equal else 'DIFFER'}, "
            f"{1e3 * seconds[0]:.0f} / {1e3 * seconds[2]:.0f} ms"
        )
        found[frame.name] = {"equal": equal, "seconds": seconds}
    return found
