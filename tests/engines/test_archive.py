"""Archives: what was packed comes back, in one form; anything else ends in one line and leaves no trace."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from contextlib import contextmanager
from itertools import pairwise

import pytest

from edgers import demo
from edgers_engines import archive as archive_module
from edgers_engines import atomic, stored_zip
from edgers_engines.archive import pack, unpack
from edgers_engines.bundle import Bundle
from edgers_engines.errors import BundleError, EdgersError, InputError
from edgers_engines.stored_zip import Entry
from tests.engines.hostile_archives import CASES, MANIFEST, forged, local_header


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def files():
    """The demo bundle's files, in the order of its manifest."""
    text = (demo.BUNDLE / MANIFEST).read_bytes()
    names = [MANIFEST, *(file["path"] for file in json.loads(text)["files"])]
    return {name: (demo.BUNDLE / name).read_bytes() for name in names}


@pytest.fixture
def packed(tmp_path, bundle_copy):
    """The demo bundle's archive."""
    return pack(bundle_copy, tmp_path / "archive").path


@pytest.fixture(params=["pack", "unpack"])
def verb(request, bundle_copy, packed):
    """Either way of copying: the function and what it copies."""
    return (pack, bundle_copy) if request.param == "pack" else (unpack, packed)


@pytest.fixture
def unchanged(tmp_path, packed):
    """Whatever the test does, nothing is in its folder that was not there before."""
    before = set(tmp_path.iterdir())
    yield
    assert set(tmp_path.iterdir()) <= before


def refusal(call, *arguments, error=EdgersError, **more):
    """The one printable line of the error that the call raises."""
    with pytest.raises(error) as caught:
        call(*arguments, **more)
    text = str(caught.value)
    assert text.isprintable(), text
    assert ".edgers-" not in text, "a scratch name means nothing to a person"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


# --- there and back -----------------------------------------------------------------------------------------


