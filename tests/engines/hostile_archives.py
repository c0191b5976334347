"""Archives as an enemy writes them: headers spelled out by hand, one field at a time made to lie.

`forged` without changes is a second, independent writer of the form: what `pack` writes must equal it. The
tests of the library and of the command line read CASES.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

Files = Mapping[str, bytes]

MANIFEST = "manifest.json"
LONG = 0xFFFFFFFF
LINK, DEVICE, FOLDER = 0o120777 << 16, 0o020666 << 16, 0o040755 << 16 | 0x10
ZEROS = bytes(100 << 20)


def forged(files, local=None, central=None, end=None, *, listed=None, offsets=None):
    """An archive in pack's form, but for the fields that are given.

    Args:
        files: name and bytes, in their order.
        local: for a name, the fields of its local header that are other than they should be.
        central: the same for its line in the directory.
        end: the same for the end of the directory.
        listed: names in the directory; all files unless given.
        offsets: where files are said to begin, for those that lie.
    """
    body, start = b"", {}
    for name, data in files.items():
        start[name] = len(body)
        body += local_header(name, data, **(local or {}).get(name, {})) + data
    start.update(offsets or {})
    names = list(files) if listed is None else listed
    directory = b"".join(
        central_header(name, files[name], start[name], **(central or {}).get(name, {})) for name in names
    )
    return body + directory + ending(len(names), len(directory), len(body), **(end or {}))


def local_header(name, data, /, **lies):
    f = {"signature": b"PK\3\4", "version": 45, "flags": 0, "method": 0, "time": 0, "date": 33, **sizes(data)}
    f.update({"name": name.encode("latin-1"), "extra": 20, "packed": len(data), "size": len(data)}, **lies)
    return (
        f["signature"]
        + struct.pack("<5H", f["version"], f["flags"], f["method"], f["time"], f["date"])
        + struct.pack("<3I", f["crc"], f["packed32"], f["size32"])
        + struct.pack("<2H", len(f["name"]), f["extra"])
        + f["name"]
        + struct.pack("<2H2Q", 1, 16, f["size"], f["packed"])
    )


def central_header(name, data, start, /, **lies):
    f = {"signature": b"PK\1\2", "writer": 3 << 8 | 45, "version": 45, "flags": 0, "method": 0, **sizes(data)}
    f.update({"name": name.encode("latin-1"), "extra": 28, "packed": len(data), "size": len(data)})
    f.update({"comment": b"", "disk": 0, "attributes": 0o100644 << 16, "offset": start}, **lies)
    return (
        f["signature"]
        + struct.pack("<6H", f["writer"], f["version"], f["flags"], f["method"], 0, 33)
        + struct.pack("<3I", f["crc"], f["packed32"], f["size32"])
        + struct.pack("<5H", len(f["name"]), f["extra"], len(f["comment"]), f["disk"], 0)
        + struct.pack("<2I", f["attributes"], LONG)
        + f["name"]
        + struct.pack("<2H3Q", 1, 24, f["size"], f["packed"], f["offset"])
        + f["comment"]
    )


def sizes(data):
    return {"crc": zlib.crc32(data), "packed32": LONG, "size32": LONG}


def ending(count, size, offset, /, **lies):
    f = {"count": count, "count16": count, "size": size, "offset": offset, "comment": b"", **lies}
    f.setdefault("locator", offset + size)
    return (
        struct.pack(
            "<4sQ2H2I4Q", b"PK\6\6", 44, 3 << 8 | 45, 45, 0, 0, f["count"], f["count"], size, f["offset"]
        )
        + struct.pack("<4sIQI", b"PK\6\7", 0, f["locator"], 1)
        + struct.pack(
            "<4s4H2IH", b"PK\5\6", 0, 0, f["count16"], f["count16"], f["size"], LONG, len(f["comment"])
        )
        + f["comment"]
    )


def zipped(files, method=zipfile.ZIP_STORED):
    """What the standard library makes of (name, bytes)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return out.getvalue()


def told(files, edit):
    """The files with a manifest that `edit` changed."""
    manifest = json.loads(files[MANIFEST])
    edit(manifest)
    return {**files, MANIFEST: json.dumps(manifest).encode()}


def first_of(files, position=0):
    return [name for name in files if name != MANIFEST][position]


