"""What every store of a ledger must do: the behaviour of ``ports.LedgerStore``, as cases that any adapter can run.

::

    async def test_my_store():
        for case in CASES:
            await case(open_my_store)

``open_my_store`` opens a store and is awaited. ``CASES`` open one, which must be empty. ``SHARED_CASES`` open several,
which must be one and the same store, as other processes would see it. A case raises AssertionError with the promise that
was broken, and closes what it opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from tallyroll.audit.ledger import tree
from tallyroll.audit.ledger.layout import META, REGISTRY, Record, leaf_hash, pack_core, pack_mark, pack_record, unpack_record
from tallyroll.audit.ledger.tree import CompactRange, Tree
from tallyroll.errors import PositionConflict
from tallyroll.events.position import Position, TopicPartition
from tallyroll.ports import (
    LedgerAppend,
    LedgerCommit,
    LedgerFacts,
    LedgerIndexed,
    LedgerNote,
    LedgerRemoval,
    LedgerRow,
    LedgerStore,
    LedgerTip,
    LedgerWanted,
)
from tallyroll.testing.contract import expect, expect_equal, opened, refused

__all__ = ["CASES", "SHARED_CASES", "Case", "OpenStore"]

OpenStore = Callable[[], Awaitable[LedgerStore]]
"""Opens the store under test."""

Case = Callable[[OpenStore], Awaitable[None]]

_LOG: Final = TopicPartition("contract.audit", 3)
_WRITER: Final = b"writer-of-tests."


class _Growing:
    """Makes appends to one partition: records with given facts, their leaves, and the nodes they complete."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.range = CompactRange()
        self.tree = Tree()
        self.leaves: list[bytes] = []

    def append(self, *facts: LedgerFacts, source: bool = True) -> LedgerAppend:
        size = self.range.size
        records = [_record(self.partition, size + at, one) for at, one in enumerate(facts)]
        leaves = [leaf_hash(record.core) for record in records]
        rows = [
            LedgerRow(
                self.partition, size + at, pack_record(record), leaf, 1_000 + at, Position(*_LOG, 10 * (size + at)) if source else None
            )
            for at, (record, leaf) in enumerate(zip(records, leaves, strict=True))
        ]
        nodes = self.range.extend(leaves)
        self.tree.extend(leaves)
        self.leaves += leaves
        return LedgerAppend(self.partition, size, rows, facts, nodes, self.range.peaks)


def _record(partition: int, number: int, facts: LedgerFacts) -> Record:
    env, parts = f'{{"n":{number}}}'.encode(), tuple(f"sealed part {partition}/{number}/{at}".encode() for at in range(len(facts.handles)))
    core = pack_core(
        facts.kind, bytes(16) + partition.to_bytes(2) + _WRITER + bytes(4), seq=number, ts_us=facts.ts_us, mac_epoch=0,
        retention_class=facts.retention_class, keep_until_day=facts.keep_until_day, prev=bytes(32), env_hash=sha256(env).digest(),
        marks=[pack_mark(1, handle, bytes(12), part) for handle, part in zip(facts.handles, parts, strict=True)],
    )  # fmt: skip
    return Record(core, env, parts, bytes(32))


def _facts(
    ts_us: int = 0, *, handles: tuple[bytes, ...] = (), kind: int = 0, day: int = 100, klass: int = 1, **named: object
) -> LedgerFacts:
    facts: LedgerFacts = replace(LedgerFacts(kind, ts_us, klass, day, handles), **named)
    return facts


