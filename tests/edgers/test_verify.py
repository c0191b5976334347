"""A certificate follows from its own counts or is refused: round trips, forgeries, hostile files, replays."""

import contextlib
import functools
import json
import math
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from edgers import Certifier, demo
from edgers.accounting import accounting
from edgers.assumption import assumption
from edgers.certificate import Certificate, CertificateError, camera_radius
from edgers.ending import ALL_SAMPLES, CANCELLED, DEADLINE, OUT_OF_REACH, RESERVED_SELECTED
from edgers.smoothing.oracle_error import (
    Adversarial,
    Asymmetric,
    Audit,
    Calibrated,
    CalibratedFalsePositive,
    FalsePositive,
    Pairwise,
    Symmetric,
)
from edgers.verify import replay, verify
from edgers_engines.errors import EdgersError
from edgers_engines.records import parse


@pytest.fixture(
    params=[
        "certified",
        "abstained",
        "reserved",
        "sequential",
        "batched",
        "calibrated",
        "floored",
        "attempted",
    ]
)
def certificate(request):
    """Each kind of certificate in turn."""
    return request.getfixturevalue(request.param)


def decided(bundle, frame, seed, method, mode=None, **more):
    asked = Certifier(
        bundle,
        sigma=demo.SIGMA,
        samples=200,
        selection=16,
        method=method,
        target_radius=None if method == "fixed" else 0.1,
        mode=mode,
        **more,
    )
    choices = ("forward", "stop") if isinstance(mode, Symmetric) else demo.ACTIONS
    return asked.certify(frame, demo.PROMPT, choices=choices, seed=seed)


@pytest.fixture(scope="module")
def sequential(demo_bundle, first_frame, seed):
    """Ended at its target."""
    return decided(demo_bundle, first_frame, seed, "sequential")


@pytest.fixture(scope="module")
def batched(demo_bundle, first_frame, seed):
    """Ended at its target."""
    return decided(demo_bundle, first_frame, seed, "batched")


@pytest.fixture(scope="module")
def calibrated(demo_bundle, first_frame, seed):
    """Ended at its target, with numbers in its assumption."""
    return decided(demo_bundle, first_frame, seed, "sequential", Calibrated(1, 2000))


@pytest.fixture(scope="module")
def floored(demo_bundle, first_frame, seed):
    """Ended at a target within which the class keeps more than the majority."""
    return decided(demo_bundle, first_frame, seed, "sequential", floor=0.7)


@pytest.fixture(scope="module")
def attempted(demo_certifier, first_frame, seed):
    """The third of a stream without end."""
    third = demo_certifier.accounted("schedule", 3)
    return third.certify(first_frame, demo.PROMPT, choices=demo.ACTIONS, seed=seed)


@pytest.fixture(scope="module")
def declared(demo_certifier, first_frame, seed):
    """One of five."""
    one = demo_certifier.accounted("among", 5)
    return one.certify(first_frame, demo.PROMPT, choices=demo.ACTIONS, seed=seed)


def put(tree, path, value):
    """Set the leaf at a dotted path; a callable value is applied to what is there."""
    *parents, leaf = path.split(".")
    node = functools.reduce(lambda node, key: node[key], parents, tree)
    node[leaf] = value(node[leaf]) if callable(value) else value
    return tree


def forge(certificate, path, value):
    """The certificate as it is loaded after one leaf of its JSON was overwritten."""
    genuine = json.loads(certificate.to_json())
    forged = put(json.loads(certificate.to_json()), path, value)
    assert forged != genuine
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "forged.json").write_text(json.dumps(forged))
        return Certificate.load(Path(folder) / "forged.json")


# --- round trip ---------------------------------------------------------------------------------------------


def test_a_certificate_survives_being_written_and_read(certificate, tmp_path):
    path = tmp_path / "certificate.json"
    path.write_bytes(certificate.to_json())
    again = Certificate.load(path)
    assert again == certificate
    assert again.to_json() == certificate.to_json()


def test_what_the_certifier_made_is_consistent_whatever_its_verdict(certificate):
    verify(certificate)
    verify(parse(certificate.to_json(), Certificate))


def test_a_certificate_is_strict_json_that_ends_in_a_line_break(certificate):
    text = certificate.to_json().decode()
    assert text.endswith("}\n")
    assert not re.search(r"NaN|Infinity", text)
    assert set(json.loads(text)) == set(asdict(certificate))


# --- forged fields ------------------------------------------------------------------------------------------


def swap_two_votes(votes):
    """The two most voted classes exchange their counts."""
    first, second, *_ = sorted(votes, key=lambda name: -votes[name])
    return {**votes, first: votes[second], second: votes[first]}


def one_vote_moved(votes):
    """The most voted class gains a vote that the least voted class never had to give."""
    first = max(votes, key=lambda name: votes[name])
    return {**votes, first: votes[first] + 1}


