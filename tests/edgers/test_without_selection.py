"""Certificates whose class leads the votes that count: exact error rates, forgeries, parts, refusals.

No probability here is estimated: the votes of every class are enumerated, or walked through by recursion.
"""

import copy
import dataclasses
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy.special import ndtri
from scipy.stats import binom, binomtest, multinomial

from edgers import Certifier, demo
from edgers.advice import advice, meaning
from edgers.certificate import Certificate, CertificateError, camera_radius
from edgers.ending import ALL_SAMPLES, CANCELLED, CERTIFIED, ONE_PART, OUT_OF_REACH, ending
from edgers.gate import Gate, Outcome
from edgers.oracle.base import FAILED, OTHER, RESERVED, UNDECIDED, winner
from edgers.part import Part, merge
from edgers.rule import WITHOUT_SELECTION, Rule
from edgers.smoothing.batched import spending_boundary
from edgers.smoothing.bounds import Probability, clopper_pearson_lower
from edgers.smoothing.oracle_error import MODES, Asymmetric, Audit, Pairwise, Symmetric
from edgers.smoothing.radius import certified_radius
from edgers.smoothing.sequential import MixtureTest, anytime_lower
from edgers.smoothing.stopping import Boundary, even_looks, fixed_boundary, operating_characteristics
from edgers.verify import replay, verify
from edgers_engines.errors import InputError
from edgers_engines.image import Preparation
from edgers_engines.records import parse
from tests.edgers.hostile import command
from tests.edgers.test_certify import ACTION_ORACLE, HalfSpaces

SIGMA = 0.5
NAMES = ("A", "B", "C", "D")


def rule(samples, alpha, method="fixed", **more):
    return Rule(samples, **{"alpha": alpha, "sigma": SIGMA, "method": method, "selected": False, **more})


def counts(*votes, **reserved):
    return {**dict(zip(NAMES, votes, strict=False)), **dict.fromkeys(RESERVED, 0), **reserved}


def simplex(classes, steps):
    """Every probability vector in multiples of 1 / steps; OTHER has what the classes leave."""
    for parts in product(range(steps + 1), repeat=classes):
        if sum(parts) <= steps:
            yield np.array(parts) / steps


def chosen_and_bound(of, votes):
    """The label, and what is said of its probability: 0 where nothing is."""
    label = winner(votes, [name for name in votes if name not in RESERVED])
    return label, of.conclude(label, votes).p_lower


# --- how often a certificate is false, exactly --------------------------------------------------------------


def most_false(of, classes, steps):
    """The largest probability over the simplex that a fixed rule's claim is false, by enumeration."""
    outcomes = [each for each in product(range(of.samples + 1), repeat=classes) if sum(each) <= of.samples]
    claims = [chosen_and_bound(of, counts(*each, **{OTHER: of.samples - sum(each)})) for each in outcomes]
    claimed = [
        (each, NAMES.index(label), bound)
        for each, (label, bound) in zip(outcomes, claims, strict=True)
        if bound
    ]
    worst = 0.0
    full = np.array([[*each, of.samples - sum(each)] for each, _, _ in claimed])
    for p in simplex(classes, steps):
        false = np.array([bound > p[at] for _, at, bound in claimed])
        law = multinomial(of.samples, [*p, max(1 - p.sum(), 0.0)])
        worst = max(worst, float(law.pmf(full[false]).sum()) if false.any() else 0.0)
    return worst


@pytest.mark.parametrize(("classes", "steps"), [(2, 40), (3, 20), (4, 10)])
@pytest.mark.parametrize(("samples", "alpha"), [(1, 0.4), (5, 0.2), (12, 0.2), (13, 0.05)])
def test_a_fixed_number_of_samples_is_wrong_at_most_alpha_often_wherever_the_classes_lie(
    classes, steps, samples, alpha
):
    assert most_false(rule(samples, alpha), classes, steps) <= alpha


def test_of_a_leader_without_the_majority_nothing_is_said_not_even_a_low_bound():
    """The most frequent of many rare classes is more frequent in the sample than it is."""
    of = rule(100, 0.001)
    votes = counts(49, 21, 30)
    assert of.conclude("A", votes).q_lower == 0.0
    assert dataclasses.replace(of, selected=True).conclude("A", votes).q_lower > 0.3


