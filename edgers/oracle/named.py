"""The oracle that a question names: the choices given with it, one of the bundle's, or one in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgers.oracle import definition
from edgers.oracle.base import Freezing, Oracle, TextOracle
from edgers.oracle.choices import Choices
from edgers.oracle.classifier import Classified
from edgers.oracle.clusters import Clusters, Embedding, Judged
from edgers.oracle.definition import SUFFIX, read_definition
from edgers.oracle.judge import Judge
from edgers.oracle.rules import Rules
from edgers_engines import oracle_record
from edgers_engines.engine import Backend
from edgers_engines.errors import InputError
from edgers_engines.manifest import Manifest
from edgers_engines.vlm import VisionLanguageModel


def open_oracle(
    model: VisionLanguageModel, prompt: str, choices: Sequence[str] | None, name: str | None
) -> Oracle | Freezing:
    """The oracle for one prompt.

    Raises:
        InputError: both or neither are given, the name is unknown, or the choices cannot be used.
        BackendError, BundleError: an oracle's graph cannot be loaded.
    """
    manifest = model.bundle.manifest
    if (choices is None) == (name is None):
        both = "" if choices is None else ", not both"
        raise InputError(
            f"give either choices or an oracle's name{both} (this bundle has: {_listed(manifest)})"
        )
    if choices is not None:
        return Choices(choices, prompt, model.prompts, manifest.decoding.end_tokens[0])
    return open_named(model, name or "")


def open_named(model: VisionLanguageModel, name: str) -> TextOracle | Clusters:
    """The oracle of that name in the model's bundle, or in the file of that name.

    Raises:
        InputError: there is none, or its file cannot be read.
        BackendError, BundleError: an oracle's graph, or a judge's bundle, cannot be loaded.
    """
    if name.endswith(SUFFIX):
        return open_defined(Path(name), model.backend)
    manifest = model.bundle.manifest
    known = {found.name: found for found in manifest.oracles}
    if name not in known:
        raise InputError(
            f"the bundle has no oracle {name!r}; it has: {_listed(manifest)} (a file's name ends in {SUFFIX})"
        )
    found = known[name]
    if isinstance(found, oracle_record.Classifier):
        return Classified(model.classifier(found), manifest)
    if isinstance(found, oracle_record.Clusters):
        return Clusters(found.name, Embedding(model.embedder(found), manifest))
    return Rules(found)


def open_text_oracle(model: VisionLanguageModel, name: str) -> TextOracle:
    """The oracle of that name, as `open_named`, where it gives a text a class by itself.

    Raises:
        InputError, BackendError, BundleError: as `open_named`; or it makes clusters.
    """
    oracle = open_named(model, name)
    if isinstance(oracle, Clusters):
        raise InputError(
            f"the oracle {name!r} makes clusters: it has no class before a selection freezes one, so it can "
            "neither teach another oracle nor check it"
        )
    return oracle


def open_defined(path: Path, backend: Backend | None = None) -> TextOracle | Clusters:
    """The oracle that a file defines.

    Args:
        path: the file.
        backend: where a judge's bundle runs; ONNX Runtime on the CPU unless given.

    Raises:
        InputError: the file cannot be read, or what it says cannot be used.
        BackendError, BundleError: a judge's bundle cannot be loaded.
    """
    defined = read_definition(path)
    if isinstance(defined, oracle_record.Rules):
        return Rules(defined)
    if isinstance(defined, definition.JudgedClusters):
        return Clusters(defined.name, Judged(_judge(defined.judge, path.parent, backend)))
    return _judge(defined, path.parent, backend)


def _judge(defined: definition.Judge, folder: Path, backend: Backend | None) -> Judge:
    if isinstance(defined.asks, definition.Endpoint):
        from edgers.oracle.endpoint import ask_endpoint

        return Judge(defined, *ask_endpoint(defined.asks, defined.classes))
    if isinstance(defined.asks, definition.LocalCheckpoint):
        from edgers.oracle.local_checkpoint import ask_checkpoint

        return Judge(defined, *ask_checkpoint(defined.asks, defined.classes, folder))
    from edgers.oracle.local_bundle import ask_bundle

    return Judge(defined, *ask_bundle(defined.asks, defined.classes, folder, backend))


def _listed(manifest: Manifest) -> str:
    return ", ".join(oracle.name for oracle in manifest.oracles) or "none"
