"""What every store in one SQLite file needs: recognising the file, one writer beside a reader, and errors as ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from tallyroll.adapters.sqlite.folding import MOST_BYTES, Folding
from tallyroll.adapters.sqlite.schema import advised, check_process, enter_wal, is_damage, transaction
from tallyroll.errors import StoreDamaged, StoreUnavailable

log: Final = logging.getLogger("tallyroll.sqlite")

T = TypeVar("T")
S = TypeVar("S")

LOCK_TIMEOUT_S: Final = 10.0
"""How long a writer waits for the others of its process, and then for those of other processes; a commit takes well below a second."""

_RETRY_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class FileKind:
    """What tells one kind of store from others: how it is called, the mark in its files, and its tables.

    ``private``: nobody but its owner may read a file that is made, nor the folder if that is made for it. Pages of
    ``page_bytes``. ``synchronous`` FULL makes each commit outlive a crash of the machine. ``erasing``: what is deleted is
    overwritten. ``remedy`` says what to do about a file that cannot be read. ``upgrades`` holds, by version, the statements
    that make a file of it one of the next version.
    """

    name: str
    application_id: int
    version: int
    tables: str
    cache_kib: int
    page_bytes: int = 4_096
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    erasing: bool = False
    private: bool = False
    remedy: str = "move it away, it can be made anew from the log"
    upgrades: Mapping[int, str] = field(default_factory=dict)


class StoreFile:
    """One SQLite file (write-ahead log), or a database in memory: a connection that writes, and one that reads beside it.

    Folding the log into the file waits for the disk; a thread does it now and then, and nobody who reads or commits waits for it.
    A writer waits ``lock_timeout_s`` at most for others of this process, and again for those of other processes.
    Durability: a commit survives the end of the process; with ``synchronous`` NORMAL a crash of the machine may take the
    newest commits back, each as a whole. Every method blocks. Raises StoreUnavailable for whatever SQLite refuses.
    A forked child must not use it, and is told so.
    Not promised: use from several hosts or over a network file system, where file locks do not hold.
    """

    def __init__(self, path: Path | None, kind: FileKind, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self._pid = os.getpid()
        self._kind = kind
        self._lock_timeout_s = lock_timeout_s
        self._name = f"{kind.name} in memory" if path is None else str(path)
        self._closed = False
        with self._translated():
            self._writer = _connect(path, kind, lock_timeout_s)
            try:
                _create(self._writer, self._name, kind, lock_timeout_s)
                # In memory there is one connection; its lock makes readers wait for a commit.
                self._reader = self._writer if path is None else _connect(path, kind, lock_timeout_s)
            except BaseException:
                self._writer.close()
                raise
        self._write_lock = threading.Lock()
        self._read_lock = self._write_lock if path is None else threading.Lock()
        self._path = path or Path()
        self._wal = None if path is None else path.with_name(f"{path.name}-wal")
        self._wal_bytes = 0
        self._folding = Folding(partial(_beside, path)) if path is not None else None

    def read(self, select: Callable[[sqlite3.Connection], T]) -> T:
        """What ``select`` finds, of one moment."""
        check_process(self._pid, self._name)
        with self._read_lock, self._translated(), transaction(self._reader, "DEFERRED"):
            return select(self._reader)

    def ask(self, statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        """What one statement finds; it is of one moment by itself, and costs a third of a transaction."""
        check_process(self._pid, self._name)
        with self._read_lock, self._translated():
            found: list[tuple[Any, ...]] = self._reader.execute(statement, parameters).fetchall()
            return found

    def frozen(self) -> FrozenFile:
        """What is committed now, to be read whatever is committed later; close it soon, since the log cannot be emptied before."""
        check_process(self._pid, self._name)
        with self._translated():
            if self._reader is not self._writer:
                return FrozenFile(self._name, _beside(self._path), self._translated)
            copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            with self._read_lock:
                self._reader.backup(copy)
            return FrozenFile(self._name, contextlib.closing(copy), self._translated)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; it is committed when the block ends, and undone when the block raises."""
        check_process(self._pid, self._name)
        if not self._write_lock.acquire(timeout=self._lock_timeout_s):
            raise StoreUnavailable(self._name, "others who write to it wait for it already")
        try:
            with self._translated():
                with transaction(self._writer, "IMMEDIATE"):
                    yield self._writer
                self._tell_folding()
        finally:
            self._write_lock.release()

    def fold(self) -> None:
        """Folds the write-ahead log into the file and empties it, so that it holds nothing that was deleted.

        Waits for those who read it, and lets others commit and read meanwhile.
        """
        check_process(self._pid, self._name)
        if self._reader is self._writer:
            return
        deadline = time.monotonic() + self._lock_timeout_s
        while not self._folded():
            if time.monotonic() > deadline:
                raise StoreUnavailable(self._name, "somebody reads what was deleted and does not end")
            time.sleep(_RETRY_S)

    def _folded(self) -> bool:
        """One try, which waits for nobody outside: SQLite would keep every writer out for as long as it waits."""
        with self._write_lock, self._read_lock, self._translated():
            [[patience_ms]] = self._writer.execute("PRAGMA busy_timeout")
            self._writer.execute("PRAGMA busy_timeout = 0")
            try:
                [[busy, _, _]] = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self._writer.execute(f"PRAGMA busy_timeout = {patience_ms}")
            return not busy

    def close(self) -> None:
        """Waits for what is running, and closes. Safe to call twice. In a forked child it leaves the parent's file alone."""
        if os.getpid() != self._pid:
            return
        with self._write_lock:
            if self._closed:
                return
            self._closed = True
            if self._folding is not None:
                self._folding.close()
            if self._reader is not self._writer:
                with self._read_lock:
                    self._reader.close()
            self._writer.close()

    def _tell_folding(self) -> None:
        if self._folding is None or self._wal is None:
            return
        with contextlib.suppress(OSError):  # what is committed is committed; whatever became of the file, the next commit tells
            before, self._wal_bytes = self._wal_bytes, self._wal.stat().st_size
            grown = self._wal_bytes - before
            self._folding.committed(grown if grown >= 0 else self._wal_bytes, lambda: contextlib.nullcontext(self._writer))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if self._closed:
                raise StoreUnavailable(self._name, "it is closed") from error
            reason = advised(error, f"the file is damaged, or no {self._kind.name}; {self._kind.remedy}")
            if is_damage(error):
                raise StoreDamaged(self._name, reason) from error
            raise StoreUnavailable(self._name, reason) from error


