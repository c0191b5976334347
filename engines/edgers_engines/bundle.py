"""The bundle: a directory with a manifest, ONNX graphs and a tokenizer, checked whole before it is used.

The order of the checks matters. Regular files of bounded size first; then the manifest against its schema;
then the exact set of files and their digests; then what each graph asks for (operators, and where its weights
lie), read without loading it. Only bytes that passed reach a runtime, and they are the bytes that were
hashed: graphs and tokenizer stay in memory, and `Weights` hashes while it copies.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from itertools import islice, zip_longest
from pathlib import Path

from edgers_engines.cuda_attention import check_attention
from edgers_engines.errors import BundleError
from edgers_engines.files import read_regular
from edgers_engines.manifest import CUDA_PRECISIONS, SCHEMA_VERSION, CudaDecoder, File, Manifest, signatures
from edgers_engines.onnx_graph import read_graph
from edgers_engines.oracle_record import RESERVED, Classifier, Rules, text_signature
from edgers_engines.records import Record, parse
from edgers_engines.weights import Weights, check_digest, check_weights

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_GRAPH_BYTES = 4 << 20  # without its weights, a decoder of a hundred layers has half a megabyte
MAX_TOKENIZER_BYTES = 64 << 20
MAX_FILES = 64
_WORD = re.compile(r"\w")


class Bundle:
    """A verified bundle: its manifest, its digest, and the bytes of its graphs and tokenizer."""

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
        text = _read(root / MANIFEST, MAX_MANIFEST_BYTES)
        try:
            manifest = parse(text, Manifest)
        except ValueError as error:
            old = f" (edgers reads schema {SCHEMA_VERSION}: export the bundle anew)" * (
                "$.schema" in str(error)
            )
            raise BundleError(f"{root / MANIFEST}: {error}{old}") from None
        _check_references(root, manifest)
        _check_file_set(root, manifest, found)
        contents = {
            file.path: _verified(root, file, _most_bytes(manifest, file))
            for file in manifest.files
            if file.path not in _all_weights(manifest)
        }
        for file in manifest.files:
            if file.path in _all_weights(manifest):
                check_weights(root, file)
        _check_graphs(root, manifest, contents)
        return cls(root, manifest, hashlib.sha256(text).hexdigest(), contents)

    def read(self, name: str) -> bytes:
        """The verified bytes of a graph or a tokenizer."""
        return self._contents[name]

    def weights(self, name: str | None = None) -> Weights:
        """A file of weights, to be entered; the vision-language model's unless named."""
        return Weights(self.path, _file(self.manifest, name or self.manifest.weights))


def _check_manifest_is_there(root: Path) -> None:
    """First, so that some other folder is told what it is and not what is odd about its files."""
    try:
        (root / MANIFEST).lstat()
    except FileNotFoundError:
        raise BundleError(
            f"{root} has no {MANIFEST}: it is not a bundle; give the folder that `edgers export` or "
            "`edgers unpack` wrote"
        ) from None


