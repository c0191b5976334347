"""The certificate: one JSON record, enough to check it offline and to replay it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from edgers.oracle.base import RESERVED, OracleRecord
from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.radius import certified_radius
from edgers_engines.engine import EngineRecord
from edgers_engines.errors import EdgersError
from edgers_engines.files import read_regular
from edgers_engines.image import CameraSide, Preparation
from edgers_engines.manifest import Count, NonNegative, Sha256, Token
from edgers_engines.noise import LATTICE_STEP
from edgers_engines.records import Record, dump, parse

FLOOR = 0.5  # a certified class keeps the majority; other floors are a matter of `edgers radius`
ALL_SAMPLES: Literal["all samples were drawn"] = "all samples were drawn"
RESERVED_SELECTED: Literal["the selection chose a class that is never certified"] = (
    "the selection chose a class that is never certified"
)

MAX_CERTIFICATE_BYTES = 4 << 20

# When two canvases are put on the lattice, each moves by at most half a step per value; the rounding of the
# float64 sums that made them is far below the millionth that is added here.
_LATTICE_SHIFT = LATTICE_STEP * (1 + 1e-6)

Seed = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Votes = dict[str, Annotated[int, Meta(ge=0)]]


class CertificateError(EdgersError):
    """A certificate that cannot be read, does not follow from its own counts, or does not replay."""


class VoteRecord(Record, frozen=True, kw_only=True):
    """Votes of every class, the reserved ones too; no sample is in both counts."""

    selection: Votes
    certification: Votes


class Assumption(Record, frozen=True, kw_only=True):
    """What the certificate takes for granted; `calibration` holds counts in the modes that need them."""

    mode: Literal["composite"]
    parameters: dict[str, float]
    calibration: None
    sentence: str


class PreparationRecord(Record, frozen=True, kw_only=True):
    """How the camera image became the canvas; sizes are (height, width) in pixels."""

    camera_size: tuple[CameraSide, CameraSide]
    canvas_size: tuple[CameraSide, CameraSide]
    steps: Preparation
    rotated_by_exif: bool
    operator_norm: NonNegative


class SamplerRecord(Record, frozen=True, kw_only=True):
    """Which noise was drawn, and how far its law is from the ideal one at most."""

    name: str
    total_variation: NonNegative


class MarginRecord(Record, frozen=True, kw_only=True):
    """The margin guard, and the smallest lead (in logits) of a chosen token; null when none had a rival."""

    guard: bool
    tolerance: NonNegative
    smallest: float | None


class DecodingRecord(Record, frozen=True, kw_only=True):
    """How answers were decoded."""

    method: Literal["greedy"]
    constrained: bool
    max_new_tokens: Count
    end_tokens: tuple[Token, ...]


class Certificate(Record, frozen=True, kw_only=True):
    """The claim, its evidence and its circumstances. Abstaining is a result: `certified` is then false.

    `label` is the class that the selection chose, certified or not; `answer` is the certified class.
    `radius` is in the canvas' unit (values in [0, 1]), `radius_camera` in camera pixels scaled to [0, 1].
    `answers` counts the most frequent generated texts, for a person; nothing is concluded from it.
    """

    schema_version: Literal[1] = 1
    label: str
    certified: bool
    radius: float | None
    radius_camera: float | None
    q_lower: float
    p_lower: float
    votes: VoteRecord
    n: Count
    n_selection: Count
    alpha: Annotated[float, Meta(gt=0, lt=0.5)]
    sigma: float
    method: Literal["fixed"]
    target_radius: None
    floor: float
    assumption: Assumption
    norm: Literal["L2"]
    space: Literal["canvas"]
    preparation: PreparationRecord
    seed: Seed
    seed_source: Literal["operating system", "given"]
    sampler: SamplerRecord
    samples_spent: Count
    stopped_because: Literal["all samples were drawn", "the selection chose a class that is never certified"]
    batch_size: Count
    threads: Count
    margin: MarginRecord
    bundle_digest: Sha256
    engine: EngineRecord
    decoding: DecodingRecord
    prompt: str
    image: str | None
    image_sha256: Sha256
    oracle: OracleRecord
    answers: dict[str, int]
    timings_ms: dict[str, float]
    edgers_version: str

    @property
    def answer(self) -> str | None:
        """The certified class; None on abstention."""
        return self.label if self.certified else None

    @property
    def values(self) -> int:
        """How many numbers the canvas holds: 3 * height * width."""
        return 3 * math.prod(self.preparation.canvas_size)

    @property
    def largest_uniform_change(self) -> float | None:
        """The radius as the largest change of every value at once, in steps of 1/255; None on abstention."""
        return None if self.radius is None else self.radius / math.sqrt(self.values) * 255

    def to_json(self) -> bytes:
        """UTF-8 JSON, indented."""
        return dump(self)

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read a certificate; `edgers.verify` checks whether it follows from its counts.

        Raises:
            CertificateError: the file cannot be read, or is not a certificate of this version.
        """
        try:
            data = read_regular(Path(path), MAX_CERTIFICATE_BYTES)
        except OSError as error:
            raise CertificateError(f"cannot read the certificate {str(path)!r}: {error.strerror}") from None
        try:
            return parse(data, cls)
        except ValueError as error:
            raise CertificateError(f"{path} is not a certificate: {error}") from None


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What follows from the counts; the field names are the certificate's."""

    q_lower: float
    p_lower: float
    certified: bool
    radius: float | None
    radius_camera: float | None


def conclude(
    label: str,
    votes: Votes,
    *,
    alpha: float,
    sigma: float,
    total_variation: float,
    values: int,
    operator_norm: float,
) -> Conclusion:
    """Draw the composite conclusion for one class; `verify` draws it again.

    q_lower is the Clopper-Pearson bound; p_lower is lower by the sampler's total variation distance from
    ideal noise. The camera's radius subtracts 2^-20 * sqrt(values): two images that are off the lattice each
    move by up to half a step per value when they are put on it.

    Args:
        label: the class, chosen without these votes.
        votes: the certification samples' votes.
        alpha: error level.
        sigma: noise, in the canvas' unit.
        total_variation: bound for one sample's noise.
        values: how many numbers the canvas holds.
        operator_norm: of the map from camera to canvas.
    """
    if label in RESERVED:
        return Conclusion(q_lower=0.0, p_lower=0.0, certified=False, radius=None, radius_camera=None)
    q_lower = clopper_pearson_lower(votes[label], sum(votes.values()), alpha)
    p_lower = q_lower.minus(total_variation)
    radius = certified_radius(p_lower, sigma, FLOOR)
    camera = None
    if radius is not None:
        camera = max((radius - _LATTICE_SHIFT * math.sqrt(values)) / operator_norm, 0.0)
    return Conclusion(q_lower.value, p_lower.value, radius is not None, radius, camera)