class FrozenFile:
    """A store as it was at one moment; only for reading. Every method blocks."""

    def __init__(
        self, name: str, opened: contextlib.closing[sqlite3.Connection], translated: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        self._name = name
        self._translated = translated
        self._lock = threading.Lock()
        with contextlib.ExitStack() as opening:
            self._connection = opening.enter_context(opened)
            opening.enter_context(transaction(self._connection, "DEFERRED"))
            self._connection.execute("SELECT count(*) FROM sqlite_schema")  # the moment is that of the first reading
            self._open = opening.pop_all()

    def read(self, select: Callable[[sqlite3.Connection], T]) -> T:
        """What ``select`` finds, of that moment."""
        with self._lock, self._translated():
            return select(self._connection)

    def frozen(self) -> FrozenFile:
        """The same moment cannot be had a second time. Raises StoreUnavailable."""
        raise self._refusal()

    def writing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Nothing can be written. Raises StoreUnavailable."""
        raise self._refusal()

    def close(self) -> None:
        """Lets go of the moment. Safe to call twice."""
        with self._lock:
            self._open.close()

    def _refusal(self) -> StoreUnavailable:
        return StoreUnavailable(self._name, "it is open as it was at one moment, for reading only")


@contextlib.asynccontextmanager
async def at_one_moment(file: StoreFile | FrozenFile, store_on: Callable[[FrozenFile], S]) -> AsyncIterator[S]:
    """A store on what a file holds now, whatever is committed meanwhile."""
    frozen = await asyncio.to_thread(file.frozen)
    try:
        yield store_on(frozen)
    finally:
        await asyncio.to_thread(frozen.close)


def _beside(path: Path) -> contextlib.closing[sqlite3.Connection]:
    """A connection to a file that is there; one that was removed meanwhile is not made anew."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False))


def _connect(path: Path | None, kind: FileKind, lock_timeout_s: float) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(mode=0o700 if kind.private else 0o777, parents=True, exist_ok=True)
        if kind.private:
            # SQLite gives the files beside it the same mode. One that is there must not be opened: closing it again would let go
            # of every lock that this process holds on it, and others would take its write-ahead log away.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        ":memory:" if path is None else path, isolation_level=None, check_same_thread=False, timeout=lock_timeout_s
    )
    connection.execute(f"PRAGMA page_size = {kind.page_bytes}")
    connection.execute(f"PRAGMA synchronous = {kind.synchronous}")
    if kind.erasing:
        connection.execute("PRAGMA secure_delete = ON")
    connection.execute(f"PRAGMA cache_size = -{kind.cache_kib}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {MOST_BYTES // kind.page_bytes}")
    connection.execute("PRAGMA journal_size_limit = 0")  # a log that begins anew is short, so its length tells what is to be folded
    return connection


def _create(connection: sqlite3.Connection, name: str, kind: FileKind, lock_timeout_s: float) -> None:
    enter_wal(connection, time.monotonic() + lock_timeout_s)
    with transaction(connection, "IMMEDIATE"):
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        blank = connection.execute("SELECT count(*) = 0 FROM sqlite_schema").fetchone()[0]
        if application_id == 0 and blank:
            _run(connection, kind.tables)
            connection.execute(f"PRAGMA application_id = {kind.application_id}")
            connection.execute(f"PRAGMA user_version = {kind.version}")
            return
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        while application_id == kind.application_id and version in kind.upgrades:
            log.warning("%s is brought from version %d to the next; of a large file that takes minutes", name, version)
            _run(connection, kind.upgrades[version])
            version += 1
            connection.execute(f"PRAGMA user_version = {version}")
        if application_id != kind.application_id or version != kind.version:
            raise StoreUnavailable(name, f"the file is no {kind.name} of this version; {kind.remedy}")


def _run(connection: sqlite3.Connection, statements: str) -> None:
    """One after the other, in the transaction that is open."""
    for statement in statements.split(";")[:-1]:
        connection.execute(statement)