def test_that_the_level_is_halved_is_needed_and_the_enumeration_shows_it():
    """At (1/2, 1/2) either of two classes can be claimed falsely."""
    assert 0.1 < most_false(rule(12, 0.2), 2, 40) <= 0.2
    assert most_false(rule(12, 0.2, selected=True), 2, 40) > 0.38


def false_fixed(samples, level, probabilities):
    """Exactly: of two classes no more than one has more than half of the votes, so the tails add up."""
    known = [p for p in probabilities if p < 1]  # of p = 1 nothing false can be claimed
    fewest = [fixed_boundary(max(p, 0.5), level, samples).certify_from[0] for p in known]
    return sum(binom.sf(least - 1, samples, p) for least, p in zip(fewest, known, strict=True))


P0 = 0.691462461274013
CORNERS = [(0.5, 0.5), (P0, 1 - P0), (0.9, 0.1), (1.0, 0.0), (0.5, 0.25, 0.25), (0.49, 0.49, 0.02)]


def grid(classes, steps):
    return [*CORNERS, *(tuple(p) for p in simplex(classes, steps))]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_hundred_samples_are_wrong_at_most_alpha_often(classes):
    alpha = 0.001
    of = rule(100, alpha)
    level = of._vote_alpha
    assert of.conclude("A", counts(80, 20)).q_lower == clopper_pearson_lower(80, 100, level).value
    rates = [false_fixed(100, level, p) for p in grid(classes, 40 if classes == 2 else 25)]
    assert 0.8 * alpha < max(rates) <= alpha
    assert false_fixed(100, alpha, (0.5, 0.5)) > 1.7 * alpha, "at alpha itself it would be too often"


# A look after each sample, and every stop allowed: whoever stops as soon as some class is claimed falsely.
LOOKS = np.arange(1, 601)


def mixture(p, level, looks=LOOKS):
    """The fewest votes, at each look, with which the anytime bound exceeds p and 1/2."""
    return MixtureTest(max(p, 0.5), level).fewest_votes(looks) if p < 1 else looks + 1


def false_anytime(level, a, b, looks=LOOKS):
    """The exact probability that, of two classes, either is ever claimed falsely."""
    either = Boundary(looks, mixture(a, level, looks), looks - mixture(b, level, looks))
    found = operating_characteristics(either, a)
    return found.certified + found.hopeless


def test_whenever_somebody_stops_either_of_two_classes_is_claimed_falsely_at_most_alpha_often():
    alpha = 0.05
    rates = [false_anytime(alpha / 2, p, 1 - p) for p in (0.5, 0.55, 0.6, P0, 0.8, 0.9, 0.99, 1.0)]
    assert max(rates) == rates[0] <= alpha
    assert rates[0] > alpha / 2
    assert false_anytime(alpha, 0.5, 0.5) > alpha, "at alpha itself it would be too often"


def false_of_three(level, p, cap):
    """The same of three classes: a recursion over the votes of the first two."""
    fewest = [mixture(each, level) for each in p]
    mass, false = np.zeros((cap + 1, cap + 1)), 0.0
    mass[0, 0] = 1.0
    a, b = np.indices(mass.shape)
    for samples in range(1, cap + 1):
        after = p[2] * mass
        after[1:] += p[0] * mass[:-1]
        after[:, 1:] += p[1] * mass[:, :-1]
        claimed = [
            votes >= least[samples - 1] for votes, least in zip((a, b, samples - a - b), fewest, strict=True)
        ]
        claimed = np.logical_or.reduce(claimed) & (a + b <= samples)
        false += after[claimed].sum()
        mass = np.where(claimed, 0.0, after)
    return float(false)


THREE = [
    (0.5, 0.5, 0.0),
    (0.5, 0.25, 0.25),
    (0.5, 0.4, 0.1),
    (0.45, 0.45, 0.1),
    (1 / 3, 1 / 3, 1 / 3),
    (P0, 0.2, 0.8 - P0),
]


