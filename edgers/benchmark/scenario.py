"""What is asked again and again, in the terms of MLPerf Inference.

single is its SingleStream: one noisy sample, and the next when that one is answered. stream is its
MultiStream: a batch, and the next when that one is. offline is its Offline: all samples of a pool at once, in
batches, the noise of the next drawn while this one is answered. certify has no counterpart: SingleStream,
where what is asked for is a certificate, from the image's file to the verdict. As in MLPerf the samples of
the first three lie in memory: reading and preparing the image is not in their time, drawing the noise is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgers.benchmark.record import STAGES, Query
from edgers.certify import Certifier
from edgers.oracle.base import FAILED
from edgers.oracle.named import open_oracle
from edgers.oracle.settled import settled_by
from edgers.poll import Poll, Progress
from edgers_engines.engine import EngineRecord
from edgers_engines.errors import BackendError
from edgers_engines.image import CameraImage, prepare
from edgers_engines.noise import Stream, to_lattice
from edgers_engines.vlm import Question, VisionLanguageModel

if TYPE_CHECKING:
    from edgers.asked import Asked
    from edgers.certificate import VoteRecord

SEED = 0  # a benchmark certifies nothing: the same noise in every run makes two runs comparable

Keep = Callable[[Query], None]


@dataclass(frozen=True, slots=True)
class Asking:
    """The question: see `Certifier.certify`."""

    image: Path
    prompt: str
    choices: tuple[str, ...] | None
    oracle: str | None


class Scenario(Protocol):
    """What can be asked again and again.

    Attributes:
        samples: that are asked for at once; of a certificate, which draws as many as it needs, 1.
    """

    @property
    def samples(self) -> int:
        """See above."""

    @property
    def batch_size(self) -> int:
        """Samples that are answered at once."""

    @property
    def engine(self) -> EngineRecord:
        """What runs the graphs."""

    def ask(self, number: int, samples: int, keep: Keep) -> None:
        """Ask once.

        Args:
            number: of the asking, from 0; its noise follows from it.
            samples: how many.
            keep: called with each query when it is answered, `start_ms` being on the clock of
                time.perf_counter.

        Raises:
            BackendError: every sample failed; of `Samples`, every sample of a batch.
        """


class Certificates:
    """Each query is a certificate.

    Args:
        certifier: what makes it.
        asking: the question.
        progress: called with the number of samples done since the last call.
    """

    samples = 1

    def __init__(self, certifier: Certifier, asking: Asking, progress: Progress) -> None:
        self._certifier, self._asking, self._progress = certifier, asking, progress
        self.batch_size = certifier.batch_size
        self.engine = certifier.model.engine_record(asking.oracle or "")

    def ask(self, number: int, samples: int, keep: Keep) -> None:  # noqa: ARG002  see Scenario
        """See `Scenario.ask`."""
        asked: list[Asked[VoteRecord]] = []
        asking, start = self._asking, time.perf_counter()
        certificate = self._certifier.certify(
            asking.image,
            asking.prompt,
            choices=asking.choices,
            oracle=asking.oracle,
            seed=f"{SEED + number:032x}",
            progress=self._progress,
            watch=asked.append,
        )
        latency = time.perf_counter() - start
        (counted,), votes = asked, certificate.votes
        if counted.first_token is None:
            raise BackendError("not one sample was answered")
        self.batch_size, self.engine = certificate.batch_size, certificate.engine
        keep(
            Query(
                start_ms=_ms(start),
                latency_ms=_ms(latency),
                first_token_ms=_ms(counted.first_token),
                samples=certificate.samples_spent,
                failed=sum(each.get(FAILED, 0) for each in (votes.selection, votes.certification)),
                decode_steps=counted.decode_steps,
                stages_ms=_stages(counted.seconds),
                certified=certificate.certified,
                radius=certificate.radius,
                stopped_because=certificate.stopped_because,
            )
        )


class Samples:
    """Each query is a batch of noisy samples of one image; of one, where the batch size is 1.

    Args:
        model: what answers.
        asking: the question.
        sigma: of the noise, in the canvas' unit.
        rows: the batch size.
        samples: that are asked for at once, in batches.
        progress: called with the number of samples done since the last call.

    Raises:
        InputError, ImageError: the question or the image cannot be used.
        MemoryError: there is none for such batches.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        asking: Asking,
        *,
        sigma: float,
        rows: int,
        samples: int,
        progress: Progress,
    ) -> None:
        self.samples, self.batch_size, self._progress = samples, rows, progress
        canvas = to_lattice(prepare(CameraImage.of(asking.image), model.bundle.manifest.preparation))
        judge = open_oracle(model, asking.prompt, asking.choices, asking.oracle)
        self._question = Question(
            model,
            asking.prompt,
            rows=rows,
            constraint=judge.constraint,
            guard=judge.constraint is not None,
            max_new_tokens=judge.max_new_tokens,
            settled=settled_by(judge),
            cautious=True,
        )
        self._poll = Poll(self._question, judge, canvas, sigma=sigma, seed=SEED, progress=self._answered)
        self.engine = model.engine_record(self._poll.oracle.record.name)
        self._keep: Keep = lambda _query: None
        self._start, self._before = 0.0, self._counts()

    def ask(self, number: int, samples: int, keep: Keep) -> None:
        """See `Scenario.ask`."""
        self._keep = keep
        self._begin()
        self._poll.count(Stream.CERTIFICATION, samples, first=number * self.samples)

    def _begin(self) -> None:
        self._question.first_token_at = None
        self._before, self._start = self._counts(), time.perf_counter()

    def _answered(self, samples: int) -> None:
        """One batch is done."""
        end, first_token = time.perf_counter(), self._question.first_token_at
        if (failure := self._poll.batch_failure) is not None:
            raise failure  # its time says nothing
        if first_token is None:
            raise BackendError("a batch ended without a token")
        now, before = self._counts(), self._before
        self._keep(
            Query(
                start_ms=_ms(self._start),
                latency_ms=_ms(end - self._start),
                first_token_ms=_ms(first_token - self._start),
                samples=samples,
                failed=int(now["failed"] - before["failed"]),
                decode_steps=int(now["steps"] - before["steps"]),
                stages_ms=_stages({name: now[name] - before.get(name, 0.0) for name in now}),
            )
        )
        self._progress(samples)
        self._begin()

    def _counts(self) -> dict[str, float]:
        """Seconds of each stage so far, the decoder's steps, and the samples that failed."""
        counts = {"steps": self._question.decode_steps, "failed": self._poll.failed}
        return {**self._poll.seconds, **self._question.seconds, **counts}


def _stages(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: _ms(seconds[stage]) for stage in STAGES if stage in seconds}


def _ms(seconds: float) -> float:
    """Milliseconds, to the clock's nanosecond."""
    return round(1000 * seconds, 6)
