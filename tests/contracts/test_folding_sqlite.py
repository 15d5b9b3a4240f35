"""The write-ahead log stays short although no commit folds it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tallyroll.adapters.sqlite.folding import Folding
from tallyroll.adapters.sqlite.guarded import Guarded

_COMMITS = 60
_BYTES = 40_000


def _written(path: Path, folding: Folding | None, writing: Guarded) -> int:
    """How long the write-ahead log is after commits of which each has told ``folding``, and waited for it."""
    for number in range(_COMMITS):
        with writing.use() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS block (number INTEGER PRIMARY KEY, payload BLOB)")
            connection.execute("INSERT INTO block VALUES (?, zeroblob(?))", (number, _BYTES))
        if folding is not None:
            folding.committed(_BYTES, writing.use)
            folding.close()
    with writing.use() as connection:
        assert connection.execute("SELECT count(*), sum(length(payload)) FROM block").fetchone() == (_COMMITS, _COMMITS * _BYTES)
    return path.with_name(f"{path.name}-wal").stat().st_size


def _opened(path: Path) -> Guarded:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    return Guarded(connect, keep=False)


def test_the_write_ahead_log_begins_anew(tmp_path: Path) -> None:
    beside, alone = tmp_path / "beside", tmp_path / "alone"
    writing, other = _opened(beside), _opened(alone)
    folded = _written(beside, Folding(_opened(beside).use, fold_bytes=4 * _BYTES), writing)
    assert folded < 15 * _BYTES < _COMMITS * _BYTES < _written(alone, None, other)  # alone: nobody folds
    writing.close()
    other.close()


def test_what_another_one_holds_is_left_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "held"
    writing, reading = _opened(path), _opened(path)
    folding = Folding(_opened(path).use, fold_bytes=4 * _BYTES)
    with writing.use() as connection:
        connection.execute("CREATE TABLE old (number INTEGER)")
    with reading.use() as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM old").fetchall()
        assert _written(path, folding, writing) > _COMMITS * _BYTES  # the reader's state is in the file still
        connection.execute("COMMIT")
    for number in range(_COMMITS, _COMMITS + 6):
        with writing.use() as connection:
            connection.execute("INSERT INTO block VALUES (?, zeroblob(?))", (number, _BYTES))
        folding.committed(_BYTES, writing.use)
        folding.close()
    with writing.use() as connection:
        assert connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1] < 15 * _BYTES // 4_096
    reading.close()
    writing.close()
