"""A bundle with one more oracle: a copy of it, and a student's graph, weights and tokenizer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from edgers_engines.atomic import check_new, new_folder
from edgers_engines.bundle import MANIFEST, Bundle
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.manifest import Classifier, Confusion, Labelled, Manifest
from edgers_engines.records import dump
from edgers_engines.text_classifier import TextClassifier
from edgers_export.bundle import FINEST_MARGIN, MARGIN_FACTOR, files_of
from edgers_export.student import MAX_TOKENS, Student

_TESTED = 4  # texts that a device repeats when it loads the oracle


def attach(
    bundle: Bundle,
    student: Student,
    name: str,
    texts: Sequence[str],
    out: Path,
    *,
    count: Callable[[TextClassifier], tuple[Confusion, ...]] = lambda _loaded: (),
) -> Bundle:
    """Write a copy of a bundle that has the student as an oracle too.

    Args:
        bundle: verified bundle.
        student: trained.
        name: of the oracle; a file's name, so letters, digits and . _ -.
        texts: on which the graph is compared with PyTorch; the first few become the oracle's self-test.
        out: directory to make; it appears only when everything in it is complete.
        count: asks the student, loaded as a device loads it, about calibration answers.

    Returns:
        The new bundle, loaded back from `out`.

    Raises:
        InputError: `out` is there already, or the bundle has an oracle of that name.
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
        measured = _measured(scratch, manifest, record, student, texts)
        measured = replace(measured, calibration=count(_loaded(scratch, manifest, measured)))
        manifest = replace(manifest, oracles=(*bundle.manifest.oracles, measured))
        (scratch / MANIFEST).write_bytes(dump(manifest))
        made = Bundle.load(scratch)  # what a device would refuse must not be published
    made.path = out
    return made


def _record(student: Student, name: str, texts: Sequence[str], folder: Path) -> Classifier:
    graph = student.write(folder, f"oracle-{name}")
    tested = list(dict.fromkeys(texts))[:_TESTED]
    return Classifier(
        name=name,
        labels=student.classes,
        graph=graph,
        weights=f"oracle-{name}.bin",
        tokenizer=f"oracle-{name}.json",
        vocabulary=student.tokenizer.get_vocab_size(),
        max_tokens=MAX_TOKENS,
        margin_tolerance=math.inf,
        self_test=tuple(
            Labelled(text=text, logits=tuple(row))
            for text, row in zip(tested, student.logits(tested).tolist(), strict=True)
        ),
        calibration=(),
    )


def _measured(
    folder: Path, manifest: Manifest, record: Classifier, student: Student, texts: Sequence[str]
) -> Classifier:
    """The record with how large a lead must be that no rounding can undo it; measured beside PyTorch."""
    wanted = student.logits(texts)
    difference = float(np.nanmax(abs(_loaded(folder, manifest, record).logits(texts) - wanted)))
    tolerance = max(MARGIN_FACTOR * difference, FINEST_MARGIN * float(abs(wanted).max()))
    return replace(record, margin_tolerance=tolerance)


def _loaded(folder: Path, manifest: Manifest, record: Classifier) -> TextClassifier:
    names = (record.graph.file, record.tokenizer)
    contents = {name: (folder / name).read_bytes() for name in names}
    return TextClassifier(Bundle(folder, manifest, digest="", contents=contents), record, open_backend())
