"""What a certificate means, and what to do about it, in sentences for a person."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

from edgers.assumption import mode_of
from edgers.certificate import Certificate
from edgers.ending import CANCELLED, DEADLINE, ONE_PART, OUT_OF_REACH
from edgers.oracle.base import FAILED, OTHER, RESERVED, UNDECIDED
from edgers.rule import FLOOR
from edgers.smoothing.oracle_error import Audit, Composite, Pairwise

SMALL_RADIUS = 0.1
_NOTHING = 1e-300  # below it the digits of a number do not fit a float
_ROUND_SAMPLES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)

_RESERVED_ADVICE = {
    OTHER: (
        "Most answers under noise belong to no class of the oracle: word the prompt so that the model "
        "answers with one of the classes, or hold it to them with --choices."
    ),
    UNDECIDED: (
        "For most samples two tokens were so close that rounding could decide: the model has no preference "
        "here. Try a clearer image, or other choices."
    ),
    FAILED: "Most samples failed or gave numbers that are not finite. Lower --sigma, or check the bundle.",
}
_NO_CLUSTER = (
    "No meaning has the majority of the answers that were to choose one: lower --sigma, word the prompt so "
    "that answers are short and alike, or hold the model to --choices."
)
_NO_REPLY = (
    "Most replies of the judge were no class and nothing else: word its instructions so that it replies with "
    "a class alone, or the prompt so that the model answers with one of the classes."
)


def floored(value: float) -> str:
    """A number with four decimals, or four digits if it is small, rounded down: never more than is true."""
    if 0 < value < _NOTHING:
        value = 0.0
    decimals = 4 if value >= 1e-3 or value <= 0 else 3 - math.floor(math.log10(value))
    scale = 10**decimals
    return f"{math.floor(value * scale) / scale:.{decimals}f}"


def of_the_label(mode: str) -> bool:
    """Whether a mode's claim is about the oracle's label; in all other modes it is about what is true."""
    return mode in {Composite.name, Pairwise.name}


def premise(mode: str) -> str:
    """Under what condition the claim of such a mode, about what is true, holds."""
    return "If the teacher is right" if mode == Audit.name else "If the oracle errs as assumed"


def meaning(certificate: Certificate) -> str:
    """One or two sentences: what is certified, how large that is, or that nothing is."""
    c = certificate
    higher = c.floor > FLOOR
    if c.stopped_because == ONE_PART:
        return "One part of the samples is counted: it proves nothing alone."
    if c.radius is None or c.radius_camera is None:
        kept = f" to keep a probability of {c.floor}" if higher else ""
        return f"No class is certified{kept} for this image at this noise: act as if there were no answer."
    does = f"keeps a probability of at least {c.floor}" if higher else "wins the vote"
    what = "What means the same as" if c.oracle.clusters else "The class"
    claim = f"{what} {c.label!r} {does} under noise"
    if not of_the_label(c.assumption.mode):
        share = f"a share of at least {c.floor} of the noise" if higher else "most of the noise"
        claim = f"{premise(c.assumption.mode)}, {c.label!r} is true under {share}"
    return (
        f"{claim} for every image within L2 distance "
        f"{floored(c.radius_camera)} in camera pixels ({floored(c.radius)} on the model's canvas; values "
        f"scaled to [0, 1]). If every canvas value changed at once, that is "
        f"{floored(c.largest_uniform_change or 0.0)}/255 each."
    )


def advice(certificate: Certificate) -> list[str]:
    """What to try, most useful first; empty when there is nothing to say."""
    c = certificate
    said = [_abstention(c)] if not c.certified else []
    if c.radius is not None and c.radius < SMALL_RADIUS:
        said.append(
            f"The radius is below {SMALL_RADIUS}: a larger --sigma, or a model adapted to noise, "
            "gives a larger one."
        )
    if c.timings_ms.get("oracle", 0) > c.timings_ms.get("model", 0):
        said.append(f"The oracle takes longer than the model: {_faster(c)}")
    if c.seed_source == "given":
        said.append(
            "The seed was chosen, not drawn: this repeats a run, but convinces nobody who doubts the choice."
        )
    return said


def _faster(c: Certificate) -> str:
    if not c.oracle.judged:
        return "a faster oracle would speed certification up most."
    return (
        f"the judge {c.oracle.name!r} is what to speed up. Let a student learn from it, with "
        "`edgers distill --teacher JUDGE.json`, and certify with the student."
    )


def _abstention(c: Certificate) -> str:
    if c.stopped_because in (DEADLINE, CANCELLED):
        return (
            f"{c.stopped_because.capitalize()} after {c.samples_counted} of {c.n} samples: allow more time."
        )
    if c.label in RESERVED and c.stopped_because != ONE_PART:
        return _reserved(c)
    if c.part is not None:
        return (
            f"This is part {c.part.number} of {c.part.of}, which proves nothing alone: `edgers merge` makes "
            "the certificate of all parts."
        )
    share = c.votes.certification[c.label] / c.samples_counted
    if (needed := _samples_needed(c, share)) is not None:
        again = (
            "or for the next attempt"
            if c.accounting.kind == "schedule"
            else "not for this one: repeating it until it certifies would not be a certificate at this "
            "alpha; --attempt is for that"
        )
        return (
            f"{share:.0%} of {c.samples_counted} samples say {c.label!r}, but {c.n} are too few to be sure"
            f"{_of_target(c)}; about --samples {needed} certify such a share. Set it for the next image, "
            f"{again}."
        )
    return _too_little_known(c) or _uncertain(c, share)


def _reserved(c: Certificate) -> str:
    if c.label == OTHER and c.oracle.clusters:
        return _NO_CLUSTER
    return _NO_REPLY if c.label == OTHER and c.oracle.judged else _RESERVED_ADVICE[c.label]


def _uncertain(c: Certificate, share: float) -> str:
    if c.stopped_because == OUT_OF_REACH and share > c.floor:
        return (
            f"{share:.0%} of {c.samples_counted} samples say {c.label!r}: too few for a radius of "
            f"{c.target_radius:g}. Ask for a smaller one, {_lower_floor(c)}take a clearer "
            "image, or ask another question."
        )
    others = {name: count for name, count in c.votes.certification.items() if name != c.label}
    rival = max(others, key=lambda name: others[name])
    return (
        f"The model is uncertain under this noise: {share:.0%} {c.label!r} against "
        f"{others[rival] / c.samples_counted:.0%} {rival!r}. Lower --sigma, {_lower_floor(c)}take a clearer "
        "image, or ask another question."
    )


def _too_little_known(c: Certificate) -> str | None:
    """What to do where the votes are enough for the label, but what is known of the oracle is not."""
    if of_the_label(c.assumption.mode):
        return None
    if not replace(c.rule, mode=Composite()).conclude(c.label, c.votes.certification).certified:
        return None
    mode = mode_of(c.assumption)
    if isinstance(mode, Audit):
        return (
            f"The votes certify the label {c.label!r}, but not its truth: of {mode.audited} votes the "
            f"teacher called {mode.correct} the same. See that it could be asked and knows these classes, "
            "and audit as many votes as you can, but no more than --samples."
        )
    return (
        f"The votes certify the label {c.label!r}, but not its truth: the mode {mode.name} allows the "
        "oracle too many errors. Calibrate it on answers about more images, or claim the label alone, "
        "without --assume."
    )


def _of_target(c: Certificate) -> str:
    return "" if c.target_radius is None else f" of a radius of {c.target_radius:g}"


def _lower_floor(c: Certificate) -> str:
    return f"lower the floor of {c.floor}, " if c.floor > FLOOR else ""


def _samples_needed(c: Certificate, share: float) -> int | None:
    """The smallest round number of samples that would certify at this share, if there is one."""
    for samples in _ROUND_SAMPLES:
        if samples > c.n:
            agreeing = int(share * samples)
            votes = {**dict.fromkeys(c.votes.certification, 0), c.label: agreeing, OTHER: samples - agreeing}
            with suppress(ValueError):  # so many could contradict what the mode assumes
                if replace(c.rule, samples=samples).conclude(c.label, votes).certified:
                    return samples
    return None
