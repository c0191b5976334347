"""Bundles: whatever is damaged is refused by name before a parser sees it; what passes is held in memory."""

import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tokenizers

from edgers import cli
from edgers_engines import bundle as bundle_module
from edgers_engines import weights as weights_module
from edgers_engines.bundle import Bundle
from edgers_engines.errors import BundleError
from edgers_engines.vlm import Question, VisionLanguageModel
from tests.engines.hostile_bundles import (
    FILES,
    IN_GRAPHS,
    LATER,
    REFUSED,
    added,
    field,
    flipped,
    gone,
    inserted,
    linked,
    location,
    piped,
    resized,
    written,
)


def refusal(root, damage):
    """The one line that refuses the damaged bundle at `root`."""
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
@pytest.mark.parametrize(("damage", "says"), REFUSED)
def test_a_broken_bundle_is_refused_in_one_line_that_names_what_is_wrong(bundle_copy, damage, says):
    text = refusal(bundle_copy, damage)
    assert re.search(says, text), text


@pytest.mark.parametrize(("damage", "error", "says"), LATER)
def test_what_no_digest_can_tell_is_refused_before_the_model_answers(bundle_copy, damage, error, says):
    damage(bundle_copy)
    bundle = Bundle.load(bundle_copy)
    with pytest.raises(error, match=says) as caught:
        VisionLanguageModel(bundle)
    assert str(caught.value).isprintable()
    assert caught.value.__cause__ is None


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


def test_a_file_that_the_manifest_does_not_list_cannot_be_read(demo_bundle):
    for name in ("manifest.json", "../bundle/vision.onnx"):
        with pytest.raises(KeyError):
            demo_bundle.read(name)


PARSED = ("vision.onnx", "embed.onnx", "decoder.onnx", "tokenizer.json")


class TestOnceRead:
    """What was hashed is what is used: nothing is read from the disk a second time, or it is hashed again."""

    @pytest.mark.parametrize("name", PARSED)
    def test_graphs_and_tokenizer_stay_those_that_were_hashed(self, bundle_copy, name):
        before = (bundle_copy / name).read_bytes()
        bundle = Bundle.load(bundle_copy)
        (bundle_copy / name).write_bytes(b"changed after the load")
        assert bundle.read(name) == before

    def test_a_model_is_built_from_the_graphs_that_were_hashed(self, bundle_copy):
        bundle = Bundle.load(bundle_copy)
        for name in (*PARSED, "manifest.json"):
            (bundle_copy / name).write_bytes(b"changed after the load")
        canvas = np.full((1, 3, *bundle.manifest.preparation.canvas_size), 0.5, np.float32)
        question = Question(VisionLanguageModel(bundle), "what should the robot do?", rows=1)
        assert len(question.answers(canvas)) == 1

    def test_a_model_answers_when_the_bundle_and_the_private_copy_are_gone(self, bundle_copy):
        bundle = Bundle.load(bundle_copy)
        model = VisionLanguageModel(bundle)
        shutil.rmtree(bundle_copy)
        canvas = np.full((1, 3, *bundle.manifest.preparation.canvas_size), 0.5, np.float32)
        assert len(Question(model, "what should the robot do?", rows=1).answers(canvas)) == 1

    def test_weights_are_not_read_by_name(self, demo_bundle):
        with pytest.raises(KeyError):
            demo_bundle.read("weights.bin")

    @pytest.mark.usefixtures("no_hang")
    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            pytest.param(flipped("weights.bin"), "has SHA-256 [0-9a-f]{64}; the man", id="flipped-bit"),
            pytest.param(resized("weights.bin", -1), "has 3156223 bytes; the man", id="shorter"),
            pytest.param(resized("weights.bin", 1), "has 3156225 bytes; at most", id="longer"),
            pytest.param(gone("weights.bin"), "No such file", id="gone"),
            pytest.param(linked("weights.bin"), "symbolic link|levels of", id="link"),
            pytest.param(piped("weights.bin"), "not a regular file", id="pipe"),
        ],
    )
    def test_weights_that_changed_since_are_refused_and_no_copy_stays(
        self, bundle_copy, folder, damage, says
    ):
        bundle = Bundle.load(bundle_copy)
        damage(bundle_copy)
        with pytest.raises(
            BundleError, match=rf"{re.escape(str(bundle_copy))}/weights\.bin.*{says}"
        ) as caught:
            VisionLanguageModel(bundle)
        assert str(caught.value).isprintable()
        assert list(folder.iterdir()) == []

    def test_weights_that_grow_while_they_are_copied_do_not_fill_the_disk(
        self, bundle_copy, folder, monkeypatch
    ):
        bundle, written = Bundle.load(bundle_copy), []

        class Endless:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                written.extend(path.stat().st_size for path in folder.rglob("weights.bin"))

            def read(self, size):
                return b"\0" * size

        monkeypatch.setattr(weights_module, "open_regular", lambda *_, **__: Endless())
        with pytest.raises(BundleError, match=r"weights\.bin has \d+ bytes; the manifest says 3156224"):
            VisionLanguageModel(bundle)
        assert written == [3 << 20]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where private copies are made."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


