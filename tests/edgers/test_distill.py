"""`edgers distill`: labelled texts in, a bundle with an oracle out, and an honest count of its errors."""

import json

import pytest
from PIL import Image

from edgers import demo
from edgers.answers import StoredAnswer, read_answers
from edgers.distill import taught
from edgers.oracle.base import FAILED
from edgers_engines.bundle import Bundle
from tests.edgers.hostile import command, refused
from tests.students import labelled_texts

pytestmark = pytest.mark.usefixtures("quick_exporter")


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
        ([], "too little to learn from: none with a label, and 0 texts"),
        (
            [(f"{way}, {n}", way) for way in ("left", "stop") for n in range(20)] + [("hm", "OTHER")],
            "OTHER 1, and",
        ),
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


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    from edgers_export.demo.scenes import draw_pool

    folder = tmp_path_factory.mktemp("scenes")
    for number, scene in enumerate(draw_pool(40, seed=4, ambiguity=None).images):
        Image.fromarray(scene).save(folder / f"{number:02d}.png")
    return folder


def from_bundle(scenes, tmp_path, *more):
    return (
        *("distill", "--from-bundle", scenes, "--prompt", demo.PROMPT, "--sigma", 0.5, "--each", 8),
        *("--teacher", "action", "--name", "way", "--out", tmp_path / "taught", "--epochs", 4, *more),
    )


def test_the_bundles_own_answers_teach_and_calibrate_an_oracle(edgers, scenes, tmp_path):
    kept = tmp_path / "labelled.jsonl"
    ended = edgers(*from_bundle(scenes, tmp_path, "--labelled", kept, "--json"))
    assert (ended.code, ended.err) == (0, "")
    report = json.loads(ended.out)
    stored = read_answers([kept])
    assert len(stored) == 320 == report["learned"] + report["held_out"] + report["dropped"]
    assert sum(answer.detour for answer in stored) == 280
    assert all(answer.label for answer in stored)
    assert report["calibration_images"] == 8
    *_, record = Bundle.load(tmp_path / "taught").manifest.classifiers
    assert sum(each.count for each in record.calibration) == 8
    again = edgers("distill", kept, "--name", "way", "--out", tmp_path / "again", "--epochs", 4, "--json")
    assert json.loads(again.out)["digest"] == report["digest"]


def test_a_certificate_finds_the_counts_in_the_bundle(edgers, scenes, tmp_path, first_frame):
    edgers(*from_bundle(scenes, tmp_path))
    question = ("--prompt", demo.PROMPT, "--oracle", "way", "--sigma", 0.5, "--bundle", tmp_path / "taught")
    ended = edgers("certify", first_frame, *question, "--assume", "calibrated", "--json")
    assert json.loads(ended.out)["assumption"]["calibration"]["total"] == 8
    given = ("--assume", "calibrated", "--calibration", "1/1000", "--json")
    assert json.loads(edgers("certify", first_frame, *question, *given).out)["assumption"]["calibration"] == {
        "errors": 1,
        "total": 1000,
    }


def test_clusters_are_made_of_the_same_labels(edgers, tmp_path):
    labels = written(tmp_path / "labels.jsonl", labelled_texts())
    options = ("--name", "meaning", "--out", tmp_path / "taught", "--epochs", 6, "--as", "clusters")
    ended = edgers("distill", labels, *options)
    assert (ended.code, ended.err) == (0, "")
    assert "texts mean the same above a cosine of" in ended.out
    assert Bundle.load(tmp_path / "taught").manifest.oracles[-1].name == "meaning"


def test_labels_that_are_there_are_kept_and_a_failed_teacher_leaves_none():
    answers = [StoredAnswer(text="a", label="x"), StoredAnswer(text="b"), StoredAnswer(text="", failed=True)]
    asked = []

    def teacher(texts):
        asked.extend(texts)
        return [FAILED] * len(texts)

    assert [answer.label for answer in taught(answers, teacher)] == ["x", None, None]
    assert asked == ["b"]
    assert [answer.label for answer in taught(answers, lambda texts: ["y"] * len(texts))] == ["x", "y", None]


def test_a_text_with_a_label_is_not_asked_about_again():
    known = [StoredAnswer(text="a", label="x"), *(StoredAnswer(text=text) for text in "abba")]
    asked = []

    def teacher(texts):
        asked.extend(texts)
        return ["y"] * len(texts)

    assert [answer.label for answer in taught(known, teacher)] == ["x", "x", "y", "y", "x"]
    assert asked == ["b"]


def test_texts_of_no_class_are_learned_as_other(edgers, tmp_path):
    words = ("nobody", "nothing", "door", "wall", "sky")
    others = [(f"{word} is in view of the robot.", "OTHER") for word in words]
    labels = written(tmp_path / "labels.jsonl", [*labelled_texts(), *others * 4])
    edgers("distill", labels, "--name", "way", "--out", tmp_path / "taught", "--epochs", 6)
    *_, record = Bundle.load(tmp_path / "taught").manifest.classifiers
    assert "OTHER" in record.labels
    assert record.classes == tuple(sorted(demo.ACTIONS))


@pytest.mark.parametrize(
    ("left_out", "said"),
    [("--prompt", "belong together"), ("--sigma", "belong together"), ("--from-bundle", "belong together")],
)
def test_images_question_and_noise_belong_together(edgers, scenes, tmp_path, left_out, said):
    arguments = list(from_bundle(scenes, tmp_path))
    place = arguments.index(left_out)
    del arguments[place : place + 2]
    refused(edgers(*arguments), 2, said)


def test_an_unknown_teacher_is_named(edgers, scenes, tmp_path):
    refused(edgers(*from_bundle(scenes, tmp_path, "--teacher", "none")), 2, "no oracle 'none'")
    assert not (tmp_path / "taught").exists()
