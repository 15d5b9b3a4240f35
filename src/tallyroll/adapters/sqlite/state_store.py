"""The state store in one SQLite file (write-ahead log), shared by the processes of one host; or in memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from tallyroll.adapters.sqlite.binding import ManyRows
from tallyroll.adapters.sqlite.opened import opened
from tallyroll.adapters.sqlite.store_file import FileKind, FrozenFile, StoreFile, at_one_moment
from tallyroll.errors import PositionConflict
from tallyroll.events.position import TopicPartition
from tallyroll.ports import OwnerParts, PartitionWrite, Progress

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

_KIND: Final = FileKind(
    "state store",
    application_id=0x74727374,  # "trst": tells the file from other SQLite files
    version=1,
    tables=_TABLES,
    cache_kib=32_768,  # inner pages of the index over some millions of parts
)


_PARTS: Final = ManyRows("part", ("view", "owner", "topic", "partition", "data"), then="ON CONFLICT DO UPDATE SET data = excluded.data")


class SqliteStateStore:
    """A ``StateStore`` on SQLite. Make it with ``open``.

    Durability: with ``synchronous = NORMAL`` a commit survives the end of the process; a crash of the machine may take
    the newest commits back, each as a whole, so that parts and progress still agree and the log gives the rest again.
    Commits run in a thread on a connection of their own; readers see the state before or after one.
    Not promised: use from several hosts or over a network file system, where file locks do not hold.
    """

    def __init__(self, file: StoreFile | FrozenFile) -> None:
        self._file = file

    @classmethod
    async def open(cls, path: Path | None) -> SqliteStateStore:
        """The store in that file, made with its folder if it is not there; None keeps it in memory. Raises StoreUnavailable."""
        file = await opened(partial(StoreFile, path, _KIND), StoreFile.close)
        return cls(file)

    def at_one_moment(self) -> AbstractAsyncContextManager[SqliteStateStore]:
        return at_one_moment(self._file, SqliteStateStore)

    async def load_progress(self, partitions: Sequence[TopicPartition] | None = None) -> Mapping[TopicPartition, Progress]:
        def select(connection: sqlite3.Connection) -> dict[TopicPartition, Progress]:
            rows = connection.execute("SELECT topic, partition, fold_id, first, next, repeats FROM progress")
            return {TopicPartition(*row[:2]): Progress(*row[2:]) for row in rows}

        stored = await asyncio.to_thread(self._file.read, select)
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

        return self._file.read(select)

    async def parts_of(self, fold_id: str, view: str, owner: str) -> OwnerParts:
        def select(connection: sqlite3.Connection) -> OwnerParts:
            progress = connection.execute("SELECT topic, partition, fold_id, first, next FROM progress WHERE fold_id = ?", (fold_id,))
            known = {TopicPartition(*row[:2]): Progress(*row[2:]) for row in progress}
            parts = connection.execute("SELECT topic, partition, data FROM part WHERE view = ? AND owner = ?", (view, owner))
            return OwnerParts(known, {place: data for *where, data in parts if (place := TopicPartition(*where)) in known})

        return await asyncio.to_thread(self._file.read, select)

    async def owners(self, fold_id: str, view: str, *, after: str = "", limit: int = 100) -> Sequence[str]:
        def select(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                "SELECT DISTINCT owner FROM part JOIN progress USING (topic, partition) "
                "WHERE view = ? AND owner > ? AND fold_id = ? ORDER BY owner LIMIT ?",
                (view, after, fold_id, limit),
            )
            return [owner for (owner,) in rows]

        return await asyncio.to_thread(self._file.read, select)

    async def commit(self, writes: Sequence[PartitionWrite]) -> None:
        if writes:
            await asyncio.to_thread(self._commit, writes)

    async def close(self) -> None:
        await asyncio.to_thread(self._file.close)

    def _commit(self, writes: Sequence[PartitionWrite]) -> None:
        with self._file.writing() as connection:
            for write in writes:
                self._advance(connection, write)
            rows = ((view, owner, *write.partition, data) for write in writes for view, owner, data in write.parts)
            _PARTS.insert(connection, rows)

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
