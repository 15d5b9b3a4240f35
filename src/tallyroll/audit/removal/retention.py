"""Two clocks run for each entry: how long its body must be kept, and how long its personal parts may be. And holds stop both.

What is removed is named in the registry first, so that nothing is ever missing without a word; and a removal that was cut
short is made up for by the next run.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from tallyroll.audit.ledger import records, tree
from tallyroll.audit.ledger.layout import REGISTRY, Kind, PartType
from tallyroll.audit.ledger.partition import Tip, open_heads, tips_after, tips_from
from tallyroll.audit.ledger.records import Stretch
from tallyroll.audit.ledger.stored import record_in
from tallyroll.audit.removal.erasure import Eraser, Register
from tallyroll.audit.removal.standing import Standing
from tallyroll.events.ids import new_id
from tallyroll.ports import Clock, KeyRing, LedgerFacts, LedgerRemoval, LedgerRow, LedgerStore

DAY_US: Final = 86_400_000_000
_PAGE: Final = 5_000

Tips = Mapping[tuple[bytes, int], Tip]
_Page = Sequence[tuple[LedgerRow, LedgerFacts]]


class RetentionRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has removed. ``held`` are entries that were due and that a hold keeps; ``swept`` parts that an erasure had left."""

    bodies: int = 0
    personal_parts: int = 0
    held: int = 0
    swept: int = 0
    pruned: dict[int, int] = {}


