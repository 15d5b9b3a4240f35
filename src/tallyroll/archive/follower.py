"""Out of the log for good: the follower that keeps the tails of all partitions, and has them sealed when they are due."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tallyroll.archive.background import BackgroundSeals
from tallyroll.archive.records import judge
from tallyroll.archive.retention import headroom
from tallyroll.archive.sealing import Sealer, SealLimits
from tallyroll.archive.store import ArchiveStore
from tallyroll.errors import PositionConflict, SpanGone
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Append, Clock, DeadLetter, EventLog, Judged, Tail
from tallyroll.telemetry import (
    ARCHIVE_HEADROOM,
    ARCHIVE_UNARCHIVED,
    ARCHIVED,
    Counters,
    Telemetry,
)

log: Final = logging.getLogger("tallyroll.archive")

_PAUSE_S: Final = 1.0  # between two flushes: nobody waits for the archive, since the log has the same records
_MANY: Final = 10_000  # records that are flushed before that: some MB of memory
_WATCH_S: Final = 30.0  # between two looks at what the log still has; retention is counted in days


class _Taken(NamedTuple):
    """What a flush stores of one partition: as in ``_Lane``, of the moment it began."""

    next: int
    repeats: bytes
    records: list[Judged]
    jumped: int | None


@dataclass(slots=True)
class _Lane:
    """One partition in memory. ``expected`` is what the index has; ``jumped`` from where the log jumped since, if it did."""

    first: int
    next: int
    expected: int | None
    repeats: RepeatFilter
    records: list[Judged] = field(default_factory=list)
    jumped: int | None = None
    newest_ms: int | None = None

    @property
    def is_behind(self) -> bool:
        return self.next != (self.first if self.expected is None else self.expected)

    def take(self) -> _Taken:
        records, self.records = self.records, []
        jumped, self.jumped = self.jumped, None
        return _Taken(self.next, self.repeats.to_bytes(), records, jumped)

    def give_back(self, taken: _Taken) -> None:
        self.records = taken.records + self.records
        if taken.jumped is not None:
            self.jumped = taken.jumped


class ArchiveFollower:
    """Keeps every record of every user topic, garbage and copies among them; nothing is ever put aside.

    ``flush`` writes one transaction per partition: records, position, and what tells copies from first records. A partition
    that is due is sealed while following goes on, also one that has fallen silent; see ``BackgroundSeals``. Only where a tail
    has grown to twice its limit does ``flush`` wait for the seal.
    Where the log has lost records before they were archived, ``positions`` and ``flush`` raise SpanGone, until an operator
    accepts the hole (``ArchiveKeeper.accept_hole``). The store stays open when the follower is closed.
    Not promised: that a record is archived before it was flushed; that a flush has sealed anything when it returns.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        store: ArchiveStore,
        sealer: Sealer,
        catalogue: Catalogue,
        event_log: EventLog,
        *,
        clock: Clock,
        limits: SealLimits | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._catalogue = catalogue
        self._log = event_log
        self._clock = clock
        self._telemetry = telemetry or Counters()
        self._seals = BackgroundSeals(store, sealer, limits or SealLimits(), clock=clock, telemetry=self._telemetry)
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._watched: float | None = None
        self._waiting = 0
        self._flushed_s = -_PAUSE_S

    @property
    def name(self) -> str:
        """``archive``."""
        return "archive"

    @property
    def topics(self) -> Sequence[str]:
        """Every topic that users' events go to."""
        return tuple(topic.base for topic in self._catalogue.topics if topic.user)

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As the port says. Removes what a crash has left of seals. Raises SpanGone where records were lost, StoreUnavailable."""
        starts = await self._log.starts(sorted({partition.topic for partition in partitions}))
        lanes, tails = await asyncio.to_thread(self._load, partitions, starts)
        gone = {str(one): starts[one] for one, lane in lanes.items() if lane.expected is not None and starts.get(one, 0) > lane.next}
        if gone:
            raise SpanGone(gone)
        self._lanes.update(lanes)
        for partition, tail in tails.items():
            self._seals.note(partition, tail)
        return {partition: lane.next for partition, lane in lanes.items() if lane.expected is not None}

    async def stored(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As ``ports.LooksFirst``: another member may hold these partitions, or take them just now."""
        return await asyncio.to_thread(self._marks, partitions)

    def _marks(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        indexes = {partition: self._store.index(partition) for partition in partitions}
        return {partition: mark.next for partition, index in indexes.items() if index is not None and (mark := index.mark()) is not None}

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        """As the port says; there are never letters. Raises RuntimeError before ``positions``."""
        lane = self._lanes.get(batch.topic_partition)
        if lane is None:
            raise RuntimeError(f"positions() of {batch.topic_partition} come before its batches")
        fresh = batch.since(lane.next)
        if fresh is not None:
            if fresh.offsets[0] > lane.next and lane.jumped is None:
                lane.jumped = lane.next  # transaction markers, or a loss: flush asks the log
            lane.records += judge(fresh, lane.repeats)
            self._waiting += len(fresh)
            lane.newest_ms = fresh.timestamps_ms[-1]
        lane.next = max(lane.next, batch.next_offset)
        return ()

    def wants_flush(self, *, interval_over: bool) -> bool:
        """As the port says, but once a second unless much waits: a flush is a transaction for each partition."""
        return interval_over and (self._waiting >= _MANY or self._clock.monotonic() - self._flushed_s >= _PAUSE_S)

    async def flush(self) -> Mapping[TopicPartition, int]:
        """As the port says, a transaction for each partition: what is written before an error stays written, and counts.

        Raises SpanGone, too. After PositionConflict everything of that partition is forgotten; ask for ``positions`` again.
        """
        taken = {partition: lane.take() for partition, lane in self._lanes.items() if lane.is_behind}
        self._waiting, self._flushed_s = 0, self._clock.monotonic()
        try:
            await self._check_jumps(taken)
            await self._write(taken)
        finally:
            for partition, unwritten in taken.items():
                if partition in self._lanes:
                    self._lanes[partition].give_back(unwritten)
        await self._watch()
        return {partition: lane.expected for partition, lane in self._lanes.items() if lane.expected is not None}

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        """As the port says."""
        for partition in partitions:
            if self._lanes.pop(partition, None) is not None:
                for metric in (ARCHIVE_UNARCHIVED, ARCHIVE_HEADROOM):  # somebody else tells from here on
                    self._telemetry.observe(metric, math.nan, topic=partition.topic, partition=str(partition.partition))
        self._seals.forget(partitions)

    async def sealed(self) -> None:
        """Waits until every tail that is due is sealed, or its seal has failed."""
        await self._seals.settled()

    async def close(self) -> None:
        """Waits for the seal that is under way. The store belongs to who opened it."""
        await self._seals.close()

    def cancel(self) -> None:
        """Ends without waiting; for who closes the store under it."""
        self._seals.cancel()

    def _load(
        self, partitions: Sequence[TopicPartition], starts: Mapping[TopicPartition, int]
    ) -> tuple[dict[TopicPartition, _Lane], dict[TopicPartition, Tail]]:
        lanes, tails = {}, {}
        for partition in partitions:
            index = self._store.index(partition)
            mark = index.mark() if index is not None else None
            if index is None or mark is None:
                start = starts.get(partition, 0)
                lanes[partition] = _Lane(start, start, None, RepeatFilter())
            else:
                self._sealer.clean(partition)
                lanes[partition] = _Lane(mark.first, mark.next, mark.next, RepeatFilter.from_bytes(mark.repeats))
                tails[partition] = index.tail()
        return lanes, tails

    async def _check_jumps(self, taken: Mapping[TopicPartition, _Taken]) -> None:
        """An offset that nobody has is no loss; one below the log's start may have been a record."""
        jumps = {partition: one.jumped for partition, one in taken.items() if one.jumped is not None}
        if not jumps:
            return
        starts = await self._log.starts(sorted({partition.topic for partition in jumps}))
        gone = {}
        for partition, jumped in jumps.items():
            lane, start = self._lanes[partition], starts.get(partition, 0)
            if lane.expected is None and jumped == lane.first:
                lane.first = max(lane.first, start)  # nothing was archived before, so the archive begins where the log does
            elif start > jumped:
                gone[str(partition)] = start
        if gone:
            raise SpanGone(gone)

    async def _write(self, taken: dict[TopicPartition, _Taken]) -> None:
        """Takes out of ``taken`` what it has written; raises what came in between."""
        now_us, lanes = self._clock.now_us(), {partition: self._lanes[partition] for partition in taken}
        writes = {
            partition: Append(lane.expected, lane.first, taken[partition].next, taken[partition].repeats, taken[partition].records, now_us)
            for partition, lane in lanes.items()
        }
        tails, failed = await asyncio.to_thread(self._append, writes)
        for partition, tail in tails.items():
            del taken[partition]
            lanes[partition].expected = writes[partition].next
            self._telemetry.count(ARCHIVED, len(writes[partition].records), topic=partition.topic)
            self._seals.note(partition, tail)
        if failed is not None:
            if isinstance(failed, PositionConflict):
                self.drop([next(iter(taken))])
            raise failed
        for partition in tails:
            await self._seals.ease(partition)

    def _append(self, writes: Mapping[TopicPartition, Append]) -> tuple[dict[TopicPartition, Tail], Exception | None]:
        """One partition after the other, up to one that fails: the tails of those before it, and why it did."""
        tails: dict[TopicPartition, Tail] = {}
        try:
            for partition, write in writes.items():
                index = self._store.made(partition)
                index.append(write)
                tails[partition] = index.tail()
        except Exception as error:  # noqa: BLE001  # raised by who gets it
            return tails, error
        return tails, None

    async def _watch(self) -> None:
        """Tells how far the archive is behind, and how long the log will still have what is missing."""
        now = self._clock.monotonic()
        if not self._lanes or (self._watched is not None and now - self._watched < _WATCH_S):
            return
        self._watched = now
        topics = sorted({partition.topic for partition in self._lanes})
        archived = {partition: lane.next for partition, lane in self._lanes.items()}
        starts, ends = await self._log.starts(topics), await self._log.ends(topics)
        now_ms = self._clock.now_us() // 1_000
        for partition, lane in self._lanes.items():
            topic = self._catalogue.named(partition.topic)
            if topic is None or partition not in ends or partition not in archived:
                continue
            left = headroom(
                archived=archived[partition],
                log_start=starts.get(partition, 0),
                log_end=ends[partition],
                oldest_ms=lane.newest_ms if lane.newest_ms != -1 else None,
                retention_ms=topic.retention_ms,
                now_ms=now_ms,
            )
            labels = {"topic": partition.topic, "partition": str(partition.partition)}
            self._telemetry.observe(ARCHIVE_UNARCHIVED, left.unarchived, **labels)
            seconds = (topic.retention_ms if left.headroom_ms is None else left.headroom_ms) / 1_000
            self._telemetry.observe(ARCHIVE_HEADROOM, max(0.0, seconds), **labels)
            about = {"follower": self.name, **partition._asdict()}
            if left.alarm == "ahead":
                text = "%s: %d is archived next, and the log ends at %d: it is an older copy, or another, and what it gets is passed over"
                log.warning(text, partition, archived[partition], ends[partition], extra=about)
            elif left.alarm != "ok":
                log.warning("%s: archive %s, %d records are not archived", partition, left.alarm, left.unarchived, extra=about)
