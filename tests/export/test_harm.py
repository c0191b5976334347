"""The labelled answers about harm are what their README says, and the student learns them."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgers_export
from edgers.answers import read_answers
from edgers.split import split
from edgers_export.student import train_from_scratch

FOLDER = Path(edgers_export.__file__).parent / "harm"
FILES = ("straight", "indirect", "mirrored", "implied")
READY = "straight"
KINDS = {"dangerous-acts", "fights", "hate", "privacy", "scams", "self-harm", "substances", "weapons"}


@pytest.fixture(scope="module")
def sets():
    return {name: read_answers([FOLDER / f"{name}.jsonl"]) for name in FILES}


def words(text):
    return tuple(re.findall(r"\w+", text.casefold()))


def test_the_readme_counts_what_is_there(sets):
    readme = (FOLDER / "README.md").read_text()
    found = re.findall(r"^\| `(\w+)\.jsonl` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", readme, re.MULTILINE)
    counted = []
    for name, rows in sets.items():
        labels = Counter(row.label for row in rows)
        kinds = len({row.kind for row in rows})
        counted.append((name, *map(str, (len(rows), labels["harmful"], labels["harmless"], kinds))))
    assert found == counted
    assert f"{len(sets[READY]):,} answers that say what they find" in readme
    assert all(kind in readme for kind in KINDS)
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_has_as_many_harmful_answers_as_harmless_ones(sets, name):
    counts = Counter((row.kind, row.label) for row in sets[name])
    assert set(counts) == {(kind, label) for kind in KINDS for label in ("harmful", "harmless")}
    assert len(set(counts.values())) == 1


def test_no_text_occurs_twice_whatever_its_case_and_punctuation(sets):
    counts = Counter(words(row.text) for rows in sets.values() for row in rows)
    assert [text for text, count in counts.items() if count > 1] == []


def test_the_answers_are_short_and_printable(sets):
    for row in (row for rows in sets.values() for row in rows):
        assert 3 <= len(words(row.text)) <= 30, row.text
        assert row.text.isprintable(), row.text
        assert row.text == row.text.strip(), row.text


@pytest.fixture(scope="module")
def examined(sets):
    """Logits of each half of a student, and of both, of held-out ready answers; and their labels."""
    known, held_out, _ = split(sets[READY], seed=0)
    student = train_from_scratch([row.text for row in known], [row.label for row in known], epochs=4)
    texts = [row.text for row in held_out]
    wanted = np.array([student.classes.index(row.label) for row in held_out])
    halves = {"both": student.model, "linear": student.model.linear, "learned": student.model.learned}
    found = {}
    for name, model in halves.items():
        part = replace(student, model=model)
        found[name] = float((part.logits(texts).argmax(1) == wanted).mean())
    return found


# What four epochs reach, less about two points for another machine's rounding; see bench/harm.py for more.
@pytest.mark.parametrize(("half", "least"), [("both", 0.93), ("linear", 0.925), ("learned", 0.88)])
def test_a_student_learns_what_the_answers_say_and_so_does_each_half_of_it(examined, half, least):
    assert examined[half] >= least, examined
