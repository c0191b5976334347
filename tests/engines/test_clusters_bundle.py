"""A bundle with clusters, as an enemy or an accident leaves it; and their embeddings as PyTorch's."""

import re
import shutil

import numpy as np
import pytest
from msgspec.structs import replace

from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import BackendError, BundleError
from edgers_engines.oracle_record import Embedded
from edgers_engines.text_embedder import TextEmbedder, cosine_difference, directions
from tests.engines.hostile_bundles import edited, flipped, gone, manifest_of, rewrite, written
from tests.students import labelled_texts

ORACLE = "oracle-meaning"
TEXTS = [text for text, _ in labelled_texts()]
WIDTH = 576  # three members, three widths, 64 filters


def clusters(**fields):
    """Damage: the oracle's record has other values."""
    return edited(lambda m: m["oracles"][-1].update(fields))


def embedded(**fields):
    """Damage: the first text of the self-test has other values."""
    return edited(lambda m: m["oracles"][-1]["self_test"][0].update(fields))


def shape(kind, values):
    """Damage: another shape in the graph's record."""
    return edited(lambda m: m["oracles"][-1]["graph"][kind][0].update(shape=values))


def not_a_number(name):
    """Damage: the record holds a bare NaN, which is not JSON."""
    return written(lambda text: re.sub(rf'"{name}": [-0-9.e]+'.encode(), f'"{name}": NaN'.encode(), text))


def all_widths(width):
    """Damage: all embeddings of the self-test are as wide as this."""
    return edited(lambda m: [each.update(embedding=[0.5] * width) for each in m["oracles"][-1]["self_test"]])


REFUSED = {
    "a threshold of one": (clusters(threshold=1.0), r"oracles\[5\]\.threshold|< 1\.0"),
    "a threshold of minus one": (clusters(threshold=-1.0), "> -1.0"),
    "a threshold above one": (clusters(threshold=7.5), "< 1.0"),
    "a threshold that is no number": (not_a_number("threshold"), "NaN is not a JSON number"),
    "a threshold that is a text": (clusters(threshold="0.5"), "Expected `float`, got `str`"),
    "no threshold": (
        edited(lambda m: m["oracles"][-1].pop("threshold")),
        "missing required field `threshold`",
    ),
    "a threshold that no text reaches": (clusters(threshold=0.9, tolerance=0.1), "no text has with itself"),
    "an endless tolerance": (clusters(tolerance=1e300), "no text has with itself"),
    "a negative tolerance": (clusters(tolerance=-0.5), ">= 0"),
    "more matches than pairs": (clusters(same={"matching": 3, "pairs": 2}), "3 of 2 pairs match"),
    "fewer matches than none": (clusters(different={"matching": -1, "pairs": 2}), ">= 0"),
    "classes of its own": (clusters(classes=["a", "b"]), "unknown field `classes`"),
    "a name that is taken": (clusters(name="action"), "has a name twice"),
    "no self-test": (clusters(self_test=[]), "length >= 1"),
    "an empty text to test": (embedded(text=""), "length >= 1"),
    "an embedding of one number": (embedded(embedding=[1.0]), "length >= 2"),
    "an embedding without a number": (embedded(embedding=[None] * WIDTH), "Expected `float`, got `null`"),
    "an endless embedding": (embedded(embedding=[0.0] * 5000), "length <= 4096"),
    "embeddings of several widths": (embedded(embedding=[1.0, 0.0]), "embeddings of several widths"),
    "embeddings of another width": (all_widths(7), r"to vector, float32 \[batch, 7\]"),
    "another input": (shape("inputs", ["batch", 7]), "has another graph than from ids and mask"),
    "another output": (shape("outputs", ["batch", 3]), "has another graph than from ids and mask"),
    "a classifier's graph": (
        edited(lambda m: m["oracles"][-1]["graph"]["outputs"][0].update(name="logits")),
        "to vector, float32",
    ),
    "no token at all": (clusters(max_tokens=0), ">= 1"),
    "the model's tokenizer": (clusters(tokenizer="tokenizer.json"), r"\$\.files lists"),
    "the model's weights": (clusters(weights="weights.bin"), r"\$\.files lists"),
    "weights that are gone": (gone(f"{ORACLE}.bin"), rf"lacks {ORACLE}\.bin"),
    "weights with another byte": (flipped(f"{ORACLE}.bin"), rf"{ORACLE}\.bin has SHA-256"),
    "a graph with another byte": (flipped(f"{ORACLE}.onnx"), rf"{ORACLE}\.onnx has SHA-256"),
    "a tokenizer with another byte": (flipped(f"{ORACLE}.json"), rf"{ORACLE}\.json has SHA-256"),
}


