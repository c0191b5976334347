"""The bundle: a directory with a manifest, ONNX graphs and a tokenizer, checked whole before it is used.

The order of the checks matters. Regular files of bounded size first; then the manifest against its schema;
then the exact set of files and their digests; only bytes that passed reach a parser, and they are the bytes
that were hashed: nothing is read from disk a second time.
"""

from __future__ import annotations

import hashlib
import os
import stat
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from edgers_engines.errors import BundleError
from edgers_engines.files import read_regular
from edgers_engines.image import Preparation
from edgers_engines.records import Record, parse

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILES = 64

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Token = Annotated[int, Meta(ge=0, lt=1 << 31)]
Dtype = Literal["float32", "int64", "bool"]
NonNegative = Annotated[float, Meta(ge=0)]


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


class Dimensions(Record, frozen=True, kw_only=True):
    """The sizes that the runtime allocates by."""

    image_tokens: Count
    hidden: Count
    vocabulary: Count
    layers: Annotated[int, Meta(ge=1, le=1000)]
    kv_heads: Count
    head_dim: Count
    max_length: Count


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


class Rule(Record, frozen=True, kw_only=True):
    """A pattern of words and the class it stands for; see edgers.oracle.rules for the pattern language."""

    pattern: Annotated[str, Meta(min_length=1)]
    label: Annotated[str, Meta(min_length=1)]


class Rules(Record, frozen=True, kw_only=True):
    """An oracle made of ordered rules; the first that matches names the class."""

    name: Name
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1)]


class Parity(Record, frozen=True, kw_only=True):
    """What the exporter measured against PyTorch in float32 on noisy images."""

    tokens: Count
    equal_tokens: Annotated[int, Meta(ge=0)]
    largest_logit_difference: NonNegative
    largest_feature_difference: NonNegative


class Provenance(Record, frozen=True, kw_only=True):
    """Where the weights come from and what wrote the graphs."""

    source: str
    weights_sha256: Sha256
    tools: dict[str, str]


class Manifest(Record, frozen=True, kw_only=True):
    """Everything a device needs to know about a bundle; stored as manifest.json."""

    schema_version: Literal[1]
    name: Name
    family: Literal["llava"]
    licence: str
    precision: Literal["fp32"]
    provenance: Provenance
    preparation: Preparation
    prompt: PromptTemplate
    decoding: Decoding
    dimensions: Dimensions
    graphs: Graphs
    tokenizer: Name
    oracles: tuple[Rules, ...]
    parity: Parity
    files: tuple[File, ...]


Signature = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def signatures(sizes: Dimensions, canvas_size: tuple[int, int]) -> dict[str, Signature]:
    """Inputs and outputs that each graph must have for these sizes; what the runtime binds.

    Args:
        sizes: the manifest's dimensions.
        canvas_size: height and width.
    """

    def tensor(name: str, *shape: int | str, dtype: Dtype = "float32") -> Tensor:
        return Tensor(name=name, dtype=dtype, shape=shape)

    names = [f"{layer}.{kind}" for layer in range(sizes.layers) for kind in ("key", "value")]
    cache = ("batch", sizes.kv_heads, "max_len", sizes.head_dim)
    embeddings = tensor("embeddings", "batch", "seq", sizes.hidden)
    return {
        "vision": (
            (tensor("canvas", "batch", 3, *canvas_size),),
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
                tensor("logits", "batch", sizes.vocabulary),
                *(tensor(f"present.{name}", *cache) for name in names),
            ),
        ),
    }


