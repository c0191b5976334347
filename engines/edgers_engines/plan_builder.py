"""A bundle's graphs become plans for one GPU, which are compared there before anything may use them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from edgers_engines.bundle import Bundle
from edgers_engines.engine import Range
from edgers_engines.errors import BackendError, InputError, NoMemoryError
from edgers_engines.generation import MAX_ROWS
from edgers_engines.manifest import Loaded, Manifest
from edgers_engines.oracle_record import Classifier, Clusters
from edgers_engines.plans import UNPROVEN, PlanRecord, Plans, Source, Stored, key_of
from edgers_engines.tensorrt import TensorRTBackend, TensorRTEngine, source_of
from edgers_engines.tensorrt_plan import Profile, build_plan
from edgers_engines.text_graph import ROWS
from edgers_engines.vlm import VisionLanguageModel
from edgers_engines.weights import Weights

MAX_BATCH = 32  # what `certify` answers at once unless told otherwise
_QUESTION = 128  # positions of a long question with its template
_UNIT = 8  # lengths of caches are a multiple of it, see `Cuda.alignment`

Progress = Callable[[str, str, int, int], bool]


class Built(NamedTuple):
    """A plan, and whether it was built now."""

    plan: Stored
    new: bool


@dataclass(frozen=True, slots=True)
class Sizes:
    """What plans are built for.

    Attributes:
        max_batch: rows that are answered at once.
        max_length: positions of the KV cache, the same for every question.
    """

    max_batch: int
    max_length: int

    @classmethod
    def of(cls, manifest: Manifest, max_batch: int | None, max_length: int | None) -> Sizes:
        """These sizes, or where they are not given, some that serve most questions.

        Raises:
            InputError: the bundle's own self-test, or no question at all, would fit; or the model is smaller.
        """
        sizes, rows = manifest.dimensions, len(manifest.self_test.steps[0])
        longest = sizes.max_length + -sizes.max_length % _UNIT
        least = sizes.image_tokens + manifest.decoding.max_new_tokens
        length = min(least + _QUESTION, sizes.max_length) if max_length is None else max_length
        length += -length % _UNIT
        batch = MAX_BATCH if max_batch is None else max_batch
        if not rows <= batch <= MAX_ROWS:
            raise InputError(f"--max-batch is {batch}; it must lie between {rows} and {MAX_ROWS}")
        if not least <= length <= longest:
            raise InputError(f"--max-length is {length}; this model needs {least} to {longest}")
        return cls(batch, length)


def profiles(loaded: Loaded, manifest: Manifest, sizes: Sizes) -> tuple[Profile, ...]:
    """The shapes that the plan of a graph takes, those of a single token first."""
    rows = Range(1, sizes.max_batch, sizes.max_batch)
    one, longest = Range(1, 1, 1), sizes.max_length
    several = Range(1, min(manifest.dimensions.image_tokens + _QUESTION // 4, longest), longest)
    cache = Range(longest, longest, longest)
    if loaded.graph == manifest.graphs.vision:
        return ({"batch": rows},)
    if loaded.graph == manifest.graphs.embed:
        ids = several._replace(most=max(longest, sizes.max_batch))  # a self-test embeds a token of each row
        return {"batch": rows, "seq": one}, {"batch": one, "seq": ids}
    if loaded.graph == manifest.graphs.decoder:
        return tuple({"batch": rows, "seq": seq, "max_len": cache} for seq in (one, several))
    model = next(model for model in manifest.text_models if model.graph == loaded.graph)
    tokens = Range(1, min(16, model.max_tokens), model.max_tokens)
    return ({"batch": Range(1, min(32, ROWS), ROWS), "seq": tokens},)


def build_plans(
    bundle: Bundle,
    device: str,
    sizes: Sizes,
    progress: Progress = lambda _graph, _phase, _step, _steps: True,
    store: Plans | None = None,
) -> list[Built]:
    """Build the plans of a bundle's graphs, compare what they compute, and store them.

    Those that are there already, also out of a build that was interrupted, are not built again. A decoder in
    ONNX Runtime's own operators is left out: no other library knows them.

    Args:
        bundle: verified bundle.
        device: "cuda:N".
        sizes: what the plans are for.
        progress: called with a graph's file, a phase, its steps done and all its steps; False ends the build.
        store: where plans lie; the user's cache unless given.

    Raises:
        InputError: the device is no GPU.
        BackendError: the device or TensorRT is not there, a graph cannot be built, or a plan does not compute
            what the bundle's self-tests have.
    """
    store = store or Plans()
    with store.alone():
        return _Build(bundle, device, sizes, progress, store).plans()


class _Build:
    """One build, while no other one goes on."""

    def __init__(self, bundle: Bundle, device: str, sizes: Sizes, progress: Progress, store: Plans) -> None:
        self._bundle, self._sizes, self._progress = bundle, sizes, progress
        self._store, self._unproven = store, Plans(store.folder / UNPROVEN)
        self._built: dict[Source, Built] = {}
        self._backend = TensorRTBackend(device, lambda source, _target: self._built[source].plan)

    def plans(self) -> list[Built]:
        """All plans, compared and stored."""
        with ExitStack() as stack:
            names = dict.fromkeys(loaded.weights for loaded in self._bundle.manifest.standard)
            weights = {name: stack.enter_context(self._bundle.weights(name)) for name in names}
            for loaded in self._bundle.manifest.standard:
                source = source_of(
                    self._bundle.read(loaded.graph.file), loaded.graph, weights[loaded.weights]
                )
                self._built[source] = self._plan(loaded, source, weights[loaded.weights])
        self._compare()
        return [
            Built(self._store.adopt(plan), new=True) if new else Built(plan, new=False)
            for plan, new in self._built.values()
        ]

    def _plan(self, loaded: Loaded, source: Source, weights: Weights) -> Built:
        """The plan that is there, or was left by a build that was interrupted, or a new one."""
        shapes = profiles(loaded, self._bundle.manifest, self._sizes)
        key = key_of(source, self._backend.target, shapes)
        if plan := self._store.get(key):
            return Built(plan, new=False)
        if plan := self._unproven.get(key):
            return Built(plan, new=True)
        begun, target = time.perf_counter(), self._backend.target
        self._backend.device.enter()
        made = build_plan(
            self._bundle.read(loaded.graph.file),
            loaded.graph,
            weights.folder,
            shapes,
            timings=self._store.timings(target),
            progress=partial(self._progress, loaded.graph.file),
        )
        self._store.keep_timings(target, made.timings)
        record = PlanRecord(
            source=source,
            target=target,
            profiles=shapes,
            sha256=hashlib.sha256(made.content).hexdigest(),
            size=len(made.content),
            in_place=made.in_place,
            seconds=time.perf_counter() - begun,
        )
        return Built(self._unproven.publish(record, made.content), new=True)

    def _compare(self) -> None:
        """Run every self-test on the plans; if one fails, none of them stays, new or old.

        What was compiled of their kernels to do so is stored with them.

        Raises:
            NoMemoryError: there is no memory for the self-tests; the plans stay, for a later try.
            BackendError: a plan cannot be loaded, or computes something else.
        """
        try:
            model = VisionLanguageModel(self._bundle, self._backend)
            engines = [model.vision, model.embed, model.decoder]
            for record in self._bundle.manifest.text_models:
                if isinstance(record, Classifier):
                    engines.append(model.classifier(record).engine)
                elif isinstance(record, Clusters):
                    engines.append(model.embedder(record).engine)
        except NoMemoryError as error:
            raise NoMemoryError(
                f"{error}; the plans are kept but not accepted: end other programs and build again, or build "
                f"with --max-batch {max(self._sizes.max_batch // 2, 1)}"
            ) from None
        except BackendError:
            for plan, _ in self._built.values():
                Plans.remove(plan.path)
            raise
        for engine in engines:
            if isinstance(engine, TensorRTEngine):
                engine.keep_kernels()
