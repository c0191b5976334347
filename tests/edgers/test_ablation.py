"""Oracles side by side on stored answers: counts are those of certificates, and what is unsound says so."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from edgers import ablation, demo
from edgers.ablation import Reference, contenders, frames_of, rule_of, score
from edgers.answers import StoredAnswer
from edgers.oracle import definition
from edgers.oracle.base import OTHER, Failure
from edgers.oracle.clusters import Clusters, Judged
from edgers.oracle.definition import Endpoint
from edgers.oracle.judge import Judge
from edgers.oracle.rules import Rules
from edgers_engines import oracle_record
from edgers_engines.errors import BackendError, InputError
from tests.edgers.hostile import command, refused


def rules(name, **patterns):
    made = tuple(oracle_record.Rule(pattern=pattern, label=label) for label, pattern in patterns.items())
    return Rules(oracle_record.Rules(name=name, rules=made))


TRUTH = rules("truth", left="left *", right="right *")


class FirstLetter:
    """Texts mean the same if they begin with the same letter."""

    definition, kind, failure = "first letter", "clusters", None

    def matches(self, representative, texts):
        return [text[:1] == representative[:1] for text in texts]


def stored(*texts, image="1.png", **given):
    return [StoredAnswer(text=text, image=image, prompt="?", sigma=0.5, **given) for text in texts]


def scored(oracle, answers, selection=4):
    frames = frames_of(answers, selection)
    rule = rule_of(answers, frames, demo.load_bundle().manifest, 0.001)
    return [score(each, frames, Reference(TRUTH), rule) for each in contenders(oracle)]


def test_a_line_has_the_counts_of_certificates():
    answers = [
        *stored(*["left, a box"] * 64, image="1.png"),
        *stored(*["right, a box"] * 4, *["left, a box", "right, a cone"] * 30, image="2.png"),
    ]
    (line,) = scored(TRUTH, answers)
    rule = rule_of(answers, frames_of(answers, 4), demo.load_bundle().manifest, 0.001)
    radius = rule.conclude("left", {"left": 60, "right": 0}).radius
    assert (line.frames, line.certified, line.false, line.errors, line.answers) == (2, 1, 0, 0, 2)
    assert line.mean_radius == pytest.approx(radius / 2)
    assert line.error_lower == 0
    assert 0 < line.error_upper < 1


def test_an_oracle_that_errs_is_certified_falsely_and_counted():
    (line,) = scored(rules("wrong", right="left *"), stored(*["left, a box"] * 64))
    assert (line.certified, line.false, line.errors) == (1, 1, 1)


def test_answers_that_failed_count_against():
    answers = stored(*["left, a box"] * 4) + stored(*[""] * 60, failed=True)
    (line,) = scored(TRUTH, answers)
    assert line.certified == 0


def test_clusters_are_shown_frozen_and_as_they_must_not_be_made():
    texts = ["left a"] * 4 + [f"{letter} {i}" for i in range(10) for letter in "lrrrrr"]
    sound, unsound = scored(Clusters("same", FirstLetter()), stored(*texts))
    assert (sound.kind, sound.sound, sound.certified) == ("clusters", True, 0)
    assert (unsound.kind, unsound.sound, unsound.certified) == ("clusters of the votes", False, 1)
    assert sound.ms_per_new_text is None


def test_clusters_err_where_the_reference_tells_texts_apart_that_they_do_not():
    alike = scored(Clusters("same", FirstLetter()), stored(*["left a"] * 64))[0]
    assert (alike.errors, alike.false, alike.certified) == (0, 0, 1)
    last = scored(Clusters("same", FirstLetter()), stored(*["left a"] * 63, "lefty"))[0]
    assert Reference(TRUTH)("lefty") == OTHER
    assert (last.errors, last.certified) == (1, 1)


@pytest.mark.parametrize(
    "answers",
    [
        stored(*["left a"] * 4),
        stored(*["left a"] * 9) + stored("left a", image="2.png"),
        stored(*["left a"] * 9, detour=True),
        stored(*["left a"] * 9, image=None),
        [StoredAnswer(text="left a", image="1", prompt="?")] * 9,
        stored(*["left a"] * 9) + [StoredAnswer(text="x", image="2", prompt="?", sigma=0.1)] * 9,
    ],
    ids=["too few", "not as many", "a detour", "no image", "no noise", "two noises"],
)
def test_answers_that_cannot_be_compared_are_refused(answers):
    with pytest.raises(InputError):
        frames_of(answers, 4)


def test_the_command_compares_prints_and_draws(monkeypatch, capsys, tmp_path):
    answers, plot = tmp_path / "answers.jsonl", tmp_path / "oracles.png"
    frames = demo.frames()[:3]
    options = ("--prompt", demo.PROMPT, "--sigma", 0.25, "--each", 40, "--out", answers)
    command(monkeypatch, capsys, "collect", *frames, *options)
    oracles = ("--oracle", "action", "--oracle", "door", "--selection", 8)
    ended = command(monkeypatch, capsys, "ablate-oracles", answers, *oracles, "--plot", plot)
    assert (ended.code, ended.err) == (0, "")
    assert "action" in ended.out
    assert plot.read_bytes().startswith(b"\x89PNG")
    ended = command(monkeypatch, capsys, "ablate-oracles", answers, *oracles, "--json")
    first, second = map(json.loads, ended.out.splitlines())
    assert (first["certified"], first["errors"]) == (3, 0)
    assert second["errors"] > 0
    assert np.isfinite(second["ms_per_answer"])
    refused(
        command(monkeypatch, capsys, "ablate-oracles", answers, *oracles, "--plot", plot), 2, "there already"
    )


def judge(replies, *classes):
    asks = Endpoint(base_url="http://127.0.0.1:9/v1", model="m")
    given = definition.Judge(name="judge", classes=classes, instructions="{text}", asks=asks)
    return Judge(given, None, replies)


def test_what_a_judge_costs_is_in_the_mean_although_it_keeps_its_labels(monkeypatch):
    monkeypatch.setattr(ablation, "time", SimpleNamespace(perf_counter=lambda: passed[0]))
    passed = [0.0]

    def slowly(prompts):
        passed[0] += 0.05 * len(prompts)
        return ["left"] * len(prompts)

    texts = [f"left, a box {number}" for number in range(4)]
    (line,) = scored(judge(slowly, "left", "right"), stored(*texts * 4))
    assert line.ms_per_answer == pytest.approx(50 * 4 / 16)


def test_an_answer_that_could_not_be_compared_is_an_error_of_the_clusters():
    def replies(prompts):
        return [Failure("down") if "cone" in prompt else "same" for prompt in prompts]

    clusters = Clusters("meaning", Judged(judge(replies, "same", "different")))
    frozen, _ = scored(clusters, stored(*["left, a box"] * 10, "left, a cone"))
    assert frozen.errors == 1


def test_a_reference_that_cannot_be_asked_is_an_error_not_a_disagreement():
    frames = frames_of(stored(*["left, a box"] * 9), 4)
    rule = rule_of(stored("left"), frames, demo.load_bundle().manifest, 0.001)
    down = Reference(judge(lambda prompts: [Failure("down")] * len(prompts), "left", "right"))
    (contender,) = contenders(TRUTH)
    with pytest.raises(BackendError, match=r"the reference 'judge' could not be asked \(down\)"):
        score(contender, frames, down, rule)


def test_an_oracle_that_cannot_be_asked_says_about_how_many_votes():
    down = judge(lambda prompts: [Failure("down")] * len(prompts), "left", "right")
    (line,) = scored(down, stored(*["left, a box"] * 64))
    assert (line.failed, line.certified, line.errors) == (60, 0, 1)


def test_clusters_that_find_no_class_err():
    apart = Clusters(
        "meaning", Judged(judge(lambda prompts: ["different"] * len(prompts), "same", "different"))
    )
    line, _ = scored(apart, stored(*(f"left {i}" for i in range(64))))
    assert (line.certified, line.errors) == (0, 1)


def test_half_of_the_answers_are_not_enough_to_agree_with():
    everything = rules("everything", right="*")
    answers = stored(*["right"] * 4, *["left, a box", "right, a box"] * 30)
    (line,) = scored(everything, answers)
    assert (line.certified, line.false) == (1, 1)
    (line,) = scored(everything, [*answers[:-2], *stored("right, a box", "right, a box")])
    assert (line.certified, line.false) == (1, 0)
