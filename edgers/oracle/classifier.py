"""A learned oracle: a bundle's text classifier says the class."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from edgers.oracle.base import OracleRecord, digest
from edgers_engines.manifest import Manifest
from edgers_engines.text_classifier import TextClassifier
from edgers_engines.vlm import Answer


class Classified:
    """An oracle out of a bundle's classifier, for free text."""

    constraint = None
    max_new_tokens = None
    failure = None

    def __init__(self, classifier: TextClassifier, manifest: Manifest) -> None:
        self._classifier, definition = classifier, classifier.record
        self.record = OracleRecord(
            kind="classifier",
            name=definition.name,
            classes=definition.classes,
            sha256=digest(
                [replace(definition, calibration=(), conditions=()), *manifest.digests(definition)]
            ),
        )

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """The class of each answer's text."""
        return self.classify_texts([answer.text for answer in answers])

    def classify_texts(self, texts: Sequence[str]) -> list[str]:
        """The class of each text, or OTHER; see `TextClassifier.labels`."""
        return self._classifier.labels(texts)
