"""Bundles: whatever is damaged is refused by name before a parser sees it; what passes is held in memory."""

import hashlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tokenizers

from edgers_engines import bundle as bundle_module
from edgers_engines.bundle import MAX_FILES, MAX_MANIFEST_BYTES, Bundle
from edgers_engines.errors import BackendError, BundleError
from edgers_engines.vlm import Question, VisionLanguageModel


def manifest_of(root):
    return json.loads((root / "manifest.json").read_bytes())


def rewrite(root, manifest):
    (root / "manifest.json").write_text(json.dumps(manifest))


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
        listed = next(f for f in manifest["files"] if f["path"] == manifest["graphs"]["vision"]["file"])
        manifest["graphs"]["vision"]["file"] = listed["path"] = path

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


def empty(root):
    for path in root.iterdir():
        path.unlink()


def linked(root):
    outside = root.with_name("outside")
    (root / "vision.onnx").rename(outside)
    (root / "vision.onnx").symlink_to(outside)


def hard_linked(root):
    (root.parent / "outside").hardlink_to(root / "vision.onnx")


def linked_manifest(root):
    (root / "manifest.json").rename(root.with_name("outside"))
    (root / "manifest.json").symlink_to(root.with_name("outside"))


def linked_root(root):
    link = root.with_name("bundle-link")
    link.symlink_to(root, target_is_directory=True)
    return link


def file_as_root(root):
    return root / "manifest.json"


def missing_root(root):
    return root / "nowhere"


def zero_byte_root(root):
    return Path(f"{root}\0")


