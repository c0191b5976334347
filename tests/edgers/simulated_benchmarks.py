"""Benchmarks as a small board might measure them: correlated latencies, rare spikes, falling power."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace
from scipy.signal import lfilter

from edgers.benchmark.record import (
    Benchmark,
    MachineRecord,
    MemoryRecord,
    Query,
    WarmUpRecord,
)
from edgers_engines.device_state import DeviceState
from edgers_engines.energy import EnergyRecord
from edgers_engines.engine import EngineRecord
from tests.edgers.benchmarks import SETTINGS

SHARES = {
    "decode image": 0.015,
    "prepare": 0.03,
    "set up": 0.01,
    "noise": 0.06,
    "encode": 0.46,
    "prefill": 0.27,
    "decode": 0.12,
    "oracle": 0.004,
    "statistics": 0.001,
}
STATE = DeviceState(
    clocks_mhz={"cpu0": 2201.6, "gpu": 1300.5},
    temperatures_c={"cpu-thermal": 61.5, "gpu-thermal": 58.0},
    throttling=(),
    power_mode="MAXN",
    missing={"fan": "no such sensor"},
)


def correlated(rng, count, correlation):
    """A stationary autoregression of order 1 with variance 1."""
    noise = rng.standard_normal(count + 200)
    return lfilter([1], [1, -correlation], noise)[200:] * np.sqrt(1 - correlation**2)


def latencies(rng, count, *, correlation=0.6, work=1.0):
    """Milliseconds: 5% of slow variation, and in one query of thirty something else had the machine."""
    slow = np.exp(0.05 * correlated(rng, count, correlation) + 0.01 * rng.standard_normal(count))
    spikes = (rng.random(count) < 1 / 30) * rng.exponential(0.25, count)
    return 180 * work * (slow + spikes)


def queries(times, rng, *, certified=0.92, samples=116):
    """Queries of these latencies, one after the other, with the stages of a certificate."""
    begins = np.concatenate([[0.0], np.cumsum(times[:-1] + 0.2)])
    found = []
    for start, latency in zip(begins.tolist(), times.tolist(), strict=True):
        stages = {name: share * latency * rng.uniform(0.94, 1.06) for name, share in SHARES.items()}
        proven = bool(rng.random() < certified)
        found.append(
            Query(
                start_ms=start,
                latency_ms=latency,
                first_token_ms=latency * rng.uniform(0.2, 0.24),
                samples=samples,
                decode_steps=12,
                stages_ms=stages,
                certified=proven,
                radius=float(rng.choice([0.2127, 0.2871, 0.3751])) if proven else None,
                stopped_because="all samples were drawn",
            )
        )
    return tuple(found)


def simulated(rng=None, *, count=240, times=None, settings=(), **fields):
    """A benchmark of `count` certificates; `settings` and `fields` replace what it says."""
    rng = np.random.default_rng(0) if rng is None else rng
    times = latencies(rng, count) if times is None else times
    asked = queries(times, rng)
    seconds = (asked[-1].start_ms + asked[-1].latency_ms) / 1000
    readings = max(int(seconds * 10), 1)
    watts = 14 + 3 * np.exp(-np.arange(readings) / 40) + 0.4 * rng.standard_normal(readings)
    benchmark = Benchmark(
        edgers_version="0.7.0",
        started_at="2026-11-23T18:00:00+00:00",
        settings=replace(
            SETTINGS,
            bundle="corridor-0.8M",
            bundle_digest="3f" * 32,
            image="corridor-017.png",
            image_sha256="a9" * 32,
            prompt="what should the robot do ?",
            choices=("forward", "left", "right", "stop"),
        ),
        machine=MachineRecord(
            processor="ARMv8 Processor rev 1 (v8l)",
            system="Linux 5.15.148-tegra",
            model="NVIDIA Jetson AGX Orin Developer Kit",
            cores=12,
            memory_bytes=64_347_500_544,
            threads=12,
            engine=EngineRecord(
                backend="tensorrt", version="10.3.0", device="Orin", provider="TensorRT", precision="fp16"
            ),
            versions={
                "edgers": "0.7.0",
                "numpy": "2.4.1",
                "JetPack": "6.2",
                "CUDA": "12.6",
                "python": "3.10.12",
            },
        ),
        warm_up=WarmUpRecord(
            queries=14, seconds=2.7, steady=True, said="the last 5 were no faster than the 5 before"
        ),
        queries=asked,
        memory=MemoryRecord(
            host_peak_bytes=913 << 20,
            device_peak_bytes=None,
            device_reason="the GPU shares the host's memory",
        ),
        energy=EnergyRecord(
            joules=float(watts.mean() * seconds),
            source="INA3221",
            rail="VDD_IN",
            interval_ms=100.0,
            watts=tuple(float(w) for w in watts),
            seconds=tuple(i / 10 for i in range(readings)),
        ),
        before=STATE,
        after=replace(STATE, temperatures_c={"cpu-thermal": 66.0, "gpu-thermal": 63.5}),
    )
    benchmark = replace(benchmark, settings=replace(benchmark.settings, **dict(settings)))
    return replace(benchmark, **fields)
