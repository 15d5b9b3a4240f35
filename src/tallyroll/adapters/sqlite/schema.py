"""The database of the embedded log: its tables, how a file is recognised and opened, and what SQLite's errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from tallyroll.adapters.sqlite.folding import MOST_BYTES
from tallyroll.errors import LogUnavailable, StoreUnavailable, TopicConflict
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.settings import Synchronous

FILE_NAME: Final = "log.db"
APPLICATION_ID: Final = 0x74726F6C  # "trol"; tells our files from everybody else's
FORMAT: Final = 1

OFFSET_BITS: Final = 40  # 10^12 records a partition, and 8 million partitions a file, in one 63-bit number
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
_MAX_PARTITIONS: Final = 1 << (63 - OFFSET_BITS)

_PAGE_BYTES: Final = 8_192  # 20 % quicker than 4,096 for batches of 1,000 records; 16,384 gained nothing more
_JOURNAL_LIMIT_BYTES: Final = 64 * 1024 * 1024  # what a checkpoint leaves of a write-ahead log that a reader kept growing
_RETRY_S: Final = 0.01  # between two tries for a lock that SQLite does not wait for itself

# A block is a run of records of one partition, appended in one transaction; its position is partition number and first
# offset. Blocks lie in the order in which they came, and an index finds them: with the position as the row id a commit into
# eight partitions, of a few records each, changed twice as many pages, since each block came into the middle of the table
# (files that were made so are used as they are). high_ms is the highest record timestamp of the partition up to and with
# the block: it never falls, so that a moment is found by bisection.
_TABLES: Final = """
CREATE TABLE partitions (
    number INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0, next_offset INTEGER NOT NULL DEFAULT 0, high_ms INTEGER NOT NULL DEFAULT -1,
    UNIQUE (topic, partition)
) STRICT;
CREATE TABLE blocks (
    position INTEGER NOT NULL UNIQUE, count INTEGER NOT NULL, high_ms INTEGER NOT NULL, checksum INTEGER NOT NULL, payload BLOB NOT NULL
) STRICT;
CREATE TABLE commits (
    group_name TEXT NOT NULL, number INTEGER NOT NULL, next_offset INTEGER NOT NULL, PRIMARY KEY (group_name, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE groups (name TEXT PRIMARY KEY, generation INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE members (
    group_name TEXT NOT NULL, member TEXT NOT NULL, topics TEXT NOT NULL, renewed_us INTEGER NOT NULL, lease_us INTEGER NOT NULL,
    PRIMARY KEY (group_name, member)
) STRICT, WITHOUT ROWID;
CREATE TABLE claims (
    group_name TEXT NOT NULL, number INTEGER NOT NULL, member TEXT NOT NULL, PRIMARY KEY (group_name, number)
) STRICT, WITHOUT ROWID;
"""

_ADVICE: Final = {
    "SQLITE_BUSY": "another process held the lock for too long; try again, and look for a process that hangs",
    "SQLITE_LOCKED": "another process held the lock for too long; try again, and look for a process that hangs",
    "SQLITE_FULL": "the disk is full; free some space, nothing was written",
    "SQLITE_READONLY": "the file or its folder is read-only; mend the permissions",
    "SQLITE_CANTOPEN": "it cannot be opened; check that the folder is there and writable",
    "SQLITE_PERM": "it cannot be opened; mend the permissions",
    "SQLITE_IOERR_SHMSIZE": "the disk is full; free some space, nothing was written",
    "SQLITE_IOERR": "the disk failed to read or write; check the machine's disk",
    "SQLITE_PROTOCOL": "locks do not work there; a network file system cannot hold it",
}
_UNREADABLE: Final = ("Could not decode to UTF-8", "user-defined")  # what Python's sqlite3 says, which has no name for it
_DAMAGED: Final = "the file is damaged; move log.db aside with its -wal and -shm files, restore a copy, keep the damaged one"
_FOREIGN: Final = "the file is not a log of tallyroll, or is damaged; choose another folder, or restore a copy"


def check_process(pid: int, what: str) -> None:
    """Raises StoreUnavailable in a forked child of the process that opened a file: SQLite must not be used there, nor waited for."""
    if os.getpid() != pid:
        raise StoreUnavailable(what, "it was opened before a fork; open a roll in this process")


def where(path: Path | None) -> str:
    """How messages call the log."""
    return "sqlite://:memory:" if path is None else str(path)


def unavailable(what: str, error: sqlite3.Error) -> LogUnavailable:
    """SQLite's error as ours, with what to do about it. Quotes nothing that SQLite says of values."""
    return LogUnavailable(what, advised(error, _DAMAGED, _FOREIGN))


def advised(error: Exception, damaged: str, foreign: str = "") -> str:
    """Why a file cannot be used and what to do; ``damaged``, or ``foreign``, is said of one that cannot be read. Quotes no values."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    if is_damage(error):
        return f"{foreign or damaged if name.startswith('SQLITE_NOTADB') else damaged} ({name})"
    advice = _ADVICE.get(name) or _ADVICE.get("_".join(name.split("_")[:2]), "it cannot be used now")
    return f"{advice} ({name})"


def is_damage(error: Exception) -> bool:
    """Whether the file is not what was written: SQLite cannot read it, or a value in it is no text, or nothing a function of ours reads."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or (
        isinstance(error, sqlite3.OperationalError) and str(error).startswith(_UNREADABLE)
    )


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns what SQLite raises inside into LogUnavailable."""
    try:
        yield
    except sqlite3.Error as error:
        raise unavailable(what, error) from error


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[None]:
    """Commits on the way out, rolls back on an error. DEFERRED gives readers one snapshot and takes no lock from writers."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself; the first error is the one to tell
            connection.execute("ROLLBACK")
        raise


def connect(path: Path | None, *, synchronous: Synchronous, lock_timeout_ms: int) -> sqlite3.Connection:
    """One more connection to a database that ``create`` has prepared, or to a new one in memory."""
    connection = sqlite3.connect(
        ":memory:" if path is None else path, isolation_level=None, check_same_thread=False, timeout=lock_timeout_ms / 1000
    )
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {MOST_BYTES // _PAGE_BYTES}")
    connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT_BYTES}")
    return connection


def create(connection: sqlite3.Connection, path: Path | None, catalogue: Catalogue, *, lock_timeout_ms: int) -> dict[TopicPartition, int]:
    """Makes the tables where there are none, adds the catalogue's missing topics, and gives the number of each partition.

    A file that is not ours is left as it is. Raises LogUnavailable for such a file, TopicConflict when a topic of the file
    has another partition count than the catalogue says.
    """
    _recognise(connection, path)
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    if path is not None and enter_wal(connection, time.monotonic() + lock_timeout_ms / 1000) != "wal":
        raise LogUnavailable(where(path), "the file system cannot share memory between processes (WAL); use a local disk")
    with transaction(connection):
        if _is_blank(connection):  # asked again under the lock: another process may have been quicker
            for statement in _TABLES.split(";")[:-1]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        return _partition_numbers(connection, catalogue)


def _is_blank(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) = 0 FROM sqlite_schema").fetchone()[0])


def _recognise(connection: sqlite3.Connection, path: Path | None) -> None:
    with transaction(connection, "DEFERRED"):  # of one moment: another process may be making the tables
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        blank = _is_blank(connection)
    if application_id != APPLICATION_ID:
        if application_id == 0 and blank:
            return
        raise LogUnavailable(where(path), "the file belongs to another program; choose another folder")
    if version > FORMAT:
        raise LogUnavailable(where(path), f"written in format {version} by a newer tallyroll, this one knows up to {FORMAT}; upgrade")


def enter_wal(connection: sqlite3.Connection, deadline: float) -> str:
    """Turns on the write-ahead log, and waits for others who do so, until the deadline; the mode that the file is in then.

    SQLite does not call its busy handler here, and several processes may open a new file at once.
    """
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)


def _partition_numbers(connection: sqlite3.Connection, catalogue: Catalogue) -> dict[TopicPartition, int]:
    stored = {TopicPartition(topic, partition): number for topic, partition, number in
              connection.execute("SELECT topic, partition, number FROM partitions")}  # fmt: skip
    numbers: dict[TopicPartition, int] = {}
    following = max(stored.values(), default=0) + 1
    for topic in catalogue.topics:
        count = sum(1 for known in stored if known.topic == topic.name)
        if count not in (0, topic.partitions):
            raise TopicConflict(topic.name, f"the log has {count} partitions, the catalogue {topic.partitions}; keys would move")
        for partition in range(topic.partitions):
            where_ = TopicPartition(topic.name, partition)
            if count == 0:
                if following >= _MAX_PARTITIONS:
                    raise TopicConflict(topic.name, f"the log holds {_MAX_PARTITIONS} partitions at the most")
                connection.execute("INSERT INTO partitions (number, topic, partition) VALUES (?, ?, ?)", (following, *where_))
                stored[where_] = following
                following += 1
            numbers[where_] = stored[where_]
    return numbers
