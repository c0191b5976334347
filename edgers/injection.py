"""Injected oracle errors: how often each mode's certificates are then false, and what the mode costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy.special import betainc, ndtri

from edgers.rule import Conclusion, ContradictionError, Rule
from edgers.smoothing.injection import KINDS, USES, Counts, Use, World, draw
from edgers.smoothing.mode import Mode
from edgers.smoothing.radius import required_probability

RADII = (0.0, 0.5, 1.0)  # true radii at which a certificate is just false, in sigmas
INSIDE = 0.95  # the p at which modes are compared by what they keep

MAX_SAMPLES, MAX_CALIBRATION, MAX_SIMULATIONS = 1000, 10_000, 10**6
LEAST_ALPHA = 1e-9  # exact sums are exact to far less

_CHUNK = 1 << 22  # simulated samples at once

Verdict = Literal[
    "holds", "holds, by assumption", "holds, not promised", "must not be used here", "claims no truth"
]
Concluding = Callable[[Mode, int], Conclusion]


@dataclass(frozen=True, slots=True)
class Setting:
    """How certificates are made, and how many are simulated.

    Attributes:
        samples: n, at most 1,000.
        alpha: promised probability of a false certificate, at least 1e-9.
        sigma: noise, in the radius' unit.
        audited: votes for A that mode audit has labelled, where there are so many.
        calibration: labelled answers of the modes that are calibrated, at most 10,000.
        simulations: simulated certificates at each boundary, beside the exact sums; 0 for none.
        seed: of what is simulated, at least 0.

    Raises:
        ValueError: a number out of range.
    """

    samples: int = 100
    alpha: float = 0.001
    sigma: float = 0.5
    audited: int = 50
    calibration: int = 1000
    simulations: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what sums and simulations take for granted."""
        _check_range("samples", self.samples, 1, MAX_SAMPLES)
        _check_range("audited votes", self.audited, 1, MAX_SAMPLES)
        _check_range("calibration answers", self.calibration, 1, MAX_CALIBRATION)
        _check_range("simulations", self.simulations, 0, MAX_SIMULATIONS)
        if self.seed < 0:
            raise ValueError(f"the seed is {self.seed}; it must be at least 0")
        if self.alpha < LEAST_ALPHA:
            raise ValueError(f"alpha is {self.alpha}; for injected errors it must be at least {LEAST_ALPHA}")
        Rule(self.samples, self.alpha, self.sigma)


