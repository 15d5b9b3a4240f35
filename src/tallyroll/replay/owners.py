"""The own events of some owners, from the archive by its locator and from the log behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.rows import Rows
from tallyroll.ports import Archive, EventLog, Span
from tallyroll.replay.fold import View
from tallyroll.replay.gather import owners_by
from tallyroll.replay.jobs import turn
from tallyroll.replay.judge import Judge
from tallyroll.replay.plan import Plan
from tallyroll.replay.reading import owner_key
from tallyroll.replay.selection import concat_rows, take_rows

OwnersRows = dict[str, dict[TopicPartition, Rows]]
"""By owner its rows per partition, in offset order; only where there are any."""


async def owners_rows(  # noqa: PLR0913  # where, whose, and how much of them
    log: EventLog, archive: Archive | None, planned: Plan, view: View, owners: Collection[str], *, whole: bool = True
) -> OwnersRows:
    """Everything that the plan reads of some owners, copies left out. Raises as log and archive do."""
    wanted = frozenset(owners)
    found: dict[str, dict[TopicPartition, list[Rows]]] = {owner: {} for owner in sorted(wanted)}
    if archive is not None:
        for owner, own in found.items():
            await asyncio.to_thread(_archived, archive, planned, owner_key(view, owner), own, whole=whole)
    judges = {one.partition: Judge(RepeatFilter.from_bytes(one.repeats)) for one in planned.partitions}
    spans = [Span(*one.partition, *one.log) for one in planned.partitions if one.log[0] < one.log[1]]
    if spans:
        async for batch in log.read(spans):
            rows = judges[batch.topic_partition].rows(batch)
            if rows is not None:
                for owner, some in _by_owner(view, rows, wanted):
                    found[owner].setdefault(rows.topic_partition, []).append(some)
            await turn()
    return {owner: {partition: concat_rows(pieces) for partition, pieces in sorted(own.items())} for owner, own in found.items()}


def _archived(archive: Archive, planned: Plan, key: str, found: dict[TopicPartition, list[Rows]], *, whole: bool) -> None:
    for one in planned.partitions:
        start, end = one.archive
        rows = archive.owner_rows(one.partition, key, start, end, whole=whole) if start < end else None
        if rows is not None:
            found[one.partition] = [rows]


def _by_owner(view: View, rows: Rows, wanted: Collection[str]) -> Iterator[tuple[str, Rows]]:
    mine: dict[str, list[int]] = {}
    for index, owner in enumerate(owners_by(view.owner)(rows)):
        if owner is not None and owner in wanted:
            mine.setdefault(owner, []).append(index)
    for owner, indexes in mine.items():
        yield owner, take_rows(rows, indexes)
