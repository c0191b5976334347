"""Does a certificate follow from its own counts, and does the model still give those counts?"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from edgers.accounting import accounting
from edgers.assumption import assumption, mode_of
from edgers.certificate import Certificate, CertificateError, camera_radius
from edgers.certify import Certifier
from edgers.ending import CANCELLED, FROM_OUTSIDE, ONE_PART, RESERVED_SELECTED, ending
from edgers.oracle.base import RESERVED, UNDECIDED, OracleRecord, winner
from edgers.oracle.choices import choices_record
from edgers.oracle.clusters import Clusters, is_name
from edgers.oracle.named import open_defined
from edgers.poll import Progress
from edgers.rule import Rule
from edgers.smoothing.oracle_error import Audit
from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend, open_backend
from edgers_engines.errors import ImageError, InputError
from edgers_engines.image import CameraImage, operator_norm
from edgers_engines.noise import SAMPLERS, check_sigma, total_variation_bound

_TOLERANCE = 1e-9  # relative: another scipy may differ in the last digits

_REPLAYED = (
    "image_sha256",
    "oracle",
    "decoding",
    "preparation",
    "sampler",
    "votes",
    "label",
    "teacher",
    "assumption",
    "certified",
    "radius",
)


def verify(certificate: Certificate) -> None:
    """Recompute everything that follows from the counts, whatever the verdict was.

    Raises:
        CertificateError: names the first field that does not follow from the others.
    """
    try:
        check_sigma(certificate.sigma)
        mismatch = next((claim for claim in _claims(certificate) if not _agree(*claim[1:])), None)
    except (ValueError, ImageError) as error:
        raise CertificateError(f"the certificate is inconsistent: {error}") from None
    if mismatch is not None:
        field, found, expected = mismatch
        raise CertificateError(
            f"{field} is {_short(found)}, but {_short(expected)} follows from the other fields: it was "
            "changed or is faulty, do not rely on it"
        )


def _claims(c: Certificate) -> Iterator[tuple[str, object, object]]:
    """Field, what it says, what follows; in an order in which each rests on those before it."""
    selection, votes = c.votes.selection, c.votes.certification
    classes = {*c.oracle.classes, *RESERVED}
    yield "oracle.classes without repeats", len(set(c.oracle.classes) - set(RESERVED)), len(c.oracle.classes)
    yield "votes.selection's classes", sorted(selection), sorted(classes)
    yield "votes.certification's classes", sorted(votes), sorted(classes)
    negative = min(0, *selection.values(), *votes.values())  # which a file cannot hold, but an object can
    yield "the least count of votes", negative, 0
    if c.oracle.clusters:
        yield "whether a selection chose the cluster", c.n_selection > 0, True
    yield "label", c.label, winner(selection if c.n_selection else votes, c.oracle.classes)
    yield "assumption", c.assumption, assumption(mode_of(c.assumption), judged=c.oracle.judged)
    counted = c.accounting
    yield "accounting", counted, accounting(counted.kind, counted.total_alpha, counted.number)
    yield "alpha", c.alpha, counted.alpha
    audited = c.assumption.mode if c.teacher is not None else Audit.name
    yield "assumption.mode of an audit", (audited, c.method if c.teacher else "fixed"), (Audit.name, "fixed")
    if c.teacher is not None:
        yield from _audit(c, c.teacher)
    yield "preparation.canvas_size", c.preparation.canvas_size, c.preparation.steps.canvas_size
    yield "sampler.name", c.sampler.name, SAMPLERS.get(c.engine.device.partition(":")[0])
    if c.engine.decoder != "decoder":
        where = c.engine.backend, c.engine.provider, c.engine.device.partition(":")[0]
        yield "engine of a decoder for CUDA", where, ("onnxruntime", "CUDAExecutionProvider", "cuda")
    yield "sampler.total_variation", c.sampler.total_variation, total_variation_bound(c.values, c.sigma)
    rule = c.rule
    yield from _samples(c, rule, sum(selection.values()), sum(votes.values()))
    if c.first_look is not None:  # without it, the looks are even
        yield "first_look", c.first_look, rule.looking_early.first_look
    yield "decoding.constrained", c.decoding.constrained, c.oracle.kind == "choices"
    if c.oracle.kind == "choices":
        yield "oracle", c.oracle, choices_record(c.oracle.classes)
    if c.oracle.clusters:
        yield "oracle.classes", c.oracle.classes, tuple(filter(is_name, c.oracle.classes[:1]))
    if c.margin.guard and c.margin.smallest is not None and not (selection[UNDECIDED] or votes[UNDECIDED]):
        yield "margin.tolerance is below the smallest margin", c.margin.tolerance < c.margin.smallest, True
    norm = operator_norm(c.preparation.camera_size, c.preparation.steps)
    yield "preparation.operator_norm", c.preparation.operator_norm, norm
    conclusion = rule.conclude(c.label, votes)
    for field in ("q_lower", "p_lower", "certified", "radius"):
        yield field, getattr(c, field), getattr(conclusion, field)
    camera = camera_radius(c.radius, values=c.values, operator_norm=norm)
    yield "radius_camera", c.radius_camera, camera


def _audit(c: Certificate, teacher: OracleRecord) -> Iterator[tuple[str, object, object]]:
    """Could this teacher have agreed so often? It reads texts alone, all of them votes for the label."""
    yield "part of an audit", c.part, None
    read = c.oracle.kind != "choices" and teacher.kind in {"rules", "classifier", "judge"}
    yield "whether oracle and teacher of an audit read texts", read, True
    mode = mode_of(c.assumption)
    correct = mode.correct if isinstance(mode, Audit) else 0
    most = c.votes.certification[c.label] if c.label in {*teacher.classes, *RESERVED} else 0
    yield "assumption.calibration.correct", correct, min(correct, most)


def _samples(c: Certificate, rule: Rule, selected: int, counted: int) -> Iterator[tuple[str, object, object]]:
    """Are there as many votes as the rule and the reason for stopping allow?"""
    # Who cancels a fixed number of samples gets a certificate that proves nothing. It has no deadline.
    outside = c.stopped_because == CANCELLED or (c.stopped_because in FROM_OUTSIDE and c.method != "fixed")
    selecting = outside and counted == 0 and selected < c.n_selection
    yield "n_selection", c.n_selection, c.n_selection if selecting else selected
    if c.part is not None:
        yield "method of a part", c.method, "fixed"
    drawn = range(c.n) if c.part is None else c.part.samples(c.n)
    most = 0 if rule.selected and c.label in RESERVED else len(drawn)
    whole = c.method == "fixed" and not outside
    yield "votes.certification's sum", counted, most if whole else min(counted, most)
    because = None if selecting else ending(rule, c.label, c.votes.certification)
    if c.part is not None and not outside:
        because = because or ONE_PART
    # Clusters may run out of time while they compare: then the selection has no class.
    if outside and because in (None, RESERVED_SELECTED):
        because = c.stopped_because
    yield "stopped_because", c.stopped_because, because
    yield "samples_spent", c.samples_spent, selected + counted


def _agree(found: object, expected: object) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=_TOLERANCE)
    return found == expected


def replay(
    certificate: Certificate,
    bundle: Bundle,
    image: str | Path | None = None,
    *,
    beside: Path | None = None,
    oracle: Path | None = None,
    teacher: Path | None = None,
    progress: Progress = lambda _samples: None,
) -> Certificate:
    """Run the model again from the certificate's seed and compare the votes.

    Args:
        certificate: already verified.
        bundle: the bundle it names.
        image: where the image is now; where the certificate says unless given.
        beside: the certificate's folder, where an image that moved with it is looked for.
        oracle: the file that defines the certificate's oracle, if the bundle does not.
        teacher: the file that defines the teacher of its audit, if the bundle does not.
        progress: called with the number of samples done since the last call.

    Returns:
        The certificate of the second run.

    Raises:
        CertificateError: another bundle, image or oracle, or other votes.
    """
    c = certificate
    if bundle.digest != c.bundle_digest:
        raise CertificateError(
            f"the certificate is for the bundle {c.bundle_digest[:16]}..., but {bundle.path} is "
            f"{bundle.digest[:16]}...: give the right one with --bundle"
        )
    camera = CameraImage.of(_find_image(c, image, beside))
    if camera.sha256 != c.image_sha256:
        raise CertificateError(f"{camera.source} does not have the pixels that were certified")
    choices = c.oracle.classes if c.oracle.kind == "choices" else None
    drawn = 0

    def count(samples: int) -> None:
        nonlocal drawn
        drawn += samples
        progress(samples)

    try:
        backend = open_backend(
            c.engine.backend, device=c.engine.device, threads=_threads(c), plans=c.engine.plans
        )
        name = _find_oracle(c, bundle, oracle, backend)
        certifier = Certifier(
            bundle,
            sigma=c.sigma,
            samples=c.n,
            alpha=c.accounting.total_alpha,
            selection=c.n_selection,
            method=c.method,
            target_radius=c.target_radius,
            **_audit_again(c, bundle, teacher),
            floor=c.floor,
            batch_size=c.look_every or c.batch_size,
            backend=backend,
        )
        # Less memory may have made the chunks smaller than what lies between two looks.
        certifier.batch_size = min(certifier.batch_size, c.batch_size)
        asked = certifier.accounted(c.accounting.kind, c.accounting.number)
        asked.rule = replace(asked.rule, first_look=c.first_look)
        again = asked.certify(
            camera,
            c.prompt,
            choices=choices,
            oracle=None if choices else name,
            seed=c.seed,
            guard=c.margin.guard,
            part=c.part,
            cancelled=lambda: c.stopped_because in FROM_OUTSIDE and drawn >= c.samples_spent,
            progress=count,
        )
    except InputError as error:
        raise CertificateError(f"the certificate cannot be replayed: {error}") from None
    if again.engine.decoder != c.engine.decoder:
        raise CertificateError(
            f"the replay does not agree: engine.decoder was {c.engine.decoder}, is {again.engine.decoder}"
        )
    for field in _REPLAYED:
        was, now = getattr(c, field), getattr(again, field)
        if not _agree(was, now):
            others = (
                "" if again.engine.plans == c.engine.plans else "; it ran other plans than were certified"
            )
            raise CertificateError(
                f"the replay does not agree: {field} was {_short(was)}, is {_short(now)}{others}"
            )
    return again


def _short(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _threads(c: Certificate) -> int:
    """The certificate's, or as many as this machine has: votes do not depend on them."""
    return min(c.threads, len(os.sched_getaffinity(0)))


