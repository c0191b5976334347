"""Audits: a teacher labels the first votes for the class, and the certificate is about what is true."""

import json

import pytest
from msgspec.structs import replace

from edgers import demo
from edgers.assumption import assumption
from edgers.audit import Auditor
from edgers.certificate import CertificateError
from edgers.certify import Certifier
from edgers.cli import certify
from edgers.oracle.base import FAILED
from edgers.oracle.choices import choices_record
from edgers.oracle.rules import Rules
from edgers.part import Part
from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.oracle_error import Audit
from edgers.verify import replay, verify
from edgers_engines import oracle_record
from edgers_engines.errors import BackendError, InputError
from tests.edgers.hostile import command, refused

SEED = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def audited(demo_bundle, first_frame):
    certifier = Certifier(demo_bundle, sigma=0.25, samples=200, audit=60, teacher="action")
    return certifier.certify(first_frame, demo.PROMPT, oracle="action", seed=SEED)


def teacher(*patterns):
    rules = tuple(oracle_record.Rule(pattern=pattern, label=label) for pattern, label in patterns)
    return Rules(oracle_record.Rules(name="teacher", rules=rules))


def test_the_bound_is_the_votes_times_the_audited_precision(audited):
    assert (audited.assumption.mode, audited.assumption.calibration) == (
        "audit",
        {"correct": 60, "audited": 60},
    )
    votes = clopper_pearson_lower(audited.votes.certification["forward"], 200, 0.0005).value
    product = votes * clopper_pearson_lower(60, 60, 0.0005).value
    assert audited.certified
    assert audited.p_lower == pytest.approx(product - audited.sampler.total_variation, rel=1e-9)
    assert audited.p_lower <= product
    assert (audited.teacher.name, audited.teacher.kind) == ("action", "rules")
    assert "audit" in audited.timings_ms


def test_it_verifies_and_replays(audited, demo_bundle, first_frame):
    verify(audited)
    assert replay(audited, demo_bundle, first_frame).votes == audited.votes


@pytest.mark.parametrize(
    "fields", [{"method": "sequential"}, {"assumption": None}], ids=["a sequential one", "without its mode"]
)
def test_a_teacher_without_an_audit_is_found_out(audited, demo_bundle, first_frame, fields):
    if "assumption" in fields:
        plain = Certifier(demo_bundle, sigma=0.25).certify(first_frame, demo.PROMPT, oracle="action")
        fields = {"assumption": plain.assumption}
    with pytest.raises(CertificateError):
        verify(replace(audited, **fields))


def test_only_the_first_votes_are_audited_and_failures_count_as_false():
    strict = Auditor(teacher(("left *", "left")), 3)
    assert (strict.mode("left", ["left", "right", "left", "left"]).correct) == 2
    assert strict.mode("left", ["left"]) == Audit(1, 1)
    assert strict.mode("left", []) == Audit(0, 1)

    class Failing:
        record, failure = strict.teacher.record, "it is down"

        def classify_texts(self, texts):
            return [FAILED if text == "lost" else "left" for text in texts]

    assert Auditor(Failing(), 3).mode("left", ["left", "lost", "left"]) == Audit(2, 3)
    with pytest.raises(BackendError, match="could not be asked: it is down"):
        Auditor(Failing(), 3).mode("left", ["lost"] * 3)


def test_a_teacher_of_other_classes_or_of_clusters_is_refused(demo_bundle, clusters_bundle, first_frame):
    certifier = Certifier(demo_bundle, sigma=0.25, audit=5, teacher="person")
    with pytest.raises(InputError, match="no classes of the oracle"):
        certifier.certify(first_frame, demo.PROMPT, oracle="action")
    certifier = Certifier(clusters_bundle, sigma=0.25, audit=5, teacher="action")
    with pytest.raises(InputError, match="no classes of the oracle"):
        certifier.certify(first_frame, demo.PROMPT, oracle="meaning")


def test_a_teacher_that_disagrees_takes_the_certificate(demo_bundle, first_frame):
    certifier = Certifier(demo_bundle, sigma=0.25, samples=100, audit=50, teacher="door")
    c = certifier.certify(first_frame, demo.PROMPT, oracle="action", seed=SEED)
    verify(c)
    assert (c.certified, c.p_lower, c.assumption.calibration["correct"]) == (False, 0.0, 0)


