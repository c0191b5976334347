"""A bundle's text graph at run time: texts in, vectors out, each a function of its own text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend
from edgers_engines.errors import BackendError, BundleError
from edgers_engines.oracle_record import TextModel
from edgers_engines.tokenizer import frame, read_tokenizer

ROWS = 256  # texts answered at once


class TextGraph:
    """An oracle's graph and tokenizer, loaded on one backend.

    Args:
        bundle: verified bundle.
        record: of one of its oracles that have a graph.
        backend: where to run.

    Raises:
        BackendError: the graph cannot be loaded there.
        BundleError: the tokenizer is broken, or the weights changed since the bundle was loaded.
    """

    def __init__(self, bundle: Bundle, record: TextModel, backend: Backend) -> None:
        self._name, self._max_tokens = record.name, record.max_tokens
        self._vocabulary = record.vocabulary
        self._output, self._width = record.output.name, int(record.output.shape[1])
        try:
            self._tokenizer = read_tokenizer(bundle.read(record.tokenizer), record.vocabulary)
        except ValueError as error:
            raise BundleError(f"{bundle.path / record.tokenizer} {error}") from None
        self._frame = len(frame(self._tokenizer))
        with bundle.weights(record.weights) as weights:
            self.engine = backend.load(bundle.read(record.graph.file), record.graph, weights)

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the graph gives, [texts, width]; NaN for a text that has no token of its own, or too many.

        Equal texts are answered once. Texts of one length are answered together, so none is padded, and a
        text's vector depends on its neighbours by rounding at most.

        Raises:
            BackendError: the graph cannot be run.
            BundleError: the tokenizer fails on a text.
        """
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        rows = self._ids(list(places))
        found = np.full((len(rows), self._width), np.nan, np.float32)
        by_length = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        for length, group in groupby(by_length, key=lambda place: len(rows[place])):
            if self._frame < length <= self._max_tokens:
                members = list(group)
                for start in range(0, len(members), ROWS):
                    part = members[start : start + ROWS]
                    found[part] = self._run([rows[place] for place in part])
        return found[[places[text] for text in texts]]

    def crowded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `vectors`, of texts that can be read, but each beside rows of other tokens, for self-tests.

        Arithmetic that couples the rows of a batch makes these differ from a text's own vectors.
        """
        limit = self.engine.limits.get("batch")
        count = limit.most if limit else 3  # in larger batches another kernel may be chosen
        shifts = [self._vocabulary * place // count for place in range(count)]
        return np.stack(
            [
                self._run([[(token + shift) % self._vocabulary for token in row] for shift in shifts])[0]
                for row in self._ids(list(texts))
            ]
        )

    def _ids(self, texts: list[str]) -> list[list[int]]:
        try:
            return [text.ids for text in self._tokenizer.encode_batch(texts)]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  the Rust side panics as BaseException
            raise BundleError(f"the tokenizer of the oracle {self._name} fails: {error}") from None

    def _run(self, rows: list[list[int]]) -> NDArray[np.float32]:
        ids = np.array(rows, np.int64)
        out = np.empty((len(rows), self._width), np.float32)
        self.engine.run({"ids": ids, "mask": np.ones_like(ids)}, {self._output: out})
        return out


def check_self_test(name: str, kind: str, difference: float, tolerance: float) -> None:
    """Refuse a graph that does not give what its self-test has.

    Args:
        name: of the oracle.
        kind: what the difference is of.
        difference: the largest; NaN where one cannot be computed.
        tolerance: the bundle's.

    Raises:
        BackendError: the difference is larger, or no number.
    """
    if not difference <= tolerance:
        raise BackendError(
            f"the self-test of the oracle {name} failed on this machine: a {kind} is {difference:.2g} off, "
            f"and the bundle allows {tolerance:.2g}; try another backend or version of it, or make the "
            "oracle anew"
        )
