"""A bundle's graphs become plans for one GPU, which are compared there before anything may use them."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from edgers_engines import self_test
from edgers_engines.bundle import Bundle
from edgers_engines.engine import Range
from edgers_engines.errors import BackendError, InputError
from edgers_engines.generation import MAX_ROWS
from edgers_engines.manifest import Loaded, Manifest
from edgers_engines.oracle_record import Classifier, Clusters
from edgers_engines.plans import PlanRecord, Plans, Source, Stored, key_of
from edgers_engines.tensorrt import TensorRTBackend, source_of
from edgers_engines.tensorrt_plan import Profile, build_plan
from edgers_engines.text_graph import ROWS
from edgers_engines.vlm import VisionLanguageModel

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
        return {"batch": rows, "seq": one}, {"batch": one, "seq": several}
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
    plans: Plans | None = None,
) -> list[Built]:
    """Build the plans of all graphs of a bundle, compare what they compute, and store them.

    Those that are there already, also out of a build that was interrupted, are not built again.

    Args:
        bundle: verified bundle.
        device: "cuda:N".
        sizes: what the plans are for.
        progress: called with a graph's file, a phase, its steps done and all its steps; False ends the build.
        plans: where they are stored; the user's cache unless given.

    Raises:
        InputError: the device is no GPU.
        BackendError: the device or TensorRT is not there, a graph cannot be built, or a plan does not compute
            what the bundle's self-tests have.
    """
    store = plans or Plans()
    unproven = Plans(store.folder / ".unproven")
    built: dict[Source, Built] = {}
    backend = TensorRTBackend(device, lambda source, _target: built[source].plan)
    for loaded in bundle.manifest.loaded:
        file, shapes = loaded.graph.file, profiles(loaded, bundle.manifest, sizes)
        with bundle.weights(loaded.weights) as weights:
            content = bundle.read(file)
            source = source_of(content, loaded.graph, weights)
            key = key_of(source, backend.target, shapes)
            if plan := store.get(key):
                built[source] = Built(plan, new=False)
                continue
            if (plan := unproven.get(key)) is None:
                begun, timings = time.perf_counter(), store.timings(backend.target)
                tell = partial(progress, file)
                backend.device.enter()
                made = build_plan(
                    content, loaded.graph, weights.folder, shapes, timings=timings, progress=tell
                )
                store.keep_timings(backend.target, made.timings)
                record = PlanRecord(
                    source=source,
                    target=backend.target,
                    profiles=shapes,
                    sha256=hashlib.sha256(made.content).hexdigest(),
                    size=len(made.content),
                    in_place=made.in_place,
                    seconds=time.perf_counter() - begun,
                )
                plan = unproven.publish(record, made.content)
            built[source] = Built(plan, new=True)
    if any(one.new for one in built.values()):
        _compare(bundle, backend, sizes, built.values())
    return [Built(store.adopt(plan), new) if new else Built(plan, new) for plan, new in built.values()]


def _compare(bundle: Bundle, backend: TensorRTBackend, sizes: Sizes, built: Iterable[Built]) -> None:
    """Run every self-test on the plans; what fails is thrown away."""
    try:
        model = VisionLanguageModel(bundle, backend)
        self_test.check(model, sizes.max_batch)
        for record in bundle.manifest.text_models:
            if isinstance(record, Classifier):
                model.classifier(record)
            elif isinstance(record, Clusters):
                model.embedder(record)
    except BackendError:
        for plan, new in built:
            if new:
                shutil.rmtree(plan.path)
        raise
