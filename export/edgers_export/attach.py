"""A bundle with one more oracle: a copy of it, and the oracle's graph, weights and tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgers_engines.atomic import check_new, new_folder
from edgers_engines.bundle import MANIFEST, Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.graph_record import Graph
from edgers_engines.oracle_record import Classifier, Clusters, Embedded, Labelled, Pairs, TextModel
from edgers_engines.records import dump
from edgers_engines.text_classifier import TextClassifier
from edgers_engines.text_embedder import cosine_difference, directions
from edgers_engines.text_graph import TextGraph
from edgers_export.bundle import FINEST_MARGIN, MARGIN_FACTOR, files_of
from edgers_export.embedder import Embedder, cosines
from edgers_export.student import Student
from edgers_export.text_reader import TextReader

_TESTED = 4  # texts that a device repeats when it loads the oracle
_UNMEASURED = Pairs(matching=0, pairs=0)


def attach(
    bundle: Bundle,
    student: Student,
    name: str,
    texts: Sequence[str],
    out: Path,
    *,
    calibrate: Callable[[TextClassifier], Classifier] = lambda loaded: loaded.record,
) -> Bundle:
    """Write a copy of a bundle that has the student as an oracle too.

    Args:
        bundle: verified bundle.
        student: trained.
        name: of the oracle; a file's name, so letters, digits and . _ -.
        texts: on which the graph is compared with PyTorch; the first few become the oracle's self-test.
        out: directory to make; it appears only when everything in it is complete.
        calibrate: asks the student, loaded as a device loads it, about calibration answers, and returns its
            record with what they showed.

    Returns:
        The new bundle, loaded back from `out`.

    Raises:
        InputError: `out` is there already, the bundle has an oracle of that name, or the student can read
            none of the texts.
        BundleError: what was written is no bundle, as when the oracle's name is not one.
    """

    def written(folder: Path) -> Classifier:
        record = _classifier(student, name, texts, student.write(folder, _file(name)))
        wanted = student.logits(texts)
        unfinished = _unfinished(bundle, folder, record)
        found = TextGraph(unfinished, record, open_backend()).vectors(texts)
        # How large a lead must be that no rounding can undo it.
        rounding = FINEST_MARGIN * float(np.nanmax(abs(wanted)))
        tolerance = max(MARGIN_FACTOR * float(np.nanmax(abs(found - wanted))), rounding)
        record = replace(record, margin_tolerance=tolerance)
        return calibrate(TextClassifier(unfinished, record, open_backend()))

    return _extended(bundle, name, out, written)


def attach_embedder(
    bundle: Bundle, embedder: Embedder, name: str, labelled: Mapping[str, str], out: Path
) -> Bundle:
    """Write a copy of a bundle that has one more oracle: clusters of texts whose embeddings are alike.

    The threshold is the smallest that at most 1% of the pairs of texts with two labels exceed, but at least
    0; how many pairs match is counted in the manifest.

    Args:
        bundle: verified bundle.
        embedder: texts to vectors.
        name: of the oracle; a file's name, so letters, digits and . _ -.
        labelled: texts held out from training, and the label of each. On them the threshold is chosen, and
            the graph compared with PyTorch; the shortest few become the oracle's self-test.
        out: directory to make; it appears only when everything in it is complete.

    Returns:
        The new bundle, loaded back from `out`.

    Raises:
        InputError: `out` is there already, the bundle has an oracle of that name, there are too few texts, or
            the embeddings do not tell the labels apart.
        BundleError: what was written is no bundle, as when the oracle's name is not one.
    """
    texts, labels = [*filter(None, labelled)], [label for text, label in labelled.items() if text]
    if len(set(labels)) < 2:
        raise InputError(f"texts of the labels {sorted(set(labels))}: an embedding is tested on two or more")

    def written(folder: Path) -> Clusters:
        record = _clusters(embedder, name, texts, embedder.write(folder, _file(name)))
        loaded = TextGraph(_unfinished(bundle, folder, record), record, open_backend())
        found = directions(loaded.vectors(texts))
        compared = cosines(found, labels)
        difference = cosine_difference(*_readable(found, directions(embedder.vectors(texts))))
        tolerance = max(MARGIN_FACTOR * difference, FINEST_MARGIN)
        if not (threshold := compared.threshold) + tolerance < 1:
            raise InputError(
                f"texts of two labels have cosines of {threshold}: the embedding does not tell them apart, "
                "learn from more or clearer texts"
            )
        same, different = compared.matching(threshold, tolerance)
        return replace(record, threshold=threshold, tolerance=tolerance, same=same, different=different)

    return _extended(bundle, name, out, written)


def _extended(
    bundle: Bundle, name: str, out: Path, written: Callable[[Path], Classifier | Clusters]
) -> Bundle:
    """The copy with the oracle that `written` leaves in a folder of the bundle's other files."""
    if name in {oracle.name for oracle in bundle.manifest.oracles}:
        raise InputError(f"the bundle has an oracle {name!r} already: choose another --name")
    check_new(out)
    with new_folder(out) as scratch:
        for file in bundle.manifest.files:
            shutil.copyfile(bundle.path / file.path, scratch / file.path)
        oracles = (*bundle.manifest.oracles, written(scratch))
        manifest = replace(bundle.manifest, oracles=oracles, files=files_of(scratch))
        (scratch / MANIFEST).write_bytes(dump(manifest))
        made = Bundle.load(scratch)  # what a device would refuse must not be published
    made.path = out
    return made