@pytest.mark.parametrize("p", THREE)
def test_whenever_somebody_stops_any_of_three_classes_is_claimed_falsely_at_most_alpha_often(p):
    alpha, cap = 0.05, 80
    assert false_of_three(alpha / 2, p, cap) <= alpha


def test_the_recursion_over_three_classes_is_that_over_two_where_the_third_never_comes():
    two = [false_anytime(0.025, p, 1 - p, LOOKS[:80]) for p in (0.5, 0.7)]
    assert [false_of_three(0.025, (p, 1 - p, 0.0), 80) for p in (0.5, 0.7)] == pytest.approx(two)


@pytest.mark.parametrize("method", ["sequential", "batched"])
@pytest.mark.parametrize("target", [0.001, 0.1, 0.25])
def test_a_decision_is_wrong_at_most_alpha_often(method, target):
    """Each class certifies by the one boundary; what all do adds up, whatever ties them together."""
    alpha = 0.05
    of = rule(200, alpha, method, target_radius=target, look_every=4)
    p0 = of._threshold.value

    def wrong(p):
        return sum(operating_characteristics(of._boundary, each).certified for each in p if each < p0)

    worst = [(0.5, 0.5), (p0, 1 - p0), (p0 - 1e-12, 1 - p0), (0.5, 0.25, 0.25), (0.3, 0.3, 0.2, 0.2)]
    rates = [wrong(p) for p in [*worst, *simplex(2, 20), *simplex(3, 10)]]
    assert max(rates) <= alpha
    if (target, method) == (0.001, "batched"):
        whole = rule(200, alpha, method, target_radius=target, look_every=4, selected=True)
        assert 2 * operating_characteristics(whole._boundary, 0.5).certified > alpha, "and alpha is too much"


# --- what the proof rests on --------------------------------------------------------------------------------


@given(st.integers(1, 400), st.floats(1e-6, 0.2499), st.floats(0.5, 0.95))
def test_nothing_is_claimed_without_more_than_half_of_the_votes(samples, level, threshold):
    least = fixed_boundary(threshold, level, samples).certify_from[0]
    assert 2 * least > samples
    looks = even_looks(samples, max(samples // 7, 1))
    assert (2 * MixtureTest(threshold, level).fewest_votes(looks) > looks).all()
    assert (2 * spending_boundary(threshold, level, looks).certify_from > looks).all()


@pytest.mark.parametrize(
    "boundary",
    [
        fixed_boundary(0.5, 0.1, 25),
        spending_boundary(0.5, 0.1, even_looks(100, 5)),
        MixtureTest(0.5, 0.1).boundary(LOOKS[:200]),
    ],
    ids=["fixed", "batched", "sequential"],
)
def test_a_class_below_one_half_errs_less_often_by_its_share_at_least(boundary):
    at_half = operating_characteristics(boundary, 0.5).certified
    for p in np.linspace(0.0, 0.5, 51):
        assert operating_characteristics(boundary, p).certified <= 2 * p * at_half * (1 + 1e-12)


# --- the rule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fixed", "sequential", "batched"])
def test_the_bound_is_that_of_half_the_level(method):
    more = {} if method == "fixed" else {"target_radius": 0.25, "look_every": 40}
    votes = counts(38, 2)
    half, whole = rule(40, 0.002, method, **more), rule(40, 0.001, method, selected=True, **more)
    assert half.conclude("A", votes) == whole.conclude("A", votes)
    assert half.decide("A", votes) == whole.decide("A", votes)


@given(
    st.lists(st.integers(0, 12), min_size=3, max_size=3),
    st.permutations(NAMES[:3]),
    st.sampled_from(["sequential", "batched"]),
)
def test_other_names_of_the_classes_change_nothing_but_the_label(votes, names, method):
    of = rule(40, 0.05, method, target_radius=0.1, look_every=1)
    of_first, of_others = (
        counts(*votes),
        {**dict(zip(names, votes, strict=True)), **dict.fromkeys(RESERVED, 0)},
    )
    first, renamed = (winner(each, NAMES[:3]) for each in (of_first, of_others))
    assert of_first[first] == of_others[renamed]
    if sum(votes) <= 40:
        assert of.conclude(first, of_first) == of.conclude(renamed, of_others)
        assert ending(of, first, of_first) == ending(of, renamed, of_others)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        pytest.param(counts(0, 0), None, id="none yet"),
        pytest.param(counts(24, 0), CERTIFIED, id="the first leads"),
        pytest.param(counts(0, 24), CERTIFIED, id="the second leads"),
        pytest.param(counts(3, 1, **{OTHER: 4}), None, id="a reserved class leads early"),
        pytest.param(counts(0, 0, **{OTHER: 24}), OUT_OF_REACH, id="a reserved class leads"),
        pytest.param(counts(8, 8, **{FAILED: 8}), OUT_OF_REACH, id="none can get there"),
        pytest.param(counts(17, 5, **{UNDECIDED: 2}), None, id="not yet"),
    ],
)
def test_it_ends_when_the_leader_is_certified_or_no_class_can_be(votes, expected):
    of = rule(200, 0.001, "sequential", target_radius=0.25, look_every=8)
    assert ending(of, winner(votes, ("A", "B")), votes) == expected


