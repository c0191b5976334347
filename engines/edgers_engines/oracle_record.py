"""What manifest.json says of an oracle: rules, a learned classifier, or clusters of embeddings."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edgers_engines.fields import Count, Name, NonNegative, Size
from edgers_engines.graph_record import Graph, Signature, Tensor
from edgers_engines.records import Record

OTHER = "OTHER"  # what is of no class
RESERVED = (OTHER, "UNDECIDED", "FAILED")  # classes that no oracle may have; see edgers.oracle.base
MAX_LETTERS = 100_000  # of all patterns of one oracle; see docs/decisions/003
Pattern = Annotated[str, Meta(min_length=1, max_length=1000)]


class Rule(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A pattern of words and the class it stands for; see edgers.oracle.pattern for the pattern language.

    The rule does not match a text that one of the patterns in `unless` matches: "* harmful *" unless
    "* not harmful *".
    """

    pattern: Pattern
    label: Annotated[str, Meta(min_length=1)]
    unless: Annotated[tuple[Pattern, ...], Meta(max_length=100)] = ()


class Rules(Record, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="rules"):
    """An oracle made of ordered rules; the first that matches names the class.

    With a `field`, what the rules read is that field of the JSON object in the answer, and not the answer;
    see edgers.oracle.json_field.
    """

    name: Name
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=1000)]
    field: Annotated[str, Meta(min_length=1, max_length=100)] | None = None

    def __post_init__(self) -> None:
        """Refuse more patterns than an answer can be compared with in passing.

        Raises:
            ValueError: all patterns together are too long.
        """
        letters = sum(len(text) for rule in self.rules for text in (rule.pattern, *rule.unless))
        if letters > MAX_LETTERS:
            raise ValueError(
                f"the patterns of {self.name} have {letters} letters; at most {MAX_LETTERS} can be"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """What a rule can name, in order."""
        return tuple(dict.fromkeys(rule.label for rule in self.rules))


class Labelled(Record, frozen=True, kw_only=True):
    """A text and the logits that PyTorch gave it."""

    text: Annotated[str, Meta(min_length=1)]
    logits: Annotated[tuple[float, ...], Meta(min_length=2)]


class _TextModel(Record, frozen=True, kw_only=True):
    """An oracle's graph from a text's token ids to a vector.

    A text cannot be read if it has no token of its own, or more than `max_tokens` with the special ones that
    the tokenizer puts around it.
    """

    name: Name
    graph: Graph
    weights: Name
    tokenizer: Name
    vocabulary: Size
    max_tokens: Annotated[int, Meta(ge=1, le=4096)]


class Confusion(Record, frozen=True, kw_only=True):
    """How often, of calibration answers, the teacher said one class and the student another, or the same."""

    teacher: str
    student: str
    count: Count


class Condition(Record, frozen=True, kw_only=True):
    """What calibration answers were to: a question, and the noise on the images."""

    prompt: str
    sigma: NonNegative


class Classifier(_TextModel, frozen=True, kw_only=True, tag_field="kind", tag="classifier"):
    """An oracle learned from a teacher: a graph from a text's token ids to a logit for each label.

    A label is a class, or OTHER where texts of no class were learned too. A text gets the label with the
    largest logit if that leads by more than `margin_tolerance`; else, and if it cannot be read, it is OTHER.
    `self_test` is asked when the graph is loaded. `calibration` counts answers that were held out from
    learning, one for each image, and `conditions` say what they were to, where that is known; no label
    follows from either.
    """

    labels: Annotated[tuple[str, ...], Meta(min_length=2, max_length=1000)]
    margin_tolerance: NonNegative
    self_test: Annotated[tuple[Labelled, ...], Meta(min_length=1, max_length=16)]
    calibration: tuple[Confusion, ...]
    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        """Refuse parts that speak of other labels.

        Raises:
            ValueError: a text of the self-test has not a logit for each label, a count is of no label, or
                two are of the same pair.
        """
        if any(len(labelled.logits) != len(self.labels) for labelled in self.self_test):
            raise ValueError(f"the self-test of the oracle {self.name} has not a logit for each label")
        pairs = [(each.teacher, each.student) for each in self.calibration]
        if not {name for pair in pairs for name in pair} <= {*self.labels, OTHER}:
            raise ValueError(f"the calibration of the oracle {self.name} counts a class that it has not")
        if len(set(pairs)) < len(pairs):
            raise ValueError(f"the calibration of the oracle {self.name} counts a pair of classes twice")

    @property
    def classes(self) -> tuple[str, ...]:
        """What it can name, in order."""
        return tuple(label for label in self.labels if label != OTHER)

    @property
    def output(self) -> Tensor:
        """A logit for each label."""
        return Tensor(name="logits", dtype="float32", shape=("batch", len(self.labels)))


class Embedded(Record, frozen=True, kw_only=True):
    """A text and the embedding that PyTorch gave it; its length does not matter, its direction does."""

    text: Annotated[str, Meta(min_length=1)]
    embedding: Annotated[tuple[float, ...], Meta(min_length=2, max_length=4096)]


class Pairs(Record, frozen=True, kw_only=True):
    """How many pairs of texts there were, and how many of them match."""

    matching: Annotated[int, Meta(ge=0)]
    pairs: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        """Refuse more matches than pairs.

        Raises:
            ValueError: there are.
        """
        if self.matching > self.pairs:
            raise ValueError(f"{self.matching} of {self.pairs} pairs match")


class Clusters(_TextModel, frozen=True, kw_only=True, tag_field="kind", tag="clusters"):
    """An oracle without classes of its own: texts mean the same if their embeddings' cosine is large.

    A text matches another if the cosine exceeds `threshold` by more than `tolerance`, which is what rounding
    can make of a cosine. A text that cannot be read matches none. `same` and
    `different` count pairs of texts that were not learned from, of one label and of two. `self_test` is asked
    when the graph is loaded.
    """

    threshold: Annotated[float, Meta(gt=-1, lt=1)]
    tolerance: NonNegative
    same: Pairs
    different: Pairs
    self_test: Annotated[tuple[Embedded, ...], Meta(min_length=1, max_length=16)]

    def __post_init__(self) -> None:
        """Refuse a test that no text passes, and a self-test of other widths.

        Raises:
            ValueError: as said.
        """
        if not self.threshold + self.tolerance < 1:
            raise ValueError(
                f"the oracle {self.name} asks for a cosine above {self.threshold} + {self.tolerance}, which "
                "no text has with itself"
            )
        if len({len(embedded.embedding) for embedded in self.self_test}) != 1:
            raise ValueError(f"the self-test of the oracle {self.name} has embeddings of several widths")

    @property
    def classes(self) -> tuple[str, ...]:
        """None before a selection froze them."""
        return ()

    @property
    def output(self) -> Tensor:
        """An embedding as wide as those of the self-test."""
        width = len(self.self_test[0].embedding)
        return Tensor(name="vector", dtype="float32", shape=("batch", width))


TextModel = Classifier | Clusters


def text_signature(model: TextModel) -> Signature:
    """Inputs and outputs of an oracle's graph; the mask is 0 on padding, else 1."""
    text = ("batch", "seq")
    return tuple(Tensor(name=name, dtype="int64", shape=text) for name in ("ids", "mask")), (model.output,)