@pytest.fixture
def clusters_copy(clusters_bundle, tmp_path):
    return shutil.copytree(clusters_bundle.path, tmp_path / "bundle")


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_oracle_refuses_its_bundle_in_one_line(clusters_copy, name):
    damage, said = REFUSED[name]
    damage(clusters_copy)
    with pytest.raises(BundleError) as caught:
        Bundle.load(clusters_copy)
    text = str(caught.value)
    assert text.isprintable()
    assert str(clusters_copy) in text
    assert re.search(said, text), text


LATER = {
    "a tokenizer of more ids": (clusters(vocabulary=3), BundleError, "has the token id"),
    "another direction": (
        embedded(embedding=[1.0] + [0.0] * (WIDTH - 1)),
        BackendError,
        "the self-test of the oracle meaning failed on this machine: a cosine is",
    ),
    "no direction": (embedded(embedding=[0.0] * WIDTH), BackendError, "a cosine is nan off"),
    "a text that cannot be read": (clusters(max_tokens=1), BackendError, "a cosine is nan off"),
}


@pytest.mark.parametrize("name", LATER)
def test_an_oracle_that_is_not_what_it_says_is_refused_when_it_is_loaded(clusters_copy, name):
    damage, error, said = LATER[name]
    damage(clusters_copy)
    bundle = Bundle.load(clusters_copy)
    *_, record = bundle.manifest.text_models
    with pytest.raises(error, match=said):
        TextEmbedder(bundle, record, open_backend())


def test_a_manifest_that_is_written_back_is_the_same_bundle(clusters_copy, clusters_bundle):
    rewrite(clusters_copy, manifest_of(clusters_copy))
    assert Bundle.load(clusters_copy).manifest == clusters_bundle.manifest


# --- the embedder -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def load(clusters_bundle):
    def make(**fields):
        *_, record = clusters_bundle.manifest.text_models
        return TextEmbedder(clusters_bundle, replace(record, **fields), open_backend(threads=1))

    return make


def test_directions_are_those_of_pytorch_within_the_tolerance(load, embedder):
    found = (loaded := load()).directions(TEXTS)
    wanted = directions(embedder.vectors(TEXTS))
    assert cosine_difference(found, wanted) <= loaded.record.tolerance
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-12)
    assert abs(found @ found.T - wanted @ wanted.T).max() <= loaded.record.tolerance


def test_a_texts_direction_does_not_depend_on_its_neighbours(load):
    together = (loaded := load()).directions(TEXTS[:60])
    alone = np.concatenate([loaded.directions([text]) for text in TEXTS[:60]])
    assert cosine_difference(together, alone) <= loaded.record.tolerance


def test_a_text_without_a_token_or_with_too_many_has_no_direction(load):
    found = load(max_tokens=30).directions(["", "left, a box blocks the way.", "left " * 40])
    assert np.isnan(found).all(axis=1).tolist() == [True, False, True]


def test_a_self_test_of_the_same_direction_holds_whatever_its_length(load):
    first, *rest = load().record.self_test
    longer = Embedded(text=first.text, embedding=tuple(3.0 * value for value in first.embedding))
    load(self_test=(longer, *rest))


def test_what_has_no_direction_is_not_a_number():
    vectors = np.array([[0, 0], [np.inf, 1], [np.nan, 1], [3e38, 4e38 / 2], [3, 4]], np.float32)
    found = directions(vectors)
    assert np.isnan(found).any(axis=1).tolist() == [True, True, True, False, False]
    assert np.allclose(found[4], [0.6, 0.8])


def test_a_cosine_differs_by_no_more_than_its_vectors_say():
    rng = np.random.default_rng(0)
    one = directions(rng.standard_normal((50, 8)))
    other = directions(one + 0.01 * rng.standard_normal((50, 8)))
    assert abs(one @ one.T - other @ other.T).max() <= cosine_difference(one, other)