@pytest.mark.parametrize("other", [Pairwise(), Symmetric(0.01), Asymmetric(0.01, 0.01), Audit(9, 9)])
def test_a_mode_that_could_raise_the_bound_or_reads_the_votes_again_is_refused(other):
    with pytest.raises(ValueError, match=f"the mode {other.name} needs a class that was chosen apart"):
        rule(100, 0.001, mode=other)


def test_every_mode_is_decided_about_and_none_that_goes_without_a_selection_raises_the_bound():
    made = {"error_rate": 0.02, "false_positive_rate": 0.02, "errors": 1, "total": 500, "counts": ((1, 500),)}
    refused = {Pairwise, Symmetric, Asymmetric, Audit}
    assert {*WITHOUT_SELECTION} | refused == {*MODES.values()}
    for kind in WITHOUT_SELECTION:
        mode = kind(**{name: made[name] for name in kind.__dataclass_fields__ if name in made})
        for q in (0.51, 0.6, 0.9, 0.999):
            assert mode.p_lower(Probability(q, 1 - q), 0.01).value <= q
        assert mode.p_lower(Probability(0.5, 0.5), 0.01).value <= 0.5


# --- certificates -------------------------------------------------------------------------------------------


def certifier(bundle, **more):
    return Certifier(bundle, **{"sigma": demo.SIGMA, "samples": 200, **more})


def ask(asked, image, seed, **more):
    return asked.certify(image, demo.PROMPT, **{"choices": demo.ACTIONS, "seed": seed, **more})


def deciding(bundle, **more):
    return certifier(bundle, **{"method": "sequential", "target_radius": 0.1, **more})


@pytest.fixture(scope="module")
def decided(demo_bundle, first_frame, seed):
    """By the default of the method sequential with a target."""
    return ask(deciding(demo_bundle), first_frame, seed)


@pytest.fixture(scope="module")
def fixed(demo_bundle, first_frame, seed):
    return ask(certifier(demo_bundle, samples=60, selection=0), first_frame, seed)


@pytest.fixture(scope="module")
def batched(demo_bundle, first_frame, seed):
    return ask(deciding(demo_bundle, method="batched", selection=0), first_frame, seed)


@pytest.mark.parametrize("made", ["decided", "fixed", "batched"])
def test_it_draws_no_selection_verifies_and_replays(made, request, demo_bundle):
    c = request.getfixturevalue(made)
    verify(c)
    assert parse(c.to_json(), Certificate) == c
    assert replay(c, demo_bundle).votes == c.votes
    votes = c.votes.certification
    assert (c.n_selection, sum(c.votes.selection.values())) == (0, 0)
    assert c.samples_spent == c.samples_counted == sum(votes.values())
    assert c.certified
    assert votes[c.label] == max(votes.values())


def test_the_votes_are_those_that_a_selection_would_have_left_to_count(demo_bundle, first_frame, seed, fixed):
    selected = ask(certifier(demo_bundle, samples=60, selection=8), first_frame, seed)
    assert (selected.votes.certification, selected.label) == (fixed.votes.certification, fixed.label)
    assert selected.radius > fixed.radius, "which costs half of the level"
    bound = clopper_pearson_lower(fixed.votes.certification[fixed.label], 60, fixed.alpha / 2)
    assert fixed.q_lower == bound.value
    assert fixed.radius == certified_radius(bound.minus(fixed.sampler.total_variation), fixed.sigma)


