"""`edgers distill`: labelled texts in, a bundle with an oracle out, and an honest count of its errors."""

import json

import pytest

from edgers_engines.bundle import Bundle
from tests.edgers.hostile import command, refused
from tests.students import labelled_texts


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run a command in this process."""

    def run(*args):
        return command(monkeypatch, capsys, *args)

    return run


def written(path, rows):
    path.write_text(
        "".join(json.dumps(dict(zip(("text", "label"), row, strict=True))) + "\n" for row in rows)
    )
    return path


def test_what_a_teacher_labelled_becomes_an_oracle_that_is_tested_where_it_runs(edgers, tmp_path):
    labels = written(tmp_path / "labels.jsonl", [*labelled_texts(), *labelled_texts()[:5]])
    options = ("--name", "learned", "--out", tmp_path / "taught", "--epochs", 6)
    ended = edgers("distill", labels, *options, "--json")
    assert (ended.code, ended.err) == (0, "")
    report = json.loads(ended.out)
    assert (report["errors"], report["worst"], report["repeated_texts"]) == (0, [], 5)
    assert report["learned"] + report["held_out"] + report["dropped"] == 325
    assert report["held_out"] >= 60
    assert Bundle.load(tmp_path / "taught").digest == report["digest"]


def test_errors_on_held_out_rows_are_shown_with_an_example(edgers, tmp_path):
    rows = labelled_texts()
    false = [(text, "stop" if label == "left" else label) for text, label in rows[::2]]
    labels = written(tmp_path / "labels.jsonl", [*rows[1::2], *false])
    ended = edgers("distill", labels, "--name", "x", "--out", tmp_path / "taught", "--epochs", 4)
    assert ended.code == 0
    assert "taken for" in ended.out
    assert "as in '" in ended.out
    assert "wrong on" in ended.out


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "too little to learn from"),
        ([("left", "left")] * 9, "too little to learn from"),
        ([("left, a", "left"), ("stop, b", "stop"), ("left, c", "left")], "too little to learn from"),
    ],
)
def test_too_few_rows_are_refused_before_anything_is_written(edgers, tmp_path, rows, said):
    labels = written(tmp_path / "labels.jsonl", rows)
    refused(edgers("distill", labels, "--name", "x", "--out", tmp_path / "taught"), 2, said)
    assert not (tmp_path / "taught").exists()


def test_a_folder_that_is_there_is_refused_first(edgers, tmp_path):
    refused(edgers("distill", tmp_path / "none", "--name", "x", "--out", tmp_path), 2, "is there already")