def flipped(root):
    data = bytearray((root / "vision.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (root / "vision.onnx").write_bytes(data)


def truncated(root):
    path = root / "decoder.onnx"
    os.truncate(path, path.stat().st_size - 1)


def lengthened(root):
    with (root / "decoder.onnx").open("ab") as file:
        file.write(b"\0")


def swapped(root):
    """Two files change places: both digests are in the manifest, each for the other's name."""
    (root / "vision.onnx").rename(root / "aside")
    (root / "decoder.onnx").rename(root / "vision.onnx")
    (root / "aside").rename(root / "decoder.onnx")


def crowded(root):
    for number in range(MAX_FILES):
        (root / f"file-{number}").touch()


def huge_manifest(root):
    os.truncate(root / "manifest.json", MAX_MANIFEST_BYTES + 1)


def end_token_at_the_vocabulary(manifest):
    manifest["decoding"]["end_tokens"].append(manifest["dimensions"]["vocabulary"])


def repeated_oracle(manifest):
    manifest["oracles"].append(manifest["oracles"][0])


def upper_case_digest(manifest):
    manifest["files"][0]["sha256"] = manifest["files"][0]["sha256"].upper()


def another_size(manifest):
    manifest["files"][0]["size"] += 1


FILES = (
    pytest.param(file_as_root, "not a directory", id="a-file"),
    pytest.param(missing_root, "No such file", id="not-there"),
    pytest.param(zero_byte_root, "null", id="zero-byte-in-the-path"),
    pytest.param(linked_root, "not a directory", id="symlinked-folder"),
    pytest.param(empty, "no manifest.json: it is not a bundle", id="empty"),
    pytest.param(lambda root: (root / "manifest.json").unlink(), "no manifest.json", id="no-manifest"),
    pytest.param(linked, "vision.onnx is not a plain file", id="symlinked-file"),
    pytest.param(linked_manifest, "manifest.json is not a plain file", id="symlinked-manifest"),
    pytest.param(hard_linked, "vision.onnx is not a plain file", id="hard-link"),
    pytest.param(lambda root: os.mkfifo(root / "pipe"), "pipe is not a plain file", id="named-pipe"),
    pytest.param(lambda root: (root / "more").mkdir(), "more is not a plain file", id="subfolder"),
    pytest.param(crowded, f"at most {MAX_FILES}", id="too-many-files"),
    pytest.param(lambda root: (root / "extra.bin").touch(), "extra.bin, which the man", id="extra-file"),
    pytest.param(lambda root: (root / ".hidden").touch(), ".hidden, which the manifest", id="hidden-file"),
    pytest.param(lambda root: (root / "a\nb\x1b[2J").touch(), "which the manifest", id="extra-file-bad-name"),
    pytest.param(lambda root: (root / "embed.onnx").unlink(), "lacks embed.onnx", id="missing-file"),
    pytest.param(flipped, "vision.onnx has SHA-256 [0-9a-f]{64}; the manifest says", id="flipped-bit"),
    pytest.param(truncated, r"decoder.onnx has \d+ bytes; the manifest says", id="truncated-graph"),
    pytest.param(lengthened, r"decoder.onnx: it has \d+ bytes; at most", id="lengthened-graph"),
    pytest.param(swapped, r"\.onnx: it has ", id="swapped-graphs"),
    pytest.param(huge_manifest, f"{MAX_MANIFEST_BYTES + 1} bytes; at most", id="huge-manifest"),
)

JSON = (
    pytest.param(written(lambda _: b""), "Expecting value", id="empty-manifest"),
    pytest.param(written(lambda _: b"not JSON"), "Expecting value", id="not-json"),
    pytest.param(written(lambda data: data[:-3]), "delimiter", id="half-a-manifest"),
    pytest.param(written(lambda data: data + b"{}"), "Extra data", id="two-documents"),
    pytest.param(written(lambda data: b"[" + data + b"]"), "Expected `object`, got `array`", id="a-list"),
    pytest.param(written(lambda _: b"null"), "Expected `object`, got `null`", id="null"),
    pytest.param(written(lambda _: b"[" * 200_000), "nested too deeply", id="deep-json"),
    pytest.param(inserted(b'"x":' + b'{"a":' * 200_000), "nested too deeply", id="deep-objects"),
    pytest.param(inserted(b'"name": "twice",'), "'name' is there twice", id="duplicate-key"),
    pytest.param(
        written(lambda data: data.replace(b'"path"', b'"size": 1, "path"', 1)),
        "'size' is there twice",
        id="duplicate-key-below",
    ),
    pytest.param(field("decoding", "margin_tolerance", value=float("nan")), "NaN is not", id="nan"),
    pytest.param(field("decoding", "margin_tolerance", value=float("inf")), "Infinity is not", id="infinity"),
    pytest.param(
        written(lambda data: re.sub(rb'("margin_tolerance": )[^,\s}]+', rb"\g<1>1e999", data)),
        "margin_tolerance|number|finite|inf",
        id="number-beyond-every-float",
    ),
    pytest.param(
        written(lambda data: re.sub(rb'("max_new_tokens": )\d+', rb"\g<1>" + b"9" * 5000, data)),
        "",
        id="integer-of-5000-digits",
    ),
    pytest.param(written(lambda data: data.replace(b"Apache", b"\xff", 1)), "utf-8", id="not-utf-8"),
    pytest.param(written(lambda data: data.decode().encode("utf-16")), "", id="utf-16"),
    pytest.param(written(lambda data: data.replace(b"Apache", b"\xed\xa0\x80", 1)), "", id="raw-surrogate"),
    pytest.param(field("licence", value="\ud800"), "", id="surrogate-in-a-text"),
    pytest.param(field("prompt", "text_before", value="\udfff"), "", id="surrogate-in-the-prompt"),
    pytest.param(field("\ud800", value=1), "", id="surrogate-in-a-key"),
)

SCHEMA = (
    pytest.param(field("notes", value=1), "unknown field `notes`", id="unknown-field"),
    pytest.param(
        field("decoding", "top_k", value=1), r"unknown field `top_k`.*\$.decoding", id="unknown-below"
    ),
    pytest.param(without("licence"), "missing required field `licence`", id="missing-field"),
    pytest.param(
        without("graphs", "embed"), r"missing required field `embed`.*\$.graphs", id="missing-graph"
    ),
    pytest.param(
        field("schema_version", value=2), r"Invalid enum value 2.*\$.schema_version", id="version-2"
    ),
    pytest.param(field("schema_version", value="1"), r"got `str`.*\$.schema_version", id="version-text"),
    pytest.param(field("schema_version", value=True), r"got `bool`.*\$.schema_version", id="version-true"),
    pytest.param(field("family", value="other"), r"'other'.*\$.family", id="unknown-family"),
    pytest.param(field("precision", value="int3"), r"'int3'.*\$.precision", id="unknown-precision"),
    pytest.param(field("files", value={}), r"got `object`.*\$.files", id="files-no-list"),
    pytest.param(field("files", 0, "size", value="9"), r"got `str`.*\$.files\[.*\].size", id="size-text"),
    pytest.param(field("files", 0, "size", value=1.5), r"got `float`.*\.size", id="size-fraction"),
    pytest.param(field("files", 0, "size", value=0), r">= 1.*\.size", id="size-zero"),
    pytest.param(field("files", 0, "size", value=1 << 70), r"<= 1099511627776.*\.size", id="size-beyond"),
    pytest.param(field("dimensions", "layers", value=0), r">= 1.*\$.dimensions.layers", id="no-layers"),
    pytest.param(field("decoding", "max_new_tokens", value=-1), r">= 1.*max_new_tokens", id="negative-count"),
    pytest.param(field("decoding", "end_tokens", value=[]), r"length >= 1.*end_tokens", id="no-end-token"),
    pytest.param(field("decoding", "end_tokens", value=[-1]), r">= 0.*end_tokens", id="negative-token"),
    pytest.param(field("decoding", "margin_tolerance", value=-1e-9), r">= 0.*margin", id="negative-margin"),
    pytest.param(
        field("graphs", "vision", "inputs", 0, "dtype", value="object"), "'object'", id="dtype-object"
    ),
    pytest.param(field("preparation", "exact", value=None), "exactly one of", id="no-canvas-size"),
    pytest.param(field("oracles", 0, "rules", value=[]), r"length >= 1.*rules", id="oracle-without-rules"),
)

NAMES = (
    pytest.param(renamed("/etc/passwd"), r"matching regex.*\.file|\.path", id="absolute-path"),
    pytest.param(renamed("../vision.onnx"), r"matching regex.*\.file|\.path", id="parent-folder"),
    pytest.param(renamed(".."), r"matching regex.*\.file|\.path", id="only-dots"),
    pytest.param(renamed("a/vision.onnx"), r"matching regex.*\.file|\.path", id="path-with-folder"),
    pytest.param(renamed("a\\vision.onnx"), r"matching regex.*\.file|\.path", id="path-with-backslash"),
    pytest.param(renamed("vision.onnx\0"), r"matching regex.*\.file|\.path", id="zero-byte"),
    pytest.param(renamed("vision.onnx\n"), r"matching regex.*\.file|\.path", id="line-end"),
    pytest.param(renamed("v" * 101), r"matching regex.*\.file|\.path", id="long-path"),
    pytest.param(renamed(""), r"matching regex.*\.file|\.path", id="no-name"),
    pytest.param(renamed("absent.onnx"), "lacks absent.onnx", id="file-that-is-not-there"),
    pytest.param(field("name", value="edgers-demo\n"), r"matching regex.*\$.name", id="line-end-in-the-name"),
    pytest.param(field("tokenizer", value="other.json"), r"\$.files lists", id="tokenizer-not-listed"),
    pytest.param(edited(lambda m: m["files"].pop()), r"\$.files lists", id="graph-not-listed"),
    pytest.param(edited(lambda m: m["files"].append(m["files"][0])), r"\$.files lists", id="listed-twice"),
    pytest.param(
        edited(lambda m: m["files"].append({"path": "manifest.json", "size": 9, "sha256": "0" * 64})),
        r"\$.files lists",
        id="manifest-lists-itself",
    ),
    pytest.param(field("files", 0, "sha256", value="0" * 63), r"matching regex.*sha256", id="short-digest"),
    pytest.param(edited(upper_case_digest), r"matching regex.*sha256", id="upper-case-digest"),
    pytest.param(
        field("provenance", "weights_sha256", value="0" * 64 + "\n"),
        r"matching regex.*weights_sha256",
        id="line-end-behind-a-digest",
    ),
    pytest.param(field("files", 0, "sha256", value="0" * 64), "the manifest says 0{64}", id="wrong-digest"),
    pytest.param(edited(another_size), r"has \d+ bytes; the manifest says", id="wrong-size"),
    pytest.param(edited(repeated_oracle), r"\$.oracles has a name twice", id="repeated-oracle"),
    pytest.param(edited(end_token_at_the_vocabulary), "not below the vocabulary", id="end-token-beyond"),
    pytest.param(field("prompt", "before_image", value=[1, 10**9]), "1000000000 is not", id="prefix-beyond"),
    pytest.param(field("prompt", "after", value=[10**9]), "1000000000 is not", id="suffix-beyond"),
)

DIMENSIONS = tuple(
    pytest.param(field("dimensions", name, value=1 << 40), name, id=name)
    for name in ("image_tokens", "hidden", "vocabulary", "layers", "kv_heads", "head_dim")
)


def refusal(root, damage):
    """The one line that refuses the damaged bundle at `root`, and the path that was loaded."""
    path = damage(root) or root
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    error, text = caught.value, str(caught.value)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    assert text.isprintable(), text
    assert str(path).strip("\0") in text
    return text


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize(("damage", "says"), FILES)
def test_wrong_files_are_refused_by_name(bundle_copy, damage, says):
    assert re.search(says, refusal(bundle_copy, damage))


@pytest.mark.parametrize(("damage", "says"), JSON)
def test_a_manifest_that_is_not_strict_json_is_refused(bundle_copy, damage, says):
    text = refusal(bundle_copy, damage)
    assert text.startswith(f"{bundle_copy / 'manifest.json'}: ")
    assert re.search(says, text), text


@pytest.mark.parametrize(("damage", "says"), SCHEMA)
def test_a_manifest_that_is_not_of_the_schema_is_refused_with_the_field(bundle_copy, damage, says):
    text = refusal(bundle_copy, damage)
    assert text.startswith(f"{bundle_copy / 'manifest.json'}: ")
    assert re.search(says, text), text


@pytest.mark.parametrize(("damage", "says"), NAMES)
def test_names_digests_and_references_that_do_not_hold_are_refused(bundle_copy, damage, says):
    assert re.search(says, refusal(bundle_copy, damage))


@pytest.mark.parametrize(("damage", "says"), DIMENSIONS)
def test_dimensions_that_contradict_the_graphs_signatures_are_refused(bundle_copy, damage, says):
    """The runtime allocates by them: a lie here must not end in a hang or out of memory."""
    assert re.search(says, refusal(bundle_copy, damage))


def test_a_canvas_that_the_vision_graph_does_not_take_is_refused(bundle_copy):
    height, width = manifest_of(bundle_copy)["preparation"]["exact"]
    refusal(bundle_copy, field("preparation", "exact", value=[height + 1, width]))


def test_an_intact_copy_loads_and_is_the_bundle_it_was_copied_from(bundle_copy, demo_bundle):
    copy = Bundle.load(bundle_copy)
    assert copy.digest == demo_bundle.digest
    assert copy.manifest == demo_bundle.manifest
    assert copy.path == bundle_copy
    assert Bundle.load(str(bundle_copy)).digest == copy.digest


def test_the_digest_is_the_sha256_of_the_manifest_which_holds_all_others(bundle_copy):
    bundle = Bundle.load(bundle_copy)
    assert bundle.digest == hashlib.sha256((bundle_copy / "manifest.json").read_bytes()).hexdigest()
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in bundle_copy.iterdir()}
    del digests["manifest.json"]
    assert {file.path: file.sha256 for file in bundle.manifest.files} == digests


def test_another_space_in_the_manifest_is_another_digest(bundle_copy, demo_bundle):
    written(lambda data: data + b" ")(bundle_copy)
    changed = Bundle.load(bundle_copy)
    assert changed.manifest == demo_bundle.manifest
    assert changed.digest != demo_bundle.digest


def test_what_is_read_is_what_was_hashed(bundle_copy):
    bundle = Bundle.load(bundle_copy)
    before = {path.name: path.read_bytes() for path in bundle_copy.iterdir()}
    for path in bundle_copy.iterdir():
        path.write_bytes(b"changed after the load")
    for file in bundle.manifest.files:
        assert bundle.read(file.path) == before[file.path]


def test_a_file_that_the_manifest_does_not_list_cannot_be_read(demo_bundle):
    for name in ("manifest.json", "../bundle/vision.onnx"):
        with pytest.raises(KeyError):
            demo_bundle.read(name)


def test_a_loaded_bundle_answers_when_its_folder_is_gone(bundle_copy):
    """Nothing is read from disk a second time."""
    bundle = Bundle.load(bundle_copy)
    shutil.rmtree(bundle_copy)
    model = VisionLanguageModel(bundle)
    canvas = np.full((1, 3, *bundle.manifest.preparation.canvas_size), 0.5, np.float32)
    assert len(Question(model, "what should the robot do?", rows=1).answers(canvas)) == 1


@pytest.fixture
def parsers(monkeypatch):
    """Calls of the parsers behind the bundle: ONNX Runtime's and the tokenizer's."""
    calls = []
    session, from_buffer = onnxruntime.InferenceSession, tokenizers.Tokenizer.from_buffer

    class Spy:
        @staticmethod
        def from_buffer(data):
            calls.append("tokenizer")
            return from_buffer(data)

    def spied(*arguments, **options):
        calls.append("graph")
        return session(*arguments, **options)

    monkeypatch.setattr("edgers_engines.onnxruntime.ort.InferenceSession", spied)
    monkeypatch.setattr("edgers_engines.prompt.Tokenizer", Spy)
    return calls


def test_the_parsers_are_where_the_spies_listen(bundle_copy, parsers):
    VisionLanguageModel(Bundle.load(bundle_copy))
    assert sorted(parsers) == ["graph"] * 3 + ["tokenizer"]


@pytest.mark.parametrize("name", ["vision.onnx", "embed.onnx", "decoder.onnx", "tokenizer.json"])
def test_one_flipped_bit_is_found_before_any_parser_sees_a_byte(bundle_copy, parsers, name):
    data = bytearray((bundle_copy / name).read_bytes())
    data[-1] ^= 1
    (bundle_copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} has SHA-256"):
        VisionLanguageModel(Bundle.load(bundle_copy))
    assert parsers == []


@pytest.mark.parametrize("damage", [p.values[0] for p in FILES if p.id in ("symlinked-file", "named-pipe")])
def test_files_that_are_not_plain_are_found_before_the_manifest_is_read(bundle_copy, monkeypatch, damage):
    monkeypatch.setattr(bundle_module, "parse", lambda *_: pytest.fail("the manifest was parsed"))
    damage(bundle_copy)
    with pytest.raises(BundleError, match="not a plain file"):
        Bundle.load(bundle_copy)


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize(
    "swap",
    [
        pytest.param(linked, id="link"),
        pytest.param(
            lambda root: ((root / "vision.onnx").unlink(), os.mkfifo(root / "vision.onnx")), id="pipe"
        ),
        pytest.param(lambda root: (root / "vision.onnx").unlink(), id="nothing"),
    ],
)
def test_a_file_swapped_behind_the_first_check_is_neither_followed_nor_waited_for(
    bundle_copy, monkeypatch, swap
):
    parse = bundle_module.parse

    def swapping(data, kind):
        swap(bundle_copy)
        return parse(data, kind)

    monkeypatch.setattr(bundle_module, "parse", swapping)
    with pytest.raises(BundleError, match=r"vision\.onnx"):
        Bundle.load(bundle_copy)


class Payload:
    """What a pickle under another name would do if anyone unpickled it."""

    def __reduce__(self):
        return pytest.fail, ("a file of the bundle was unpickled",)


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        pytest.param("vision.onnx", pickle.dumps(Payload()), BackendError, id="pickled-graph"),
        pytest.param("embed.onnx", b"\0" * 5000, BackendError, id="graph-of-zeros"),
        pytest.param("tokenizer.json", pickle.dumps(Payload()), BundleError, id="pickled-tokenizer"),
        pytest.param("tokenizer.json", b"{}", BundleError, id="empty-tokenizer"),
        pytest.param("tokenizer.json", b"[" * 200_000, BundleError, id="deep-tokenizer"),
    ],
)
def test_nonsense_with_a_true_digest_is_refused_by_its_parser_in_one_line(bundle_copy, name, data, error):
    (bundle_copy / name).write_bytes(data)
    manifest = manifest_of(bundle_copy)
    for file in manifest["files"]:
        if file["path"] == name:
            file |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(bundle_copy, manifest)
    with pytest.raises(error, match=name) as caught:
        VisionLanguageModel(Bundle.load(bundle_copy))
    assert str(caught.value).isprintable()
