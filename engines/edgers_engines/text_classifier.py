"""A bundle's text classifier at run time: texts in, logits out, each a function of its own text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend
from edgers_engines.errors import BackendError, BundleError
from edgers_engines.manifest import Classifier
from edgers_engines.tokenizer import frame, read_tokenizer

ROWS = 256  # texts answered at once


class TextClassifier:
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
        self.record = record
        try:
            self._tokenizer = read_tokenizer(bundle.read(record.tokenizer), record.vocabulary)
        except ValueError as error:
            raise BundleError(f"{bundle.path / record.tokenizer} {error}") from None
        self._frame = len(frame(self._tokenizer))
        with bundle.weights(record.weights) as weights:
            self._engine = backend.load(bundle.read(record.graph.file), record.graph, weights)
        self._check()

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits [texts, classes]; NaN for a text that has no token of its own, or too many.

        Equal texts are answered once. Texts of one length are answered together, so none is padded, and a
        text's logits depend on its neighbours by rounding at most.

        Raises:
            BackendError: the graph cannot be run.
            BundleError: the tokenizer fails on a text.
        """
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        rows = self._ids(list(places))
        found = np.full((len(rows), len(self.record.classes)), np.nan, np.float32)
        by_length = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        for length, group in groupby(by_length, key=lambda place: len(rows[place])):
            if self._frame < length <= self.record.max_tokens:
                members = list(group)
                for start in range(0, len(members), ROWS):
                    part = members[start : start + ROWS]
                    found[part] = self._run([rows[place] for place in part])
        return found[[places[text] for text in texts]]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        try:
            return [text.ids for text in self._tokenizer.encode_batch(texts)]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  the Rust side panics as BaseException
            raise BundleError(f"the tokenizer of the oracle {self.record.name} fails: {error}") from None

    def _run(self, rows: list[list[int]]) -> NDArray[np.float32]:
        ids = np.array(rows, np.int64)
        out = np.empty((len(rows), len(self.record.classes)), np.float32)
        self._engine.run({"ids": ids, "mask": np.ones_like(ids)}, {"logits": out})
        return out

    def _check(self) -> None:
        expected = self.record.self_test
        found = self.logits([labelled.text for labelled in expected])
        difference = abs(found - np.array([labelled.logits for labelled in expected])).max()
        if not difference <= self.record.margin_tolerance:
            raise BackendError(
                f"the self-test of the oracle {self.record.name} failed on this machine: a logit is "
                f"{difference:.2g} off, and the bundle allows {self.record.margin_tolerance:.2g}; try "
                "another backend or version of it, or make the oracle anew"
            )
