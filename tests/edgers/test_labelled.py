"""Labelled texts: read strictly, and split so that nothing learned is tested."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgers.labelled import LabelledText, confusions, disagreements, read_labelled, split
from edgers_engines.errors import InputError


def row(text, label="a", image=None):
    return LabelledText(text=text, label=label, image=image)


rows_of = st.lists(
    st.builds(
        row, st.sampled_from("stuvwxyz"), st.sampled_from("ab"), st.sampled_from([None, "1", "2", "3", "4"])
    ),
    min_size=1,
    max_size=40,
)


@given(rows_of, st.floats(0.05, 0.95), st.integers(0, 9))
def test_no_image_and_no_text_is_in_both_splits(rows, share, seed):
    learn, test = split(rows, share, seed)
    assert not {r.text for r in learn} & {r.text for r in test}
    assert not {r.image for r in learn if r.image} & {r.image for r in test if r.image}
    assert test
    assert all(r in rows for r in (*learn, *test))
    assert split(rows, share, seed) == (learn, test)


def test_only_rows_with_a_held_out_text_are_dropped():
    rows = [row(f"text {i}", image=str(i // 2)) for i in range(100)]
    learn, test = split(rows, 0.2, 0)
    assert (len(learn), len(test)) == (80, 20)
    learn, test = split([*rows, *(row("text 0", image=f"more {i}") for i in range(10))], 0.2, 0)
    assert len(learn) + len(test) <= 110


def test_texts_with_two_labels_are_found():
    rows = [row("x"), row("x", "b"), row("y"), row("y"), row("z", "b")]
    assert disagreements(rows) == ["x"]


def test_confusions_count_what_was_said_for_what():
    assert confusions(["a", "a", "b"], ["a", "b", "b"]) == {("a", "a"): 1, ("a", "b"): 1, ("b", "b"): 1}


def test_lines_are_read_and_blank_ones_passed_over(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"text": "stop", "label": "s"}\n\n{"text": "go", "label": "g", "image": "1.png"}\n')
    assert read_labelled(path) == [row("stop", "s"), row("go", "g", "1.png")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ('{"text": "x"}', "line 2.*label"),
        ('{"text": 3, "label": "x"}', r"line 2.*\$\.text"),
        ('{"text": "x", "label": "x", "more": 1}', "line 2.*more"),
        ('{"text": "\\ud800", "label": "x"}', "line 2.*utf-8"),
        ("[]", "line 2"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line, said):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"text": "stop", "label": "s"}\n' + line + "\n")
    with pytest.raises(InputError, match=said):
        read_labelled(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot read the labelled texts"):
        read_labelled(tmp_path / "none.jsonl")
