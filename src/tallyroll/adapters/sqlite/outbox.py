"""Implements ``ports.Outbox`` in one SQLite file, for where tasks are kept on one host."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from tallyroll.adapters.sqlite.opened import opened
from tallyroll.adapters.sqlite.store_file import FileKind, StoreFile
from tallyroll.ports import OutboxRow

_TABLES: Final = """
CREATE TABLE outbox (
    id TEXT PRIMARY KEY, since_us INTEGER NOT NULL, until_us INTEGER NOT NULL, request BLOB NOT NULL, event BLOB
) STRICT, WITHOUT ROWID;
"""

_KIND: Final = FileKind(
    "outbox",
    application_id=0x74726F62,  # "trob": tells the file from other SQLite files
    version=1,
    tables=_TABLES,
    cache_kib=256,
    synchronous="FULL",
    remedy="choose another folder; what is in an outbox is nowhere else",
)


class SqliteOutbox:
    """An outbox in a file, or in memory. Make it with ``open``.

    Durability: what a method has done survives a power cut, as far as the disk tells the truth; in memory it lives as long
    as it is open. Not promised: use from several hosts or over a network file system.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = StoreFile(path, _KIND)

    @classmethod
    async def open(cls, path: Path | None) -> SqliteOutbox:
        """The outbox in that file, made with its folder if it is not there; None keeps it in memory. Raises StoreUnavailable."""
        return await opened(partial(cls, path), cls._shut)

    async def put(self, row: OutboxRow) -> None:
        await self._change("INSERT INTO outbox (id, since_us, until_us, request, event) VALUES (?, ?, ?, ?, ?)", *row)

    async def ready(self, row_id: str, event: bytes, until_us: int) -> bool:
        statement = "UPDATE outbox SET event = ?, until_us = ? WHERE id = ? AND event IS NULL"
        return await self._change(statement, event, until_us, row_id) == 1

    async def lease(self, row: OutboxRow, until_us: int) -> bool:
        statement = "UPDATE outbox SET until_us = ? WHERE id = ? AND until_us = ? AND event IS ?"
        return await self._change(statement, until_us, row.id, row.until_us, row.event) == 1

    async def rows(self, limit: int = 1_000) -> Sequence[OutboxRow]:
        def select(connection: sqlite3.Connection) -> list[OutboxRow]:
            found = connection.execute("SELECT id, since_us, until_us, request, event FROM outbox ORDER BY since_us, id LIMIT ?", (limit,))
            return [OutboxRow(*row) for row in found]

        return await asyncio.to_thread(self._file.read, select)

    async def remove(self, row_id: str) -> None:
        await self._change("DELETE FROM outbox WHERE id = ?", row_id)

    async def close(self) -> None:
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._file.close()

    async def _change(self, statement: str, *values: str | int | bytes | None) -> int:
        """Runs one statement; gives how many rows it changed."""

        def change() -> int:
            with self._file.writing() as connection:
                return connection.execute(statement, values).rowcount

        return await asyncio.to_thread(change)
