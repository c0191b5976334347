"""Every fuzz target on every run: its seeds, mutations of them, and every input that ever crashed it."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgers.smoothing.bounds import Probability
from edgers_engines.records import dump
from fuzz import seeds, targets
from fuzz.draws import Draws, edited
from fuzz.targets import TARGETS, BrokenLawError

# Crashes that `make fuzz` found, kept so that they stay mended.
CRASHERS = [
    # 1 vote of 3 at the smallest alpha there is: the bound came out at four times what it may be.
    ("numbers", b"4k\x00\x03\x00\x09" + b"\xa4" * 40),
    # 1 of 2 at the same alpha: twice.
    ("numbers", bytes((0, 1, 0, 3, 0, 9, 0, 1, 0, 4))),
]
# A bundle and an archive are written to disk and hashed for every input; the others cost a millisecond.
EXAMPLES = {"bundle": 15, "archive": 8}


def mutated(draw, seed):
    """A seed with a few bytes replaced, inserted, removed or repeated, as fuzzers do."""
    content = bytearray(seed)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 12))
        piece = draw(
            st.binary(max_size=8) | st.sampled_from([bytes(content[place : place + 40]), b"\xff" * 8])
        )
        content[place : place + length] = piece
    return bytes(content)


@st.composite
def inputs(draw, known):
    """A mutated seed, or any bytes."""
    return mutated(draw, draw(st.sampled_from(known))) if draw(st.integers(0, 3)) else draw(st.binary())


def explore(run, known, examples, *, always=False):
    """Call a target with mutations of its seeds: with other ones each time, or always with the same."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=always,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(known))
    def check(data):
        run(data)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_own_seeds(name):
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_mutations_of_its_seeds(name):
    explore(TARGETS[name].run, list(TARGETS[name].seeds()), EXAMPLES.get(name, 150))


@pytest.mark.parametrize(("name", "data"), CRASHERS)
def test_what_crashed_a_target_once_does_not_any_more(name, data):
    TARGETS[name].run(data)


def test_make_fuzz_tries_a_million_inputs():
    assert sum(target.inputs for target in TARGETS.values()) >= 1_000_000


# --- the harness notices ------------------------------------------------------------------------------------


def telling(name):
    """Seeds from which a planted fault is not far."""
    if name == "numbers":  # 9 votes of 10 at alpha 0.001 and sigma 1 with the floor of one half
        return [bytes((1, 0, 0, 9, 1, 0, 0, 10, 0, 6, 0, 1, 0, 4))]
    if name == "certificate":  # one whose radius nobody would believe
        made = json.loads(dump(seeds.certificates()[0]))
        return [json.dumps({**made, "radius": 3.0}).encode()]
    return []


def test_a_planted_crash_is_found():
    def planted(data):
        return 1 / (b"\xff\xff" not in data)

    with pytest.raises(ZeroDivisionError):
        explore(planted, [b"a seed"], 500, always=True)


@pytest.mark.parametrize(
    ("name", "where", "wrong"),
    [
        pytest.param("numbers", "certified_radius", lambda *_: math.inf, id="an infinite radius"),
        pytest.param(
            "numbers",
            "clopper_pearson_lower",
            lambda votes, samples, _alpha: Probability(votes / samples, 1 - votes / samples),
            id="a share for a bound",
        ),
        pytest.param("certificate", "verify", lambda _certificate: None, id="a verifier that accepts all"),
        pytest.param("manifest", "parse", lambda *_: {}["no"], id="a reader that raises something else"),
        pytest.param("graph", "read_graph", lambda _: {}[0], id="a graph reader that raises something else"),
        pytest.param("image", "read_image", lambda _: 1 / 0, id="an image reader that raises something else"),
        pytest.param("bundle", "Bundle", type("Bundle", (), {"load": print}), id="a loader that loads all"),
    ],
)
def test_a_fault_planted_in_what_is_fuzzed_is_noticed(monkeypatch, name, where, wrong):
    monkeypatch.setattr(targets, where, wrong)
    with pytest.raises((BrokenLawError, LookupError, ZeroDivisionError)):
        explore(TARGETS[name].run, [*TARGETS[name].seeds(), *telling(name)], 300, always=True)


def test_special_tokens_that_get_through_are_noticed(monkeypatch):
    prompts, special = targets._prompts()
    monkeypatch.setattr(prompts._tokenizer, "encode_special_tokens", False)
    with pytest.raises(BrokenLawError, match="never becomes a special token"):
        explore(TARGETS["text"].run, list(TARGETS["text"].seeds()), 200, always=True)
    assert special


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_edits_end_and_leave_something_that_is_json(data):
    json.dumps(edited({"a": [1, 2.5, {"b": "c"}], "d": None}, Draws(data)))