class Retention:
    """Removes what is past its day from one ledger, and sets holds. ``rule_set`` is the version in force, for the record."""

    def __init__(  # noqa: PLR0913  # what a run touches
        self, store: LedgerStore, ring: KeyRing, register: Register, eraser: Eraser, *, clock: Clock, rule_set: str
    ) -> None:
        self._store = store
        self._ring = ring
        self._register = register
        self._eraser = eraser
        self._clock = clock
        self._rule_set = rule_set

    async def run(self, *, operator: str, prune: bool = False) -> RetentionRun:
        """Everything that is due today: bodies, personal parts, and with ``prune`` whole beginnings of partitions.

        Durable when it returns; may be cut short and run again. Raises StoreUnavailable, KeyRingUnavailable.
        """
        standing = await self._eraser.standing()
        swept = await self._eraser.sweep(standing)
        bodies, held = await self._bodies(standing, operator)
        personal, also_held = await self._personal(standing, operator)
        pruned = await self._prune(standing, operator) if prune else {}
        return RetentionRun(bodies=bodies, personal_parts=personal, held=held + also_held, swept=swept, pruned=pruned)

    async def set_hold(  # noqa: PLR0913  # what it covers, and who says so
        self, *, who: str, why: str, subject: str | None = None, partition: int | None = None, start: int = 0, end: int | None = None
    ) -> list[str]:
        """From now on nothing it covers is removed: what is sealed about a person, or a stretch of a partition, or everything.

        ``who`` and ``why`` are in clear and for ever: give a case number, not a name. Returns the ids of the holds, one per
        handle. Raises LookupError for a person about whom nothing is sealed, ValueError for a stretch that holds nothing.
        """
        if partition is None and (start or end is not None):
            raise ValueError("partition: a stretch is one of a partition")
        if end is not None and end <= start:
            raise ValueError(f"end: expected more than {start}, where the stretch starts")
        hold_id = new_id()
        handles: list[bytes | None] = [None]
        if subject is not None:
            own = await asyncio.to_thread(self._ring.handle_of, subject)
            if own is None:
                raise LookupError("nothing is sealed about this person")
            handles = [own, *await asyncio.to_thread(self._ring.groups_with, own)]
        ids = [hold_id if index == 0 else f"{hold_id}/{index}" for index in range(len(handles))]
        for name, handle in zip(ids, handles, strict=True):
            env = records.hold(name, who, why, partition=partition, start=start, end=end, handle=handle)
            await self._register(Kind.HOLD, env)
        return ids

    async def release_hold(self, hold_id: str, *, who: str, why: str) -> list[str]:
        """Ends a hold, and those set with it. Raises LookupError where none of this id is set."""
        standing = await self._eraser.standing()
        names = [name for name in standing.holds if name == hold_id or name.startswith(f"{hold_id}/")]
        if not names:
            raise LookupError("no such hold is set")
        for name in names:
            await self._register(Kind.HOLD, records.hold_released(name, who, why))
        return names

    async def _bodies(self, standing: Standing, operator: str) -> tuple[int, int]:
        today, removed, held, after = self._today(), 0, 0, (-1, -1)
        while page := await self._store.due(today, _PAGE, after=after):
            after = (page[-1][0].partition, page[-1][0].number)
            free, kept = _unheld(page, standing)
            held += kept
            await self._announce("body", free, operator, lambda _: 1)
            removed += await self._store.remove([LedgerRemoval(row.partition, row.number) for row, _ in free])
        return removed, held

    async def _personal(self, standing: Standing, operator: str) -> tuple[int, int]:
        today, removed, held, after = self._today(), 0, 0, (-1, -1)
        before = {number: (today - days) * DAY_US for number, days in standing.personal_days.items() if days is not None}
        while before and (page := await self._store.overdue(before, _PAGE, after=after)):
            after = (page[-1][0].partition, page[-1][0].number)
            free, kept = _unheld(page, standing)
            held += kept
            await self._announce("personal", free, operator, lambda row: len(_parts_left(row)))
            drawn = [handle for row, _ in free for handle in _own_keys(row)]
            if drawn:
                await asyncio.to_thread(self._ring.destroy, drawn)
            gone = [LedgerRemoval(row.partition, row.number, part) for row, _ in free for part in _parts_left(row)]
            removed += await self._store.remove(gone)
        return removed, held

    async def _announce(self, what: str, page: _Page, operator: str, count: Callable[[LedgerRow], int]) -> None:
        stretches: defaultdict[tuple[int, int], list[LedgerRow]] = defaultdict(list)
        for row, facts in page:
            stretches[row.partition, facts.retention_class].append(row)
        for (partition, retention_class), rows in sorted(stretches.items()):
            stretch = Stretch(partition, rows[0].number, rows[-1].number + 1, retention_class, sum(map(count, rows)))
            await self._register(Kind.RETENTION, records.retention(what, stretch, self._rule_set, operator))

    async def _prune(self, standing: Standing, operator: str) -> dict[int, int]:
        tails, pruned = await self._store.tails(), {}
        for partition, tail in sorted(tails.items()):
            if partition == REGISTRY or any(hold.partition in (None, partition) for hold in standing.holds.values()):
                continue
            last = standing.pruned.get(partition)
            tips: Tips = tips_from(records.open_heads(last)) if last else {}
            size, latest, tips = await self._past(partition, tail.start, tips)
            if size == tail.start:
                continue
            peaks = await self._store.nodes(partition, tree.peak_places(size))
            latest = max(latest, int(last["keep_until_day"]) if last else 0)
            await self._register(Kind.RETENTION, records.pruned(partition, size, peaks, open_heads(tips.items()), latest, operator))
            await self._store.prune(partition, size)
            pruned[partition] = size - tail.start
        return pruned

    async def _past(self, partition: int, start: int, tips: Tips) -> tuple[int, int, Tips]:
        """How far everything is past its day; the latest of these days, and the tips behind them."""
        today, latest = self._today(), 0
        while rows := await self._store.rows(partition, start, _PAGE):
            read = [record_in(row) for row in rows]
            cores, days = [record.core for record, _ in read], [core.keep_until_day for _, core in read]
            past = next((index for index, day in enumerate(days) if day >= today), len(days))
            tips = tips_after(tips, cores[:past])
            latest, start = max([latest, *days[:past]]), start + past
            if past < len(days):
                break
        return start, latest, tips

    def _today(self) -> int:
        return self._clock.now_us() // DAY_US


def _unheld(page: _Page, standing: Standing) -> tuple[_Page, int]:
    free = [(row, facts) for row, facts in page if standing.held_by(row.partition, row.number, facts.handles) is None]
    return free, len(page) - len(free)


def _parts_left(row: LedgerRow) -> list[int]:
    return [part for part, body in enumerate(record_in(row)[0].parts) if body is not None]


def _own_keys(row: LedgerRow) -> list[bytes]:
    """Handles of keys that seal nothing but a part of this record."""
    return [mark.handle for mark in record_in(row)[1].parts if mark.part_type == PartType.UNKNOWN]