def test_a_hard_frame_ends_as_out_of_reach(demo_bundle, hard_frame, seed):
    c = ask(deciding(demo_bundle, samples=2000, target_radius=0.3), hard_frame, seed)
    verify(c)
    assert (c.certified, c.stopped_because, c.n_selection) == (False, OUT_OF_REACH, 0)
    assert c.samples_counted < 500
    assert advice(c)


def test_a_reserved_leader_abstains_and_says_why(demo_bundle, first_frame, foreign_oracle, seed):
    c = ask(deciding(demo_bundle), first_frame, seed, choices=None, oracle=foreign_oracle)
    verify(c)
    assert (c.label, c.certified, c.stopped_because) == (OTHER, False, OUT_OF_REACH)
    assert "belong to no class" in advice(c)[0]
    assert replay(c, demo_bundle).votes == c.votes
    all_of_them = ask(
        certifier(demo_bundle, samples=20, selection=0),
        first_frame,
        seed,
        choices=None,
        oracle=foreign_oracle,
    )
    verify(all_of_them)
    assert (all_of_them.label, all_of_them.stopped_because, all_of_them.samples_counted) == (
        OTHER,
        ALL_SAMPLES,
        20,
    )


def test_who_cancels_before_the_first_sample_gets_an_abstention(demo_bundle, first_frame, seed):
    c = ask(deciding(demo_bundle), first_frame, seed, cancelled=lambda: True)
    verify(c)
    assert (c.samples_spent, c.stopped_because, c.certified) == (0, CANCELLED, False)
    assert meaning(c)
    assert advice(c)


def test_who_cancels_a_sequential_one_gets_the_anytime_bound_at_half_the_level(
    demo_bundle, first_frame, seed
):
    done = []
    asked = certifier(demo_bundle, method="sequential", selection=0, batch_size=24)
    c = ask(asked, first_frame, seed, progress=done.append, cancelled=lambda: bool(done))
    verify(c)
    assert c.q_lower == anytime_lower(c.votes.certification[c.label], 24, c.alpha / 2).value


def leads_no_more(votes, label):
    """Two classes exchange their votes."""
    other = next(name for name in votes if name not in {label, *RESERVED})
    return {**votes, label: votes[other], other: votes[label]}


def concluded(c, **fields):
    """The record with these fields, and with the conclusion that they lead to."""
    made = replace(c, **fields)
    found = made.rule.conclude(made.label, made.votes.certification)
    camera = camera_radius(found.radius, values=made.values, operator_norm=made.preparation.operator_norm)
    return replace(
        made,
        **{name: getattr(found, name) for name in ("q_lower", "p_lower", "certified", "radius")},
        radius_camera=camera,
    )


def none(c):
    return dict.fromkeys(c.votes.selection, 0)


@pytest.mark.parametrize("made", ["decided", "fixed", "batched"])
def test_only_the_leader_of_the_votes_can_be_the_label(made, request):
    c = request.getfixturevalue(made)
    other = next(name for name in c.oracle.classes if name != c.label)
    with pytest.raises(CertificateError, match=r"^label is"):
        verify(concluded(c, label=other))
    with pytest.raises(CertificateError, match=r"^label is"):
        verify(
            replace(c, votes=replace(c.votes, certification=leads_no_more(c.votes.certification, c.label)))
        )


@pytest.mark.parametrize("made", ["decided", "fixed"])
def test_a_bound_at_the_whole_level_does_not_verify(made, request):
    c = request.getfixturevalue(made)
    bound = anytime_lower if c.method == "sequential" else clopper_pearson_lower
    whole = bound(c.votes.certification[c.label], c.samples_counted, c.alpha)
    with pytest.raises(CertificateError, match=r"^q_lower is"):
        verify(replace(c, q_lower=whole.value))


