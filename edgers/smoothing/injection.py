"""Errors put into an oracle on purpose: what each mode is told about them, and what it then sees.

Notation of `mode.py`, for two classes: A and what is not A. A certificate follows from the votes k and the
mode's evidence x: audited votes that are correct, or errors among calibration answers. Their joint
probabilities are exact, but for masses too small to matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgers.smoothing.mode import Mode
from edgers.smoothing.oracle_error import (
    Adversarial,
    Asymmetric,
    Audit,
    Calibrated,
    CalibratedFalsePositive,
    Composite,
    FalsePositive,
    Symmetric,
    Unknown,
)
from edgers.smoothing.walk import Walk

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

_LEAST = 1e-15  # smaller masses are left out; together they are far below any alpha that is shown


@dataclass(frozen=True, slots=True)
class Errors:
    """What the oracle gets wrong, independently for each sample and answer.

    Attributes:
        missed: the probability that it says something else where A is true, in [0, 1/2).
        false: the probability that it says A where A is not true, in [0, 1/2).
    """

    missed: float
    false: float

    def __post_init__(self) -> None:
        """Raise ValueError where a rate is out of range."""
        for rate in (self.missed, self.false):
            if not 0 <= rate < 0.5:
                raise ValueError(f"the rate of injected errors is {rate}; it must be from 0 to below 0.5")

    @property
    def symmetric(self) -> bool:
        """Whether both classes are flipped at the same rate."""
        return self.missed == self.false


KINDS: dict[str, Callable[[float], Errors]] = {
    "symmetric": lambda rate: Errors(rate, rate),
    "false-positives": lambda rate: Errors(0.0, rate),
    "false-negatives": lambda rate: Errors(rate, 0.0),
}


@dataclass(frozen=True, slots=True)
class World:
    """One input as it truly is, and what is drawn of it.

    Attributes:
        p: the probability that A is true under noise, in (0, 1).
        errors: what the oracle gets wrong.
        samples: n.
        audited: how many votes for A are audited, where there are so many.
        calibration: calibration answers, each of an input like this one.
    """

    p: float
    errors: Errors
    samples: int
    audited: int
    calibration: int

    @property
    def q(self) -> float:
        """The probability that the oracle says A."""
        return self.p * (1 - self.errors.missed) + self.said_falsely

    @property
    def said_falsely(self) -> float:
        """The probability that the oracle says A and A is not true."""
        return (1 - self.p) * self.errors.false

    @property
    def error_rate(self) -> float:
        """The probability that the oracle is wrong, whatever is true."""
        return self.errors.false + self.p * (self.errors.missed - self.errors.false)

    @property
    def precision(self) -> float:
        """The probability that A is true given that the oracle says it."""
        return self.p * (1 - self.errors.missed) / self.q


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What may be seen, one entry each; all arrays have one length.

    Attributes:
        votes: int64, k.
        evidence: int64, x; 0 where the mode sees votes only.
        masses: float64, the joint probabilities.
    """

    votes: Counts
    evidence: Counts
    masses: Floats


class Use(ABC):
    """A mode as somebody uses it, who knows the injected errors, or labels answers to learn of them."""

    name: str
    claims_truth: bool = True
    equal_flips: bool = False  # whether the mode promises nothing unless both classes are flipped alike

    def promises(self, errors: Errors) -> bool:
        """Whether what the mode assumes is so for these errors."""
        return errors.symmetric or not self.equal_flips

    @abstractmethod
    def outcomes(self, world: World) -> Outcomes:
        """All that may be seen in that world, with probabilities."""

    @abstractmethod
    def mode(self, world: World, votes: int, evidence: int) -> Mode:
        """The mode of a certificate that follows from k votes and the evidence x."""

    @abstractmethod
    def drawn(self, world: World, truth: Bools, said: Bools, rng: np.random.Generator) -> Counts:
        """The evidence x of simulated certificates.

        Args:
            world: where they are simulated.
            truth: [certificates, n], whether A is true for the sample.
            said: [certificates, n], whether the oracle says A.
            rng: for labels of other answers.

        Returns:
            int64 [certificates].
        """


@dataclass(frozen=True)
class Told(Use):
    """The mode is told its numbers, as they are at this input."""

    name: str
    tell: Callable[[World], Mode]
    claims_truth: bool = True
    equal_flips: bool = False
    overstated: bool = False  # told a rate above the true one, where a lower bound is needed

    def promises(self, errors: Errors) -> bool:
        """Not where it is told a wrong number either."""
        return Use.promises(self, errors) and not self.overstated

    def outcomes(self, world: World) -> Outcomes:
        """The votes alone."""
        votes, masses = _likely(world.samples, world.q)
        return Outcomes(votes, np.zeros_like(votes), masses)

    def mode(self, world: World, _votes: int, _evidence: int) -> Mode:
        """The same whatever is seen."""
        return self.tell(world)

    def drawn(self, _world: World, truth: Bools, _said: Bools, _rng: np.random.Generator) -> Counts:
        """None."""
        return np.zeros(len(truth), np.int64)