FORGERIES = [
    ("votes.certification", swap_two_votes, "q_lower is"),
    ("votes.certification", one_vote_moved, "votes.certification's sum is 61"),
    ("votes.certification", lambda votes: {**votes, "EXTRA": 0}, "votes.certification's classes"),
    ("votes.certification", lambda votes: dict(list(votes.items())[1:]), "votes.certification's classes"),
    ("votes.certification", {}, "votes.certification's classes"),
    ("votes.selection", swap_two_votes, "label is"),
    ("votes.selection", one_vote_moved, "n_selection is"),
    ("votes.selection", lambda votes: {**votes, "EXTRA": 0}, "votes.selection's classes"),
    ("votes.selection", {}, "votes.selection's classes"),
    ("n", 59, "votes.certification's sum is 60, but 59"),
    ("n", 61, "votes.certification's sum is 60, but 61"),
    ("n", 1, "votes.certification's sum is 60, but 1"),
    ("n_selection", 15, "n_selection is 15, but 16"),
    ("n_selection", 17, "n_selection is 17, but 16"),
    ("alpha", 0.01, "alpha is 0.01, but 0.001"),
    ("alpha", 0.001 * (1 + 1e-8), "alpha is"),
    ("alpha", 0.0009999, "alpha is"),
    ("alpha", 0.0, r"\$\.alpha|alpha is 0"),
    ("alpha", 0.5, r"\$\.alpha|alpha is 0.5"),
    ("alpha", -1.0, r"\$\.alpha|alpha is -1"),
    ("accounting.total_alpha", 0.01, "accounting is"),
    ("accounting.total_alpha", 0.001 * (1 + 1e-8), "accounting is"),
    ("accounting.total_alpha", 0.5, r"\$\.accounting\.total_alpha"),
    ("accounting.total_alpha", 0.0, r"\$\.accounting\.total_alpha"),
    ("accounting.kind", "among", "accounting among with the number None"),
    ("accounting.kind", "schedule", "accounting schedule with the number None"),
    ("accounting.kind", "none", r"\$\.accounting\.kind"),
    ("accounting.number", 1, "accounting each with the number 1"),
    ("accounting.number", 0, r"\$\.accounting\.number"),
    ("accounting.number", 1 << 41, r"\$\.accounting\.number"),
    ("accounting.sentence", "Never wrong.", "accounting is"),
    ("accounting", None, r"\$\.accounting"),
    ("sigma", 0.5, "sampler.total_variation is"),
    ("sigma", lambda sigma: sigma * (1 + 1e-7), "sampler.total_variation is"),
    ("sigma", 0.0, "sigma"),
    ("sigma", -0.25, "sigma"),
    ("sigma", 1e12, "sigma"),
    ("label", "OTHER", "label is"),
    ("label", "nobody", "label is"),
    ("radius", lambda radius: radius + 1e-6, "radius is"),
    ("radius", lambda radius: radius - 1e-6, "radius is"),
    ("radius", None, "radius is (null|None)"),
    ("radius", 0.0, "radius is 0"),
    ("radius_camera", lambda radius: radius + 1e-6, "radius_camera is"),
    ("radius_camera", lambda radius: radius - 1e-6, "radius_camera is"),
    ("radius_camera", None, "radius_camera is (null|None)"),
    ("q_lower", lambda q: q + 1e-6, "q_lower is"),
    ("q_lower", 1.0, "q_lower is 1"),
    ("p_lower", lambda p: p + 1e-6, "p_lower is"),
    ("p_lower", 0.999, "p_lower is 0.999"),
    ("certified", False, "(?i)certified is false, but true"),
    ("floor", 0.6, "radius is"),
    ("floor", 0.5 + 1e-6, "radius is"),
    ("floor", 0.4, r"\$\.floor"),
    ("floor", 1.0, r"\$\.floor"),
    ("floor", 1e308, r"\$\.floor"),
    ("engine.decoder", "cuda_decoder", "engine of a decoder for CUDA is .*CPUExecutionProvider"),
    ("preparation.steps.frame", [10, 640], "inconsistent: the image is .* was exported for 640x10"),
    ("sampler.name", "mersenne-twister", "sampler.name is .?mersenne-twister"),
    ("sampler.total_variation", 0.0, "sampler.total_variation is 0"),
    ("sampler.total_variation", lambda bound: bound / 2, "sampler.total_variation is"),
    ("preparation.operator_norm", 0.5, "preparation.operator_norm is 0.5"),
    ("preparation.operator_norm", lambda norm: norm * (1 - 1e-6), "preparation.operator_norm is"),
    ("decoding.constrained", False, "decoding.constrained"),
    ("oracle.sha256", "0" * 64, "oracle is"),
    ("oracle.name", "other", "oracle is"),
    ("oracle.kind", "rules", "decoding.constrained"),
    ("margin.tolerance", 1e6, "margin.tolerance"),
    ("preparation.camera_size", [480, 640], "preparation.operator_norm is"),
    ("preparation.canvas_size", [336, 336], "preparation.canvas_size is"),
    ("preparation.steps.exact", [48, 48], "preparation.canvas_size is"),
    ("samples_spent", 75, "samples_spent is 75, but 76"),
    ("stopped_because", RESERVED_SELECTED, "stopped_because is"),
    ("assumption.sentence", "Holds for everything.", "assumption is"),
    ("assumption.parameters", {"epsilon": 0.0}, "mode composite takes nothing"),
    ("assumption.mode", "unknown", "assumption is"),
    ("assumption.mode", "trust", "there is no mode 'trust'"),
    ("oracle.classes", ["forward", "left", "right"], "classes"),
    ("oracle.classes", ["forward", "left", "right", "halt"], "classes"),
    ("oracle.classes", lambda classes: [*classes, "extra"], "classes"),
    ("oracle.classes", lambda classes: [*classes, classes[0]], "twice|classes"),
]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [pytest.param(path, value, said, id=f"{path}-{i}") for i, (path, value, said) in enumerate(FORGERIES)],
)
def test_a_forged_field_of_a_certified_certificate_is_named(certified, path, value, said):
    with pytest.raises(CertificateError, match=said):
        verify(forge(certified, path, value))


