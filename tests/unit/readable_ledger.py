"""A ledger in memory with people in it, behind the port of ledger stores, for tests of what reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from tests.unit.ledgers import ORIGIN
from tests.unit.stored_ledger import House, StoredLedger

from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore
from tallyroll.audit.ledger import note
from tallyroll.audit.ledger.chain import Part
from tallyroll.audit.ledger.contents import SALT, env_of, part_text
from tallyroll.audit.ledger.facts import facts_of
from tallyroll.audit.ledger.layout import META, REGISTRY, Kind, PartType, pack_record, unpack_core
from tallyroll.audit.ledger.note import Checkpoint
from tallyroll.audit.ledger.subjects import part_about
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.events.position import Position, TopicPartition
from tallyroll.ports import LedgerAppend, LedgerCommit, LedgerIndexed, LedgerNote, LedgerRemoval, LedgerRow, LedgerTail, LedgerWanted
from tallyroll.testing.ledger import MemoryLedger


class ReadableStore(StoredLedger):
    """With finding, notes and the tree over all partitions."""

    async def tails(self, *, ended: bool = False) -> Mapping[int, LedgerTail]:
        size = self.ledger.meta.size
        return {**await super().tails(ended=ended), META: LedgerTail(size, tuple(self.ledger.meta.peaks(size)))}

    async def progress(self, partitions: Sequence[TopicPartition] | None = None) -> Mapping[TopicPartition, int]:
        sizes = {TopicPartition("audit-events", number): size for number, size in (await self.sizes()).items() if number != REGISTRY}
        return {one: size for one, size in sizes.items() if partitions is None or one in partitions}

    async def rows(self, partition: int, start: int, limit: int) -> Sequence[LedgerRow]:
        part = self.ledger.partitions[partition]
        numbers = range(max(start, part.start), min(len(part.records), start + limit))
        place = None if partition == REGISTRY else f"audit-events/{partition}"
        return [
            LedgerRow(partition, n, pack_record(part.records[n]), part.tree.node(0, n), 0, place and Position("audit-events", partition, n))
            for n in numbers
        ]

    async def indexed(self, partition: int, start: int, limit: int) -> Sequence[LedgerIndexed]:
        found = []
        for row in await self.rows(partition, start, limit):
            record = self.ledger.partitions[partition].records[row.number]
            there = frozenset(number for number, part in enumerate(record.parts) if part is not None)
            found.append(LedgerIndexed(row, facts_of(record, unpack_core(record.core)), there, record.env is not None, len(there)))
        return found

    async def strays(self, limit: int) -> Sequence[tuple[int, int]]:  # noqa: ARG002  # as the port says
        return []

    async def nodes(self, partition: int, wanted: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        tree = self.ledger.meta if partition == META else self.ledger.partitions[partition].tree
        return [tree.node(*place) for place in wanted]

    async def notes(self, partition: int, after: int = 0, limit: int = 1_000) -> Sequence[LedgerNote]:
        if partition != META:
            raise NotImplementedError
        made = [LedgerNote(META, Checkpoint.parse(one.text).size, one.packed()) for one in self.ledger.notes]
        return [one for one in made if one.size > after][:limit]

    async def leaves(self, start: int = 0) -> Sequence[str]:
        return self.ledger.leaves[start:]

    async def find(
        self, wanted: LedgerWanted, *, limit: int, offset: int = 0, as_of: Mapping[int, int] | None = None
    ) -> tuple[int, Sequence[LedgerRow]]:
        found = [
            (unpack_core(self.ledger.partitions[row.partition].records[row.number].core).ts_us, row)
            for partition in self.ledger.partitions
            for row in await self.rows(partition, 0, 1 << 30)
            if (as_of is None or row.number < as_of.get(partition, 0)) and self._matches(wanted, row)
        ]
        found.sort(key=lambda one: (one[0], one[1].partition, one[1].number), reverse=True)
        return len(found), [row for _, row in found[offset : offset + limit]]

    async def entry(self, audit_id: str) -> LedgerRow | None:
        for partition in self.ledger.partitions:
            for row in await self.rows(partition, 0, 1 << 30):
                env = self.ledger.partitions[partition].records[row.number].env
                if env is not None and json.loads(env).get("audit_id") == audit_id:
                    return row
        return None

    def _matches(self, wanted: LedgerWanted, row: LedgerRow) -> bool:
        record = self.ledger.partitions[row.partition].records[row.number]
        core = unpack_core(record.core)
        env = {} if record.env is None or core.kind != Kind.ENTRY else json.loads(record.env)
        names = ("agent_id", "task_id", "workflow_id", "event_type", "category", "severity", "outcome")
        return (
            wanted.kind in (None, core.kind)
            and (wanted.start_us is None or core.ts_us >= wanted.start_us)
            and (wanted.end_us is None or core.ts_us <= wanted.end_us)
            and all(getattr(wanted, name) in (None, env.get(name)) for name in names)
            and (wanted.framework is None or wanted.framework in env.get("compliance_frameworks", ()))
            and (wanted.handles is None or bool({mark.handle for mark in core.parts} & set(wanted.handles)))
        )


class Reading(House):
    """A house whose entries say who did what."""

    def __init__(self, folder: Path, **options: object) -> None:
        super().__init__(folder, **options)
        self.store = ReadableStore(self.ledger)
        self.origin = ORIGIN
        self.number = 0
        self.pause = 1.0

    def entry(
        self, user: str | None = "anna", *, subject: str | None = None, plain: bool = False, keep: dict | None = None, **fields: object
    ) -> str:
        """One entry; the user forms a part of their own, what it is about another. Returns its id."""
        self.number += 1
        audit_id = f"entry-{self.number:03}"
        clear = {
            "audit_id": audit_id, "event_type": "file.read", "category": "data_access", "severity": "info", "action": "read",
            "outcome": "success", "agent_id": "agent-1", "rule_set": "1", **fields,
        }  # fmt: skip
        text = {"payload": {"customer": subject or "nobody", "note": f"salary of {subject}"}, "description": f"about {subject}"}
        parts = []
        if user is not None:
            own = {"user_id": user, "source_ip": "203.0.113.9"}
            parts.append(self._plain(own) if plain else part_about(self.ring, part_text(own), [user]))
        parts.append(self._plain(text) if plain else part_about(self.ring, part_text(text), [subject] if subject else []))
        self.ledger.wait(self.pause)
        self.ledger.write(self.writer, 0, env_of(clear), *parts, **(keep or {}))
        return audit_id

    @property
    def keys(self) -> list[str]:
        return [str(self.ledger.key)]

    def _plain(self, fields: dict) -> Part:
        return Part(PartType.PLAIN, bytes(16), b"", bytes(SALT) + part_text(fields))


def parsed(raw: bytes) -> Checkpoint:
    return Checkpoint.parse(note.parse(raw).text)


async def put_into(store: SqliteLedgerStore, ledger: MemoryLedger) -> None:
    """Writes a whole ledger into an empty store, as a sealer would have."""
    for number, part in ledger.partitions.items():
        tree = CompactRange()
        leaves = [part.tree.node(0, at) for at in range(part.tree.size)]
        rows = [
            LedgerRow(number, at, pack_record(one), leaf, 0, None if number == REGISTRY else Position("audit-events", number, at))
            for at, (one, leaf) in enumerate(zip(part.records, leaves, strict=True))
        ]
        facts = [facts_of(one, unpack_core(one.core)) for one in part.records]
        nodes = tree.extend(leaves)
        tips = ReadableStore(ledger).tips(number, ended=True)
        stored = {} if number == REGISTRY else {TopicPartition("audit-events", number): (None, len(rows))}
        await store.commit(LedgerCommit([LedgerAppend(number, 0, rows, facts, nodes, tree.peaks, tips)], stored))
        gone = [LedgerRemoval(number, at) for at, one in enumerate(part.records) if one.env is None]
        gone += [LedgerRemoval(number, at, n) for at, one in enumerate(part.records) for n, body in enumerate(one.parts) if body is None]
        await store.remove(gone)
    tree = CompactRange()
    nodes = tree.extend([sha256(b"\0" + text.encode()).digest() for text in ledger.leaves])
    notes = [LedgerNote(int(one.origin.rpartition("/")[2]), one.size, one.text().encode()) for one in map(Checkpoint.parse, ledger.leaves)]
    signed = [LedgerNote(META, Checkpoint.parse(one.text).size, one.packed()) for one in ledger.notes]
    await store.commit(LedgerCommit([LedgerAppend(META, 0, [], [], nodes, tree.peaks)], notes=[*notes, *signed]))
