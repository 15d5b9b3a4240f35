"""The index of the archive in one SQLite file per partition, beside the folder of its segments."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tallyroll.adapters.sqlite import archive_schema as schema
from tallyroll.adapters.sqlite import archive_tail
from tallyroll.adapters.sqlite.binding import ManyRows
from tallyroll.adapters.sqlite.schema import check_process, transaction
from tallyroll.errors import PositionConflict, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import (
    Append,
    ArchivedFinding,
    ArchiveMark,
    Found,
    Owned,
    Pruned,
    Scanned,
    Sealed,
    Segment,
    Span,
    StoredPart,
    Tail,
)

T = TypeVar("T")

_MAX_IDLE: Final = 4  # reading connections kept open; more readers at once open their own
_SEGMENT_ROWS: Final = ManyRows("segment", schema.SEGMENT.split(", "))
_RUN_ROWS: Final = ManyRows("loc", ("base", *schema.RUN.split(", ")))
_SNAP_ROWS: Final = ManyRows("snap", schema.SNAP.split(", "))
_FINDING_ROWS: Final = ManyRows("finding", schema.FINDING.split(", "))
_RUN_COLUMNS: Final = schema.RUN.count(",") + 1
# Both tables have a column of these names.
_OF_RUN: Final = schema.RUN.replace("first_us", "loc.first_us").replace("last_us", "loc.last_us")
_OF_SEGMENT: Final = schema.SEGMENT.replace("first_us", "segment.first_us").replace("last_us", "segment.last_us")
# Each owner's newest snapshot in a view, and whether it is of the reducer that is asked for.
_NEWEST: Final = (
    "SELECT owner, until, order_us, version, part, checksum, reducer_id = ? FROM "
    "(SELECT rowid AS newest, max(until) FROM snap WHERE view = ? AND until <= ? GROUP BY owner) "
    "CROSS JOIN snap ON snap.rowid = newest"
)
_IS_ASKED_FOR: Final = itemgetter(-1)
_ANY_US: Final = 2**63 - 1


class SqliteArchiveIndexes:
    """The indexes under one folder: ``<topic>/<partition>/index.db``.

    Not promised: use over a network file system, where file locks do not hold.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, partition: TopicPartition, *, create: bool) -> SqliteArchiveIndex | None:
        path = self._path(partition)
        return SqliteArchiveIndex(path, partition) if create or path.exists() else None

    def set_aside(self, partition: TopicPartition) -> None:
        path = self._path(partition)
        try:
            for suffix in ("-wal", "-shm", ""):  # the file itself last, so that a crash between leaves something to do again
                file = path.with_name(path.name + suffix)
                if file.exists():
                    file.replace(path.with_name(f"{path.name}.aside{suffix}"))
        except OSError as error:
            raise StoreUnavailable(str(path), type(error).__name__) from error

    def _path(self, partition: TopicPartition) -> Path:
        return self._folder / partition.topic / str(partition.partition) / schema.FILE_NAME