@pytest.mark.parametrize("made", ["decided", "fixed", "batched"])
def test_a_selection_cannot_be_added_to_the_record(made, request):
    c = request.getfixturevalue(made)
    with pytest.raises(CertificateError, match="n_selection is 16, but 0"):
        verify(concluded(c, n_selection=16))
    invented = replace(c.votes, selection={**none(c), c.label: 16})
    with pytest.raises(CertificateError, match="n_selection is 0, but 16"):
        verify(replace(c, votes=invented))


def test_a_selection_cannot_be_taken_from_the_record(certified):
    with pytest.raises(CertificateError, match="n_selection is 0, but 16"):
        verify(replace(certified, n_selection=0))
    gone = replace(certified.votes, selection=none(certified))
    spent = certified.samples_counted
    with pytest.raises(CertificateError, match=r"^q_lower is"):
        verify(replace(certified, n_selection=0, votes=gone, samples_spent=spent))
    other = next(name for name in certified.oracle.classes if name != certified.label)
    with pytest.raises(CertificateError, match=r"^label is"):
        verify(concluded(certified, n_selection=0, votes=gone, samples_spent=spent, label=other))


def test_clusters_without_a_selection_do_not_verify(fixed):
    clusters = replace(fixed.oracle, kind="clusters")
    with pytest.raises(CertificateError, match="whether a selection chose the cluster is false"):
        verify(replace(fixed, oracle=clusters))


def test_a_mode_that_needs_a_selection_does_not_verify_without(fixed):
    from edgers.assumption import assumption

    with pytest.raises(CertificateError, match="the mode symmetric needs a class that was chosen apart"):
        verify(replace(fixed, assumption=assumption(Symmetric(0.001))))


# --- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", ["first_frame", "hard_frame"])
@pytest.mark.parametrize("of", [2, 20])
def test_parts_make_the_certificate_of_a_single_run_though_their_own_leaders_differ(
    demo_bundle, seed, frame, of, request
):
    image, asked = request.getfixturevalue(frame), certifier(demo_bundle, samples=20, selection=0)
    whole = ask(asked, image, seed)
    each = [ask(asked, image, seed, part=Part(number=number, of=of)) for number in range(1, of + 1)]
    for part in each:
        verify(part)
        assert (part.certified, part.stopped_because) == (False, ONE_PART)
    merged = merge(each)
    verify(merged)
    same = ("label", "votes", "certified", "radius", "q_lower", "samples_spent", "n_selection")
    assert [getattr(merged, name) for name in same] == [getattr(whole, name) for name in same]
    if (frame, of) == ("hard_frame", 20):
        assert len({part.label for part in each}) > 1


def test_a_part_whose_leader_is_reserved_is_still_a_part(demo_bundle, first_frame, foreign_oracle, seed):
    asked = certifier(demo_bundle, samples=20, selection=0)
    part = ask(asked, first_frame, seed, choices=None, oracle=foreign_oracle, part=Part(number=1, of=2))
    verify(part)
    assert (part.label, part.stopped_because, part.samples_counted) == (OTHER, ONE_PART, 10)
    assert "makes the certificate of all parts" in advice(part)[0]


# --- what is chosen unless told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 16),
        ({"method": "sequential"}, 16),
        ({"method": "sequential", "target_radius": 0.1}, 0),
        ({"method": "sequential", "target_radius": 0.1, "selection": 16}, 16),
        ({"method": "sequential", "target_radius": 0.1, "mode": Asymmetric(0.02, 0.001)}, 16),
        ({"method": "batched", "target_radius": 0.1}, 16),
        ({"method": "batched", "target_radius": 0.1, "selection": 0}, 0),
        ({"selection": 0}, 0),
    ],
)
def test_a_decision_at_any_time_draws_no_selection_unless_told(demo_bundle, more, expected):
    made = certifier(demo_bundle, **more)
    assert (made.selection, made.rule.selected) == (expected, expected > 0)
    assert made.accounted("among", 3).rule.selected == (expected > 0)


def test_the_gate_draws_none(demo_bundle, first_frame):
    record = Gate(demo_bundle, sigma=demo.SIGMA, samples=200).decide(
        first_frame, demo.PROMPT, demo.ACTIONS, 0.125, 60_000.0
    )
    assert (record.outcome, record.action) == (Outcome.EXECUTE, "forward")
    assert (record.certificate.n_selection, sum(record.certificate.votes.selection.values())) == (0, 0)