def test_the_votes_are_audited_in_index_order_whatever_the_batches(demo_bundle, tmp_path):
    file = tmp_path / "teacher.json"
    rules = [
        {"pattern": f"{action} *", "unless": ["* cone *", "* no way *"], "label": action}
        for action in demo.ACTIONS
    ]
    file.write_text(json.dumps({"kind": "rules", "name": "t", "rules": rules}))
    found = set()
    for batch in (7, 32):
        certifier = Certifier(
            demo_bundle, sigma=1.0, samples=60, batch_size=batch, audit=20, teacher=str(file)
        )
        c = certifier.certify(demo.frames()[-1], demo.PROMPT, oracle="action", seed=SEED)
        found.add((c.label, c.assumption.calibration["correct"], c.votes.certification[c.label]))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"audit": 5}, "belong together"),
        ({"teacher": "action"}, "belong together"),
        ({"audit": 0, "teacher": "action"}, "votes to audit: 0"),
        ({"audit": 101, "teacher": "action"}, "101 votes to audit, but there are 100 samples"),
        ({"audit": 5, "teacher": "none"}, "no oracle 'none'"),
        (
            {"audit": 5, "teacher": "action", "method": "sequential"},
            "goes with the method fixed",
        ),
    ],
)
def test_what_does_not_fit_an_audit_is_refused(demo_bundle, given, said):
    with pytest.raises(InputError, match=said):
        Certifier(demo_bundle, sigma=0.25, **given)


def test_choices_have_no_text_to_audit(demo_bundle, first_frame):
    certifier = Certifier(demo_bundle, sigma=0.25, audit=5, teacher="action")
    with pytest.raises(InputError, match="reads free text"):
        certifier.certify(first_frame, demo.PROMPT, choices=demo.ACTIONS)


def test_the_command_line_names_the_teacher(monkeypatch, capsys, first_frame):
    options = ("--prompt", demo.PROMPT, "--oracle", "action", "--sigma", 0.25, "--audit", 20)
    ended = command(monkeypatch, capsys, "certify", first_frame, *options, "--teacher", "action")
    assert "audited by" in ended.out
    assert "labelled 20 of this" in ended.out
    ended = command(monkeypatch, capsys, "certify", first_frame, *options, "--teacher", "action", "--json")
    assert json.loads(ended.out)["teacher"]["name"] == "action"
    refused(command(monkeypatch, capsys, "certify", first_frame, *options), 2, "belong together")
    mixed = ("--teacher", "action", "--assume", "unknown")
    refused(command(monkeypatch, capsys, "certify", first_frame, *options, *mixed), 2, "mode of its own")


@pytest.mark.parametrize("what", ["more than the votes", "clusters", "classes", "part", "choices"])
def test_an_audit_that_no_teacher_can_have_made_is_found_out(audited, what):
    forged = {
        "more than the votes": {"assumption": assumption(Audit(201, 201))},
        "clusters": {"teacher": replace(audited.teacher, kind="clusters")},
        "classes": {"teacher": replace(audited.teacher, classes=("another",))},
        "part": {"part": Part(number=1, of=2)},
        "choices": {"oracle": choices_record(audited.oracle.classes)},
    }[what]
    made = replace(audited, **forged)
    follows = made.rule.conclude(made.label, made.votes.certification)
    made = replace(made, **{name: getattr(follows, name) for name in ("q_lower", "p_lower", "radius")})
    with pytest.raises(CertificateError, match=r"audit|correct"):
        verify(made)


def test_an_audit_takes_no_number_from_the_command_line():
    args = ["certify", "a.png", "--prompt", "?", "--oracle", "action", "--sigma", "0.25"]
    with pytest.raises(InputError, match="finds its numbers itself"):
        certify.command.main(
            [*args, "--audit", "5", "--teacher", "action", "--audited", "9/9"], standalone_mode=False
        )


def test_a_replay_asks_the_teacher_again(demo_bundle, first_frame, tmp_path):
    file = tmp_path / "teacher.json"
    file.write_text(
        '{"kind": "rules", "name": "t", "rules": [{"pattern": "never", "label": "forward"},'
        '{"pattern": "*", "label": "left"}]}'
    )
    certifier = Certifier(demo_bundle, sigma=0.25, samples=60, audit=20, teacher=str(file))
    honest = certifier.certify(first_frame, demo.PROMPT, oracle="action", seed=SEED)
    assert replay(honest, demo_bundle, first_frame, teacher=file).assumption == honest.assumption
    with pytest.raises(CertificateError, match="--teacher"):
        replay(honest, demo_bundle, first_frame)
    forged = replace(honest, assumption=assumption(Audit(20, 20)))
    follows = forged.rule.conclude(forged.label, forged.votes.certification)
    names = ("q_lower", "p_lower", "certified", "radius")
    forged = replace(forged, **{name: getattr(follows, name) for name in names})
    assert forged.certified
    with pytest.raises(CertificateError, match="the replay does not agree: assumption"):
        replay(forged, demo_bundle, first_frame, teacher=file)
