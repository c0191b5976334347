"""The store of plans: private, whole, found by what was built for what, and bounded."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from edgers_engines.engine import Range
from edgers_engines.errors import BackendError
from edgers_engines.plans import PlanRecord, Plans, Source, Target, read_plan

TARGET = Target(
    library="tensorrt 10.3.0",
    cuda="12.6",
    driver="unknown",
    gpu="Orin",
    capability="8.7",
    multiprocessors=8,
    memory_gib=7,
    builder=1,
)
PROFILES = ({"batch": Range(1, 8, 8)},)


def source(graph="vision.onnx", weights="1"):
    return Source(graph=graph, graph_sha256="0" * 64, weights_sha256=weights * 64)


def record(content, *, seconds=1.0, **options):
    return PlanRecord(
        source=source(**options),
        target=TARGET,
        profiles=PROFILES,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        in_place=True,
        seconds=seconds,
    )


@pytest.fixture
def plans(tmp_path):
    return Plans(tmp_path / "cache" / "plans")


def used(plan, when):
    os.utime(plan.path, (when, when))


class TestStore:
    def test_what_is_published_is_found_and_read(self, plans):
        plans.publish(record(b"machine code"), b"machine code")
        found = plans.find(source(), TARGET)
        assert found.record == record(b"machine code")
        assert bytes(read_plan(found)) == b"machine code"

    def test_a_plan_of_the_same_key_is_replaced_and_nothing_else_stays(self, plans):
        plans.publish(record(b"old"), b"old")
        plans.publish(record(b"newer"), b"newer")
        (stored,) = plans.stored()
        assert bytes(read_plan(stored)) == b"newer"
        assert [path.name for path in plans.folder.iterdir()] == [stored.record.key]

    def test_one_that_is_preferred_is_found_before_one_that_was_used_later(self, plans):
        """Their shapes differ: a certificate says which of them it was made with."""
        old, new = b"of another shape", b"used later"
        other = replace(record(old), profiles=({"batch": Range(1, 4, 4)},))
        used(plans.publish(other, old), 100)
        used(plans.publish(record(new), new), 200)
        assert plans.find(source(), TARGET).record == record(new)
        assert Plans(plans.folder, prefer=[other.sha256]).find(source(), TARGET).record == other
        assert Plans(plans.folder, prefer=["0" * 64]).find(source(), TARGET).record == record(new)

    def test_a_plan_is_read_where_nothing_can_be_written(self, plans, monkeypatch):
        plans.publish(record(b"code"), b"code")

        def read_only(*_):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(os, "utime", read_only)
        assert bytes(read_plan(plans.find(source(), TARGET))) == b"code"

    def test_the_old_one_stays_until_the_new_one_is_whole(self, plans, monkeypatch):
        plans.publish(record(b"old"), b"old")
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(Exception, match="No space left"):
            plans.publish(record(b"newer"), b"newer")
        assert bytes(read_plan(plans.find(source(), TARGET))) == b"old"

    def test_the_key_is_of_all_that_was_asked_for_and_of_nothing_else(self):
        keys = {
            record(b"a").key,
            record(b"a", weights="2").key,
            record(b"a", graph="embed.onnx").key,
        }
        assert len(keys) == 3
        assert record(b"a").key == record(b"b", seconds=2.0).key
        assert re.fullmatch("[0-9a-f]{64}", record(b"a").key)

    def test_nothing_is_there_at_first(self, plans):
        assert plans.stored() == []
        assert plans.get("0" * 64) is None
        assert not plans.folder.exists()

    @pytest.mark.parametrize("name", ["plan.json", "plan.bin"])
    def test_a_plan_without_one_of_its_files_is_none(self, plans, name):
        plan = plans.publish(record(b"code"), b"code")
        (plan.path / name).unlink()
        assert plans.get(plan.record.key) is None

    def test_a_record_in_a_folder_of_another_name_is_none(self, plans):
        plan = plans.publish(record(b"code"), b"code")
        plan.path.rename(plans.folder / ("0" * 64))
        assert plans.stored() == []

    def test_a_folder_that_others_may_look_into_is_refused(self, plans):
        plans.publish(record(b"code"), b"code")
        plans.folder.chmod(0o770)
        find, publish = (lambda: plans.find(source(), TARGET)), (lambda: plans.publish(record(b"x"), b"x"))
        for use in (plans.stored, find, publish):
            with pytest.raises(BackendError, match="machine code, and is not this user's alone"):
                use()

    def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(BackendError, match=r"for plans: .*; set XDG_CACHE_HOME"):
            Plans(tmp_path / "file" / "plans").publish(record(b"x"), b"x")

    @pytest.mark.parametrize(("cache", "folder"), [("/a", "/a/edgers/plans"), ("", None), ("relative", None)])
    def test_it_is_the_users_cache_where_nothing_else_is_said(self, monkeypatch, cache, folder):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        monkeypatch.setenv("HOME", "/home/somebody")
        assert str(Plans().folder) == (folder or "/home/somebody/.cache/edgers/plans")


class TestPrune:
    def test_those_that_were_not_used_for_longest_go_first(self, plans):
        stored = [plans.publish(record(b"x" * 10, weights=str(k)), b"x" * 10) for k in range(4)]
        for plan, when in zip(stored, (400, 100, 300, 200), strict=True):
            used(plan, when)
        gone = plans.prune(25)
        assert [plan.record.source.weights_sha256[0] for plan in gone] == ["3", "1"]
        assert [plan.record.source.weights_sha256[0] for plan in plans.stored()] == ["0", "2"]
        assert plans.prune(25) == []

    def test_the_kernels_that_are_stored_beside_a_plan_count(self, plans):
        old, new = (plans.publish(record(b"x" * 10, weights=str(k)), b"x" * 10) for k in range(2))
        used(old, 100)
        assert plans.prune(20) == []
        (new.path / "kernels.bin").write_bytes(b"k" * 5)
        used(new, 200)
        assert [plan.size for plan in plans.stored()] == [15, 10]
        assert plans.prune(25) == []
        assert [plan.record for plan in plans.prune(24)] == [old.record]
        assert [plan.size for plan in plans.prune(0)] == [15]

    def test_to_be_read_is_to_be_used(self, plans):
        old, new = (plans.publish(record(b"x", weights=str(k)), b"x") for k in range(2))
        used(old, 100)
        used(new, 200)
        read_plan(old)
        assert [plan.record for plan in plans.prune(1)] == [new.record]

    def test_what_is_to_stay_stays_however_large_it_is(self, plans):
        old, new = (plans.publish(record(b"x" * 10, weights=str(k)), b"x" * 10) for k in range(2))
        assert [plan.record for plan in plans.prune(5, keep=[new.record.key])] == [old.record]
        assert [plan.record for plan in plans.stored()] == [new.record]

    def test_what_a_killed_process_left_goes_and_what_cannot_be_read(self, plans):
        stored = plans.publish(record(b"x"), b"x")
        plans.keep_timings(TARGET, b"measured")
        for name in (".edgers-1", ".unproven", "f" * 64):
            (plans.folder / name).mkdir()
        (plans.folder / ".0123").touch()
        plans.prune(1000)
        names = {path.name for path in plans.folder.iterdir()}
        assert {".unproven", "lock", stored.record.key} < names
        assert len(names) == 4, "and the timings"
        assert plans.timings(TARGET) == b"measured"
        plans.prune(1000, unproven=True)
        assert not (plans.folder / ".unproven").exists()

    def test_nothing_is_removed_while_another_process_builds(self, plans, monkeypatch):
        plans.publish(record(b"x"), b"x")
        with plans.alone(), (plans.folder / "lock").open("ab") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = []
        monkeypatch.setattr(fcntl, "flock", lambda *lock_and_how: held.append(lock_and_how[1]))
        monkeypatch.setattr(Plans, "remove", lambda *_: held.append("removed"))
        plans.prune(0)
        assert held == [fcntl.LOCK_EX | fcntl.LOCK_NB, "removed"]

    def test_who_has_to_wait_is_told_once_for_whom(self, plans, monkeypatch):
        told, flock = [], fcntl.flock
        with plans.alone():
            pass  # who has had it before leaves nothing of itself
        with ExitStack() as other:
            other.enter_context(plans.alone())

            def lock(file, how):
                if how == fcntl.LOCK_EX:  # without this the test would wait, too
                    told.append("waits")
                    other.close()
                flock(file, how)

            monkeypatch.setattr(fcntl, "flock", lock)
            with Plans(plans.folder, waiting=told.append).alone():
                told.append("has it")
        process = f"process {os.getpid()} builds or removes plans in {plans.folder}: waiting for it"
        assert told == [process, "waits", "has it"]
        with Plans(plans.folder, waiting=told.append).alone():
            assert len(told) == 3
