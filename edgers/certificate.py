"""The certificate: one JSON record, enough to check it offline and to replay it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from edgers.accounting import Accounting
from edgers.assumption import Assumption, mode_of
from edgers.ending import Ending
from edgers.oracle.base import OracleRecord
from edgers.part import Part
from edgers.rule import Method, Rule
from edgers.smoothing.radius import linf_radius
from edgers_engines.engine import EngineRecord
from edgers_engines.errors import EdgersError
from edgers_engines.fields import Count, NonNegative, Sha256, Token
from edgers_engines.files import read_regular
from edgers_engines.image import CameraSide, Preparation
from edgers_engines.noise import LATTICE_STEP
from edgers_engines.records import Record, dump, parse

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

    `label` is the class that the selection chose, or, with an `n_selection` of 0, the one with the most votes
    in `certification`; certified or not: `answer` is the certified class. Where a
    target radius was asked for, `certified` says that it is reached; `radius` is then what is proven, also
    where that is less. Within it the class keeps a probability of at least `floor` under noise.
    A `part` counts some of the n samples and proves nothing; `edgers.part.merge` makes one of all.
    `alpha` is the level it was made at; `accounting` says of how many certificates it is one.
    `radius` is in the canvas' unit (values in [0, 1]), `radius_camera` in camera pixels scaled to [0, 1].
    `teacher` labelled votes for the mode audit, where this was done as they were counted.
    `answers` counts the most frequent generated texts, for a person; nothing is concluded from it.
    """

    schema_version: Literal[3] = 3
    label: str
    certified: bool
    radius: float | None
    radius_camera: float | None
    q_lower: float
    p_lower: float
    votes: VoteRecord
    n: Count
    part: Part | None
    n_selection: Annotated[int, Meta(ge=0, le=1 << 40)]
    alpha: Annotated[float, Meta(gt=0, lt=0.5)]
    accounting: Accounting
    sigma: float
    method: Method
    target_radius: Annotated[float, Meta(gt=0)] | None
    look_every: Count | None
    first_look: Count | None = None
    floor: Annotated[float, Meta(ge=0.5, lt=1)]
    assumption: Assumption
    norm: Literal["L2"]
    space: Literal["canvas"]
    preparation: PreparationRecord
    seed: Seed
    seed_source: Literal["operating system", "given"]
    sampler: SamplerRecord
    samples_spent: Annotated[int, Meta(ge=0)]
    stopped_because: Ending
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
    teacher: OracleRecord | None
    answers: dict[str, int]
    timings_ms: dict[str, float]
    edgers_version: str

    @property
    def answer(self) -> str | None:
        """The certified class; None on abstention."""
        return self.label if self.certified else None

    @property
    def rule(self) -> Rule:
        """What was laid down before the votes.

        Raises:
            ValueError: the fields do not fit each other.
        """
        return Rule(
            samples=self.n,
            alpha=self.alpha,
            sigma=self.sigma,
            method=self.method,
            target_radius=self.target_radius,
            look_every=self.look_every,
            first_look=self.first_look,
            mode=mode_of(self.assumption),
            total_variation=self.sampler.total_variation,
            floor=self.floor,
            selected=self.n_selection > 0,
        )

    @property
    def samples_counted(self) -> int:
        """The certification samples that were drawn; n, where nothing ended them early."""
        return sum(self.votes.certification.values())

    @property
    def values(self) -> int:
        """How many numbers the canvas holds: 3 * height * width."""
        return 3 * math.prod(self.preparation.canvas_size)

    @property
    def largest_uniform_change(self) -> float | None:
        """The radius as the largest change of every value at once, in steps of 1/255; None without one."""
        return 255 * linf_radius(self.radius, self.values) if self.radius else None

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
            old = " (edgers reads schema 3: certify anew)" * ("$.schema_version" in str(error))
            raise CertificateError(f"{path} is not a certificate: {error}{old}") from None


def camera_radius(radius: float | None, *, values: int, operator_norm: float) -> float | None:
    """The radius in camera pixels, values scaled to [0, 1].

    2^-20 * sqrt(values) is subtracted before the division: two images that are off the lattice each move by
    up to half a step per value when they are put on it.

    Args:
        radius: on the canvas.
        values: how many numbers the canvas holds.
        operator_norm: of the map from camera to canvas.
    """
    if radius is None:
        return None
    return max((radius - _LATTICE_SHIFT * math.sqrt(values)) / operator_norm, 0.0)
