"""The student: it learns, the same seed learns the same, and its graph answers as PyTorch does."""

import numpy as np
import onnx
import pytest
import torch

from edgers import demo
from edgers_engines.errors import InputError
from edgers_export.student import train_from_scratch
from tests.students import labelled_texts, train


def test_a_student_learns_what_the_first_word_says(student):
    texts, labels = zip(*labelled_texts()[240:], strict=True)
    found = [student.classes[index] for index in student.logits(texts).argmax(1)]
    assert student.classes == tuple(sorted(demo.ACTIONS))
    assert found == list(labels)


def test_the_same_seed_learns_the_same_whatever_was_drawn_before():
    torch.manual_seed(7)
    one, before = train(epochs=1), torch.rand(1)
    other = train(epochs=1)
    torch.manual_seed(7)
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name]), name
    assert torch.equal(before, torch.rand(1)), "who trains leaves the caller's random numbers alone"


def test_a_student_has_two_million_parameters_at_most(student):
    assert sum(weight.numel() for weight in student.model.parameters()) <= 2_000_000


def test_padding_and_neighbours_do_not_change_what_a_text_says(student):
    texts = ["stop", "left, a box blocks the way and so on and on.", "right, nothing."]
    together = student.logits(texts)
    alone = np.concatenate([student.logits([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)


def test_a_text_of_unknown_letters_has_tokens_too(student):
    assert np.isfinite(student.logits(["日本", "🙂", "ÀÉ", "qzx"])).all()


def test_progress_counts_every_text_of_every_epoch():
    done = []
    texts, labels = zip(*labelled_texts()[:50], strict=True)
    train_from_scratch(texts, labels, epochs=2, progress=done.append)
    assert sum(done) == 100


@pytest.mark.parametrize(
    ("texts", "labels"), [([], []), (["a"], ["x"]), (["a", "b"], ["x", "x"]), (["a", "b"], ["x"])]
)
def test_too_little_to_learn_from_is_refused(texts, labels):
    with pytest.raises(InputError, match="labels of the classes"):
        train_from_scratch(texts, labels)


def test_the_graph_and_its_weights_are_named_after_the_oracle(student, tmp_path):
    graph = student.write(tmp_path, "oracle-x")
    assert graph.file == "oracle-x.onnx"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "oracle-x.bin",
        "oracle-x.json",
        "oracle-x.onnx",
    ]
    model = onnx.load(tmp_path / graph.file, load_external_data=False)
    places = {
        entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"
    }
    assert places == {"oracle-x.bin"}
