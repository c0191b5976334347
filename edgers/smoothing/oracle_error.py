"""Every mode: what the oracle may get wrong, and what that leaves of a vote. The algebra is in `mode.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from edgers.smoothing.bounds import check_counts, clopper_pearson_lower, clopper_pearson_upper
from edgers.smoothing.mode import Mode, parameters


@dataclass(frozen=True, slots=True)
class Composite(Mode):
    """The certified label is the oracle's: p is q. Assumes no more than independent noise and a fixed map."""

    name: ClassVar[str] = "composite"
    template: ClassVar[str] = "The certified label is the oracle's; that it is true is not claimed."

    def rates(self, _alpha: float, /) -> tuple[Fraction, Fraction]:
        """None."""
        return Fraction(0), Fraction(0)


@dataclass(frozen=True, slots=True)
class Pairwise(Composite):
    """As `Composite`, with the radius from the class's lead over every other one.

    See `bounds.pairwise_bounds`, where the class itself gets half of alpha, and `radius.pairwise_radius`. It
    is chosen before the votes are seen.
    """

    name: ClassVar[str] = "pairwise"
    vote_share: ClassVar[float] = 0.5
    template: ClassVar[str] = (
        "The certified label is the oracle's; that it is true is not claimed. The radius follows from its "
        "lead over each other class, as was chosen before the votes were seen."
    )


@dataclass(frozen=True, slots=True)
class Adversarial(Mode):
    """p_L = q_L - epsilon, for any number of classes and any dependence between errors and samples.

    Since q <= p + P(oracle says A and A is false). Assumes that this last probability is at most epsilon at
    this input: epsilon is an upper bound, and an error rate averaged over inputs is not one.

    Attributes:
        error_rate: epsilon, in [0, 1).
    """

    name: ClassVar[str] = "adversarial"
    template: ClassVar[str] = (
        "The oracle says the class falsely with probability {error_rate:g} at most at this input (an upper "
        "bound of its error rate), whatever the errors depend on."
    )
    error_rate: float

    def __post_init__(self) -> None:
        """Raise ValueError where epsilon is out of range."""
        _check_rate("error rate", self.error_rate, 1)

    def rates(self, _alpha: float, /) -> tuple[Fraction, Fraction]:
        """Epsilon is taken off q as it is: f = epsilon, e = -epsilon."""
        return Fraction(self.error_rate), -Fraction(self.error_rate)


@dataclass(frozen=True, slots=True)
class FalsePositive(Mode):
    """p_L = (q_L - f) / (1 - f), for any number of classes.

    Since q <= p + (1 - p) f. Assumes f >= P(oracle says A given that the truth is j) for every class j other
    than A, at this input: an upper bound.

    Attributes:
        false_positive_rate: f, in [0, 1).
    """

    name: ClassVar[str] = "false-positive"
    template: ClassVar[str] = (
        "Where another class is true, whichever it is, the oracle says the certified class with "
        "probability {false_positive_rate:g} at most at this input (an upper bound)."
    )
    false_positive_rate: float

    def __post_init__(self) -> None:
        """Raise ValueError where f is out of range."""
        _check_rate("false-positive rate", self.false_positive_rate, 1)

    def rates(self, _alpha: float, /) -> tuple[Fraction, Fraction]:
        """The given f."""
        return Fraction(self.false_positive_rate), Fraction(0)


@dataclass(frozen=True, slots=True)
class Asymmetric(Mode):
    """p_L = (q_L - f) / (1 - e - f), for any number of classes.

    Since q <= p (1 - e) + (1 - p) f. Assumes what `FalsePositive` does of f, an upper bound, and that the
    oracle misses A with probability e at least where A is true, at this input: a lower bound.

    Attributes:
        false_positive_rate: f, at least 0.
        false_negative_rate: e, at least 0; e + f is below 1.
    """

    name: ClassVar[str] = "asymmetric"
    template: ClassVar[str] = (
        "At this input, where another class is true, whichever it is, the oracle says the certified class "
        "with probability {false_positive_rate:g} at most (an upper bound); where the certified class is "
        "true, it says another with probability {false_negative_rate:g} at least (a lower bound)."
    )
    false_positive_rate: float
    false_negative_rate: float

    def __post_init__(self) -> None:
        """Raise ValueError where a rate or their sum is out of range."""
        _check_rate("false-positive rate", self.false_positive_rate, 1)
        _check_rate("false-negative rate", self.false_negative_rate, 1)
        f, e = self.rates(0)
        if e + f >= 1:
            raise ValueError(f"the two error rates add up to {float(e + f)}; they must stay below 1 together")

    def rates(self, _alpha: float, /) -> tuple[Fraction, Fraction]:
        """The given f and e."""
        return Fraction(self.false_positive_rate), Fraction(self.false_negative_rate)


