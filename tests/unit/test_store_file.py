"""A store's file and its write-ahead log: no commit folds, the log stays short, and nothing of it is lost."""

from __future__ import annotations

import contextlib
import sqlite3
import time

import pytest

from tallyroll.adapters.sqlite.store_file import FileKind, StoreFile

KIND = FileKind(
    "test store", application_id=0x74727474, version=1, tables="CREATE TABLE kept (id INTEGER PRIMARY KEY, data BLOB);", cache_kib=512
)
MIB = 1024 * 1024
PATIENCE_S = 20.0


def write(file: StoreFile, number: int, size: int = MIB) -> None:
    with file.writing() as connection:
        connection.execute("INSERT INTO kept VALUES (?, ?)", (number, bytes([number % 256]) * size))


def kept(file: StoreFile) -> dict[int, int]:
    return file.read(lambda connection: dict(connection.execute("SELECT id, length(data) FROM kept")))


@pytest.mark.slow
def test_a_long_log_is_folded_into_the_file_while_everybody_goes_on(tmp_path):
    path = tmp_path / "some.db"
    with contextlib.closing(StoreFile(path, KIND)) as file:
        for number in range(12):
            write(file, number)
        assert path.stat().st_size < MIB, "folded while it was short"
        for number in range(12, 20):
            write(file, number)
        deadline = time.monotonic() + PATIENCE_S
        number = 20
        while path.stat().st_size < 16 * MIB:
            assert time.monotonic() < deadline, "never folded"
            write(file, number, 100)  # nobody who commits waits, and what comes meanwhile is left for the next time
            number += 1
        assert kept(file) == {one: MIB if one < 20 else 100 for one in range(number)}


@pytest.mark.slow
def test_a_log_begins_anew_when_all_of_it_is_folded(tmp_path):
    path = tmp_path / "some.db"
    with contextlib.closing(StoreFile(path, KIND)) as file:
        longest = 0
        for number in range(150):
            write(file, number)
            longest = max(longest, (tmp_path / "some.db-wal").stat().st_size)
        assert longest < 100 * MIB
        assert len(kept(file)) == 150


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
