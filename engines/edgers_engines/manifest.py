"""What manifest.json says: strict records, one for each thing a device must know before it runs a bundle."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from edgers_engines.fields import Count, Name, NonNegative, Sha256, Size, Token
from edgers_engines.graph_record import Dtype, Graph, Signature, Tensor
from edgers_engines.image import Preparation
from edgers_engines.oracle_record import Classifier, Clusters, Rules, TextModel
from edgers_engines.records import Record

SCHEMA_VERSION: Literal[3] = 3

Family = Literal["llava", "llava_next", "llava_onevision"]
Precision = Literal["fp32", "fp16", "bf16"]
ACTIVATIONS: dict[Precision, Dtype] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
CUDA_PRECISIONS: tuple[Precision, ...] = ("fp16",)  # that GroupQueryAttention has kernels for on CUDA
# What is narrower besides: the weights of the decoder's linear layers are stored as integers, and widened for
# products; or numbers of 8 bits are multiplied, in these layers and those of the vision tower, by scales that
# images are calibrated on.
Quantization = Literal["int8-weights", "int4-weights", "int8", "fp8"]
CALIBRATED: tuple[Quantization, ...] = ("int8", "fp8")
Opset = Annotated[int, Meta(ge=24, le=25)]  # 24 is the first with TensorScatter, 25 the last that was tried


class File(Record, frozen=True, kw_only=True):
    """One file of the bundle besides the manifest."""

    path: Name
    size: Count
    sha256: Sha256


class Parity(Record, frozen=True, kw_only=True):
    """What the exporter measured against PyTorch in float32 on noisy images."""

    tokens: Count
    equal_tokens: Annotated[int, Meta(ge=0)]
    largest_logit_difference: NonNegative
    largest_feature_difference: NonNegative


class CudaDecoder(Graph, frozen=True, kw_only=True):
    """The decoder in ONNX Runtime's own operators for CUDA, and what the exporter measured of it."""

    parity: Parity


class Graphs(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The graphs every vision-language bundle has, and the second decoder that it may have."""

    vision: Graph
    embed: Graph
    decoder: Graph
    cuda_decoder: CudaDecoder | None = None

    def named(self) -> tuple[tuple[str, Graph], ...]:
        """Each graph with its name in the manifest."""
        named = ("vision", self.vision), ("embed", self.embed), ("decoder", self.decoder)
        return named if self.cuda_decoder is None else (*named, ("cuda_decoder", self.cuda_decoder))


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


class Manifest(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a device needs to know about a bundle; stored as manifest.json."""

    schema_version: Literal[3]
    name: Name
    family: Family
    licence: str
    precision: Precision
    quantization: Quantization | None = None
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
    def numbers(self) -> str:
        """What it computes in, for people."""
        return self.precision + (f" with {self.quantization}" if self.quantization else "")

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
    def text_models(self) -> tuple[TextModel, ...]:
        """The oracles that have a graph."""
        return tuple(oracle for oracle in self.oracles if isinstance(oracle, TextModel))

    def digests(self, model: TextModel) -> tuple[Sha256, ...]:
        """SHA-256 of an oracle's graph, weights and tokenizer."""
        files = {file.path: file.sha256 for file in self.files}
        return tuple(files[name] for name in (model.graph.file, model.weights, model.tokenizer))

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """Every graph with the weights it may read, also one that only some backends run."""
        vision_language = tuple(
            Loaded(f"graphs.{name}", graph, self.weights) for name, graph in self.graphs.named()
        )
        oracles = tuple(Loaded(f"oracles.{m.name}", m.graph, m.weights) for m in self.text_models)
        return vision_language + oracles

    @property
    def standard(self) -> tuple[Loaded, ...]:
        """Those that are in ONNX's own operators alone."""
        return tuple(loaded for loaded in self.loaded if not isinstance(loaded.graph, CudaDecoder))

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Files of all tokenizers."""
        return (self.tokenizer, *(model.tokenizer for model in self.text_models))


class Loaded(NamedTuple):
    """One graph of a bundle: its place in the manifest, its record, and the file of its weights."""

    name: str
    graph: Graph
    weights: str


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
    past = tuple(tensor(f"past.{name}", *cache) for name in names)
    decoded = (
        tensor("logits", "batch", sizes.vocabulary, dtype="float32"),
        *(tensor(f"present.{name}", *cache) for name in names),
    )
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
                *past,
            ),
            decoded,
        ),
        "cuda_decoder": (
            (
                embeddings,
                tensor("last_index", "batch", dtype="int32"),
                tensor("total_length", 1, dtype="int32"),
                *past,
            ),
            decoded,
        ),
    }
