"""A bundle's own answers: what a certificate would count, or on a detour; and a file that is gone on with."""

import json

import pytest

from edgers import demo
from edgers.answers import read_answers
from edgers.collect import Detour, collect, images_in
from edgers_engines.errors import InputError
from tests.edgers.hostile import command, refused


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run a command in this process."""

    def run(*args):
        return command(monkeypatch, capsys, *args)

    return run


@pytest.fixture(scope="module")
def frames():
    return demo.frames()[:3]


def answers(model, frames, **given):
    return list(collect(model, frames, demo.PROMPT, **{"sigma": 0.25, "each": 4, **given}))


def test_every_image_is_answered_as_often_as_asked(demo_model, frames):
    found = answers(demo_model, frames)
    assert [each.image for each in found] == [str(frame) for frame in frames for _ in range(4)]
    assert {each.prompt for each in found} == {demo.PROMPT}
    assert all(each.text.startswith("forward") for each in found[:4])
    assert not any(each.detour or each.failed for each in found)


def test_it_can_begin_anywhere_and_says_the_same(demo_model, frames):
    assert answers(demo_model, frames, sigma=1.0, first=5) == answers(demo_model, frames, sigma=1.0)[5:]


def test_each_answer_has_noise_of_its_own(demo_model, frames):
    hard = demo.frames()[-1:]
    assert len({each.text for each in answers(demo_model, hard, sigma=0.5, each=40)}) > 1
    assert answers(demo_model, hard, sigma=0.5, each=40) != answers(
        demo_model, hard, sigma=0.5, each=40, seed=1
    )


def test_a_detour_finds_many_texts_and_finds_them_again(demo_model, frames):
    plain = {each.text for each in answers(demo_model, frames, each=20)}
    found = answers(demo_model, frames, each=20, detour=0.2)
    assert all(each.detour for each in found)
    assert len({each.text for each in found}) > 3 * len(plain)
    assert answers(demo_model, frames, each=20, detour=0.2) == found
    assert answers(demo_model, frames, each=20, detour=0.2, first=32) == found[32:]


def test_a_detour_leaves_a_token_even_where_it_withholds_nearly_all():
    assert all(Detour(seed, 0.999999, 3).allowed(()) for seed in range(50))


@pytest.mark.parametrize(
    ("given", "said"), [({"detour": 1.0}, "share of the vocabulary"), ({"sigma": 0.0}, "sigma is 0")]
)
def test_numbers_out_of_range_are_refused(demo_model, frames, given, said):
    with pytest.raises(InputError, match=said):
        answers(demo_model, frames, **given)


def test_a_folder_stands_for_its_images(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_text(name)
    assert images_in([tmp_path]) == [tmp_path / "a.JPG", tmp_path / "b.png"]
    (tmp_path / "c.png").write_text("b.png")
    assert images_in([tmp_path, tmp_path / "b.png"]) == [tmp_path / "a.JPG", tmp_path / "b.png"]
    with pytest.raises(InputError, match="cannot read the image"):
        images_in([tmp_path / "none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in"):
        images_in([tmp_path / "empty"])


def test_an_interrupted_collection_is_gone_on_with(edgers, frames, tmp_path):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    options = ("--prompt", demo.PROMPT, "--sigma", 0.5, "--each", 5)
    report = json.loads(edgers("collect", *frames, *options, "--out", whole, "--json").out)
    assert (report["answers"], report["images"]) == (15, 3)
    part.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:7]))
    ended = edgers("collect", *frames, *options, "--out", part)
    assert (ended.code, "15 answers about 3 images" in ended.out) == (0, True)
    assert part.read_bytes() == whole.read_bytes()
    assert len(read_answers([whole])) == 15


@pytest.mark.parametrize(
    "other",
    [
        ("--sigma", 0.25, "--each", 5),
        ("--sigma", 0.5, "--each", 4),
        ("--sigma", 0.5, "--each", 5, "--detour", 0.1),
    ],
)
def test_another_collection_is_not_mixed_in(edgers, frames, tmp_path, other):
    out = tmp_path / "answers.jsonl"
    edgers("collect", *frames, "--prompt", demo.PROMPT, "--sigma", 0.5, "--each", 5, "--out", out)
    before = out.read_bytes()
    refused(
        edgers("collect", *frames, "--prompt", demo.PROMPT, *other, "--out", out),
        2,
        "not what this command would write",
    )
    assert out.read_bytes() == before
