"""Benchmarks that were never measured."""

from __future__ import annotations

from msgspec.structs import replace

from edgers.benchmark.record import (
    Benchmark,
    MachineRecord,
    MemoryRecord,
    Query,
    SettingsRecord,
    WarmUpRecord,
)
from edgers_engines.device_state import DeviceState
from edgers_engines.energy import EnergyRecord
from edgers_engines.engine import EngineRecord

_STATE = DeviceState(clocks_mhz={}, temperatures_c={}, throttling=None, power_mode=None, missing={})
SETTINGS = SettingsRecord(
    scenario="certify",
    bundle="a-bundle",
    bundle_digest="0" * 64,
    image="frame.png",
    image_sha256="1" * 64,
    prompt="Where to?",
    choices=("left", "right"),
    oracle=None,
    sigma=0.25,
    alpha=0.001,
    samples=100,
    selection=16,
    method="fixed",
    target_radius=None,
    batch_size=32,
    seed="0" * 32,
)


def query(
    start: float,
    latency: float,
    *,
    stages: dict[str, float] | None = None,
    samples: int = 116,
    decode_steps: int = 0,
    certified: bool | None = True,
) -> Query:
    """A query that took some milliseconds, and half of them for its first token."""
    return Query(
        start_ms=start,
        latency_ms=latency,
        first_token_ms=latency / 2,
        samples=samples,
        decode_steps=decode_steps,
        stages_ms={} if stages is None else stages,
        certified=certified,
        radius=0.3 if certified else None,
        stopped_because=None if certified is None else "all samples were drawn",
    )


def benchmark(*, queries: tuple[Query, ...], scenario: str = "certify") -> Benchmark:
    """A benchmark of these queries, of nothing in particular."""
    return Benchmark(
        edgers_version="0",
        started_at="2026-01-01T00:00:00+00:00",
        settings=replace(SETTINGS, scenario=scenario),
        machine=MachineRecord(
            processor="a processor",
            system="Linux",
            model=None,
            cores=2,
            memory_bytes=1 << 30,
            threads=2,
            engine=EngineRecord(
                backend="onnxruntime", version="1", device="cpu", provider="CPU", precision="fp32"
            ),
            versions={"edgers": "0"},
        ),
        warm_up=WarmUpRecord(queries=10, seconds=1.0, steady=True, said="steady"),
        queries=queries,
        memory=MemoryRecord(host_peak_bytes=1 << 20, device_peak_bytes=None, device_reason="no GPU"),
        energy=EnergyRecord(joules=None, reason="nobody measured"),
        before=_STATE,
        after=_STATE,
    )
