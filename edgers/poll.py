"""One poll: noisy copies of one canvas are answered, classified and counted. No sample is ever dropped."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgers.oracle.base import FAILED, RESERVED, Oracle, label
from edgers_engines.errors import BackendError
from edgers_engines.noise import Stream, noisy_copies
from edgers_engines.vlm import Question

_TEXTS = 5

Progress = Callable[[int], None]


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
        self._question, self._oracle, self._canvas = question, oracle, canvas
        self._sigma, self._seed, self._progress = sigma, seed, progress
        self._noisy = np.empty((question.rows, *canvas.shape), np.float32)
        self._failure: BackendError | None = None
        self._texts: Counter[str] = Counter()
        self.smallest_margin = math.inf
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def count(self, stream: Stream, samples: int) -> dict[str, int]:
        """Votes of the samples 0 ... samples - 1 of one stream, for every class and the reserved ones.

        Raises:
            BackendError: every sample failed; a part that fails is counted as FAILED.
        """
        votes = Counter(dict.fromkeys((*self._oracle.record.classes, *RESERVED), 0))
        for first in range(0, samples, self._question.rows):
            rows = min(self._question.rows, samples - first)
            votes.update(self._labels(stream, first, rows))
            self._progress(rows)
        if samples and votes[FAILED] == samples:
            raise self._failure or BackendError("every sample gave numbers that are not finite")
        return dict(votes)

    @property
    def most_frequent(self) -> dict[str, int]:
        """How often the most frequent texts were generated, at most five of them."""
        return dict(self._texts.most_common(_TEXTS))

    def _labels(self, stream: Stream, first: int, rows: int) -> list[str]:
        noisy = self._noisy[:rows]
        start = time.perf_counter()
        noisy_copies(self._canvas, self._sigma, seed=self._seed, stream=stream, first=first, out=noisy)
        drawn = time.perf_counter()
        self.seconds["noise"] += drawn - start
        try:
            answers = self._question.answers(noisy)
        except BackendError as error:
            self._failure = error
            return [FAILED] * rows
        answered = time.perf_counter()
        self.seconds["model"] += answered - drawn
        labels = label(self._oracle, answers)
        self._texts.update(answer.text for answer in answers)
        self.smallest_margin = min(self.smallest_margin, *(answer.margin for answer in answers))
        self.seconds["oracle"] += time.perf_counter() - answered
        return labels
