"""What manifest.json says: strict records, one for each thing a device must know before it runs a bundle."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from edgers_engines.image import Preparation
from edgers_engines.records import Record

SCHEMA_VERSION: Literal[3] = 3

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Size = Annotated[int, Meta(ge=1, le=1 << 20)]  # of one dimension that memory is allocated by
Token = Annotated[int, Meta(ge=0, lt=1 << 31)]
Dtype = Literal["float32", "float16", "int64", "bool"]
Precision = Literal["fp32", "fp16"]
OTHER = "OTHER"  # what is of no class
RESERVED = (OTHER, "UNDECIDED", "FAILED")  # classes that no oracle may have; see edgers.oracle.base
ACTIVATIONS: dict[Precision, Dtype] = {"fp32": "float32", "fp16": "float16"}
Opset = Annotated[int, Meta(ge=24, le=25)]  # 24 is the first with TensorScatter, 25 the last that was tried
NonNegative = Annotated[float, Meta(ge=0)]
MAX_LETTERS = 100_000  # of all patterns of one oracle; see docs/decisions/003
Pattern = Annotated[str, Meta(min_length=1, max_length=1000)]


class File(Record, frozen=True, kw_only=True):
    """One file of the bundle besides the manifest."""

    path: Name
    size: Count
    sha256: Sha256


class Tensor(Record, frozen=True, kw_only=True):
    """One input or output of a graph; a dimension is a number or the name of a free one."""

    name: str
    dtype: Dtype
    shape: tuple[Count | Name, ...]


class Graph(Record, frozen=True, kw_only=True):
    """An ONNX graph and its signature, in the graph's own order."""

    file: Name
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Graphs(Record, frozen=True, kw_only=True):
    """The graphs every vision-language bundle has."""

    vision: Graph
    embed: Graph
    decoder: Graph

    def named(self) -> tuple[tuple[str, Graph], ...]:
        """Each graph with its name in the manifest."""
        return ("vision", self.vision), ("embed", self.embed), ("decoder", self.decoder)


class Dimensions(Record, frozen=True, kw_only=True):
    """The sizes that the runtime allocates by."""

    image_tokens: Size
    hidden: Size
    vocabulary: Size
    layers: Annotated[int, Meta(ge=1, le=1000)]
    kv_heads: Size
    head_dim: Size
    max_length: Annotated[int, Meta(ge=1, le=1 << 24)]


class PromptTemplate(Record, frozen=True, kw_only=True):
    """How a prompt becomes token ids: before_image | image | text_before + prompt + text_after | after.

    The text around the prompt and the prompt are encoded in one run, as plain text: nothing a user writes can
    become a special token. `answer_prefix` is what stands between the template and an answer's first letter.
    """

    before_image: tuple[Token, ...]
    text_before: str
    text_after: str
    after: tuple[Token, ...]
    answer_prefix: str


class Decoding(Record, frozen=True, kw_only=True):
    """Greedy decoding: where it ends, and how large a lead a token needs for its choice to be trusted."""

    end_tokens: Annotated[tuple[Token, ...], Meta(min_length=1)]
    max_new_tokens: Count
    margin_tolerance: NonNegative


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


class TextModel(Record, frozen=True, kw_only=True):
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

    @property
    def output(self) -> Tensor:
        """What the graph must give."""
        raise NotImplementedError


class Confusion(Record, frozen=True, kw_only=True):
    """How often, of calibration answers, the teacher said one class and the student another, or the same."""

    teacher: str
    student: str
    count: Count


class Condition(Record, frozen=True, kw_only=True):
    """What calibration answers were to: a question, and the noise on the images."""

    prompt: str
    sigma: NonNegative


class Classifier(TextModel, frozen=True, kw_only=True, tag_field="kind", tag="classifier"):
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


class Clusters(TextModel, frozen=True, kw_only=True, tag_field="kind", tag="clusters"):
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


class Parity(Record, frozen=True, kw_only=True):
    """What the exporter measured against PyTorch in float32 on noisy images."""

    tokens: Count
    equal_tokens: Annotated[int, Meta(ge=0)]
    largest_logit_difference: NonNegative
    largest_feature_difference: NonNegative


class Expected(Record, frozen=True, kw_only=True):
    """One row at one step: the tokens with the largest logits, best first."""

    tokens: Annotated[tuple[Token, ...], Meta(min_length=1, max_length=64)]
    logits: Annotated[tuple[float, ...], Meta(min_length=1, max_length=64)]

    def __post_init__(self) -> None:
        """Refuse lists that do not belong together.

        Raises:
            ValueError: as many tokens as logits are needed.
        """
        if len(self.tokens) != len(self.logits):
            raise ValueError(f"{len(self.tokens)} tokens have {len(self.logits)} logits")