EARLY_FORGERIES = [
    ("votes.certification", swap_two_votes, "stopped_because is"),
    ("votes.certification", one_vote_moved, "stopped_because is"),
    ("votes.certification", lambda votes: dict.fromkeys(votes, 0), "stopped_because is"),
    ("votes.certification", lambda votes: {**votes, max(votes, key=votes.get): 208}, "certification's sum"),
    ("votes.selection", one_vote_moved, "n_selection is"),
    ("alpha", 1e-5, "alpha is"),
    ("accounting.total_alpha", 0.01, "accounting is"),
    ("accounting.kind", "among", "accounting among with the number None"),
    ("sigma", 0.2, "sampler.total_variation is"),
    ("assumption.mode", "adversarial", "mode adversarial takes"),
    ("assumption.mode", "symmetric", "mode symmetric takes"),
    ("target_radius", 0.6, "inconsistent|stopped_because is"),
    ("target_radius", 0.2, "stopped_because is"),
    ("target_radius", None, "belong together|about a target radius: give one"),
    ("target_radius", -0.1, r"\$\.target_radius"),
    ("look_every", None, "belong together"),
    ("look_every", 1 << 40, "a look every"),
    ("method", "fixed", "decides no target radius"),
    ("stopped_because", ALL_SAMPLES, "stopped_because is"),
    ("stopped_because", OUT_OF_REACH, "stopped_because is"),
    ("stopped_because", DEADLINE, "stopped_because is"),
    ("stopped_because", CANCELLED, "stopped_because is"),
    ("stopped_because", RESERVED_SELECTED, "stopped_because is"),
    ("n", 8, "votes.certification's sum|cannot certify|the first look is at"),
    ("n", 10**9, "100000 looks"),
    ("n_selection", 17, "n_selection is 17, but 16"),
    ("samples_spent", 200, "samples_spent is 200"),
    ("radius", lambda radius: radius + 1e-6, "radius is"),
    ("radius", None, "radius is"),
    ("q_lower", lambda q: q + 1e-6, "q_lower is"),
    ("p_lower", lambda p: p + 1e-6, "p_lower is"),
    ("certified", False, "certified is false, but true"),
    ("floor", 0.6, "(stopped_because|q_lower) is"),
    ("floor", 0.5 + 1e-6, "(q_lower|radius) is"),
    ("floor", 0.4, r"\$\.floor"),
]


@pytest.mark.parametrize("made", ["sequential", "batched"])
@pytest.mark.parametrize(
    ("path", "value", "said"),
    [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(EARLY_FORGERIES)],
)
def test_a_forged_field_of_a_certificate_that_ended_early_is_named(request, made, path, value, said):
    with pytest.raises(CertificateError, match=said):
        verify(forge(request.getfixturevalue(made), path, value))


@pytest.mark.parametrize("floor", [0.5, 0.69, 0.7001, 0.8])
def test_a_radius_made_for_one_floor_is_not_passed_off_as_one_for_another(floored, floor):
    assert floored.certified
    verify(floored)
    with pytest.raises(CertificateError, match=r"(stopped_because|first_look|radius) is"):
        verify(forge(floored, "floor", floor))


def test_a_floor_goes_with_no_radius_that_rests_on_a_pair(demo_bundle, first_frame, seed):
    made = decided(demo_bundle, first_frame, seed, "fixed", Pairwise())
    with pytest.raises(CertificateError, match=r"pairwise goes with .* the floor 0\.5"):
        verify(forge(made, "floor", 0.6))


def other_kind(kind):
    return {"among": "schedule", "schedule": "among"}[kind]


