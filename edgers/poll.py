"""One poll: noisy copies of one canvas are answered, classified and counted. No sample is ever dropped."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from edgers.noise_ahead import Chunk, NoiseAhead
from edgers.oracle.base import FAILED, RESERVED, Oracle, label
from edgers_engines.device import Buffer
from edgers_engines.errors import BackendError
from edgers_engines.noise import Stream
from edgers_engines.vlm import Question

TEXTS = 5  # how many of the most frequent are kept

Progress = Callable[[int], None]
Votes = dict[str, int]


class Poll:
    """Votes of noisy copies of one canvas.

    Args:
        question: the prompt, ready to be asked.
        oracle: maps answers to classes.
        canvas: float64 [3, H, W], on the lattice.
        sigma: noise, in the canvas' unit.
        seed: 128-bit key of the noise.
        progress: called with the number of samples done since the last call.
    """

    def __init__(
        self,
        question: Question,
        oracle: Oracle,
        canvas: NDArray[np.float64],
        *,
        sigma: float,
        seed: int,
        progress: Progress,
    ) -> None:
        self._question, self._oracle, self._progress = question, oracle, progress
        device = question.device

        # Not a method: a poll that its noise refers to would keep the question, and a GPU's memory with it,
        # until the next garbage collection.
        def draw(chunk: Chunk, out: Buffer) -> None:
            device.noisy_copies(canvas, sigma, seed=seed, stream=chunk.stream, first=chunk.first, out=out)

        self._noise = NoiseAhead(draw, (question.rows, *canvas.shape), device)
        self._failure: BackendError | None = None
        self._texts: Counter[str] = Counter()
        self.smallest_margin = math.inf
        # "noise" is what drawing it cost in wall time: how long the model waited for it.
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def count(
        self,
        stream: Stream,
        samples: int,
        then: tuple[Stream, int] | tuple[Stream, int, int] | None = None,
        stop: Callable[[Votes], bool] = lambda _votes: False,
        *,
        first: int = 0,
    ) -> Votes:
        """Votes of the samples first, first + 1, ... of one stream, for every class and the reserved ones.

        What is counted is a prefix in index order: a chunk that was begun counts whole.

        Args:
            stream: which use of the noise.
            samples: how many samples at most.
            then: stream, samples and first of the next count, if there will be one: its first noise is drawn
                while the last answers of this one are computed. Changes no vote.
            stop: asked with the votes so far before each chunk; when it says so, no more are drawn.
            first: the first sample's index.

        Raises:
            BackendError: every sample failed; a part that fails is counted as FAILED.
        """
        votes = Counter(dict.fromkeys((*self._oracle.record.classes, *RESERVED), 0))
        upcoming = next(self._chunks(*then), None) if then else None
        following = chain(islice(self._chunks(stream, samples, first), 1, None), [upcoming])
        for chunk, next_chunk in zip(self._chunks(stream, samples, first), following, strict=False):
            if stop(votes):
                break
            votes.update(self._labels(chunk, next_chunk))
            self._progress(chunk.rows)
        if votes[FAILED] and votes[FAILED] == votes.total():
            raise self._failure or BackendError(f"every sample {self._fault()}")
        return dict(votes)

    def finish(self) -> None:
        """Wait for noise that is drawn ahead and will not be asked for."""
        self._noise.finish()

    @property
    def most_frequent(self) -> dict[str, int]:
        """How often the most frequent texts were generated, at most five of them."""
        return dict(self._texts.most_common(TEXTS))

    def _fault(self) -> str:
        oracle = self._oracle
        if oracle.failure is None:
            return "gave numbers that are not finite"
        return (
            f"failed: the {oracle.record.kind} {oracle.record.name!r} could not be asked ({oracle.failure})"
        )

    def _chunks(self, stream: Stream, samples: int, first: int = 0) -> Iterator[Chunk]:
        for done in range(0, samples, self._question.rows):
            yield Chunk(stream, first + done, min(self._question.rows, samples - done))

    def _labels(self, chunk: Chunk, following: Chunk | None) -> list[str]:
        start = time.perf_counter()
        noisy = self._noise.take(chunk, following)
        drawn = time.perf_counter()
        self.seconds["noise"] += drawn - start
        try:
            answers = self._question.answers(noisy)
        except BackendError as error:
            self._failure = error
            return [FAILED] * chunk.rows
        answered = time.perf_counter()
        self.seconds["model"] += answered - drawn
        labels = label(self._oracle, answers)
        # Held to choices, a row ends where its choice is settled; its label is what it would have said.
        constrained = self._oracle.constraint is not None
        self._texts.update(labels if constrained else (answer.text for answer in answers))
        self.smallest_margin = min(self.smallest_margin, *(answer.margin for answer in answers))
        self.seconds["oracle"] += time.perf_counter() - answered
        return labels
