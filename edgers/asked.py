"""One question about one image: what is asked, and what noisy copies of the image answer."""

from __future__ import annotations

import gc
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgers.arguments import check_seed
from edgers.oracle.base import Freezing, Oracle
from edgers.oracle.named import open_oracle
from edgers.oracle.settled import settled_by
from edgers.poll import Poll, Progress
from edgers_engines.errors import BackendError
from edgers_engines.image import CameraImage, prepare
from edgers_engines.noise import to_lattice
from edgers_engines.vlm import Question, VisionLanguageModel

Counted = TypeVar("Counted")
Begun = TypeVar("Begun")


@dataclass(frozen=True)
class Request:
    """What is asked, as the caller gave it: see `Certifier.certify`."""

    image: CameraImage | str | Path | NDArray[np.uint8]
    prompt: str
    choices: Sequence[str] | None
    oracle: str | None
    seed: str | None
    guard: bool | None


@dataclass(frozen=True)
class Asked(Generic[Counted]):
    """The votes, and the circumstances in which they were cast; `seconds` says where the time went.

    `first_token` is how many seconds after the beginning the first batch had its first token, None where no
    batch was asked; `decode_steps` counts the passes of the decoder after the prefills.
    """

    camera: CameraImage
    prompt: str
    judge: Oracle
    guard: bool
    seed: str
    seed_source: Literal["operating system", "given"]
    question: Question
    poll: Poll
    votes: Counted
    seconds: dict[str, float]
    first_token: float | None
    decode_steps: int

    def spent(self, stage: str, seconds: float) -> None:
        """Add to a stage, and to the total, what came after the samples."""
        for each in (stage, "total"):
            self.seconds[each] = self.seconds.get(each, 0.0) + seconds


def ask(
    model: VisionLanguageModel,
    request: Request,
    *,
    sigma: float,
    rows: int,
    progress: Progress,
    count: Callable[[Poll, Oracle | Freezing], Counted],
    whole_answers: bool = False,
) -> Asked[Counted]:
    """Prepare the image, and count the answers to noisy copies of it in as large chunks as the memory holds.

    Args:
        model: what answers.
        request: what it is asked.
        sigma: of the noise, in the canvas' unit.
        rows: samples answered at once; fewer where memory runs out, or the model takes no more.
        progress: called with the number of samples done since the last call; see `Certifier.certify`.
        count: takes from the poll what it needs; called anew with each smaller chunk.
        whole_answers: generate every answer to its end, although its class is settled before.

    Raises:
        InputError, ImageError: the question or the image cannot be used.
        BackendError: every sample failed, or there is no memory for even one at a time.
    """
    start = time.perf_counter()
    camera = CameraImage.of(request.image)
    decoded = time.perf_counter()
    canvas = to_lattice(prepare(camera, model.bundle.manifest.preparation))
    prepared = time.perf_counter()
    seconds = {"decode image": decoded - start, "prepare": prepared - decoded}
    judge = open_oracle(model, request.prompt, request.choices, request.oracle)
    guard = judge.constraint is not None if request.guard is None else request.guard
    seed = secrets.token_hex(16) if request.seed is None else check_seed(request.seed)

    def poll(rows: int, report: Progress) -> tuple[Question, Poll]:
        question = Question(
            model,
            request.prompt,
            rows=rows,
            constraint=judge.constraint,
            guard=guard,
            max_new_tokens=judge.max_new_tokens,
            settled=None if whole_answers else settled_by(judge),
            cautious=True,
        )
        begun = Poll(question, judge, canvas, sigma=sigma, seed=int(seed, 16), progress=report)
        # With larger chunks that were tried before, where memory ran out.
        seconds["set up"] = time.perf_counter() - prepared
        return question, begun

    while rows > model.max_rows:
        rows = _fewer(rows)
    question, asked, votes = fitting(
        rows, lambda rows: _counted(partial(poll, rows), lambda poll: count(poll, judge), progress)
    )
    seconds |= {**asked.seconds, **question.seconds, "total": time.perf_counter() - start}
    return Asked(
        camera=camera,
        prompt=request.prompt,
        judge=asked.oracle,
        guard=guard,
        seed=seed,
        seed_source="operating system" if request.seed is None else "given",
        question=question,
        poll=asked,
        votes=votes,
        seconds=seconds,
        first_token=None if question.first_token_at is None else question.first_token_at - start,
        decode_steps=question.decode_steps,
    )


def _counted(
    begin: Callable[[Progress], tuple[Question, Poll]], count: Callable[[Poll], Counted], progress: Progress
) -> tuple[Question, Poll, Counted]:
    """The votes.

    Raises:
        MemoryError: it ran out; what was reported is taken back.
    """
    done = 0

    def report(samples: int) -> None:
        nonlocal done
        done += samples
        progress(samples)

    poll = None
    try:
        question, poll = begin(report)
        return question, poll, count(poll)
    except MemoryError:
        if poll is not None:
            poll.finish()
        progress(-done)
        raise


def fitting(rows: int, begin: Callable[[int], Begun]) -> Begun:
    """What begins with as many rows as the memory holds.

    Args:
        rows: the most.
        begin: is tried with fewer and fewer of them.

    Raises:
        BackendError: there is no memory for even one.
    """
    while True:
        with suppress(MemoryError):
            return begin(rows)
        gc.collect()  # the error's frames may hold arrays still
        rows = _fewer(rows)


def _fewer(rows: int) -> int:
    """Half the chunk: a sample's noise depends on its number alone, so the votes stay what they were.

    Where it has no half, its largest divisor: each look at a target stays between two chunks.

    Raises:
        BackendError: there is no smaller one.
    """
    if rows == 1:
        raise BackendError(
            "out of memory, even with one sample at a time: end other programs, or use a smaller model"
        )
    return next((rows // by for by in range(2, math.isqrt(rows) + 1) if rows % by == 0), 1)
