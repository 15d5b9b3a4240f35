"""The index of one partition's archive: its tables, and how a file is recognised, opened and read row by row."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from tallyroll.adapters.sqlite import archive_tail
from tallyroll.adapters.sqlite.schema import advised, enter_wal, transaction
from tallyroll.errors import StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import ArchivedFinding, ArchiveMark, Pruned, Run, Segment, Span, StoredPart

FILE_NAME: Final = "index.db"
_FORMAT: Final = 2
_OLDER: Final = 1  # it had the tail in columns
_APPLICATION_ID: Final = 0x74726178  # "trax": tells the file from other SQLite files
_LOCK_TIMEOUT_S: Final = 10.0  # another process's commit takes well below a second, also that of a seal
_PAGE_BYTES: Final = 16_384  # records of a kilobyte or so
_JOURNAL_LIMIT_BYTES: Final = 64 * 1024 * 1024  # what a checkpoint leaves of the write-ahead log

# The partition's own row holds JSON for what is only ever read as a whole. What the checkers know is large and changes only
# at a seal, so it has a table of its own: a row that every flush updates would be written anew with it.
_TABLES: Final = """
CREATE TABLE mark (
    one INTEGER PRIMARY KEY CHECK (one = 1), topic TEXT NOT NULL, partition INTEGER NOT NULL, first INTEGER NOT NULL,
    sealed INTEGER NOT NULL, next INTEGER NOT NULL, repeats BLOB NOT NULL, holes BLOB NOT NULL, last_us INTEGER,
    since_us INTEGER, tail_records INTEGER NOT NULL, tail_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE checks (one INTEGER PRIMARY KEY CHECK (one = 1), state BLOB NOT NULL) STRICT;
CREATE TABLE segment (
    base INTEGER PRIMARY KEY, name TEXT NOT NULL, next INTEGER NOT NULL, records INTEGER NOT NULL, first_us INTEGER,
    last_us INTEGER, raw_bytes INTEGER NOT NULL, file_bytes INTEGER NOT NULL, previous TEXT NOT NULL, digest TEXT NOT NULL,
    projection TEXT NOT NULL, reducers BLOB NOT NULL
) STRICT;
CREATE TABLE loc (
    key TEXT NOT NULL, base INTEGER NOT NULL, row INTEGER NOT NULL, rows INTEGER NOT NULL, first_offset INTEGER NOT NULL,
    last_offset INTEGER NOT NULL, first_us INTEGER, last_us INTEGER, PRIMARY KEY (key, base, row)
) STRICT, WITHOUT ROWID;
CREATE TABLE snap (
    view TEXT NOT NULL, owner TEXT NOT NULL, until INTEGER NOT NULL, reducer_id TEXT NOT NULL, order_us INTEGER NOT NULL,
    version INTEGER NOT NULL, part BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (view, owner, until)
) STRICT;
CREATE TABLE finding (
    at INTEGER NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, aggregate TEXT NOT NULL, missing INTEGER NOT NULL
) STRICT;
CREATE INDEX finding_at ON finding (at);
"""
# Made also in files that are older than it.
_ADDED: Final = f"""
CREATE TABLE IF NOT EXISTS pruned (
    one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL, kept INTEGER NOT NULL, last_us INTEGER, digest TEXT NOT NULL,
    reducers BLOB NOT NULL
) STRICT;
{archive_tail.TABLES}
"""

SEGMENT: Final = "name, base, next, records, first_us, last_us, raw_bytes, file_bytes, previous, digest, projection, reducers"
RUN: Final = "key, row, rows, first_offset, last_offset, first_us, last_us"
SNAP: Final = "view, owner, reducer_id, until, order_us, version, part, checksum"
FINDING: Final = "kind, at, reason, aggregate, missing"

_encode: Final = msgspec.json.Encoder().encode
_decode_holes: Final = msgspec.json.Decoder(list[Span]).decode
_decode_reducers: Final = msgspec.json.Decoder(tuple[str, ...]).decode
Columns = tuple[Any, ...]
"""One row as SQLite gives it."""


def connect(path: Path) -> sqlite3.Connection:
    """One more connection to a file that is made."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_LOCK_TIMEOUT_S)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT_BYTES}")
    return connection


