"""The rule of one certificate: laid down before the first vote, applied to the votes, checked by `verify`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal, get_args

from edgers.oracle.base import FAILED, RESERVED
from edgers.smoothing.batched import spending_boundary
from edgers.smoothing.bounds import (
    MAX_SAMPLES,
    Probability,
    check_alpha,
    check_counts,
    clopper_pearson_lower,
    pairwise_bounds,
)
from edgers.smoothing.mode import Mode
from edgers.smoothing.oracle_error import (
    MODES,
    Adversarial,
    Calibrated,
    CalibratedFalsePositive,
    Composite,
    FalsePositive,
    Pairwise,
    Unknown,
)
from edgers.smoothing.radius import (
    certified_radius,
    check_floor,
    check_radius_sigma,
    pairwise_radius,
    required_probability,
)
from edgers.smoothing.sequential import MixtureTest, anytime_lower
from edgers.smoothing.stopping import Boundary, Decision, even_looks
from edgers_engines.errors import EdgersError

Method = Literal["fixed", "sequential", "batched"]

# What a rule about a target may cost before the first vote: seconds.
MAX_LOOKS = 10**5
MAX_BATCHED = 10**5

NO_BOUND = Probability(0.0, 1.0)
FLOOR = 0.5  # a certified class keeps the majority

# Modes that never raise the bound: they claim no class whose q_lower is 1/2 or less.
WITHOUT_SELECTION = (
    Composite,
    Adversarial,
    FalsePositive,
    Unknown,
    Calibrated,
    CalibratedFalsePositive,
)


class ContradictionError(EdgersError, ValueError):
    """The votes contradict what the mode assumes."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What follows from the counts; the field names are the certificate's."""

    q_lower: float
    p_lower: float
    certified: bool
    radius: float | None