class SelfTest(Record, frozen=True, kw_only=True):
    """What PyTorch answered about known noise: `steps[t][row]`; see edgers_engines.self_test."""

    prompt: str
    steps: Annotated[
        tuple[Annotated[tuple[Expected, ...], Meta(min_length=1, max_length=8)], ...],
        Meta(min_length=1, max_length=16),
    ]

    def __post_init__(self) -> None:
        """Refuse steps of different length.

        Raises:
            ValueError: the steps do not all have the same rows.
        """
        if len({len(step) for step in self.steps}) != 1:
            raise ValueError("the steps have different numbers of rows")


class Provenance(Record, frozen=True, kw_only=True):
    """Where the weights come from and what wrote the graphs."""

    source: str
    weights_sha256: Sha256
    tools: dict[str, str]


class Manifest(Record, frozen=True, kw_only=True):
    """Everything a device needs to know about a bundle; stored as manifest.json."""

    schema_version: Literal[3]
    name: Name
    family: Literal["llava"]
    licence: str
    precision: Precision
    opset: Opset
    provenance: Provenance
    preparation: Preparation
    prompt: PromptTemplate
    decoding: Decoding
    dimensions: Dimensions
    graphs: Graphs
    weights: Name
    tokenizer: Name
    oracles: tuple[Rules | Classifier | Clusters, ...]
    parity: Parity
    self_test: SelfTest
    files: tuple[File, ...]

    @property
    def activations(self) -> Dtype:
        """Element type of features, embeddings and cache.

        Canvas and logits are float32 in every precision: the noise needs the canvas' 24 bits, and the margin
        guard the logits'.
        """
        return ACTIVATIONS[self.precision]

    @property
    def rules(self) -> tuple[Rules, ...]:
        """The oracles made of rules."""
        return tuple(oracle for oracle in self.oracles if isinstance(oracle, Rules))

    @property
    def classifiers(self) -> tuple[Classifier, ...]:
        """The oracles that learned their classes."""
        return tuple(oracle for oracle in self.oracles if isinstance(oracle, Classifier))

    @property
    def text_models(self) -> tuple[Classifier | Clusters, ...]:
        """The oracles that have a graph."""
        return tuple(oracle for oracle in self.oracles if isinstance(oracle, Classifier | Clusters))

    def digests(self, model: TextModel) -> tuple[Sha256, ...]:
        """SHA-256 of an oracle's graph, weights and tokenizer."""
        files = {file.path: file.sha256 for file in self.files}
        return tuple(files[name] for name in (model.graph.file, model.weights, model.tokenizer))

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """Every graph with the weights it may read."""
        vision_language = tuple(
            Loaded(f"graphs.{name}", graph, self.weights) for name, graph in self.graphs.named()
        )
        oracles = tuple(Loaded(f"oracles.{m.name}", m.graph, m.weights) for m in self.text_models)
        return vision_language + oracles

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Files of all tokenizers."""
        return (self.tokenizer, *(model.tokenizer for model in self.text_models))


class Loaded(NamedTuple):
    """One graph of a bundle: its place in the manifest, its record, and the file of its weights."""

    name: str
    graph: Graph
    weights: str


Signature = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def text_signature(model: TextModel) -> Signature:
    """Inputs and outputs of an oracle's graph; the mask is 0 on padding, else 1."""
    text = ("batch", "seq")
    return tuple(Tensor(name=name, dtype="int64", shape=text) for name in ("ids", "mask")), (model.output,)


def signatures(sizes: Dimensions, canvas_size: tuple[int, int], precision: Precision) -> dict[str, Signature]:
    """Inputs and outputs that each graph must have for these sizes; what the runtime binds.

    Args:
        sizes: the manifest's dimensions.
        canvas_size: height and width.
        precision: the manifest's.
    """
    activations = ACTIVATIONS[precision]

    def tensor(name: str, *shape: int | str, dtype: Dtype = activations) -> Tensor:
        return Tensor(name=name, dtype=dtype, shape=shape)

    names = [f"{layer}.{kind}" for layer in range(sizes.layers) for kind in ("key", "value")]
    cache = ("batch", sizes.kv_heads, "max_len", sizes.head_dim)
    embeddings = tensor("embeddings", "batch", "seq", sizes.hidden)
    return {
        "vision": (
            (tensor("canvas", "batch", 3, *canvas_size, dtype="float32"),),
            (tensor("features", "batch", sizes.image_tokens, sizes.hidden),),
        ),
        "embed": ((tensor("input_ids", "batch", "seq", dtype="int64"),), (embeddings,)),
        "decoder": (
            (
                embeddings,
                tensor("write_index", "batch", dtype="int64"),
                tensor("mask", "batch", 1, "seq", "max_len", dtype="bool"),
                *(tensor(f"past.{name}", *cache) for name in names),
            ),
            (
                tensor("logits", "batch", sizes.vocabulary, dtype="float32"),
                *(tensor(f"present.{name}", *cache) for name in names),
            ),
        ),
    }
