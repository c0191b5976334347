"""The certifier: sample, answer, classify, count, certify."""

from __future__ import annotations

import gc
import math
import re
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgers.certificate import (
    ALL_SAMPLES,
    FLOOR,
    RESERVED_SELECTED,
    Assumption,
    Certificate,
    DecodingRecord,
    MarginRecord,
    PreparationRecord,
    SamplerRecord,
    VoteRecord,
    conclude,
)
from edgers.oracle.base import RESERVED, Oracle, winner
from edgers.oracle.choices import Choices
from edgers.oracle.rules import Rules
from edgers.poll import Poll, Progress
from edgers.smoothing.bounds import MAX_SAMPLES, check_alpha, check_counts
from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend
from edgers_engines.errors import BackendError, InputError
from edgers_engines.image import CameraImage, operator_norm, prepare
from edgers_engines.noise import SAMPLER, Stream, check_sigma, to_lattice, total_variation_bound
from edgers_engines.version import __version__
from edgers_engines.vlm import Question, VisionLanguageModel

DEFAULT_SAMPLES = 100
DEFAULT_SELECTION = 16
DEFAULT_ALPHA = 0.001
DEFAULT_BATCH_SIZE = 32  # 16 to 50 are alike in speed, and memory grows: bench/ablation.py

COMPOSITE = Assumption(
    mode="composite",
    parameters={},
    calibration=None,
    sentence=(
        "Holds for the label that this oracle gives this model's answer under noise, whatever the oracle's "
        "errors; it does not say that the label is true. Assumes noise that is independent of the image and "
        "between samples, and a fixed labelling: bundle, prompt, decoding and oracle as recorded here."
    ),
)