@dataclass(frozen=True, slots=True)
class Simulated:
    """Certificates that were simulated sample by sample.

    Attributes:
        wrong: how many of them are false.
        p_value: of the one-sided binomial test that they are so more often than alpha.
    """

    wrong: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a certificate of anything larger than the radius is false.

    Attributes:
        radius: the true one, sigma * PhiInv(p).
        p: the probability that the class is true.
        wrong: the probability of a false certificate, by an exact sum.
        simulated: None where nothing was simulated.
    """

    radius: float
    p: float
    wrong: float
    simulated: Simulated | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left for an input that is well inside its class.

    Attributes:
        p: the probability that the class is true.
        radius: the true one.
        certified: the probability of a certificate, by an exact sum.
        mean_radius: what is certified on average, 0 where it abstains.
    """

    p: float
    radius: float
    certified: float
    mean_radius: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What one use of a mode does under injected errors.

    Attributes:
        errors: a name of `edgers.smoothing.injection.KINDS`.
        rate: of the injected errors.
        use: the mode, as it was used.
        verdict: "holds" where the mode's promise is kept and covers these errors; "by assumption" where it
            covers only such as flip both classes alike; "not promised" where no certificate was false too
            often although the mode does not cover these errors.
        boundaries: one for each of `RADII`.
        inside: at `INSIDE`.
    """

    errors: str
    rate: float
    use: str
    verdict: Verdict
    boundaries: list[Boundary]
    inside: Kept

    @property
    def worst(self) -> Boundary:
        """The boundary with the most false certificates."""
        return max(self.boundaries, key=lambda boundary: boundary.wrong)


def study(rates: Sequence[float], setting: Setting) -> list[Finding]:
    """Every kind of errors at every rate, under every use of a mode.

    Args:
        rates: of the injected errors, each above 0 and below 1/2.
        setting: how certificates are made.

    Raises:
        ValueError: no rate, one that comes twice, or one out of range.
    """
    if not rates or len({*rates}) < len(rates):
        raise ValueError(f"the rates are {[*rates]}; give at least one, and each once")
    for rate in rates:
        if not 0 < rate < 0.5:
            raise ValueError(f"the rate of injected errors is {rate}; it must be above 0 and below 0.5")
    conclude = concluding(setting)
    return [finding for kind in KINDS for rate in rates for finding in _under(kind, rate, setting, conclude)]


def concluding(setting: Setting) -> Concluding:
    """What a certificate of a mode and a vote count says, by the rule that certificates are made by."""

    @cache
    def rule(mode: Mode) -> Rule:
        return Rule(setting.samples, setting.alpha, setting.sigma, mode=mode)

    @cache
    def conclude(mode: Mode, votes: int) -> Conclusion:
        try:
            return rule(mode).conclude("A", {"A": votes, "not A": setting.samples - votes})
        except ContradictionError:  # an error instead of a certificate
            return Conclusion(0.0, 0.0, certified=False, radius=None)

    return conclude


def false_certificate(use: Use, world: World, conclude: Concluding) -> float:
    """The probability of a certificate whose p_L, and so its radius, is beyond the truth; rounded up."""
    outcomes = use.outcomes(world)
    wrong = [
        _is_wrong(made, world) for made in _made(use, world, outcomes.votes, outcomes.evidence, conclude)
    ]
    left_out = max(1 - float(outcomes.masses.sum()), 0.0)
    return min(float(outcomes.masses[wrong].sum()) + left_out, 1.0)


def kept(use: Use, world: World, sigma: float, conclude: Concluding) -> Kept:
    """How often it certifies, and how much on average."""
    outcomes = use.outcomes(world)
    made = _made(use, world, outcomes.votes, outcomes.evidence, conclude)
    radii = np.array([each.radius or 0.0 for each in made])
    return Kept(
        p=world.p,
        radius=sigma * float(ndtri(world.p)),
        certified=float(outcomes.masses[radii > 0].sum()),
        mean_radius=float(outcomes.masses @ radii),
    )


def simulate(
    uses: Sequence[Use],
    world: World,
    setting: Setting,
    conclude: Concluding,
    rng: np.random.Generator,
) -> list[Simulated]:
    """Certificates of one world made sample by sample; all uses see the same votes.

    Returns:
        For each use, how many of `setting.simulations` are false.
    """
    wrong, left = [0] * len(uses), setting.simulations
    while left:
        certificates = min(left, max(_CHUNK // world.samples, 1))
        truth, said = draw(world, certificates, rng)
        for place, use in enumerate(uses):
            seen = said.sum(axis=1) * (MAX_CALIBRATION + 1) + use.drawn(world, truth, said, rng)
            distinct, times = np.unique(seen, return_counts=True)
            made = _made(use, world, *np.divmod(distinct, MAX_CALIBRATION + 1), conclude)
            wrong[place] += int(times[[_is_wrong(each, world) for each in made]].sum())
        left -= certificates
    return [Simulated(count, _p_value(count, setting)) for count in wrong]


def _under(kind: str, rate: float, setting: Setting, conclude: Concluding) -> list[Finding]:
    def world(p: float) -> World:
        return World(p, KINDS[kind](rate), setting.samples, setting.audited, setting.calibration)

    worlds = [world(required_probability(radius, 1.0).value) for radius in RADII]
    rng = np.random.default_rng([setting.seed, [*KINDS].index(kind), round(rate * 2**32)])
    simulated = [simulate(USES, each, setting, conclude, rng) for each in worlds]
    findings = []
    for place, use in enumerate(USES):
        boundaries = [
            Boundary(
                radius=radius * setting.sigma,
                p=each.p,
                wrong=false_certificate(use, each, conclude),
                simulated=drawn[place] if setting.simulations else None,
            )
            for radius, each, drawn in zip(RADII, worlds, simulated, strict=True)
        ]
        inside = kept(use, world(INSIDE), setting.sigma, conclude)
        found = verdict(use, worlds[0], max(boundary.wrong for boundary in boundaries), setting.alpha)
        findings.append(Finding(kind, rate, use.name, found, boundaries, inside))
    return findings


def verdict(use: Use, world: World, wrong: float, alpha: float) -> Verdict:
    """What to make of the probability of a false certificate; see `Finding`."""
    if not use.claims_truth:
        return "claims no truth"
    if wrong > alpha:
        return "must not be used here"
    if not use.promises(world.errors):
        return "holds, not promised"
    return "holds, by assumption" if use.equal_flips else "holds"


def _made(use: Use, world: World, votes: Counts, evidence: Counts, conclude: Concluding) -> list[Conclusion]:
    seen = zip(votes.tolist(), evidence.tolist(), strict=True)
    return [conclude(use.mode(world, k, x), k) for k, x in seen]


def _is_wrong(made: Conclusion, world: World) -> bool:
    return made.certified and made.p_lower > world.p


def _p_value(wrong: int, setting: Setting) -> float:
    """P(Binomial(simulations, alpha) >= wrong)."""
    if not wrong:
        return 1.0
    return float(betainc(wrong, setting.simulations - wrong + 1, setting.alpha))


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}: {value}; it must lie between {least} and {most}")
