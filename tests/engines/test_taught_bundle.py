"""A bundle with a learned oracle, as an enemy or an accident leaves it: refused like any other damage."""

import re
import shutil

import onnx
import pytest
from onnx import TensorProto, helper

from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import BackendError, BundleError
from edgers_engines.text_classifier import TextClassifier
from tests.engines.hostile_bundles import edited, entry, flipped, gone, manifest_of, rehash, rewrite

ORACLE = "oracle-learned"


def learned(**fields):
    """Damage: the oracle's record has other values."""
    return edited(lambda m: m["oracles"][-1].update(fields))


def graph(**fields):
    """Damage: the record of the oracle's graph has other values."""
    return edited(lambda m: m["oracles"][-1]["graph"].update(fields))


def counted(*pairs):
    """Damage: other calibration counts."""
    names = ("teacher", "student", "count")
    return learned(calibration=[dict(zip(names, pair, strict=True)) for pair in pairs])


def shape(kind, values):
    """Damage: another shape in the graph's record."""
    return edited(lambda m: m["oracles"][-1]["graph"][kind][0].update(shape=values))


def located(place):
    """Damage: the oracle's graph reads its weights elsewhere, and is signed anew."""

    def damage(root):
        path = root / f"{ORACLE}.onnx"
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for item in tensor.external_data:
                if item.key == "location":
                    item.value = place
        path.write_bytes(model.SerializeToString())
        rehash(root, path.name)

    return damage


def operator(name):
    """Damage: the oracle's graph has one more node, and is signed anew."""

    def damage(root):
        path = root / f"{ORACLE}.onnx"
        model = onnx.load(path, load_external_data=False)
        model.graph.node.append(helper.make_node(name, ["logits"], ["more"]))
        model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 4]))
        path.write_bytes(model.SerializeToString())
        rehash(root, path.name)

    return damage


def as_weights(name):
    """Damage: the oracle's weights are a file that has another role."""

    def edit(manifest):
        manifest["files"].remove(entry(manifest, f"{ORACLE}.bin"))
        manifest["oracles"][-1]["weights"] = name

    return edited(edit)


REFUSED = {
    "no graph": (edited(lambda m: m["oracles"][-1].pop("graph")), "missing required field `graph`"),
    "another kind": (learned(kind="judge"), "Invalid value 'judge'"),
    "no kind": (edited(lambda m: m["oracles"][-1].pop("kind")), "missing required field `kind`"),
    "a field of rules": (learned(rules=[]), "unknown field `rules`"),
    "one class": (learned(labels=["left"]), "length >= 2"),
    "a label twice": (learned(labels=["left", "left", "right", "stop"]), "has a label twice"),
    "a reserved class": (learned(labels=["FAILED", "left", "right", "stop"]), "'FAILED'.*are reserved"),
    "a blank class": (learned(labels=[" ", "left", "right", "stop"]), "has the class ' '"),
    "more labels than logits": (learned(labels=list("abcde")), "not a logit for each label"),
    "a name that is taken": (learned(name="action"), "has a name twice"),
    "a name with a slash": (learned(name="../x"), r"oracles\[5\]\.name"),
    "no self-test": (learned(self_test=[]), "length >= 1"),
    "an empty text to test": (learned(self_test=[{"text": "", "logits": [0, 0, 0, 0]}]), "length >= 1"),
    "a text to test without logits": (learned(self_test=[{"text": "a", "logits": []}]), "length >= 2"),
    "no token at all": (learned(max_tokens=0), ">= 1"),
    "too many tokens": (learned(max_tokens=1 << 20), "<= 4096"),
    "a negative tolerance": (learned(margin_tolerance=-1.0), ">= 0"),
    "an endless vocabulary": (learned(vocabulary=1 << 40), "<= 1048576"),
    "a count of no class": (counted(("left", "up", 1)), "counts a class that it has not"),
    "a pair counted twice": (counted(("left", "stop", 1), ("left", "stop", 2)), "a pair of classes twice"),
    "a count of nothing": (counted(("left", "stop", 0)), ">= 1"),
    "no calibration": (edited(lambda m: m["oracles"][-1].pop("calibration")), "required field `calibration`"),
    "another input": (shape("inputs", ["batch", 7]), "has another graph than from ids and mask"),
    "another output": (shape("outputs", ["batch", 3]), "has another graph than from ids and mask"),
    "a graph that is not listed": (graph(file="none.onnx"), r"\$\.files lists"),
    "the model's graph": (graph(file="vision.onnx"), r"\$\.files lists"),
    "the model's weights": (as_weights("weights.bin"), r"\$\.files lists"),
    "a tokenizer as weights": (as_weights(f"{ORACLE}.json"), r"\$\.files lists"),
    "the model's tokenizer": (learned(tokenizer="tokenizer.json"), r"\$\.files lists"),
    "weights that are gone": (gone(f"{ORACLE}.bin"), rf"lacks {ORACLE}\.bin"),
    "weights with another byte": (flipped(f"{ORACLE}.bin"), rf"{ORACLE}\.bin has SHA-256"),
    "a graph with another byte": (flipped(f"{ORACLE}.onnx"), rf"{ORACLE}\.onnx has SHA-256"),
    "a tokenizer with another byte": (flipped(f"{ORACLE}.json"), rf"{ORACLE}\.json has SHA-256"),
    "weights of the model in the oracle's graph": (located("weights.bin"), "lie in weights.bin"),
    "weights in another folder": (located("../secret"), "location"),
    "an operator that is not allowed": (operator("NonZero"), "NonZero"),
    "one more output": (operator("Identity"), "has the input or output"),
}


@pytest.fixture
def taught_copy(taught_bundle, tmp_path):
    return shutil.copytree(taught_bundle.path, tmp_path / "bundle")


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_oracle_refuses_its_bundle_in_one_line(taught_copy, name):
    damage, said = REFUSED[name]
    damage(taught_copy)
    with pytest.raises(BundleError) as caught:
        Bundle.load(taught_copy)
    text = str(caught.value)
    assert text.isprintable()
    assert str(taught_copy) in text
    assert re.search(said, text), text


LATER = {
    "a tokenizer of more ids": (learned(vocabulary=3), BundleError, "has the token id"),
    "a self-test of other logits": (
        edited(lambda m: m["oracles"][-1]["self_test"][0].update(logits=[9.0, 9.0, 9.0, 9.0])),
        BackendError,
        "the self-test of the oracle learned failed",
    ),
}


@pytest.mark.parametrize("name", LATER)
def test_an_oracle_that_is_not_what_it_says_is_refused_when_it_is_loaded(taught_copy, name):
    damage, error, said = LATER[name]
    damage(taught_copy)
    bundle = Bundle.load(taught_copy)
    *_, record = bundle.manifest.classifiers
    with pytest.raises(error, match=said):
        TextClassifier(bundle, record, open_backend())


def test_weights_that_change_after_loading_are_found(taught_copy):
    bundle = Bundle.load(taught_copy)
    flipped(f"{ORACLE}.bin")(taught_copy)
    *_, record = bundle.manifest.classifiers
    with pytest.raises(BundleError, match=rf"{ORACLE}\.bin has SHA-256"):
        TextClassifier(bundle, record, open_backend())


def test_a_manifest_that_is_written_back_is_the_same_bundle(taught_copy, taught_bundle):
    rewrite(taught_copy, manifest_of(taught_copy))
    assert Bundle.load(taught_copy).manifest == taught_bundle.manifest
