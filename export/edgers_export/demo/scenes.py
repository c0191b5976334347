"""Drawn scenes with their right answers, one at a time or as a pool to train on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgers_export.demo.canvas import CONTENTS, PATCH, PATCHES, SIZE
from edgers_export.demo.drawing import draw_layout
from edgers_export.demo.layout import ANY, KEY_WORDS, plan

CHUNK = 500  # scenes drawn from one random stream, whatever the number of processes
SCENE_STREAM = 3  # not 0: numpy drops it, and default_rng(seed) would draw the training scenes again

MIRRORED = {"left": "right", "right": "left"}
"""What becomes of a key word when the image is flipped left to right; the others stay."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One image and what is true of it.

    `image`: uint8 [96, 96, 3], RGB. `patches`: float32 [36, 8], the share of each content (background,
    near box/cone/person, far box/cone/person, door) in each 16x16 patch, row by row. `action`, `person`,
    `door` and `blocker` are key words from KEY_WORDS. `ambiguity` says why the answers are debatable; None
    if they are not.
    """

    image: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.float32]
    action: str
    person: str
    door: str
    blocker: str
    ambiguity: str | None

    def mirrored(self) -> Scene:
        """The same scene flipped left to right, its answers too."""
        return replace(
            self,
            image=np.ascontiguousarray(mirror_images(self.image)),
            patches=np.ascontiguousarray(mirror_patches(self.patches)),
            action=MIRRORED.get(self.action, self.action),
            door=MIRRORED.get(self.door, self.door),
        )


@dataclass(frozen=True, eq=False)
class ScenePool:
    """Many scenes as arrays.

    `images`: uint8 [n, 96, 96, 3]. `patches`: float32 [n, 36, 8]. `answers`: int64 [n, 4], the index
    of the right key word for each question of KEY_WORDS in its order. `is_ambiguous`: bool [n].
    """

    images: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.float32]
    answers: npt.NDArray[np.int64]
    is_ambiguous: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.images)


def draw(rng: np.random.Generator, ambiguity: str | None = ANY) -> Scene:
    """Draw one scene; the same state of `rng` gives the same scene.

    `ambiguity` is one of layout.AMBIGUITIES, None for a clear scene, or "any" for the usual mixture, in which
    16% are ambiguous. Raises ValueError for another value.
    """
    layout = plan(rng, ambiguity)
    image, patches = draw_layout(layout, rng)
    return Scene(image, patches, layout.action, layout.person, layout.door, layout.blocker, layout.ambiguity)


def draw_pool(
    count: int,
    *,
    seed: int,
    ambiguity: str | None = ANY,
    processes: int = 2,
    on_drawn: Callable[[int], None] | None = None,
) -> ScenePool:
    """Draw `count` scenes; the same seed gives the same pool, and a longer pool begins with a shorter one.

    `on_drawn` hears how many scenes have just been added. With more than one process and more than CHUNK
    scenes the work is spread over processes started afresh ("spawn": the caller may have threads, which do
    not survive a fork), so a script that calls this needs the usual `if __name__ == "__main__":`.

    Raises ValueError if `count` or `processes` is below 1, or for an unknown `ambiguity`.
    """
    if count < 1 or processes < 1:
        raise ValueError(f"count is {count} and processes is {processes}; both must be at least 1")
    pool = ScenePool(
        images=np.empty((count, SIZE, SIZE, 3), np.uint8),
        patches=np.empty((count, PATCHES, CONTENTS), np.float32),
        answers=np.empty((count, len(KEY_WORDS)), np.int64),
        is_ambiguous=np.empty(count, np.bool_),
    )
    jobs = [(seed, start, min(CHUNK, count - start), ambiguity) for start in range(0, count, CHUNK)]
    start = 0
    for chunk in _draw_chunks(jobs, min(processes, len(jobs))):
        rows = slice(start, start + len(chunk))
        pool.images[rows], pool.patches[rows] = chunk.images, chunk.patches
        pool.answers[rows], pool.is_ambiguous[rows] = chunk.answers, chunk.is_ambiguous
        start += len(chunk)
        if on_drawn is not None:
            on_drawn(len(chunk))
    return pool


def answer_indices(scene: Scene) -> tuple[int, ...]:
    """For each question of KEY_WORDS the index of the scene's right key word."""
    return tuple(words.index(getattr(scene, name)) for name, words in KEY_WORDS.items())


def mirror_images(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A flipped view of images [..., height, width, 3]."""
    return images[..., ::-1, :]


def mirror_patches(patches: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The patches [..., 36, 8] of the flipped images."""
    side = SIZE // PATCH
    square = patches.reshape(*patches.shape[:-2], side, side, CONTENTS)
    return square[..., ::-1, :].reshape(patches.shape)


def mirror_answers(answers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The answers [..., 4] to the flipped images."""
    flipped = [table[answers[..., column]] for column, table in enumerate(_mirror_tables())]
    return np.stack(flipped, axis=-1)


def _mirror_tables() -> list[npt.NDArray[np.int64]]:
    """For each question, what becomes of each key word's index."""
    return [
        np.array([words.index(MIRRORED[word]) if word in MIRRORED else i for i, word in enumerate(words)])
        for words in KEY_WORDS.values()
    ]


Job = tuple[int, int, int, str | None]


def _draw_chunks(jobs: list[Job], processes: int) -> Iterator[ScenePool]:
    if processes == 1:
        yield from map(_draw_chunk, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield from executor.map(_draw_chunk, jobs)


def _draw_chunk(job: Job) -> ScenePool:
    seed, start, count, ambiguity = job
    rng = np.random.default_rng([seed, start, SCENE_STREAM])
    scenes = [draw(rng, ambiguity) for _ in range(count)]
    return ScenePool(
        images=np.stack([scene.image for scene in scenes]),
        patches=np.stack([scene.patches for scene in scenes]),
        answers=np.array([answer_indices(scene) for scene in scenes], np.int64),
        is_ambiguous=np.array([scene.ambiguity is not None for scene in scenes]),
    )
