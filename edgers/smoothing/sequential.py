"""A test and a bound valid at any stopping time: the one-sided mixture over a truncated Beta(1/2, 1/2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, expit, gammaln

from edgers.smoothing.bounds import MAX_SAMPLES, Probability, check_alpha, check_counts
from edgers.smoothing.stopping import Boundary, Integers, check_looks, check_threshold, unreachable

DEFAULT_FUTILITY = 0.01

# What the log evidence is rounded down by: absolute, and relative to its largest terms. Measured against 50
# digits for n up to 10^7, its error is at most a twentieth of that.
_SLACK, _RELATIVE_SLACK = 1e-12, 1e-14

_FAINT = 1e-280  # below it the incomplete beta function loses digits; 0 is put in its place
_ROUNDED_DOWN = 1e-11  # in log odds: what rounding can move a bound found by bisection
_STRIDE = 8
_STIRLING_FROM = 32.0

# Where the inversion looks. Further down a bound is as good as 0, and 10^9 votes reach none further up.
_LOWEST_LOG_ODDS, _HIGHEST_LOG_ODDS = -700.0, 60.0


@dataclass(frozen=True, slots=True)
class MixtureTest:
    """The one-sided test of `q <= threshold` against `q > threshold`, valid at any stopping time.

    The evidence is the likelihood of the votes averaged over the Beta(1/2, 1/2) prior truncated to
    (threshold, 1], divided by their likelihood at the threshold. For every q <= threshold it is a
    supermartingale that starts at 1, so with probability at most alpha it ever reaches 1/alpha (Ville's
    inequality): whoever stops, for whatever reason that the votes so far tell, is wrong with probability at
    most alpha. The claim is one-sided, and so is the level: 1/alpha, not 1/(2 alpha).

    Assumes independent votes, each for A with the same probability q, counted in index order.
    Source: Robbins, Annals of Mathematical Statistics 41 (1970), for mixtures; Howard, Ramdas, McAuliffe and
    Sekhon, Annals of Statistics 49 (2021), whose one-sided beta-binomial mixture is the same idea.

    Attributes:
        threshold: p0 in (0, 1); Phi(r / sigma) to decide R >= r, plus whatever the claim adds to it (the
            oracle's error, the sampler's distance from exact noise), rounded up by the caller.
        alpha: allowed probability of ever certifying although q <= threshold, in (0, 1/2).
    """

    threshold: float
    alpha: float

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            ValueError: threshold is not in (0, 1), or alpha is not in (0, 1/2).
        """
        check_threshold(self.threshold)
        check_alpha(self.alpha)

    def log_evidence(self, votes: int | Integers, samples: int | Integers) -> NDArray[np.float64]:
        """The natural logarithm of the evidence, rounded down; float64 of the shape of the counts.

        log B(1/2+k, 1/2+n-k) - log B(1/2, 1/2) + log(1 - I_p0(1/2+k, 1/2+n-k)) - log(1 - I_p0(1/2, 1/2))
        - k log p0 - (n-k) log(1-p0), too low by at most 2e-12 + 3e-14 (|log evidence| + 2 |k - n p0|). Where
        the votes are more than 35 standard deviations short of the threshold, a finite lower bound of it.

        Args:
            votes: k, an integer or an array; not checked.
            samples: n, likewise.
        """
        return _log_evidence(votes, samples, Probability(self.threshold, 1 - self.threshold))

    def certifies(self, votes: int, samples: int) -> bool:
        """Whether `votes` of the first `samples` certify that q exceeds the threshold, one-sided.

        Raises:
            ValueError: counts out of range.
        """
        check_counts(votes, samples)
        return _rejects(votes, samples, Probability(self.threshold, 1 - self.threshold), self.alpha)

    @property
    def unanimous_samples(self) -> int:
        """The fewest samples that certify when all agree; with fewer, no votes do.

        The evidence grows with every vote: each factor of the likelihood ratio is above 1 for one.

        Raises:
            ValueError: it takes more than 10^9.
        """
        few, enough = 0, 1
        while not self.certifies(enough, enough):
            if enough == MAX_SAMPLES:
                raise ValueError(
                    f"no {MAX_SAMPLES} samples show a probability above {self.threshold} at alpha "
                    f"{self.alpha} at any stopping time: aim at a smaller radius"
                )
            few, enough = enough, min(2 * enough, MAX_SAMPLES)
        while enough - few > 1:
            middle = (few + enough) // 2
            few, enough = (few, middle) if self.certifies(middle, middle) else (middle, enough)
        return enough

    def boundary(self, looks: Integers | Sequence[int], futility: float = DEFAULT_FUTILITY) -> Boundary:
        """The same test at these looks only, with a rule to give up; both only make its size smaller.

        Args:
            looks: [J] increasing numbers of samples; the last is the cap.
            futility: how readily it gives up, see `hopeless_votes`.

        Raises:
            ValueError: looks or futility out of range.
        """
        looks = check_looks(looks)
        certify_from = self.fewest_votes(looks)
        return Boundary(looks, certify_from, hopeless_votes(looks, certify_from, self.threshold, futility))

    def fewest_votes(self, looks: Integers) -> Integers:
        """The fewest votes that certify at each look, look + 1 where none do; [J], looks increasing."""
        # The evidence is at most 1 where the share of the votes does not exceed the threshold.
        low, high = np.floor(looks * self.threshold).astype(np.int64), looks + 1
        if looks.size > _STRIDE:
            # A sample more changes the fewest votes by 0 or 1: each factor of the likelihood ratio under the
            # mixture is above 1 for a vote and below 1 for another answer.
            before = np.repeat(np.arange(0, looks.size, _STRIDE), _STRIDE)[: looks.size]
            coarse = self.fewest_votes(looks[::_STRIDE])[before // _STRIDE]
            low = np.maximum(low, coarse - 1)
            high = np.minimum(high, coarse + looks - looks[before])
        while ((high - low) > 1).any():
            middle = (low + high) // 2
            enough = self.log_evidence(middle, looks) >= -math.log(self.alpha)
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return high


def hopeless_votes(
    looks: Integers, certify_from: Integers, threshold: float, futility: float = DEFAULT_FUTILITY
) -> Integers:
    """The most votes at which a rule gives up: int64 [J], -1 where it does not.

    It gives up when no later look can certify even if all samples that remain agree, or when the mirrored
    mixture test (votes and other answers exchanged) rejects `q >= threshold` at level `futility`. For every
    q >= threshold the latter ever happens with probability at most `futility`, and far less for a q well
    above. Giving up loses power by that much at most; it never certifies, so it costs no soundness.

    Args:
        looks: [J], as of `Boundary`.
        certify_from: [J], as of `Boundary`.
        threshold: what q must exceed.
        futility: level of the mirrored test, in (0, 1/2).

    Raises:
        ValueError: threshold or futility out of range.
    """
    against = MixtureTest(1 - threshold, check_futility(futility)).fewest_votes(looks)
    hopeless: Integers = np.maximum(looks - against, unreachable(looks, certify_from))
    return np.minimum(hopeless, certify_from - 1)


def check_futility(futility: float) -> float:
    """Return futility when it is a usable level.

    Raises:
        ValueError: it is not in (0, 1/2).
    """
    if not 0 < futility < 0.5:
        raise ValueError(f"futility is {futility}; it must lie above 0 and below 0.5")
    return futility


@lru_cache(maxsize=64)  # the decision, the ending and the conclusion ask about the same votes
def anytime_lower(votes: int, samples: int, alpha: float) -> Probability:
    """The one-sided lower bound of q at confidence 1 - alpha that holds at any stopping time, rounded down.

    The supremum of the thresholds that `MixtureTest` rejects. They form an interval from 0. To see it, let
    threshold = sin^2(t): the prior is uniform in t, so the evidence M is the mean of L(s) / L(t) over s in
    (t, pi/2), and d log M / dt = h (1 - 1/M) - l'(t) with h = 1 / (pi/2 - t) and l = log L. Where that is
    zero and M > 1, its own derivative h' (1 - 1/M) - l'' is positive, as h increases and l is strictly
    concave. So M falls from its pole at 0, and where it rose again it would go on rising up to the share k/n;
    but there M <= 1, since L falls beyond it. Hence it falls wherever it is above 1, and 1/alpha is above 1.

    With probability 1 - alpha no bound along the whole run of samples exceeds q, so the largest so far, at
    any stopping time, is a bound too. Assumes independent votes, counted in index order. Source: as
    `MixtureTest`; the inversion to a confidence sequence: Howard and others (2021).

    Args:
        votes: k, samples voted A.
        samples: n.
        alpha: allowed probability, in (0, 1/2), that some bound along the run exceeds q.

    Returns:
        The bound, below the exact one by less than 1e-9 of it, or above 1/2 of its complement.

    Raises:
        ValueError: alpha, k or n out of range.
    """
    check_alpha(alpha)
    check_counts(votes, samples)
    low = _LOWEST_LOG_ODDS
    high = math.log(votes / (samples - votes)) if 0 < votes < samples else _HIGHEST_LOG_ODDS
    if votes == 0 or not _rejects(votes, samples, _probability(low), alpha):
        return Probability(0.0, 1.0)
    while high - low > 1e-12:
        middle = (low + high) / 2
        if _rejects(votes, samples, _probability(middle), alpha):
            low = middle
        else:
            high = middle
    return _probability(low - _ROUNDED_DOWN)


def _rejects(votes: int, samples: int, threshold: Probability, alpha: float) -> bool:
    if votes <= samples * threshold.value:
        return False  # the evidence is at most 1 there
    return bool(_log_evidence(votes, samples, threshold) >= -math.log(alpha))


def _log_evidence(votes: int | Integers, samples: int | Integers, p0: Probability) -> NDArray[np.float64]:
    """As `MixtureTest.log_evidence`; the integral over (p0, 1] is taken from the complement's side."""
    p, q = p0.value, p0.complement
    k, n = np.asarray(votes, np.float64), np.asarray(samples, np.float64)
    a, b, total = k + 0.5, n - k + 0.5, n + 1.0
    above = betainc(b, a, q)  # 1 - I_p(a, b)
    # Stirling's formula for B(a, b), over p^k q^(n-k): what is left of the large powers are two logarithms
    # near 0, which keep their digits.
    excess = total * q - b if q < 0.5 else a - total * p
    for_votes = k * np.log1p(excess / (total * p))
    for_others = (n - k) * np.log1p(-excess / (total * q))
    stirling = (
        0.5 * np.log(2 * math.pi / total) + _stirling_rest(a) + _stirling_rest(b) - _stirling_rest(total)
    )
    with np.errstate(divide="ignore"):  # log 0 loses to the lower bound
        mixture = for_votes + for_others + stirling + np.log(np.where(above < _FAINT, 0.0, above))
    # The integral's first term in a series of positive ones, p^a q^b / b, over p^k q^(n-k).
    least = 0.5 * math.log(p) + 0.5 * math.log(q) - np.log(b)
    log_prior = math.log(2 * math.asin(math.sqrt(q)))  # B(1/2, 1/2) (1 - I_p(1/2, 1/2))
    slack = _SLACK + _RELATIVE_SLACK * (abs(for_votes) + abs(for_others))
    evidence: NDArray[np.float64] = np.maximum(mixture, least) - log_prior - slack
    return evidence


def _stirling_rest(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2, for z >= 1/2 (DLMF 5.11.1)."""
    inverse = 1 / np.maximum(z, _STIRLING_FROM)
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    small = np.minimum(z, _STIRLING_FROM)
    exact = gammaln(small) - (small - 0.5) * np.log(small) + small - 0.5 * math.log(2 * math.pi)
    rest: NDArray[np.float64] = np.where(z < _STIRLING_FROM, exact, series)
    return rest


def _probability(log_odds: float) -> Probability:
    """Rounded down."""
    complement = float(expit(-log_odds))
    if complement < 0.5:
        return Probability(math.nextafter(1 - complement, 0.0), complement)
    value = float(expit(log_odds))
    return Probability(value, math.nextafter(1 - value, 1.0))
