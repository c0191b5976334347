"""The drawn scenes: what is drawn is what the labels say, and a seed repeats."""

from collections import Counter

import numpy as np
import pytest

from edgers_export.demo.canvas import DOOR, content_of
from edgers_export.demo.layout import AMBIGUITIES, KEY_WORDS, KINDS, SIDES
from edgers_export.demo.scenes import (
    CHUNK,
    Scene,
    answer_indices,
    draw,
    draw_pool,
    mirror_answers,
    mirror_images,
    mirror_patches,
)

PERSON_CONTENTS = [content_of("person", is_near=is_near) for is_near in (True, False)]
NEAR_CONTENTS = [content_of(kind, is_near=True) for kind in KINDS]


@pytest.fixture(scope="module")
def clear_scenes():
    rng = np.random.default_rng(11)
    return [draw(rng, None) for _ in range(300)]


def contents(scene: Scene) -> np.ndarray:
    """The shares of the contents by row, column and content: [6, 6, 8]."""
    return scene.patches.reshape(6, 6, 8)


def drawn_door(scene: Scene) -> str:
    """The side on which the door was drawn, by the mean column of its pixels."""
    shares = contents(scene)[..., DOOR].sum(axis=0)
    if shares.sum() == 0:
        return "none"
    column = (shares * np.arange(6)).sum() / shares.sum()
    return SIDES[int(np.digitize(column, [1.6, 3.4]))]


def drawn_blocker(scene: Scene) -> str:
    """The near thing that covers most of the two middle columns, if it covers more than an edge of them."""
    shares = contents(scene)[:, 2:4, NEAR_CONTENTS].sum(axis=(0, 1))
    return KINDS[int(shares.argmax())] if shares.max() > 0.8 else "nothing"


def assert_labels_agree(scene: Scene) -> None:
    assert scene.person == ("yes" if scene.patches[:, PERSON_CONTENTS].any() else "no")
    assert scene.door == drawn_door(scene)
    assert scene.blocker == drawn_blocker(scene)


def test_a_scene_has_the_documented_shapes_and_types(clear_scenes):
    scene = clear_scenes[0]
    assert scene.image.shape == (96, 96, 3)
    assert scene.image.dtype == np.uint8
    assert scene.patches.shape == (36, 8)
    assert scene.patches.dtype == np.float32
    np.testing.assert_allclose(scene.patches.sum(axis=1), 1, atol=1e-6)


def test_person_door_and_blocker_are_what_was_drawn(clear_scenes):
    for scene in clear_scenes:
        assert_labels_agree(scene)


def test_flipping_a_scene_swaps_its_labels_and_what_is_drawn(clear_scenes):
    swapped = {"left": "right", "right": "left"}
    for scene in clear_scenes:
        flipped = scene.mirrored()
        assert_labels_agree(flipped)
        assert flipped.action == swapped.get(scene.action, scene.action)
        np.testing.assert_array_equal(flipped.image[:, ::-1], scene.image)
        assert answer_indices(flipped.mirrored()) == answer_indices(scene)


def test_a_batch_flips_like_its_scenes(clear_scenes):
    scenes = clear_scenes[:20]
    flipped = [scene.mirrored() for scene in scenes]
    images = mirror_images(np.stack([scene.image for scene in scenes]))
    patches = mirror_patches(np.stack([scene.patches for scene in scenes]))
    answers = mirror_answers(np.array([answer_indices(scene) for scene in scenes]))
    np.testing.assert_array_equal(images, [scene.image for scene in flipped])
    np.testing.assert_array_equal(patches, [scene.patches for scene in flipped])
    np.testing.assert_array_equal(answers, [answer_indices(scene) for scene in flipped])


def test_the_action_follows_from_what_is_near(clear_scenes):
    """Forward exactly if nothing blocks; never towards a side where a near thing covers the lane's foot."""
    for scene in clear_scenes:
        assert (scene.action == "forward") == (scene.blocker == "nothing")
        if scene.blocker == "person":
            assert scene.action == "stop"
        near = contents(scene)[4:, :, NEAR_CONTENTS].sum(axis=(0, 2))
        if scene.action == "left":
            assert near[0] < near[4:].sum() or near[0] == 0
        if scene.action == "right":
            assert near[5] < near[:2].sum() or near[5] == 0


def test_every_answer_occurs_in_clear_scenes(clear_scenes):
    for name, words in KEY_WORDS.items():
        assert set(Counter(getattr(scene, name) for scene in clear_scenes)) == set(words)


@pytest.mark.parametrize("ambiguity", AMBIGUITIES)
def test_an_ambiguity_is_drawn_on_request_and_said(ambiguity):
    rng = np.random.default_rng(3)
    scenes = [draw(rng, ambiguity) for _ in range(20)]
    assert {scene.ambiguity for scene in scenes} == {ambiguity}
    answer = {"hidden person": ("person", "no"), "faint door": ("door", "none")}.get(ambiguity)
    if answer is not None:
        assert all(getattr(scene, answer[0]) != answer[1] for scene in scenes)


def test_an_unknown_ambiguity_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'fog'.*'equal gaps'"):
        draw(np.random.default_rng(0), "fog")


def test_about_sixteen_percent_are_ambiguous():
    pool = draw_pool(CHUNK, seed=1, processes=1)
    assert 0.10 < pool.is_ambiguous.mean() < 0.22


def test_the_same_seed_draws_the_same_pool_whatever_the_number_of_processes():
    drawn = []
    one = draw_pool(CHUNK + 8, seed=4, processes=1)
    two = draw_pool(CHUNK + 8, seed=4, processes=2, on_drawn=drawn.append)
    assert drawn == [CHUNK, 8]
    for name in ("images", "patches", "answers", "is_ambiguous"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_a_longer_pool_begins_with_a_shorter_one():
    short, longer = (draw_pool(count, seed=5, processes=1) for count in (3, 6))
    np.testing.assert_array_equal(longer.images[:3], short.images)


def test_other_seeds_and_a_plain_generator_draw_other_scenes():
    """A test set drawn with `default_rng(0)` must not be the beginning of the training pool of seed 0."""
    pool = draw_pool(1, seed=0, processes=1)
    other = draw_pool(1, seed=1, processes=1)
    plain = draw(np.random.default_rng(0))
    assert not np.array_equal(pool.images[0], other.images[0])
    assert not np.array_equal(pool.images[0], plain.image)


@pytest.mark.parametrize(("count", "processes"), [(0, 1), (1, 0)])
def test_an_empty_pool_is_refused(count, processes):
    with pytest.raises(ValueError, match="at least 1"):
        draw_pool(count, seed=0, processes=processes)
