"""The roofline of a bundle on a device: how long its graphs take, and how long they must take at least.

A graph that needs W operations and B bytes takes no less than max(W / peak, B / bandwidth) (Williams,
Waterman, Patterson, *Roofline*, CACM 52(4), 2009). `edgers_engines.graph_work` counts both,
`edgers_engines.peaks` measures what the machine can do. For a device that is not here the roofs are what its
maker states, and times are predictions: of the limit, which nothing reaches, or of a share of it that the
caller gives.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec.structs import replace

from edgers_engines.bundle import Bundle
from edgers_engines.decoder_graph import DecoderGraph
from edgers_engines.device_profile import DeviceProfile, Figure
from edgers_engines.errors import InputError
from edgers_engines.fields import Count, NonNegative
from edgers_engines.graph_work import Work
from edgers_engines.memory_plan import fewest_positions, plan_memory
from edgers_engines.peaks import Peaks, Rate, backend_name, measure_peaks
from edgers_engines.records import Record
from edgers_engines.stages import Sizes, StageName, stage_works, time_stages
from edgers_engines.vlm import VisionLanguageModel

_SAME_PEAK = {"bfloat16": "float16"}  # of what NVIDIA publishes, from Ampere on


class Roof(Record, frozen=True, kw_only=True):
    """Bytes or operations a second that a device does at most, or None where it is not known.

    Attributes:
        source: where it is from, or why it is not known.
    """

    per_second: NonNegative | None
    source: str


class Roofs(Record, frozen=True, kw_only=True):
    """What a device does at most.

    Attributes:
        device: its name.
        bandwidth: of its memory.
        peaks: of products, by the type of the numbers that are multiplied.
    """

    device: str
    bandwidth: Roof
    peaks: dict[str, Roof]

    def peak(self, kind: str) -> Roof:
        """Of products of such numbers; of bfloat16 float16's, where nothing else is stated."""
        found = self.peaks.get(kind) or self.peaks.get(_SAME_PEAK.get(kind, ""))
        return found or Roof(per_second=None, source="nothing is stated of it")


class Stage(Record, frozen=True, kw_only=True):
    """One run of one graph for all rows.

    Attributes:
        work: what it takes.
        limit_seconds: the least time.
        bound_by: which roof makes it so long.
        seconds: the median that was measured, or what is predicted.
        spread: the shortest and the longest time, where it was measured.
    """

    name: StageName
    work: Work
    limit_seconds: NonNegative
    bound_by: Literal["compute", "memory"]
    seconds: NonNegative
    spread: tuple[NonNegative, NonNegative] | None = None

    @property
    def share(self) -> float:
        """How much of the limit is reached."""
        return self.limit_seconds / self.seconds

    @property
    def flops_per_second(self) -> float:
        """Operations of products a second, those that the result needs."""
        return self.work.total_flops / self.seconds


class Roofline(Record, frozen=True, kw_only=True):
    """A bundle's stages on one device, and what a certificate takes by them.

    Attributes:
        bundle: the digest of what was counted.
        prediction: whether the device is not here; then no time was measured.
        assumed_share: of the limit, in a prediction.
        fits: whether so many rows fit into the device's memory, in a prediction.
        rows: samples that are answered at once.
        positions: of the question, also those that all rows share.
        tokens: of an answer.
        samples: of a certificate, those that choose the class too.
    """

    bundle: str
    prediction: bool
    assumed_share: NonNegative | None = None
    fits: bool | None = None
    roofs: Roofs
    rows: Count
    positions: Count
    tokens: Count
    samples: Count
    stages: tuple[Stage, ...]

    @property
    def certificate_seconds(self) -> float:
        """Vision, prefill, and a step for every token but the first, for as many batches as the samples make.

        What is no graph is left out, and the positions that rows share; that rows leave the batch when their
        answer ends, too.
        """
        return self._certificate([stage.seconds for stage in self.stages])

    @property
    def certificate_limit_seconds(self) -> float:
        """The same at the limit."""
        return self._certificate([stage.limit_seconds for stage in self.stages])

    def _certificate(self, seconds: list[float]) -> float:
        vision, prefill, step = seconds
        return self.samples / self.rows * (vision + prefill + (self.tokens - 1) * step)


def measured_roofs(peaks: Peaks, device: str, threads: int) -> Roofs:
    """Of the machine that this runs on."""
    noun = "thread" if threads == 1 else "threads"

    def roof(rate: Rate, unit: str) -> Roof:
        spread = (
            f"{rate.least / 1e9:.4g} to {rate.best / 1e9:.4g} {unit} in {rate.tries} tries, "
            f"median {rate.median / 1e9:.4g}"
        )
        return Roof(per_second=rate.best, source=f"measured by {rate.by}, {threads} {noun}: {spread}")

    return Roofs(
        device=device,
        bandwidth=roof(peaks.bandwidth, "GB/s"),
        peaks={kind: roof(rate, "GFLOP/s") for kind, rate in peaks.products.items()},
    )


