"""A learned oracle: the class of the largest logit, where it leads by more than rounding; else OTHER."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgers.oracle.base import OTHER, OracleRecord, digest
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
        files = {file.path: file.sha256 for file in manifest.files}
        named = definition.graph.file, definition.weights, definition.tokenizer
        self.record = OracleRecord(
            kind="classifier",
            name=definition.name,
            classes=definition.classes,
            sha256=digest([definition, *(files[name] for name in named)]),
        )

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """The class of each answer's text."""
        return self.classify_texts([answer.text for answer in answers])

    def classify_texts(self, texts: Sequence[str]) -> list[str]:
        """The class of each text, or OTHER: it is empty or too long, or two classes are within rounding."""
        if not texts:
            return []
        logits = self._classifier.logits(texts)
        second, first = np.partition(logits, -2, axis=1)[:, -2:].T
        clear = first - second > self._classifier.record.margin_tolerance  # false where a logit is no number
        best = logits.argmax(1)
        return [
            self.record.classes[index] if leads else OTHER for index, leads in zip(best, clear, strict=True)
        ]