def _find_oracle(c: Certificate, bundle: Bundle, path: Path | None, backend: Backend) -> str:
    """What `Certifier.certify` finds the certificate's oracle by.

    Raises:
        CertificateError: it is in a file that was not given, or the file defines another one.
        InputError: the file cannot be read.
    """
    if path is None:
        known = {definition.name for definition in bundle.manifest.oracles}
        if c.oracle.kind != "choices" and (c.oracle.judged or c.oracle.name not in known):
            raise CertificateError(
                f"the bundle has no oracle {c.oracle.name!r}: give the file that defines it with --oracle"
            )
        return c.oracle.name
    opened = open_defined(path, backend)
    if isinstance(opened, Clusters):
        return str(path)  # what it freezes is compared with the certificate's
    if (found := opened.record) != c.oracle:
        raise CertificateError(
            f"{path} defines the {found.kind} {found.name!r}, {found.sha256[:16]}..., but the certificate's "
            f"oracle is the {c.oracle.kind} {c.oracle.name!r}, {c.oracle.sha256[:16]}...: give its own file"
        )
    return str(path)


def _audit_again(c: Certificate, bundle: Bundle, path: Path | None) -> dict[str, Any]:
    """The certifier's mode; where a teacher labelled votes, it is asked again.

    Raises:
        CertificateError: the teacher is in a file that was not given.
    """
    mode = mode_of(c.assumption)
    if c.teacher is None or not isinstance(mode, Audit):
        return {"mode": mode}
    known = {definition.name for definition in bundle.manifest.oracles}
    if path is None and (c.teacher.judged or c.teacher.name not in known):
        raise CertificateError(
            f"the bundle has no oracle {c.teacher.name!r}, which audited: give its file with --teacher"
        )
    return {"audit": mode.audited, "teacher": str(path or c.teacher.name)}


def _find_image(c: Certificate, image: str | Path | None, beside: Path | None) -> Path:
    if image is not None:
        return Path(image)
    if c.image is None:
        raise CertificateError("the certificate names no image file: give it with --image")
    named = Path(c.image)
    places = [named, *([beside / named, beside / named.name] if beside else [])]
    for place in places:
        with suppress(OSError, ValueError):  # a name from elsewhere may be too long, or hold a null byte
            if place.is_file():
                return place
    raise CertificateError(
        f"the certified image {c.image} is neither where it was nor beside the certificate: give --image"
    )
