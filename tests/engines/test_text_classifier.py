"""Text classifiers on a device: as PyTorch, whoever sits beside them; no logit for what they cannot read."""

import numpy as np
import pytest
from msgspec.structs import replace

from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import BackendError
from edgers_engines.oracle_record import OTHER
from edgers_engines.text_classifier import TextClassifier
from edgers_engines.text_graph import ROWS
from tests.students import labelled_texts

TEXTS = [text for text, _ in labelled_texts()]


def load(bundle, **fields):
    *_, record = bundle.manifest.classifiers
    return TextClassifier(bundle, replace(record, **fields), open_backend(threads=1))


@pytest.fixture(scope="module")
def classifier(taught_bundle):
    return load(taught_bundle)


def test_logits_are_those_of_pytorch_within_the_tolerance(classifier, student):
    difference = abs(classifier.logits(TEXTS) - student.logits(TEXTS)).max()
    assert difference <= classifier.record.margin_tolerance


def test_a_texts_logits_do_not_depend_on_its_neighbours(classifier):
    together = classifier.logits(TEXTS)
    alone = np.concatenate([classifier.logits([text]) for text in TEXTS[:40]])
    assert abs(together[:40] - alone).max() <= classifier.record.margin_tolerance
    assert np.array_equal(classifier.logits([*TEXTS, *TEXTS[::-1]]), [*together, *together[::-1]])


def test_equal_texts_are_answered_once(classifier, monkeypatch):
    asked = []
    whole = TextClassifier._run
    monkeypatch.setattr(TextClassifier, "_run", lambda self, rows: asked.extend(rows) or whole(self, rows))
    assert classifier.logits(TEXTS * 3).shape == (3 * len(TEXTS), 4)
    assert len(asked) == len(set(TEXTS))


def test_more_texts_than_fit_at_once_are_answered_in_parts(classifier):
    many = [f"left {number:05d}" for number in range(ROWS + 10)]
    assert np.isfinite(classifier.logits(many)).all()


def test_a_text_without_a_token_or_with_too_many_has_no_logits(taught_bundle):
    few = load(taught_bundle, max_tokens=30)
    found = few.logits(["", "left, a box blocks the way.", "left " * 40])
    assert np.isnan(found).all(axis=1).tolist() == [True, False, True]


def test_no_texts_have_no_logits(classifier):
    assert classifier.logits([]).shape == (0, 4)


def test_a_self_test_that_does_not_hold_refuses_the_classifier(taught_bundle):
    *_, record = taught_bundle.manifest.classifiers
    first, *rest = record.self_test
    wrong = replace(first, logits=tuple(logit + 0.1 for logit in first.logits))
    with pytest.raises(BackendError, match="the self-test of the oracle learned failed on this machine"):
        load(taught_bundle, self_test=(wrong, *rest))


def test_a_self_test_that_cannot_be_asked_refuses_the_classifier(taught_bundle):
    with pytest.raises(BackendError, match="a lead is nan off"):
        load(taught_bundle, max_tokens=1)


def test_a_taught_bundle_loads_as_any_other(taught_bundle):
    assert Bundle.load(taught_bundle.path).digest == taught_bundle.digest


def test_a_graph_that_couples_the_rows_of_a_batch_is_refused(taught_bundle, monkeypatch):
    """Even where the self-test has one text, which nothing sits beside."""
    *_, record = taught_bundle.manifest.classifiers
    whole = TextClassifier._run

    def coupled(self, rows):
        found = whole(self, rows)
        return np.broadcast_to(found.mean(axis=0), found.shape)

    monkeypatch.setattr(TextClassifier, "_run", coupled)
    with pytest.raises(BackendError, match="a lead is"):
        load(taught_bundle, self_test=record.self_test[:1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_text_with_a_logit_that_is_not_finite_has_no_label(classifier, monkeypatch, value):
    logits = np.array([[9, value, 0, 0], [9, 0, 0, 0]], np.float32)
    monkeypatch.setattr(classifier, "logits", lambda _texts: logits)
    assert classifier.labels(["odd", "plain"]) == [OTHER, classifier.record.labels[0]]