def published_roofs(profile: DeviceProfile) -> Roofs:
    """What its maker states of a kind of device."""

    def roof(figure: Figure) -> Roof:
        return Roof(per_second=figure.per_second, source=figure.source)

    peaks: dict[str, Roof] = {kind: roof(figure) for kind, figure in profile.peaks.items()}
    return Roofs(device=profile.title, bandwidth=roof(profile.bandwidth), peaks=peaks)


def limit(work: Work, roofs: Roofs) -> tuple[float, Literal["compute", "memory"]]:
    """The least seconds that work takes under roofs, and which of them binds.

    Raises:
        InputError: a roof that is needed is not known; the text says why.
    """
    compute = 0.0
    for kind, flops in work.flops.items():
        compute += flops / _known(roofs, f"peak of products in {kind}", roofs.peak(kind))
    transfer = work.nbytes / _known(roofs, "bandwidth", roofs.bandwidth)
    return (compute, "compute") if compute >= transfer else (transfer, "memory")


def _known(roofs: Roofs, what: str, roof: Roof) -> float:
    if not roof.per_second:
        raise InputError(f"no limit is known for {roofs.device}, for its {what} is not: {roof.source}")
    return roof.per_second


def measure(
    model: VisionLanguageModel, sizes: Sizes, samples: int, profile: DeviceProfile | None = None
) -> Roofline:
    """Run each graph for real, and compare with what the machine can do.

    Args:
        model: loaded, on the backend that is judged.
        sizes: what is run.
        samples: of a certificate.
        profile: the machine's kind, whose published figures are the roofs; they are measured unless given.

    Raises:
        InputError: a roof that the work needs is not known, or the model takes no such sizes.
        MemoryError: there is not as much as the rows need.
        BackendError: a graph failed, or the backend loads no product to be measured by.
    """
    if profile is None:
        works = stage_works(model.bundle, sizes, model.decoder_graph).values()
        kinds = sorted({kind for work in works for kind in work.flops})
        name = f"{model.backend.record('fp32').device} by {backend_name(model.backend)}"
        roofs = measured_roofs(measure_peaks(model.backend, kinds), name, model.backend.threads)
    else:
        roofs = published_roofs(profile)
    times = time_stages(model, sizes)
    return compare(model.bundle, roofs, sizes, samples, times, decoder=model.decoder_graph)


def compare(
    bundle: Bundle,
    roofs: Roofs,
    sizes: Sizes,
    samples: int,
    times: Mapping[StageName, Sequence[float]],
    *,
    decoder: DecoderGraph | None = None,
) -> Roofline:
    """Times that somebody measured, beside the limit.

    Args:
        bundle: verified bundle.
        roofs: of the machine that they were measured on.
        sizes: what was run.
        samples: of a certificate.
        times: seconds of one run of each stage, in several tries.
        decoder: the graph that decoded; the standard one unless given.

    Raises:
        InputError: a roof that the work needs is not known.
    """
    stages = []
    for name, work in stage_works(bundle, sizes, decoder).items():
        least, bound_by = limit(work, roofs)
        stages.append(
            Stage(
                name=name,
                work=work,
                limit_seconds=least,
                bound_by=bound_by,
                seconds=statistics.median(times[name]),
                spread=(min(times[name]), max(times[name])),
            )
        )
    return _roofline(bundle, sizes, samples, roofs, stages)


def predict(
    bundle: Bundle, profile: DeviceProfile, sizes: Sizes, samples: int, share: float = 1.0
) -> Roofline:
    """What the graphs take on a device that is not here, by what its maker states.

    Args:
        bundle: verified bundle.
        profile: the device.
        sizes: what would be run.
        samples: of a certificate.
        share: of the limit that is assumed to be reached; 1 gives the limit itself, which nothing reaches.

    Raises:
        InputError: a roof that the work needs is not known, or the share is not within (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of the limit is {share}; it must be above 0 and at most 1")
    roofs, stages = published_roofs(profile), []
    for name, work in stage_works(bundle, sizes).items():
        least, bound_by = limit(work, roofs)
        stages.append(
            Stage(name=name, work=work, limit_seconds=least, bound_by=bound_by, seconds=least / share)
        )
    positions = max(sizes.length, fewest_positions(bundle.manifest))
    return replace(
        _roofline(bundle, sizes, samples, roofs, stages),
        prediction=True,
        assumed_share=share,
        fits=plan_memory(bundle, positions).rows(profile.free_bytes) >= sizes.rows,
    )


def _roofline(bundle: Bundle, sizes: Sizes, samples: int, roofs: Roofs, stages: list[Stage]) -> Roofline:
    return Roofline(
        bundle=bundle.digest,
        prediction=False,
        roofs=roofs,
        rows=sizes.rows,
        positions=sizes.prefix + sizes.new,
        tokens=sizes.tokens,
        samples=samples,
        stages=tuple(stages),
    )
