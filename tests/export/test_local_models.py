"""Local Hugging Face models: an encoder learns, a classifier teaches, a language model judges."""

import json

import pytest
import transformers

from edgers.oracle.base import OTHER
from edgers.oracle.named import open_defined
from edgers_engines.bundle import Bundle
from edgers_engines.errors import EdgersError
from edgers_export.teacher import Labeller, LanguageModel
from tests import encoders
from tests.edgers.hostile import command, refused
from tests.students import labelled_texts

TEXTS = [text for text, _ in labelled_texts()]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return encoders.write(
        "bert",
        tmp_path_factory.mktemp("teacher") / "checkpoint",
        transformers.AutoModelForSequenceClassification,
        id2label={0: "up", 1: "down"},
        initializer_range=0.5,
    )


def distill(monkeypatch, capsys, tmp_path, rows, *more):
    labels = written(tmp_path / "answers.jsonl", rows)
    options = ("--name", "learned", "--out", tmp_path / "taught", "--json")
    return command(monkeypatch, capsys, "distill", labels, *options, *more)


def test_a_local_classifier_teaches(monkeypatch, capsys, tmp_path, classifier):
    rows = [{"text": text} for text in TEXTS]
    kept = ("--labelled", tmp_path / "labelled.jsonl", "--epochs", 2)
    ended = distill(monkeypatch, capsys, tmp_path, rows, "--teacher", classifier, *kept)
    assert (ended.code, ended.err) == (0, "")
    said = [json.loads(line)["label"] for line in (tmp_path / "labelled.jsonl").read_text().splitlines()]
    assert said == Labeller(classifier).classify_texts(TEXTS)
    assert set(json.loads(ended.out)["classes"]) == {"up", "down"}


def test_a_local_encoder_learns(monkeypatch, capsys, tmp_path):
    checkpoint = encoders.write("distilbert", tmp_path / "encoder")
    rows = [{"text": text, "label": label} for text, label in labelled_texts()]
    ended = distill(monkeypatch, capsys, tmp_path, rows, "--student", checkpoint, "--epochs", 2)
    assert (ended.code, ended.err) == (0, "")
    *_, record = Bundle.load(tmp_path / "taught").manifest.classifiers
    assert record.max_tokens == encoders.POSITIONS


def test_a_folder_that_is_no_model_is_refused_in_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    rows = [{"text": text} for text in TEXTS]
    ended = distill(monkeypatch, capsys, tmp_path, rows, "--teacher", tmp_path / "empty")
    refused(ended, 1, str(tmp_path / "empty"))


def judge(file, checkpoint):
    definition = {
        "kind": "judge",
        "name": "way",
        "classes": ["left", "right"],
        "instructions": "{text} Left or right?",
        "asks": {"kind": "checkpoint", "path": checkpoint},
    }
    file.write_text(json.dumps(definition))
    return file


def test_a_local_language_model_judges_as_it_completes(tmp_path):
    encoders.write_llama(tmp_path / "llama", None)
    oracle = open_defined(judge(tmp_path / "judge.json", "llama"))
    replies = LanguageModel(tmp_path / "llama").complete([f"{text} Left or right?" for text in TEXTS[:5]], 13)
    said = {"left": "left", "right": "right"}
    assert oracle.classify_texts(TEXTS[:5]) == [said.get(reply.lower(), OTHER) for reply in replies]
    assert oracle.record.judged


def test_a_checkpoint_of_other_settings_is_another_judge(tmp_path):
    records = []
    for name, theta in (("one", 10_000.0), ("two", 500.0), ("three", 10_000.0)):
        encoders.write_llama(tmp_path / name, None, rope_theta=theta)
        records.append(open_defined(judge(tmp_path / f"{name}.json", name)).record)
    first, second, third = records
    assert first == third != second


def test_a_judge_without_its_checkpoint_says_so(tmp_path):
    with pytest.raises(EdgersError, match="none"):
        open_defined(judge(tmp_path / "judge.json", "none"))
