"""Bundles as an enemy, or an accident, leaves them: damage done to a copy of the demo bundle.

A damage is a function of the copy's folder; it may return another path to load instead. REFUSED is found
while the bundle is loaded, LATER when its model is.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import socket
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgers.oracle.base import RESERVED
from edgers_engines.bundle import MAX_FILES, MAX_GRAPH_BYTES, MAX_MANIFEST_BYTES, MAX_TOKENIZER_BYTES
from edgers_engines.errors import BackendError, BundleError

GRAPHS = ("vision.onnx", "embed.onnx", "decoder.onnx")
FILES = (*GRAPHS, "tokenizer.json", "weights.bin")


def manifest_of(root):
    return json.loads((root / "manifest.json").read_bytes())


def rewrite(root, manifest):
    (root / "manifest.json").write_text(json.dumps(manifest))


def entry(manifest, name):
    """The line of $.files about one file."""
    return next(file for file in manifest["files"] if file["path"] == name)


# --- the manifest -------------------------------------------------------------------------------------------


def edited(edit):
    """Damage: the manifest after `edit` changed its tree."""

    def damage(root):
        manifest = manifest_of(root)
        edit(manifest)
        rewrite(root, manifest)

    return damage


def field(*path, value):
    """Damage: one field of the manifest has another value."""

    def edit(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return edited(edit)


def without(*path):
    """Damage: one field of the manifest is not there."""

    def edit(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        del manifest[path[-1]]

    return edited(edit)


def renamed(path):
    """Damage: the manifest calls the vision graph `path`, wherever it names it."""

    def edit(manifest):
        entry(manifest, "vision.onnx")["path"] = manifest["graphs"]["vision"]["file"] = path

    return edited(edit)


def role(*path, name):
    """Damage: one role is played by a file that has another one, which is listed twice for it."""

    def edit(manifest):
        holder = manifest
        for key in path[:-1]:
            holder = holder[key]
        manifest["files"].remove(entry(manifest, holder[path[-1]]))
        manifest["files"].append(entry(manifest, name))
        holder[path[-1]] = name

    return edited(edit)


def written(change):
    """Damage: the manifest's bytes after `change`."""

    def damage(root):
        path = root / "manifest.json"
        path.write_bytes(change(path.read_bytes()))

    return damage


def inserted(text):
    """Damage: the manifest's object begins with `text`."""
    return written(lambda data: data.replace(b"{", b"{" + text, 1))


def dimension(name, value):
    """Damage: one size has another value in the manifest, and in every signature that follows from it."""

    def edit(manifest):
        old = manifest["dimensions"][name]
        manifest["dimensions"][name] = value
        axis = {"image_tokens": 1, "hidden": 2, "vocabulary": 1, "kv_heads": 1, "head_dim": 3}[name]
        tensors = {
            "image_tokens": r"features",
            "hidden": r"features|embeddings",
            "vocabulary": r"logits",
            "kv_heads": r"(past|present)\..*",
            "head_dim": r"(past|present)\..*",
        }[name]
        for graph in manifest["graphs"].values():
            for tensor in (*graph["inputs"], *graph["outputs"]):
                if re.fullmatch(tensors, tensor["name"]):
                    assert tensor["shape"][axis] == old
                    tensor["shape"][axis] = value

    return edited(edit)


def oracle(pattern="left *", label="left", **fields):
    """Damage: one more rule in the first oracle."""
    return edited(lambda m: m["oracles"][0]["rules"].append({"pattern": pattern, "label": label, **fields}))


def self_test(edit):
    """Damage: the steps of the self-test after `edit`."""
    return edited(lambda m: edit(m["self_test"]["steps"]))


# --- files --------------------------------------------------------------------------------------------------


def replaced(name, data, *, true_digest=True):
    """Damage: a file has other bytes; the manifest knows them unless told otherwise."""

    def damage(root):
        (root / name).write_bytes(data)
        if true_digest:
            rehash(root, name)

    return damage


def rehash(root, name):
    """Write a file's true size and digest into the manifest."""
    manifest, data = manifest_of(root), (root / name).read_bytes()
    entry(manifest, name).update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    rewrite(root, manifest)


