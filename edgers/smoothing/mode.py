"""From the probability that the oracle says A to the probability that A is true, under a named assumption.

Notation, for noisy copies of one input: q the probability that the oracle says A, p the probability that A is
true. The vote bounds q from below, and a mode turns that into a lower bound of p. In every mode it is

    p_L = (q_L - f) / (1 - e - f),    1 - p_L = (1 - q_L - e) / (1 - e - f)

with the mode's own f and e; fractions are exact and rounded once, to the safe side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from fractions import Fraction
from typing import Any, ClassVar

from edgers.smoothing.bounds import Probability, check_alpha, rounded_down


class Mode(ABC):
    """What a certificate claims about p, and what it assumes for that."""

    __slots__ = ()

    name: ClassVar[str]
    majority_only: ClassVar[bool] = False  # the algebra bounds p only for q >= 1/2
    # Whether what the mode estimates was seen under the noise that was drawn, like the vote: then only their
    # result is about that noise, and is lowered by the sampler's distance from ideal noise, not the vote.
    under_noise: ClassVar[bool] = False
    template: ClassVar[str]  # of the sentence, with the attributes in braces

    @property
    def sentence(self) -> str:
        """The assumption in words."""
        return self.template.format_map({name: getattr(self, name) for name in parameters(type(self))})

    def check_classes(self, classes: int) -> None:  # noqa: B027  most modes speak of any number
        """Check how many classes there are, the certified one among them.

        Raises:
            ValueError: the mode's assumption does not speak of so many.
        """

    @abstractmethod
    def rates(self, alpha: float, /) -> tuple[Fraction, Fraction]:
        """The two numbers f and e; what the mode estimates holds at `label_alpha(alpha)`."""

    def vote_alpha(self, alpha: float) -> float:
        """What the vote's bound may spend of alpha: all of it where the mode estimates nothing.

        Raises:
            ValueError: alpha is not in (0, 1/2).
        """
        return check_alpha(alpha) * getattr(self, "vote_share", 1.0)

    def label_alpha(self, alpha: float) -> float:
        """What is left of alpha for the labelled data; bounds have more slack than this rounding."""
        return alpha - self.vote_alpha(alpha)

    def p_lower(self, q_lower: Probability, alpha: float) -> Probability:
        """A lower bound of p, rounded down and at least 0; it does not fall when q_lower grows.

        Args:
            q_lower: a lower bound of q that holds at `vote_alpha(alpha)`.
            alpha: the whole alpha: the bound exceeds p with at most this probability.

        Raises:
            ValueError: alpha is not in (0, 1/2), or q_lower is above 1 - e: then the votes contradict the
                assumption.
        """
        f, e = self.rates(check_alpha(alpha))
        value, complement = Fraction(q_lower.value), Fraction(q_lower.complement)
        if complement < e:
            raise ValueError(
                f"the oracle says the class with probability {q_lower.value:.6g} at least; mode {self.name} "
                f"rules out more than {float(1 - e)}: its assumption does not hold here"
            )
        scale = 1 - e - f
        if scale == 0 or (self.majority_only and value < Fraction(1, 2)):
            return Probability(0.0, 1.0)
        return rounded_down((value - f) / scale, (complement - e) / scale)

    def q_needed(self, p0: Probability, alpha: float) -> Probability | None:
        """The q_lower from which on p_lower is at least p0, rounded up; None where no vote is enough.

        Args:
            p0: at least 1/2, as radii need it, and rounded up where it is not exact.
            alpha: the whole alpha.

        Raises:
            ValueError: alpha is not in (0, 1/2), or p0 is below 1/2.
        """
        if p0.value < 0.5:
            raise ValueError(f"the probability to reach is {p0.value}; it must be at least 0.5")
        f, e = self.rates(check_alpha(alpha))
        scale = 1 - e - f
        value, complement = f + scale * Fraction(p0.value), e + scale * Fraction(p0.complement)
        return rounded_down(complement, value).opposite if value < 1 and complement > 0 else None


def parameters(kind: type[Any]) -> list[str]:
    """The names of a mode's attributes, in order."""
    return [field.name for field in fields(kind)]
