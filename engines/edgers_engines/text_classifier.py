"""A bundle's text classifier at run time: texts in, logits out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend
from edgers_engines.oracle_record import OTHER, Classifier
from edgers_engines.text_graph import TextGraph, check_self_test


class TextClassifier(TextGraph):
    """A classifier's graph and tokenizer, loaded on one backend and tested.

    Args:
        bundle: verified bundle.
        record: one of its classifiers.
        backend: where to run.

    Raises:
        BackendError: the graph cannot be loaded there, or gives other numbers than the self-test has.
        BundleError: the tokenizer is broken, or the weights changed since the bundle was loaded.
    """

    def __init__(self, bundle: Bundle, record: Classifier, backend: Backend) -> None:
        super().__init__(bundle, record, backend)
        self.record = record
        texts = [labelled.text for labelled in record.self_test]
        wanted = np.array([labelled.logits for labelled in record.self_test])
        for logits in (self.logits, self.crowded):
            difference = 2 * abs(logits(texts) - wanted).max()  # a lead is of two logits
            check_self_test(record.name, "lead", float(difference), record.margin_tolerance)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits [texts, labels]; NaN for a text that has no token, or too many.

        Raises:
            BackendError, BundleError: see `vectors`.
        """
        return self.vectors(texts)

    def labels(self, texts: Sequence[str]) -> list[str]:
        """The label of the largest logit; OTHER where it leads by no more than rounding, or is no number.

        Raises:
            BackendError, BundleError: as `logits`.
        """
        if not texts:
            return []
        logits = self.logits(texts)
        # What is not finite is no number to compare by: such a text is OTHER, as one that cannot be read.
        finite = np.where(np.isfinite(logits).all(axis=1, keepdims=True), logits, np.float32(0))
        second, first = np.partition(finite, -2, axis=1)[:, -2:].T
        clear = first - second > self.record.margin_tolerance
        best = logits.argmax(1)
        return [
            self.record.labels[index] if leads else OTHER for index, leads in zip(best, clear, strict=True)
        ]
