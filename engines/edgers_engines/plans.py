"""Built plans on this machine: found by what they are of and what they are for, and published whole.

A plan is machine code: whoever can write one here has this user's rights. So the folder is the user's alone,
its plans were built here from verified bundles, and what was built is hashed again before it is loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgers_engines.atomic import create, new_folder
from edgers_engines.engine import Range
from edgers_engines.errors import BackendError
from edgers_engines.fields import Count, Name, NonNegative, Sha256
from edgers_engines.files import open_regular, read_regular
from edgers_engines.kernel_cache import KERNELS
from edgers_engines.records import Record, parse

MOST_BYTES = 64 << 30  # of all plans together; those that were used last stay
_RECORD, _PLAN = "plan.json", "plan.bin"
_MOST_RECORD_BYTES = 1 << 16
_MOST_TIMINGS = 256 << 20
UNPROVEN = ".unproven"  # the folder, in the store, of plans that no self-test has run on yet
_LOCK, _TIMINGS = "lock", "timings-"


class Target(Record, frozen=True, kw_only=True):
    """What a plan is machine code for.

    Attributes:
        library: that built it, name and version.
        cuda: the newest CUDA that the driver runs.
        gpu: its maker's name for it.
        driver: its version, where the system tells it.
        capability: compute capability.
        multiprocessors: how many the GPU has; several GPUs share a name.
        memory_gib: of the GPU, rounded.
        builder: the number of edgers' way to build; see `tensorrt_plan.BUILDER`.
    """

    library: str
    cuda: str
    driver: str
    gpu: str
    capability: str
    multiprocessors: int
    memory_gib: int
    builder: int


class Source(Record, frozen=True, kw_only=True):
    """What a plan computes: the precision is the graph's.

    Attributes:
        graph: its file's name in the bundle.
        graph_sha256: of that file.
        weights_sha256: of the file that it reads.
    """

    graph: Name
    graph_sha256: Sha256
    weights_sha256: Sha256


class PlanRecord(Record, frozen=True, kw_only=True):
    """A plan that was built.

    Attributes:
        source: what it computes.
        target: where it runs.
        profiles: the sizes that it takes.
        sha256: of the plan.
        size: bytes of the plan.
        in_place: whether a KV cache comes out where it went in.
        seconds: that building took.
    """

    source: Source
    target: Target
    profiles: tuple[dict[str, Range], ...]
    sha256: Sha256
    size: Count
    in_place: bool
    seconds: NonNegative

    @property
    def key(self) -> str:
        """SHA-256 of all that the plan was asked to be."""
        return key_of(self.source, self.target, self.profiles)


class Stored(NamedTuple):
    """A plan on the disk, when it was last used or built, in seconds since 1970, and its kernels' bytes."""

    record: PlanRecord
    path: Path
    used: float
    kernels: int = 0

    @property
    def size(self) -> int:
        """Bytes of the plan, and of what is stored of its compiled kernels."""
        return self.record.size + self.kernels


def key_of(source: Source, target: Target, profiles: Sequence[dict[str, Range]]) -> str:
    """SHA-256 of what a plan is asked to be, by which it is called on the disk."""
    return hashlib.sha256(msgspec.json.encode([source, target, profiles], order="sorted")).hexdigest()


