"""The spool as one SQLite file per process, written by a thread of its own with group commit.

A file is held by a lock for as long as its process lives. A file whose lock is free belongs to a dead process: its
records are taken over, in order, before own ones. A damaged file is moved aside and reported, never deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from tallyroll.adapters.sqlite.schema import advised
from tallyroll.adapters.sqlite.spool_files import claim_new, connect, delete, orphans, passes
from tallyroll.errors import Backpressure, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Encoded, Spooled

log: Final = logging.getLogger("tallyroll.spool")

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS record (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    key BLOB NOT NULL, value BLOB NOT NULL, headers BLOB NOT NULL, timestamp_ms INTEGER NOT NULL,
    refused TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS lane ON record (topic, partition, number) WHERE refused IS NULL;
"""
_COLUMNS: Final = "event_id, topic, partition, key, value, headers, timestamp_ms"
_ROW_OVERHEAD: Final = 200  # bytes of a row and its index entry beside key and value, rounded up
_GROUP: Final = 256  # jobs joined into one commit at the most
T = TypeVar("T")


def _nothing(*_: object) -> None:
    """A job that changes no count."""


class SqliteSpool:
    """Implements ``ports.Spool``. ``folder`` None keeps it in memory: bounded, and gone with the process.

    Durability: ``synchronous=FULL``; what ``put`` returned for survives a power cut. Not promised: speed of single puts;
    many concurrent ones share a commit.

    Opening it takes over what dead processes have left. Raises SettingsError where no folder can be made, StoreUnavailable while
    the disk is full or a file cannot be used; every file is then as it was, for the next one who opens.
    """

    def __init__(self, folder: Path | None, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # No lock: a signal handler that interrupts whoever holds it could not write its records any more.
        self._reserved = 0  # bytes, only ever added to, by those who put
        self._written = 0  # bytes of puts that have ended, by the spool's thread
        self._lanes: dict[
            int, TopicPartition
        ] = {}  # by number; who puts, takes or removes sees it change in the step in which they are told
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._refused = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._path: Path | None = None
        self._lock_file: int | None = None
        with contextlib.ExitStack() as undo:
            if folder is not None:
                self._path, self._lock_file = claim_new(folder)
                undo.callback(self._let_go)
            try:
                self._connection = undo.enter_context(contextlib.closing(connect(self._path)))
                self._connection.executescript(_SCHEMA)
                if folder is not None:
                    self._adopt_all(folder)
            except sqlite3.Error as error:
                raise StoreUnavailable(f"spool {self._path}", advised(error, "the file is damaged; look at the disk")) from error
            undo.pop_all()
        _release_in_children(self)
        self._thread = threading.Thread(target=self._work, name="tallyroll-spool", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        return len(self._lanes)

    @property
    def refused(self) -> int:
        return self._refused

    @property
    def size_bytes(self) -> int:
        """About how much the waiting records take."""
        return self._bytes

    def has_room(self, size_bytes: int) -> bool:
        return self._bytes + self._reserved - self._written + size_bytes <= self._max_bytes

    def lanes(self) -> Mapping[TopicPartition, int]:
        return Counter(list(self._lanes.values()))

    async def put(self, records: Sequence[Encoded]) -> Sequence[int]:
        size = self._reserve(records)
        if size is None:
            raise Backpressure("the spool", f"{self._max_bytes} bytes")
        return await self._run(
            lambda: self._insert(records),
            lambda numbers: self._account(size, numbers, records),
            lambda: self._account(size, (), ()),
            told=lambda numbers: self._note(numbers, records),
        )

    async def take(self, lane: TopicPartition, limit: int) -> Sequence[Spooled]:
        sql = f"SELECT number, {_COLUMNS} FROM record WHERE topic = ? AND partition = ? AND refused IS NULL ORDER BY number LIMIT ?"  # noqa: S608  # constant columns
        rows = await self._run(lambda: self._connection.execute(sql, (*lane, limit)).fetchall())
        return [Spooled(row[0], _record(row[1:])) for row in rows]

    async def remove(self, numbers: Sequence[int]) -> None:
        rows = [(number,) for number in numbers]
        await self._run(
            lambda: self._connection.executemany("DELETE FROM record WHERE number = ?", rows),
            lambda _: self._forget(numbers),
            told=lambda _: self._strike(numbers),
        )

    async def refuse(self, refusals: Mapping[int, str]) -> None:
        rows = [(reason, number) for number, reason in refusals.items()]

        def set_aside(_: object) -> None:
            self._forget(list(refusals))
            self._refused += len(refusals)

        await self._run(
            lambda: self._connection.executemany("UPDATE record SET refused = ? WHERE number = ?", rows),
            set_aside,
            told=lambda _: self._strike([*refusals]),
        )

    def put_now(self, records: Sequence[Encoded], timeout_s: float) -> bool:
        size = self._reserve(records)
        if size is None:
            return False
        done = threading.Event()
        failed: list[BaseException] = []

        def finish(numbers: list[int] | None, error: BaseException | None) -> None:
            self._account(size, numbers or (), records if numbers else ())
            self._note(numbers or (), records if numbers else ())
            if error is not None:
                failed.append(error)
            done.set()

        self._jobs.put(_Job(lambda: self._insert(records), finish))
        return done.wait(timeout_s) and not failed

    async def close(self) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()
        self._let_go()

    def _let_go(self) -> None:
        """The file is anybody's now, and gone if nothing is left in it."""
        empty = self.depth == 0 and self._refused == 0
        lock_file, self._lock_file = self._lock_file, None  # its number may soon be another file's
        if self._path is not None and lock_file is not None:
            if empty:
                delete(self._path)
            os.close(lock_file)

    def _reserve(self, records: Sequence[Encoded]) -> int | None:
        """Their size, counted at once, so that concurrent puts cannot exceed the bound together; None without room."""
        size = sum(map(_size, records))
        if not self.has_room(size):
            return None
        self._reserved += size
        return size

    async def _run(
        self,
        work: Callable[[], T],
        then: Callable[[T], object] = _nothing,
        otherwise: Callable[[], object] = _nothing,
        *,
        told: Callable[[T], object] = _nothing,
    ) -> T:
        """What ``work`` gives, done by the spool's thread, which also counts what came of it: ``then`` or ``otherwise``.

        ``told`` is called in the event loop, right before whoever waits goes on, so that nobody sees one without the other.
        All of them are called whether or not anybody still waits.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        # Callbacks of a future run in the order in which they were added: the next one is that of the task that waits.
        future.add_done_callback(lambda done: None if done.cancelled() or done.exception() else told(done.result()))

        def settle(result: T, error: BaseException | None) -> None:
            if future.done():  # whoever waited was cancelled
                if error is None:
                    told(result)
            elif error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def finish(result: T, error: BaseException | None) -> None:
            if error is None:
                then(result)
            else:
                otherwise()
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:  # the loop is gone, and with it whoever waited
                if error is None:
                    told(result)

        self._jobs.put(_Job(work, finish))
        return await future

    def _note(self, numbers: Sequence[int], records: Sequence[Encoded]) -> None:
        self._lanes.update((number, TopicPartition(one.topic, one.partition)) for number, one in zip(numbers, records, strict=True))

    def _strike(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._lanes.pop(number, None)

    # What follows runs in the spool's own thread, or before it starts.

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [job]
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP:
                    following = self._jobs.get_nowait()
                    if following is None:
                        self._jobs.put(None)
                        break
                    group.append(following)
            self._commit(group)

    def _commit(self, group: Sequence[_Job]) -> None:
        """One transaction for the whole group; if that fails, one for each, so that one bad job spoils no other."""
        try:
            results = self._transact([job.work for job in group])
        except Exception as error:  # noqa: BLE001  # the thread must live on, or every later put would wait for ever
            if len(group) > 1:
                for job in group:
                    self._commit([job])
                return
            group[0].finish(None, _translated(error))
            return
        for job, result in zip(group, results, strict=True):
            job.finish(result, None)

    def _transact(self, works: Sequence[Callable[[], Any]]) -> list[Any]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            results = [work() for work in works]
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        return results

    def _insert(self, records: Sequence[Encoded]) -> list[int]:
        sql = f"INSERT INTO record ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # constant columns
        execute = self._connection.execute
        return [
            int(execute(sql, (r.event_id, r.topic, r.partition, r.key, r.value, _pack(r.headers), r.timestamp_ms)).lastrowid or 0)
            for r in records
        ]

    def _adopt_all(self, folder: Path) -> None:
        with contextlib.ExitStack() as held:
            left = orphans(folder, self._path)
            for _, lock_file in left:
                held.callback(os.close, lock_file)
            for path, _ in left:
                self._adopt(path)

    def _adopt(self, path: Path) -> None:
        try:
            with contextlib.closing(connect(path)) as other:
                other.executescript(_SCHEMA)
                rows = other.execute(f"SELECT {_COLUMNS}, refused FROM record ORDER BY number").fetchall()  # noqa: S608  # constant columns
        except sqlite3.DatabaseError as error:
            if passes(error):  # what lies in it was accepted, and nothing new may overtake it
                raise
            aside = path.with_suffix(".damaged")
            for suffix in ("", "-wal", "-shm"):  # what can still be read of it may lie in the write-ahead log
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
            path.with_suffix(".lock").unlink(missing_ok=True)
            log.error("spool %s of a dead process is damaged (%s); kept as %s", path.name, type(error).__name__, aside.name)  # noqa: TRY400
            return
        records = [_record(row[:7]) for row in rows if row[7] is None]
        numbers = self._transact([lambda: self._insert(records), lambda: self._copy_refused([row for row in rows if row[7] is not None])])[
            0
        ]
        # A crash between the commit above and this leaves both files: the records go out twice under their ids.
        delete(path)
        self._account(0, numbers, records)
        self._note(numbers, records)
        if records:
            log.debug("took over %d records that a dead process had not delivered", len(records))

    def _account(self, reserved: int, numbers: Sequence[int], records: Sequence[Encoded]) -> None:
        """Counts the room of records that were written, in place of what was reserved for them."""
        self._written += reserved
        for number, record in zip(numbers, records, strict=True):
            self._sizes[number] = size = _size(record)
            self._bytes += size

    def _forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._bytes -= self._sizes.pop(number, 0)

    def _copy_refused(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._connection.executemany(f"INSERT INTO record ({_COLUMNS}, refused) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)  # noqa: S608
        self._refused += len(rows)


def _release_in_children(spool: SqliteSpool) -> None:
    """A forked child holds a copy of the lock: it must let go, or the file of a dead parent would never look orphaned."""
    reference = weakref.ref(spool)

    def after_fork() -> None:
        parent = reference()
        if parent is not None and parent._lock_file is not None:  # noqa: SLF001  # own class
            os.close(parent._lock_file)  # noqa: SLF001  # own class
            parent._lock_file = None  # noqa: SLF001  # own class

    os.register_at_fork(after_in_child=after_fork)


class _Job:
    __slots__ = ("finish", "work")

    def __init__(self, work: Callable[[], Any], finish: Callable[[Any, BaseException | None], None]) -> None:
        self.work = work
        self.finish = finish


def _size(record: Encoded) -> int:
    return len(record.key) + len(record.value) + _ROW_OVERHEAD


def _pack(headers: Sequence[tuple[str, bytes]]) -> bytes:
    return msgspec.msgpack.encode(headers)


_unpack: Final = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode


def _record(row: Sequence[Any]) -> Encoded:
    event_id, topic, partition, key, value, headers, timestamp_ms = row
    return Encoded(event_id, topic, partition, key, value, _unpack(headers), timestamp_ms)


def _translated(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    return Backpressure("the spool's disk", str(error.sqlite_errorname) if hasattr(error, "sqlite_errorname") else type(error).__name__)