def flipped(name, place=0.5):
    """Damage: one bit of a file is another."""

    def damage(root):
        data = bytearray((root / name).read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        (root / name).write_bytes(data)

    return damage


def resized(name, change):
    """Damage: a file is longer, with zeros, or shorter by so many bytes."""
    return lambda root: os.truncate(root / name, (root / name).stat().st_size + change)


def sparse(name, size):
    """Damage: a file of an enormous size, as the manifest says; on the disk it takes no room."""

    def damage(root):
        os.truncate(root / name, size)
        manifest = manifest_of(root)
        entry(manifest, name)["size"] = size
        rewrite(root, manifest)

    return damage


def gone(name):
    return lambda root: (root / name).unlink()


def added(name):
    return lambda root: (root / name).touch()


def linked(name="vision.onnx", target=None):
    """Damage: a file is a symbolic link to where it was moved, or to `target`."""

    def damage(root):
        outside = root.with_name("outside")
        (root / name).rename(outside)
        (root / name).symlink_to(target or outside)

    return damage


def hard_linked(root):
    (root.parent / "outside").hardlink_to(root / "vision.onnx")


def linked_root(root):
    link = root.with_name("bundle-link")
    link.symlink_to(root, target_is_directory=True)
    return link


def piped(name):
    """Damage: a named pipe of this name."""

    def damage(root):
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return damage


def socketed(root):
    here = Path.cwd()
    os.chdir(root)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    os.chdir(here)


def empty(root):
    for path in root.iterdir():
        path.unlink()


def crowded(root):
    for number in range(MAX_FILES):
        (root / f"file-{number}").touch()


def swapped(root):
    """Two files change places: both digests are in the manifest, each for the other's name."""
    (root / "vision.onnx").rename(root / "aside")
    (root / "decoder.onnx").rename(root / "vision.onnx")
    (root / "aside").rename(root / "decoder.onnx")


def digest_of_another(manifest):
    entry(manifest, "vision.onnx")["sha256"] = entry(manifest, "decoder.onnx")["sha256"]


def upper_case_digest(manifest):
    manifest["files"][0]["sha256"] = manifest["files"][0]["sha256"].upper()


# --- graphs, with true digests ------------------------------------------------------------------------------


def graph(edit, name="vision.onnx"):
    """Damage: a graph after `edit` changed its model; size and digest in the manifest are true."""

    def damage(root):
        model = onnx.load_model(root / name, load_external_data=False)
        edit(model)
        (root / name).write_bytes(model.SerializeToString())
        rehash(root, name)

    return damage


def node(operator, **options):
    """Damage: the vision graph has one more node."""
    return graph(lambda m: m.graph.node.append(helper.make_node(operator, ["canvas"], ["more"], **options)))


def subgraph(operator, *names):
    body = helper.make_graph([], "body", [], [])
    return node(operator, **dict.fromkeys(names, body))


def half_a_graph(root):
    data = (root / "decoder.onnx").read_bytes()
    replaced("decoder.onnx", data[: len(data) // 2])(root)


def local_function(model):
    model.functions.append(
        helper.make_function("com.example", "Relu", ["x"], ["y"], [], [helper.make_opsetid("", 24)])
    )


def location(**entries):
    """Damage: the first external tensor of the vision graph lies elsewhere."""

    def edit(model):
        tensor = next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
        for item in tensor.external_data:
            item.value = entries.get(item.key, item.value)

    return graph(edit)


def of_opset(version):
    def edit(model):
        model.opset_import[0].version = version

    return graph(edit)


def another_name(kind, old):
    """Damage: an input or output has another name, wherever the graph uses it."""

    def edit(model):
        getattr(model.graph, kind)[0].name = "frame"
        for item in model.graph.node:
            for names in (item.input, item.output):
                names[:] = ["frame" if name == old else name for name in names]

    return graph(edit)


def another_type(kind, elem_type):
    def edit(model):
        getattr(model.graph, kind)[0].type.tensor_type.elem_type = elem_type

    return graph(edit)


def another_shape(kind, axis, name="vision.onnx", **value):
    def edit(model):
        dim = getattr(model.graph, kind)[0].type.tensor_type.shape.dim[axis]
        dim.Clear()
        for key, number in value.items():
            setattr(dim, key, number)

    return graph(edit, name)


def one_more(kind):
    info = helper.make_tensor_value_info("canvas" if kind == "output" else "extra", TensorProto.FLOAT, [1])
    return graph(lambda m: getattr(m.graph, kind).append(info))


def tokenizer(edit):
    """Damage: the tokenizer after `edit`, with a true digest."""

    def damage(root):
        tree = json.loads((root / "tokenizer.json").read_bytes())
        edit(tree)
        replaced("tokenizer.json", json.dumps(tree).encode())(root)

    return damage


def replacing(pattern, content, times=1):
    """A normalizer that replaces, over and over."""
    step = {"type": "Replace", "pattern": pattern, "content": content}
    return {"type": "Sequence", "normalizers": [step] * times}


class Payload:
    """What a pickle under another name would do if anyone unpickled it."""

    def __reduce__(self):
        return pytest.fail, ("a file of the bundle was unpickled",)


PICKLE = pickle.dumps(Payload())


def weights_as_pickle(root):
    size = (root / "weights.bin").stat().st_size
    replaced("weights.bin", PICKLE.ljust(size, b"\0"))(root)


def fill(root, byte):
    replaced("weights.bin", byte * (root / "weights.bin").stat().st_size)(root)


# --- the tables ---------------------------------------------------------------------------------------------


def case(name, damage, says):
    return pytest.param(damage, says, id=name)


NOT_PLAIN = "is not a plain file"
NOT_LISTED = "which the manifest does not list"

ON_DISK = (
    case("a-file", lambda root: root / "manifest.json", "not a directory"),
    case("not-there", lambda root: root / "nowhere", "No such file"),
    case("zero-byte-in-the-path", lambda root: Path(f"{root}\0"), "null"),
    case("symlinked-folder", linked_root, "not a directory"),
    case("empty", empty, "no manifest.json: it is not a bundle"),
    case("no-manifest", gone("manifest.json"), "no manifest.json"),
    case("symlinked-file", linked(), f"vision.onnx {NOT_PLAIN}"),
    case("symlinked-weights", linked("weights.bin"), f"weights.bin {NOT_PLAIN}"),
    case("symlinked-manifest", linked("manifest.json"), f"manifest.json {NOT_PLAIN}"),
    case("dangling-link", linked(target="nowhere"), f"vision.onnx {NOT_PLAIN}"),
    case("link-to-itself", linked(target="vision.onnx"), f"vision.onnx {NOT_PLAIN}"),
    case("link-to-a-device", linked(target="/dev/zero"), f"vision.onnx {NOT_PLAIN}"),
    case("hard-link", hard_linked, f"vision.onnx {NOT_PLAIN}"),
    case("named-pipe", piped("pipe"), f"pipe {NOT_PLAIN}"),
    case("pipe-as-manifest", piped("manifest.json"), f"manifest.json {NOT_PLAIN}"),
    case("pipe-as-weights", piped("weights.bin"), f"weights.bin {NOT_PLAIN}"),
    case("socket", socketed, f"socket {NOT_PLAIN}"),
    case("subfolder", lambda root: (root / "more").mkdir(), f"more {NOT_PLAIN}"),
    case("too-many-files", crowded, f"more than {MAX_FILES}"),
    case("huge-manifest", resized("manifest.json", MAX_MANIFEST_BYTES), "bytes; at most 4194304"),
)

IN_JSON = (
    case("empty-manifest", written(lambda _: b""), "Expecting value"),
    case("not-json", written(lambda _: b"not JSON"), "Expecting value"),
    case("pickle-as-manifest", written(lambda _: PICKLE), "not valid utf-8"),
    case("half-a-manifest", written(lambda data: data[:-3]), "delimiter"),
    case("two-documents", written(lambda data: data + b"{}"), "Extra data"),
    case("a-list", written(lambda data: b"[" + data + b"]"), "Expected `object`, got `array`"),
    case("null", written(lambda _: b"null"), "Expected `object`, got `null`"),
    case("deep-json", written(lambda _: b"[" * 200_000), "nested too deeply"),
    case("deep-objects", inserted(b'"x":' + b'{"a":' * 200_000), "nested too deeply"),
    case("duplicate-key", inserted(b'"name": "twice",'), "'name' is there twice"),
    case(
        "duplicate-key-below",
        written(lambda data: data.replace(b'"path"', b'"size": 1, "path"', 1)),
        "'size' is there twice",
    ),
    case("nan", field("decoding", "margin_tolerance", value=float("nan")), "NaN is not"),
    case("infinity", field("decoding", "margin_tolerance", value=float("inf")), "Infinity is not"),
    case("nan-logit", self_test(lambda s: s[0][0].update(logits=[float("nan")])), "NaN is not"),
    case(
        "number-beyond-every-float",
        written(lambda data: re.sub(rb'("margin_tolerance": )[^,\s}]+', rb"\g<1>1e999", data)),
        "1e999 is not a finite number",
    ),
    case(
        "integer-of-5000-digits",
        written(lambda data: re.sub(rb'("max_new_tokens": )\d+', rb"\g<1>" + b"9" * 5000, data)),
        "digits",
    ),
    case("byte-order-mark", written(lambda data: b"\xef\xbb\xbf" + data), "BOM"),
    case("utf-16", written(lambda data: data.decode().encode("utf-16")), "utf-8"),
    case("not-utf-8", written(lambda data: data.replace(b"Apache", b"\xff", 1)), "utf-8"),
    case("raw-surrogate", written(lambda data: data.replace(b"Apache", b"\xed\xa0\x80", 1)), "utf-8"),
    case("surrogate-in-a-text", field("licence", value="\ud800"), "utf-8"),
    case("surrogate-in-the-prompt", field("prompt", "text_before", value="\udfff"), "utf-8"),
    case("surrogate-in-a-key", field("\ud800", value=1), ""),
)

IN_SCHEMA = (
    case("unknown-field", field("notes", value=1), "unknown field `notes`"),
    case("unknown-below", field("decoding", "top_k", value=1), r"unknown field `top_k`.*\$.decoding"),
    case("missing-field", without("licence"), "missing required field `licence`"),
    case("no-self-test", without("self_test"), "missing required field `self_test`"),
    case("no-weights", without("weights"), "missing required field `weights`"),
    case("missing-graph", without("graphs", "embed"), r"missing required field `embed`.*\$.graphs"),
    case("version-1", field("schema_version", value=1), r"Invalid enum value 1.*\$.schema_version"),
    case("version-2", field("schema_version", value=2), r"Invalid enum value 2.*\$.schema_version"),
    case("version-text", field("schema_version", value="3"), r"got `str`.*\$.schema_version"),
    case("version-true", field("schema_version", value=True), r"got `bool`.*\$.schema_version"),
    case("unknown-family", field("family", value="other"), r"'other'.*\$.family"),
    case("unknown-precision", field("precision", value="int3"), r"'int3'.*\$.precision"),
    case("old-opset", field("opset", value=23), r">= 24.*\$.opset"),
    case("future-opset", field("opset", value=99), r"<= 25.*\$.opset"),
    case("files-no-list", field("files", value={}), r"got `object`.*\$.files"),
    case("size-text", field("files", 0, "size", value="9"), r"got `str`.*\$.files\[.*\].size"),
    case("size-fraction", field("files", 0, "size", value=1.5), r"got `float`.*\.size"),
    case("size-zero", field("files", 0, "size", value=0), r">= 1.*\.size"),
    case("size-negative", field("files", 0, "size", value=-1), r">= 1.*\.size"),
    case("size-beyond", field("files", 0, "size", value=1 << 70), r"<= 1099511627776.*\.size"),
    case("no-layers", field("dimensions", "layers", value=0), r">= 1.*\$.dimensions.layers"),
    case("million-layers", field("dimensions", "layers", value=10**6), r"<= 1000.*\$.dimensions.layers"),
    case(
        "enormous-length",
        field("dimensions", "max_length", value=1 << 40),
        r"<= 16777216.*\$.dimensions.max_length",
    ),
    case("negative-count", field("decoding", "max_new_tokens", value=-1), r">= 1.*max_new_tokens"),
    case("no-end-token", field("decoding", "end_tokens", value=[]), r"length >= 1.*end_tokens"),
    case("negative-token", field("decoding", "end_tokens", value=[-1]), r">= 0.*end_tokens"),
    case("negative-margin", field("decoding", "margin_tolerance", value=-1e-9), r">= 0.*margin"),
    case("dtype-object", field("graphs", "vision", "inputs", 0, "dtype", value="object"), "'object'"),
    case("no-canvas-size", field("preparation", "exact", value=None), "exactly one of"),
    case("empty-frame", field("preparation", "frame", value=[0, 4]), r">= 1.*preparation\.frame"),
    case("enormous-canvas", field("preparation", "exact", value=[1 << 20, 1]), r"<= 2304.*\$.preparation"),
    case("oracle-without-rules", field("oracles", 0, "rules", value=[]), r"length >= 1.*rules"),
    case("empty-label", oracle(label=""), r"length >= 1.*\.label"),
    case("empty-pattern", oracle(pattern=""), r"length >= 1.*\.pattern"),
    case("no-steps", field("self_test", "steps", value=[]), r"length >= 1.*\$.self_test.steps"),
    case("a-step-of-no-rows", self_test(lambda s: s[0].clear()), r"length >= 1.*\$.self_test.steps"),
    case("nine-rows", self_test(lambda s: s[0].extend(s[0][:1] * 7)), r"length <= 8.*\$.self_test.steps"),
    case("17-steps", self_test(lambda s: s.extend(s[:1] * 13)), r"length <= 16.*\$.self_test.steps"),
    case("ragged-steps", self_test(lambda s: s[1].pop()), "steps have different numbers of rows"),
    case("a-token-without-logit", self_test(lambda s: s[0][0]["tokens"].append(9)), "9 tokens have 8 logits"),
    case(
        "row-of-no-tokens", self_test(lambda s: s[0][0].update(tokens=[], logits=[])), "length >= 1.*tokens"
    ),
)

NO_NAME = r"matching regex.*(\.file|\.path)"

IN_NAMES = (
    case("absolute-path", renamed("/etc/passwd"), NO_NAME),
    case("parent-folder", renamed("../vision.onnx"), NO_NAME),
    case("only-dots", renamed(".."), NO_NAME),
    case("one-dot", renamed("."), NO_NAME),
    case("hidden", renamed(".vision.onnx"), NO_NAME),
    case("path-with-folder", renamed("a/vision.onnx"), NO_NAME),
    case("path-with-backslash", renamed("a\\vision.onnx"), NO_NAME),
    case("zero-byte", renamed("vision.onnx\0"), NO_NAME),
    case("line-end", renamed("vision.onnx\n"), NO_NAME),
    case("letters-from-elsewhere", renamed("vis\u0131on.onnx"), NO_NAME),
    case("long-path", renamed("v" * 101), NO_NAME),
    case("no-name", renamed(""), NO_NAME),
    case("weights-elsewhere", field("weights", value="../weights.bin"), r"matching regex.*\$.weights"),
    case("line-end-in-the-name", field("name", value="edgers-demo\n"), r"matching regex.*\$.name"),
    case("short-digest", field("files", 0, "sha256", value="0" * 63), r"matching regex.*sha256"),
    case("no-hex-digest", field("files", 0, "sha256", value="g" * 64), r"matching regex.*sha256"),
    case("upper-case-digest", edited(upper_case_digest), r"matching regex.*sha256"),
    case(
        "line-end-behind-a-digest",
        field("provenance", "weights_sha256", value="0" * 64 + "\n"),
        r"matching regex.*weights_sha256",
    ),
    case("tokenizer-not-listed", field("tokenizer", value="other.json"), r"\$.files lists"),
    case("weights-not-listed", edited(lambda m: m["files"].pop()), r"\$.files lists"),
    case("no-files", field("files", value=[]), r"\$.files lists"),
    case("listed-twice", edited(lambda m: m["files"].append(m["files"][0])), r"\$.files lists"),
    case(
        "manifest-lists-itself",
        edited(lambda m: m["files"].append({"path": "manifest.json", "size": 9, "sha256": "0" * 64})),
        r"\$.files lists",
    ),
    case("weights-named-like-a-graph", field("weights", value="vision.onnx"), r"\$.files lists"),
    case("one-file-for-graph-and-weights", role("weights", name="vision.onnx"), "lists a file twice"),
    case(
        "one-file-for-two-graphs", role("graphs", "embed", "file", name="vision.onnx"), "lists a file twice"
    ),
    case("tokenizer-as-weights", role("weights", name="tokenizer.json"), "lists a file twice"),
    case(
        "repeated-oracle", edited(lambda m: m["oracles"].append(m["oracles"][0])), "oracles has a name twice"
    ),
    *(case(f"class-{name}", oracle(label=name), f"the class '{name}'.*are reserved") for name in RESERVED),
    case("blank-class", oracle(label=" \t"), r"oracle action has the class ' \\t'"),
    case("class-with-an-escape", oracle(label="\x1b[2J"), r"the class '\\x1b\[2J'"),
    case("pattern-without-a-word", oracle(pattern="!!!"), "oracle action has '!!!' in a pattern"),
    case("part-without-a-word", oracle(pattern="left , now"), "oracle action has ',' in a pattern"),
    case("blank-pattern", oracle(pattern=" \t "), "oracle action has '' in a pattern"),
    case("glued-star", oracle(pattern="go left*"), r"oracle action has 'left\*' in a pattern"),
    case("star-in-front", oracle(pattern="*left"), r"has '\*left' in a pattern"),
    case("two-stars-in-one", oracle(pattern="left **"), r"has '\*\*' in a pattern"),
    case("exception-glued-to-a-star", oracle(unless=["* not* *"]), r"has 'not\*' in a pattern"),
)

IN_NUMBERS = (
    *(
        case(f"{name}-{value}", dimension(name, value), rf"<= 1048576.*\$.dimensions.{name}")
        for name in ("image_tokens", "hidden", "vocabulary", "kv_heads", "head_dim")
        for value in (1 << 40,)
    ),
    *(
        case(f"{name}-alone", field("dimensions", name, value=77), f"by .*{name} 77")
        for name in ("image_tokens", "hidden", "vocabulary", "layers", "kv_heads", "head_dim")
    ),
    *(
        case(f"{name}-of-another-graph", dimension(name, 77), r"\.onnx has the input or output .*says.*77")
        for name in ("image_tokens", "hidden", "vocabulary", "kv_heads", "head_dim")
    ),
    case("another-canvas", field("preparation", "exact", value=[97, 96]), r"expected .*\(.*97, 96\)"),
    case("fp16-by-name-only", field("precision", value="fp16"), "expected .*float16"),
    case("end-token-beyond", edited(lambda m: m["decoding"]["end_tokens"].append(96)), "96 is not below"),
    case("prefix-beyond", field("prompt", "before_image", value=[1, 10**9]), "1000000000 is not below"),
    case("suffix-beyond", field("prompt", "after", value=[10**9]), "1000000000 is not below"),
    case(
        "expected-token-beyond", self_test(lambda s: s[3][1]["tokens"].__setitem__(7, 96)), "96 is not below"
    ),
)

IN_FILES = (
    case("extra-file", added("extra.bin"), f"extra.bin, {NOT_LISTED}"),
    case("hidden-file", added(".hidden"), f".hidden, {NOT_LISTED}"),
    case("ds-store", added(".DS_Store"), f".DS_Store, {NOT_LISTED}"),
    case("library", added("libcustom_ops.so"), f"libcustom_ops.so, {NOT_LISTED}"),
    case("extra-file-bad-name", added("a\nb\x1b[2J"), NOT_LISTED),
    *(case(f"missing-{name}", gone(name), f"lacks {name}") for name in FILES),
    case("file-that-is-not-there", renamed("absent.onnx"), "lacks absent.onnx"),
    *(case(f"longer-{name}", resized(name, 1), rf"{name}: it has \d+ bytes; at most \d+") for name in FILES),
    *(
        case(f"shorter-{name}", resized(name, -1), rf"{name} has \d+ bytes; the manifest says \d+")
        for name in FILES
    ),
    case(
        "file-of-no-bytes", replaced("embed.onnx", b"", true_digest=False), "has 0 bytes; the manifest says"
    ),
    case("weights-of-no-bytes", replaced("weights.bin", b"", true_digest=False), "weights.bin has 0 bytes"),
    *(
        case(
            f"terabyte-{name}",
            edited(lambda m, name=name: entry(m, name).update(size=1 << 40)),
            rf"{name} has \d+ bytes; the manifest says {1 << 40}",
        )
        for name in ("vision.onnx", "weights.bin")
    ),
    *(
        case(
            f"oversized-{name}",
            sparse(name, most + 1),
            f"{name}: it has {most + 1} bytes; at most {most}",
        )
        for name, most in (("vision.onnx", MAX_GRAPH_BYTES), ("tokenizer.json", MAX_TOKENIZER_BYTES))
    ),
    *(
        case(
            f"flipped-bit-{place}-{name}", flipped(name, place), f"{name} has SHA-256 [0-9a-f]{{64}}; the man"
        )
        for name in FILES
        for place in (0, 1)
    ),
    case("swapped-graphs", swapped, r"\.onnx: it has "),
    case("wrong-digest", field("files", 0, "sha256", value="0" * 64), "the manifest says 0{64}"),
    case("digest-of-another-file", edited(digest_of_another), "vision.onnx has SHA-256"),
)

IN_GRAPHS = (
    case("foreign-domain", node("Relu", domain="com.example"), "operator domain 'com.example'"),
    case("runtimes-own-domain", node("FusedMatMul", domain="com.microsoft"), "domain 'com.microsoft'"),
    case("other-name-of-the-domain", node("Relu", domain="ai.onnx"), "operator domain 'ai.onnx'"),
    case(
        "foreign-domain-imported",
        graph(lambda m: m.opset_import.append(helper.make_opsetid("com.example", 1))),
        "vision.onnx: .*opset_import",
    ),
    case("if", subgraph("If", "then_branch", "else_branch"), "vision.onnx: .*'If'"),
    case("loop", subgraph("Loop", "body"), "vision.onnx: .*'Loop'"),
    case("subgraph-under-an-allowed-name", subgraph("Relu", "body"), "vision.onnx: .*subgraph"),
    case("random", node("RandomNormalLike"), "operator 'RandomNormalLike'"),
    case("batch-wide-scale", node("DynamicQuantizeLinear"), "operator 'DynamicQuantizeLinear'"),
    case("unheard-of-operator", node("Abracadabra"), "operator 'Abracadabra'"),
    case("local-function", graph(local_function), "vision.onnx: .*functions"),
    case("data-in-the-parent-folder", location(location="../x"), r"location '\.\./x'"),
    case("data-in-the-system", location(location="/etc/passwd"), "location '/etc/passwd'"),
    case("data-here-by-path", location(location="./weights.bin"), r"location '\./weights.bin'"),
    case("data-in-the-tokenizer", location(location="tokenizer.json"), "lie in tokenizer.json"),
    case("data-in-the-manifest", location(location="manifest.json"), "lie in manifest.json"),
    case("data-nowhere", location(location="other.bin"), "lie in other.bin"),
    case("data-behind-the-end", location(offset="3156224"), "at 3156224 \\+ 393216 bytes; .*3156224 bytes"),
    case("data-across-the-end", location(offset="2763012"), "at 2763012 \\+ 393216 bytes; .*3156224 bytes"),
    case("data-far-behind", location(offset=str(1 << 49)), "at 562949953421312"),
    case("negative-offset", location(offset="-64"), "offset '-64'"),
    case("data-of-another-length", location(length="64"), "has 64 bytes; float32"),
    case("no-length", location(length="0"), "has 0 bytes; float32"),
    case("other-opset", of_opset(25), "is of opset 25; the manifest says 24"),
    case("old-opset-in-the-graph", of_opset(12), "version is 12"),
    case("another-input", another_name("input", "canvas"), "vision.onnx has .*'frame'.*says .*'canvas'"),
    case(
        "another-output", another_name("output", "features"), "vision.onnx has .*'frame'.*says .*'features'"
    ),
    case("one-more-input", one_more("input"), "has the input or output .*'extra'"),
    case("one-more-output", one_more("output"), r"has the input or output \('canvas'.*says None"),
    case("output-in-double", another_type("output", TensorProto.DOUBLE), "'float64'.*'float32'"),
    case("input-in-half", another_type("input", TensorProto.FLOAT16), "'float16'.*'float32'"),
    case("input-of-text", another_type("input", TensorProto.STRING), "vision.onnx: .*element type 8"),
    case("another-canvas-in-the-graph", another_shape("input", 2, dim_value=97), r"97, 96\).*96, 96\)"),
    case("fixed-batch", another_shape("input", 0, dim_value=1), r"\(1, 3, 96, 96\).*'batch'"),
    case(
        "enormous-output",
        another_shape("output", 1, dim_value=1 << 40),
        r"\('batch', 1099511627776, 96\).*\('batch', 36, 96\)",
    ),
    case("nameless-dimension", another_shape("output", 0, "decoder.onnx"), r"'logits'.*\('', 96\)"),
    *(case(f"pickle-as-{name}", replaced(name, PICKLE), f"{name}: ") for name in GRAPHS),
    case("text-as-a-graph", replaced("embed.onnx", b"not a graph"), "embed.onnx: "),
    case("half-a-graph", half_a_graph, "decoder.onnx: "),
    case("zeros-as-a-graph", replaced("embed.onnx", b"\0" * 5000), "embed.onnx: "),
    case("graph-of-one-byte", replaced("embed.onnx", b"\x08"), "embed.onnx: "),
    case("runtimes-own-format", replaced("embed.onnx", b"\x08\0\0\0ORTM" + b"\0" * 99), "embed.onnx: .*ORTM"),
    case("manifest-as-a-graph", replaced("embed.onnx", b'{"graph": 1}'), "embed.onnx: "),
)

REFUSED = (
    *ON_DISK,
    *IN_JSON,
    *IN_SCHEMA,
    *IN_NAMES,
    *IN_NUMBERS,
    *IN_FILES,
    *IN_GRAPHS,
)


def later(name, damage, error, says):
    return pytest.param(damage, error, says, id=name)


NO_TOKENIZER = "tokenizer.json is not a tokenizer"
FAILED_TEST = "the self-test of .* failed on this machine"
LATER = (
    later("pickle-as-tokenizer", replaced("tokenizer.json", PICKLE), BundleError, NO_TOKENIZER),
    later("empty-tokenizer", replaced("tokenizer.json", b"{}"), BundleError, NO_TOKENIZER),
    later("deep-tokenizer", replaced("tokenizer.json", b"[" * 200_000), BundleError, NO_TOKENIZER),
    later("graph-as-tokenizer", replaced("tokenizer.json", b"\x08\x0a"), BundleError, NO_TOKENIZER),
    later(
        "ids-beyond-the-vocabulary",
        tokenizer(lambda t: t["model"]["vocab"].update(robot=96)),
        BundleError,
        "token id 96; the model's are below 96",
    ),
    later(
        "text-that-grows",
        tokenizer(lambda t: t.update(normalizer=replacing({"String": "o"}, "oo"))),
        BundleError,
        "makes texts longer: it replaces .*'o'.* by 'oo'",
    ),
    later(
        "text-that-grows-by-patterns",
        tokenizer(lambda t: t.update(normalizer=replacing({"Regex": ""}, "o", times=5))),
        BundleError,
        "makes texts longer",
    ),
    later(
        "a-normalizer-that-panics",
        tokenizer(lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        BundleError,
        NO_TOKENIZER,
    ),
    later(
        "a-control-token-that-a-user-can-spell",
        tokenizer(lambda t: t["added_tokens"][0].update(special=False)),
        BundleError,
        "adds the token .* without marking it as special",
    ),
    later("pickle-as-weights", weights_as_pickle, BackendError, FAILED_TEST),
    later("weights-of-nan", lambda r: fill(r, b"\xff"), BackendError, FAILED_TEST),
    later("weights-of-zeros", lambda r: fill(r, b"\0"), BackendError, FAILED_TEST),
    later("other-end-of-the-weights", location(offset="64"), BackendError, FAILED_TEST),
    later("tolerance-of-nothing", field("decoding", "margin_tolerance", value=0), BackendError, "allows 0;"),
    later("no-question", field("self_test", "prompt", value=" "), BundleError, "self-test cannot be asked"),
    later("long-question", field("self_test", "prompt", value="a" * 10**6), BundleError, "self-test cannot"),
)