@dataclass(frozen=True)
class Audited(Use):
    """The first votes for A in index order are labelled by the truth; x of them are correct."""

    name: str = "audit"

    def outcomes(self, world: World) -> Outcomes:
        """Given k, each audited vote is correct with the oracle's precision, independently."""
        parts = [
            (vote, mass, *_likely(min(vote, world.audited), world.precision))
            for vote, mass in zip(*_likely(world.samples, world.q), strict=True)
        ]
        return Outcomes(
            np.concatenate([np.full_like(correct, vote) for vote, _, correct, _ in parts]),
            np.concatenate([correct for *_, correct, _ in parts]),
            np.concatenate([mass * masses for _, mass, _, masses in parts]),
        )

    def mode(self, world: World, votes: int, evidence: int) -> Mode:
        """Without a vote for A there is nothing to audit, and nothing that it could prove."""
        return Audit(evidence, max(min(votes, world.audited), 1))

    def drawn(self, world: World, truth: Bools, said: Bools, _rng: np.random.Generator) -> Counts:
        """Correct ones among the first votes for A."""
        first = said & (said.cumsum(axis=1) <= world.audited)
        correct: Counts = (first & truth).sum(axis=1)
        return correct


@dataclass(frozen=True)
class FromCalibration(Use):
    """The mode bounds its rate by x errors in labelled answers of inputs like this one."""

    name: str
    rate: Callable[[World], float]
    made: Callable[[int, int], Mode]  # of errors and answers

    def outcomes(self, world: World) -> Outcomes:
        """Votes and calibration are independent."""
        votes, masses = _likely(world.samples, world.q)
        errors, error_masses = _likely(world.calibration, self.rate(world))
        return Outcomes(
            np.repeat(votes, errors.size),
            np.tile(errors, votes.size),
            np.outer(masses, error_masses).ravel(),
        )

    def mode(self, world: World, _votes: int, evidence: int) -> Mode:
        """Whatever the votes are."""
        return self.made(evidence, world.calibration)

    def drawn(self, world: World, truth: Bools, _said: Bools, rng: np.random.Generator) -> Counts:
        """Errors among labelled answers."""
        errors: Counts = rng.binomial(world.calibration, self.rate(world), len(truth))
        return errors


def _overstated(rate: float) -> float:
    """How often two oracles disagree that are both wrong at this rate: above it, and below one half."""
    return 2 * rate * (1 - rate)


USES: tuple[Use, ...] = (
    Told("composite", lambda _: Composite(), claims_truth=False),
    Told("adversarial", lambda world: Adversarial(world.said_falsely)),
    Told("false-positive", lambda world: FalsePositive(world.errors.false)),
    Told("asymmetric", lambda world: Asymmetric(world.errors.false, world.errors.missed)),
    Told("symmetric", lambda world: Symmetric(world.error_rate), equal_flips=True),
    Told("symmetric, low", lambda world: Symmetric(world.error_rate / 2), equal_flips=True),
    Told(
        "symmetric, high",
        lambda world: Symmetric(_overstated(world.error_rate)),
        equal_flips=True,
        overstated=True,
    ),
    Told("unknown", lambda _: Unknown(), equal_flips=True),
    Audited(),
    FromCalibration("calibrated", lambda world: world.said_falsely, Calibrated),
    FromCalibration(
        "calibrated-false-positive",
        lambda world: world.errors.false,
        lambda errors, total: CalibratedFalsePositive(((errors, total),)),
    ),
)


def draw(world: World, certificates: int, rng: np.random.Generator) -> tuple[Bools, Bools]:
    """What is true of each sample, and what the oracle says of it with its errors.

    Returns:
        Two arrays, bool [certificates, n]: whether A is true, and whether the oracle says A.
    """
    shape = certificates, world.samples
    truth = rng.random(shape) < world.p
    flipped = rng.random(shape) < np.where(truth, world.errors.missed, world.errors.false)
    return truth, truth ^ flipped


def _likely(number: int, p: float) -> tuple[Counts, Floats]:
    """The counts of Binomial(number, p) that are worth a sum, and their masses."""
    walk = Walk(p)
    walk.advance_to(number)
    kept = np.flatnonzero(walk.masses > _LEAST)
    return walk.first + kept, walk.masses[kept]