def lie(where, which, /, **fields):
    """Make: one header lies."""
    return lambda files: forged(files, **{where: {which: fields}})


def called(name):
    """Make: the local header and the directory call the vision graph `name`, which is as long."""
    assert len(name) == len("vision.onnx")
    other = {"vision.onnx": {"name": name.encode("latin-1")}}
    return lambda files: forged(files, local=other, central=other)


def listing(path):
    """Make: manifest, headers and directory all agree on calling the vision graph `path`."""

    def make(files):
        def edit(manifest):
            listed = next(f for f in manifest["files"] if f["path"] == "vision.onnx")
            manifest["graphs"]["vision"]["file"] = listed["path"] = path

        edited = told(files, edit)
        return forged({path if name == "vision.onnx" else name: data for name, data in edited.items()})

    return make


def manifest_first(files, size_of_first):
    def edit(manifest):
        manifest["files"][0]["size"] = size_of_first

    return told(files, edit)


def deflated_bomb(files):
    return zipped([(n, ZEROS if n == "vision.onnx" else d) for n, d in files.items()], zipfile.ZIP_DEFLATED)


def bomb_in_form(files):
    """Everything as it should be, but the last file's bytes are deflated zeros, which grow 1000 times."""
    last = first_of(files, -1)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(ZEROS) + packer.flush()
    lies = {last: {"method": 8, "size": len(ZEROS), "crc": zlib.crc32(ZEROS)}}
    return forged({**files, last: data}, local=lies, central=lies)


def overlapping(files):
    """Every file of the directory is the same bytes, as in a bomb that needs no nesting."""
    return forged(files, offsets=dict.fromkeys(files, 0))


def nested_headers(files):
    """Each local file contains the headers of all that follow; the last holds the only real bytes."""
    body = bytes(1 << 16)
    for name in reversed([n for n in files if n != MANIFEST]):
        body = local_header(name, body) + body
    manifest = files[MANIFEST]
    return local_header(MANIFEST, manifest) + manifest + body


def overlap_in_form(files):
    """The first file claims to reach over the second one's header and bytes, and the manifest agrees."""
    first, second = first_of(files), first_of(files, 1)
    whole = files[first] + local_header(second, files[second]) + files[second]
    edited = manifest_first(files, len(whole))
    lies = {first: {"size": len(whole), "packed": len(whole), "crc": zlib.crc32(whole)}}
    return forged(edited, local=lies, central=lies)


def manifest_twice(files):
    """A second manifest behind the first, for readers that take the last one."""
    return forged(files, listed=[MANIFEST, *files])


def hidden_manifest(files):
    """Two entries have one name: the directory points to another manifest than the first one."""
    body = forged(files, listed=[])[: -len(ending(0, 0, 0))]
    other = files[MANIFEST].replace(b'"licence"', b' "licence"', 1)
    directory = b"".join(central_header(name, data, 0) for name, data in files.items())
    body += local_header(MANIFEST, other) + other
    return body + directory + ending(len(files), len(directory), len(body))


def manifest_last(files):
    return forged({name: files[name] for name in (*list(files)[1:], MANIFEST)})


def reordered(files):
    return forged({name: files[name] for name in (MANIFEST, *list(files)[:0:-1])})


def swapped_data(files):
    """Two files of one length; each stands under the other's name."""
    a, b = first_of(files), first_of(files, 1)
    return forged({**files, a: files[b], b: files[a]})


