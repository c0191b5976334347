"""A bundle as one file, to carry it to a device: packed, and unpacked as if an enemy had sent it.

The file is a ZIP that any tool opens, in exactly one form for each bundle (`stored_zip.py`): manifest.json,
then the manifest's files in the manifest's order. Files are stored as they are: weights do not compress, and
what is stored cannot be a bomb. Because the form is unique, unpacking interprets nothing: the manifest says
what every other byte must be, and the first that differs ends it. Names that leave the folder, links,
overlaps, hidden files and two headers that disagree need no rules of their own.

Unpacking does not make a bundle trusted. It proves that the files are those of the manifest, not who wrote
the manifest: compare the digest with one that came another way.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgers_engines import stored_zip
from edgers_engines.atomic import check_new, check_space, create, new_file, new_folder
from edgers_engines.bundle import MANIFEST, MAX_MANIFEST_BYTES, Bundle
from edgers_engines.errors import BundleError, InputError
from edgers_engines.manifest import Manifest
from edgers_engines.records import parse
from edgers_engines.source import Source, open_source
from edgers_engines.stored_zip import Entry

Progress = Callable[[int, int], None]

MAX_ENTRIES = 64  # the schema lets each have 2**40 bytes
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Copied:
    """What was packed or unpacked.

    Attributes:
        path: what was made: an archive, or a bundle's directory.
        digest: the bundle's digest, the SHA-256 of its manifest.
        size: bytes of the archive.
    """

    path: Path
    digest: str
    size: int


def pack(bundle_path: Path, archive: Path, *, progress: Progress = lambda _done, _total: None) -> Copied:
    """Write a bundle into one file; the same bundle gives the same bytes.

    Args:
        bundle_path: the bundle's directory; everything in it is checked first, and again while it is copied.
        archive: file to make; it appears only when complete, and replaces nothing.
        progress: called after every piece with the bytes copied so far and the bytes to copy.

    Raises:
        BundleError: the bundle is damaged, or changed while it was packed.
        InputError: something is at `archive` already, or it cannot be there.
        EdgersError: the archive cannot be written.
    """
    check_new(archive)
    text, manifest = _checked_manifest(bundle_path)
    if archive.parent.samefile(bundle_path):
        raise InputError(f"{archive} would lie inside the bundle: choose another folder")
    digest = hashlib.sha256(text).hexdigest()
    entries = _expected(text, manifest)
    size = stored_zip.total_size(entries)
    check_space(archive, size)
    report = _counter(progress, entries)
    with new_file(archive) as out:
        source = Source(io.BytesIO(text), bundle_path / MANIFEST, len(text))
        packed = [_append(source, entries[0], digest, out, report)]
        for file, entry in zip(manifest.files, entries[1:], strict=True):
            with open_source(bundle_path / file.path, file.size) as source:
                packed.append(_append(source, entry, file.sha256, out, report))
        out.write(b"".join(stored_zip.directory(packed)))
    return Copied(archive, digest, size)


def unpack(archive: Path, bundle_path: Path, *, progress: Progress = lambda _done, _total: None) -> Copied:
    """Make a bundle's directory from an archive that `pack` wrote, or may not have written.

    Args:
        archive: the file; a regular one, no link.
        bundle_path: directory to make; it appears only when `Bundle.load` accepts it, and replaces nothing.
        progress: called after every piece with the bytes copied so far and the bytes to copy.

    Raises:
        BundleError: the archive is not byte for byte what `pack` writes for a sound bundle.
        InputError: something is at `bundle_path` already, or it cannot be there.
        EdgersError: the directory cannot be written.
    """
    check_new(bundle_path)
    with open_source(archive, MAX_ENTRIES << 40) as source:
        text = _read_manifest(source)
        manifest = _parse(text, archive)
        entries = _expected(text, manifest)
        _check_size(source, stored_zip.total_size(entries))
        check_space(bundle_path, source.size)
        report = _counter(progress, entries)
        with new_folder(bundle_path) as scratch:
            found = [_write_manifest(text, scratch, report)]
            for file, entry in zip(manifest.files, entries[1:], strict=True):
                with create(scratch / file.path) as out:
                    found.append(_extract(source, entry, file.sha256, out, report))
            with _form_of(archive):
                stored_zip.check_directory(source.rest(), found)
            _check_loads(scratch, archive)
    return Copied(bundle_path, hashlib.sha256(text).hexdigest(), source.size)


def _checked_manifest(bundle_path: Path) -> tuple[bytes, Manifest]:
    """The manifest of a bundle that loads, and the bytes it was read from."""
    bundle = Bundle.load(bundle_path)
    with open_source(bundle_path / MANIFEST, MAX_MANIFEST_BYTES) as source:
        text = source.rest()
    if hashlib.sha256(text).hexdigest() != bundle.digest:
        raise BundleError(f"{bundle_path / MANIFEST} changed while it was packed: pack it again")
    return text, bundle.manifest


def _read_manifest(source: Source) -> bytes:
    """The archive's first file, which must be the manifest."""
    length = len(Entry(MANIFEST, 0).local_header())
    header = source.read(min(length, source.size))
    if not header.startswith(stored_zip.SIGNATURE):
        raise BundleError(f"{source.path} is not an archive of a bundle: it begins with {header[:4]!r}")
    if len(header) < length:
        raise BundleError(f"{source.path} is cut short: it has {source.size} bytes")
    with _form_of(source.path):
        entry = stored_zip.read_local(header, MANIFEST)
    if entry.size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{source.path}: {MANIFEST} has {entry.size} bytes; at most {MAX_MANIFEST_BYTES} are read"
        )
    text = source.read(entry.size)
    _check_crc(source.path, entry, zlib.crc32(text))
    return text


