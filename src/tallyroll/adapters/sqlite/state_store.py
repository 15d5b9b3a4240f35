"""The state store in one SQLite file (write-ahead log), shared by the processes of one host; or in memory."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tallyroll.adapters.sqlite.schema import enter_wal, transaction
from tallyroll.errors import PositionConflict, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import OwnerParts, PartitionWrite, Progress

T = TypeVar("T")

_FORMAT: Final = 1
_APPLICATION_ID: Final = 0x74727374  # "trst": tells the file from other SQLite files
_LOCK_TIMEOUT_S: Final = 10.0  # a commit of another process takes well below a second
_CACHE_KIB: Final = 32_768  # inner pages of the index over some millions of parts

# Owner first: one owner's parts lie together, for look-up and paging. Reading a batch's parts of one partition are point
# look-ups in either order.
_TABLES: Final = """
CREATE TABLE progress (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, fold_id TEXT NOT NULL, first INTEGER NOT NULL, next INTEGER NOT NULL,
    repeats BLOB NOT NULL, PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;
CREATE TABLE part (
    view TEXT NOT NULL, owner TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (view, owner, topic, partition)
) STRICT, WITHOUT ROWID;
"""


class SqliteStateStore:
    """A ``StateStore`` on SQLite. Make it with ``open``.

    Durability: with ``synchronous = NORMAL`` a commit survives the end of the process; a crash of the machine may take
    the newest commits back, each as a whole, so that parts and progress still agree and the log gives the rest again.
    Commits run in a thread on a connection of their own; readers see the state before or after one.
    Not promised: use from several hosts or over a network file system, where file locks do not hold.
    """

    def __init__(self, path: Path | None) -> None:
        self._name = "state store in memory" if path is None else str(path)
        with self._translated():
            self._writer = _connect(path)
            try:
                _create(self._writer, self._name)
                # In memory there is one connection; its lock makes readers wait for a commit.
                self._reader = self._writer if path is None else _connect(path)
            except BaseException:
                self._writer.close()
                raise
        self._write_lock = threading.Lock()
        self._read_lock = self._write_lock if path is None else threading.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path | None) -> SqliteStateStore:
        """The store in that file, made with its folder if it is not there; None keeps it in memory. Raises StoreUnavailable."""
        return await asyncio.to_thread(cls, path)

    async def load_progress(self, partitions: Sequence[TopicPartition] | None = None) -> Mapping[TopicPartition, Progress]:
        def select(connection: sqlite3.Connection) -> dict[TopicPartition, Progress]:
            rows = connection.execute("SELECT topic, partition, fold_id, first, next, repeats FROM progress")
            return {TopicPartition(*row[:2]): Progress(*row[2:]) for row in rows}

        stored = await asyncio.to_thread(self._read, select)
        return stored if partitions is None else {one: stored[one] for one in partitions if one in stored}

    def load_parts(self, partition: TopicPartition, view: str, owners: Sequence[str]) -> Mapping[str, bytes]:
        def select(connection: sqlite3.Connection) -> dict[str, bytes]:
            # One statement for all owners: SQLite walks the list itself, at a tenth of the cost of as many statements.
            return dict(
                connection.execute(
                    "SELECT owner, data FROM json_each(?) CROSS JOIN part ON owner = value WHERE view = ? AND topic = ? AND partition = ?",
                    (msgspec.json.encode(owners).decode(), view, *partition),
                )
            )

        return self._read(select)

    async def parts_of(self, fold_id: str, view: str, owner: str) -> OwnerParts:
        def select(connection: sqlite3.Connection) -> OwnerParts:
            progress = connection.execute("SELECT topic, partition, fold_id, first, next FROM progress WHERE fold_id = ?", (fold_id,))
            known = {TopicPartition(*row[:2]): Progress(*row[2:]) for row in progress}
            parts = connection.execute("SELECT topic, partition, data FROM part WHERE view = ? AND owner = ?", (view, owner))
            return OwnerParts(known, {place: data for *where, data in parts if (place := TopicPartition(*where)) in known})

        return await asyncio.to_thread(self._read, select)

    async def owners(self, fold_id: str, view: str, *, after: str = "", limit: int = 100) -> Sequence[str]:
        def select(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                "SELECT DISTINCT owner FROM part JOIN progress USING (topic, partition) "
                "WHERE view = ? AND owner > ? AND fold_id = ? ORDER BY owner LIMIT ?",
                (view, after, fold_id, limit),
            )
            return [owner for (owner,) in rows]

        return await asyncio.to_thread(self._read, select)

    async def commit(self, writes: Sequence[PartitionWrite]) -> None:
        if writes:
            await asyncio.to_thread(self._commit, writes)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _read(self, select: Callable[[sqlite3.Connection], T]) -> T:
        with self._read_lock, self._translated(), transaction(self._reader, "DEFERRED"):
            return select(self._reader)

    def _commit(self, writes: Sequence[PartitionWrite]) -> None:
        with self._write_lock, self._translated():
            connection = self._writer
            with transaction(connection, "IMMEDIATE"):
                for write in writes:
                    self._advance(connection, write)
                    connection.executemany(
                        "INSERT INTO part (view, owner, topic, partition, data) VALUES (?, ?, ?, ?, ?) "
                        "ON CONFLICT DO UPDATE SET data = excluded.data",
                        [(view, owner, *write.partition, data) for view, owner, data in write.parts],
                    )

    def _advance(self, connection: sqlite3.Connection, write: PartitionWrite) -> None:
        stored = connection.execute("SELECT fold_id, next FROM progress WHERE topic = ? AND partition = ?", write.partition).fetchone()
        ours = stored is not None and stored[0] == write.progress.fold_id
        position = stored[1] if ours else None
        if position != write.expected:
            raise PositionConflict(str(write.partition), stored=position, expected=write.expected)
        if stored is not None and not ours:
            connection.execute("DELETE FROM part WHERE topic = ? AND partition = ?", write.partition)
        connection.execute(
            "INSERT OR REPLACE INTO progress (topic, partition, fold_id, first, next, repeats) VALUES (?, ?, ?, ?, ?, ?)",
            (*write.partition, *write.progress),
        )

    def _close(self) -> None:
        with self._write_lock:
            if self._closed:
                return
            self._closed = True
            if self._reader is not self._writer:
                with self._read_lock:
                    self._reader.close()
            self._writer.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            # Only SQLite's own code: its text may quote values.
            reason = getattr(error, "sqlite_errorname", None) or type(error).__name__
            raise StoreUnavailable(self._name, reason) from error


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        ":memory:" if path is None else path, isolation_level=None, check_same_thread=False, timeout=_LOCK_TIMEOUT_S
    )
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection


def _create(connection: sqlite3.Connection, name: str) -> None:
    enter_wal(connection, time.monotonic() + _LOCK_TIMEOUT_S)
    with transaction(connection, "IMMEDIATE"):
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        blank = connection.execute("SELECT count(*) = 0 FROM sqlite_schema").fetchone()[0]
        if application_id == 0 and blank:
            for statement in _TABLES.split(";")[:-1]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
        elif application_id != _APPLICATION_ID or connection.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
            raise StoreUnavailable(name, "the file is no state store of this version; move it away, it can be made anew from the log")