def flipped(name):
    def make(files):
        data = bytearray(files[name])
        data[len(data) // 2] ^= 1
        return forged({**files, name: bytes(data)})

    return make


def wrong_manifest(data):
    return lambda files: forged({**files, MANIFEST: data})


def edited_manifest(edit):
    return lambda files: forged(told(files, edit))


def add_files(count):
    def edit(manifest):
        for number in range(count):
            manifest["files"].append({"path": f"file-{number}", "size": 1, "sha256": "0" * 64})

    return edit


def claims(size):
    """Make: a manifest whose first file is said to be huge, in an archive that is not."""
    return lambda files: forged(manifest_first(files, size))


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def entries(count):
    return lambda files: zipped([*files.items(), *((f"more-{n}", b"x") for n in range(count - len(files)))])


def encrypted(files):
    flags = {name: {"flags": 1} for name in files}
    return forged(files, local=flags, central=flags)


def appended(data):
    return lambda files: forged(files) + data


FOREIGN = r"not as `edgers pack` writes it: the header of manifest\.json has "
NAME = r"the header of vision\.onnx has name b'"
LINE = r"the directory's line for "
SHORT = r"is cut short: \d+ of \d+ bytes"
MORE = r"has \d+ bytes; the files of its manifest make \d+: it holds something else too"
SCHEMA = r"manifest\.json: .*matching regex"

CASES: dict[str, tuple[Callable[[Files], bytes], str]] = {
    # not an archive at all
    "an empty file": (lambda _: b"", "not an archive of a bundle: it begins with b''"),
    "a text": (lambda _: b"hello, world", "not an archive of a bundle"),
    "zeros": (lambda _: bytes(1 << 16), "not an archive of a bundle"),
    "an empty ZIP": (lambda _: zipped([]), r"not an archive of a bundle: it begins with b'PK\\x05\\x06'"),
    "a tar": (tar, "not an archive of a bundle"),
    "only a manifest": (lambda files: files[MANIFEST], "not an archive of a bundle"),
    "a program in front": (lambda files: b"#!/bin/sh\n" + forged(files), "not an archive of a bundle"),
    "a spanned ZIP's mark in front": (
        lambda files: b"PK\7\x08" + forged(files),
        "not an archive of a bundle",
    ),
    "three bytes of a header": (lambda _: b"PK\3\4abc", r"cut short: it has 7 bytes"),
    # archives of other tools, and bombs
    "stored by another tool": (lambda files: zipped(files.items()), FOREIGN + "version 20; expected 45"),
    "deflated": (
        lambda files: zipped(files.items(), zipfile.ZIP_DEFLATED),
        FOREIGN + r"method 8; expected 0 \(files must be stored, not compressed\)",
    ),
    "bzip2": (lambda files: zipped(files.items(), zipfile.ZIP_BZIP2), FOREIGN + "method 12; expected 0"),
    "lzma": (lambda files: zipped(files.items(), zipfile.ZIP_LZMA), FOREIGN + "flags 2; expected 0"),
    "a bomb of deflated zeros": (deflated_bomb, FOREIGN + "method 8"),
    "a bomb in pack's own form": (bomb_in_form, SHORT),
    "one file said to be deflated": (lie("local", "embed.onnx", method=8), r"embed\.onnx has method 8"),
    "one file said to be deflated at the end": (
        lie("central", "embed.onnx", method=8),
        LINE + r"embed\.onnx has method 8",
    ),
    "a bomb of overlapping files": (overlapping, LINE + r"\S+ has offset 0; expected \d+"),
    "a bomb of headers within files": (nested_headers, SHORT),
    "a file that covers the next": (overlap_in_form, SHORT),
    "an archive in an archive": (
        lambda files: zipped([("bundle.zip", zipped(files.items()))]),
        FOREIGN + "name b'bundle",
    ),
    "a bomb in a bomb": (
        lambda _: zipped([(MANIFEST, zipped([(MANIFEST, ZEROS)], 8))], 8),
        FOREIGN + "method 8",
    ),
    "encrypted": (encrypted, FOREIGN + r"flags 1; expected 0 \(encrypted"),
    "encrypted at the end only": (lie("central", "vision.onnx", flags=1), LINE + r"vision\.onnx has flags 1"),
    "sizes after the data": (
        lie("local", MANIFEST, flags=8),
        FOREIGN + r"flags 8; .*its size comes after it",
    ),
    # names
    "zip slip": (called("../evil.sh!"), NAME + r"\.\./evil\.sh!'; expected b'vision\.onnx'"),
    "zip slip two folders up": (called("../../etc/x"), NAME),
    "an absolute name": (called("/etc/passwd"), NAME + "/etc/passwd'"),
    "a name with backslashes": (called("..\\..\\evil1"), NAME),
    "a drive letter": (called("C:\\evil.exe"), NAME + "C:"),
    "a name with a null byte": (called("vision.on\0x"), NAME + r"vision\.on\\x00x'"),
    "a name with a terminal escape": (called("\x1b[2Jvision."), NAME + r"\\x1b\[2J"),
    "a name that is not ASCII": (called("visi\xf6n.onnx"), NAME),
    "a name in another case": (called("Vision.onnx"), NAME + "Vision"),
    "a folder": (called("vision.onn/"), NAME + "vision.onn/'"),
    "a file in a folder": (called("vision/onnx"), NAME + "vision/onnx'"),
    "a longer name": (lie("local", "vision.onnx", name=b"../../../../evil"), MORE),
    "names that differ only in front": (lie("local", "vision.onnx", name=b"../evil.sh!"), NAME),
    "names that differ only at the end": (
        lie("central", "vision.onnx", name=b"../evil.sh!"),
        LINE + r"vision\.onnx has name b'\.\./evil\.sh!'",
    ),
    "zip slip by the manifest": (listing("../vision.onnx"), SCHEMA),
    "an absolute name by the manifest": (listing("/etc/vision.onnx"), SCHEMA),
    "two dots by the manifest": (listing(".."), SCHEMA),
    "a folder by the manifest": (listing("a/vision.onnx"), SCHEMA),
    "a backslash by the manifest": (listing("a\\vision.onnx"), SCHEMA),
    "a drive letter by the manifest": (listing("C:vision.onnx"), SCHEMA),
    "a null byte by the manifest": (listing("vision\0.onnx"), SCHEMA),
    "a name twice by the manifest": (
        edited_manifest(lambda m: m["files"].append(m["files"][0])),
        r"manifest\.json lists \S+ twice",
    ),
    "a manifest that lists itself": (
        edited_manifest(lambda m: m["files"].append({**m["files"][0], "path": MANIFEST})),
        r"manifest\.json lists manifest\.json twice, or itself",
    ),
    # what an entry is
    "a link": (lie("central", "vision.onnx", attributes=LINK), LINE + r"vision\.onnx has attributes"),
    "a device": (lie("central", "vision.onnx", attributes=DEVICE), LINE + r"vision\.onnx has attributes"),
    "a folder by attributes": (lie("central", "embed.onnx", attributes=FOLDER), LINE + "embed.*attributes"),
    "a program": (lie("central", "embed.onnx", attributes=0o104755 << 16), LINE + "embed.*attributes"),
    "a disk of its own": (lie("central", "embed.onnx", disk=1), LINE + r"embed\.onnx has disk 1"),
    # sizes
    "a size too large": (lie("local", "vision.onnx", size=1 << 62), r"vision\.onnx has packed size \d+; "),
    "both sizes too large": (
        lie("local", "vision.onnx", size=1 << 62, packed=1 << 62),
        rf"vision\.onnx has {1 << 62} bytes; the manifest says",
    ),
    "a size of zero": (
        lie("local", "vision.onnx", size=0, packed=0),
        r"vision\.onnx has 0 bytes; the manifest",
    ),
    "a packed size that differs": (lie("local", "vision.onnx", packed=7), r"vision\.onnx has packed size 7"),
    "a size in the short field": (lie("local", "vision.onnx", size32=9), r"vision\.onnx has size field 9"),
    "a size that differs at the end": (
        lie("central", "vision.onnx", size=9),
        LINE + r"vision\.onnx has size 9",
    ),
    "a file outside the archive": (
        lie("central", "vision.onnx", offset=1 << 40),
        LINE + rf"vision\.onnx has offset {1 << 40}",
    ),
    "a manifest of four exabytes": (
        lie("local", MANIFEST, size=1 << 62, packed=1 << 62),
        rf"manifest\.json has {1 << 62} bytes; at most \d+ are read",
    ),
    "a manifest beyond the archive": (
        lie("local", MANIFEST, size=4 << 20, packed=4 << 20),
        r"cut short: it ends \d+ bytes too early|cut short|has CRC",
    ),
    "a manifest beyond its cap": (
        lambda files: forged({**files, MANIFEST: files[MANIFEST] + b" " * (4 << 20)}),
        r"manifest\.json has \d+ bytes; at most 4194304 are read",
    ),
    "files of a terabyte": (claims(1 << 40), SHORT),
    "files beyond the schema": (claims(1 << 41), r"manifest\.json: .*<= 1099511627776"),
    "a file of no bytes": (claims(0), r"manifest\.json: .*>= 1"),
    "a file one byte longer": (
        lambda files: forged(manifest_first(files, len(files[first_of(files)]) + 1)),
        SHORT,
    ),
    "a file one byte shorter": (
        lambda files: forged(manifest_first(files, len(files[first_of(files)]) - 1)),
        MORE,
    ),
    # how many
    "65 entries": (entries(65), FOREIGN),
    "65 entries in pack's form": (
        lambda files: forged({**files, **{f"more-{n}": b"x" for n in range(65 - len(files))}}),
        MORE,
    ),
    "64 files in the manifest": (edited_manifest(add_files(64)), r"lists \d+ files; at most 63 may be"),
    "a huge count of entries": (
        lambda files: forged(files, end={"count": 1 << 63, "count16": 0xFFFF}),
        "the end of the directory does not fit its files",
    ),
    "a count of no entries": (lambda files: forged(files, end={"count16": 0}), "the end of the directory"),
    "a huge directory": (lambda files: forged(files, end={"size": LONG}), "the end of the directory"),
    "a directory elsewhere": (lambda files: forged(files, end={"offset": 0}), "the end of the directory"),
    "an end elsewhere": (lambda files: forged(files, end={"locator": 1 << 40}), "the end of the directory"),
    "a comment": (lambda files: forged(files, end={"comment": b"a comment"}), MORE),
    "a comment on a file": (lie("central", "vision.onnx", comment=b"note"), MORE),
    "bytes behind": (appended(b"\0"), MORE),
    "an archive behind": (lambda files: forged(files) * 2, MORE),
    "a gap before the directory": (
        lambda files: forged({**files, "gap": bytes(100)}, listed=list(files)),
        MORE,
    ),
    "no directory": (lambda files: forged(files, listed=[]), SHORT),
    "a file that the directory hides": (lambda files: forged(files, listed=list(files)[:-1]), SHORT),
    # which
    "no manifest": (
        lambda files: forged({n: d for n, d in files.items() if n != MANIFEST}),
        FOREIGN + "name b'decoder",
    ),
    "the manifest last": (manifest_last, FOREIGN + "name b'decoder"),
    "the manifest twice at the end": (manifest_twice, MORE),
    "a second manifest": (hidden_manifest, MORE),
    "a file missing": (lambda files: forged({n: d for n, d in files.items() if n != "embed.onnx"}), SHORT),
    "a file too many": (lambda files: forged({**files, "evil.so": b"\x7fELF"}), MORE),
    "a file twice": (lambda files: forged(files, listed=[*files, "vision.onnx"]), MORE),
    "files in another order": (reordered, r"the header of \S+ has name b'"),
    "two files exchanged": (swapped_data, r"has \d+ bytes; the manifest says|has SHA-256"),
    # bytes
    "a flipped bit in a graph": (
        flipped("vision.onnx"),
        r"vision\.onnx has SHA-256 \w{64}; the manifest says",
    ),
    "a flipped bit in the tokenizer": (flipped("tokenizer.json"), r"tokenizer\.json has SHA-256"),
    "a wrong CRC in front": (
        lie("local", "vision.onnx", crc=1),
        r"vision\.onnx has CRC \w{8}; its header says",
    ),
    "a wrong CRC at the end": (lie("central", "vision.onnx", crc=1), LINE + r"vision\.onnx has CRC 1"),
    "a wrong CRC of the manifest": (lie("local", MANIFEST, crc=1), r"manifest\.json has CRC"),
    "a wrong signature in front": (
        lie("local", "vision.onnx", signature=b"PK\1\2"),
        r"vision\.onnx has signature b'PK\\x01\\x02'",
    ),
    "a wrong signature at the end": (
        lie("central", "vision.onnx", signature=b"PK\3\4"),
        LINE + r"vision\.onnx has signature",
    ),
    # the manifest
    "an empty manifest": (wrong_manifest(b""), r"manifest\.json: Expecting value"),
    "a manifest of words": (wrong_manifest(b"not JSON"), r"manifest\.json: Expecting value"),
    "a deep manifest": (wrong_manifest(b"[" * 200_000), r"manifest\.json: nested too deeply"),
    "an unknown field": (edited_manifest(lambda m: m.update(notes=1)), "unknown field `notes`"),
    "no files": (edited_manifest(lambda m: m.update(files=[])), MORE),
    # sound as an archive, but not as a bundle: only Bundle.load can tell
    "tokens beyond the vocabulary": (
        edited_manifest(lambda m: m["prompt"].update(after=[10**9])),
        r"archive: manifest\.json: token id 1000000000 is not below the vocabulary",
    ),
}
