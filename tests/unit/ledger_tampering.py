"""A ledger in a SQLite store, and hands that write into its file: one value, one row, or two rows that change places.

Every tampering has to be found by a verification in place, and none may end it. What says nothing is left out, since a change of
it is none: which of two truths a number stands for, when a record was sealed by the sealer's clock, which partition a leaf of the
tree over all is of (its text says it), by what number a note is kept, older signed notes, where a record that is no entry came
from, what an entry was found by whose env was removed, and nodes below those that stand for what was pruned: a proof that needs one
is not given where it would not hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore
from tallyroll.audit.ledger.facts import facts_of
from tallyroll.audit.ledger.layout import META, REGISTRY, pack_record, take_out, unpack_core
from tallyroll.audit.ledger.note import Checker, Checkpoint
from tallyroll.audit.ledger.partition import pack_tip, tips_after
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.audit.reading.integrity import Integrity, Trusted, Verification
from tallyroll.errors import KeyGone
from tallyroll.events.position import Position, TopicPartition
from tallyroll.ports import KeyRing, LedgerAppend, LedgerCommit, LedgerNote, LedgerRemoval, LedgerRow
from tallyroll.testing.clock import FakeClock
from tallyroll.testing.ledger import MemoryLedger

TOPIC: Final = "audit-events"

_KEYS: Final[Mapping[str, Sequence[str]]] = {
    "record": ("id",), "fact": ("id",), "trait": ("number",), "handle": ("handle", "id", "part"), "topic": ("number",),
    "node": ("partition", "height", "first"), "tail": ("partition",), "tip": ("partition", "writer", "epoch"),
    "progress": ("topic", "partition"), "leaf": ("number",), "note": ("size",),
}  # fmt: skip
_SAYS_NOTHING: Final = {("fact", "sealed_us"), ("fact", "topic"), ("leaf", "partition"), ("leaf", "size"), ("note", "size")}
_OF_ENV: Final = ("audit_id", "agent_id", "task_id", "workflow_id", "trait")
_TRUTHS: Final = {("fact", "body"), ("tip", "open")}
_BIG: Final = 1 << 62


class Tampering(NamedTuple):
    """Statements that somebody runs on the file, and what that is."""

    statements: tuple[tuple[str, tuple[object, ...]], ...]
    what: str

    def do(self, path: Path) -> bool:
        """Whether the file has let it be done; a key that is there already, or a type of another kind, does not."""
        connection = sqlite3.connect(path)
        try:
            with connection:
                return all([connection.execute(text, values).rowcount > 0 for text, values in self.statements])  # noqa: C419  # each is to run
        except sqlite3.Error:
            return False
        finally:
            connection.close()


class _MacKeys:
    """The first MAC keys of a ledger in memory, as a ring gives them."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._k0 = ledger.k0

    def missing(self, handles: Collection[bytes]) -> Sequence[bytes]:  # noqa: ARG002  # as the port says
        return []

    def k0(self, writer: bytes, epoch: int) -> bytes:
        if (writer, epoch) not in self._k0:
            raise KeyGone(writer)
        return self._k0[writer, epoch]


async def store_in(path: Path | None, ledger: MemoryLedger) -> SqliteLedgerStore:
    """A ledger as a sealer would have stored it; of every partition but the registry all came from ``TOPIC``."""
    store = await SqliteLedgerStore.open(path, take_out)
    for number, part in ledger.partitions.items():
        tree = CompactRange()
        leaves = [part.tree.node(0, at) for at in range(part.tree.size)]
        places = [None if number == REGISTRY else Position(TOPIC, number, at) for at in range(len(leaves))]
        rows = [
            LedgerRow(number, at, pack_record(one), leaf, 0, place)
            for at, (one, leaf, place) in enumerate(zip(part.records, leaves, places, strict=True))
        ]
        facts = [facts_of(one, unpack_core(one.core)) for one in part.records]
        tips = [pack_tip(*one) for one in tips_after({}, [one.core for one in part.records]).items()]
        taken = {} if number == REGISTRY else {TopicPartition(TOPIC, number): (None, len(rows))}
        await store.commit(LedgerCommit([LedgerAppend(number, 0, rows, facts, tree.extend(leaves), tree.peaks, tips)], taken))
        gone = [LedgerRemoval(number, at) for at, one in enumerate(part.records) if one.env is None]
        gone += [LedgerRemoval(number, at, n) for at, one in enumerate(part.records) for n, body in enumerate(one.parts) if body is None]
        await store.remove(gone)
        if part.start:
            await store.prune(number, part.start)
    tree = CompactRange()
    nodes = tree.extend([sha256(b"\0" + text.encode()).digest() for text in ledger.leaves])
    notes = [LedgerNote(int(one.origin.rpartition("/")[2]), one.size, one.text().encode()) for one in map(Checkpoint.parse, ledger.leaves)]
    signed = [LedgerNote(META, Checkpoint.parse(one.text).size, one.packed()) for one in ledger.notes]
    await store.commit(LedgerCommit([LedgerAppend(META, 0, [], [], nodes, tree.peaks)], notes=[*notes, *signed]))
    return store


