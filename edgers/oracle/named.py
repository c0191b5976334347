"""The oracle that a question names: the choices given with it, or one of the bundle's."""

from __future__ import annotations

from collections.abc import Sequence

from edgers.oracle.base import Oracle
from edgers.oracle.choices import Choices
from edgers.oracle.classifier import Classified
from edgers.oracle.rules import Rules
from edgers_engines.errors import InputError
from edgers_engines.manifest import Classifier
from edgers_engines.vlm import VisionLanguageModel


def open_oracle(
    model: VisionLanguageModel, prompt: str, choices: Sequence[str] | None, name: str | None
) -> Oracle:
    """The oracle for one prompt.

    Raises:
        InputError: both or neither are given, the name is unknown, or the choices cannot be used.
        BackendError, BundleError: a classifier cannot be loaded.
    """
    manifest = model.bundle.manifest
    known = {definition.name: definition for definition in manifest.oracles}
    listed = ", ".join(known) or "none"
    if (choices is None) == (name is None):
        both = "" if choices is None else ", not both"
        raise InputError(f"give either choices or an oracle's name{both} (this bundle has: {listed})")
    if choices is not None:
        return Choices(choices, prompt, model.prompts, manifest.decoding.end_tokens[0])
    if name not in known:
        raise InputError(f"the bundle has no oracle {name!r}; it has: {listed}")
    if isinstance(definition := known[name], Classifier):
        return Classified(model.classifier(definition), manifest)
    return Rules(definition)
