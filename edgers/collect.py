"""A bundle's own answers about noisy images: what an oracle has to read, so what it learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgers.answers import StoredAnswer
from edgers_engines.errors import InputError
from edgers_engines.files import read_regular
from edgers_engines.image import MAX_FILE_BYTES, CameraImage, prepare
from edgers_engines.noise import Stream, check_sigma, noisy_copies, to_lattice
from edgers_engines.vlm import Question, Status, VisionLanguageModel

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ROWS = 32  # answered at once


class Detour:
    """A constraint that withholds some tokens at each step of each answer.

    A model may have a handful of favourite sentences. Kept from some of their words it says others, as it
    might about an image that nobody has thought of, and an oracle that learned them knows more than a few.

    Args:
        seed: of the choice.
        share: of the vocabulary that is withheld, in [0, 1).
        vocabulary: how many tokens there are.
    """

    def __init__(self, seed: int, share: float, vocabulary: int) -> None:
        self._seed, self._share, self._vocabulary = seed, share, vocabulary
        self.begin(0)

    def begin(self, batch: int) -> None:
        """Begin a batch: what is withheld from it follows from its number, whichever came before."""
        self._rng = np.random.default_rng([self._seed, batch])

    def allowed(self, tokens: tuple[int, ...]) -> tuple[int, ...]:  # noqa: ARG002  a constraint's signature
        """The tokens that are not withheld this time; one at least."""
        drawn = self._rng.random(self._vocabulary)
        return tuple(np.flatnonzero(drawn >= min(self._share, drawn.max())).tolist())


def collect(
    model: VisionLanguageModel,
    images: Sequence[Path],
    prompt: str,
    *,
    sigma: float,
    each: int,
    detour: float = 0.0,
    seed: int = 0,
    first: int = 0,
    progress: Callable[[int], None] = lambda _answers: None,
) -> Iterator[StoredAnswer]:
    """Answer one question about noisy copies of images, image by image.

    Answer i is about image i // each, under noise that is its own. Without a detour it is what a certificate
    would count; with one it is for learning only.

    Args:
        model: what answers, in free text.
        images: files.
        prompt: the question.
        sigma: of the noise, in the canvas' unit.
        each: answers about each image.
        detour: share of the vocabulary that is withheld at each step; see `Detour`.
        seed: of the noise and the detours.
        first: the first answer that is wanted; those before it are there already.
        progress: called with the number of answers since the last call.

    Raises:
        InputError, ImageError: a number is out of range, or an image cannot be read.
        BackendError: a graph failed to run.
    """
    check_sigma(sigma)
    if not 0 <= detour < 1:
        raise InputError(
            f"a detour withholds a share of the vocabulary, at least 0 and below 1; not {detour}"
        )
    numbers = iter(range(first, each * len(images)))
    canvases = _Canvases(model, images, each)
    withheld = Detour(seed, detour, model.bundle.manifest.dimensions.vocabulary) if detour else None
    question = Question(model, prompt, rows=ROWS, constraint=withheld, guard=False)
    while batch := list(islice(numbers, ROWS)):
        if withheld:
            withheld.begin(batch[0])
        noisy = np.stack([canvases.noisy(number, sigma, seed) for number in batch])
        for number, answer in zip(batch, question.answers(noisy), strict=True):
            yield StoredAnswer(
                text=answer.text,
                image=str(images[number // each]),
                prompt=prompt,
                sigma=sigma,
                detour=detour > 0,
                failed=answer.status is Status.FAILED,
            )
        progress(len(batch))


def images_in(paths: Sequence[Path]) -> list[Path]:
    """These files, and of folders the images in them, in order of their names; each image once.

    Two files with the same bytes are one image: answers about it are not independent.

    Raises:
        InputError: a folder has none, or a file cannot be read.
    """
    found = []
    for path in paths:
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if path.is_dir() and not inside:
            raise InputError(f"there is no image in {str(path)!r}: none ends in {', '.join(SUFFIXES)}")
        found += inside if path.is_dir() else [path]
    return list({_digest(path): path for path in reversed(found)}.values())[::-1]


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(read_regular(path, MAX_FILE_BYTES)).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read the image {str(path)!r}: {error.strerror}") from None


class _Canvases:
    """Noisy canvases by number; the image of the last one is kept."""

    def __init__(self, model: VisionLanguageModel, images: Sequence[Path], each: int) -> None:
        self._steps, self._images, self._each = model.bundle.manifest.preparation, images, each
        self._at, self._canvas = -1, np.empty(0)

    def noisy(self, number: int, sigma: float, seed: int) -> NDArray[np.float32]:
        """float32 [3, H, W]."""
        if self._at != number // self._each:
            self._at = number // self._each
            self._canvas = to_lattice(prepare(CameraImage.of(self._images[self._at]), self._steps))
        out: NDArray[np.float32] = np.empty((1, *self._canvas.shape), np.float32)
        noisy_copies(self._canvas, sigma, seed=seed, stream=Stream.COLLECTION, first=number, out=out)
        noisy: NDArray[np.float32] = out[0]
        return noisy