async def verified_in(path: Path, ledger: MemoryLedger, check: Checker) -> Integrity:
    """What a verification in place says of the store in that file, which was made of that ledger."""
    store = await SqliteLedgerStore.open(path, take_out)
    ring: KeyRing = _MacKeys(ledger)  # type: ignore[assignment]  # nothing else of it is asked
    clock = FakeClock()
    clock.advance((ledger.now_us - clock.now_us()) / 1_000_000)
    trusted = Trusted((str(ledger.key),), tuple(str(one.key) for one in ledger.witnesses))

    async def log_spans() -> Mapping[TopicPartition, tuple[int, int]]:
        return {TopicPartition(TOPIC, number): (0, len(part.records)) for number, part in ledger.partitions.items()}

    try:
        verification = Verification(store, ring, trusted, check, clock=clock, checkpoint=store.sizes, log_spans=log_spans)
        return await verification.verify()
    finally:
        await store.close()


def tamperings(path: Path, seed: int) -> Iterator[Tampering]:
    """Endlessly many, each for the untouched file; repeatable by the seed."""
    draw = Random(seed)  # noqa: S311  # to be repeated, not to be kept secret
    connection = sqlite3.connect(path)
    tables = {}
    for table in _KEYS:
        columns = [str(name) for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
        rows = [dict(zip(columns, row, strict=True)) for row in connection.execute(f"SELECT * FROM {table}")]  # noqa: S608  # one of them
        tables[table] = [row for row in rows if not _is_older_note(table, row, rows)]
    connection.close()
    starts = {row["partition"]: row["start"] for row in tables["tail"]}
    tables["node"] = [row for row in tables["node"] if row["first"] >= starts[row["partition"]] >> row["height"]]
    while True:
        table = draw.choice([name for name, rows in tables.items() if rows])
        row = draw.choice(tables[table])
        change = draw.choice((_set, _set, _set, _remove, _swap))
        made = change(draw, table, row, tables[table])
        if made is not None:
            yield made


def _set(draw: Random, table: str, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Tampering | None:
    column = draw.choice(list(row))
    new = _other(draw, table, column, row[column])
    if (table, column) in _SAYS_NOTHING or new == row[column] or _is_without_place(table, column, row):
        return None
    if table == "leaf" and column == "number" and row is rows[-1]:
        return None  # it stays the last one
    return Tampering((_update(table, row, column, new),), f"set {table}.{column}")


def _remove(_: Random, table: str, row: Mapping[str, Any], __: Sequence[Mapping[str, Any]]) -> Tampering | None:
    where, values = _where(table, row)
    return Tampering(((f"DELETE FROM {table} WHERE {where}", values),), f"delete {table}")  # noqa: S608  # one of the tables


def _swap(draw: Random, table: str, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Tampering | None:
    other, free = draw.choice(rows), [name for name in row if name not in _KEYS[table]]
    if not free:
        return None
    column = draw.choice(free)
    if row[column] == other[column] or (table, column) in _SAYS_NOTHING:
        return None
    if _is_without_place(table, column, row) or _is_without_place(table, column, other):
        return None
    return Tampering((_update(table, row, column, other[column]), _update(table, other, column, row[column])), f"swap {table}.{column}")


def _other(draw: Random, table: str, column: str, value: object) -> object:
    if (table, column) in _TRUTHS:
        return int(not value)
    if (table, column) == ("fact", "log_offset"):
        return draw.choice((-1, _BIG))  # that of a neighbour may be right: a record and what was found about it share one
    if isinstance(value, bytes):
        changed = bytearray(value or b"\0")
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return draw.choice((bytes(changed), bytes(changed), value[:-1], b"", bytes(len(value))))
    if isinstance(value, int):
        return draw.choice((value + 1, value - 1, 0, -1, _BIG))
    if column == "frameworks":
        return draw.choice(('["another"]', '["gdpr","sox"]'))
    return draw.choice((f"{value}x", "another", "" if value else "some"))


def _is_without_place(table: str, column: str, row: Mapping[str, Any]) -> bool:
    """Whether the record itself cannot say what it is: it came with nothing of the log, or its env was removed."""
    if table != "fact":
        return False
    return (column in ("log_partition", "log_offset") and row["topic"] is None) or (column in _OF_ENV and not row["body"])


def _is_older_note(table: str, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    return table == "note" and row["size"] != max(one["size"] for one in rows)


def _update(table: str, row: Mapping[str, Any], column: str, new: object) -> tuple[str, tuple[object, ...]]:
    where, values = _where(table, row)
    return f"UPDATE {table} SET {column} = ? WHERE {where}", (new, *values)  # noqa: S608  # one of the tables


def _where(table: str, row: Mapping[str, Any]) -> tuple[str, tuple[object, ...]]:
    return " AND ".join(f"{name} = ?" for name in _KEYS[table]), tuple(row[name] for name in _KEYS[table])