def test_an_audit_without_a_selection_is_refused(demo_bundle):
    with pytest.raises(InputError, match="an audit needs a class that was chosen apart from the votes"):
        certifier(demo_bundle, selection=0, audit=5, teacher=ACTION_ORACLE)


def test_the_command_line_says_which_class_it_is_and_that_a_mode_needs_a_selection(
    monkeypatch, capsys, tmp_path
):
    def certify(*args):
        question = ("--prompt", demo.PROMPT, "--choices", ",".join(demo.ACTIONS), "--sigma", demo.SIGMA)
        return command(monkeypatch, capsys, "certify", demo.frames()[0], *question, *args)

    saved = tmp_path / "c.json"
    ended = certify("--target-radius", "0.1", "--save", saved)
    assert ended.code == 0
    assert "whose leader is the class; sequential, target" in " ".join(ended.out.replace("│", " ").split())
    assert command(monkeypatch, capsys, "verify", saved, "--replay").code == 0
    ended = certify("--selection", "0", "--assume", "pairwise")
    assert (ended.code, "the mode pairwise needs a class that was chosen apart" in ended.err) == (2, True)


# --- a classifier whose probabilities are known -------------------------------------------------------------

SEEDS, SAMPLES, ALPHA = 400, 12, 0.2


@pytest.fixture
def false_certificates(demo_bundle, monkeypatch):
    """Run `SEEDS` certificates of two classes of known probability; return how many claim too much."""
    tiny = copy.copy(demo_bundle)
    tiny.manifest = replace(demo_bundle.manifest, preparation=Preparation(exact=(1, 1)))
    rules = next(oracle for oracle in tiny.manifest.oracles if oracle.name == ACTION_ORACLE)
    monkeypatch.setattr(HalfSpaces, "classes", tuple(dict.fromkeys(rule.label for rule in rules.rules))[:2])
    monkeypatch.setattr("edgers.asked.Question", HalfSpaces)
    black = np.zeros((1, 1, 3), np.uint8)

    def count(probability, **more):
        monkeypatch.setattr(HalfSpaces, "threshold", float(SIGMA * ndtri(probability)))
        truth = dict(zip(HalfSpaces.classes, (probability, 1 - probability), strict=True))
        options = {"samples": SAMPLES, "batch_size": SAMPLES, "selection": 0, "alpha": ALPHA, **more}
        asked = Certifier(demo_bundle, sigma=SIGMA, **options)
        asked.bundle = tiny  # after the real model's self-test: no graph runs here
        made = (
            asked.certify(black, demo.PROMPT, oracle=ACTION_ORACLE, seed=f"{number:032x}")
            for number in range(SEEDS)
        )
        return sum(c.radius is not None and c.radius > SIGMA * ndtri(truth[c.label]) for c in made)

    return count


def too_many(false):
    """Whether so many false certificates would have a chance below one in a million at the promised level."""
    return binomtest(false, SEEDS, ALPHA, alternative="greater").pvalue < 1e-6


DECIDING = {"method": "sequential", "samples": 24, "batch_size": 12, "target_radius": 0.01}


@pytest.mark.parametrize(("probability", "more"), [(0.25, {}), (0.5, DECIDING)], ids=["fixed", "sequential"])
def test_false_certificates_are_as_rare_as_promised(false_certificates, probability, more):
    assert not too_many(false_certificates(probability, **more))


def test_false_certificates_come_about_as_often_as_exact_arithmetic_says(false_certificates):
    """At (1/2, 1/2) every certificate is false, whichever class leads."""
    rate = false_fixed(SAMPLES, ALPHA / 2, (0.5, 0.5))
    assert ALPHA / 2 < rate < ALPHA
    assert binomtest(false_certificates(0.5), SEEDS, rate).pvalue > 1e-6


def test_a_certifier_that_does_not_halve_the_level_is_caught(false_certificates, monkeypatch):
    monkeypatch.setattr(Rule, "_vote_alpha", property(lambda of: of.mode.vote_alpha(of.alpha)))
    assert too_many(false_certificates(0.5))