COUNT_FORGERIES = [
    ("accounting.kind", other_kind, "accounting is"),
    ("accounting.number", 2, "accounting is"),
    ("accounting.number", None, "with the number None"),
    ("accounting.kind", "each", "accounting each with the number"),
    ("accounting.total_alpha", 0.0009, "accounting is"),
    ("accounting.sentence", "Never wrong.", "accounting is"),
    ("alpha", 0.001, "alpha is 0.001, but"),
    ("alpha", lambda alpha: alpha * (1 + 1e-8), "alpha is"),
]


@pytest.mark.parametrize("made", ["attempted", "declared"])
@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        *COUNT_FORGERIES,
        pytest.param("accounting.kind", other_kind, "accounting is"),
    ],
)
def test_a_forged_field_of_one_of_many_certificates_is_named(request, made, path, value, said):
    with pytest.raises(CertificateError, match=said):
        verify(forge(request.getfixturevalue(made), path, value))


@pytest.mark.parametrize("made", ["attempted", "declared"])
def test_a_certificate_made_for_fewer_or_more_others_does_not_pass_for_one_of_many(request, made):
    c = request.getfixturevalue(made)
    verify(c)
    kind, number = c.accounting.kind, c.accounting.number
    counts = [
        accounting("each", 0.001),
        accounting(kind, 0.001, number - 1),
        accounting(kind, 0.001, number + 1),
        accounting(kind, 0.0011, number),
    ]
    for other in counts:
        with pytest.raises(CertificateError, match="alpha is"):
            verify(replace(c, accounting=other))
        with pytest.raises(CertificateError, match="q_lower is"):
            verify(replace(c, accounting=other, alpha=other.alpha))


def test_the_two_methods_do_not_pass_for_one_another(sequential, batched):
    with pytest.raises(CertificateError, match="only the method sequential"):
        verify(forge(sequential, "method", "batched"))
    for forged in (
        forge(replace(sequential, first_look=None), "method", "batched"),
        forge(batched, "method", "sequential"),
    ):
        with pytest.raises(CertificateError, match=r"(stopped_because|q_lower) is"):
            verify(forged)


def test_looks_that_were_not_laid_down_are_no_looks(batched):
    with pytest.raises(CertificateError, match="stopped_because is"):
        verify(forge(batched, "look_every", 7))