def test_a_bundle_comes_back_as_it_was(tmp_path, bundle_copy, packed):
    copied = unpack(packed, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(bundle_copy)
    assert copied.path == tmp_path / "back"
    assert copied.digest == Bundle.load(tmp_path / "back").digest == Bundle.load(bundle_copy).digest
    assert copied.size == packed.stat().st_size


def test_packing_twice_gives_the_same_bytes(tmp_path, bundle_copy, packed):
    os.utime(bundle_copy / "vision.onnx", (0, 0))
    (bundle_copy / "vision.onnx").chmod(0o600)
    copied = pack(bundle_copy, tmp_path / "again")
    assert copied.path.read_bytes() == packed.read_bytes()
    assert copied.digest == Bundle.load(bundle_copy).digest
    assert copied.size == packed.stat().st_size


def test_an_archive_is_what_the_zip_format_says_byte_for_byte(packed, files):
    """Judged by headers spelled out a second time, in the tests."""
    assert packed.read_bytes() == forged(files)


def test_another_tool_reads_the_archive(packed, files):
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == files
        assert archive.namelist()[0] == MANIFEST
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_another_tool_reads_an_archive_of_more_than_4_gigabytes(tmp_path):
    """A sparse file: only the headers and the last entry's bytes are written."""
    small = b"behind the large one"
    large = 5 << 30
    entries = [Entry("large", large), Entry("small", len(small), stored_zip_crc(small))]
    with (tmp_path / "archive").open("wb") as out:
        out.write(entries[0].local_header())
        out.seek(large, io.SEEK_CUR)
        out.write(entries[1].local_header() + small + b"".join(stored_zip.directory(entries)))
        assert out.tell() == stored_zip.total_size(entries)
    with zipfile.ZipFile(tmp_path / "archive") as archive:
        assert [info.file_size for info in archive.infolist()] == [large, len(small)]
        assert archive.read("small") == small


def stored_zip_crc(data):
    return int.from_bytes(local_header("x", data)[14:18], "little")


def test_the_files_are_written_with_ordinary_permissions(tmp_path, packed):
    unpack(packed, tmp_path / "back")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert (tmp_path / "back").stat().st_mode == (tmp_path / "plain").stat().st_mode
    for path in (packed, *(tmp_path / "back").iterdir()):
        assert path.stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode
        assert path.stat().st_nlink == 1


def test_progress_counts_every_byte_in_pieces_of_bounded_size(tmp_path, files, verb):
    """So memory does not grow with the bundle."""
    seen = [(0, 0)]
    copy, source = verb
    copy(source, tmp_path / "target", progress=lambda *counts: seen.append(counts))
    total = sum(map(len, files.values()))
    assert seen[-1] == (total, total)
    assert all(0 < after[0] - before[0] <= 1 << 20 for before, after in pairwise(seen))


# --- hostile archives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_archive_is_refused_in_one_line_and_leaves_nothing(tmp_path, files, name):
    make, says = CASES[name]
    archive = tmp_path / "archive"
    archive.write_bytes(make(files))
    text = refusal(unpack, archive, tmp_path / "back", error=BundleError)
    assert re.search(says, text), text
    assert str(archive) in text
    assert list(tmp_path.iterdir()) == [archive]


def test_an_archive_cut_short_anywhere_is_refused(tmp_path, packed, files, unchanged):
    """At every header's ends, in between, and within the last hundred bytes one by one."""
    size = packed.stat().st_size
    ends, offset = {0, 1, 4}, 0
    for name, data in files.items():
        for part in (local_header(name, data), data):
            ends.update((offset + len(part) // 2, offset + len(part) - 1, offset + len(part)))
            offset += len(part)
    ends.update(range(size - 100, size))
    for end in sorted(ends, reverse=True):
        os.truncate(packed, end)
        text = refusal(unpack, packed, tmp_path / "back", error=BundleError)
        assert re.search("cut short" if end >= 4 else "not an archive", text), (end, text)


def test_no_byte_of_the_headers_is_free(tmp_path, packed, files, unchanged):
    """A bit is flipped in every byte that is not a file's, one after the other."""
    good, offset, places = packed.read_bytes(), 0, []
    for name, data in files.items():
        header = len(local_header(name, data))
        places += range(offset, offset + header)
        offset += header + len(data)
    places += range(offset, len(good))
    first = len(local_header(MANIFEST, b""))
    with packed.open("r+b") as handle:
        for place in (*places[:first], *places[first::7]):
            handle.seek(place)
            handle.write(bytes([good[place] ^ 1]))
            handle.flush()
            refusal(unpack, packed, tmp_path / "back", error=BundleError)
            handle.seek(place)
            handle.write(good[place : place + 1])


def test_unpacking_ends_at_the_first_file_that_is_wrong(tmp_path, files):
    """Gigabytes that follow are not copied first."""
    first = list(files)[1]
    archive = tmp_path / "archive"
    archive.write_bytes(forged({**files, first: files[first][:-1] + b"!"}))
    seen = []
    refusal(unpack, archive, tmp_path / "back", progress=lambda done, _total: seen.append(done))
    assert seen[-1] == len(files[MANIFEST]) + len(files[first])


@pytest.mark.usefixtures("no_hang")
def test_only_a_regular_file_is_unpacked(tmp_path, packed):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(packed)
    (tmp_path / "folder").mkdir()
    before = set(tmp_path.iterdir())
    for name, says in (
        ("pipe", "not a regular file"),
        ("link", "it is a link, and links are not followed"),
        ("folder", "directory|not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("none", "No such file"),
        ("archive\0", "null byte"),
        ("x" * 300, "too long"),
    ):
        text = refusal(unpack, tmp_path / name, tmp_path / "back", error=BundleError)
        assert re.search(f"^cannot read .*({says})", text, re.IGNORECASE), text
    assert set(tmp_path.iterdir()) == before


# --- targets that are there, and bundles that change --------------------------------------------------------


def taken_by_a_file(path):
    path.write_text("mine")


def taken_by_a_folder(path):
    path.mkdir()
    (path / "mine").touch()


def taken_by_an_empty_folder(path):
    path.mkdir()


def taken_by_a_pipe(path):
    os.mkfifo(path)


def taken_by_a_dangling_link(path):
    path.symlink_to(path.with_name("nowhere"))


TAKEN = [
    taken_by_a_file,
    taken_by_a_folder,
    taken_by_an_empty_folder,
    taken_by_a_pipe,
    taken_by_a_dangling_link,
]


def state(path):
    status = path.lstat()
    return status.st_ino, status.st_mode, status.st_mtime_ns, status.st_size


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("moment", ["before", "meanwhile"])
@pytest.mark.parametrize("take", TAKEN)
def test_what_is_there_already_is_never_touched(tmp_path, verb, take, moment):
    """Nor what somebody puts there while the bundle is copied."""
    target = tmp_path / "target"
    if moment == "before":
        take(target)

    def progress(done, total):
        if done == total and moment == "meanwhile":
            take(target)
            before.append(state(target))

    before = [state(target)] if moment == "before" else []
    text = refusal(*verb, target, error=InputError, progress=progress)
    assert text == f"{target} is there already: choose another name, or remove it first"
    assert [state(target)] == before
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "archive", "target"}


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("none/target", "none is not a folder: make it first"),
        ("archive/target", "archive is not a folder: make it first"),
        ("target\0", "null byte"),
        ("x" * 300, "too long"),
        (".", "is there already"),
    ],
)
def test_a_target_that_cannot_be_is_refused(tmp_path, unchanged, verb, target, says):
    assert says in refusal(*verb, tmp_path / target, error=InputError)


def test_a_bundle_is_not_packed_into_itself(bundle_copy):
    before = contents(bundle_copy)
    text = refusal(pack, bundle_copy, bundle_copy / "archive", error=InputError)
    assert "would lie inside the bundle" in text
    assert contents(bundle_copy) == before


def test_a_damaged_bundle_is_not_packed(tmp_path, bundle_copy, unchanged):
    (bundle_copy / "extra").touch()
    assert "extra, which the manifest does not list" in refusal(pack, bundle_copy, tmp_path / "again")


@pytest.mark.parametrize("kind", ["other bytes", "longer", "shorter", "a link", "gone"])
def test_a_file_that_changes_after_the_check_is_not_packed(tmp_path, bundle_copy, unchanged, kind):
    victim = bundle_copy / "vision.onnx"
    content = victim.read_bytes()

    def progress(_done, _total):
        if kind == "other bytes":
            victim.write_bytes(content[:-1] + b"!")
        elif kind == "longer":
            victim.write_bytes(content + b"!")
        elif kind == "shorter":
            victim.write_bytes(content[:-1])
        else:
            victim.unlink(missing_ok=True)
            if kind == "a link":
                victim.symlink_to("embed.onnx")

    text = refusal(pack, bundle_copy, tmp_path / "again", error=BundleError, progress=progress)
    assert str(victim) in text


def test_a_manifest_that_changes_after_the_check_is_not_packed(tmp_path, bundle_copy, unchanged, monkeypatch):
    load = Bundle.load

    def load_then_change(path):
        bundle = load(path)
        (path / MANIFEST).write_bytes((path / MANIFEST).read_bytes() + b"\n")
        return bundle

    monkeypatch.setattr(archive_module.Bundle, "load", load_then_change)
    text = refusal(pack, bundle_copy, tmp_path / "again", error=BundleError)
    assert text == f"{bundle_copy / MANIFEST} changed while it was packed: pack it again"


# --- faults -------------------------------------------------------------------------------------------------


@contextmanager
def full_after(path, room=1 << 20):
    """A file on a disk that has room for so many more bytes."""
    with path.open("xb") as out:
        write = out.write

        class Out:
            def write(self, data):
                nonlocal room
                room -= len(data)
                if room < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write(data)

            tell, seek = out.tell, out.seek

        yield Out()


def no_sync(_descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("moment", ["at a write", "when all is written"])
def test_a_disk_that_fills_leaves_nothing(tmp_path, unchanged, monkeypatch, verb, moment):
    if moment == "at a write":
        monkeypatch.setattr(atomic, "create", full_after)
        monkeypatch.setattr(archive_module, "create", full_after)
    else:
        monkeypatch.setattr(os, "fsync", no_sync)
    text = refusal(*verb, tmp_path / "target")
    assert text == f"cannot write {tmp_path / 'target'}: No space left on device"


def test_too_little_space_is_said_before_anything_is_written(tmp_path, packed, unchanged, monkeypatch, verb):
    size = packed.stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(size, 1, size - 1))
    monkeypatch.setattr(atomic, "create", None)
    monkeypatch.setattr(archive_module, "create", None)
    text = refusal(*verb, tmp_path / "target")
    assert f"needs {size} bytes; {size - 1} are free there" in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_whatever_ends_it_nothing_half_written_stays(tmp_path, unchanged, verb, error):
    def progress(done, total):
        if 2 * done > total:
            assert any(path.name.startswith(".edgers-") for path in tmp_path.iterdir())
            raise error

    copy, source = verb
    with pytest.raises(error):
        copy(source, tmp_path / "target", progress=progress)


def test_a_file_system_without_links_gets_the_archive_too(tmp_path, bundle_copy, packed, monkeypatch):
    def no_links(_self, _target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    assert pack(bundle_copy, tmp_path / "again").path.read_bytes() == packed.read_bytes()
    assert set(tmp_path.iterdir()) == {bundle_copy, packed, tmp_path / "again"}


def test_the_archive_may_be_replaced_while_it_is_unpacked(tmp_path, bundle_copy, packed):
    """What was opened is what is read: another file under its name changes nothing."""

    def progress(_done, _total):
        packed.unlink(missing_ok=True)
        packed.write_bytes(b"another file")

    copied = unpack(packed, tmp_path / "back", progress=progress)
    assert contents(tmp_path / "back") == contents(bundle_copy)
    assert copied.digest == hashlib.sha256((bundle_copy / MANIFEST).read_bytes()).hexdigest()
