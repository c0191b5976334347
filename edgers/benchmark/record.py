"""What a benchmark measured: every query and its circumstances; summaries follow from it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from edgers_engines.device_state import DeviceState
from edgers_engines.energy import EnergyRecord
from edgers_engines.engine import EngineRecord
from edgers_engines.errors import InputError
from edgers_engines.fields import Count, NonNegative, Sha256
from edgers_engines.files import read_regular
from edgers_engines.noise import MAX_SIGMA
from edgers_engines.records import Record, dump, parse

MAX_BENCHMARK_BYTES = 64 << 20

_MADE = " (`edgers bench --json FILE` makes one)"

Scenario = Literal["single", "stream", "offline", "certify"]

# In the order of a frame's way. A scenario has those that it times.
STAGES = ("decode image", "prepare", "set up", "noise", "encode", "prefill", "decode", "oracle", "statistics")


class BenchmarkError(InputError):
    """A file that is not a benchmark: wrong usage, so that exit code 1 is left for "slower"."""


class Query(Record, frozen=True, kw_only=True):
    """One measured query: a sample (single), a batch (stream, offline) or a certificate (certify).

    Attributes:
        start_ms: since the first measured query began.
        latency_ms: from its begin to its answer.
        first_token_ms: from its begin until the first token of its first batch was chosen.
        samples: that were asked for.
        failed: how many of these gave no answer; their time is in the query's.
        decode_steps: passes of the decoder after the prefill.
        stages_ms: time of each stage. "noise" is the time that the model waited for it.
        certified: whether its certificate certified, in the scenario certify.
        radius: what it certified.
        stopped_because: why no more samples were drawn, in the scenario certify.
    """

    start_ms: Annotated[float, Meta(ge=0, le=1e12)]
    latency_ms: Annotated[float, Meta(ge=1e-6, le=1e12)]  # a nanosecond to thirty years
    first_token_ms: NonNegative
    samples: Count
    failed: Annotated[int, Meta(ge=0)] = 0
    decode_steps: Annotated[int, Meta(ge=0)]
    stages_ms: dict[str, NonNegative]
    certified: bool | None = None
    radius: NonNegative | None = None
    stopped_because: str | None = None


class SettingsRecord(Record, frozen=True, kw_only=True):
    """What was asked: two benchmarks with other settings do not measure the same.

    Attributes:
        bundle: its model's name.
        bundle_digest: the identity of what answers.
        image: the frame's name.
        image_sha256: of the frame.
        batch_size: samples that are answered at once.
        seed: of the noise, the same in every run, for a benchmark certifies nothing. In the scenario certify
            query i has (seed + i), else the samples are those of this seed, in order.
    """

    scenario: Scenario
    bundle: str
    bundle_digest: Sha256
    image: str
    image_sha256: Sha256
    prompt: str
    choices: tuple[str, ...] | None
    oracle: str | None
    sigma: Annotated[float, Meta(gt=0, le=MAX_SIGMA)]
    alpha: Annotated[float, Meta(gt=0, lt=0.5)]
    samples: Count
    selection: Annotated[int, Meta(ge=0)]
    method: str
    target_radius: float | None
    batch_size: Count
    seed: str


class MachineRecord(Record, frozen=True, kw_only=True):
    """Where it was measured.

    Attributes:
        processor: its own name.
        system: of the operating system, with the kernel's version.
        model: the board's name, as a Jetson says it; None elsewhere.
        cores: that this process may use.
        memory_bytes: of the host.
        threads: that one engine computes with.
        engine: what ran the graphs.
        versions: of what matters to speed, by name.
    """

    processor: str
    system: str
    model: str | None
    cores: Count
    memory_bytes: Count
    threads: Count
    engine: EngineRecord
    versions: dict[str, str]


class WarmUpRecord(Record, frozen=True, kw_only=True):
    """What ran before anything was kept.

    Attributes:
        queries: how many.
        seconds: how long.
        steady: whether latencies had stopped falling, and did not rise, when it ended.
        said: how that was judged.
    """

    queries: Count
    seconds: NonNegative
    steady: bool
    said: str


class MemoryRecord(Record, frozen=True, kw_only=True):
    """The most bytes that this process held.

    Attributes:
        host_peak_bytes: resident, from its start to the end of the last query.
        device_peak_bytes: of a GPU's own memory; None where there is none, or it does not say.
        device_reason: why there is none.
    """

    host_peak_bytes: Count
    device_peak_bytes: Count | None
    device_reason: str | None


class Benchmark(Record, frozen=True, kw_only=True):
    """One run of `edgers bench`.

    Attributes:
        started_at: of the first measured query, in UTC, as ISO 8601 writes it.
        queries: in the order in which they were asked.
        energy: of the measured span, warm-up excluded.
        before: the device's state when the measured span began.
        after: when it ended.
    """

    schema_version: Literal[1] = 1
    edgers_version: str
    started_at: str
    settings: SettingsRecord
    machine: MachineRecord
    warm_up: WarmUpRecord
    queries: Annotated[tuple[Query, ...], Meta(min_length=1)]
    memory: MemoryRecord
    energy: EnergyRecord
    before: DeviceState
    after: DeviceState

    def __post_init__(self) -> None:
        """Refuse a clock that went back: spans would be negative."""
        if any(later.start_ms < earlier.start_ms for earlier, later in pairwise(self.queries)):
            raise ValueError("the queries are not in the order in which they began")

    def to_json(self) -> bytes:
        """UTF-8 JSON, indented."""
        return dump(self)

    @classmethod
    def load(cls, path: str | Path) -> Benchmark:
        """Read a benchmark.

        Raises:
            BenchmarkError: the file cannot be read, or is not a benchmark of this version.
        """
        try:
            return parse(read_regular(Path(path), MAX_BENCHMARK_BYTES), cls)
        except OSError as error:
            raise BenchmarkError(
                f"cannot read the benchmark {str(path)!r}: {error.strerror}{_MADE}"
            ) from None
        except ValueError as error:
            raise BenchmarkError(f"{path} is not a benchmark: {error}{_MADE}") from None
