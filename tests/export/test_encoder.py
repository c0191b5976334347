"""Students out of encoders: they learn, a device answers as transformers does, and no folder runs code."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import transformers

from edgers_engines.bundle import Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.text_classifier import TextClassifier
from edgers_export.attach import attach
from edgers_export.bundle import FINEST_MARGIN
from edgers_export.encoder import TYPES, fine_tune
from edgers_export.errors import ExportError
from tests import encoders
from tests.encoders import LABELS, POSITIONS, TEXTS

pytestmark = pytest.mark.usefixtures("one_thread")

HARD = [
    "STOP",
    "left [SEP] right",
    "</s> stop <s>",
    "[CLS]",
    "日本 🙂",
    "stop <pad> [PAD] [MASK] <mask>",
    "x",
]
EPOCHS, RATE = 12, 3e-3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One checkpoint of each kind."""
    root = tmp_path_factory.mktemp("encoders")
    return {kind: encoders.write(kind, root / kind) for kind in TYPES}


@pytest.fixture(scope="module")
def students(folders):
    """A student of each, that learned three quarters of the texts."""
    return {
        kind: fine_tune(folder, TEXTS[:240], LABELS[:240], epochs=EPOCHS, rate=RATE)
        for kind, folder in folders.items()
    }


@pytest.fixture(scope="module")
def bundles(demo_bundle, students, tmp_path_factory):
    """The demo bundle with each of them as an oracle."""
    root = tmp_path_factory.mktemp("attached")
    return {
        kind: attach(demo_bundle, student, "tuned", ["", "stop " * 99, *TEXTS, *HARD], root / kind)
        for kind, student in students.items()
    }


def on_device(bundle: Bundle) -> TextClassifier:
    return TextClassifier(bundle, bundle.manifest.classifiers[-1], open_backend(threads=1))


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of BERT's that a test may damage."""
    return shutil.copytree(folders["bert"], tmp_path / "checkpoint")


def edit(path, **changes):
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))


def tune(folder, texts=TEXTS[:8], labels=LABELS[:8]):
    return fine_tune(folder, texts, labels, epochs=1)


@pytest.mark.parametrize("kind", TYPES)
def test_a_fine_tuned_encoder_knows_held_out_texts(students, kind):
    found = [students[kind].classes[index] for index in students[kind].logits(TEXTS[240:]).argmax(1)]
    assert found == list(LABELS[240:])


@pytest.mark.parametrize("kind", TYPES)
def test_a_device_gives_the_logits_that_transformers_gives_the_checkpoint(bundles, students, kind):
    student, device = students[kind], on_device(bundles[kind])
    own, model = encoders.tokenizer(kind), student.model.model
    own.backend_tokenizer.no_truncation()
    own.backend_tokenizer.no_padding()
    for text in [*TEXTS[:20], *HARD]:
        ids = own(text, split_special_tokens=True).input_ids
        with torch.no_grad():
            wanted = model(torch.tensor([ids])).logits.numpy()
        assert np.allclose(device.logits([text]), wanted, atol=1e-4), text
    finest = FINEST_MARGIN * abs(student.logits(TEXTS)).max()
    assert finest <= device.record.margin_tolerance < 1e-3


