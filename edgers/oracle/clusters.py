"""Semantic clusters: the class is what means the same as one answer, chosen by the selection and then frozen.

Source: Seferis et al. (arXiv 2509.16088), algorithm 2, which clusters the very answers that it counts; that
is unsound, as `edgers.oracle.unsound_clusters` shows. Here the selection's answers choose a representative,
and each fresh answer is compared with it alone: no cluster grows, no two answers are compared, and nothing
follows from a third one. So the frozen oracle is a fixed map, like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgers.oracle.base import FAILED, OTHER, RESERVED, OracleRecord, digest
from edgers.oracle.definition import SAME
from edgers.oracle.judge import Judge
from edgers_engines.manifest import Manifest
from edgers_engines.text_embedder import TextEmbedder
from edgers_engines.vlm import Answer

CANDIDATES = 64  # of the selection's texts, the most frequent: each is compared with all others
_KEPT = 1024  # directions of texts; answers repeat


class Equivalence(Protocol):
    """A fixed test whether texts mean what another one means: its verdict depends on the two texts alone."""

    @property
    def definition(self) -> object:
        """All that the verdicts follow from, for a digest; files by their own digests."""

    @property
    def kind(self) -> Literal["clusters", "judged clusters"]:
        """What sort of oracle it makes."""

    @property
    def failure(self) -> str | None:
        """Why the first two texts that could not be compared were not; None where all were."""

    def matches(self, representative: str, texts: Sequence[str]) -> Sequence[bool | None]:
        """Whether each text means what the representative means; None where that could not be asked."""


class Judged:
    """Texts mean the same if a judge says so of the two.

    Args:
        judge: of the classes "same" and "different".
    """

    kind: Literal["judged clusters"] = "judged clusters"

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.definition = judge.record

    @property
    def failure(self) -> str | None:
        """Why the judge could not be asked."""
        return self._judge.failure

    def matches(self, representative: str, texts: Sequence[str]) -> list[bool | None]:
        """What the judge says of each text beside the representative; a text means what it means itself."""
        others = [text for text in texts if text != representative]
        labels = self._judge.classify_texts([f"1. {representative}\n2. {text}" for text in others])
        said = dict(zip(others, labels, strict=True))
        verdicts = {text: None if label == FAILED else label == SAME for text, label in said.items()}
        return [True if text == representative else verdicts[text] for text in texts]


class Embedding:
    """Texts mean the same if the cosine of their embeddings is large enough.

    A cosine within rounding of the threshold is no match. So whatever an exact cosine would not match is not
    counted, and a certificate holds for the exact test, whoever sat beside a text while it was embedded.
    """

    kind: Literal["clusters"] = "clusters"
    failure = None

    def __init__(self, embedder: TextEmbedder, bundle: Manifest) -> None:
        self._embedder = embedder
        self.definition = [embedder.record, *bundle.digests(embedder.record)]
        self._known: dict[str, NDArray[np.float64]] = {}

    def matches(self, representative: str, texts: Sequence[str]) -> list[bool]:
        """Whether each text's cosine with the representative exceeds the threshold by more than rounding."""
        if not texts:
            return []
        record = self._embedder.record
        first, *rest = self._directions([representative, *texts])
        over = np.array(rest) @ first - record.threshold  # not a number where a text cannot be read
        found: list[bool] = (over > record.tolerance).tolist()
        return found

    def _directions(self, texts: Sequence[str]) -> list[NDArray[np.float64]]:
        if len(self._known) > _KEPT:
            self._known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._embedder.directions(new), strict=True))
        return [self._known[text] for text in texts]


class Clusters:
    """An oracle for free text that has no class before a selection's answers freeze one.

    Args:
        name: of the oracle.
        equivalence: when two texts mean the same.
    """

    constraint = None
    max_new_tokens = None

    def __init__(self, name: str, equivalence: Equivalence) -> None:
        self.name, self.equivalence = name, equivalence

    def freeze(self, answers: Sequence[Answer], stop: Callable[[], bool] = lambda: False) -> Cluster:
        """The oracle whose class is named by the answer that most of these answers mean, itself included.

        Ties go to the answer that came first. Of more than 64 texts, the most frequent are asked. A text that
        cannot name a class represents none; if none can, or none matches even itself, there is no class.

        Args:
            answers: complete ones of the selection.
            stop: asked before each candidate is compared; when it says so, there is no class.
        """
        counts = Counter(joined(answer.text) for answer in answers)
        candidates = {text for text, _ in counts.most_common(CANDIDATES) if is_name(text)}
        meant: dict[str, int] = {}
        for text in filter(candidates.__contains__, counts):
            if stop():
                return Cluster(self.name, self.equivalence, None)
            meant[text] = self._meant(text, counts)
        best = max(meant, key=lambda text: meant[text], default="")
        return Cluster(self.name, self.equivalence, best if meant.get(best) else None)

    def _meant(self, representative: str, counts: Counter[str]) -> int:
        texts = list(counts)
        matches = self.equivalence.matches(representative, texts)
        return sum(counts[text] for text, same in zip(texts, matches, strict=True) if same)


class Cluster:
    """A frozen oracle: one class, which is what means the same as its representative, and OTHER.

    Args:
        name: of the oracle.
        equivalence: when two texts mean the same.
        representative: names the class; None for no class, so that all is OTHER.
    """

    constraint = None
    max_new_tokens = None

    def __init__(self, name: str, equivalence: Equivalence, representative: str | None) -> None:
        self._equivalence, self._representative = equivalence, representative
        classes = () if representative is None else (representative,)
        self.record = OracleRecord(
            kind=equivalence.kind,
            name=name,
            classes=classes,
            sha256=digest([equivalence.definition, *classes]),
        )

    @property
    def failure(self) -> str | None:
        """Why the first text that could not be compared was not."""
        return self._equivalence.failure

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """The class of each answer's text."""
        return self.classify_texts([answer.text for answer in answers])

    def classify_texts(self, texts: Sequence[str]) -> list[str]:
        """The representative for each text that means the same, compared with it alone; else OTHER."""
        if self._representative is None:
            return [OTHER if self.failure is None else FAILED] * len(texts)
        matches = self._equivalence.matches(self._representative, [joined(text) for text in texts])
        labels = {True: self._representative, False: OTHER, None: FAILED}
        return [labels[same] for same in matches]


def joined(text: str) -> str:
    """The text with single blanks for its runs of whitespace: what is compared, and what names a class."""
    return " ".join(text.split())


def is_name(text: str) -> bool:
    """Whether a text can name a class: it is neither empty nor reserved, all of it printable and joined."""
    return bool(text) and text not in RESERVED and text.isprintable() and text == joined(text)
