"""Whether what a store finds records by, proves them with and goes on from is what the records themselves say.

An export shows none of it, and the offline verifier needs none of it: this is for who asks the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from operator import attrgetter
from typing import Final, NamedTuple

from tallyroll.audit.ledger import note, proving, records
from tallyroll.audit.ledger.facts import facts_of
from tallyroll.audit.ledger.layout import META, REGISTRY, leaf_hash, unpack_core, unpack_record
from tallyroll.audit.ledger.note import Checkpoint
from tallyroll.audit.ledger.partition import tips_from
from tallyroll.audit.ledger.stored import read_of
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.audit.reading.course import Course
from tallyroll.audit.removal.lost_keys import LostKeys
from tallyroll.audit.removal.standing import Standing
from tallyroll.audit.sealing.registry import Contradiction, Registry
from tallyroll.audit.verify.report import Findings
from tallyroll.errors import LedgerTampered, Undecodable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import LedgerFacts, LedgerIndexed, LedgerStore, LedgerTail

CODE: Final = "index"
RESUME: Final = "resume"
KEY_LOST: Final = "key_lost"

_PAGE: Final = 1_000
_STRAYS: Final = 1_000
_OF_CORE: Final = attrgetter("kind", "ts_us", "retention_class", "keep_until_day", "handles")
"""Facts that stay in a record when its env is removed."""
_OF_ENV: Final = attrgetter("audit_id", "event_type", "category", "severity", "outcome", "agent_id", "task_id", "workflow_id")

Place = tuple[int | None, int | None]
"""Partition and number."""


async def index_findings(
    store: LedgerStore, known: Collection[Place], ends: Mapping[TopicPartition, int], lost: LostKeys | None = None
) -> Findings:
    """Findings of the codes ``index`` and ``resume``, of the whole store as it is now. ``known`` are places with a finding already.

    With ``lost`` also of the code ``key_lost``, one for each record with such a part, unless the registry cannot be read.

    Records have to be there from start to end, to be found by what they say and by nothing else, to make the nodes and the
    ends that are stored, and to lead to where chains and the log are said to stand; nothing else may be there.
    ``ends``: where partitions of the log end now, as far as that is known. Raises StoreUnavailable, and KeyRingUnavailable
    with ``lost``.
    """
    found, named = Findings(), set(known)
    strays = await store.strays(_STRAYS)
    for partition, number in strays:
        found.add(CODE, partition, number, detail="something is found there that is no part of the ledger")
    said = await _said(store)
    look = _Look(store, found, named.union(strays), said, None if said is None else lost)
    tails = await store.tails(ended=True)
    progress = dict(await store.progress())
    for partition, tail in sorted(tails.items()):
        if not 0 <= partition <= REGISTRY or not 0 <= tail.start <= tail.size:
            look.say(partition, max(0, tail.start), "its end is none that a partition has")
        elif partition == META:
            await look.over_all(tail)
        else:
            course = await look.into(partition, tail)
            if course is not None and look.said is not None:
                for seq, detail in course.wrong_tips(tail, look.said.registry):
                    found.add(RESUME, partition, tail.size, seq, detail)
                where = course.where
                if where is not None and (detail := course.wrong_progress(progress.get(where), ends.get(where))):
                    found.add(RESUME, partition, tail.size, detail=detail)
    return found


class _Said(NamedTuple):
    """What the registry says: of writers and partitions, and of what was pruned."""

    registry: Registry
    standing: Standing

    def course(self, partition: int) -> Course:
        """That of a partition, from the first record that is there on."""
        pruned = self.standing.pruned.get(partition)
        where = next((place for place, number in self.registry.numbers.items() if number == partition), None)
        return Course(partition, where, {} if pruned is None else tips_from(records.open_heads(pruned)))


async def _said(store: LedgerStore) -> _Said | None:
    """None where a record of the registry cannot be read, or contradicts another: the verifier names it."""
    said, at = _Said(Registry(), Standing()), 0
    try:
        while rows := await store.rows(REGISTRY, at, _PAGE):
            said.registry.read(rows)
            said.standing.read(rows)
            at = rows[-1].number + 1
    except (LedgerTampered, Contradiction):
        return None
    return said


class _Page(NamedTuple):
    """What a page of rows says: leaves by their own cores, None where one cannot be read; wrong ones; whose parts; if chains fit."""

    leaves: list[bytes] | None
    strayed: list[tuple[int, str]]
    handles: set[bytes]
    followed: bool


class _Look:
    def __init__(self, store: LedgerStore, found: Findings, named: Collection[Place], said: _Said | None, lost: LostKeys | None) -> None:
        self.said = said
        self._store = store
        self._found = found
        self._named = named
        self._lost = lost
        self._broken = {partition for partition, _ in named}  # the nodes of a partition whose records are not its own say nothing

    async def into(self, partition: int, tail: LedgerTail) -> Course | None:
        """One partition; how it came to be, as far as that can be said of records that are all its own."""
        at, grown = tail.start, await self._begin(partition, tail)
        course = None if self.said is None or partition in self._broken else self._course(partition)
        while at < tail.size:
            end = min(at + _PAGE, tail.size)
            rows = [one for one in await self._store.indexed(partition, at, end - at) if one.row.number < end]
            if not rows:  # whatever the end says, which anybody may have written
                self.say(partition, at, "from here on questions find no records")
                return None
            there = {one.row.number for one in rows}
            for number in (number for number in range(at, end) if number not in there):
                self.say(partition, number, "questions do not find the record")
            page = await asyncio.to_thread(_page_of, rows, course)
            for number, detail in page.strayed:
                self.say(partition, number, detail)
            await self._keys(rows, page.handles)
            course = course if page.followed and len(rows) == end - at else None
            if grown is not None and page.leaves is not None and len(rows) == end - at:
                await self._compare(partition, grown.extend(page.leaves))
            else:
                grown = None
            at = end
        if grown is not None:
            self._ends(partition, tail, grown)
        return course

    def _course(self, partition: int) -> Course | None:
        try:
            return None if self.said is None else self.said.course(partition)
        except (KeyError, TypeError, ValueError):  # a pruning that the verifier names
            return None

    async def over_all(self, tail: LedgerTail) -> None:
        """The tree over all partitions, and the note that was signed over all of it: the two are stored together."""
        if tail.start:
            self.say(META, 0, "its beginning was never pruned")
        grown = CompactRange()
        with suppress(Undecodable):  # the verifier names it
            newest = await proving.newest(self._store)
            signed = 0 if newest is None else Checkpoint.parse(note.parse(newest).text).size
            if signed < tail.size:
                self._found.add("note_missing", META, signed, detail="what was noted last is there, and its note is not")
        texts = await self._store.leaves(0)
        await self._compare(META, grown.extend([sha256(b"\0" + text.encode()).digest() for text in texts[: tail.size]]))
        self._ends(META, tail, grown)

    async def _begin(self, partition: int, tail: LedgerTail) -> CompactRange | None:
        """The tree of what was pruned. The verifier compares its peaks with the registry."""
        try:
            return CompactRange(tail.start, await proving.peaks(self._store, partition, tail.start))
        except LookupError:
            self.say(partition, tail.start, "nodes that stand for what was pruned are not there")
            return None

    async def _keys(self, rows: Sequence[LedgerIndexed], handles: set[bytes]) -> None:
        if self._lost is None or not await self._lost.lacking(handles):
            return
        for place in await self._lost.of(read_of(one.row for one in rows)[0]):
            if place not in self._named:  # as below; its handle may be anybody's
                self._found.add(KEY_LOST, *place)

    async def _compare(self, partition: int, runs: Sequence[tuple[int, int, Sequence[bytes]]]) -> None:
        if partition in self._broken:
            return
        wanted = {(height, first + at): one for height, first, run in runs for at, one in enumerate(run) if height or partition == META}
        wrong = await self._wrong(partition, wanted)
        if wrong is not None:
            self.say(partition, wrong[1] << wrong[0], "a node above it is another one; proofs that need it do not hold")

    async def _wrong(self, partition: int, wanted: Mapping[tuple[int, int], bytes]) -> tuple[int, int] | None:
        """The first place where another node is stored than the records make, or none."""
        try:
            stored = await self._store.nodes(partition, [*wanted])
        except LookupError:
            if len(wanted) == 1:
                return next(iter(wanted))
            for place, node in wanted.items():
                if await self._wrong(partition, {place: node}) is not None:
                    return place
            return None
        return next((place for place, node in zip(wanted, stored, strict=True) if node != wanted[place]), None)

    def _ends(self, partition: int, tail: LedgerTail, grown: CompactRange) -> None:
        if partition not in self._broken and (grown.size, grown.peaks) != (tail.size, [*tail.peaks]):
            self.say(partition, tail.size, "the end that is stored is another one")

    def say(self, partition: int, number: int, detail: str) -> None:
        """One finding, unless something is said of the place already."""
        if (partition, number) not in self._named:  # of a record that is not its own anything may be found
            self._found.add(CODE, partition, number, detail=detail)


def _page_of(rows: Sequence[LedgerIndexed], course: Course | None) -> _Page:
    """What cannot be read is left to the verifier, which names it."""
    leaves: list[bytes] = []
    strayed, handles = [], set[bytes]()
    followed = True
    for row, facts, about, body, parts in rows:
        try:
            record = unpack_record(row.raw)
            core = unpack_core(record.core)
        except Undecodable:
            followed = False
            continue
        said = facts_of(record, core)
        leaves.append(leaf_hash(record.core))
        detail = ""
        if course is not None and followed:
            try:
                detail = course.see(row, record, core, leaves[-1])
            except Undecodable:
                followed = False
        there = {number for number, part in enumerate(record.parts) if part is not None}
        handles.update([core.parts[number].handle for number in there])
        # Of an env that was removed nothing is there any more to compare with.
        agree = _OF_CORE(said) == _OF_CORE(facts) and (record.env is None or _of_env(said) == _of_env(facts))
        kept = there <= about and parts == len(there) and body == (record.env is not None)
        if not agree or not kept or row.leaf != leaves[-1] or detail:
            strayed.append((row.number, detail))
    return _Page(leaves if len(leaves) == len(rows) else None, strayed, handles, followed)


def _of_env(facts: LedgerFacts) -> tuple[object, ...]:
    return *_OF_ENV(facts), sorted(facts.frameworks)