@pytest.mark.parametrize("because", [ALL_SAMPLES, DEADLINE])
def test_a_fixed_number_of_samples_cannot_be_cut_short_but_by_who_cancels(certified, because):
    votes = {name: count // 2 for name, count in certified.votes.certification.items()}
    short = drawn_again(certified, votes)
    assert short.radius is None
    short = replace(short, samples_spent=sum(votes.values()) + certified.n_selection)
    with pytest.raises(CertificateError, match=r"votes\.certification's sum is"):
        verify(replace(short, stopped_because=because))
    verify(replace(short, stopped_because=CANCELLED))
    claimed = replace(certified, votes=short.votes, samples_spent=short.samples_spent)
    with pytest.raises(CertificateError, match="q_lower is"):
        verify(replace(claimed, stopped_because=CANCELLED))


def test_a_target_that_is_out_of_reach_of_the_votes_cannot_be_certified(sequential):
    half = {name: count // 2 for name, count in sequential.votes.certification.items()}
    other = next(name for name in half if name != sequential.label)
    half[other] += sum(sequential.votes.certification.values()) - sum(half.values())
    with pytest.raises(CertificateError, match="stopped_because is"):
        verify(drawn_again(sequential, half))
    forged = replace(drawn_again(sequential, half), stopped_because=DEADLINE)
    verify(forged)
    assert not forged.certified
    with pytest.raises(CertificateError, match="certified is true, but false"):
        verify(replace(forged, certified=True))


NUMBERS = {
    Pairwise(): [("assumption.parameters", {"error_rate": 0.1}, "mode pairwise takes")],
    Adversarial(0.02): [("assumption.parameters.error_rate", 0.01, "assumption is")],
    FalsePositive(0.02): [("assumption.parameters.false_positive_rate", 0.0, "assumption is")],
    Asymmetric(0.02, 0.001): [
        ("assumption.parameters.false_negative_rate", 0.01, "assumption is"),
        ("assumption.parameters.false_negative_rate", 0.99, "they must stay below 1 together"),
    ],
    Symmetric(0.001): [
        ("assumption.parameters.error_rate", 0.01, "assumption is"),
        ("assumption.parameters.error_rate", 0.5, "the error rate is"),
    ],
    Audit(200, 200): [
        ("assumption.calibration.audited", 100, "200 votes of 100"),
        ("assumption.calibration.correct", 199, "assumption is"),
        ("assumption.parameters.vote_share", 0.9, "q_lower is"),
    ],
    Calibrated(1, 2000): [
        ("assumption.calibration.errors", 0, "assumption is"),
        ("assumption.calibration.total", 10**6, "assumption is"),
        ("assumption.calibration.errors", [[1, 2]], "whole numbers"),
        ("assumption.calibration", None, "mode calibrated takes"),
        ("assumption.parameters", {}, "assumption is"),
        ("assumption.parameters.vote_share", 5e-324, "alpha is"),
        ("assumption.mode", "audit", "mode audit takes"),
    ],
    CalibratedFalsePositive(((1, 2000), (0, 1500), (2, 3000))): [
        ("assumption.calibration.counts", [[0, 2000], [0, 1500], [2, 3000]], "assumption is"),
        ("assumption.calibration.counts", [[1, 2000], [0, 1500]], "assumption is"),
        ("assumption.calibration.counts", [], "no calibration counts"),
        ("assumption.calibration.counts", 5, "does not take such"),
    ],
}


@pytest.mark.parametrize("mode", NUMBERS, ids=lambda mode: mode.name)
def test_a_forged_mode_is_named(demo_bundle, first_frame, seed, mode):
    made = decided(demo_bundle, first_frame, seed, "fixed", mode)
    verify(made)
    forgeries = [
        *NUMBERS[mode],
        ("assumption.mode", "composite", "assumption is|takes nothing"),
        ("radius", lambda radius: radius + 1e-6, "radius is"),
        ("p_lower", lambda p: p + 1e-6, "p_lower is"),
    ]
    for path, value, said in forgeries:
        with pytest.raises(CertificateError, match=said):
            verify(forge(made, path, value))


def test_a_forged_number_with_the_sentence_to_go_with_it_is_named_by_the_bound(
    demo_bundle, first_frame, seed
):
    made = decided(demo_bundle, first_frame, seed, "fixed", Adversarial(0.02))
    with pytest.raises(CertificateError, match="p_lower is"):
        verify(replace(made, assumption=assumption(Adversarial(0.01))))


def test_votes_that_contradict_the_mode_are_refused(certified):
    with pytest.raises(CertificateError, match=r"inconsistent: .*its assumption does not hold here"):
        verify(replace(certified, assumption=assumption(Asymmetric(0.0, 0.3))))


def test_classes_that_the_mode_does_not_speak_of_are_refused(certified):
    with pytest.raises(CertificateError, match=r"inconsistent: .*assumes two classes, and there are 4"):
        verify(replace(certified, assumption=assumption(Symmetric(0.001))))


@pytest.mark.parametrize("label", demo.ACTIONS[1:])
def test_no_class_but_the_one_that_won_the_selection_can_be_the_label(certified, label):
    assert certified.label == demo.ACTIONS[0]
    with pytest.raises(CertificateError, match="label is"):
        verify(forge(certified, "label", label))


def test_of_two_classes_that_tie_in_the_selection_only_the_first_can_be_the_label(certified):
    first, second, *_ = certified.oracle.classes
    half = certified.n_selection // 2
    tie = {**dict.fromkeys(certified.votes.selection, 0), first: half, second: half}
    assert sum(tie.values()) == certified.n_selection
    verify(forge(certified, "votes.selection", tie))
    swapped = forge(drawn_again(certified, swap_two_votes(certified.votes.certification)), "label", second)
    with pytest.raises(CertificateError, match="label is"):
        verify(replace(swapped, votes=replace(swapped.votes, selection=tie)))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        pytest.param("certified", True, "(?i)certified is true, but false", id="certified"),
        pytest.param("radius", 0.1, "radius is 0.1, but", id="radius"),
        pytest.param("radius_camera", 0.1, "radius_camera is 0.1, but", id="radius_camera"),
        pytest.param("p_lower", 0.6, "p_lower is 0.6", id="p_lower"),
        pytest.param("alpha", 0.49, "alpha is", id="alpha"),
    ],
)
def test_an_abstention_forged_into_a_claim_is_refused(abstained, path, value, said):
    with pytest.raises(CertificateError, match=said):
        verify(forge(abstained, path, value))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        pytest.param("certified", True, "(?i)certified is true, but false", id="certified"),
        pytest.param("stopped_because", ALL_SAMPLES, "stopped_because is", id="stopped_because"),
        pytest.param("votes.certification.OTHER", 60, "votes.certification's sum is 60, but 0", id="votes"),
        pytest.param("label", "UNDECIDED", "label is", id="label"),
        pytest.param("q_lower", 0.9, "q_lower is 0.9, but 0", id="q_lower"),
        pytest.param("alpha", 7.0, "alpha", id="alpha"),
        pytest.param(
            "oracle.classes", lambda names: [*names, names[0]], "oracle.classes", id="a class twice"
        ),
        pytest.param(
            "oracle.classes", lambda names: [*names, "OTHER"], "oracle.classes", id="a reserved class"
        ),
    ],
)
def test_a_class_that_is_never_certified_cannot_be_forged_into_one_that_is(reserved, path, value, said):
    with pytest.raises(CertificateError, match=said):
        verify(forge(reserved, path, value))


