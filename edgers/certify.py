"""The certifier: sample, answer, classify, count, certify or predict."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgers.accounting import Kind, accounting
from edgers.arguments import real, whole
from edgers.asked import Asked, Counted, Request, ask
from edgers.assumption import assumption
from edgers.audit import Auditor
from edgers.certificate import (
    Certificate,
    DecodingRecord,
    MarginRecord,
    PreparationRecord,
    SamplerRecord,
    VoteRecord,
    camera_radius,
)
from edgers.ending import ALL_SAMPLES, ONE_PART, Stop, ending
from edgers.oracle.base import Freezing, Oracle, winner
from edgers.oracle.named import open_text_oracle
from edgers.part import Part
from edgers.poll import Poll, Progress
from edgers.prediction import Prediction, most_likely
from edgers.rule import FLOOR, WITHOUT_SELECTION, Method, Rule
from edgers.smoothing.bounds import MAX_SAMPLES, check_alpha, check_counts
from edgers.smoothing.mode import Mode
from edgers.smoothing.oracle_error import Composite
from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend
from edgers_engines.errors import InputError
from edgers_engines.image import CameraImage, operator_norm
from edgers_engines.noise import Stream, check_sigma, total_variation_bound
from edgers_engines.version import __version__
from edgers_engines.vlm import VisionLanguageModel

DEFAULT_SAMPLES = 100
DEFAULT_SELECTION = 16
DEFAULT_ALPHA = 0.001
DEFAULT_BATCH_SIZE = 32  # 16 to 50 are alike in speed, and memory grows: bench/ablation.py
DEFAULT_LOOK = 8  # with a target radius: what a larger batch saves per sample, it spends on samples too many


class Certifier:
    """Certifies answers of one bundle at one noise level by one rule.

    Args:
        bundle: verified bundle.
        sigma: standard deviation of the noise, in units where pixel values span [0, 1].
        samples: n, the samples that count; with the methods sequential and batched at most so many.
        alpha: allowed probability of a wrong certificate; of one among many, see `accounted`.
        selection: n0, samples that only choose the class. 0: it is the one with the most votes, at half of
            alpha; not for clusters, an audit, or a mode that could raise the bound. Unless given, 0 where
            that is possible and the method sequential decides about a target radius, else 16.
        method: "fixed", "sequential" or "batched"; see `Rule`.
        target_radius: for sequential and batched: stop when this radius is certified or out of reach.
        mode: what is claimed, and what it assumes.
        audit: instead of a mode: how many of each input's votes the teacher labels, for the mode audit; with
            the method fixed, and an oracle that reads free text.
        teacher: an oracle of the bundle, or a file that defines one; taken to be right.
        floor: the probability that a certified class keeps within the radius, in [0.5, 1). At 0.5 it keeps
            the majority; a higher one makes the radius smaller.
        batch_size: samples answered at once, and between two looks at a target; changes speed and memory.
            With the margin guard it changes no vote; in free text, where the guard is off, rounding could.
        backend: where the graphs run; ONNX Runtime on the CPU unless given.

    Raises:
        InputError: a number out of range, or parts that do not fit each other.
        BackendError: a graph cannot be loaded on the backend.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        sigma: float,
        samples: int = DEFAULT_SAMPLES,
        alpha: float = DEFAULT_ALPHA,
        selection: int | None = None,
        method: Method = "fixed",
        target_radius: float | None = None,
        mode: Mode | None = None,
        audit: int | None = None,
        teacher: str | None = None,
        floor: float = FLOOR,
        batch_size: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        default = DEFAULT_BATCH_SIZE if target_radius is None else DEFAULT_LOOK
        self.batch_size = default if batch_size is None else whole("batch_size", batch_size)
        self._selection_by_default = selection is None
        if selection is None:
            goes_without = type(mode or Composite()) in WITHOUT_SELECTION
            decides = method == "sequential" and target_radius is not None
            selection = 0 if decides and goes_without else DEFAULT_SELECTION
        self.selection = whole("selection", selection)
        if not 0 <= self.selection <= MAX_SAMPLES:
            raise InputError(f"selection is {selection}; it must lie between 0 and {MAX_SAMPLES}")
        samples, alpha = whole("samples", samples), real("alpha", alpha)
        sigma = check_sigma(real("sigma", sigma))
        try:
            check_counts(0, samples)
            check_alpha(alpha)
            if not isinstance(bundle, Bundle):
                raise InputError(f"a certifier takes a bundle, not {bundle!r}: see Bundle.load(path)")
            self.rule = Rule(
                samples=samples,
                alpha=alpha,
                sigma=sigma,
                method=method,
                target_radius=None if target_radius is None else real("target_radius", target_radius),
                look_every=None if target_radius is None else self.batch_size,
                mode=mode or Composite(),
                total_variation=total_variation_bound(_values(bundle), sigma),
                floor=real("floor", floor),
                selected=self.selection > 0,
            ).looking_early
        except ValueError as error:
            raise InputError(str(error)) from None
        if (audit is None) != (teacher is None):
            raise InputError("an audit and its teacher belong together")
        if audit is not None and (mode is not None or method != "fixed"):
            raise InputError("an audit is a mode of its own, and goes with the method fixed")
        if audit is not None and not self.selection:
            raise InputError("an audit needs a class that was chosen apart from the votes: draw a selection")
        self.model = VisionLanguageModel(bundle, backend)
        self._audit = None if audit is None or teacher is None else (whole("audit", audit), teacher)
        if (auditor := self._auditor()) and auditor.votes > samples:
            raise InputError(f"{audit} votes to audit, but there are {samples} samples at most")
        self.bundle = bundle
        self.accounting = accounting("each", alpha)

    def accounted(self, kind: Kind, number: int | None = None) -> Certifier:
        """The same model and numbers, where alpha is the probability that any of many certificates is wrong.

        Args:
            kind: "among" `number` certificates, declared before the first is made; or "schedule", where this
                is attempt `number`, from 1, of a stream without end, and the next attempt is made with the
                next number, whatever became of this one. "each" counts every certificate for itself.
            number: see above.

        Raises:
            InputError: a number out of range, or a target that is out of reach at the level that is left.
        """
        other = copy.copy(self)
        try:
            other.accounting = accounting(
                kind, self.accounting.total_alpha, None if number is None else whole("number", number)
            )
            if other.accounting == self.accounting:
                return self
            other.rule = replace(self.rule, alpha=other.accounting.alpha).looking_early
        except ValueError as error:
            raise InputError(str(error)) from None
        return other

    def deciding(self, target_radius: float, batch_size: int) -> Certifier:
        """The same model and numbers, with another target radius and batch size.

        Raises:
            InputError: the radius is out of range, or out of reach.
        """
        other = copy.copy(self)
        other.batch_size = whole("batch_size", batch_size)
        target_radius = real("target_radius", target_radius)
        try:
            aimed = replace(self.rule, target_radius=target_radius, look_every=other.batch_size)
            other.rule = aimed.looking_early
        except ValueError as error:
            raise InputError(str(error)) from None
        return other

    @property
    def samples_per_certificate(self) -> int:
        """n0 + n, the most that one certificate draws; clusters take a selection where none was asked for."""
        return self.selection + self.rule.samples

    def certify(
        self,
        image: CameraImage | str | Path | NDArray[np.uint8],
        prompt: str,
        *,
        choices: Sequence[str] | None = None,
        oracle: str | None = None,
        seed: str | None = None,
        guard: bool | None = None,
        part: Part | None = None,
        deadline_ms: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Progress = lambda _samples: None,
        watch: Callable[[Asked[VoteRecord]], None] = lambda _asked: None,
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
            part: count only these of the n samples, for `edgers.part.merge`: with the method fixed, and a
                seed that all parts share. Such a certificate proves nothing by itself.
            deadline_ms: milliseconds from now after which no batch is begun; only where the method allows to
                stop at any time, which is sequential and batched.
            cancelled: asked between batches, like the deadline; what is proven by then is the certificate.
            progress: called with the number of samples done since the last call; less than 0 when memory ran
                out and they are answered again in smaller chunks.
            watch: shown what the certificate was made of, for who measures it.

        Returns:
            The certificate, certified or abstained; its `batch_size` is the chunk that the memory held.

        Raises:
            InputError, ImageError: the question or the image cannot be used.
            BackendError: every sample failed, or there is no memory for even one at a time.
            ContradictionError: the votes contradict what the mode assumes.
        """
        stop = self._stop(deadline_ms, cancelled)
        drawn = self._drawn(part, seed)
        auditor = self._auditor()
        if auditor and (choices is not None or part is not None):
            raise InputError("an audit reads free text of all samples: ask with --oracle, and for no --part")
        request = Request(image, prompt, choices, oracle, seed, guard)
        asked = self._ask(
            request, progress, lambda poll, judge: self._for(judge)._count(stop, drawn, poll, judge, auditor)
        )
        certificate = self._for(asked.judge)._certificate(asked, stop, part, auditor)
        watch(asked)
        return certificate

    def predict(
        self,
        image: CameraImage | str | Path | NDArray[np.uint8],
        prompt: str,
        *,
        choices: Sequence[str] | None = None,
        oracle: str | None = None,
        seed: str | None = None,
        guard: bool | None = None,
        progress: Progress = lambda _samples: None,
    ) -> Prediction:
        """Which class the model answers with under noise, or none where the vote is too close; no radius.

        All n samples are drawn, from the noise of the selection: a certificate with the same seed counts
        others. Of the certifier's numbers, sigma, samples and alpha matter.

        Args:
            image: as in `certify`, like the other arguments.
            prompt: the question.
            choices: allowed answers, each a class.
            oracle: instead of choices, the name of an oracle of the bundle.
            seed: 32 hexadecimal digits; fresh bits of the operating system unless given.
            guard: count a sample as undecided when a token's lead is within rounding; on with choices.
            progress: called with the number of samples done since the last call.

        Raises:
            InputError, ImageError: the question or the image cannot be used.
            BackendError: every sample failed, or there is no memory for even one at a time.
        """
        rule = self.rule
        request = Request(image, prompt, choices, oracle, seed, guard)
        asked = self._ask(request, progress, lambda poll, _judge: poll.count(Stream.SELECTION, rule.samples))
        label, p_value = most_likely(asked.votes, rule.alpha)
        return Prediction(
            label=label,
            p_value=p_value,
            votes=asked.votes,
            n=rule.samples,
            alpha=rule.alpha,
            sigma=rule.sigma,
            seed=asked.seed,
            bundle_digest=self.bundle.digest,
            prompt=prompt,
            image=asked.camera.source,
        )

    def _ask(
        self, request: Request, progress: Progress, count: Callable[[Poll, Oracle | Freezing], Counted]
    ) -> Asked[Counted]:
        rows = min(self.batch_size, max(self.rule.samples, self.selection))
        return ask(
            self.model,
            request,
            sigma=self.rule.sigma,
            rows=rows,
            progress=progress,
            count=count,
            whole_answers=self._audit is not None,  # its teacher reads them
        )

    def _for(self, judge: Oracle | Freezing) -> Certifier:
        """The one for this oracle: clusters need a selection, which freezes them.

        Raises:
            InputError: there are clusters, and it was told to go without a selection.
        """
        if self.selection or not (isinstance(judge, Freezing) or judge.record.clusters):
            return self
        if not self._selection_by_default:
            raise InputError("clusters are frozen by a selection: draw one, of 1 sample or more")
        other = copy.copy(self)
        other.selection = DEFAULT_SELECTION
        other.rule = replace(self.rule, selected=True).looking_early
        return other

    def _drawn(self, part: Part | None, seed: str | None) -> range:
        """The indices of the samples that are counted."""
        if part is None:
            return range(self.rule.samples)
        if self.rule.method != "fixed":
            raise InputError("only a fixed number of samples has parts: who stops early needs all in order")
        if seed is None:
            raise InputError(
                "parts of one certificate share a seed: give all the same 32 hexadecimal digits, drawn for "
                "this image, as by `openssl rand -hex 16`"
            )
        try:
            return part.samples(self.rule.samples)
        except ValueError as error:
            raise InputError(str(error)) from None

    def _count(
        self,
        stop: Stop,
        drawn: range,
        poll: Poll,
        judge: Oracle | Freezing,
        auditor: Auditor | None = None,
    ) -> VoteRecord:
        """Select, then certify what was selected; without a selection, what leads."""
        try:
            self.rule.mode.check_classes(1 if isinstance(judge, Freezing) else len(judge.record.classes))
        except ValueError as error:
            raise InputError(str(error)) from None
        if auditor:
            auditor.check(judge)
        look = self.rule.first_look or 0
        following = Stream.CERTIFICATION, len(drawn), drawn.start, look
        selection = poll.select(self.selection, following, stop.asked)

        def over(votes: Mapping[str, int]) -> bool:
            label = self._label(selection, votes, poll.oracle)
            return ending(self.rule, label, votes) is not None or stop.asked()

        keep = auditor.votes if auditor else 0
        votes = poll.count(
            Stream.CERTIFICATION, len(drawn), stop=over, first=drawn.start, keep=keep, look=look
        )
        return VoteRecord(selection=selection, certification=votes)

    def _label(self, selection: Mapping[str, int], votes: Mapping[str, int], oracle: Oracle) -> str:
        return winner(selection if self.rule.selected else votes, oracle.record.classes)

    def _stop(self, deadline_ms: float | None, cancelled: Callable[[], bool]) -> Stop:
        if deadline_ms is None:
            return Stop(None, cancelled)
        if self.rule.method == "fixed":
            raise InputError("a fixed number of samples has no deadline: use the method sequential")
        if not 0 < real("deadline_ms", deadline_ms) < math.inf:
            raise InputError(f"the deadline is {deadline_ms} ms; it must be a number above 0")
        return Stop(deadline_ms, cancelled)

    def _auditor(self) -> Auditor | None:
        """A new one for each certificate: a judge keeps its labels for as long as it lives."""
        if self._audit is None:
            return None
        votes, teacher = self._audit
        return Auditor(open_text_oracle(self.model, teacher), votes)

    def _audited(self, label: str, asked: Asked[VoteRecord], auditor: Auditor | None) -> Rule:
        """The rule; with an auditor, in the mode that its labels give."""
        if auditor is None:
            return self.rule
        start = time.perf_counter()
        mode = auditor.mode(label, asked.poll.kept[label])
        asked.spent("audit", time.perf_counter() - start)
        return replace(self.rule, mode=mode)

    def _certificate(
        self, asked: Asked[VoteRecord], stop: Stop, part: Part | None, auditor: Auditor | None
    ) -> Certificate:
        """Draw the conclusion and write everything down, in the record's own order."""
        last = ALL_SAMPLES if part is None else ONE_PART
        manifest, votes = self.bundle.manifest, asked.votes
        camera, judge, question, poll = asked.camera, asked.judge, asked.question, asked.poll
        steps = manifest.preparation
        label = self._label(votes.selection, votes.certification, judge)
        rule = self._audited(label, asked, auditor)
        start = time.perf_counter()
        norm = operator_norm(camera.size, steps)
        conclusion = rule.conclude(label, votes.certification)
        asked.spent("statistics", time.perf_counter() - start)
        return Certificate(
            label=label,
            certified=conclusion.certified,
            radius=conclusion.radius,
            radius_camera=camera_radius(conclusion.radius, values=_values(self.bundle), operator_norm=norm),
            q_lower=conclusion.q_lower,
            p_lower=conclusion.p_lower,
            votes=votes,
            n=rule.samples,
            part=part,
            n_selection=self.selection,
            alpha=rule.alpha,
            accounting=self.accounting,
            sigma=rule.sigma,
            method=rule.method,
            target_radius=rule.target_radius,
            look_every=rule.look_every,
            first_look=rule.first_look,
            floor=rule.floor,
            assumption=assumption(rule.mode, judged=judge.record.judged),
            norm="L2",
            space="canvas",
            preparation=PreparationRecord(
                camera_size=camera.size,
                canvas_size=steps.canvas_size,
                steps=steps,
                rotated_by_exif=camera.rotated,
                operator_norm=norm,
            ),
            seed=asked.seed,
            seed_source=asked.seed_source,
            sampler=SamplerRecord(name=question.device.sampler, total_variation=rule.total_variation),
            samples_spent=sum(votes.selection.values()) + sum(votes.certification.values()),
            stopped_because=stop.reason or ending(rule, label, votes.certification) or last,
            batch_size=question.rows,
            threads=self.model.backend.threads,
            margin=MarginRecord(
                guard=asked.guard,
                tolerance=manifest.decoding.margin_tolerance,
                smallest=poll.smallest_margin if math.isfinite(poll.smallest_margin) else None,
            ),
            bundle_digest=self.bundle.digest,
            engine=self.model.engine_record(judge.record.name),
            decoding=DecodingRecord(
                method="greedy",
                constrained=judge.constraint is not None,
                max_new_tokens=question.max_new_tokens,
                end_tokens=manifest.decoding.end_tokens,
            ),
            prompt=asked.prompt,
            image=camera.source,
            image_sha256=camera.sha256,
            oracle=judge.record,
            teacher=None if auditor is None else auditor.teacher.record,
            answers=poll.most_frequent,
            timings_ms={stage: round(1000 * spent, 3) for stage, spent in asked.seconds.items()},
            edgers_version=__version__,
        )


def _values(bundle: Bundle) -> int:
    """How many numbers a canvas holds."""
    return 3 * math.prod(bundle.manifest.preparation.canvas_size)