def _handle(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def _ids(rows: Sequence[LedgerRow]) -> list[tuple[int, int]]:
    return [(row.partition, row.number) for row in rows]


async def an_empty_store_knows_nothing(opener: OpenStore) -> None:
    """Nothing is there, and an empty commit changes nothing."""
    async with opened(opener) as [store]:
        await store.commit(LedgerCommit())
        expect_equal(dict(await store.progress()), {}, "progress")
        expect_equal((dict(await store.tails()), dict(await store.sizes())), ({}, {}), "tails and sizes")
        expect_equal(list(await store.rows(0, 0, 10)), [], "rows")
        expect_equal(await store.find(LedgerWanted(), limit=10), (0, []), "found")
        expect_equal((await store.entry("a"), store.tip(0, _WRITER, 1)), (None, None), "entry and tip")
        expect_equal((dict(store.known(["a"])), list(await store.about([_handle("h")]))), ({}, []), "known and about")
        expect_equal((list(await store.notes(META)), list(await store.leaves())), ([], []), "notes and leaves")


async def what_is_committed_can_be_read(opener: OpenStore) -> None:
    """Rows as they were given, tails with open tips only, closed ones by name, and how far the log was taken in."""
    async with opened(opener) as [store]:
        growing = _Growing(2)
        tips = [LedgerTip(_WRITER, 1, b"stands", open=True), LedgerTip(_WRITER, 2, b"closed", open=False)]
        first = growing.append(_facts(5, audit_id="a"), _facts(6, audit_id="b"))._replace(tips=tips)
        await store.commit(LedgerCommit([first], {_LOG: (None, 20)}))
        second = growing.append(_facts(7, kind=2), source=False)
        await store.commit(LedgerCommit([second], {_LOG: (20, 21)}))
        expect_equal(list(await store.rows(2, 0, 10)), [*first.rows, *second.rows], "rows")
        expect_equal(_ids(await store.rows(2, 1, 1)), [(2, 1)], "a page of rows")
        beside = LedgerIndexed(first.rows[1], first.facts[1], frozenset(), body=True, parts=0)
        expect_equal(list(await store.indexed(2, 1, 1)), [beside], "a row beside what it is found by")
        expect_equal(dict(await store.progress()), {_LOG: 21}, "progress")
        tail = (await store.tails())[2]
        expect_equal((tail.size, list(tail.peaks), list(tail.tips), tail.start), (3, growing.range.peaks, tips[:1], 0), "tail")
        expect_equal(store.tip(2, _WRITER, 2), tips[1], "a closed tip")
        expect_equal(dict(await store.sizes()), {2: 3}, "sizes")
        expect_equal(await store.entry("b"), first.rows[1], "an entry")
        expect_equal(dict(store.known(["b", "none", "a"])), {"a": first.rows[0], "b": first.rows[1]}, "known entries")


async def who_does_not_build_on_what_is_stored_is_refused(opener: OpenStore) -> None:
    """Sizes and positions are compared; after a refusal nothing is changed, in no partition."""
    async with opened(opener) as [store]:
        one, two = _Growing(0), _Growing(REGISTRY)
        await store.commit(LedgerCommit([one.append(_facts())], {_LOG: (None, 5)}))
        other = _Growing(0).append(_facts(9))
        error = await refused(store.commit(LedgerCommit([two.append(_facts()), other])))
        expect_equal((error.stored, error.expected), (1, 0), "sizes of the conflict")
        for expected in (None, 4, 6):
            error = await refused(store.commit(LedgerCommit([one.append(_facts())], {_LOG: (expected, 9)})))
            expect_equal((error.stored, error.expected), (5, expected), "positions of the conflict")
            one = _Growing(0)
            one.append(_facts())
        expect_equal((dict(await store.sizes()), dict(await store.progress())), ({0: 1}, {_LOG: 5}), "afterwards")


async def what_is_looked_for_is_found(opener: OpenStore) -> None:
    """By every field, alone and together; the newest first; counted beyond the page; as of sizes."""
    async with opened(opener) as [store]:
        growing = _Growing(1)
        one, two = _handle("one"), _handle("two")
        frameworks = [("gdpr",) * (at % 2) for at in range(7)] + [("gdpr", "sox"), (), ("gdpr",)]
        handles: list[tuple[bytes, ...]] = [(), (), (one,), (), (one, bytes(16)), (), (), (), (two, one), ()]
        tasks, workflows = ["task"] * 4 + [""] * 6, ["", "", "", "w"] + [""] * 6
        facts = [
            _facts(
                at, audit_id=str(at), agent_id=f"agent-{at % 2}", task_id=tasks[at], workflow_id=workflows[at],
                event_type=("a.read", "b.written")[at % 2], category=("x", "y", "z")[at % 3], severity=("low", "high")[at // 6],
                outcome="success" if at else "failure", frameworks=frameworks[at], handles=handles[at],
            )
            for at in range(10)
        ]  # fmt: skip
        await store.commit(LedgerCommit([growing.append(*facts, _facts(10, kind=2))]))
        cases: Sequence[tuple[Mapping[str, object], list[int]]] = [
            ({}, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]), ({"agent_id": "agent-1"}, [9, 7, 5, 3, 1]), ({"task_id": "task"}, [3, 2, 1, 0]),
            ({"workflow_id": "w"}, [3]), ({"event_type": "a.read", "severity": "high"}, [8, 6]), ({"category": "z"}, [8, 5, 2]),
            ({"outcome": "failure"}, [0]), ({"framework": "gdpr"}, [9, 7, 5, 3, 1]), ({"framework": "sox"}, [7]),
            ({"start_us": 3, "end_us": 5}, [5, 4, 3]), ({"agent_id": "agent-0", "category": "x", "end_us": 5}, [0]),
            ({"handles": [_handle("one")]}, [8, 4, 2]), ({"handles": []}, []), ({"handles": [bytes(16)]}, [4]),
            ({"handles": [_handle("two"), bytes(16)], "agent_id": "agent-0"}, [8, 4]), ({"kind": 2}, [10]), ({"agent_id": "' OR 1"}, []),
        ]  # fmt: skip
        for wanted, expected in cases:
            total, rows = await store.find(LedgerWanted(**wanted), limit=100)  # type: ignore[arg-type]  # fields
            expect_equal((total, [row.number for row in rows]), (len(expected), expected), f"found by {wanted}")
        total, rows = await store.find(LedgerWanted(agent_id="agent-1"), limit=2, offset=1)
        expect_equal((total, [row.number for row in rows]), (5, [7, 5]), "a page")
        total, rows = await store.find(LedgerWanted(agent_id="agent-1"), limit=9, as_of={1: 6})
        expect_equal((total, [row.number for row in rows]), (3, [5, 3, 1]), "as of a size")
        expect_equal((await store.find(LedgerWanted(kind=None), limit=0))[0], 11, "of any kind")


async def trees_can_be_proven(opener: OpenStore) -> None:
    """Every node of every size, whatever the appends were, also over pruned records."""
    async with opened(opener) as [store]:
        growing = _Growing(4)
        for count in (1, 2, 3, 1, 6, 4):
            await store.commit(LedgerCommit([growing.append(*[_facts(audit_id=str(at)) for at in range(count)])]))
        for pruned in (0, 9):
            await store.prune(4, pruned)
            for size in range(growing.range.size + 1):
                places = tree.peak_places(size)
                expect_equal(list(await store.nodes(4, places)), growing.tree.peaks(size), f"peaks of {size}, {pruned} pruned")
            expect_equal(list(await store.nodes(4, [(0, at) for at in range(17)])), growing.leaves, f"leaves, {pruned} pruned")
        for place in ((0, 17), (1, 8), (4, 1), (0, -1), (3, 2)):
            try:
                await store.nodes(4, [place])
            except LookupError:
                continue
            raise AssertionError(f"a node that is not complete is not there: {place}")


async def a_pruned_beginning_is_gone(opener: OpenStore) -> None:
    """Records, facts and handles; the tail says from where on there are some, and appending goes on."""
    async with opened(opener) as [store]:
        growing, neighbour = _Growing(4), _Growing(5)
        facts = [_facts(at, audit_id=str(at), handles=(_handle("one"),)) for at in range(5)]
        await store.commit(LedgerCommit([growing.append(*facts), neighbour.append(_facts(9, audit_id="n"))]))
        await store.prune(4, 3)
        expect_equal(_ids(await store.rows(4, 0, 10)), [(4, 3), (4, 4)], "rows")
        expect_equal((await store.find(LedgerWanted(), limit=9))[0], 3, "found")
        expect_equal(list(await store.about([_handle("one")])), [(4, 3, 0), (4, 4, 0)], "handles")
        expect_equal((await store.entry("1"), (await store.tails())[4].start), (None, 3), "entry and start")
        expect_equal(list(await store.strays(9)), [], "nothing is left of it")
        await store.commit(LedgerCommit([growing.append(_facts())]))
        expect_equal(((await store.tails())[4].size, (await store.tails())[4].start), (6, 3), "afterwards")


async def bodies_are_removed(opener: OpenStore) -> None:
    """A part, or everything but the stub; once; leaf and facts stay."""
    async with opened(opener) as [store]:
        growing = _Growing(4)
        both = (_handle("one"), _handle("two"))
        append = growing.append(_facts(audit_id="a", handles=both), _facts(audit_id="b", handles=both))
        await store.commit(LedgerCommit([append]))
        expect_equal(await store.remove([LedgerRemoval(4, 0, 1), LedgerRemoval(4, 1)]), 2, "removed")
        expect_equal(await store.remove([LedgerRemoval(4, 0, 1), LedgerRemoval(4, 1), LedgerRemoval(4, 9)]), 0, "removed again")
        first, second = [unpack_record(row.raw) for row in await store.rows(4, 0, 2)]
        expect_equal((first.env is None, [part is None for part in first.parts]), (False, [False, True]), "the first record")
        expect_equal((second.env, second.parts), (None, (None, None)), "the second record")
        expect_equal([row.leaf for row in await store.rows(4, 0, 2)], growing.leaves, "leaves")
        expect_equal(list(await store.about(both)), [(4, 0, 0)], "what is still there")
        beside = [(found.about, found.body, found.parts) for found in await store.indexed(4, 0, 2)]
        expect_equal(beside, [(frozenset([0]), True, 1), (frozenset(), False, 0)], "what they are found by then")
        expect_equal(_ids((await store.find(LedgerWanted(), limit=9))[1]), [(4, 1), (4, 0)], "found")


async def what_is_past_its_day_is_listed(opener: OpenStore) -> None:
    """Entries with a body by their day, those with a part by their class and moment; in order, in pages."""
    async with opened(opener) as [store]:
        growing, other = _Growing(4), _Growing(2)
        one = (_handle("one"),)
        facts = [_facts(at, day=100 + at % 2, klass=at % 3, audit_id=str(at), handles=one * (at // 4 == 0)) for at in range(6)]
        await store.commit(LedgerCommit([growing.append(*facts, _facts(kind=2, day=1)), other.append(_facts(day=1, audit_id="o"))]))
        page = await store.due(101, 3)
        expect_equal(_ids([row for row, _ in page]), [(2, 0), (4, 0), (4, 2)], "due")
        expect_equal([one for _, one in page][1:], [facts[0], facts[2]], "their facts")
        expect_equal(_ids([row for row, _ in await store.due(101, 3, after=(4, 2))]), [(4, 4)], "due behind a place")
        await store.remove([LedgerRemoval(4, 4), LedgerRemoval(4, 0, 0)])
        expect_equal(_ids([row for row, _ in await store.due(102, 9, after=(2, 0))]), [(4, 0), (4, 1), (4, 2), (4, 3), (4, 5)], "due still")
        expect_equal(_ids([row for row, _ in await store.overdue({0: 4, 1: 1, 2: 3}, 9)]), [(4, 2), (4, 3)], "overdue")
        expect_equal(list(await store.overdue({}, 9)), [], "overdue of no class")


async def checkpoints_are_kept(opener: OpenStore) -> None:
    """Notes of partitions become leaves in their order; signed notes are kept by size, the newest form of each."""
    async with opened(opener) as [store]:
        meta, texts = CompactRange(), [f"partition {at}\n{at}\n" for at in range(3)]
        notes = [LedgerNote(at, at + 1, text.encode()) for at, text in enumerate(texts)]
        leaves = [sha256(b"\0" + text.encode()).digest() for text in texts]
        nodes = meta.extend(leaves)
        await store.commit(LedgerCommit([LedgerAppend(META, 0, (), (), nodes, meta.peaks)], notes=[*notes, LedgerNote(META, 3, b"signed")]))
        await store.commit(LedgerCommit(notes=[LedgerNote(META, 3, b"signed and cosigned")]))
        expect_equal(list(await store.leaves()), texts, "leaves")
        expect_equal(list(await store.leaves(2)), texts[2:], "later leaves")
        expect_equal(list(await store.notes(META)), [LedgerNote(META, 3, b"signed and cosigned")], "signed notes")
        expect_equal(list(await store.notes(1)), notes[1:2], "notes of a partition")
        expect_equal(list(await store.notes(1, after=2)), [], "notes of later sizes")
        expect_equal(list(await store.nodes(META, [(0, 1), (1, 0)])), [leaves[1], tree.node_hash(*leaves[:2])], "nodes")
        expect_equal(((await store.tails())[META].size, META in await store.sizes()), (3, False), "the tail of all")
        await refused(store.commit(LedgerCommit([LedgerAppend(META, 2, (), (), (), ())], notes=notes[:1])))


async def others_see_what_is_committed(opener: OpenStore) -> None:
    """Two processes on one store: one sees what the other has committed, and yields to it."""
    async with opened(opener, opener) as [one, two]:
        growing = _Growing(4)
        await one.commit(LedgerCommit([growing.append(_facts(audit_id="a", event_type="a.read"))], {_LOG: (None, 1)}))
        expect_equal(dict(await two.sizes()), {4: 1}, "sizes")
        await refused(two.commit(LedgerCommit([_Growing(4).append(_facts())])))
        await two.commit(LedgerCommit([growing.append(_facts(audit_id="b", event_type="a.read"))], {_LOG: (1, 2)}))
        expect_equal((await one.find(LedgerWanted(event_type="a.read"), limit=9))[0], 2, "found")
        await one.remove([LedgerRemoval(4, 1)])
        expect(unpack_record((await two.rows(4, 1, 1))[0].raw).env is None, "what one removes is gone for the other")


async def one_of_two_that_commit_at_once_is_refused(opener: OpenStore) -> None:
    """Whoever comes second gets PositionConflict, and nothing of it is stored."""
    async with opened(opener, opener) as stores:
        changes = [LedgerCommit([_Growing(4).append(_facts(audit_id=str(at)))], {_LOG: (None, 1 + at)}) for at in range(2)]
        results = await asyncio.gather(
            *(store.commit(change) for store, change in zip(stores, changes, strict=True)), return_exceptions=True
        )
        refused = [isinstance(result, PositionConflict) for result in results]
        expect_equal(sorted(refused), [False, True], "one is refused")
        expect_equal((await stores[0].progress())[_LOG], 1 + refused.index(False), "the position of the other")
        expect_equal(dict(await stores[0].sizes()), {4: 1}, "sizes")


CASES: Final[Sequence[Case]] = (
    an_empty_store_knows_nothing,
    what_is_committed_can_be_read,
    who_does_not_build_on_what_is_stored_is_refused,
    what_is_looked_for_is_found,
    trees_can_be_proven,
    a_pruned_beginning_is_gone,
    bodies_are_removed,
    what_is_past_its_day_is_listed,
    checkpoints_are_kept,
)
SHARED_CASES: Final[Sequence[Case]] = (others_see_what_is_committed, one_of_two_that_commit_at_once_is_refused)
