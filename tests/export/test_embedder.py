"""Embedders: made of a student, attached with a threshold that held-out pairs chose."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.text_embedder import TextEmbedder
from edgers_export.attach import attach_embedder
from edgers_export.embedder import Cosines, cosines, embedder_of
from tests.students import labelled_texts

HELD_OUT = dict(labelled_texts()[240:])


def test_a_bundle_with_clusters_is_the_old_one_and_three_files(demo_bundle, clusters_bundle):
    old, new = demo_bundle.manifest, clusters_bundle.manifest
    assert new.oracles[:-1] == old.oracles
    added = {"oracle-meaning.onnx", "oracle-meaning.bin", "oracle-meaning.json"}
    assert {file.path for file in new.files} - {file.path for file in old.files} == added
    assert Bundle.load(clusters_bundle.path).digest == clusters_bundle.digest != demo_bundle.digest


def test_its_record_says_how_held_out_pairs_matched(clusters_bundle, embedder):
    record = clusters_bundle.manifest.oracles[-1]
    number = len(HELD_OUT)
    assert record.same.pairs + record.different.pairs == number * (number - 1) // 2
    assert record.different.matching <= record.different.pairs / 100
    assert record.same.matching >= 0.95 * record.same.pairs
    assert 0 <= record.threshold < 1
    assert 0 < record.tolerance < 1e-3
    assert min(map(len, HELD_OUT)) == len(record.self_test[0].text)


def test_padding_and_neighbours_do_not_change_an_embedding(embedder):
    texts = ["stop", "left, a box blocks the way and so on and on.", "right, nothing."]
    alone = np.concatenate([embedder.vectors([text]) for text in texts])
    assert np.allclose(embedder.vectors(texts), alone, atol=1e-5)


def test_embeddings_are_centred_on_what_was_learned(embedder):
    learned = [text for text, _ in labelled_texts()[:240]]
    assert abs(embedder.vectors(learned).mean(0)).max() < 1e-5


@given(st.lists(st.floats(-1, 0.99), min_size=1, max_size=400))
def test_the_threshold_is_the_smallest_that_at_most_one_percent_exceed(different):
    chosen = Cosines(same=np.array([1.0]), different=np.array(different)).threshold
    allowed = len(different) // 100
    assert (np.array(different) > chosen).sum() <= allowed
    lower = chosen - 2e-4
    assert chosen == 0 or (np.array(different) > lower).sum() > allowed


def test_matches_are_counted_as_they_are_made():
    """A cosine within the tolerance of the threshold is none."""
    pairs = Cosines(same=np.array([0.25, 0.5, 0.75]), different=np.array([0.0, 0.5]))
    same, different = pairs.matching(0.25, 0.25)
    assert (same.matching, same.pairs, different.matching, different.pairs) == (1, 3, 0, 2)
    assert pairs.matching(0.25, 0.0)[0].matching == 2


def test_texts_without_a_direction_are_left_out():
    vectors = np.array([[1, 0], [np.nan, np.nan], [0, 1], [1, 0]], np.float64)
    found = cosines(vectors, ["a", "a", "b", "a"])
    assert (found.same.tolist(), found.different.tolist()) == ([1.0], [0.0, 0.0])


@pytest.mark.parametrize(
    "labelled",
    [{}, {"": "a"}, {"left": "a", "right": "a"}, {"left": "a", "right": "b"}, {"left": "a", "": "b"}],
)
def test_too_few_texts_to_choose_a_threshold_are_refused_and_leave_nothing(
    demo_bundle, embedder, labelled, tmp_path
):
    with pytest.raises(InputError, match="labels"):
        attach_embedder(demo_bundle, embedder, "few", labelled, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_labels_that_the_embedding_cannot_tell_apart_are_refused(demo_bundle, embedder, tmp_path):
    """Upper case is not seen, so that a text of one label has the direction of a text of another."""
    texts = [text for text, _ in labelled_texts()[:40]]
    labelled = {**dict.fromkeys(texts[:2], "a"), **{text.upper(): "b" for text in texts[:2]}}
    with pytest.raises(InputError, match="does not tell them apart"):
        attach_embedder(demo_bundle, embedder, "blind", labelled, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused(clusters_bundle, embedder, tmp_path):
    with pytest.raises(InputError, match="has an oracle 'meaning' already"):
        attach_embedder(clusters_bundle, embedder, "meaning", HELD_OUT, tmp_path / "again")


def test_an_embedder_needs_a_student_from_scratch_and_its_texts(student):
    with pytest.raises(InputError, match="made of a student trained from scratch"):
        embedder_of(student, [])
    other = replace(student, model=student.model.learned)
    with pytest.raises(InputError, match="made of a student trained from scratch"):
        embedder_of(other, ["left"])


def test_a_text_too_long_for_the_device_is_no_part_of_the_self_test(demo_bundle, embedder, tmp_path):
    labelled = {"left " * 400: "left", **HELD_OUT}
    made = attach_embedder(demo_bundle, embedder, "long", labelled, tmp_path / "out")
    record = made.manifest.oracles[-1]
    number = len(HELD_OUT)
    assert record.same.pairs + record.different.pairs == number * (number - 1) // 2
    TextEmbedder(made, record, open_backend(threads=1))