class Plans:
    """A folder of plans.

    Args:
        folder: made when it is first written to; the user's cache unless given.
        prefer: SHA-256 of plans that are taken before others of the same graph.
        waiting: is told, in one line, when another process has to be waited for.
    """

    def __init__(
        self,
        folder: Path | None = None,
        prefer: Collection[str] = (),
        waiting: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self._prefer, self._waiting = folder or _default(), prefer, waiting

    def stored(self) -> list[Stored]:
        """All plans whose record can be read, the last used first.

        Raises:
            BackendError: others may write into the folder.
        """
        if not self.folder.exists():
            return []
        self._check_private()
        found = [self._stored(path) for path in self.folder.iterdir() if not path.name.startswith(".")]
        return sorted((plan for plan in found if plan), key=lambda plan: plan.used, reverse=True)

    def find(self, source: Source, target: Target) -> Stored:
        """The plan of a graph for this machine: one that is preferred, or the last used or built.

        Raises:
            BackendError: there is none; or it was built for something else, which the text names.
        """
        plans = [plan for plan in self.stored() if plan.record.source == source]
        here = [plan for plan in plans if plan.record.target == target]
        for plan in sorted(here, key=lambda plan: plan.record.sha256 not in self._prefer):
            return plan
        raise BackendError(
            f"there is no plan of {source.graph} for {target.library} on {target.gpu}: `edgers build` makes "
            "it"
            + (f"; the last was built for {_differences(plans[0].record.target, target)}" if plans else "")
        )

    def get(self, key: str) -> Stored | None:
        """The plan of this key, if it is there and is what was built."""
        plan = next((plan for plan in self.stored() if plan.record.key == key), None)
        with suppress(BackendError):
            if plan is not None:
                read_plan(plan)
                return plan
        return None

    def publish(self, record: PlanRecord, content: bytes) -> Stored:
        """Store a plan, whole or not at all; one of the same key is put aside until the new one is there.

        Raises:
            EdgersError: it cannot be written.
        """
        self._make()
        path = self.folder / record.key
        aside = self.folder / f".old-{record.key}"
        shutil.rmtree(aside, ignore_errors=True)
        with new_folder(path) as scratch:
            for name, data in ((_PLAN, content), (_RECORD, msgspec.json.encode(record))):
                with create(scratch / name) as out:
                    out.write(data)
            with suppress(FileNotFoundError):
                path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
        return Stored(record, path, path.stat().st_mtime)

    def adopt(self, plan: Stored) -> Stored:
        """Take a plan over from another folder on the same file system."""
        self._make()
        path = self.folder / plan.record.key
        self.remove(path)
        return plan._replace(path=plan.path.rename(path))

    def prune(
        self, most: int = MOST_BYTES, keep: Collection[str] = (), *, unproven: bool = False
    ) -> list[Stored]:
        """Remove the plans that were not used for longest, until the others have so many bytes.

        What a killed process left half written, and what is no plan that can be read, goes too.

        Args:
            most: bytes.
            keep: keys of plans that stay whatever they take.
            unproven: whether the plans go, too, that an interrupted build would go on with.

        Returns:
            Those that are gone.
        """
        if not self.folder.exists():
            return []
        with self.alone():
            plans = self.stored()
            known = {_LOCK, *(plan.path.name for plan in plans), *([] if unproven else [UNPROVEN])}
            for path in self.folder.iterdir():
                if path.name not in known and not path.name.startswith(_TIMINGS):
                    self.remove(path)
            left, removed = 0, []
            for plan in sorted(plans, key=lambda plan: plan.record.key not in keep):
                left += plan.size
                if left > most and plan.record.key not in keep:
                    removed.append(plan)
                    self.remove(plan.path)
        return removed

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process builds or removes plans, and keep others from it meanwhile.

        Whoever has to wait is told once, by `waiting`, and for which process.
        """
        self._make()
        with (self.folder / _LOCK).open("a+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                who = _number(lock.read(20))
                self._waiting(f"process {who} builds or removes plans in {self.folder}: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
            lock.flush()
            yield

    @staticmethod
    def remove(path: Path) -> None:
        """Remove a plan, or whatever else is there under its name."""
        with suppress(FileNotFoundError):
            path.unlink() if not path.is_dir() or path.is_symlink() else shutil.rmtree(path)

    def timings(self, target: Target) -> bytes:
        """What builds for this machine measured; empty where none was."""
        with suppress(OSError):
            return read_regular(self._timings(target), _MOST_TIMINGS)
        return b""

    def keep_timings(self, target: Target, content: bytes) -> None:
        """Store what a build measured, instead of what was stored before."""
        self._make()
        scratch = self.folder / f".{secrets.token_hex(8)}"
        scratch.write_bytes(content)
        scratch.replace(self._timings(target))

    def _timings(self, target: Target) -> Path:
        return self.folder / f"{_TIMINGS}{hashlib.sha256(msgspec.json.encode(target)).hexdigest()}.bin"

    def _stored(self, path: Path) -> Stored | None:
        with suppress(OSError, ValueError):
            record = parse(read_regular(path / _RECORD, _MOST_RECORD_BYTES), PlanRecord)
            if record.key == path.name:
                return Stored(record, path, path.stat().st_mtime, _size(path / KERNELS))
        return None

    def _make(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BackendError(
                f"cannot make {self.folder} for plans: {error.strerror}; set XDG_CACHE_HOME to another folder"
            ) from None
        self._check_private()

    def _check_private(self) -> None:
        status = self.folder.stat()
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BackendError(
                f"{self.folder} holds plans, which are machine code, and is not this user's alone: "
                f"chown and chmod 700 it if you trust what is in it, or remove it"
            )


def read_plan(plan: Stored) -> mmap:
    """A plan's bytes, mapped: where GPU and processor share a memory, they are not to lie in it twice.

    The plan counts as used now.

    Raises:
        BackendError: they are not what was built.
    """
    record = plan.record
    with suppress(OSError, ValueError), open_regular(plan.path / _PLAN, record.size) as file:
        content = mmap(file.fileno(), 0, access=ACCESS_READ)
        if hashlib.sha256(content).hexdigest() == record.sha256:
            with suppress(OSError):  # a file system may be read-only
                os.utime(plan.path)
            return content
    raise BackendError(
        f"the plan of {record.source.graph} in {plan.path} is damaged: `edgers build` makes it anew"
    )


def _size(path: Path) -> int:
    """Of a file, if it is there."""
    with suppress(OSError):
        return path.lstat().st_size
    return 0


def _number(content: bytes) -> str:
    """The process that a lock names, if it has done so yet."""
    return content.decode() if content.isdigit() else "(unknown)"


def _default() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "edgers" / "plans"


def _differences(built: Target, here: Target) -> str:
    return ", ".join(
        f"{name} {getattr(built, name)} (here {getattr(here, name)})"
        for name in Target.__struct_fields__
        if getattr(built, name) != getattr(here, name)
    )
