"""`edgers lint-rules`, `edgers export --rules`: exit codes, what people and programs are told, refusals."""

import json
import shutil

import pytest

from edgers import demo
from edgers.oracle import lint as linter
from edgers_engines.bundle import MANIFEST
from tests.edgers.hostile import command, refused

SHADOWED = (("*", "any"), ("left *", "left"))
NEEDED = (("left *", "left"), ("right *", "right"))


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run a command in this process."""
    return lambda *args: command(monkeypatch, capsys, *args)


def definition(*rules, name="test", **more):
    """An oracle of rules (pattern, label) or (pattern, label, exceptions)."""
    made = [
        {"pattern": pattern, "label": label, **({"unless": unless[0]} if unless else {})}
        for pattern, label, *unless in rules
    ]
    return {"kind": "rules", "name": name, "rules": made, **more}


@pytest.fixture
def written(tmp_path):
    """Write an oracle into a file."""

    def write(*rules, file="rules.json", **more):
        path = tmp_path / file
        path.write_text(json.dumps(definition(*rules, **more)))
        return path

    return write


def test_rules_that_are_all_reached_end_with_0(edgers, written):
    ended = edgers("lint-rules", written(*NEEDED))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "test: 0 of 2 rules are never reached",
        "  rule 1 'left *' → left: reached, as by 'left something'",
        "  rule 2 'right *' → right: reached, as by 'right something'",
    ]


def test_a_rule_that_is_never_reached_ends_with_1_and_is_named_with_what_takes_its_texts(edgers, written):
    ended = edgers("lint-rules", written(*SHADOWED))
    assert (ended.code, ended.err) == (1, "")
    assert "rule 2 'left *' → left: never reached, all its texts are taken by rule 1\n" in ended.out
    assert "no answer is ever of the class 'left'\n" in ended.out


def test_people_are_told_what_else_there_is_to_say(edgers, written):
    path = written(
        ("a b", "x"), ("a *", "x"), ("b", "y", ["b *"]), ("* c *", "x", ["* d *"]), ("* d *", "y"), ("c", "x")
    )
    out = edgers("lint-rules", path).out
    assert "rule 1 'a b' → x: reached, as by 'a b', but later rules give the same class without it\n" in out
    assert "rule 3 'b' → y: never reached, its own exceptions take all its texts\n" in out


def test_a_rule_that_is_not_decided_is_said_and_is_no_failure(edgers, written, monkeypatch):
    monkeypatch.setattr(linter, "MAX_STEPS", 2)
    ended = edgers("lint-rules", written(("* a *", "x", ["* b *"]), ("a *", "y")))
    assert ended.code == 0
    assert "rule 2 'a *' → y: not decided whether it is ever reached\n" in ended.out


def test_programs_get_one_object_for_an_oracle(edgers, written):
    ended = edgers("lint-rules", written(*SHADOWED, ("!", "x")), "--json")
    assert ended.code == 1
    (line,) = ended.out.splitlines()
    assert json.loads(line) == {
        "oracle": "test",
        "never_given": ["left", "x"],
        "rules": [
            {
                "number": 1,
                "pattern": "*",
                "label": "any",
                "status": "reachable",
                "example": "something",
                "taken_by": [],
                "remarks": ["'*' matches every text"],
            },
            {
                "number": 2,
                "pattern": "left *",
                "label": "left",
                "status": "unreachable",
                "example": None,
                "taken_by": [1],
                "remarks": [],
            },
            {
                "number": 3,
                "pattern": "!",
                "label": "x",
                "status": "unreachable",
                "example": None,
                "taken_by": [1],
                "remarks": ["'!' has no word: only texts without a word match it"],
            },
        ],
    }


def test_all_rules_of_a_bundle_are_looked_at(edgers, tmp_path, demo_bundle):
    names = [oracle.name for oracle in demo_bundle.manifest.rules]
    ended = edgers("lint-rules", "--json")
    assert ended.code == 0
    assert [json.loads(line)["oracle"] for line in ended.out.splitlines()] == names
    bundle = shutil.copytree(demo.BUNDLE, tmp_path / "bundle")
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["oracles"].append(definition(*SHADOWED))
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    ended = edgers("lint-rules", "--bundle", bundle, "--json")
    assert ended.code == 1
    assert [json.loads(line)["oracle"] for line in ended.out.splitlines()] == [*names, "test"]


def test_a_label_cannot_write_to_the_terminal(edgers, written):
    ended = edgers("lint-rules", written(("\x1b[2J", "left"), ("\x1b[2J", "left")))
    assert ended.code == 1
    assert all(line.isprintable() for line in ended.out.splitlines())


HOSTILE = {
    "a reserved class": (definition(("*", "OTHER")), "cannot name a class"),
    "no rules": (definition(), r"length >= 1.*\$.rules"),
    "exceptions that are a text": (definition(("*", "x", "a")), "array.*unless"),
    "an unknown field": (definition(("*", "x"), fields="a"), "unknown field `fields`"),
    "another kind": ({"kind": "choices"}, "choices"),
    "a list": ([], "defines no oracle"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_defines_no_rules_is_refused(edgers, tmp_path, name):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(HOSTILE[name][0]))
    refused(edgers("lint-rules", path), 2, HOSTILE[name][1])
    (tmp_path / "checkpoint").mkdir()
    ended = edgers("export", tmp_path / "checkpoint", "--out", tmp_path / "out", "--rules", path)
    refused(ended, 2, HOSTILE[name][1])


def test_a_file_and_a_bundle_are_not_both_looked_at(edgers, written):
    refused(edgers("lint-rules", written(*NEEDED), "--bundle", demo.BUNDLE), 2, "not both")


def test_a_file_that_is_not_there_is_said(edgers, tmp_path):
    refused(edgers("lint-rules", tmp_path / "none.json"), 2, "cannot read the oracle .*No such file")


def test_an_export_takes_no_two_oracles_of_one_name(edgers, written, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    files = (written(*NEEDED), written(*SHADOWED[:1], file="more.json"))
    ended = edgers(
        "export", tmp_path / "checkpoint", "--out", tmp_path / "out", "--rules", files[0], "--rules", files[1]
    )
    refused(ended, 2, "more.json defines the oracle 'test', as another file of --rules does")


def test_inspect_shows_exceptions_and_fields(edgers, tmp_path):
    bundle = shutil.copytree(demo.BUNDLE, tmp_path / "bundle")
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["oracles"][:-1] = [definition(("* a *", "x", ["b", "c"]), ("d", "y"), field="verdict")]
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    out = " ".join(edgers("inspect", bundle).out.split())
    assert "field 'verdict' of JSON: * a * unless b or c → x; d → y" in out