def _parse(text: bytes, archive: Path) -> Manifest:
    try:
        manifest = parse(text, Manifest)
    except ValueError as error:
        raise BundleError(f"{archive}: {MANIFEST}: {error}") from None
    names = [MANIFEST, *(file.path for file in manifest.files)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BundleError(f"{archive}: {MANIFEST} lists {', '.join(twice)} twice, or itself")
    if len(names) > MAX_ENTRIES:
        raise BundleError(
            f"{archive}: {MANIFEST} lists {len(names) - 1} files; at most {MAX_ENTRIES - 1} may be"
        )
    return manifest


def _expected(text: bytes, manifest: Manifest) -> list[Entry]:
    """The archive's entries; their CRCs are not known before their bytes are."""
    return [Entry(MANIFEST, len(text)), *(Entry(file.path, file.size) for file in manifest.files)]


def _check_size(source: Source, expected: int) -> None:
    if source.size < expected:
        raise BundleError(
            f"{source.path} is cut short: {source.size} of {expected} bytes are there; copy it again"
        )
    if source.size > expected:
        raise BundleError(
            f"{source.path} has {source.size} bytes; the files of its manifest make {expected}: "
            "it holds something else too"
        )


def _check_crc(archive: Path, entry: Entry, crc: int) -> None:
    if crc != entry.crc:
        raise BundleError(f"{archive}: {entry.name} has CRC {crc:08x}; its header says {entry.crc:08x}")


def _check_loads(scratch: Path, archive: Path) -> None:
    try:
        Bundle.load(scratch)
    except BundleError as error:
        # The scratch folder is gone when a person reads this.
        said = str(error).replace(f"{scratch}{os.sep}", "").replace(str(scratch), "the bundle")
        raise BundleError(f"{archive}: {said}") from None


@contextmanager
def _form_of(archive: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise BundleError(f"{archive} is not as `edgers pack` writes it: {error}") from None


def _append(source: Source, entry: Entry, sha256: str, out: BinaryIO, report: Callable[[int], None]) -> Entry:
    """Copy one file into the archive, if it still is what was checked."""
    start = out.tell()
    out.write(entry.local_header())
    digest, crc = _copy(source, entry.size, out, report)
    if digest != sha256:
        raise BundleError(f"{source.path} changed while it was packed: pack the bundle again")
    entry = entry._replace(crc=crc)
    out.seek(start)
    out.write(entry.local_header())
    out.seek(0, os.SEEK_END)
    return entry


def _extract(
    source: Source, entry: Entry, sha256: str, out: BinaryIO, report: Callable[[int], None]
) -> Entry:
    """Copy one file out of the archive, if it is what the manifest says."""
    with _form_of(source.path):
        found = stored_zip.read_local(source.read(len(entry.local_header())), entry.name)
    if found.size != entry.size:
        raise BundleError(
            f"{source.path}: {entry.name} has {found.size} bytes; the manifest says {entry.size}"
        )
    digest, crc = _copy(source, entry.size, out, report)
    if digest != sha256:
        raise BundleError(f"{source.path}: {entry.name} has SHA-256 {digest}; the manifest says {sha256}")
    _check_crc(source.path, found, crc)
    return found


def _write_manifest(text: bytes, folder: Path, report: Callable[[int], None]) -> Entry:
    with create(folder / MANIFEST) as out:
        out.write(text)
    report(len(text))
    return Entry(MANIFEST, len(text), zlib.crc32(text))


def _copy(source: Source, size: int, out: BinaryIO, report: Callable[[int], None]) -> tuple[str, int]:
    """Copy `size` bytes in pieces; returns their SHA-256 and their CRC-32."""
    digest, crc = hashlib.sha256(), 0
    for start in range(0, size, _CHUNK):
        piece = source.read(min(_CHUNK, size - start))
        out.write(piece)
        digest.update(piece)
        crc = zlib.crc32(piece, crc)
        report(len(piece))
    return digest.hexdigest(), crc


def _counter(progress: Progress, entries: list[Entry]) -> Callable[[int], None]:
    done, total = 0, sum(entry.size for entry in entries)

    def report(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    return report
