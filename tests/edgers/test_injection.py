"""Injected errors: exact false certificates of every mode, the modes that must not be used, simulations."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest, norm

from edgers.injection import (
    INSIDE,
    RADII,
    Setting,
    concluding,
    false_certificate,
    kept,
    simulate,
    study,
    verdict,
)
from edgers.smoothing.injection import (
    KINDS,
    USES,
    Audited,
    Errors,
    FromCalibration,
    Told,
    World,
    draw,
)
from edgers.smoothing.oracle_error import Adversarial, Asymmetric, Audit, Calibrated, Symmetric

USE = {use.name: use for use in USES}
ALPHA = 0.05
SETTINGS = [Setting(25, ALPHA, audited=20, calibration=20), Setting(60, ALPHA, audited=10, calibration=40)]
PS = np.concatenate([np.linspace(0.4, 0.5, 5), np.linspace(0.52, 0.98, 24)]).tolist()
RATES = (0.05, 0.2, 0.45)
COVERED = ("adversarial", "false-positive", "asymmetric", "audit", "calibrated", "calibrated-false-positive")


def world(p, errors, setting):
    return World(p, errors, setting.samples, setting.audited, setting.calibration)


def most_false(use, kinds=tuple(KINDS), settings=SETTINGS, rates=RATES, ps=PS):
    """The largest probability of a false certificate over a grid of p, rates and n."""
    return max(
        false_certificate(use, world(p, KINDS[kind](rate), setting), conclude)
        for setting in settings
        for conclude in [concluding(setting)]
        for kind in kinds
        for rate in rates
        for p in ps
    )


# --- the promise, by exact sums -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", COVERED)
def test_a_mode_that_covers_the_errors_is_wrong_with_probability_alpha_at_most(name):
    assert 0 < most_false(USE[name]) <= ALPHA


@pytest.mark.parametrize("name", ["adversarial", "false-positive", "asymmetric"])
def test_told_the_exact_rates_it_comes_close_to_alpha_under_false_positives(name):
    assert most_false(USE[name], ["false-positives"]) > 0.9 * ALPHA


@pytest.mark.parametrize("name", ["symmetric", "symmetric, low", "unknown"])
def test_the_papers_theorems_hold_under_symmetric_errors_of_a_rate_that_is_known_from_below(name):
    assert 0 < most_false(USE[name], ["symmetric"]) <= ALPHA


def test_the_papers_correction_fails_under_symmetric_errors_when_told_an_upper_bound_of_the_rate():
    assert most_false(USE["symmetric, high"], ["symmetric"]) > 2 * ALPHA


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("name", ["symmetric", "symmetric, low", "symmetric, high", "unknown"])
def test_the_papers_theorems_fail_under_one_sided_errors(name, rate):
    setting = Setting()
    errors = KINDS["false-positives"](rate)
    assert false_certificate(USE[name], world(0.5, errors, setting), concluding(setting)) > 4 * setting.alpha


def test_an_unknown_rate_is_false_where_rates_are_unequal():
    """With p = .55 and false positives at .2, q is .64: 1,000 votes hardly ever claim less than p."""
    setting = Setting(samples=1000)
    seen = world(0.55, Errors(0.0, 0.2), setting)
    assert seen.q == pytest.approx(0.64)
    assert false_certificate(USE["unknown"], seen, concluding(setting)) > 0.99


def test_false_negatives_alone_never_make_an_uncorrected_vote_false():
    assert most_false(USE["unknown"], ["false-negatives"]) <= ALPHA


# --- wrong rules fail the same check ------------------------------------------------------------------------


@dataclass(frozen=True)
class AllCorrect(Audited):
    """Every audited vote counts as correct."""

    def mode(self, seen, votes, _evidence):
        """The mode that was told so."""
        audited = max(min(votes, seen.audited), 1)
        return Audit(audited, audited)


@dataclass(frozen=True)
class AllAudited(Audited):
    """The votes that nobody labelled count as correct ones too."""

    def mode(self, seen, votes, evidence):
        """The mode that was told so."""
        audited = max(min(votes, seen.audited), 1)
        return Audit(evidence + max(votes - audited, 0), max(votes, 1))


WRONG = {
    "an audit in which all is correct": AllCorrect(),
    "an audit that counts what nobody labelled": AllAudited(),
    "adversarial, told a lower bound": Told("", lambda seen: Adversarial(seen.said_falsely / 2)),
    "asymmetric, told an upper bound of the misses": Told(
        "", lambda seen: Asymmetric(seen.errors.false, (1 + seen.errors.missed - seen.errors.false) / 2)
    ),
    "calibrated by no errors": FromCalibration(
        "", lambda seen: seen.said_falsely, lambda _, total: Calibrated(0, total)
    ),
    "symmetric, told the rate of a one-sided oracle": Told("", lambda seen: Symmetric(seen.errors.false)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_fails_the_check_that_the_modes_pass(name):
    assert most_false(WRONG[name]) > 2 * ALPHA


# --- golden numbers -----------------------------------------------------------------------------------------


def test_the_sum_is_the_binomial_tail_of_the_votes_that_certify():
    """At n = 100 and alpha = .001 it takes 66 votes; with false positives at .2, q is .6 where p is .5."""
    setting = Setting()
    seen = world(0.5, Errors(0.0, 0.2), setting)
    found = false_certificate(USE["unknown"], seen, concluding(setting))
    assert found == pytest.approx(binom.sf(65, 100, 0.6), rel=1e-9)


def test_a_known_false_positive_rate_is_paid_for_in_votes():
    """(q_L - .2) / .8 above one half takes q_L above .6."""
    setting = Setting()
    least = next(k for k in range(101) if beta.ppf(0.001, k, 101 - k) > 0.6)
    seen = world(0.5, Errors(0.0, 0.2), setting)
    found = false_certificate(USE["false-positive"], seen, concluding(setting))
    assert found == pytest.approx(binom.sf(least - 1, 100, 0.6), rel=1e-9)


def test_alpha_is_split_between_the_vote_and_the_labels():
    setting = Setting()
    conclude = concluding(setting)
    bound, label_bound = 0.0005 ** (1 / 100), 0.0005 ** (1 / 50)
    audit = conclude(USE["audit"].mode(world(0.9, Errors(0, 0), setting), 100, 50), 100)
    assert audit.p_lower == pytest.approx(bound * label_bound, rel=1e-9)
    calibrated = conclude(USE["calibrated"].mode(world(0.9, Errors(0, 0), setting), 100, 0), 100)
    assert calibrated.p_lower == pytest.approx(bound - (1 - 0.0005 ** (1 / 1000)), rel=1e-9)


def test_what_is_kept_is_the_mean_over_votes_of_the_radius():
    setting = Setting(sigma=0.25)
    votes = np.arange(1, 101)
    radii = 0.25 * np.maximum(norm.ppf(beta.ppf(0.001, votes, 101 - votes)), 0)
    masses = binom.pmf(votes, 100, INSIDE * 0.9)
    found = kept(USE["unknown"], world(INSIDE, Errors(0.1, 0.0), setting), 0.25, concluding(setting))
    assert found.mean_radius == pytest.approx(masses @ radii, rel=1e-9)
    assert found.certified == pytest.approx(masses[radii > 0].sum(), rel=1e-9)
    assert found.radius == pytest.approx(0.25 * norm.ppf(0.95), rel=1e-9)


def test_votes_that_contradict_the_mode_are_no_certificate():
    """Symmetric flips at .4 leave at most .6 for q, so nothing is certified where more is shown."""
    setting = Setting()
    assert not concluding(setting)(Symmetric(0.4), 100).certified
    assert concluding(setting)(Symmetric(0.4), 66).certified


def test_masses_that_are_left_out_of_the_sum_count_as_false_certificates(monkeypatch):
    setting = Setting()
    seen, conclude = world(0.5, Errors(0.0, 0.2), setting), concluding(setting)
    exact = false_certificate(USE["unknown"], seen, conclude)
    monkeypatch.setattr("edgers.smoothing.injection._LEAST", 0.01)
    assert exact < false_certificate(USE["unknown"], seen, conclude) < exact + 0.1


# --- the verdicts -------------------------------------------------------------------------------------------


def test_the_verdicts_say_where_the_papers_correction_holds_and_where_it_must_not_be_used():
    found = study([0.1], Setting(simulations=0, audited=20, calibration=100))
    verdicts = {(finding.errors, finding.use): finding.verdict for finding in found}
    assert len(verdicts) == len(found) == len(KINDS) * len(USES)
    for kind in KINDS:
        assert verdicts[kind, "composite"] == "claims no truth"
        assert {verdicts[kind, name] for name in COVERED} == {"holds"}
        assert verdicts[kind, "symmetric, high"] == "must not be used here"
    for name in ("symmetric", "symmetric, low", "unknown"):
        assert verdicts["symmetric", name] == "holds, by assumption"
        assert verdicts["false-positives", name] == "must not be used here"
        assert verdicts["false-negatives", name] == "holds, not promised"


def test_a_mode_must_not_be_used_from_the_first_false_certificate_above_alpha():
    seen = world(0.5, Errors(0.1, 0.1), Setting())
    assert verdict(USE["audit"], seen, 0.001, 0.001) == "holds"
    assert verdict(USE["audit"], seen, 0.0010001, 0.001) == "must not be used here"


def test_a_wrong_number_is_not_promised_even_where_it_does_no_harm():
    (finding,) = (
        finding
        for finding in study([0.01], Setting(samples=10, simulations=0))
        if (finding.errors, finding.use) == ("symmetric", "symmetric, high")
    )
    assert finding.worst.wrong <= 0.001
    assert finding.verdict == "holds, not promised"


def test_each_true_radius_is_a_boundary_and_the_worst_of_them_decides():
    (finding, *_) = study([0.1], Setting(simulations=0, sigma=0.25, audited=5, calibration=20))
    assert [boundary.radius for boundary in finding.boundaries] == [radius * 0.25 for radius in RADII]
    assert [boundary.p for boundary in finding.boundaries] == pytest.approx(norm.cdf(RADII), rel=1e-12)
    assert finding.worst.wrong == max(boundary.wrong for boundary in finding.boundaries)
    assert finding.worst.simulated is None


# --- simulations, sample by sample --------------------------------------------------------------------------


def test_what_is_drawn_has_the_rates_of_the_world():
    seen = World(0.7, Errors(0.1, 0.3), 500, 1, 1)
    truth, said = draw(seen, 400, np.random.default_rng(1))
    for share, expected in (
        (truth.mean(), seen.p),
        (said.mean(), seen.q),
        ((said & ~truth).mean(), seen.said_falsely),
        ((said ^ truth).mean(), seen.error_rate),
        (truth[said].mean(), seen.precision),
    ):
        assert share == pytest.approx(expected, abs=6 * 0.5 / np.sqrt(said.sum()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [0.5, 0.84])
def test_false_certificates_of_20000_simulated_ones_agree_with_the_sum(kind, p):
    setting = Setting(40, 0.2, audited=15, calibration=60)
    seen, conclude = world(p, KINDS[kind](0.15), setting), concluding(setting)
    simulated = simulate(USES, seen, setting, conclude, np.random.default_rng(2))
    for use, found in zip(USES, simulated, strict=True):
        exact = false_certificate(use, seen, conclude)
        assert binomtest(found.wrong, 20_000, min(exact, 1.0)).pvalue > 1e-5, use.name
        assert found.p_value == pytest.approx(
            binomtest(found.wrong, 20_000, 0.2, alternative="greater").pvalue, rel=1e-6, abs=1e-300
        )


def test_a_binomial_test_over_20000_certificates_finds_the_papers_correction_false_and_no_covered_mode():
    setting = Setting()
    seen = world(0.5, KINDS["false-positives"](0.2), setting)
    found = simulate(USES, seen, setting, concluding(setting), np.random.default_rng(3))
    p_values = dict(zip(USE, (each.p_value for each in found), strict=True))
    assert max(p_values["symmetric"], p_values["unknown"]) < 1e-100
    assert min(p_values[name] for name in COVERED) > 1e-4


def test_simulations_in_several_pieces_are_as_many_as_were_asked_for(monkeypatch):
    monkeypatch.setattr("edgers.injection._CHUNK", 700)
    setting = Setting(20, 0.2, simulations=100)
    seen = world(0.5, Errors(0.0, 0.49), setting)
    everything = Told("", lambda _: Adversarial(0.0))
    (found,) = simulate([everything], seen, setting, concluding(setting), np.random.default_rng(4))
    exact = false_certificate(everything, seen, concluding(setting))
    assert exact > 0.8
    assert binomtest(found.wrong, 100, exact).pvalue > 1e-4


def test_the_seed_decides_what_is_simulated_and_nothing_else():
    first, again, other = (
        study([0.2], replace(Setting(20, 0.2, audited=5, calibration=20, simulations=200), seed=seed))
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert [finding.inside for finding in first] == [finding.inside for finding in other]


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples": 0}, "samples: 0; it must lie between 1 and 1000"),
        ({"samples": 1001}, "samples: 1001"),
        ({"audited": 0}, "audited votes: 0"),
        ({"calibration": 10_001}, "calibration answers: 10001"),
        ({"simulations": -1}, "simulations: -1"),
        ({"seed": -1}, "the seed is -1"),
        ({"alpha": 1e-10}, "alpha is 1e-10"),
        ({"alpha": 0.5}, "alpha is 0.5"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"sigma": 0.0}, "sigma is 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Setting(**wrong)


@pytest.mark.parametrize("rates", [[], [0.1, 0.1], [0.0], [0.5], [-0.1], [float("nan")]])
def test_rates_out_of_range_are_refused(rates):
    with pytest.raises(ValueError, match="rate"):
        study(rates, Setting(simulations=0))


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5), (-0.1, 0.0)])
def test_errors_out_of_range_are_refused(rates):
    with pytest.raises(ValueError, match="the rate of injected errors"):
        Errors(*rates)
