"""Labelled texts: read strictly, and split so that nothing learned is tested."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgers.answers import StoredAnswer, disagreements, read_answers
from edgers.split import spelling, split
from edgers_engines.errors import InputError


def row(text, label="a", image=None):
    return StoredAnswer(text=text, label=label, image=image)


rows_of = st.lists(
    st.builds(
        row, st.sampled_from("stuvwxyz"), st.sampled_from("ab"), st.sampled_from([None, "1", "2", "3", "4"])
    ),
    min_size=1,
    max_size=40,
)


@given(rows_of, st.floats(0.05, 0.95), st.integers(0, 9))
def test_no_image_and_no_text_is_in_both_splits(rows, share, seed):
    learn, test, dropped = split(rows, seed, share)
    assert not {r.text for r in learn} & {r.text for r in test}
    assert not {r.image for r in learn if r.image} & {r.image for r in test if r.image}
    assert test
    assert all(r in rows for r in (*learn, *test))
    assert len(learn) + len(test) + len(dropped) == len(rows)
    assert split(rows, seed, share) == (learn, test, dropped)


def test_only_rows_with_a_held_out_text_are_dropped():
    rows = [row(f"text {i}", image=str(i // 2)) for i in range(100)]
    assert [*map(len, split(rows, 0))] == [80, 20, 0]
    text = split(rows, 0).test[0].text
    again = [row(text, image=f"more {i}") for i in range(10)]
    parts = split([*rows, *again], 0)
    held_out = {r.text for r in parts.test}
    assert parts.dropped == [r for r in [*rows, *again] if r.text in held_out and r not in parts.test]


def test_texts_with_two_labels_are_found():
    rows = [row("x"), row("x", "b"), row("y"), row("y"), row("z", "b")]
    assert disagreements(rows) == ["x"]


def test_lines_are_read_and_blank_ones_passed_over(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"text": "stop", "label": "s"}\n\n{"text": "go", "label": "g", "image": "1.png"}\n')
    assert read_answers([path]) == [row("stop", "s"), row("go", "g", "1.png")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ('{"label": "x"}', "line 2.*text"),
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
        read_answers([path])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot read the answers"):
        read_answers([tmp_path / "none.jsonl"])


def test_case_and_punctuation_make_no_other_text():
    rows = [
        row(text, image=str(number)) for number, text in enumerate(["Left, a box!", "left a  box", "!"] * 9)
    ]
    parts = split(rows, 0)
    held_out = {spelling(answer.text) for answer in parts.test}
    assert not {spelling(answer.text) for answer in parts.learn} & held_out
    assert spelling("Left, a box!") == spelling("left a  box") == "left a box"
    assert spelling("!") == "!"