def create(connection: sqlite3.Connection, name: str, partition: TopicPartition) -> None:
    """Makes the tables where there are none. Raises StoreUnavailable for a file that is not this partition's index."""
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    enter_wal(connection, time.monotonic() + _LOCK_TIMEOUT_S)
    with transaction(connection, "IMMEDIATE"):
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        blank = connection.execute("SELECT count(*) = 0 FROM sqlite_schema").fetchone()[0]
        if application_id == 0 and blank:
            for statement in _TABLES.split(";")[:-1]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            version = _FORMAT
        else:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if application_id != _APPLICATION_ID or version not in (_OLDER, _FORMAT):
                raise StoreUnavailable(name, "the file is no archive index of this version; run 'tallyroll archive rebuild'")
        for statement in _ADDED.split(";")[:-1]:
            connection.execute(statement)
        if version == _OLDER:
            archive_tail.move(connection)
        connection.execute(f"PRAGMA user_version = {_FORMAT}")
        stored = connection.execute("SELECT topic, partition FROM mark").fetchone()
        if stored is not None and TopicPartition(*stored) != partition:
            raise StoreUnavailable(name, f"it is the index of {TopicPartition(*stored)}; a folder was moved")


def made(path: Path, name: str, partition: TopicPartition) -> sqlite3.Connection:
    """The first connection to a file, which is made if it is not there. Raises as ``create``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = connect(path)
    try:
        create(connection, name, partition)
    except BaseException:
        connection.close()
        raise
    return connection


def is_made(connection: sqlite3.Connection, partition: TopicPartition) -> bool:
    """Whether ``create`` has nothing to do or to say; told without a lock, for who may only want to read."""
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != _APPLICATION_ID or connection.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
        return False
    stored = connection.execute("SELECT topic, partition FROM mark").fetchone()
    return stored is None or TopicPartition(*stored) == partition


def unavailable(name: str, error: Exception) -> StoreUnavailable:
    """SQLite's error as ours. Only SQLite's own code: its text may quote values."""
    damaged = "the index is damaged; run 'tallyroll archive rebuild'"
    unread = isinstance(error, msgspec.MsgspecError)
    return StoreUnavailable(name, f"{damaged} ({type(error).__name__})" if unread else advised(error, damaged))


@contextlib.contextmanager
def durable(connection: sqlite3.Connection) -> Any:  # noqa: ANN401  # a context manager
    """What is committed inside survives a crash of the machine."""
    connection.execute("PRAGMA synchronous = FULL")
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")


def read_mark(connection: sqlite3.Connection) -> ArchiveMark | None:
    """The partition's mark."""
    row = connection.execute(
        "SELECT first, sealed, next, repeats, holes, mark.last_us, coalesce(kept, 0), coalesce(reducers, x'5b5d'), pruned.last_us, "
        "coalesce(digest, '') FROM mark LEFT JOIN pruned USING (one)"
    ).fetchone()
    if row is None:
        return None
    first, sealed, following, repeats, holes, last_us, kept, reducers, kept_us, digest = row
    return ArchiveMark(
        first, sealed, following, repeats, tuple(_decode_holes(holes)), kept, _decode_reducers(reducers), last_us, kept_us, digest
    )


def pruned_row(pruned: Pruned) -> Columns:
    """What is kept of a pruning beside its snapshots."""
    return (1, pruned.name, pruned.kept, pruned.last_us, pruned.digest, _encode(list(pruned.reducers)))


def segment_row(segment: Segment) -> Columns:
    """A segment in the order of SEGMENT."""
    return (
        segment.name,
        segment.base,
        segment.next,
        segment.records,
        segment.first_us,
        segment.last_us,
        segment.raw_bytes,
        segment.file_bytes,
        segment.previous,
        segment.digest,
        segment.projection,
        _encode(segment.reducers),
    )


def segment_from(row: Columns) -> Segment:
    """What ``segment_row`` gave."""
    told: list[Any] = [*row[:-1], _decode_reducers(row[-1])]
    return Segment(*told)


def holes_row(holes: Any) -> bytes:  # noqa: ANN401  # spans
    """Holes as they are kept."""
    return _encode(holes)


def run_from(row: Columns) -> Run:
    """A run, selected as RUN."""
    return Run(*row)


def part_row(part: StoredPart) -> Columns:
    """A snapshot in the order of SNAP."""
    return (part.view, part.owner, part.reducer_id, part.end, part.order_us, part.version, part.part, part.checksum)


def part_from(row: Columns, partition: TopicPartition) -> StoredPart:
    """What ``part_row`` gave."""
    view, owner, reducer_id, end, order_us, version, part, checksum = row
    return StoredPart(view, owner, partition, reducer_id, end, order_us, version, part, checksum)


def finding_from(row: Columns) -> ArchivedFinding:
    """A finding, selected as FINDING."""
    return ArchivedFinding(*row)
