"""One owner's own events, from the archive and the log: what is stepped through, compared, and folded by users' reducers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from tallyroll.errors import NoHistory
from tallyroll.events.chain import RepeatFilter
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Rows
from tallyroll.ports import Archive, Span
from tallyroll.replay.fold import View
from tallyroll.replay.jobs import turn
from tallyroll.replay.judge import Judge
from tallyroll.replay.plan import AsOfEventTime, AsOfOffsets, Coverage, Plan, plan
from tallyroll.replay.reading import owner_key
from tallyroll.replay.replayer import Replayer
from tallyroll.replay.selection import concat_rows, take_rows


@dataclass(frozen=True, slots=True)
class History:
    """An owner's events per partition, in offset order, copies left out; records whole. ``as_of``: how far was read.

    Not promised: that a fold counts all of them; garbage in a payload shows only then.
    """

    view: View
    owner: str
    rows: Mapping[TopicPartition, Rows]
    as_of: Mapping[TopicPartition, int]
    coverage: Coverage

    @property
    def events(self) -> int:
        """How many there are."""
        return sum(map(len, self.rows.values()))


async def history(  # noqa: PLR0913  # whose, up to where, and from where
    replayer: Replayer,
    view: View,
    owner: str,
    target: AsOfEventTime | AsOfOffsets | None = None,
    *,
    topics: Collection[str] | None = None,
    allow_truncated: bool = False,
) -> History:
    """Everything that the archive and the log have of one owner up to a target.

    ``topics``: base names to look in, those of the view unless given. Raises NoHistory if there is nothing; SpanGone where
    a part of the history is gone, unless ``allow_truncated``; as the log and the archive do.
    """
    names = sorted(replayer.catalogue[base].name for base in (view.topics if topics is None else topics))
    ends = target.ends if isinstance(target, AsOfOffsets) else None
    until_us = target.until_us if isinstance(target, AsOfEventTime) else None
    extents = await replayer.extents(names, ends=ends)
    planned = plan(extents, ends=ends)
    if planned.missing and not allow_truncated:
        raise planned.gone(extents)
    found: dict[TopicPartition, list[Rows]] = {}
    if replayer.archive is not None:
        found = await asyncio.to_thread(_archived, replayer.archive, planned, owner_key(view, owner))
    await _logged(replayer, planned, view, owner, found)
    rows = {partition: joined for partition, some in sorted(found.items()) if (joined := _until(concat_rows(some), until_us)) is not None}
    if not rows:
        times = [one.times_us[0] for some in found.values() for one in some]
        raise NoHistory(view.name, owner, first_us=min(times, default=None))
    return History(view, owner, rows, planned.as_of, planned.coverage)


def is_owned(view: View, owner: str, rows: Rows) -> Iterator[int]:
    """The indexes of the rows that are an owner's."""
    if view.owner == "agent":
        yield from (index for index, agent in enumerate(rows.agents) if agent == owner)
    else:
        key = owner_key(view, owner)
        yield from (index for index, subject in enumerate(rows.subjects) if subject.key == key)


def _archived(archive: Archive, planned: Plan, key: str) -> dict[TopicPartition, list[Rows]]:
    found = {}
    for one in planned.partitions:
        start, end = one.archive
        rows = archive.owner_rows(one.partition, key, start, end, whole=True) if start < end else None
        if rows is not None:
            found[one.partition] = [rows]
    return found


async def _logged(replayer: Replayer, planned: Plan, view: View, owner: str, found: dict[TopicPartition, list[Rows]]) -> None:
    judges = {one.partition: Judge(RepeatFilter.from_bytes(one.repeats)) for one in planned.partitions}
    spans = [Span(*one.partition, *one.log) for one in planned.partitions if one.log[0] < one.log[1]]
    if not spans:
        return
    async for batch in replayer.log.read(spans):
        rows = judges[batch.topic_partition].rows(batch)
        if rows is not None and (mine := list(is_owned(view, owner, rows))):
            found.setdefault(batch.topic_partition, []).append(take_rows(rows, mine))
        await turn()


def _until(rows: Rows, until_us: int | None) -> Rows | None:
    if until_us is None:
        return rows
    kept = [index for index, time_us in enumerate(rows.times_us) if time_us <= until_us]
    return take_rows(rows, kept) if kept else None