def _regular_files(root: Path, *, hard_links: bool) -> set[str]:
    try:
        if not stat.S_ISDIR(root.lstat().st_mode):
            raise BundleError(
                f"{root} is not a directory, which a bundle is: a packed one is unpacked first "
                "(`edgers unpack`), and links are not followed"
            )
        _check_manifest_is_there(root)
        with os.scandir(root) as entries:
            some = islice(entries, MAX_FILES + 1)
            found = {entry.name: entry.stat(follow_symlinks=False) for entry in some}
    except (OSError, ValueError) as error:
        raise BundleError(
            f"cannot read the bundle {str(root)!r}: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(found) > MAX_FILES:
        raise BundleError(f"{root} holds more than {MAX_FILES} entries; a bundle has at most as many")
    for name, status in found.items():
        if not stat.S_ISREG(status.st_mode) or (status.st_nlink != 1 and not hard_links):
            raise BundleError(f"{root / name} is not a plain file: a bundle has no links, folders or devices")
    return set(found)


def _check_references(root: Path, manifest: Manifest) -> None:
    referenced = [
        *(loaded.graph.file for loaded in manifest.loaded),
        manifest.weights,
        *(model.weights for model in manifest.text_models),
        *manifest.tokenizers,
    ]
    listed = [file.path for file in manifest.files]
    if sorted(referenced) != sorted(listed):
        raise BundleError(
            f"{root / MANIFEST}: $.files lists {sorted(listed)}, but graphs, weights and tokenizers are "
            f"{sorted(referenced)}"
        )
    if len(set(listed)) != len(listed):
        raise BundleError(f"{root / MANIFEST}: $.files lists a file twice: {sorted(listed)}")
    _check_signatures(root, manifest)
    _check_tokens(root, manifest)
    _check_oracles(root, manifest)


def _check_tokens(root: Path, manifest: Manifest) -> None:
    vocabulary = manifest.dimensions.vocabulary
    template, decoding = manifest.prompt, manifest.decoding
    expected = (token for step in manifest.self_test.steps for row in step for token in row.tokens)
    for token in (*template.before_image, *template.after, *decoding.end_tokens, *expected):
        if token >= vocabulary:
            raise BundleError(f"{root / MANIFEST}: token id {token} is not below the vocabulary {vocabulary}")


def _check_oracles(root: Path, manifest: Manifest) -> None:
    names = [oracle.name for oracle in manifest.oracles]
    if len(set(names)) != len(names):
        raise BundleError(f"{root / MANIFEST}: $.oracles has a name twice: {names}")
    for oracle in manifest.oracles:
        where = f"{root / MANIFEST}: the oracle {oracle.name}"
        for name in oracle.classes:
            if name in RESERVED or not name.strip() or not name.isprintable():
                raise BundleError(
                    f"{where} has the class {name[:50]!r}; a class has a name of printable characters, "
                    f"and {', '.join(RESERVED)} are reserved"
                )
        if isinstance(oracle, Rules):
            _check_patterns(where, oracle)
        elif isinstance(oracle, Classifier) and len(set(oracle.labels)) != len(oracle.labels):
            raise BundleError(f"{where} has a label twice: {list(oracle.labels)}")


def _check_patterns(where: str, rules: Rules) -> None:
    for pattern in (text for rule in rules.rules for text in (rule.pattern, *rule.unless)):
        for piece in pattern.split() or [""]:
            if piece != "*" and ("*" in piece or not _WORD.search(piece)):
                raise BundleError(
                    f"{where} has {piece[:50]!r} in a pattern; a pattern is words and stars with blanks "
                    "between, as in 'left *'"
                )


def _check_signatures(root: Path, manifest: Manifest) -> None:
    expected = signatures(manifest.dimensions, manifest.preparation.canvas_size, manifest.precision)
    if manifest.graphs.cuda_decoder and manifest.precision not in CUDA_PRECISIONS:
        raise BundleError(
            f"{root / MANIFEST}: $.graphs has a cuda_decoder, whose operators compute in "
            f"{', '.join(CUDA_PRECISIONS)}; $.precision is {manifest.precision}"
        )
    for name, graph in manifest.graphs.named():
        found = [*graph.inputs, *graph.outputs]
        wanted = [*expected[name][0], *expected[name][1]]
        if found != wanted:
            odd = next((f, w) for f, w in zip_longest(found, wanted) if f != w)
            raise BundleError(
                f"{root / MANIFEST}: $.graphs.{name} has {_fields(odd[0])}; expected {_fields(odd[1])} "
                f"by $.preparation, $.precision and $.dimensions ({_fields(manifest.dimensions)})"
            )
    for model in manifest.text_models:
        if (model.graph.inputs, model.graph.outputs) != text_signature(model):
            output = model.output
            raise BundleError(
                f"{root / MANIFEST}: the oracle {model.name} has another graph than from ids and mask, "
                f"int64 [batch, seq], to {output.name}, {output.dtype} [batch, {output.shape[1]}]"
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


def _check_graphs(root: Path, manifest: Manifest, contents: dict[str, bytes]) -> None:
    """What the graphs ask for, read without loading them."""
    for _, graph, weights_name in manifest.loaded:
        path, weights = root / graph.file, _file(manifest, weights_name)
        try:
            facts = read_graph(contents[graph.file], for_cuda=isinstance(graph, CudaDecoder))
        except ValueError as error:
            raise BundleError(f"{path}: {error}") from None
        of_the_model = weights_name == manifest.weights
        if of_the_model and facts.opset != manifest.opset:
            raise BundleError(f"{path} is of opset {facts.opset}; the manifest says {manifest.opset}")
        found = [(v.name, v.dtype, v.shape) for v in (*facts.input_values, *facts.output_values)]
        listed = [(t.name, t.dtype, t.shape) for t in (*graph.inputs, *graph.outputs)]
        if found != listed:
            odd = next((f, w) for f, w in zip_longest(found, listed) if f != w)
            raise BundleError(f"{path} has the input or output {odd[0]}; the manifest says {odd[1]}")
        if isinstance(graph, CudaDecoder):
            _check_attention(path, contents[graph.file], manifest)
        for tensor in facts.external:
            if tensor.location != weights.path or tensor.offset + tensor.length > weights.size:
                raise BundleError(
                    f"{path}: the weights {tensor.name} lie in {tensor.location} at {tensor.offset} + "
                    f"{tensor.length} bytes; the bundle's are the {weights.size} bytes of {weights.path}"
                )


def _check_attention(path: Path, content: bytes, manifest: Manifest) -> None:
    try:
        check_attention(content, manifest.dimensions)
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from None


def _all_weights(manifest: Manifest) -> set[str]:
    return {loaded.weights for loaded in manifest.loaded}


def _file(manifest: Manifest, name: str) -> File:
    return next(file for file in manifest.files if file.path == name)


def _most_bytes(manifest: Manifest, file: File) -> int:
    return MAX_TOKENIZER_BYTES if file.path in manifest.tokenizers else MAX_GRAPH_BYTES


def _verified(root: Path, file: File, most: int) -> bytes:
    content = _read(root / file.path, min(file.size, most))
    if len(content) != file.size:
        raise BundleError(f"{root / file.path} has {len(content)} bytes; the manifest says {file.size}")
    check_digest(root, file, hashlib.sha256(content).hexdigest())
    return content


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_regular(path, limit, follow_links=False)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
