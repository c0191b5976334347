"""One poll: noisy copies of one canvas are answered, classified and counted. No sample is ever dropped."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from edgers.noise_ahead import Chunk, NoiseAhead
from edgers.oracle.base import FAILED, RESERVED, Freezing, Oracle, label
from edgers_engines.device import Buffer
from edgers_engines.errors import BackendError, InputError
from edgers_engines.noise import Stream
from edgers_engines.vlm import Answer, Question, Status

TEXTS = 5  # how many of the most frequent are kept

Progress = Callable[[int], None]
Votes = dict[str, int]
Next = tuple[Stream, int] | tuple[Stream, int, int, int]


class Poll:
    """Votes of noisy copies of one canvas.

    Args:
        question: the prompt, ready to be asked.
        oracle: maps answers to classes; one that a selection has to freeze does so after `select`.
        canvas: float64 [3, H, W], on the lattice.
        sigma: noise, in the canvas' unit.
        seed: 128-bit key of the noise.
        progress: called with the number of samples done since the last call.
    """

    def __init__(
        self,
        question: Question,
        oracle: Oracle | Freezing,
        canvas: NDArray[np.float64],
        *,
        sigma: float,
        seed: int,
        progress: Progress,
    ) -> None:
        self._question, self._progress = question, progress
        self._freezing: Freezing | None = None  # until a selection has frozen it
        if isinstance(oracle, Freezing):
            self._freezing = oracle
        else:
            self._oracle = oracle
        device = question.device

        # Not a method: a poll that its noise refers to would keep the question, and a GPU's memory with it,
        # until the next garbage collection.
        def draw(chunk: Chunk, out: Buffer) -> None:
            device.noisy_copies(canvas, sigma, seed=seed, stream=chunk.stream, first=chunk.first, out=out)

        self._noise = NoiseAhead(draw, (question.rows, *canvas.shape), device)
        self._failure: BackendError | None = None
        self._batch_failed = False
        self.failed = 0  # samples that were counted as FAILED
        self._texts: Counter[str] = Counter()
        self.smallest_margin = math.inf
        self.kept: defaultdict[str, list[str]] = defaultdict(list)
        # "noise" is what drawing it cost in wall time: how long the model waited for it. "statistics" is what
        # the votes were weighed for between two chunks.
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def oracle(self) -> Oracle:
        """What labels the answers.

        Raises:
            InputError: its class is to be chosen by a selection, and there was none.
        """
        if self._freezing is not None:
            raise InputError(
                f"the oracle {self._freezing.name!r} makes clusters: only a selection apart from the votes "
                "can choose their class, so it certifies but does not predict"
            )
        return self._oracle

    def select(
        self,
        samples: int,
        then: Next | None = None,
        stop: Callable[[Votes], bool] = lambda _votes: False,
    ) -> Votes:
        """Votes of the first samples of the selection; an oracle that its answers have to freeze is frozen.

        Args:
            samples: as in `count`, like the other arguments.
            then: what is counted next.
            stop: asked before each chunk; where there are no classes yet, with no votes.

        Raises:
            BackendError: every sample failed.
        """
        if self._freezing is None:
            return self.count(Stream.SELECTION, samples, then, stop)
        answers: list[Answer] = []
        for chunk, following in self._chunks_ahead((Stream.SELECTION, samples), then):
            if self._stopped(stop, {}):
                break
            answers += self._answers(chunk, following)
            self._progress(chunk.rows)
        start = time.perf_counter()
        # Who is out of time has none to compare answers either: then there is no class.
        complete = [] if stop({}) else [each for each in answers if each.status is Status.COMPLETE]
        self._oracle, self._freezing = self._freezing.freeze(complete, lambda: stop({})), None
        self.seconds["oracle"] += time.perf_counter() - start
        votes = self._no_votes()
        votes.update(self._labelled(answers))
        return self._checked(votes)

    def count(
        self,
        stream: Stream,
        samples: int,
        then: Next | None = None,
        stop: Callable[[Votes], bool] = lambda _votes: False,
        *,
        first: int = 0,
        keep: int = 0,
        look: int = 0,
    ) -> Votes:
        """Votes of the samples first, first + 1, ... of one stream, for every class and the reserved ones.

        What is counted is a prefix in index order: a chunk that was begun counts whole.

        Args:
            stream: which use of the noise.
            samples: how many samples at most.
            then: stream, samples, first and look of the next count, if there will be one: its first noise is
                drawn while the last answers of this one are computed. Changes no vote.
            stop: asked with the votes so far before each chunk; when it says so, no more are drawn.
            first: the first sample's index.
            keep: how many texts to keep of each class, the first in index order; see `kept`.
            look: a number of samples after which a chunk is to end. The first chunk is made smaller for it.

        Raises:
            BackendError: every sample failed; a part that fails is counted as FAILED.
        """
        votes = self._no_votes()
        for chunk, following in self._chunks_ahead((stream, samples, first, look), then):
            if self._stopped(stop, votes):
                break
            votes.update(self._labels(chunk, following, keep))
            self._progress(chunk.rows)
        return self._checked(votes)

    def finish(self) -> None:
        """Wait for noise that is drawn ahead and will not be asked for."""
        self._noise.finish()

    @property
    def batch_failure(self) -> BackendError | None:
        """Why every sample of the last batch failed, if all did."""
        if not self._batch_failed:
            return None
        return self._failure or BackendError(f"every sample of a batch {self._fault()}")

    @property
    def most_frequent(self) -> dict[str, int]:
        """How often the most frequent texts were generated, at most five of them."""
        return dict(self._texts.most_common(TEXTS))

    def _fault(self) -> str:
        oracle = self.oracle
        if oracle.failure is None:
            return "gave numbers that are not finite"
        return (
            f"failed: the {oracle.record.kind} {oracle.record.name!r} could not be asked ({oracle.failure})"
        )

    def _chunks(self, stream: Stream, samples: int, first: int = 0, look: int = 0) -> Iterator[Chunk]:
        done, rows = 0, look % self._question.rows or self._question.rows
        while done < samples:
            yield Chunk(stream, first + done, min(rows, samples - done))
            done, rows = done + rows, self._question.rows

    def _chunks_ahead(self, now: Next, then: Next | None) -> Iterator[tuple[Chunk, Chunk | None]]:
        """Each chunk, and the one whose noise is drawn meanwhile."""
        upcoming = next(self._chunks(*then), None) if then else None
        following = chain(islice(self._chunks(*now), 1, None), [upcoming])
        return zip(self._chunks(*now), following, strict=False)

    def _stopped(self, stop: Callable[[Votes], bool], votes: Votes) -> bool:
        start = time.perf_counter()
        stopped = stop(votes)
        self.seconds["statistics"] += time.perf_counter() - start
        return stopped

    def _no_votes(self) -> Counter[str]:
        return Counter(dict.fromkeys((*self.oracle.record.classes, *RESERVED), 0))

    def _checked(self, votes: Counter[str]) -> Votes:
        if votes[FAILED] and votes[FAILED] == votes.total():
            raise self._failure or BackendError(f"every sample {self._fault()}")
        return dict(votes)

    def _labels(self, chunk: Chunk, following: Chunk | None, keep: int) -> list[str]:
        answers = self._answers(chunk, following)
        labels = self._labelled(answers)
        failed = labels.count(FAILED)
        self._batch_failed = failed == len(labels)
        self.failed += failed
        for name, answer in zip(labels, answers, strict=True):
            if len(self.kept[name]) < keep:
                self.kept[name].append(answer.text)
        return labels

    def _answers(self, chunk: Chunk, following: Chunk | None) -> list[Answer]:
        start = time.perf_counter()
        noisy = self._noise.take(chunk, following)
        drawn = time.perf_counter()
        self.seconds["noise"] += drawn - start
        try:
            answers = self._question.answers(noisy)
        except BackendError as error:
            self._failure = error
            return [Answer((), "", Status.FAILED, math.inf)] * chunk.rows
        self.seconds["model"] += time.perf_counter() - drawn
        self.smallest_margin = min(self.smallest_margin, *(answer.margin for answer in answers))
        return answers

    def _labelled(self, answers: Sequence[Answer]) -> list[str]:
        start = time.perf_counter()
        labels = label(self.oracle, answers)
        # Held to choices, a row ends where its choice is settled; its label is what it would have said.
        constrained = self.oracle.constraint is not None
        said = labels if constrained else list(map(_said, answers))
        ended = (text for text, each in zip(said, answers, strict=True) if each.status is not Status.FAILED)
        self._texts.update(ended)
        self.seconds["oracle"] += time.perf_counter() - start
        return labels


def _said(answer: Answer) -> str:
    return f"{answer.text} …" if answer.settled else answer.text
