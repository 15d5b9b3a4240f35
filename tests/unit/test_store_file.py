"""A store's file and its write-ahead log: no commit folds, the log stays short, and nothing of it is lost."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from tests.patience import PATIENCE_S, until

from tallyroll.adapters.sqlite.store_file import FileKind, StoreFile
from tallyroll.errors import StoreUnavailable

KIND = FileKind(
    "test store", application_id=0x74727474, version=1, tables="CREATE TABLE kept (id INTEGER PRIMARY KEY, data BLOB);", cache_kib=512
)
MIB = 1024 * 1024


def write(file: StoreFile, number: int, size: int = MIB) -> None:
    with file.writing() as connection:
        connection.execute("INSERT INTO kept VALUES (?, ?)", (number, bytes([number % 256]) * size))


def kept(file: StoreFile) -> dict[int, int]:
    return file.read(lambda connection: dict(connection.execute("SELECT id, length(data) FROM kept")))


def length(path) -> int:
    """Of the write-ahead log, bytes."""
    return path.with_name(f"{path.name}-wal").stat().st_size


@pytest.mark.parametrize("private", [False, True])
def test_what_a_private_store_holds_is_read_by_its_owner_only(tmp_path, private):
    path, before = tmp_path / "folder" / "store", os.umask(0o022)
    try:
        file = StoreFile(path, replace(KIND, private=private))
    finally:
        os.umask(before)
    write(file, 1)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in (path.parent, *path.parent.iterdir())}
    assert modes == dict.fromkeys(["store", "store-wal", "store-shm"], 0o600 if private else 0o644) | {
        "folder": 0o700 if private else 0o755
    }
    file.close()


OTHER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO kept VALUES (2, x'02')")
connection.commit()
connection.close()
"""


@pytest.mark.parametrize("private", [False, True])
def test_who_closes_the_file_elsewhere_takes_nothing_away(tmp_path, private):
    file = StoreFile(tmp_path / "store", replace(KIND, private=private))
    write(file, 1, 1)
    subprocess.run([sys.executable, "-c", OTHER, tmp_path / "store"], check=True, timeout=PATIENCE_S)
    write(file, 3, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "store")) as another:
        assert [number for (number,) in another.execute("SELECT id FROM kept ORDER BY id")] == [1, 2, 3]
    file.close()


@pytest.mark.slow
def test_a_long_log_is_folded_beside_the_commits_and_begins_anew(tmp_path):
    path = tmp_path / "some.db"
    with contextlib.closing(StoreFile(path, KIND)) as file:
        for number in range(12):
            write(file, number)
        assert path.stat().st_size < MIB, "folded while it was short"
        for number in range(12, 20):
            write(file, number)
        until(lambda: path.stat().st_size > 16 * MIB, "never folded")  # nobody commits meanwhile
        numbers = iter(range(20, 2_000))  # far less than a log in which a commit would fold

        def is_short() -> bool:
            write(file, next(numbers), 100)
            return length(path) < MIB

        until(is_short, "never begun anew")
        assert kept(file) == {one: MIB if one < 20 else 100 for one in range(next(numbers))}


@pytest.mark.slow
def test_who_reads_for_long_holds_up_no_commit(tmp_path):
    path = tmp_path / "some.db"
    with contextlib.closing(StoreFile(path, KIND)) as file, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        write(file, 1)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM kept").fetchone() == (1,)
        for number in range(2, 25):
            write(file, number)
        assert len(kept(file)) == 24
        assert reader.execute("SELECT count(*) FROM kept").fetchone() == (1,)


def test_who_waits_to_empty_the_log_keeps_nobody_from_committing(tmp_path):
    path = tmp_path / "some.db"
    with contextlib.closing(StoreFile(path, KIND)) as file, contextlib.ExitStack() as moment:
        write(file, 1, 10)
        frozen = moment.enter_context(contextlib.closing(file.frozen()))
        with file.writing() as connection:
            connection.execute("DELETE FROM kept")
        folding = threading.Thread(target=file.fold)
        folding.start()
        for number in range(2, 12):
            write(file, number, 10)
        assert folding.is_alive(), "emptied below who reads it"
        assert frozen.read(lambda connection: dict(connection.execute("SELECT id, length(data) FROM kept"))) == {1: 10}
        moment.close()
        folding.join(PATIENCE_S)
        assert length(path) == 0
        assert kept(file) == dict.fromkeys(range(2, 12), 10)


def test_a_log_that_somebody_reads_for_too_long_is_not_said_to_be_empty(tmp_path):
    with contextlib.closing(StoreFile(tmp_path / "some.db", KIND, lock_timeout_s=0.1)) as file:
        write(file, 1, 10)
        with contextlib.closing(file.frozen()):
            write(file, 2, 10)
            with pytest.raises(StoreUnavailable, match="does not end"):
                file.fold()
        file.fold()


@contextlib.contextmanager
def held(path):
    """Another process is in the middle of a commit, and does not go on."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_writers_do_not_wait_for_each_other_while_a_stranger_holds_the_file(tmp_path):
    path = tmp_path / "some.db"
    with contextlib.closing(StoreFile(path, KIND, lock_timeout_s=0.2)) as file:
        reasons: list[str] = []
        together = threading.Barrier(40)

        def refused(number: int) -> None:
            together.wait(PATIENCE_S)
            with pytest.raises(StoreUnavailable) as error:
                write(file, number, 10)
            reasons.append(error.value.reason)

        threads = [threading.Thread(target=refused, args=(number,)) for number in range(40)]
        with held(path):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(reasons) == 40
        behind_others = reasons.count("others who write to it wait for it already")
        assert behind_others > 20, "each has waited for the stranger, one after the other"
        write(file, 1, 10)