def _classifier(student: Student, name: str, texts: Sequence[str], graph: Graph) -> Classifier:
    tested = _tested(student, texts)
    return Classifier(
        name=name,
        labels=student.classes,
        graph=graph,
        weights=f"{_file(name)}.bin",
        tokenizer=f"{_file(name)}.json",
        vocabulary=student.vocabulary,
        max_tokens=student.max_tokens,
        margin_tolerance=0.0,
        self_test=tuple(
            Labelled(text=text, logits=tuple(row))
            for text, row in zip(tested, student.logits(tested).tolist(), strict=True)
        ),
        calibration=(),
        conditions=(),
    )


def _clusters(embedder: Embedder, name: str, texts: Sequence[str], graph: Graph) -> Clusters:
    tested = _tested(embedder, sorted(texts, key=len))
    return Clusters(
        name=name,
        graph=graph,
        weights=f"{_file(name)}.bin",
        tokenizer=f"{_file(name)}.json",
        vocabulary=embedder.vocabulary,
        max_tokens=embedder.max_tokens,
        threshold=0.0,
        tolerance=0.0,
        same=_UNMEASURED,
        different=_UNMEASURED,
        self_test=tuple(
            Embedded(text=text, embedding=tuple(row))
            for text, row in zip(tested, embedder.vectors(tested).tolist(), strict=True)
        ),
    )


def _tested(reader: TextReader, texts: Sequence[str]) -> list[str]:
    """The first few texts that can be read."""
    readable = [text for text, row in zip(texts, reader.rows(texts), strict=True) if row]
    if not (tested := list(dict.fromkeys(readable))[:_TESTED]):
        raise InputError(f"none of {len(texts)} texts can test the oracle: each is empty or too long for it")
    return tested


def _unfinished(bundle: Bundle, folder: Path, record: TextModel) -> Bundle:
    """A bundle without a digest, that an oracle's graph can be loaded from as a device loads it."""
    contents = {name: (folder / name).read_bytes() for name in (record.graph.file, record.tokenizer)}
    manifest = replace(bundle.manifest, files=files_of(folder))
    return Bundle(folder, manifest, digest="", contents=contents)


def _readable(*rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The rows without those where one is not a number."""
    finite = np.all([np.isfinite(each).all(1) for each in rows], axis=0)
    return [each[finite] for each in rows]


def _file(name: str) -> str:
    return f"oracle-{name}"