@dataclass(frozen=True, slots=True)
class Symmetric(Mode):
    """p_L = (q_L - epsilon) / (1 - 2 epsilon) for q_L >= 1/2, else 0.

    Source: Seferis et al., Randomized Smoothing Meets Vision-Language Models (arXiv 2509.16088), theorem 4.1.
    Assumes two classes, both flipped at the same rate below 1/2, independently of the sample. The correction
    raises the bound for q > 1/2, so epsilon must be a lower bound of that rate; for q < 1/2 a larger rate
    would lower p, so nothing is claimed there.

    Attributes:
        error_rate: epsilon, in [0, 1/2).
    """

    name: ClassVar[str] = "symmetric"
    template: ClassVar[str] = (
        "There are two classes, and at this input the oracle flips both at the same rate, independently of "
        "the sample: {error_rate:g} at least (a lower bound of its error rate) and below one half."
    )
    majority_only: ClassVar[bool] = True
    error_rate: float

    def __post_init__(self) -> None:
        """Raise ValueError where epsilon is out of range."""
        _check_rate("error rate", self.error_rate, 0.5)

    def check_classes(self, classes: int) -> None:
        """Two: with more, what is missed for one is taken for any of the others."""
        _check_two(self.name, classes)

    def rates(self, _alpha: float, /) -> tuple[Fraction, Fraction]:
        """Epsilon both ways."""
        return Fraction(self.error_rate), Fraction(self.error_rate)


@dataclass(frozen=True, slots=True)
class Unknown(Mode):
    """p_L = q_L for q_L >= 1/2, else 0.

    Source: Seferis et al. (arXiv 2509.16088), theorem 4.2. Assumes two classes, both flipped at the same
    unknown rate below 1/2, independently of the sample. It is false where the two rates differ: with p = .55,
    false positives at .2 and no false negatives, q is .55 + .45 * .2 = .64, and the vote certifies a p that
    is not there.
    """

    name: ClassVar[str] = "unknown"
    template: ClassVar[str] = (
        "There are two classes, and at this input the oracle flips both at the same unknown rate below "
        "one half, independently of the sample. With unequal rates the claim can be false."
    )
    majority_only: ClassVar[bool] = True

    def check_classes(self, classes: int) -> None:
        """Two: with more, what is missed for one is taken for any of the others."""
        _check_two(self.name, classes)

    def rates(self, _alpha: float, /) -> tuple[Fraction, Fraction]:
        """None: the correction that is missing would raise the bound."""
        return Fraction(0), Fraction(0)


@dataclass(frozen=True, slots=True)
class Audit(Mode):
    """p_L = q_L * precision_L: some of this input's votes for A are labelled by the teacher.

    Since p >= q * P(A is true given that the oracle says A). The precision's bound is Clopper and Pearson's;
    by Bonferroni both hold together. Assumes that the teacher is right, and that the audited votes were
    chosen without their answers or labels being looked at, such as the first ones in index order.

    Attributes:
        correct: audited votes of which the teacher says A too.
        audited: m, at least 1.
        vote_share: the vote's share of alpha, in (0, 1).
    """

    name: ClassVar[str] = "audit"
    template: ClassVar[str] = (
        "A teacher, taken to be right, labelled {audited} of this input's votes for the class, chosen "
        "without looking at them, and agreed with {correct}. Part of alpha pays for this sample."
    )
    under_noise: ClassVar[bool] = True
    correct: int
    audited: int
    vote_share: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError where a count or the share is out of range."""
        check_counts(self.correct, self.audited)
        _check_share(self.vote_share)

    def rates(self, alpha: float, /) -> tuple[Fraction, Fraction]:
        """1 - e is the inverse of the precision; where none is shown, every vote may be false."""
        bound = clopper_pearson_lower(self.correct, self.audited, self.label_alpha(alpha))
        precision = 1 - Fraction(bound.complement)
        return (Fraction(0), 1 - 1 / precision) if precision else (Fraction(1), Fraction(0))


@dataclass(frozen=True, slots=True)
class Calibrated(Mode):
    """`Adversarial` with epsilon bounded from above by labelled calibration data.

    epsilon = BetaInv(1 - alpha_c; errors + 1, total - errors), 1 where all are errors. Assumes independent
    answers, one for each calibration image, from the distribution that is meant. It bounds the error averaged
    over that distribution, not at this input.

    Attributes:
        errors: calibration answers that the oracle called A falsely; counting every error is safe too.
        total: calibration answers, at least 1.
        vote_share: the vote's share of alpha, in (0, 1).
    """

    name: ClassVar[str] = "calibrated"
    template: ClassVar[str] = (
        "At this input the oracle says the class falsely no more often than the upper bound that {errors} "
        "errors in {total} independent calibration answers, one per image, give of its average over "
        "their distribution. Where it errs more often the claim can be false, however small alpha is. "
        "Part of alpha pays for the bound."
    )
    errors: int
    total: int
    vote_share: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError where a count or the share is out of range."""
        check_counts(self.errors, self.total)
        _check_share(self.vote_share)

    def rates(self, alpha: float, /) -> tuple[Fraction, Fraction]:
        """The upper bound of epsilon, used as in `Adversarial`."""
        epsilon = clopper_pearson_upper(self.errors, self.total, self.label_alpha(alpha))
        return Fraction(epsilon.value), -Fraction(epsilon.value)


