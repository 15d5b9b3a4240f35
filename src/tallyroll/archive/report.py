"""How the archive stands beside the log: what it holds, what it lacks, and how long until that is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tallyroll.archive.keeper import ArchiveKeeper, Damage
from tallyroll.archive.retention import Alarm, headroom
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Clock, EventLog, Span


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """One partition. ``tail`` records wait for a seal, ``unarchived`` ones lie in the log only.

    ``headroom_ms``: until the topic deletes the oldest of those; None where there are none. ``alarm``: see ``archive.retention``.
    ``kept``: below that offset the archive was pruned. ``damaged``: files of it that are missing, or have another size.
    """

    partition: TopicPartition
    first: int
    next: int
    segments: int
    records: int
    raw_bytes: int
    file_bytes: int
    tail: int
    unarchived: int
    headroom_ms: int | None
    alarm: Alarm
    kept: int = 0
    damaged: Sequence[Damage] = ()

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        names = ("first", "next", "segments", "records", "raw_bytes", "file_bytes", "tail", "unarchived", "headroom_ms", "alarm", "kept")
        damaged = [one._asdict() for one in self.damaged]
        return {"partition": str(self.partition), **{name: getattr(self, name) for name in names}, "damaged": damaged}


async def report(keeper: ArchiveKeeper, log: EventLog, catalogue: Catalogue, clock: Clock) -> list[ArchiveReport]:
    """Every partition of every user topic. Reads, of each that lags behind, one record of the log. Raises as log and archive do."""
    topics = [topic for topic in catalogue.topics if topic.user]
    partitions = catalogue.partitions(topic.base for topic in topics)
    names = [topic.name for topic in topics]
    known = {one.partition: one for one in await asyncio.to_thread(keeper.status, partitions)}
    lacking = await asyncio.to_thread(lambda: {partition: keeper.lacking(partition) for partition in partitions})
    starts, ends = await log.starts(names), await log.ends(names)  # behind what is archived, which may go on meanwhile
    retention = {topic.name: topic.retention_ms for topic in topics}
    found = []
    for partition in partitions:
        one, start, end = known.get(partition), starts.get(partition, 0), ends.get(partition, 0)
        archived = one.next if one is not None else start
        oldest_ms = await _timestamp_at(log, partition, max(archived, start), end)
        left = headroom(
            archived=archived, log_start=start, log_end=end, oldest_ms=oldest_ms, retention_ms=retention[partition.topic],
            now_ms=clock.now_us() // 1_000,
        )  # fmt: skip
        numbers = (one.first, one.next, one.segments, one.records, one.raw_bytes, one.file_bytes, one.tail_records) if one else (0,) * 7
        kept = one.kept if one is not None else 0
        found.append(ArchiveReport(partition, *numbers, left.unarchived, left.headroom_ms, left.alarm, kept, tuple(lacking[partition])))
    return found


async def _timestamp_at(log: EventLog, partition: TopicPartition, offset: int, end: int) -> int | None:
    """The log's timestamp of the first record from an offset on."""
    if offset >= end:
        return None
    async for batch in log.read([Span(*partition, offset, min(offset + 1, end))], max_records=1):
        return batch.timestamps_ms[0] if batch.timestamps_ms[0] >= 0 else None
    return None