class Certifier:
    """Certifies answers of one bundle at one noise level with a fixed number of samples.

    Args:
        bundle: verified bundle.
        sigma: standard deviation of the noise, in units where pixel values span [0, 1].
        samples: n, the samples that count.
        alpha: allowed probability of a wrong certificate.
        selection: n0, samples that only choose the class.
        batch_size: samples answered at once; changes speed and memory. With the margin guard it changes no
            vote; in free text, where the guard is off, rounding could.
        backend: where the graphs run; ONNX Runtime on the CPU unless given.

    Raises:
        InputError: a number out of range.
        BackendError: a graph cannot be loaded on the backend.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        sigma: float,
        samples: int = DEFAULT_SAMPLES,
        alpha: float = DEFAULT_ALPHA,
        selection: int = DEFAULT_SELECTION,
        batch_size: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.sigma, self.alpha = check_sigma(_real("sigma", sigma)), _real("alpha", alpha)
        self.samples, self.selection = _whole("samples", samples), _whole("selection", selection)
        self.batch_size = DEFAULT_BATCH_SIZE if batch_size is None else _whole("batch_size", batch_size)
        try:
            check_alpha(alpha)
            check_counts(0, samples)
        except ValueError as error:
            raise InputError(str(error)) from None
        if not 1 <= selection <= MAX_SAMPLES:
            raise InputError(f"selection is {selection}; it must lie between 1 and {MAX_SAMPLES}")
        if not isinstance(bundle, Bundle):
            raise InputError(f"a certifier takes a bundle, not {bundle!r}: see Bundle.load(path)")
        self.model = VisionLanguageModel(bundle, backend)
        self.bundle = bundle

    @property
    def samples_per_certificate(self) -> int:
        """n0 + n."""
        return self.selection + self.samples

    def oracle(self, prompt: str, *, choices: Sequence[str] | None, oracle: str | None) -> Oracle:
        """The oracle for one prompt: the given choices, or one of the bundle's by name.

        Raises:
            InputError: both or neither are given, the name is unknown, or the choices cannot be used.
        """
        known = {rules.name: rules for rules in self.bundle.manifest.oracles}
        listed = ", ".join(known) or "none"
        if (choices is None) == (oracle is None):
            raise InputError(f"give either choices or an oracle's name (this bundle has: {listed})")
        if choices is not None:
            end_token = self.bundle.manifest.decoding.end_tokens[0]
            return Choices(choices, prompt, self.model.prompts, end_token)
        if oracle not in known:
            raise InputError(f"the bundle has no oracle {oracle!r}; it has: {listed}")
        return Rules(known[oracle])

    def certify(
        self,
        image: CameraImage | str | Path | NDArray[np.uint8],
        prompt: str,
        *,
        choices: Sequence[str] | None = None,
        oracle: str | None = None,
        seed: str | None = None,
        guard: bool | None = None,
        progress: Progress = lambda _samples: None,
    ) -> Certificate:
        """Certify the answer to one prompt about one image.

        Args:
            image: a file's path, or RGB pixels, uint8 [height, width, 3].
            prompt: the question.
            choices: allowed answers, each a class; decoding is held to them.
            oracle: instead of choices, the name of an oracle of the bundle, which reads free text.
            seed: 32 hexadecimal digits; fresh bits of the operating system unless given. Whoever knows the
                seed beforehand can aim at the noise.
            guard: count a sample as undecided when a token's lead is within rounding; on with choices.
            progress: called with the number of samples done since the last call; less than 0 when memory ran
                out and they are answered again in smaller chunks.

        Returns:
            The certificate, certified or abstained; its `batch_size` is the chunk that the memory held.

        Raises:
            InputError, ImageError: the question or the image cannot be used.
            BackendError: every sample failed, or there is no memory for even one at a time.
        """
        start = time.perf_counter()
        camera = CameraImage.of(image)
        decoded = time.perf_counter()
        steps = self.bundle.manifest.preparation
        canvas = to_lattice(prepare(camera, steps))
        seconds = {"decode image": decoded - start, "prepare": time.perf_counter() - decoded}
        judge = self.oracle(prompt, choices=choices, oracle=oracle)
        guard = judge.constraint is not None if guard is None else guard
        key = secrets.token_hex(16) if seed is None else check_seed(seed)
        rows = min(self.batch_size, max(self.samples, self.selection))
        while True:
            ask = partial(self._question, prompt, judge, guard, rows)
            polled = self._polled(ask, judge, canvas, int(key, 16), progress)
            if polled is not None:
                break
            gc.collect()  # a poll and its noise hold each other
            rows = _halved(rows)
        question, poll, chosen, votes = polled
        seconds |= {**poll.seconds, **question.seconds, "total": time.perf_counter() - start}
        return self._certificate(
            label=chosen,
            votes=votes,
            camera=camera,
            judge=judge,
            question=question,
            poll=poll,
            prompt=prompt,
            guard=guard,
            seed=key,
            seed_source="operating system" if seed is None else "given",
            seconds=seconds,
        )

    def _question(self, prompt: str, judge: Oracle, guard: bool, rows: int) -> Question:
        return Question(
            self.model,
            prompt,
            rows=rows,
            constraint=judge.constraint,
            guard=guard,
            max_new_tokens=judge.max_new_tokens,
        )

    def _polled(
        self,
        ask: Callable[[], Question],
        judge: Oracle,
        canvas: NDArray[np.float64],
        seed: int,
        progress: Progress,
    ) -> tuple[Question, Poll, str, VoteRecord] | None:
        """Select and certify; None when memory runs out, and everything that held it is free again."""
        done = 0

        def report(samples: int) -> None:
            nonlocal done
            done += samples
            progress(samples)

        poll = None
        try:
            question = ask()
            poll = Poll(question, judge, canvas, sigma=self.sigma, seed=seed, progress=report)
            selection = poll.count(Stream.SELECTION, self.selection, (Stream.CERTIFICATION, self.samples))
            chosen = winner(selection, judge.record.classes)
            votes = poll.count(Stream.CERTIFICATION, 0 if chosen in RESERVED else self.samples)
        except MemoryError:
            if poll is not None:
                poll.finish()
            progress(-done)
            return None
        return question, poll, chosen, VoteRecord(selection=selection, certification=votes)

    def _certificate(
        self,
        *,
        label: str,
        votes: VoteRecord,
        camera: CameraImage,
        judge: Oracle,
        question: Question,
        poll: Poll,
        prompt: str,
        guard: bool,
        seed: str,
        seed_source: Literal["operating system", "given"],
        seconds: dict[str, float],
    ) -> Certificate:
        """Draw the conclusion and write everything down, in the record's own order."""
        manifest = self.bundle.manifest
        steps = manifest.preparation
        values = 3 * math.prod(steps.canvas_size)
        norm = operator_norm(camera.size, steps)
        total_variation = total_variation_bound(values, self.sigma)
        conclusion = conclude(
            label,
            votes.certification,
            alpha=self.alpha,
            sigma=self.sigma,
            total_variation=total_variation,
            values=values,
            operator_norm=norm,
        )
        return Certificate(
            label=label,
            certified=conclusion.certified,
            radius=conclusion.radius,
            radius_camera=conclusion.radius_camera,
            q_lower=conclusion.q_lower,
            p_lower=conclusion.p_lower,
            votes=votes,
            n=self.samples,
            n_selection=self.selection,
            alpha=self.alpha,
            sigma=self.sigma,
            method="fixed",
            target_radius=None,
            floor=FLOOR,
            assumption=COMPOSITE,
            norm="L2",
            space="canvas",
            preparation=PreparationRecord(
                camera_size=camera.size,
                canvas_size=steps.canvas_size,
                steps=steps,
                rotated_by_exif=camera.rotated,
                operator_norm=norm,
            ),
            seed=seed,
            seed_source=seed_source,
            sampler=SamplerRecord(name=SAMPLER, total_variation=total_variation),
            samples_spent=sum(votes.selection.values()) + sum(votes.certification.values()),
            stopped_because=RESERVED_SELECTED if label in RESERVED else ALL_SAMPLES,
            batch_size=question.rows,
            threads=self.model.backend.threads,
            margin=MarginRecord(
                guard=guard,
                tolerance=manifest.decoding.margin_tolerance,
                smallest=poll.smallest_margin if math.isfinite(poll.smallest_margin) else None,
            ),
            bundle_digest=self.bundle.digest,
            engine=self.model.backend.record(manifest.precision),
            decoding=DecodingRecord(
                method="greedy",
                constrained=judge.constraint is not None,
                max_new_tokens=question.max_new_tokens,
                end_tokens=manifest.decoding.end_tokens,
            ),
            prompt=prompt,
            image=camera.source,
            image_sha256=camera.sha256,
            oracle=judge.record,
            answers=poll.most_frequent,
            timings_ms={stage: round(1000 * spent, 3) for stage, spent in seconds.items()},
            edgers_version=__version__,
        )


def _real(name: str, value: float) -> float:
    """A float that a certificate can hold: no truth value, no text, also where numpy made it.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} is {value!r}; it must be a number")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} is larger than a float can be; it must be a smaller number") from None


def _whole(name: str, value: int) -> int:
    """The same for an integer."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} is {value!r}; it must be a whole number")
    return int(value)


def _halved(rows: int) -> int:
    """Half the chunk: a sample's noise depends on its number alone, so the votes stay what they were.

    Raises:
        BackendError: there is no smaller one.
    """
    if rows == 1:
        raise BackendError(
            "out of memory, even with one sample at a time: end other programs, or use a smaller model"
        )
    return rows // 2


def check_seed(seed: str) -> str:
    """Return a seed in lower case when it is 128 bits.

    Raises:
        InputError: it is not 32 hexadecimal digits.
    """
    if not isinstance(seed, str) or not re.fullmatch(r"[0-9a-fA-F]{32}", seed):
        raise InputError(f"the seed {seed!r} is not 32 hexadecimal digits (128 bits)")
    return seed.lower()
