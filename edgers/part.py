"""One part of a certificate's samples, and the certificate that all parts make together.

Several devices may share the samples of one certificate: sample i is the same wherever it is drawn. How many
samples there are and how they are parted is laid down in every part before its first vote, and only all parts
together prove something: whoever could choose which parts count would choose by their votes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict, replace

from edgers.smoothing.many import VoteRange, merge_fixed
from edgers_engines.errors import InputError
from edgers_engines.fields import Count
from edgers_engines.records import Record

if TYPE_CHECKING:
    from edgers.certificate import Certificate

MAX_PARTS = 1 << 20
# What may differ between parts: their votes, and the circumstances in which these were cast. The label
# follows from the selection, which may not; without one, from the votes of all parts.
_OWN = {
    "part",
    "label",
    "votes",
    "answers",
    "batch_size",
    "threads",
    "margin",
    "image",
    "timings_ms",
    "samples_spent",
}
# What a person would name first; other fields follow from it.
_FIRST = ("bundle_digest", "image_sha256", "prompt", "oracle", "seed", "n", "parts")


class Part(Record, frozen=True, kw_only=True):
    """Part `number`, from 1, of `of`."""

    number: Count
    of: Count

    def samples(self, n: int) -> range:
        """The indices of its samples, of all n: at least one, and with the other parts' each index once.

        Raises:
            ValueError: there is no such part of n samples.
        """
        if not (2 <= self.of <= min(n, MAX_PARTS) and 1 <= self.number <= self.of):
            raise ValueError(
                f"{n} samples have no part {self.number}/{self.of}: parts are 2 or more, count from 1, and "
                "each has a sample"
            )
        return range(n * (self.number - 1) // self.of, n * self.number // self.of)


def merge(parts: Sequence[Certificate]) -> Certificate:
    """The certificate of all samples.

    Args:
        parts: every part once, in any order.

    Returns:
        What one run of all samples would have certified; times, and the texts of answers, are added up.

    Raises:
        CertificateError: a part does not verify.
        InputError: one is no part, they are not parts of one certificate, or one is missing or there twice.
    """
    from edgers.certificate import VoteRecord, camera_radius
    from edgers.ending import ALL_SAMPLES, RESERVED_SELECTED
    from edgers.oracle.base import winner
    from edgers.poll import TEXTS
    from edgers.verify import verify

    for part in parts:
        verify(part)
    _check_complete(parts)
    first, classes = parts[0], list(parts[0].votes.certification)
    ranges = [
        VoteRange(c.part.samples(c.n)[0], [c.votes.certification[name] for name in classes])
        for c in parts
        if c.part is not None
    ]
    reserved = first.stopped_because == RESERVED_SELECTED
    counts = [0] * len(classes) if reserved else merge_fixed(ranges, first.n)
    votes = VoteRecord(selection=first.votes.selection, certification=dict(zip(classes, counts, strict=True)))
    label = first.label if first.n_selection else winner(votes.certification, first.oracle.classes)
    conclusion = first.rule.conclude(label, votes.certification)
    smallest = [c.margin.smallest for c in parts if c.margin.smallest is not None]
    norm = first.preparation.operator_norm
    return replace(
        first,
        part=None,
        label=label,
        votes=votes,
        stopped_because=RESERVED_SELECTED if reserved else ALL_SAMPLES,
        samples_spent=sum(votes.selection.values()) + sum(counts),
        q_lower=conclusion.q_lower,
        p_lower=conclusion.p_lower,
        certified=conclusion.certified,
        radius=conclusion.radius,
        radius_camera=camera_radius(conclusion.radius, values=first.values, operator_norm=norm),
        batch_size=min(c.batch_size for c in parts),
        threads=max(c.threads for c in parts),
        margin=replace(first.margin, smallest=min(smallest, default=None)),
        answers=dict(Counter(_total([c.answers for c in parts])).most_common(TEXTS)),
        timings_ms={stage: round(ms, 3) for stage, ms in _total([c.timings_ms for c in parts]).items()},
    )


def _check_complete(parts: Sequence[Certificate]) -> None:
    """Refuse what is not every part of one certificate once."""
    from edgers.ending import FROM_OUTSIDE

    if not parts or any(part.part is None for part in parts):
        raise InputError("only parts are merged: make them with `edgers certify --part NUMBER/OF`")
    if any(part.stopped_because in FROM_OUTSIDE for part in parts):
        raise InputError("a part was ended before all its samples were drawn: count it again")
    first = parts[0]
    for part in parts[1:]:
        if other := _difference(first, part):
            raise InputError(f"these are not parts of one certificate: they differ in {other}")
    of = first.part.of if first.part else 0
    found = Counter(part.part.number for part in parts if part.part)
    if wrong := [number for number in range(1, of + 1) if found[number] != 1]:
        what = "missing" if not found[wrong[0]] else "there more than once"
        raise InputError(f"part {wrong[0]} of {of} is {what}; only all parts together prove something")


def _difference(one: Certificate, other: Certificate) -> str | None:
    """The first thing that parts of one certificate have in common and these have not."""
    a, b = asdict(one), asdict(other)
    a["parts"], b["parts"] = (c.part.of if c.part else None for c in (one, other))
    a["selection"], b["selection"] = one.votes.selection, other.votes.selection
    for name in ("guard", "tolerance"):
        a[name], b[name] = getattr(one.margin, name), getattr(other.margin, name)
    return next((name for name in (*_FIRST, *a) if name not in _OWN and a[name] != b[name]), None)


def _total(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: sum(each.get(name, 0) for each in counts) for each in counts for name in each}