class SqliteArchiveIndex:
    """An ``ArchiveIndex`` on SQLite (write-ahead log): one connection writes, readers see the state before or after.

    Opening one that is there takes no lock, so that a reader waits for nobody who writes.

    Durability: appends survive the end of the process, seals a crash of the machine.
    Not promised: that an append survives a crash of the machine; the log gives its records again.
    """

    def __init__(self, path: Path, partition: TopicPartition) -> None:
        self._pid = os.getpid()
        self._path = path
        self._name = f"archive index {path}"
        self._partition = partition
        self._write_lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._writer: sqlite3.Connection | None
        with self._translated():
            self._writer = None if self._is_made() else schema.made(path, self._name, partition)

    def _is_made(self) -> bool:
        """Whether the file is there as it has to be; then the connection that has looked reads on, and none writes yet."""
        if not self._path.exists():
            return False
        connection, made = schema.connect(self._path), False
        try:
            made = schema.is_made(connection, self._partition)
        finally:
            if made:
                self._idle.append(connection)
            else:
                connection.close()
        return made

    def mark(self) -> ArchiveMark | None:
        return self._read(schema.read_mark)

    def checks(self) -> bytes:
        def select(connection: sqlite3.Connection) -> bytes:
            row = connection.execute("SELECT state FROM checks").fetchone()
            return row[0] if row is not None else b""

        return self._read(select)

    def tail(self) -> Tail:
        def select(connection: sqlite3.Connection) -> Tail:
            row = connection.execute("SELECT tail_records, tail_bytes, since_us FROM mark").fetchone()
            return Tail(*row) if row is not None else Tail(0, 0, None)

        return self._read(select)

    def append(self, write: Append) -> None:
        with self._writing() as connection:
            mark = schema.read_mark(connection)
            stored = mark.next if mark is not None else None
            if stored != write.expected:
                raise PositionConflict(str(self._partition), stored=stored, expected=write.expected)
            if mark is None:
                connection.execute(
                    "INSERT INTO mark VALUES (1, ?, ?, ?, ?, ?, x'', ?, NULL, NULL, 0, 0)",
                    (*self._partition, write.first, write.first, write.first, schema.holes_row([])),
                )
            size, newest = 0, mark.last_us if mark is not None else None
            if write.records:
                size, met = archive_tail.insert(connection, write.records)
                newest = max((one for one in (newest, met) if one is not None), default=None)
            connection.execute(
                "UPDATE mark SET next = ?, repeats = ?, tail_records = tail_records + ?, tail_bytes = tail_bytes + ?, "
                "since_us = coalesce(since_us, ?), last_us = ?",
                (write.next, write.repeats, len(write.records), size, write.now_us if write.records else None, newest),
            )

    def seal(self, sealed: Sealed, is_whole: Callable[[], bool]) -> None:
        segment = sealed.segment
        with self._writing(durable=True) as connection:
            mark = schema.read_mark(connection)
            there = mark is not None and mark.sealed == segment.base and mark.next >= segment.next and mark.kept == sealed.kept
            if mark is None or not there or not is_whole():
                raise PositionConflict(f"archive {self._partition}", stored=mark.sealed if mark else None, expected=segment.base)
            _SEGMENT_ROWS.insert(connection, iter([schema.segment_row(segment)]))
            connection.execute("INSERT OR REPLACE INTO checks VALUES (1, ?)", (sealed.checks,))
            # In the order of the table, which has those of all segments: what is near each other goes into the same page.
            _RUN_ROWS.insert(connection, ((segment.base, *run) for run in sorted(sealed.runs)))
            _SNAP_ROWS.insert(connection, map(schema.part_row, sealed.parts))
            _FINDING_ROWS.insert(connection, iter(sealed.findings))
            left, size = archive_tail.drop(connection, segment.next, following=mark.next)
            connection.execute(
                "UPDATE mark SET sealed = ?, tail_records = ?, tail_bytes = ?, since_us = iif(?, max(since_us, ?), NULL)",
                (segment.next, left, size, left, sealed.since_us),
            )

    def prune(self, pruned: Pruned, is_whole: Callable[[], bool]) -> None:
        with self._writing(durable=True) as connection:
            mark, kept = schema.read_mark(connection), pruned.kept
            ended = self._segments(connection, "WHERE next = ?", kept) if mark is not None else []
            expected = mark is None or (bool(ended) and ended[0].digest == pruned.digest)
            if not expected or not is_whole():
                raise PositionConflict(f"archive {self._partition}", stored=mark.kept if mark else None, expected=kept)
            if mark is None:
                connection.execute(
                    "INSERT INTO mark VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 0, 0)",
                    (*self._partition, pruned.first, kept, kept, pruned.repeats, schema.holes_row(pruned.holes), pruned.last_us),
                )
                connection.execute("INSERT INTO checks VALUES (1, ?)", (pruned.checks,))
            for table, condition in (("loc", "base < ?"), ("segment", "base < ?"), ("snap", "until <= ?"), ("finding", "at < ?")):
                connection.execute(f"DELETE FROM {table} WHERE {condition}", (kept,))  # noqa: S608  # names of our own
            _SNAP_ROWS.insert(connection, map(schema.part_row, pruned.parts))
            connection.execute("INSERT OR REPLACE INTO pruned VALUES (?, ?, ?, ?, ?, ?)", schema.pruned_row(pruned))

    def replace(self, old: Segment, new: Segment) -> None:
        with self._writing(durable=True) as connection:
            changed = connection.execute(
                "UPDATE segment SET name = ?, file_bytes = ?, projection = ? WHERE base = ? AND name = ? AND digest = ?",
                (new.name, new.file_bytes, new.projection, old.base, old.name, new.digest),
            )
            if changed.rowcount != 1:
                raise PositionConflict(f"archive {self._partition}", stored=None, expected=old.base)

    def sweep(self, remove: Callable[[frozenset[str]], None]) -> None:
        with self._writing() as connection:
            remove(frozenset(name for (name,) in connection.execute("SELECT name FROM segment UNION ALL SELECT name FROM pruned")))

    def skip(self, hole: Span, repeats: bytes) -> None:
        with self._writing(durable=True) as connection:
            mark = schema.read_mark(connection)
            if mark is None or not mark.sealed == mark.next == hole.start:
                raise PositionConflict(str(self._partition), stored=mark.next if mark else None, expected=hole.start)
            connection.execute(
                "UPDATE mark SET sealed = ?, next = ?, repeats = ?, holes = ?",
                (hole.end, hole.end, repeats, schema.holes_row([*mark.holes, hole])),
            )

    def segments(self) -> Sequence[Segment]:
        return self._read(lambda connection: self._segments(connection, "ORDER BY base"))

    def find(self, start: int, end: int, limit: int) -> Found:
        def select(connection: sqlite3.Connection) -> Found:
            segment = self._next(connection, start, end)
            records = [] if segment is not None else archive_tail.read(connection, start, end, limit)
            return Found(segment, records, _kept(connection))

        return self._read(select, alone=False)

    def scan(self, start: int, end: int, limit: int) -> Scanned:
        def select(connection: sqlite3.Connection) -> Scanned:
            segment = self._next(connection, start, end)
            tail = None if segment is not None else archive_tail.scan(connection, start, end, limit)
            return Scanned(segment, tail, _kept(connection))

        return self._read(select, alone=False)

    def owned(self, key: str, start: int, end: int) -> Owned:
        def select(connection: sqlite3.Connection) -> Owned:
            rows = connection.execute(
                f"SELECT {_OF_RUN}, {_OF_SEGMENT} FROM loc JOIN segment USING (base) "  # noqa: S608  # as above
                "WHERE key = ? AND first_offset < ? AND last_offset >= ? ORDER BY base, row",
                (key, end, start),
            ).fetchall()
            runs = [
                (schema.segment_from(of_segment[0][_RUN_COLUMNS:]), [schema.run_from(row[:_RUN_COLUMNS]) for row in of_segment])
                for _, group in groupby(rows, key=itemgetter(_RUN_COLUMNS + 1))
                if (of_segment := list(group))
            ]
            return Owned(runs, archive_tail.owned(connection, key, start, end), _kept(connection))

        return self._read(select, alone=False)

    def owners(self, keys: Collection[str], below: int) -> Collection[str]:
        def select(connection: sqlite3.Connection) -> set[str]:
            rows = connection.execute(
                "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM loc WHERE key = value AND base < ?)", (_json(list(keys)), below)
            )
            return {key for (key,) in rows}

        return self._read(select)

    def parts(self, view: str, reducer_id: str, *, end: int, order_us: int | None, owners: Collection[str] | None) -> Sequence[StoredPart]:
        def select(connection: sqlite3.Connection) -> list[StoredPart]:
            if owners is None and order_us is None:
                # Found in the key alone, so that older ones, of which there may be many, are not read.
                found = connection.execute(_NEWEST, (reducer_id, view, end)).fetchall()
                if all(map(_IS_ASKED_FOR, found)):
                    return [StoredPart(view, row[0], partition, reducer_id, *row[1:-1]) for row in found]
            limits = (view, reducer_id, end, _ANY_US if order_us is None else order_us)
            within = "view = ? AND reducer_id = ? AND until <= ? AND order_us <= ?"
            # With max() SQLite takes the other columns from the row that has the maximum. What is the same in all is not selected:
            # a replay of everybody reads thousands of them, and that is a quarter of the reading.
            newest = "SELECT owner, max(until), order_us, version, part, checksum FROM"
            if owners is None:
                rows = connection.execute(f"{newest} snap WHERE {within} GROUP BY owner ORDER BY owner", limits)
            else:
                rows = connection.execute(
                    f"{newest} json_each(?) CROSS JOIN snap ON owner = json_each.value WHERE {within} GROUP BY owner ORDER BY owner",
                    (_json(list(owners)), *limits),
                )
            return [
                StoredPart(view, owner, partition, reducer_id, until, latest_us, version, part, checksum)
                for owner, until, latest_us, version, part, checksum in rows
            ]

        partition = self._partition
        return self._read(select)

    def parts_of(  # noqa: PLR0913  # as the port
        self, view: str, reducer_id: str, owner: str, *, end: int, order_us: int | None, limit: int | None = None
    ) -> Sequence[StoredPart]:
        def select(connection: sqlite3.Connection) -> list[StoredPart]:
            rows = connection.execute(
                f"SELECT {schema.SNAP} FROM snap WHERE view = ? AND owner = ? AND reducer_id = ? AND until <= ? AND order_us <= ? "  # noqa: S608  # as above
                "ORDER BY until DESC LIMIT ?",
                (view, owner, reducer_id, end, _ANY_US if order_us is None else order_us, -1 if limit is None else limit),
            )
            return [schema.part_from(row, self._partition) for row in rows]

        return self._read(select)

    def findings(self, start: int, end: int) -> Sequence[ArchivedFinding]:
        def select(connection: sqlite3.Connection) -> list[ArchivedFinding]:
            rows = connection.execute(f"SELECT {schema.FINDING} FROM finding WHERE at >= ? AND at < ? ORDER BY at, kind", (start, end))  # noqa: S608  # as above
            return [*map(schema.finding_from, rows)]

        return self._read(select)

    def close(self) -> None:
        if os.getpid() != self._pid:  # a forked child, which leaves the parent's alone
            return
        with self._write_lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            if self._writer is not None:
                self._writer.close()

    @staticmethod
    def _segments(connection: sqlite3.Connection, condition: str, *values: int) -> list[Segment]:
        rows = connection.execute(f"SELECT {schema.SEGMENT} FROM segment {condition}", values)  # noqa: S608  # as above
        return [*map(schema.segment_from, rows)]

    def _next(self, connection: sqlite3.Connection, start: int, end: int) -> Segment | None:
        segments = self._segments(connection, "WHERE next > ? AND base < ? ORDER BY base LIMIT 1", start, end)
        return segments[0] if segments else None

    def _read(self, select: Callable[[sqlite3.Connection], T], *, alone: bool = True) -> T:
        """What a question finds; ``alone``: it is one statement, which sees one moment by itself."""
        check_process(self._pid, self._name)
        with self._translated():
            try:
                connection = self._idle.pop()
            except IndexError:
                if self._closed:
                    raise StoreUnavailable(self._name, "it is closed") from None
                connection = schema.connect(self._path)
            try:
                with contextlib.nullcontext() if alone else transaction(connection, "DEFERRED"):
                    return select(connection)
            finally:
                if len(self._idle) < _MAX_IDLE and not self._closed:
                    self._idle.append(connection)
                else:
                    connection.close()

    @contextlib.contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        check_process(self._pid, self._name)
        with self._write_lock, self._translated(), contextlib.ExitStack() as stack:
            if self._closed:
                raise StoreUnavailable(self._name, "it is closed")
            if self._writer is None:
                self._writer = schema.connect(self._path)
            if durable:
                stack.enter_context(schema.durable(self._writer))
            stack.enter_context(transaction(self._writer, "IMMEDIATE"))
            yield self._writer

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
            raise schema.unavailable(self._name, error) from error


def _kept(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT kept FROM pruned").fetchone()
    return row[0] if row is not None else 0


def _json(values: list[str]) -> str:
    return msgspec.json.encode(values).decode()
