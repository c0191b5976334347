"""A bundle with one more oracle: a copy of it, and a student's graph, weights and tokenizer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from edgers_engines.atomic import check_new, new_folder
from edgers_engines.bundle import MANIFEST, Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.manifest import Classifier, Labelled, Manifest
from edgers_engines.records import dump
from edgers_engines.text_classifier import TextClassifier
from edgers_export.bundle import FINEST_MARGIN, MARGIN_FACTOR, files_of
from edgers_export.student import Student

_TESTED = 4  # texts that a device repeats when it loads the oracle


def attach(bundle: Bundle, student: Student, name: str, texts: Sequence[str], out: Path) -> Bundle:
    """Write a copy of a bundle that has the student as an oracle too.

    Args:
        bundle: verified bundle.
        student: trained.
        name: of the oracle; a file's name, so letters, digits and . _ -.
        texts: on which the graph is compared with PyTorch; the first few become the oracle's self-test.
        out: directory to make; it appears only when everything in it is complete.

    Returns:
        The new bundle, loaded back from `out`.

    Raises:
        InputError: `out` is there already, the bundle has an oracle of that name, or the student can read
            none of the texts.
        BundleError: what was written is no bundle, as when the oracle's name is not one.
    """
    if name in {oracle.name for oracle in bundle.manifest.oracles}:
        raise InputError(f"the bundle has an oracle {name!r} already: choose another --name")
    check_new(out)
    with new_folder(out) as scratch:
        for file in bundle.manifest.files:
            shutil.copyfile(bundle.path / file.path, scratch / file.path)
        record = _record(student, name, texts, scratch)
        manifest = replace(
            bundle.manifest, oracles=(*bundle.manifest.oracles, record), files=files_of(scratch)
        )
        measured = replace(record, margin_tolerance=_tolerance(scratch, manifest, record, student, texts))
        manifest = replace(manifest, oracles=(*bundle.manifest.oracles, measured))
        (scratch / MANIFEST).write_bytes(dump(manifest))
        made = Bundle.load(scratch)  # what a device would refuse must not be published
    made.path = out
    return made


def _record(student: Student, name: str, texts: Sequence[str], folder: Path) -> Classifier:
    readable = [text for text, row in zip(texts, student.rows(texts), strict=True) if row]
    if not (tested := list(dict.fromkeys(readable))[:_TESTED]):
        raise InputError(f"none of {len(texts)} texts can test the oracle: each is empty or too long for it")
    graph = student.write(folder, f"oracle-{name}")
    return Classifier(
        name=name,
        classes=student.classes,
        graph=graph,
        weights=f"oracle-{name}.bin",
        tokenizer=f"oracle-{name}.json",
        vocabulary=student.vocabulary,
        max_tokens=student.max_tokens,
        margin_tolerance=math.inf,
        self_test=tuple(
            Labelled(text=text, logits=tuple(row))
            for text, row in zip(tested, student.logits(tested).tolist(), strict=True)
        ),
    )


def _tolerance(
    folder: Path, manifest: Manifest, record: Classifier, student: Student, texts: Sequence[str]
) -> float:
    """How large a lead must be that no rounding can undo it; measured beside PyTorch."""
    names = (record.graph.file, record.tokenizer)
    contents = {name: (folder / name).read_bytes() for name in names}
    loaded = TextClassifier(Bundle(folder, manifest, digest="", contents=contents), record, open_backend())
    wanted = student.logits(texts)
    difference = float(np.nanmax(abs(loaded.logits(texts) - wanted)))
    return max(MARGIN_FACTOR * difference, FINEST_MARGIN * float(np.nanmax(abs(wanted))))
