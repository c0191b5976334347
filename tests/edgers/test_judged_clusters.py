"""Clusters told apart by a judge: two answers are the same if it says so, FAILED if it cannot be asked."""

import json

import pytest

from edgers import demo
from edgers.certify import Certifier
from edgers.ending import CANCELLED
from edgers.oracle.base import FAILED, OTHER
from edgers.oracle.clusters import Clusters
from edgers.oracle.definition import read_definition
from edgers.oracle.named import open_defined, open_text_oracle
from edgers.verify import replay, verify
from edgers_engines.errors import InputError
from edgers_engines.vlm import Answer, Status
from tests.edgers.judge_server import decides, sends, serving

INSTRUCTIONS = "Do these two mean the same?\n{text}\nSay same or different."


def first_words(prompt):
    """Same, if the two answers begin with the same letter."""
    one, two = prompt.split("\n")[1:3]
    return "same" if one[3:4] == two[3:4] else "different"


def written(path, url, **fields):
    asks = {"kind": "endpoint", "base_url": url, "model": "m", "timeout_s": 5, "attempts": 1}
    judge = {"kind": "judge", "name": "same", "classes": ["same", "different"], "instructions": INSTRUCTIONS}
    definition = {"kind": "clusters", "name": "meaning", "judge": {**judge, "asks": asks, **fields}}
    path.write_text(json.dumps(definition))
    return path


def answers(*texts):
    return [Answer((), text, Status.COMPLETE, 1.0) for text in texts]


@pytest.fixture
def opened(tmp_path):
    with serving(decides(first_words)) as server:
        oracle = open_defined(written(tmp_path / "same.json", server.url))
        assert isinstance(oracle, Clusters)
        yield oracle


def test_the_judge_compares_each_answer_with_the_representative(opened):
    frozen = opened.freeze(answers("left a", "left b", "stop", "left a"))
    assert frozen.record.classes == ("left a",)
    assert (frozen.record.kind, frozen.record.judged, frozen.record.clusters) == (
        "judged clusters",
        True,
        True,
    )
    assert frozen.classify_texts(["left z", "right", "lot"]) == ["left a", OTHER, "left a"]


def test_a_judge_that_cannot_be_asked_fails_the_sample_and_is_named(tmp_path):
    with serving(sends(b"", status=500)) as server:
        oracle = open_defined(written(tmp_path / "same.json", server.url))
        frozen = oracle.freeze(answers("left a", "left b"))
    assert frozen.record.classes == ("left a",)
    assert frozen.classify_texts(["left z", "left a"]) == [FAILED, "left a"]
    assert "status 500" in frozen.failure


def test_a_certificate_verifies_replays_and_says_that_a_model_judged(tmp_path, demo_bundle, first_frame):
    with serving(decides(first_words)) as server:
        path = written(tmp_path / "same.json", server.url)
        certifier = Certifier(demo_bundle, sigma=0.25, samples=30)
        c = certifier.certify(first_frame, demo.PROMPT, oracle=str(path))
        verify(c)
        again = replay(c, demo_bundle, first_frame, oracle=path)
    assert c.certified
    assert (again.votes, again.oracle) == (c.votes, c.oracle)
    assert "the judge says the same" in c.assumption.sentence


def test_out_of_time_there_is_no_class_and_nobody_is_asked(tmp_path, demo_bundle, first_frame):
    path = written(tmp_path / "same.json", "http://127.0.0.1:9/v1")
    certifier = Certifier(demo_bundle, sigma=0.25, samples=30, method="sequential")
    c = certifier.certify(first_frame, demo.PROMPT, oracle=str(path), cancelled=lambda: True)
    verify(c)
    assert (c.oracle.classes, c.certified, c.stopped_because) == ((), False, CANCELLED)


def test_a_selection_that_runs_out_of_time_while_it_compares_has_no_class(tmp_path, demo_bundle, first_frame):
    asked = []

    def late():
        asked.append(1)
        return len(asked) > 1  # the one chunk of the selection is drawn, then time is up

    with serving(decides(first_words)) as server:
        path = written(tmp_path / "same.json", server.url)
        certifier = Certifier(demo_bundle, sigma=0.25, samples=30, method="sequential")
        c = certifier.certify(first_frame, demo.PROMPT, oracle=str(path), cancelled=late)
    verify(c)
    assert (c.oracle.classes, c.certified, c.stopped_because) == ((), False, CANCELLED)
    assert sum(c.votes.selection.values()) == 16


def test_a_judge_of_other_classes_is_refused(tmp_path):
    path = written(tmp_path / "same.json", "http://127.0.0.1:9/v1", classes=["yes", "no"])
    with pytest.raises(InputError, match="the judge of clusters has the classes 'same' and 'different'"):
        read_definition(path)


def test_it_teaches_no_other_oracle(tmp_path, demo_model):
    path = written(tmp_path / "same.json", "http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match="makes clusters"):
        open_text_oracle(demo_model, str(path))