@dataclass(frozen=True, slots=True)
class CalibratedFalsePositive(Mode):
    """`FalsePositive` with f bounded from above by labelled calibration data of every other true class.

    f is the largest of the K - 1 upper Clopper-Pearson bounds, each at alpha_c / (K - 1). Assumptions as in
    `Calibrated`, within each true class.

    Attributes:
        counts: a pair for every class other than A: how many of its calibration answers the oracle called A,
            and how many answers there are, at least 1.
        vote_share: the vote's share of alpha, in (0, 1).
    """

    name: ClassVar[str] = "calibrated-false-positive"
    template: ClassVar[str] = (
        "At this input, where another class is true, whichever it is, the oracle says the certified class no "
        "more often than the upper bound that independent calibration answers, one per image, give of "
        "its average over their distribution, for the worst class (errors of answers: {counts}). Where it "
        "errs more often the claim can be false, however small alpha is. Part of alpha pays for the bound."
    )
    counts: Sequence[tuple[int, int]]
    vote_share: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError where there are no counts, or a count or the share is out of range."""
        if not self.counts:
            raise ValueError(
                "no calibration counts; each true class other than the certified one needs its own"
            )
        for errors, total in self.counts:
            check_counts(errors, total)
        _check_share(self.vote_share)
        # A copy: what is assumed is laid down here, whatever becomes of the caller's lists.
        object.__setattr__(self, "counts", tuple((errors, total) for errors, total in self.counts))

    @property
    def sentence(self) -> str:
        """The assumption in words."""
        return self.template.format(counts=", ".join(f"{errors} of {total}" for errors, total in self.counts))

    def check_classes(self, classes: int) -> None:
        """Each class besides the certified one needs counts of its own."""
        if len(self.counts) < classes - 1:
            raise ValueError(
                f"mode {self.name} was given calibration counts of {len(self.counts)} classes; besides the "
                f"certified one there are {classes - 1}, and each needs its own"
            )

    def rates(self, alpha: float, /) -> tuple[Fraction, Fraction]:
        """The worst class's upper bound of f."""
        each = self.label_alpha(alpha) / len(self.counts)
        worst = max(clopper_pearson_upper(errors, total, each).value for errors, total in self.counts)
        return Fraction(worst), Fraction(0)


MODES: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (
        Composite,
        Pairwise,
        Adversarial,
        FalsePositive,
        Asymmetric,
        Symmetric,
        Unknown,
        Audit,
        Calibrated,
        CalibratedFalsePositive,
    )
}


def mode(name: str, /, **given: object) -> Mode:
    """The mode of that name, with its attributes.

    Raises:
        ValueError: no such mode, attributes missing or not the mode's, or a value that the mode refuses.
    """
    if name not in MODES:
        raise ValueError(f"there is no mode {name!r}; choose one of {', '.join(MODES)}")
    takes = parameters(MODES[name])
    if {*takes} - {"vote_share"} - {*given} or {*given} - {*takes}:
        raise ValueError(
            f"mode {name} takes {', '.join(takes) or 'nothing'}; it was given {', '.join(given) or 'nothing'}"
        )
    made: Mode = MODES[name](**given)
    return made


def _check_two(name: str, classes: int) -> None:
    if classes != 2:
        raise ValueError(
            f"mode {name} assumes two classes, and there are {classes}: assume adversarial or false-positive"
        )


def _check_rate(name: str, rate: float, limit: float) -> None:
    if not 0 <= rate < limit:
        raise ValueError(f"the {name} is {rate}; it must be at least 0 and below {limit:g}")


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"the vote's share of alpha is {share}; it must lie above 0 and below 1")
