"""The ledger's store in one SQLite file (write-ahead log), shared by the processes of one host; or in memory."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tallyroll.adapters.sqlite import ledger_schema as schema
from tallyroll.adapters.sqlite.binding import ManyRows
from tallyroll.adapters.sqlite.ledger_schema import NUMBER, id_of, place_of
from tallyroll.adapters.sqlite.opened import opened
from tallyroll.adapters.sqlite.store_file import StoreFile
from tallyroll.errors import LedgerTampered, PositionConflict, Undecodable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import (
    LEDGER_META,
    LedgerAppend,
    LedgerCommit,
    LedgerFacts,
    LedgerIndexed,
    LedgerNote,
    LedgerRemoval,
    LedgerRow,
    LedgerTail,
    LedgerTip,
    LedgerWanted,
    TakeOut,
)

T = TypeVar("T")

_RECORDS: Final = ManyRows("record", ("id", "leaf", "raw"))
_FACTS: Final = ManyRows(
    "fact",
    (
        "id", "ts_us", "trait", "class", "day", "body", "parts", "sealed_us", "handles", "audit_id", "agent_id", "task_id",
        "workflow_id",
    ),
    optional=("topic", "log_partition", "log_offset"),
)  # fmt: skip
_HANDLES: Final = ManyRows("handle", ("handle", "id", "part"))
_NO_HANDLES: Final = bytearray()
_HASH: Final = 32
_RUN: Final = 1_024  # leaves of pruned records in one row


def holds_records(path: Path) -> bool:
    """Whether the ledger in that file has records; false where there is no file. Of one that cannot be read it is assumed. Blocks."""
    if not path.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM record LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return True


class SqliteLedgerStore:
    """A ``LedgerStore`` on SQLite. Make it with ``open``.

    Durability: each commit is synced (``synchronous = FULL``). What is removed is overwritten in the file (``secure_delete``),
    and the write-ahead log, which holds older pages, is emptied before ``remove`` and ``prune`` return.
    Commits run in a thread on a connection of their own; readers see the ledger before or after one.
    Not promised: use from several hosts or over a network file system, where file locks do not hold; nor that bytes which the
    file system gave back are overwritten on the medium.
    """

    def __init__(self, path: Path | None, take_out: TakeOut) -> None:
        self._file = StoreFile(path, schema.KIND)
        self._take_out = take_out
        self._traits: dict[schema.Trait, int] = {}

    @classmethod
    async def open(cls, path: Path | None, take_out: TakeOut) -> SqliteLedgerStore:
        """The store in that file, made with its folder if it is not there; None keeps it in memory. Raises StoreUnavailable.

        ``take_out`` knows how records are laid out: ``audit.ledger.layout.take_out``.
        """
        return await opened(partial(cls, path, take_out), cls._shut)

    # What is there

    async def progress(self, partitions: Sequence[TopicPartition] | None = None) -> Mapping[TopicPartition, int]:
        rows = await self._select(lambda connection: connection.execute("SELECT topic, partition, next FROM progress").fetchall())
        stored = {TopicPartition(topic, partition): following for topic, partition, following in rows}
        return stored if partitions is None else {one: stored[one] for one in partitions if one in stored}

    async def tails(self, *, ended: bool = False) -> Mapping[int, LedgerTail]:
        def select(connection: sqlite3.Connection) -> dict[int, LedgerTail]:
            tips: defaultdict[int, list[LedgerTip]] = defaultdict(list)
            chosen = "" if ended else " WHERE open"
            for partition, *tip in connection.execute(f"SELECT partition, writer, epoch, packed, open FROM tip{chosen}"):  # noqa: S608  # one of two
                tips[partition].append(_tip(tip))
            return {
                partition: LedgerTail(size, tuple(_hashes(peaks)), tips[partition], start)
                for partition, size, start, peaks in connection.execute("SELECT partition, size, start, peaks FROM tail")
            }

        return await self._select(select)

    def tip(self, partition: int, writer: bytes, epoch: int) -> LedgerTip | None:
        def select(connection: sqlite3.Connection) -> LedgerTip | None:
            found = connection.execute(
                "SELECT writer, epoch, packed, open FROM tip WHERE partition = ? AND writer = ? AND epoch = ?", (partition, writer, epoch)
            ).fetchone()
            return None if found is None else _tip(found)

        return self._file.read(select)

    def known(self, audit_ids: Sequence[str]) -> Mapping[str, LedgerRow]:
        wanted = (msgspec.json.encode(audit_ids).decode(),)
        if not self._file.ask(schema.KNOWN, wanted):  # the usual case, for each batch that is sealed
            return {}

        def select(connection: sqlite3.Connection) -> dict[str, LedgerRow]:
            found = connection.execute(f"{schema.KNOWN} ORDER BY fact.id DESC", wanted).fetchall()
            return {audit_id: schema.select_rows(connection, "fact.id = ?", [record_id])[0] for audit_id, record_id in found}

        return self._file.read(select)

    async def sizes(self) -> Mapping[int, int]:
        rows = await self._select(
            lambda connection: connection.execute("SELECT partition, size FROM tail WHERE partition != ?", (LEDGER_META,)).fetchall()
        )
        return dict(rows)

    async def rows(self, partition: int, start: int, limit: int) -> Sequence[LedgerRow]:
        bounds = _stretch(partition, start, limit)
        return await self._select(lambda connection: schema.select_rows(connection, schema.STRETCH, bounds))

    async def indexed(self, partition: int, start: int, limit: int) -> Sequence[LedgerIndexed]:
        bounds = _stretch(partition, start, limit)
        return await self._select(lambda connection: schema.select_indexed(connection, bounds))

    async def strays(self, limit: int) -> Sequence[tuple[int, int]]:
        return await self._select(lambda connection: schema.select_strays(connection, limit))

    async def find(
        self, wanted: LedgerWanted, *, limit: int, offset: int = 0, as_of: Mapping[int, int] | None = None
    ) -> tuple[int, Sequence[LedgerRow]]:
        def select(connection: sqlite3.Connection) -> tuple[int, list[LedgerRow]]:
            where, values = schema.conditions(connection, wanted, as_of)
            is_owned = (wanted.agent_id, wanted.task_id, wanted.workflow_id) != (None, None, None)
            return (schema.find_owned if is_owned else schema.find)(connection, where, values, limit, offset)

        return await self._select(select)

    async def entry(self, audit_id: str) -> LedgerRow | None:
        where = "audit_id = ? AND likely(audit_id > '') ORDER BY fact.id LIMIT 1"
        return next(iter(await self._select(lambda connection: schema.select_rows(connection, where, [audit_id]))), None)

    async def about(self, handles: Collection[bytes]) -> Sequence[tuple[int, int, int]]:
        def select(connection: sqlite3.Connection) -> list[tuple[int, int, int]]:
            found: set[tuple[int, int]] = set()
            for handle in handles:
                found.update(connection.execute("SELECT id, part FROM handle WHERE handle = ?", (handle,)))
            return [(*place_of(record_id), part) for record_id, part in sorted(found)]

        return await self._select(select)

    async def due(self, today: int, limit: int, *, after: tuple[int, int] = (-1, -1)) -> Sequence[tuple[LedgerRow, LedgerFacts]]:
        where = "kind = 0 AND body AND day < ? AND fact.id > ? ORDER BY fact.id LIMIT ?"
        return await self._select(lambda connection: schema.select_with_facts(connection, where, [today, _behind(after), limit]))

    async def overdue(
        self, before_us: Mapping[int, int], limit: int, *, after: tuple[int, int] = (-1, -1)
    ) -> Sequence[tuple[LedgerRow, LedgerFacts]]:
        if not before_us:
            return []
        classes = " OR ".join("(class = ? AND ts_us < ?)" for _ in before_us)
        where = f"kind = 0 AND parts AND ({classes}) AND fact.id > ? ORDER BY fact.id LIMIT ?"
        values = [value for pair in before_us.items() for value in pair]
        return await self._select(lambda connection: schema.select_with_facts(connection, where, [*values, _behind(after), limit]))

    async def nodes(self, partition: int, wanted: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        return await self._select(lambda connection: [_node(connection, partition, *place) for place in wanted])

    async def notes(self, partition: int, after: int = 0, limit: int = 1_000) -> Sequence[LedgerNote]:
        def select(connection: sqlite3.Connection) -> list[LedgerNote]:
            if partition == LEDGER_META:
                rows = connection.execute("SELECT size, text FROM note WHERE size > ? ORDER BY size LIMIT ?", (after, limit))
                return [LedgerNote(LEDGER_META, size, text) for size, text in rows]
            rows = connection.execute(
                "SELECT size, text FROM leaf WHERE partition = ? AND size > ? ORDER BY size LIMIT ?", (partition, after, limit)
            )
            return [LedgerNote(partition, size, text.encode()) for size, text in rows]

        return await self._select(select)

    async def leaves(self, start: int = 0) -> Sequence[str]:
        rows = await self._select(
            lambda connection: connection.execute("SELECT text FROM leaf WHERE number >= ? ORDER BY number", (start,)).fetchall()
        )
        return [text for (text,) in rows]

    # What changes

    async def commit(self, change: LedgerCommit) -> None:
        await asyncio.to_thread(self._commit, change)

    async def remove(self, removals: Sequence[LedgerRemoval]) -> int:
        return await asyncio.to_thread(self._remove, removals) if removals else 0

    async def prune(self, partition: int, size: int) -> None:
        await asyncio.to_thread(self._prune, partition, size)

    async def close(self) -> None:
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._file.close()

    async def _select(self, select: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._file.read, select)

    def _commit(self, change: LedgerCommit) -> None:
        with self._file.writing() as connection:
            for where, (expected, following) in change.positions.items():
                _advance(connection, where, expected, following)
            leaves = [note for note in change.notes if note.partition != LEDGER_META]
            for append in change.appends:
                grown = len(leaves) if append.partition == LEDGER_META else len(append.rows)
                _grow(connection, append, grown)
                if append.partition == LEDGER_META:
                    connection.executemany(
                        "INSERT INTO leaf (number, partition, size, text) VALUES (?, ?, ?, ?)",
                        [(append.size + at, note.partition, note.size, note.text.decode()) for at, note in enumerate(leaves)],
                    )
            traits = self._insert(connection, [append for append in change.appends if append.rows])
            connection.executemany(
                "INSERT OR REPLACE INTO note (size, text) VALUES (?, ?)",
                [(note.size, note.text) for note in change.notes if note.partition == LEDGER_META],
            )
        self._traits = traits

    def _insert(self, connection: sqlite3.Connection, appends: Sequence[LedgerAppend]) -> dict[schema.Trait, int]:
        """Inserts the records of all partitions, and what they are found by; gives the traits as they are known then.

        The rows are made as they are taken: lists of all of them would be the collector's to look through again and again.
        """
        topics = schema.topics_of(connection, {row.source.topic for append in appends for row in append.rows if row.source})
        traits = {**self._traits}
        named = [schema.traits_of(connection, append.facts, traits) for append in appends]
        _RECORDS.insert(connection, chain.from_iterable(map(_record_rows, appends)))
        _FACTS.insert(connection, chain.from_iterable(map(_fact_rows, appends, named, repeat(topics))))
        _HANDLES.insert(connection, chain.from_iterable(map(_handle_rows, appends)))
        return traits

    def _remove(self, removals: Sequence[LedgerRemoval]) -> int:
        wanted: defaultdict[int, list[int | None]] = defaultdict(list)
        for removal in removals:
            wanted[id_of(removal.partition, removal.number)].append(removal.part)
        removed = 0
        with self._file.writing() as connection:
            for record_id, parts in wanted.items():
                removed += self._take_out_of(connection, record_id, parts)
        self._file.fold()
        return removed

    def _take_out_of(self, connection: sqlite3.Connection, record_id: int, parts: Collection[int | None]) -> int:
        stored = connection.execute(
            "SELECT raw, handles, body, parts FROM record JOIN fact USING (id) WHERE id = ?", (record_id,)
        ).fetchone()
        if stored is None:
            return 0
        whole, handles, *known = stored
        try:
            raw, removed, body, left = self._take_out(whole, parts)
        except Undecodable as error:
            raise LedgerTampered("frame", *place_of(record_id), error.reason) from None
        if removed or known != [body, len(left)]:
            connection.execute("UPDATE record SET raw = ? WHERE id = ?", (raw, record_id))
            connection.execute("UPDATE fact SET body = ?, parts = ? WHERE id = ?", (body, len(left), record_id))
            connection.executemany(
                "DELETE FROM handle WHERE handle = ? AND id = ? AND part = ?",
                [
                    (handles[at : at + schema.HANDLE], record_id, at // schema.HANDLE)
                    for at in range(0, len(handles), schema.HANDLE)
                    if at // schema.HANDLE not in left
                ],
            )
        return removed

    def _prune(self, partition: int, size: int) -> None:
        first, end = id_of(partition, 0), id_of(partition, size)
        with self._file.writing() as connection:
            there = connection.execute("SELECT size, start FROM tail WHERE partition = ?", (partition,)).fetchone() or (0, 0)
            if not there[1] <= size <= there[0]:
                raise ValueError(f"{size} is not between {there[1]} and {there[0]}")
            leaves = connection.execute("SELECT leaf FROM record WHERE id >= ? AND id < ? ORDER BY id", (first, end))
            number = there[1]
            while some := leaves.fetchmany(_RUN):
                connection.execute("INSERT INTO node VALUES (?, 0, ?, ?)", (partition, number, b"".join(leaf for (leaf,) in some)))
                number += len(some)
            for table in ("record", "fact"):
                connection.execute(f"DELETE FROM {table} WHERE id >= ? AND id < ?", (first, end))  # noqa: S608  # one of two
            connection.execute("DELETE FROM handle WHERE id >= ? AND id < ?", (first, end))
            connection.execute("UPDATE tail SET start = ? WHERE partition = ?", (size, partition))
        self._file.fold()


def _advance(connection: sqlite3.Connection, where: TopicPartition, expected: int | None, following: int) -> None:
    stored = connection.execute("SELECT next FROM progress WHERE topic = ? AND partition = ?", where).fetchone()
    position = None if stored is None else stored[0]
    if position != expected:
        raise PositionConflict(str(where), stored=position, expected=expected)
    connection.execute("INSERT OR REPLACE INTO progress (topic, partition, next) VALUES (?, ?, ?)", (*where, following))


def _grow(connection: sqlite3.Connection, append: LedgerAppend, by: int) -> None:
    """Moves the end of a partition, its nodes and its tips; leaves are kept with their rows where there are rows."""
    partition, size = append.partition, append.size
    stored = connection.execute("SELECT size FROM tail WHERE partition = ?", (partition,)).fetchone()
    if (there := 0 if stored is None else stored[0]) != size:
        raise PositionConflict(f"ledger/{partition}", stored=there, expected=size)
    connection.execute(
        "INSERT INTO tail (partition, size, start, peaks) VALUES (?, ?, 0, ?) "
        "ON CONFLICT DO UPDATE SET size = excluded.size, peaks = excluded.peaks",
        (partition, size + by, b"".join(append.peaks)),
    )
    connection.executemany(
        "INSERT INTO node (partition, height, first, hashes) VALUES (?, ?, ?, ?)",
        [(partition, height, first, b"".join(hashes)) for height, first, hashes in append.nodes if height or not append.rows],
    )
    connection.executemany("INSERT OR REPLACE INTO tip VALUES (?, ?, ?, ?, ?)", [(partition, *tip) for tip in append.tips])


def _record_rows(append: LedgerAppend) -> Iterator[tuple[object, ...]]:
    leaves, raws = (map(bytearray, column) for column in ([row.leaf for row in append.rows], [row.raw for row in append.rows]))
    return zip(_ids(append), leaves, raws, strict=True)


def _fact_rows(append: LedgerAppend, traits: Sequence[int], topics: Mapping[str, int]) -> Iterator[tuple[object, ...]]:
    # Made by columns: a step of Python for each row took as long as handing it over.
    facts = append.facts
    sources = [row.source for row in append.rows]
    return zip(
        _ids(append), [one.ts_us for one in facts], traits, [one.retention_class for one in facts],
        [one.keep_until_day for one in facts], repeat(1, len(facts)), [len(one.handles) for one in facts],
        [row.sealed_at_us for row in append.rows],
        [bytearray().join(one.handles) if one.handles else _NO_HANDLES for one in facts],
        [one.audit_id for one in facts], [one.agent_id for one in facts], [one.task_id for one in facts],
        [one.workflow_id for one in facts], [topics[one.topic] if one else "" for one in sources],
        [one.partition if one else "" for one in sources], [one.offset if one else "" for one in sources], strict=True,
    )  # fmt: skip


def _ids(append: LedgerAppend) -> range:
    first = id_of(append.partition, append.size)
    return range(first, first + len(append.rows))


def _handle_rows(append: LedgerAppend) -> list[tuple[object, ...]]:
    named = [(number, one.handles) for number, one in enumerate(append.facts, id_of(append.partition, append.size)) if one.handles]
    return [(bytearray(handle), number, part) for number, handles in named for part, handle in enumerate(handles)]


def _node(connection: sqlite3.Connection, partition: int, height: int, number: int) -> bytes:
    found = None
    if height == 0 and partition != LEDGER_META:
        found = connection.execute("SELECT leaf FROM record WHERE id = ?", (id_of(partition, number),)).fetchone()
    if found is None:
        found = connection.execute(
            "SELECT substr(hashes, 1 + 32 * (? - first), 32) FROM node WHERE partition = ? AND height = ? AND first <= ? "
            "ORDER BY first DESC LIMIT 1",
            (number, partition, height, number),
        ).fetchone()
    if found is None or found[0] is None or len(found[0]) != _HASH:
        raise LookupError(f"node {number} of height {height} in ledger partition {partition}")
    return bytes(found[0])


def _tip(columns: Sequence[object]) -> LedgerTip:
    writer, epoch, packed, is_open = columns
    assert isinstance(writer, bytes) and isinstance(epoch, int) and isinstance(packed, bytes)  # noqa: S101, PT018  # as the tables say
    return LedgerTip(writer, epoch, packed, bool(is_open))


def _hashes(joined: bytes) -> list[bytes]:
    return [joined[at : at + _HASH] for at in range(0, len(joined), _HASH)]


def _stretch(partition: int, start: int, limit: int) -> list[int]:
    return [id_of(partition, start), id_of(partition, NUMBER), limit]


def _behind(after: tuple[int, int]) -> int:
    return -1 if after[0] < 0 else id_of(*after)