class TestPrivateCopy:
    def test_it_holds_the_weights_alone_and_nobody_else_may_look(self, demo_bundle, folder):
        with demo_bundle.weights() as weights:
            copy = weights.folder
            assert copy.parent == folder
            assert stat.S_IMODE(copy.stat().st_mode) == 0o700
            [file] = copy.iterdir()
            assert file.name == "weights.bin"
            assert file.read_bytes() == (demo_bundle.path / "weights.bin").read_bytes()

    def test_it_is_gone_afterwards(self, demo_bundle, folder):
        with demo_bundle.weights() as weights:
            copy = weights.folder
        assert not copy.exists()
        assert list(folder.iterdir()) == []

    @staticmethod
    def fail_with(error, bundle):
        with bundle.weights() as weights:
            assert weights.folder.exists()
            raise error

    def test_it_is_not_made_before_somebody_asks_for_it(self, demo_bundle, folder):
        with demo_bundle.weights() as weights:
            assert list(folder.iterdir()) == []
            assert weights.sha256 in {file.sha256 for file in demo_bundle.manifest.files}

    def test_it_is_gone_when_its_user_fails(self, demo_bundle, folder):
        with pytest.raises(KeyboardInterrupt):
            self.fail_with(KeyboardInterrupt(), demo_bundle)
        assert list(folder.iterdir()) == []

    def test_an_error_of_its_user_is_not_taken_for_one_of_its_own(self, demo_bundle, folder):
        with pytest.raises(OSError, match="its own"):
            self.fail_with(OSError("its own"), demo_bundle)
        assert list(folder.iterdir()) == []

    def test_two_copies_at_once_do_not_meet(self, demo_bundle, folder):
        with demo_bundle.weights() as one, demo_bundle.weights() as other:
            assert {one.folder, other.folder} == set(folder.iterdir())
            assert one.folder != other.folder

    def test_too_little_room_is_said_before_a_byte_is_written(self, demo_bundle, folder, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 5000))
        monkeypatch.setattr(weights_module, "_hash", lambda *_: pytest.fail("the copy was begun"))
        says = f"needs 3156224 bytes .*{re.escape(str(folder))} has 5000: set TMPDIR"
        with demo_bundle.weights() as weights, pytest.raises(BundleError, match=says):
            weights.folder  # noqa: B018  it makes the copy
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
    def test_a_disk_that_fails_while_it_is_written_is_named_and_nothing_stays(
        self, demo_bundle, folder, monkeypatch, number
    ):
        opened = Path.open

        def failing(path, *arguments, **options):
            file = opened(path, *arguments, **options)
            if path.parent.parent == folder:
                file.write(b"the first bytes")
                raise OSError(number, os.strerror(number))
            return file

        monkeypatch.setattr(Path, "open", failing)
        with (
            demo_bundle.weights() as weights,
            pytest.raises(BundleError, match=os.strerror(number)) as caught,
        ):
            weights.folder  # noqa: B018  as above
        assert str(demo_bundle.path) in str(caught.value)
        assert str(caught.value).isprintable()
        assert list(folder.iterdir()) == []

    def test_no_folder_for_temporary_files_is_one_line(self, demo_bundle, monkeypatch, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        with (
            demo_bundle.weights() as weights,
            pytest.raises(BundleError, match=r"private copy.*No such file"),
        ):
            weights.folder  # noqa: B018  as above


@pytest.fixture
def reads(monkeypatch):
    """What reads a bundle's bytes, in order: the digests, the graph reader, the tokenizer, ONNX Runtime."""
    calls = []

    def spied(what, function):
        def spy(*arguments, **options):
            calls.append(what)
            return function(*arguments, **options)

        return spy

    monkeypatch.setattr(bundle_module, "_regular_files", spied("files", bundle_module._regular_files))
    monkeypatch.setattr(bundle_module, "parse", spied("manifest", bundle_module.parse))
    for module in (bundle_module, weights_module):
        monkeypatch.setattr(module, "check_digest", spied("digest", module.check_digest))
    monkeypatch.setattr(bundle_module, "read_graph", spied("reader", bundle_module.read_graph))
    session = "edgers_engines.onnxruntime.ort.InferenceSession"
    monkeypatch.setattr(session, spied("runtime", onnxruntime.InferenceSession))

    class Spy:
        from_buffer = staticmethod(spied("tokenizer", tokenizers.Tokenizer.from_buffer))

    monkeypatch.setattr("edgers_engines.tokenizer.Tokenizer", Spy)
    return calls


class TestOrder:
    def test_files_manifest_digests_reader_and_only_then_a_parser(self, bundle_copy, reads):
        VisionLanguageModel(Bundle.load(bundle_copy))
        load = ["files", "manifest", *["digest"] * 8, *["reader"] * 4]
        assert reads == [*load, "tokenizer", "digest", *["runtime"] * 3]

    @pytest.mark.parametrize("name", FILES)
    def test_one_flipped_bit_is_found_before_the_graph_reader_sees_a_byte(self, bundle_copy, reads, name):
        flipped(name)(bundle_copy)
        refusal(bundle_copy, lambda _: None)
        assert set(reads) == {"files", "manifest", "digest"}

    @pytest.mark.parametrize("damage", [case.values[0] for case in IN_GRAPHS])
    def test_a_graph_that_asks_too_much_is_found_before_a_runtime_sees_a_byte(
        self, bundle_copy, reads, damage
    ):
        damage(bundle_copy)
        with pytest.raises(BundleError):
            VisionLanguageModel(Bundle.load(bundle_copy))
        assert "reader" in reads
        assert not {"tokenizer", "runtime"} & set(reads)

    def test_weights_that_changed_since_the_load_never_reach_a_runtime(self, bundle_copy, reads):
        bundle = Bundle.load(bundle_copy)
        flipped("weights.bin")(bundle_copy)
        with pytest.raises(BundleError):
            VisionLanguageModel(bundle)
        assert "runtime" not in reads

    # In the order in which they are to be found: each of these hides those below it.
    FAULTS = (
        pytest.param(piped("a-pipe"), "not a plain file", id="file-that-is-not-plain"),
        pytest.param(inserted(b'"name": 1, "name": 2,'), "there twice", id="not-strict-json"),
        pytest.param(field("schema_version", value=2), "schema_version", id="not-of-the-schema"),
        pytest.param(added("extra"), "does not list", id="extra-file"),
        pytest.param(flipped("tokenizer.json"), "tokenizer.json has SHA-256", id="digest-of-the-tokenizer"),
        pytest.param(flipped("weights.bin"), "weights.bin has SHA-256", id="digest-of-the-weights"),
        pytest.param(location(location="../x"), "location", id="data-elsewhere"),
        pytest.param(field("self_test", "prompt", value=" "), "self-test", id="self-test"),
    )

    @pytest.mark.parametrize("first", range(len(FAULTS)), ids=[case.id for case in FAULTS])
    def test_of_several_faults_the_first_in_the_order_of_trust_is_reported(self, bundle_copy, first):
        faults = [case.values for case in self.FAULTS[first:]]
        for damage, _ in reversed(faults):
            damage(bundle_copy)
        with pytest.raises(BundleError, match=faults[0][1]):
            VisionLanguageModel(Bundle.load(bundle_copy))

    @pytest.mark.usefixtures("no_hang")
    @pytest.mark.parametrize(
        "swap",
        [
            pytest.param(linked(), id="link"),
            pytest.param(piped("vision.onnx"), id="pipe"),
            pytest.param(gone("vision.onnx"), id="nothing"),
            pytest.param(resized("vision.onnx", 1 << 40), id="terabyte"),
        ],
    )
    def test_a_file_swapped_behind_the_first_check_is_neither_followed_nor_waited_for(
        self, bundle_copy, monkeypatch, swap
    ):
        parse = bundle_module.parse

        def swapping(data, kind):
            swap(bundle_copy)
            return parse(data, kind)

        monkeypatch.setattr(bundle_module, "parse", swapping)
        with pytest.raises(BundleError, match=r"vision\.onnx"):
            Bundle.load(bundle_copy)


def picked(table, *names):
    found = [case for case in table if case.id in names]
    assert len(found) == len(names)
    return found


SAMPLE = picked(
    REFUSED,
    *("empty", "deep-json", "version-1", "absolute-path", "glued-star", "ds-store", "data-in-the-system"),
    *(
        "link-to-a-device",
        "flipped-bit-1-weights.bin",
        "oversized-vision.onnx",
        "loop",
        "extra-file-bad-name",
    ),
    *("pickle-as-decoder.onnx", "symlinked-folder"),
)
SAMPLE_LATER = picked(LATER, "pickle-as-weights", "pickle-as-tokenizer", "no-question")


@pytest.fixture
def edgers(monkeypatch, capsys):
    """Run the command line here; exit code and what it wrote."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["edgers", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return run


class TestCommandLine:
    @staticmethod
    def one_line(ended, says):
        code, out, err = ended
        assert (code, out) == (1, "")
        assert err.startswith("edgers: ")
        assert err.count("\n") == 1
        assert err[:-1].isprintable()
        assert re.search(says, err), err
        assert "internal error" not in err

    @pytest.mark.parametrize(("damage", "says"), SAMPLE)
    def test_inspect_refuses_a_broken_bundle_in_one_line(self, edgers, bundle_copy, damage, says):
        path = damage(bundle_copy) or bundle_copy
        self.one_line(edgers("inspect", path, "--json"), says)

    @pytest.mark.parametrize(
        ("damage", "says"),
        SAMPLE + [pytest.param(*case.values[::2], id=case.id) for case in SAMPLE_LATER],
    )
    def test_certify_refuses_a_broken_bundle_in_one_line(
        self, edgers, bundle_copy, damage, says, first_frame
    ):
        path = damage(bundle_copy) or bundle_copy
        options = ("--prompt", "What?", "--choices", "left,right", "--sigma", 0.25, "--json")
        self.one_line(edgers("certify", first_frame, "--bundle", path, *options), says)