@dataclass(frozen=True)
class Rule:
    """How many samples are drawn, when they end, and which radius their votes prove.

    fixed: n samples, and Clopper and Pearson's bound. The samples end only when all are drawn.
    sequential: n samples at most. The bound holds whenever they end and for whatever reason: the target
        radius is certified or out of reach, time is up, somebody asked.
    batched: n samples at most, looked at after every `look_every`. Decides whether the target radius is
        certified and proves no other.

    The class is chosen apart from these votes; or it is their own leader, and the bound holds at half the
    level. That this is enough, for any number of classes, is shown in docs/certificates.md.

    Args:
        samples: n.
        alpha: allowed probability of a wrong certificate.
        sigma: noise, in the canvas' unit.
        method: see above.
        target_radius: what is to be decided, on the canvas.
        look_every: samples between two decisions about the target.
        first_look: samples before the first of them, with the method sequential; `look_every` unless given.
        mode: what is claimed, and what it assumes.
        total_variation: how far the sampler's law is from ideal noise at most.
        floor: the probability that the class keeps within the radius.
        selected: whether the class was chosen apart from the votes.

    Raises:
        ValueError: a number out of range, or parts that do not fit each other.
    """

    samples: int
    alpha: float
    sigma: float
    method: Method = "fixed"
    target_radius: float | None = None
    look_every: int | None = None
    first_look: int | None = None
    mode: Mode = field(default_factory=Composite)
    total_variation: float = 0.0
    floor: float = FLOOR
    selected: bool = True

    def __post_init__(self) -> None:
        """Check what the functions below take for granted."""
        check_alpha(self.alpha)
        check_counts(0, self.samples)
        check_radius_sigma(self.sigma)
        check_floor(self.floor)
        if self.method not in get_args(Method):
            raise ValueError(
                f"there is no method {self.method!r}; choose one of {', '.join(get_args(Method))}"
            )
        self._check_mode()
        if self.method == "fixed" and self.target_radius is not None:
            raise ValueError("a fixed number of samples decides no target radius; sequential and batched do")
        if self.method == "batched" and self.target_radius is None:
            raise ValueError("the method batched decides about a target radius: give one")
        if self.target_radius is not None and not 0 < self.target_radius < math.inf:
            raise ValueError(f"the target radius is {self.target_radius}; it must be a number above 0")
        if (self.target_radius is None) != (self.look_every is None):
            raise ValueError("a target radius and the samples between two looks at it belong together")
        if self.look_every is not None and not 1 <= self.look_every <= MAX_SAMPLES:
            raise ValueError(f"a look every {self.look_every} samples; it must be 1 to {MAX_SAMPLES}")
        if self.first_look is not None and (self.method != "sequential" or self.look_every is None):
            raise ValueError("only the method sequential, asked about a target, chooses its first look")
        if self.first_look is not None and not 1 <= self.first_look <= self.samples:
            raise ValueError(f"the first look is at {self.first_look}; it must be 1 to {self.samples}")
        if self.target_radius is not None and (self._boundary.certify_from > self._boundary.looks).all():
            raise ValueError(
                f"{self.samples} samples cannot certify a radius of {self.target_radius:g} even if all "
                "agree: `edgers plan` says how many do"
            )

    def _check_mode(self) -> None:
        if type(self.mode) not in MODES.values():
            raise ValueError(f"{self.mode!r} is no mode; choose one of {', '.join(MODES)}")
        check_alpha(self._vote_alpha)
        self.mode.rates(self.alpha)
        if not self.selected and type(self.mode) not in WITHOUT_SELECTION:
            raise ValueError(
                f"the mode {self.mode.name} needs a class that was chosen apart from the votes: draw a "
                "selection of 1 or more"
            )
        if isinstance(self.mode, Pairwise) and (self.method, self.floor) != ("fixed", FLOOR):
            raise ValueError(f"the mode pairwise goes with the method fixed and the floor {FLOOR}")

    def conclude(self, label: str, votes: Mapping[str, int]) -> Conclusion:
        """What the votes prove about one class, whatever ended them.

        q_lower bounds the class's probability under the noise that was drawn. It is lowered by the sampler's
        total variation distance from ideal noise, and by the mode to p_lower.

        Args:
            label: the class, chosen without these votes; where none was, their leader.
            votes: of all classes; their sum is the samples drawn.

        Raises:
            ContradictionError: the votes, or their classes, contradict what the mode assumes.
        """
        samples = sum(votes.values())
        if samples == 0 or label in RESERVED:
            return Conclusion(0.0, 0.0, certified=False, radius=None)
        try:
            self.mode.check_classes(len(set(votes) - set(RESERVED)))
        except ValueError as error:
            raise ContradictionError(str(error)) from None
        if isinstance(self.mode, Pairwise):
            return self._conclude_pairwise(label, votes)
        q_lower = self._q_lower(votes[label], samples)
        if not self.selected and q_lower.value <= FLOOR:
            q_lower = NO_BOUND  # of a leader without the majority nothing is shown
        p_lower = self._p_lower(q_lower)
        radius = certified_radius(p_lower, self.sigma, self.floor)
        reached = radius is not None and radius >= (self.target_radius or 0.0)
        return Conclusion(q_lower.value, p_lower.value, reached, radius)

    def decide(self, label: str, votes: Mapping[str, int]) -> Decision:
        """Whether the target radius is certified or out of reach; undecided where there is none.

        Raises:
            ContradictionError: the votes contradict what the mode assumes.
        """
        samples = sum(votes.values())
        if not self._looks_at(samples):
            return Decision.UNDECIDED
        # Where a reserved class leads, it is the classes after it that could still be certified.
        standing = {*votes} - {*RESERVED} if label in RESERVED else {label}
        decision = self._boundary.decide(max(votes[name] for name in standing), samples)
        if decision is Decision.CERTIFIED and not self.conclude(label, votes).certified:
            return Decision.UNDECIDED  # but for rounding, which is downwards in the bound
        return decision

    def _looks_at(self, samples: int) -> bool:
        if self.look_every is None or not samples:
            return False
        since = samples - (self.first_look or self.look_every)
        return (since >= 0 and since % self.look_every == 0) or samples == self.samples

    @property
    def looking_early(self) -> Rule:
        """The same with its first look where the votes could first certify the target, if they may end then.

        No earlier look can certify, and the method sequential is sound wherever it looks; in batched the
        looks share alpha.
        """
        if self.method != "sequential" or self.target_radius is None:
            return self
        return replace(self, first_look=_unanimous(self._threshold.value, self._vote_alpha))

    @property
    def _vote_alpha(self) -> float:
        """The level of the test of one class."""
        return self.mode.vote_alpha(self.alpha) / (1 if self.selected else 2)

    def _q_lower(self, votes: int, samples: int) -> Probability:
        alpha = self._vote_alpha
        if self.method == "sequential":
            return anytime_lower(votes, samples, alpha)
        if self.method == "fixed":
            complete = samples == self.samples  # or whoever ended it may have seen the votes
            return clopper_pearson_lower(votes, samples, alpha) if complete else NO_BOUND
        crossed = self._looks_at(samples) and self._boundary.decide(votes, samples) is Decision.CERTIFIED
        return self._threshold if crossed else NO_BOUND

    def _p_lower(self, q_lower: Probability) -> Probability:
        try:
            if self.mode.under_noise:
                return self.mode.p_lower(q_lower, self.alpha).minus(self.total_variation)
            return self.mode.p_lower(q_lower.minus(self.total_variation), self.alpha)
        except ValueError as error:
            raise ContradictionError(str(error)) from None

    def _conclude_pairwise(self, label: str, votes: Mapping[str, int]) -> Conclusion:
        if sum(votes.values()) != self.samples:
            return Conclusion(0.0, 0.0, certified=False, radius=None)
        lower, upper = pairwise_bounds([*_worst(label, votes).values()], [*votes].index(label), self.alpha)
        p_lower = lower.minus(self.total_variation)
        p_upper = self._raised(upper)
        radius = pairwise_radius(p_lower, p_upper, self.sigma)
        return Conclusion(lower.value, p_lower.value, radius is not None, radius)

    @cached_property
    def _threshold(self) -> Probability:
        """The q from which on the target radius follows, rounded up.

        Raises:
            ValueError: no probability is enough.
        """
        target = self.target_radius or 0.0
        p0 = required_probability(target, self.sigma, self.floor)
        if self.mode.under_noise:
            p0 = self._raised(p0)
        needed = self.mode.q_needed(p0, self.alpha) if p0.complement > 0 else None
        if needed is not None and not self.mode.under_noise:
            needed = self._raised(needed)
        if needed is None or needed.value >= 1:
            raise ValueError(f"no vote certifies a radius of {target:g} at sigma {self.sigma:g}; raise sigma")
        return needed

    def _raised(self, p: Probability) -> Probability:
        """What is at least p under ideal noise, whatever the sampler's distance makes of it."""
        return p.opposite.minus(self.total_variation).opposite

    @cached_property
    def _boundary(self) -> Boundary:
        every = self.look_every or self.samples
        if self.samples > MAX_LOOKS * every:
            raise ValueError(
                f"{self.samples} samples with a look every {every} are more than {MAX_LOOKS} looks: take "
                "larger batches or fewer samples"
            )
        if self.method == "batched" and self.samples > MAX_BATCHED:
            raise ValueError(
                f"the method batched takes {MAX_BATCHED} samples at most, not {self.samples}; sequential "
                "takes more"
            )
        return _boundary(
            self.method,
            self._threshold.value,
            self._vote_alpha,
            self.samples,
            every=every,
            first=self.first_look,
        )


def _worst(label: str, votes: Mapping[str, int]) -> dict[str, int]:
    """The votes, had every sample that failed been of the strongest rival: nobody knows what it was."""
    failed = votes.get(FAILED, 0)
    if not failed:
        return {**votes}
    strongest = max((name for name in votes if name not in {label, FAILED}), key=lambda name: votes[name])
    return {**votes, FAILED: 0, strongest: votes[strongest] + failed}


@lru_cache(maxsize=16)  # `verify` asks for the one that `certify` used, a robot for the same at every frame
def _boundary(
    method: Method, threshold: float, alpha: float, samples: int, *, every: int, first: int | None
) -> Boundary:
    looks = even_looks(samples, every, first)
    if method == "batched":
        return spending_boundary(threshold, alpha, looks)
    return MixtureTest(threshold, alpha).boundary(looks)


@lru_cache(maxsize=16)
def _unanimous(threshold: float, alpha: float) -> int:
    return MixtureTest(threshold, alpha).unanimous_samples