def drawn_again(certificate, votes):
    """The certificate with other votes and everything that follows from them: consistent, but not true."""
    c = certificate
    conclusion = c.rule.conclude(c.label, votes)
    return replace(
        c,
        votes=replace(c.votes, certification=votes),
        q_lower=conclusion.q_lower,
        p_lower=conclusion.p_lower,
        certified=conclusion.certified,
        radius=conclusion.radius,
        radius_camera=camera_radius(
            conclusion.radius, values=c.values, operator_norm=c.preparation.operator_norm
        ),
    )


def test_more_votes_for_the_label_make_a_consistent_certificate_with_a_larger_radius(abstained):
    votes = {**dict.fromkeys(abstained.votes.certification, 0), abstained.label: abstained.n}
    forged = drawn_again(abstained, votes)
    verify(forged)
    assert forged.certified
    assert forged.radius > 0


# --- hostile files ------------------------------------------------------------------------------------------

HOSTILE = {
    "empty": (b"", "is not a certificate"),
    "not JSON": (b"certified!", "is not a certificate"),
    "half a file": (b'{"schema_version": 1, "label": "lef', "is not a certificate"),
    "not an object": (b"[1, 2]", "Expected `object`, got `array`"),
    "null": (b"null", "Expected `object`, got `null`"),
    "an empty object": (b"{}", "missing required field `label`"),
    "not UTF-8": (b'{"label": "\xff"}', "is not a certificate"),
    "UTF-16": ('{"n": 1}'.encode("utf-16"), "not valid utf-8"),
    "two objects": (b"{}{}", "is not a certificate"),
    "deep arrays": (b"[" * 500_000, "is not a certificate"),
    "deep objects": (b'{"a":' * 300_000, "is not a certificate"),
    "a huge number": (b'{"n": ' + b"9" * 100_000 + b"}", "is not a certificate"),
    "too large": (b" " * (4 << 20) + b"{} ", "4194304"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_certificate_is_refused_with_its_name(tmp_path, name):
    content, said = HOSTILE[name]
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    with pytest.raises(CertificateError, match=re.escape(said)) as refusal:
        Certificate.load(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "name",
    [pytest.param("none.json", id="missing"), pytest.param(".", id="a folder"), pytest.param("\0", id="NUL")],
)
def test_a_path_that_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(CertificateError, match="cannot read"):
        Certificate.load(tmp_path / name)


def doctored(certificate, old, new):
    text = certificate.to_json().decode()
    assert old in text
    return text.replace(old, new, 1).encode()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param(
            '"schema_version": 3', '"schema_version": 2', "schema 3: certify anew", id="an older version"
        ),
        pytest.param('"schema_version": 3', '"schema_version": 4', "$.schema_version", id="a newer version"),
        pytest.param('"n": 60', '"n": 60, "n": 60', "the key 'n' is there twice", id="a key twice"),
        pytest.param(
            '"OTHER": 0', '"OTHER": 0, "OTHER": 0', "the key 'OTHER' is there twice", id="deep twice"
        ),
        pytest.param('"alpha": 0.001', '"alpha": NaN', "NaN is not a JSON number", id="NaN"),
        pytest.param('"alpha": 0.001', '"alpha": -Infinity', "-Infinity is not a JSON number", id="infinity"),
        pytest.param('"alpha": 0.001', '"alpha": 1e999', "1e999", id="a number beyond floats"),
        pytest.param('"device": "cpu"', '"device": "\\ud800"', "not valid utf-8", id="a lone surrogate"),
        pytest.param('"alpha": 0.001', '"alpha": "0.001"', "$.alpha", id="text for a number"),
        pytest.param('"alpha": 0.001', '"alpha": 1' + "0" * 400, "$.alpha", id="an integer beyond floats"),
        pytest.param('"n": 60', '"n": 60.5', "$.n", id="a fraction for a count"),
        pytest.param('"n": 60', '"n": true', "$.n", id="a truth value for a count"),
        pytest.param('"n": 60', '"n": 0', "$.n", id="no samples"),
        pytest.param('"n": 60', '"n": -60', "$.n", id="negative samples"),
        pytest.param('"OTHER": 0', '"OTHER": -1', "$.votes.selection", id="negative votes"),
        pytest.param('"OTHER": 0', '"OTHER": null', "$.votes.selection", id="no votes"),
        pytest.param('"n": 60', '"n": 60, "verified": true', "unknown field `verified`", id="unknown field"),
        pytest.param('"guard": true', '"guard": true, "x": 1', "$.margin", id="unknown field within"),
        pytest.param('"method": "fixed"', '"method": "peeking"', "$.method", id="unknown method"),
        pytest.param('"norm": "L2"', '"norm": "Linf"', "$.norm", id="unknown norm"),
        pytest.param('"certified": true', '"certified": 1', "$.certified", id="a number for a truth value"),
        pytest.param('"floor": 0.5', '"floor": null', "$.floor", id="null"),
        pytest.param('"seed": "00', '"seed": "zz', "$.seed", id="a seed that is not hexadecimal"),
        pytest.param('"bundle_digest": "', '"bundle_digest": "A', "$.bundle_digest", id="a long digest"),
        pytest.param(
            '"camera_size": [', '"camera_size": [0, ', "$.preparation.camera_size", id="three sides"
        ),
        pytest.param(
            '"crop": null', '"crop": [999, 999]', "$.preparation.steps", id="a crop beyond the image"
        ),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_with_its_path(certified, tmp_path, old, new, said):
    path = tmp_path / "certificate.json"
    path.write_bytes(doctored(certified, old, new))
    with pytest.raises(CertificateError, match=re.escape(said)):
        Certificate.load(path)


def leaves(tree, path=()):
    """The path of every leaf of a JSON tree."""
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in leaves(value, (*path, key))]
    if isinstance(tree, list):
        return [leaf for index, value in enumerate(tree) for leaf in leaves(value, (*path, index))]
    return [path]


numbers = st.sampled_from([0, 1, -1, 2, 59, 97, 4096, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308, 0.3, 1e-9])
junk = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.floats(-2, 2),
    st.text(max_size=5),
    st.just("\ud800"),
    st.just([]),
    st.just({}),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_leaf_is_accepted_or_refused_but_never_a_crash(certificate, data):
    tree = json.loads(certificate.to_json())
    path = data.draw(st.sampled_from(leaves(tree)))
    node = functools.reduce(lambda node, key: node[key], path[:-1], tree)
    node[path[-1]] = data.draw(junk)
    if (mutant := survivor(json.dumps(tree))) is None:
        return
    # What survives makes the same claim: counts and statistics are all held by one another.
    for kept in ("label", "certified", "radius", "radius_camera", "votes", "sigma"):
        assert same(getattr(mutant, kept), getattr(certificate, kept)), kept
    if certificate.radius is not None:
        assert same(mutant.floor, certificate.floor)
    assert same(mutant.alpha, certificate.alpha)
    assert mutant.accounting == certificate.accounting
    if certificate.label in certificate.oracle.classes and certificate.method == "fixed":
        assert mutant.n == certificate.n


def same(found, expected):
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-6)
    return found == expected


