"""The key ring in files keeps the contract of key rings, over crashes, damage, old backups and several processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S

from tallyroll.adapters.crypto import AesGcm, FileKeyRing, restore
from tallyroll.errors import KeyGone, KeyRingUnavailable, SettingsError
from tallyroll.ports import DataKey
from tallyroll.testing.key_ring_contract import CASES, SEALING_CASES, Case, SealingCase
from tallyroll.testing.ledger import NonceReused

SECRET = sha256(b"secret of the tests").digest()


class PowerCut(BaseException):
    pass


def name_of(case: object) -> str:
    return case.__name__


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "ring"


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_contract(case: Case, path: Path) -> None:
    case(partial(FileKeyRing, path, SECRET))


@pytest.mark.parametrize("case", SEALING_CASES, ids=name_of)
def test_the_contract_of_sealing(case: SealingCase, path: Path) -> None:
    case(partial(FileKeyRing, path, SECRET), AesGcm())


class Around:
    """Hands everything on to a ring that keeps its promises; subclasses break one."""

    def __init__(self, path):
        self.inner = FileKeyRing(path, SECRET)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class GivesAnEpochTwice(Around):
    def enrol(self, opened_us, *, writer=None, after=0):
        given = self.inner.enrol(opened_us, writer=writer, after=after)
        return given._replace(epoch=1)


class NumbersItsWriters(Around):
    def enrol(self, opened_us, *, writer=None, after=0):  # noqa: ARG002
        return self.inner.enrol(opened_us)._replace(writer=bytes(16), epoch=1)


class ForgetsWhatTheCallerKnows(Around):
    def enrol(self, opened_us, *, writer=None, after=0):  # noqa: ARG002
        return self.inner.enrol(opened_us, writer=writer)


class AdmitsEverybody(Around):
    def admits(self, writer, epoch, token):  # noqa: ARG002
        return True


class DerivesKeysFromNames(Around):
    def subjects(self, names):
        return [DataKey(sha256(name.encode()).digest()[:16], sha256(name.strip().encode()).digest()) for name in names]


class DrawsOneKeyForAll(Around):
    def draw(self, count):
        return [DataKey(bytes(16), bytes(32))] * count


class KeepsWhatItDestroys(Around):
    def destroy(self, handles):
        return sorted(handles)


class KeepsQuiet(Around):
    def destructions(self):
        return b"none"


class SparesTheGroups(Around):
    def destroy(self, handles):
        return [handle for handle in self.inner.destroy(handles) if handle in handles]


class RemembersInMemory(Around):
    def __init__(self, path):
        super().__init__(path)
        self.known = {}

    def key(self, handle):
        if handle not in self.known:
            self.known[handle] = self.inner.key(handle)
        return self.known[handle]


class RotatesDataKeys(Around):
    def rotate(self):
        for name in ("anna", "bert"):
            if handle := self.inner.handle_of(name):
                self.inner.destroy([handle])
        return self.inner.rotate()


class ShowsItsKeys(Around):
    def __repr__(self):
        return repr([bytes(key) for key in self.inner._layers.joined().keys.values()])


BREAKS = {
    GivesAnEpochTwice: "no_epoch_is_given_twice",
    ForgetsWhatTheCallerKnows: "no_epoch_is_given_twice",
    AdmitsEverybody: "an_enrolment_can_be_checked_later",
    KeepsQuiet: "a_destroyed_key_is_gone_everywhere",
    DerivesKeysFromNames: "a_subject_keeps_its_key",
    DrawsOneKeyForAll: "drawn_keys_are_all_different",
    KeepsWhatItDestroys: "a_destroyed_key_is_gone_everywhere",
    SparesTheGroups: "a_destroyed_key_is_gone_everywhere",
    RemembersInMemory: "a_destroyed_key_is_gone_everywhere",
    RotatesDataKeys: "a_rotation_changes_no_answer",
    ShowsItsKeys: "nothing_shown_holds_a_key_or_a_name",
}


@pytest.mark.parametrize("broken", BREAKS, ids=name_of)
def test_a_broken_promise_is_caught_by_its_case(broken: type, path: Path) -> None:
    case = next(case for case in CASES if case.__name__ == BREAKS[broken])
    with pytest.raises((AssertionError, KeyGone)):
        case(partial(broken, path))


def test_a_ring_that_gives_an_epoch_twice_is_caught_by_its_nonces(path: Path) -> None:
    with pytest.raises(NonceReused):
        SEALING_CASES[0](partial(NumbersItsWriters, path), AesGcm())


def changes(ring: FileKeyRing, told: list[object]) -> None:
    """Every kind of change; adds what the caller was told, one by one."""
    told.append(ring.enrol(1))
    told.append(ring.subjects(["anna", "bert"]))
    told.append(ring.draw(1))
    told.append(ring.destroy([told[1][1].handle]))
    told.append(ring.rotate())
    told.append(ring.enrol(2, writer=told[0].writer))


def points(path: Path) -> int:
    seen: list[str] = []
    changes(FileKeyRing(path, SECRET, fault=seen.append), [])
    return len(seen)


def cut_after(steps: int) -> Callable[[str], None]:
    left = iter(range(steps))

    def fault(_: str) -> None:
        if next(left, None) is None:
            raise PowerCut

    return fault


@pytest.mark.slow
def test_a_crash_at_any_step_loses_nothing_that_was_told_and_repeats_no_epoch(tmp_path: Path) -> None:
    for stop in range(points(tmp_path / "counting" / "ring")):
        path, told = tmp_path / str(stop) / "ring", []
        with pytest.raises(PowerCut):
            changes(FileKeyRing(path, SECRET, fault=cut_after(stop)), told)
        after = FileKeyRing(path, SECRET)
        if told:
            first = told[0]
            assert after.k0(first.writer, first.epoch) == first.k0
            assert after.enrol(3, writer=first.writer).epoch > first.epoch
        if len(told) > 1:
            assert after.subjects(["anna"]) == [told[1][0]]
        if len(told) > 2:
            assert after.key(told[2][0].handle) == told[2][0].key
        if len(told) > 3:
            with pytest.raises(KeyGone):
                after.key(told[1][1].handle)
        after.rotate()


def test_a_full_disk_changes_nothing_and_says_so(path: Path) -> None:
    full = False

    def fault(_: str) -> None:
        if full:
            raise OSError(errno.ENOSPC, "anything")

    ring = FileKeyRing(path, SECRET, fault=fault)
    before = ring.subjects(["anna"])
    full = True
    with pytest.raises(KeyRingUnavailable, match="No space left"):
        ring.subjects(["bert"])
    full = False
    assert ring.handle_of("bert") is None
    assert ring.subjects(["anna"]) == before


def test_files_are_their_owners_alone_and_hold_neither_names_nor_keys(path: Path) -> None:
    ring = FileKeyRing(path, SECRET)
    [key] = ring.subjects(["anna-who-is-sought"])
    ring.draw(1)
    content = files_of(path)
    assert sorted(content) == ["ring", "ring.backup", "ring.guard", "ring.lock", "ring.recent"]
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for raw in content.values():
        assert b"anna-who" not in raw
        assert key.key not in raw
        assert key.handle not in raw


@pytest.mark.parametrize("suffix", ["", ".guard", ".recent"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_ring_that_others_can_read_is_refused(path: Path, suffix: str, mode: int) -> None:
    FileKeyRing(path, SECRET)
    path.with_name(f"ring{suffix}").chmod(mode)
    with pytest.raises(KeyRingUnavailable, match="chmod 600"):
        FileKeyRing(path, SECRET)


@pytest.mark.parametrize("suffix", ["", ".guard", ".recent"])
def test_every_damaged_byte_is_noticed(path: Path, suffix: str) -> None:
    FileKeyRing(path, SECRET).subjects(["anna"])
    if not suffix:
        FileKeyRing(path, SECRET).rotate()
    file = path.with_name(f"ring{suffix}")
    whole = file.read_bytes()
    for index in range(0, len(whole), 3):
        file.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises((KeyRingUnavailable, SettingsError)) as caught:
            FileKeyRing(path, SECRET)
        assert "anna" not in str(caught.value)
        file.write_bytes(whole[:index])
        with pytest.raises((KeyRingUnavailable, SettingsError)):
            FileKeyRing(path, SECRET)
    file.write_bytes(whole)
    assert FileKeyRing(path, SECRET).handle_of("anna")


@pytest.mark.parametrize("secret", [b"", b"x" * 31, b"x" * 32])
def test_another_secret_opens_nothing_and_makes_nothing_anew(path: Path, secret: bytes) -> None:
    FileKeyRing(path, SECRET)
    before = files_of(path)
    with pytest.raises(SettingsError, match="AUDIT_SECRET_KEY") as caught:
        FileKeyRing(path, secret)
    assert files_of(path) == before
    assert SECRET.hex() not in str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".guard", ".recent"])
def test_a_missing_file_is_never_made_anew(path: Path, suffix: str) -> None:
    FileKeyRing(path, SECRET).subjects(["anna"])
    path.with_name(f"ring{suffix}").unlink()
    with pytest.raises(KeyRingUnavailable, match=rf"ring{re.escape(suffix)}: No such file"):
        FileKeyRing(path, SECRET)


def test_a_restored_backup_has_no_destroyed_key_and_gives_no_epoch_twice(path: Path, tmp_path: Path) -> None:
    ring = FileKeyRing(path, SECRET)
    anna, bert = ring.subjects(["anna", "bert"])
    first = ring.enrol(1)
    copy = tmp_path / "copy"
    ring.copy_to(copy)
    ring.destroy([bert.handle])
    second = ring.enrol(2, writer=first.writer)
    path.unlink()
    again = restore(path, SECRET, copy)
    assert again.key(anna.handle) == anna.key
    with pytest.raises(KeyGone):
        again.key(bert.handle)
    assert again.enrol(3, writer=first.writer).epoch > second.epoch
    again.rotate()
    with pytest.raises(KeyRingUnavailable, match="rotation"):
        restore(path, SECRET, copy)
    assert again.key(anna.handle) == anna.key


@pytest.mark.parametrize("count", [1, 700])
def test_a_ring_that_was_damaged_is_made_up_for_by_its_backup(path: Path, count: int) -> None:
    names = [f"subject {number}" for number in range(count)]
    before = FileKeyRing(path, SECRET).subjects(names)
    path.write_bytes(b"overwritten")
    with pytest.raises(KeyRingUnavailable):
        FileKeyRing(path, SECRET)
    assert restore(path, SECRET).subjects(names) == before


def test_what_is_added_is_small_however_large_the_ring_is(path: Path) -> None:
    ring, other = FileKeyRing(path, SECRET), FileKeyRing(path, SECRET)
    ring.subjects([f"subject {number}" for number in range(3_000)])
    large, inode = path.stat().st_size, path.stat().st_ino
    anna = ring.subjects(["anna"])
    assert other.subjects(["anna"]) == anna
    group = other.group([anna[0].handle, other.handle_of("subject 7")])
    assert ring.group([anna[0].handle, ring.handle_of("subject 7")]) == group
    assert ring.groups_with(anna[0].handle) == [group]
    assert (path.stat().st_size, path.stat().st_ino) == (large, inode), "the ring was not written"
    assert path.with_name("ring.recent").stat().st_size < 1_000
    ring.destroy([anna[0].handle])
    assert other.handle_of("anna") is None
    assert other.handle_of("subject 2999")


def test_a_symbolic_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    FileKeyRing(path, SECRET)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyRingUnavailable):
        FileKeyRing(path, SECRET)


def enrolling(path: Path, answers: object) -> None:
    ring = FileKeyRing(path, SECRET)
    writer, given = None, []
    for number in range(10):
        item = ring.enrol(1, writer=bytes(16) if writer is None else writer)
        writer = item.writer
        given.append((item.writer, item.epoch))
        ring.subjects([f"subject {number}"])
    answers.put((os.getpid(), given, [ring.handle_of(f"subject {number}") for number in range(10)]))


@pytest.mark.slow
def test_processes_that_race_get_epochs_of_their_own_and_the_same_keys(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=enrolling, args=(path, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    told = [answers.get(timeout=PATIENCE_S) for _ in processes]
    for process in processes:
        process.join()
    epochs = [epoch for _, given, _ in told for epoch in given]
    assert len(set(epochs)) == len(epochs) == 30
    assert len({tuple(handles) for _, _, handles in told}) == 1