class Bundle:
    """A verified bundle in memory: its manifest, its digest and the bytes that were hashed."""

    def __init__(self, path: Path, manifest: Manifest, digest: str, contents: dict[str, bytes]) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        self._contents = contents

    @classmethod
    def load(cls, path: str | Path, *, hard_links: bool = False) -> Bundle:
        """Read and check a bundle.

        Args:
            path: the bundle's directory.
            hard_links: accept files that have a second name; package managers install so from their cache.

        Returns:
            The bundle; `digest` is the SHA-256 of manifest.json, which holds the digests of all other files
            and so identifies the certified function.

        Raises:
            BundleError: anything at all is not as the manifest says; names the path and the field.
        """
        root = Path(path)
        found = _regular_files(root, hard_links=hard_links)
        if MANIFEST not in found:
            raise BundleError(f"{root} has no {MANIFEST}: it is not a bundle; `edgers export` writes one")
        text = _read(root / MANIFEST, MAX_MANIFEST_BYTES)
        try:
            manifest = parse(text, Manifest)
        except ValueError as error:
            raise BundleError(f"{root / MANIFEST}: {error}") from None
        _check_references(root, manifest)
        _check_file_set(root, manifest, found)
        contents = {file.path: _verified(root, file) for file in manifest.files}
        return cls(root, manifest, hashlib.sha256(text).hexdigest(), contents)

    def read(self, name: str) -> bytes:
        """The verified bytes of one file of the manifest."""
        return self._contents[name]


def _regular_files(root: Path, *, hard_links: bool) -> set[str]:
    try:
        if not stat.S_ISDIR(root.lstat().st_mode):
            raise BundleError(f"{root} is not a directory (links are not followed); a bundle is one")
        with os.scandir(root) as entries:
            found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read the bundle {str(root)!r}: {error}") from None
    if len(found) > MAX_FILES:
        raise BundleError(f"{root} holds {len(found)} entries; a bundle has at most {MAX_FILES}")
    for name, status in found.items():
        if not stat.S_ISREG(status.st_mode) or (status.st_nlink != 1 and not hard_links):
            raise BundleError(f"{root / name} is not a plain file: a bundle has no links, folders or devices")
    return set(found)


def _check_references(root: Path, manifest: Manifest) -> None:
    graphs = manifest.graphs
    referenced = [graphs.vision.file, graphs.embed.file, graphs.decoder.file, manifest.tokenizer]
    listed = [file.path for file in manifest.files]
    if sorted(referenced) != sorted(listed):
        raise BundleError(
            f"{root / MANIFEST}: $.files lists {sorted(listed)}, but the graphs and the tokenizer are "
            f"{sorted(referenced)}"
        )
    names = [oracle.name for oracle in manifest.oracles]
    if len(set(names)) != len(names):
        raise BundleError(f"{root / MANIFEST}: $.oracles has a name twice: {names}")
    _check_signatures(root, manifest)
    vocabulary = manifest.dimensions.vocabulary
    template, decoding = manifest.prompt, manifest.decoding
    for token in (*template.before_image, *template.after, *decoding.end_tokens):
        if token >= vocabulary:
            raise BundleError(f"{root / MANIFEST}: token id {token} is not below the vocabulary {vocabulary}")


def _check_signatures(root: Path, manifest: Manifest) -> None:
    expected = signatures(manifest.dimensions, manifest.preparation.canvas_size)
    graphs = manifest.graphs
    for name, graph in (("vision", graphs.vision), ("embed", graphs.embed), ("decoder", graphs.decoder)):
        found = [*graph.inputs, *graph.outputs]
        wanted = [*expected[name][0], *expected[name][1]]
        if found != wanted:
            odd = next((f, w) for f, w in zip_longest(found, wanted) if f != w)
            raise BundleError(
                f"{root / MANIFEST}: $.graphs.{name} has {_fields(odd[0])}; expected {_fields(odd[1])} "
                f"by $.preparation and $.dimensions ({_fields(manifest.dimensions)})"
            )


def _fields(record: Record | None) -> str:
    if record is None:
        return "nothing"
    return ", ".join(f"{name} {getattr(record, name)}" for name in record.__struct_fields__)


def _check_file_set(root: Path, manifest: Manifest, found: set[str]) -> None:
    expected = {MANIFEST, *(file.path for file in manifest.files)}
    if missing := sorted(expected - found):
        raise BundleError(f"{root} lacks {', '.join(missing)}, which the manifest lists")
    if extra := sorted(found - expected):
        raise BundleError(f"{root} holds {', '.join(extra)}, which the manifest does not list")


def _verified(root: Path, file: File) -> bytes:
    content = _read(root / file.path, file.size)
    if len(content) != file.size:
        raise BundleError(f"{root / file.path} has {len(content)} bytes; the manifest says {file.size}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise BundleError(f"{root / file.path} has SHA-256 {digest}; the manifest says {file.sha256}")
    return content


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_regular(path, limit, follow_links=False)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
