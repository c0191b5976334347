"""Certificates that are counted together: their levels, their sentences, and what is refused."""

import json
import math
from fractions import Fraction

import pytest
from scipy.stats import binom

from edgers import Certifier, demo
from edgers.accounting import MAX_NUMBER, accounting
from edgers.certificate import Certificate
from edgers.rule import Rule
from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.many import bonferroni, scheduled
from edgers.verify import replay, verify
from edgers_engines.errors import InputError
from edgers_engines.records import parse
from tests.edgers.hostile import QUESTION, command, refused

ALPHA = 0.001
FEW = ("--sigma", demo.SIGMA, "--samples", 60, "--selection", 8)


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run a command in this process."""
    return lambda *args: command(monkeypatch, capsys, *args)


def read(ended):
    """The certificates on stdout, each consistent."""
    certificates = [parse(line.encode(), Certificate) for line in ended.out.splitlines()]
    for certificate in certificates:
        verify(certificate)
    return certificates


# --- levels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 7, 1000])
def test_all_of_a_declared_number_spend_no_more_than_alpha(number):
    counted = accounting("among", ALPHA, number)
    assert counted.alpha == bonferroni(ALPHA, number)
    assert Fraction(counted.alpha) * number <= Fraction(ALPHA)
    assert counted.alpha * number == pytest.approx(ALPHA, rel=1e-12)


def test_a_stream_without_end_spends_no_more_than_alpha():
    levels = [accounting("schedule", ALPHA, number).alpha for number in range(1, 3000)]
    assert levels == [scheduled(ALPHA, number) for number in range(1, 3000)]
    assert sum(map(Fraction, levels)) <= Fraction(ALPHA)


@pytest.mark.parametrize("kind", ["among", "schedule"])
def test_any_of_ten_retries_at_the_edge_is_certified_with_probability_alpha_at_most(demo_certifier, kind):
    """Exact, for a class of probability 1/2; the same ten, each at alpha, are not within it."""
    numbers = [10] * 10 if kind == "among" else range(1, 11)
    rules = [demo_certifier.accounted(kind, number).rule for number in numbers]
    assert 1 - math.prod(1 - size(rule) for rule in rules) <= ALPHA
    assert 1 - (1 - size(demo_certifier.rule)) ** 10 > ALPHA


def test_a_thousand_tries_make_a_false_certificate_with_probability_58_percent():
    """A class at the edge of the majority, n = 1000, retried until it certifies."""
    assert 1 - (1 - size(Rule(1000, ALPHA, 0.5))) ** 1000 == pytest.approx(0.58, abs=0.005)


def size(rule):
    """The probability that half of the votes certify."""
    conclusions = [rule.conclude("A", {"A": k, "B": rule.samples - k}) for k in range(rule.samples + 1)]
    certified = [k for k, conclusion in enumerate(conclusions) if conclusion.certified]
    return binom.pmf(certified, rule.samples, 0.5).sum()


def test_the_certificate_says_its_level_and_of_how_many_it_is_one(demo_certifier, demo_bundle, hard_frame):
    for kind, number in (("each", None), ("among", 4), ("schedule", 4)):
        made = demo_certifier.accounted(kind, number)
        c = made.certify(hard_frame, demo.PROMPT, choices=demo.ACTIONS)
        verify(c)
        assert replay(c, demo_bundle).accounting == c.accounting == accounting(kind, ALPHA, number)
        assert c.alpha == c.accounting.alpha == made.rule.alpha
        assert c.q_lower == clopper_pearson_lower(c.votes.certification[c.label], c.n, c.alpha).value


def test_a_count_begins_again_from_the_whole_alpha(demo_certifier):
    twice = demo_certifier.accounted("schedule", 3).accounted("schedule", 4)
    assert twice.rule.alpha == scheduled(ALPHA, 4)
    assert twice.accounted("each").rule.alpha == ALPHA
    assert demo_certifier.rule.alpha == ALPHA


def test_a_count_and_a_target_go_together_in_any_order(demo_bundle):
    made = Certifier(
        demo_bundle, sigma=demo.SIGMA, samples=200, method="batched", target_radius=0.1, batch_size=8
    )
    one = made.accounted("among", 9).deciding(0.12, 4)
    other = made.deciding(0.12, 4).accounted("among", 9)
    assert one.rule == other.rule
    assert one.accounting == other.accounting == accounting("among", ALPHA, 9)
    assert one.rule._boundary.certify_from[-1] > made.deciding(0.12, 4).rule._boundary.certify_from[-1]


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        *((kind, number) for kind in ("among", "schedule") for number in (0, -1, MAX_NUMBER + 1, 10**400)),
        *(("among", number) for number in (None, True, 2.0, "2", math.nan)),
        ("each", 1),
        ("peeking", 1),
        (None, None),
    ],
)
def test_a_count_that_is_none_is_refused(demo_certifier, kind, number):
    with pytest.raises(InputError, match=r"number|accounting"):
        demo_certifier.accounted(kind, number)


def test_a_level_at_which_all_samples_miss_the_target_is_refused(demo_bundle):
    made = Certifier(demo_bundle, sigma=demo.SIGMA, samples=30, method="sequential", target_radius=0.1)
    with pytest.raises(InputError, match=r"cannot certify a radius of 0\.1"):
        made.accounted("schedule", 1000)


# --- the command line ---------------------------------------------------------------------------------------


def test_images_among_a_declared_number_are_each_made_at_their_share(edgers, first_frame):
    ended = edgers("certify", first_frame, first_frame, *QUESTION, *FEW, "--among", 5, "--json")
    assert ended.code == 0
    assert [c.accounting for c in read(ended)] == [accounting("among", ALPHA, 5)] * 2
    assert [c.alpha for c in read(ended)] == [bonferroni(ALPHA, 5)] * 2


def test_attempts_count_on_from_image_to_image_and_a_broken_one_counts(edgers, first_frame, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    images = (first_frame, tmp_path / "broken.png", first_frame)
    ended = edgers("certify", *images, *QUESTION, *FEW, "--attempt", 7, "--json")
    assert ended.code == 1
    first, error, last = map(json.loads, ended.out.splitlines())
    assert "error" in error
    assert [c["accounting"]["number"] for c in (first, last)] == [7, 9]
    assert [c["alpha"] for c in (first, last)] == [scheduled(ALPHA, 7), scheduled(ALPHA, 9)]


def test_a_person_is_told_how_a_certificate_counts(edgers, first_frame):
    for options, said in (
        ((), "Of Q such certificates up to Q × 0.001 are wrong on average"),
        (("--among", 4), "One of 4 certificates, a number declared before the first"),
        (("--attempt", 2), "Attempt 2 of a stream without end"),
    ):
        text = edgers("certify", first_frame, *QUESTION, *FEW, *options).out
        assert said in " ".join(text.replace("│", "").split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--among", 1), "--among 1, but there are 2 images: declare at least so many"),
        (("--among", 0), "--among.* 0 is not in the range"),
        (("--attempt", 0), "--attempt.* 0 is not in the range"),
        (("--attempt", -1), "--attempt.* -1 is not in the range"),
        (("--attempt", "two"), "--attempt.*not a valid integer"),
        (("--attempt", 1 << 41), "it must be 1 to"),
        (("--among", 2, "--attempt", 1), "give one"),
        (("--attempt", 1, "--target-radius", 0.1, "--samples", 22), "cannot certify a radius of 0.1"),
    ],
)
def test_a_count_that_does_not_fit_is_refused_before_the_first_image(edgers, first_frame, options, said):
    refused(edgers("certify", first_frame, first_frame, *QUESTION, *FEW, *options), 2, said)
