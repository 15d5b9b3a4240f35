"""The window store in one SQLite file (write-ahead log), shared by the processes of one host; or in memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from tallyroll.adapters.sqlite import window_rows as schema
from tallyroll.adapters.sqlite.opened import opened
from tallyroll.adapters.sqlite.store_file import FrozenFile, StoreFile, at_one_moment
from tallyroll.adapters.sqlite.window_rows import Series
from tallyroll.errors import DocumentConflict, PositionConflict
from tallyroll.events.position import TopicPartition
from tallyroll.ports import DocumentWrite, OpenPair, PaneAt, PaneRow, WindowProgress, WindowWrite

_ROLL_STEP: Final = 256  # wider rows made in one transaction: some tens of milliseconds, in which no other commit gets in
_PRUNE_STEP: Final = 20_000  # rows removed in one transaction: as above


class SqliteWindowStore:
    """A ``WindowStore`` on SQLite. Make it with ``open``.

    Durability: a commit survives the end of the process; a crash of the machine may take the newest commits back, each as a
    whole, so that panes, documents and progress still agree and the log gives the rest again.
    Commits run in a thread on a connection of their own; readers see the panes before or after one.
    Not promised: use from several hosts or over a network file system, where file locks do not hold.
    """

    def __init__(self, file: StoreFile | FrozenFile) -> None:
        self._file = file

    @classmethod
    async def open(cls, path: Path | None) -> SqliteWindowStore:
        """The store in that file, made with its folder if it is not there; None keeps it in memory. Raises StoreUnavailable."""
        file = await opened(partial(StoreFile, path, schema.KIND), StoreFile.close)
        return cls(file)

    def at_one_moment(self) -> AbstractAsyncContextManager[SqliteWindowStore]:
        return at_one_moment(self._file, SqliteWindowStore)

    async def load_progress(self, partitions: Sequence[TopicPartition] | None = None) -> Mapping[TopicPartition, WindowProgress]:
        def select(connection: sqlite3.Connection) -> dict[TopicPartition, WindowProgress]:
            rows = connection.execute("SELECT topic, partition, spec_id, first, next, watermark_us, repeats FROM progress")
            return {TopicPartition(*row[:2]): WindowProgress(*row[2:]) for row in rows}

        stored = await asyncio.to_thread(self._file.read, select)
        return stored if partitions is None else {one: stored[one] for one in partitions if one in stored}

    async def load_pairs(self, partition: TopicPartition) -> Sequence[OpenPair]:
        def select(connection: sqlite3.Connection) -> list[OpenPair]:
            rows = connection.execute(
                "SELECT pair, id, start_us, since_us FROM pair JOIN progress USING (number) WHERE topic = ? AND partition = ? "
                "ORDER BY since_us, pair, id",
                partition,
            )
            return [OpenPair(*row) for row in rows]

        return await asyncio.to_thread(self._file.read, select)

    async def load_recent(self, partition: TopicPartition, since: int) -> Sequence[PaneRow]:
        def select(connection: sqlite3.Connection) -> list[PaneRow]:
            number = schema.number_of(connection, partition)
            return [
                PaneRow(partition, PaneAt(series.dimension, key, series.width_s, start), revision, data)
                for series, series_id in sorted(schema.read_series(connection).items())
                if not series.made_of_s
                for key, start, revision, data in connection.execute(
                    "SELECT key, start, revision, data FROM pane WHERE series = ? AND start > ? AND number = ?",
                    (series_id, since - series.width_s, number),
                )
            ]

        return await asyncio.to_thread(self._file.read, select)

    def load_rows(self, partition: TopicPartition, wanted: Sequence[PaneAt]) -> Mapping[PaneAt, PaneRow]:
        def select(connection: sqlite3.Connection) -> dict[PaneAt, PaneRow]:
            series = schema.read_series(connection)
            asked = [(place, series.get(Series(at.dimension, at.width_s)), at.key, at.start) for place, at in enumerate(wanted)]
            # One statement for all rows: SQLite walks the list itself, at a tenth of the cost of as many statements.
            rows = connection.execute(
                "SELECT value->>0, revision, data FROM json_each(?) CROSS JOIN pane "
                "ON series = value->>1 AND pane.key = value->>2 AND start = value->>3 WHERE number = ?",
                (msgspec.json.encode(asked).decode(), schema.number_of(connection, partition)),
            )
            return {wanted[place]: PaneRow(partition, wanted[place], revision, data) for place, revision, data in rows}

        return self._file.read(select)

    async def commit(self, writes: Sequence[WindowWrite], documents: Sequence[DocumentWrite] = ()) -> None:
        if writes or documents:
            await asyncio.to_thread(self._commit, writes, documents)

    async def rows(  # noqa: PLR0913  # the port says so
        self, dimension: str, width_s: int, start: int, end: int, keys: Sequence[str] | None = None, *, rolled_s: int | None = None
    ) -> Sequence[PaneRow]:
        def select(connection: sqlite3.Connection) -> list[PaneRow]:
            return schema.select_rows(connection, Series(dimension, width_s), start, end, keys, rolled_s)

        return await asyncio.to_thread(self._file.read, select)

    async def keys(self, dimension: str, start: int, end: int, *, after: str = "", limit: int = 1_000) -> Sequence[str]:
        def select(connection: sqlite3.Connection) -> list[str]:
            found = {
                key
                for series, series_id in schema.read_series(connection).items()
                if series.dimension == dimension
                for key in schema.select_keys(connection, series_id, start, end, after, limit)
            }
            return sorted(found)[:limit]

        return await asyncio.to_thread(self._file.read, select)

    async def documents(self, kind: str) -> Mapping[str, bytes]:
        def select(connection: sqlite3.Connection) -> dict[str, bytes]:
            return dict(connection.execute("SELECT id, data FROM document WHERE kind = ?", (kind,)))

        return await asyncio.to_thread(self._file.read, select)

    async def roll_up(self, *, width_s: int, into_s: int, settle_s: int, join: Callable[[Sequence[bytes]], bytes]) -> int:
        if into_s <= width_s or into_s % width_s:
            raise ValueError(f"into_s is a multiple of width_s, not {into_s} of {width_s}")
        pairs = await asyncio.to_thread(self._note_due, width_s, into_s, settle_s)
        return sum([await self._until_done(partial(self._roll_step, pair, into_s, join), _ROLL_STEP) for pair in pairs])

    async def prune(self, *, width_s: int, keep_s: int) -> int:
        spans = await asyncio.to_thread(self._file.read, lambda connection: schema.prunable(connection, width_s, keep_s))
        return sum([await self._until_done(partial(self._prune_step, span), _PRUNE_STEP) for span in spans])

    async def version(self) -> int:
        return await asyncio.to_thread(
            self._file.read, lambda connection: int(connection.execute("SELECT number FROM version").fetchone()[0])
        )

    async def close(self) -> None:
        await asyncio.to_thread(self._file.close)

    def _commit(self, writes: Sequence[WindowWrite], documents: Sequence[DocumentWrite]) -> None:
        with self._file.writing() as connection:
            written = [(_advance(connection, write), write) for write in writes]
            schema.write_rows(connection, [(number, write.rows) for number, write in written])
            schema.write_pairs(
                connection,
                ((number, *pair) for number, write in written for pair in write.opened),
                ((number, *pair) for number, write in written for pair in write.closed),
            )
            for document in documents:
                _write_document(connection, document)
            _next_version(connection)

    def _note_due(self, width_s: int, into_s: int, settle_s: int) -> list[tuple[int, int]]:
        with self._file.writing() as connection:
            return schema.note_due(connection, width_s, into_s, settle_s)

    def _roll_step(self, pair: tuple[int, int], into_s: int, join: Callable[[Sequence[bytes]], bytes]) -> tuple[int, int]:
        with self._file.writing() as connection:
            _next_version(connection)
            return schema.roll(connection, pair, into_s, join, _ROLL_STEP)

    def _prune_step(self, span: schema.Prunable) -> tuple[int, int]:
        with self._file.writing() as connection:
            _next_version(connection)
            removed = schema.prune(connection, span, _PRUNE_STEP)
            return removed, removed

    @staticmethod
    async def _until_done(step: Callable[[], tuple[int, int]], full: int) -> int:
        """Runs steps, each a transaction of its own, until one was not full; each gives how much it took and how much it wrote."""
        total = 0
        while True:
            took, wrote = await asyncio.to_thread(step)
            total += wrote
            if took < full:
                return total


def _advance(connection: sqlite3.Connection, write: WindowWrite) -> int:
    """Moves a partition's progress; the number by which its rows know it."""
    stored = connection.execute("SELECT number, spec_id, next FROM progress WHERE topic = ? AND partition = ?", write.partition).fetchone()
    number, spec_id, position = stored or (None, None, None)
    ours = spec_id == write.progress.spec_id
    if (position if ours else None) != write.expected:
        raise PositionConflict(str(write.partition), stored=position if ours else None, expected=write.expected)
    if number is not None and not ours:
        schema.forget(connection, number)
    return int(
        connection.execute(
            "INSERT INTO progress (topic, partition, spec_id, first, next, watermark_us, repeats) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET spec_id = excluded.spec_id, first = excluded.first, next = excluded.next, "
            "watermark_us = excluded.watermark_us, repeats = excluded.repeats RETURNING number",
            (*write.partition, *write.progress[:-1], bytearray(write.progress.repeats)),
        ).fetchone()[0]
    )


def _write_document(connection: sqlite3.Connection, document: DocumentWrite) -> None:
    place = (document.kind, document.id)
    if document.guarded:
        stored = connection.execute("SELECT data FROM document WHERE kind = ? AND id = ?", place).fetchone()
        if (None if stored is None else stored[0]) != document.expected:
            raise DocumentConflict(*place)
    if document.data is None:
        connection.execute("DELETE FROM document WHERE kind = ? AND id = ?", place)
    else:
        connection.execute("INSERT OR REPLACE INTO document (kind, id, data) VALUES (?, ?, ?)", (*place, document.data))


def _next_version(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE version SET number = number + 1")