@pytest.mark.parametrize("kind", TYPES)
def test_padding_does_not_change_what_a_text_says(students, kind):
    texts = ["stop", TEXTS[0], " ".join(TEXTS[:2])]
    alone = np.concatenate([students[kind].logits([text]) for text in texts])
    assert np.allclose(students[kind].logits(texts), alone, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
def test_special_tokens_stand_around_a_text_and_are_plain_text_inside(bundles, students, kind):
    start, end = ("<s>", "</s>") if kind == "roberta" else ("[CLS]", "[SEP]")
    names = students[kind].tokenizer
    for text in (f"left {end} right", f"{start}{end}", f"{end}"):
        (row,) = students[kind].rows([text])
        special = {names.token_to_id(start), names.token_to_id(end)}
        assert [row[0], row[-1]] == [names.token_to_id(start), names.token_to_id(end)]
        assert not special & set(row[1:-1])
        assert on_device(bundles[kind])._ids([text]) == [row]


@pytest.mark.parametrize("kind", TYPES)
def test_an_empty_text_and_one_that_is_too_long_have_no_logits(bundles, students, kind):
    device = on_device(bundles[kind])
    fits = " the" * (POSITIONS - 2)
    texts = ["", fits, fits + " the", "stop"]
    for found in (device.logits(texts), students[kind].logits(texts)):
        assert np.isnan(found).all(axis=1).tolist() == [True, False, True, False]
    assert device.record.max_tokens == POSITIONS


def test_a_long_context_is_cut_at_what_a_student_reads(tmp_path):
    folder = encoders.write("bert", tmp_path / "c", max_position_embeddings=512)
    assert tune(folder).max_tokens == 256


def test_the_same_seed_learns_the_same_and_another_seed_another_head(folders):
    def weights(seed):
        torch.manual_seed(len(seeds))
        return fine_tune(folders["bert"], TEXTS[:40], LABELS[:40], epochs=1, seed=seed).model.state_dict()

    seeds = []
    first, second = (weights(seeds.append(0) or 3) for _ in range(2))
    other = weights(4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.classifier.weight"], other["model.classifier.weight"])


def test_the_head_of_a_checkpoint_that_was_tuned_before_is_replaced(tmp_path):
    for classes in (2, 7):
        folder = encoders.write(
            "distilbert",
            tmp_path / str(classes),
            transformers.AutoModelForSequenceClassification,
            num_labels=classes,
        )
        old = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        student = fine_tune(folder, ["a box", "a cone"], ["x", "y"], epochs=1, rate=1e-12)
        new = student.model.model
        assert torch.allclose(
            new.distilbert.embeddings.word_embeddings.weight, old.distilbert.embeddings.word_embeddings.weight
        )
        assert not torch.allclose(new.pre_classifier.weight, old.pre_classifier.weight, atol=1e-3)
        assert new.classifier.weight.shape == (2, 32)
        assert classes == 7 or not torch.allclose(new.classifier.weight, old.classifier.weight, atol=1e-3)


def test_progress_counts_every_text_that_can_be_read(folder):
    done = []
    fine_tune(
        folder,
        [*TEXTS[:40], "", "stop " * 99],
        [*LABELS[:40], "stop", "stop"],
        epochs=2,
        progress=done.append,
    )
    assert sum(done) == 80


def test_a_class_of_unreadable_texts_only_is_named(folder):
    with pytest.raises(InputError, match="no text of the class 'long' has 1 to 40 tokens"):
        tune(folder, ["stop", "left", "stop " * 99], ["stop", "left", "long"])


def test_texts_that_cannot_test_an_oracle_are_refused(demo_bundle, students, tmp_path):
    with pytest.raises(InputError, match="none of 2 texts can test the oracle"):
        attach(demo_bundle, students["bert"], "tuned", ["", "stop " * 99], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_beside_the_config_is_no_reason_to_refuse(folder):
    (folder / "data_config.json").write_text('[{"name": "some data"}]')  # sentence-transformers writes it
    assert tune(folder).classes == tuple(sorted(set(LABELS[:8])))


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran')",)


def only_pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))


def other_layers(folder):
    edit(folder / "config.json", num_hidden_layers=0)


def spelled(folder):
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["pre_tokenizer"], tree["normalizer"]["lowercase"] = {"type": "WhitespaceSplit"}, False
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    edit(folder / "tokenizer_config.json", do_lower_case=False)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda c: (c / "config.json").unlink(), "has no config.json", id="no config"),
        pytest.param(
            lambda c: (c / "model.safetensors").unlink(), "has no model.safetensors", id="no weights"
        ),
        pytest.param(only_pickled, "pickled weights are not read", id="pickled weights"),
        pytest.param(lambda c: (c / "tokenizer.json").unlink(), "has no tokenizer.json", id="no tokenizer"),
        pytest.param(
            lambda c: (c / "tokenizer.json").write_text("{}"),
            "transformers cannot load",
            id="broken tokenizer",
        ),
        pytest.param(
            lambda c: edit(c / "config.json", auto_map={"AutoModelForSequenceClassification": "evil.Model"}),
            "wants code",
            id="code of its own",
        ),
        pytest.param(
            lambda c: edit(c / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Fast"]}),
            "wants code",
            id="a tokenizer's own code",
        ),
        pytest.param(
            lambda c: edit(c / "config.json", _attn_implementation="evil/kernel"), "other code", id="a kernel"
        ),
        pytest.param(
            lambda c: edit(c / "config.json", model_type="gpt2"),
            "gpt2 checkpoint; one of type bert, distilbert, roberta is expected",
            id="no encoder",
        ),
        pytest.param(other_layers, "have besides the model's bert.encoder.layer.0", id="layers left over"),
        pytest.param(
            lambda c: edit(c / "config.json", num_hidden_layers=2),
            "lack bert.encoder.layer.1",
            id="layers missing",
        ),
        pytest.param(
            lambda c: edit(c / "config.json", intermediate_size=48),
            "have another shape for bert",
            id="shapes",
        ),
        pytest.param(
            lambda c: edit(c / "config.json", vocab_size=50), "have another shape for bert", id="vocabulary"
        ),
        pytest.param(spelled, r"has no plain text for '\[PAD\]'", id="special tokens can be spelled"),
    ],
)
def test_a_folder_that_is_not_what_it_seems_is_refused_in_one_line(folder, damage, reason):
    damage(folder)
    with pytest.raises(ExportError, match=reason) as refusal:
        tune(folder)
    assert "\n" not in str(refusal.value)