def survivor(text):
    """The certificate with this text, when it can be read and is consistent."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(CertificateError):
        (Path(folder) / "mutant.json").write_text(text)
        certificate = Certificate.load(Path(folder) / "mutant.json")
        verify(certificate)
        return certificate
    return None


# --- replay -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short(demo_bundle, hard_frame, seed):
    """A certificate of few samples, whose votes are split."""
    certifier = Certifier(demo_bundle, sigma=demo.SIGMA, samples=20, selection=4, batch_size=7)
    return certifier.certify(hard_frame, demo.PROMPT, choices=demo.ACTIONS, seed=seed)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_a_replay_gives_the_same_votes_whatever_the_batches(short, demo_bundle, batch_size):
    again = replay(replace(short, batch_size=batch_size), demo_bundle)
    assert (again.votes, again.radius, again.seed) == (short.votes, short.radius, short.seed)


@pytest.mark.parametrize("guard", [True, False])
def test_a_replay_of_free_text_asks_the_same_oracle(demo_bundle, hard_frame, seed, guard):
    certifier = Certifier(demo_bundle, sigma=demo.SIGMA, samples=8, selection=2)
    made = certifier.certify(hard_frame, demo.PROMPT, oracle="action", seed=seed, guard=guard)
    again = replay(made, demo_bundle)
    assert (again.votes, again.oracle, again.margin.guard) == (made.votes, made.oracle, guard)


def test_an_oracle_that_reads_otherwise_or_is_not_there_does_not_replay(demo_bundle, reserved):
    with pytest.raises(CertificateError, match="oracle was"):
        replay(forge(reserved, "oracle.sha256", "0" * 64), demo_bundle)
    with pytest.raises(CertificateError, match="no oracle 'nobody'"):
        replay(forge(reserved, "oracle.name", "nobody"), demo_bundle)


def test_a_replay_on_a_smaller_machine_takes_the_threads_there_are(short, demo_bundle):
    assert replay(replace(short, threads=1 << 30), demo_bundle).votes == short.votes


def test_a_replay_of_a_reserved_winner_stops_after_the_selection_too(reserved, demo_bundle):
    assert replay(reserved, demo_bundle).votes == reserved.votes


@pytest.mark.parametrize("made", ["attempted", "declared", "floored"])
def test_a_replay_is_counted_as_the_certificate_was(request, demo_bundle, made):
    c = request.getfixturevalue(made)
    again = replay(c, demo_bundle)
    assert (again.accounting, again.alpha, again.floor, again.radius) == (
        c.accounting,
        c.alpha,
        c.floor,
        c.radius,
    )


def test_a_replay_reports_progress_for_every_sample(short, demo_bundle):
    done = []
    replay(short, demo_bundle, progress=done.append)
    assert sum(done) == short.samples_spent


def test_a_replay_with_another_bundle_is_refused(short, demo_bundle):
    with pytest.raises(CertificateError, match=r"is for the bundle 0000000000000000.*--bundle"):
        replay(replace(short, bundle_digest="0" * 64), demo_bundle)


def test_a_replay_with_another_image_is_refused(short, demo_bundle, first_frame):
    with pytest.raises(CertificateError, match="does not have the pixels that were certified"):
        replay(short, demo_bundle, first_frame)


def test_votes_that_are_consistent_but_were_never_drawn_do_not_replay(short, demo_bundle):
    votes = {**dict.fromkeys(short.votes.certification, 0), short.label: short.n}
    assert votes != short.votes.certification
    forged = drawn_again(short, votes)
    verify(forged)
    with pytest.raises(CertificateError, match="the replay does not agree: votes was"):
        replay(forged, demo_bundle)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        pytest.param("seed", "f" * 32, "votes was", id="another seed"),
        pytest.param("decoding.end_tokens", [3], "decoding was", id="other end tokens"),
        pytest.param("decoding.max_new_tokens", 100, "decoding was", id="longer answers"),
        pytest.param("image_sha256", "0" * 64, "pixels", id="another image digest"),
    ],
)
def test_a_forged_circumstance_does_not_replay(short, demo_bundle, path, value, said):
    forged = forge(short, path, value)
    verify(forged)  # nothing of the statistics depends on it
    with pytest.raises(CertificateError, match=said):
        replay(forged, demo_bundle)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("engine.backend", "abacus", id="a backend there never was"),
        pytest.param("engine.device", "tpu", id="a device there never was"),
        pytest.param("prompt", "", id="an empty prompt"),
    ],
)
def test_what_no_certifier_can_have_run_is_an_error_of_the_certificate(short, demo_bundle, path, value):
    """Not of the usage: the person who checks a certificate did not write it."""
    with pytest.raises(CertificateError):
        replay(forge(short, path, value), demo_bundle)


def test_the_image_is_found_beside_the_certificate_after_both_have_moved(
    demo_bundle, hard_frame, tmp_path, monkeypatch
):
    before, after = tmp_path / "before", tmp_path / "after"
    (before / "frames").mkdir(parents=True)
    shutil.copy(hard_frame, before / "frames" / "frame.png")
    monkeypatch.chdir(before)
    certifier = Certifier(demo_bundle, sigma=demo.SIGMA, samples=4, selection=2)
    made = certifier.certify(Path("frames/frame.png"), demo.PROMPT, choices=demo.ACTIONS)
    assert made.image == "frames/frame.png"
    monkeypatch.chdir(tmp_path)
    before.rename(after)
    with pytest.raises(
        CertificateError, match="neither where it was nor beside the certificate: give --image"
    ):
        replay(made, demo_bundle)
    replay(made, demo_bundle, beside=after)
    (after / "frames" / "frame.png").rename(after / "frame.png")
    replay(made, demo_bundle, beside=after)
    (after / "frame.png").rename(tmp_path / "other name.png")
    replay(made, demo_bundle, tmp_path / "other name.png", beside=after)
    with pytest.raises(
        CertificateError, match="neither where it was nor beside the certificate: give --image"
    ):
        replay(made, demo_bundle, beside=after)


def test_an_array_that_was_certified_has_no_file_and_the_replay_asks_for_one(short, demo_bundle, hard_frame):
    made = replace(short, image=None)
    with pytest.raises(CertificateError, match="names no image file: give it with --image"):
        replay(made, demo_bundle)
    assert replay(made, demo_bundle, hard_frame).votes == short.votes


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("none.png", id="missing"),
        pytest.param("a\0b.png", id="NUL"),
        pytest.param("x" * 5000, id="a long name"),
        pytest.param("\ud800.png", id="a lone surrogate"),
        pytest.param(".", id="a folder"),
        pytest.param("/dev/null", id="a device"),
    ],
)
def test_an_image_name_that_leads_nowhere_is_refused(short, demo_bundle, name):
    with pytest.raises(EdgersError):
        replay(replace(short, image=name), demo_bundle)


def test_a_certificate_in_memory_with_negative_votes_is_refused(certified):
    none = dict.fromkeys(certified.votes.certification, 0)
    votes = replace(certified.votes, certification={**none, "left": 60, "right": 45, "OTHER": -45})
    selection = {**certified.votes.selection, "left": 99, "forward": -83}
    for forged in (votes, replace(certified.votes, selection=selection)):
        with pytest.raises(CertificateError, match="the least count of votes is -"):
            verify(replace(certified, votes=forged))


def test_a_replay_by_another_decoder_does_not_pass(certified, demo_bundle, monkeypatch):
    def other(self, *arguments, **options):
        engine = replace(certified.engine, decoder="cuda_decoder")
        return replace(certified, engine=engine)

    monkeypatch.setattr(Certifier, "certify", other)
    with pytest.raises(CertificateError, match=r"engine\.decoder was decoder, is cuda_decoder"):
        replay(certified, demo_bundle)
