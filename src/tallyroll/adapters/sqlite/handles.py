"""What one process holds open of the log: connections and threads. A forked child makes its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from tallyroll.adapters.sqlite.folding import Folding
from tallyroll.adapters.sqlite.guarded import Guarded
from tallyroll.adapters.sqlite.retention import Retention
from tallyroll.adapters.sqlite.schema import FILE_NAME, connect, create, transaction, translated, where
from tallyroll.adapters.sqlite.tail import Tail, Watcher
from tallyroll.adapters.sqlite.writer import Limits, Writer
from tallyroll.errors import LogUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Clock
from tallyroll.settings import Synchronous

_CLOSE_S: Final = 10.0  # for what is queued at close; a disk that needs longer is broken

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """How the log is opened; see ``SqliteLog.open``."""

    folder: Path | None
    catalogue: Catalogue
    clock: Clock
    synchronous: Synchronous
    max_record_bytes: int
    max_queued_records: int
    max_queued_bytes: int
    session_timeout_ms: int
    lock_timeout_ms: int

    @property
    def path(self) -> Path | None:
        """The database file; None in memory."""
        return None if self.folder is None else self.folder / FILE_NAME


class Handles:
    """One writing connection with its thread, one for reading with another; in memory there is one for both.

    Opening blocks for some milliseconds. Raises LogUnavailable, TopicConflict.
    """

    def __init__(self, options: Options) -> None:
        self.pid = os.getpid()
        self.what = where(options.path)
        self.tail = Tail()
        self._options = options
        self._watcher: Watcher | None = None
        self._watcher_lock = threading.Lock()
        self._closed = False
        self._all: list[Guarded] = []
        _make_folder(options.folder, self.what)
        writing = self._guarded()
        with translated(self.what), writing.use() as connection:
            try:
                self.numbers: Mapping[TopicPartition, int] = create(
                    connection, options.path, options.catalogue, lock_timeout_ms=options.lock_timeout_ms
                )
                self.tail.refresh(connection)
            except BaseException:
                connection.close()
                raise
        self._reading = None if options.path is None else self._guarded()
        retention_ms = {self.numbers[TopicPartition(topic.name, partition)]: topic.retention_ms
                        for topic in options.catalogue.topics for partition in range(topic.partitions)}  # fmt: skip
        self.retention = Retention(retention_ms, options.clock)
        self.writer = Writer(
            self.what,
            writing,
            self.numbers,
            limits=Limits(
                record_bytes=options.max_record_bytes, queued_records=options.max_queued_records, queued_bytes=options.max_queued_bytes
            ),
            retention=self.retention,
            tail=self.tail,
            folding=None if options.path is None else Folding(partial(_for_once, self._guarded())),
        )
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tallyroll-sqlite-reader")

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` finds, off the event loop, in one snapshot. Raises LogUnavailable."""
        self._check_usable()

        def in_snapshot(connection: sqlite3.Connection) -> T:
            with transaction(connection, "DEFERRED"):
                return work(connection)

        if self._reading is None:
            return await asyncio.wrap_future(self.writer.call(in_snapshot, in_transaction=False))
        reading = self._reading

        def read() -> T:
            with reading.use() as connection:
                return in_snapshot(connection)

        with translated(self.what):
            return await asyncio.get_running_loop().run_in_executor(self._reader, read)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` gives, in one transaction, after everything appended before; durable when it returns."""
        self._check_usable()
        return await asyncio.wrap_future(self.writer.call(work, in_transaction=True))

    def watch(self) -> None:
        """From now on commits of other processes wake who waits on ``tail``."""
        if self._reading is None:
            return
        with self._watcher_lock:
            if self._watcher is None:
                self._watcher = Watcher(self._guarded(), self.tail)

    def close(self) -> None:
        """Writes what is queued and ends the threads; blocks up to ten seconds."""
        self._closed = True
        if self._watcher is not None:
            self._watcher.close()
        self._reader.shutdown()
        if self._reading is not None:
            self._reading.close()
        # Last, so that its connection is the one that folds the write-ahead log into the file.
        self.writer.stop(_CLOSE_S)

    @property
    def torn(self) -> bool:
        """In a forked child: whether the fork cut through a transaction of the parent, so that SQLite must not be used here."""
        return any(guarded.torn for guarded in self._all)

    def _guarded(self) -> Guarded:
        options = self._options

        def connection() -> sqlite3.Connection:
            return connect(options.path, synchronous=options.synchronous, lock_timeout_ms=options.lock_timeout_ms)

        guarded = Guarded(connection, keep=options.path is None)
        self._all.append(guarded)
        return guarded

    def _check_usable(self) -> None:
        if self._closed:
            raise LogUnavailable(self.what, "closed")
        if os.getpid() != self.pid:
            raise LogUnavailable(self.what, "opened before a fork; subscribe anew in this process")


@contextlib.contextmanager
def _for_once(guarded: Guarded) -> Iterator[sqlite3.Connection]:
    """Its connection, closed afterwards."""
    try:
        with guarded.use() as connection:
            yield connection
    finally:
        guarded.close()


def _make_folder(folder: Path | None, what: str) -> None:
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogUnavailable(what, f"the folder cannot be made ({error.strerror}); choose another, or mend the permissions") from error
