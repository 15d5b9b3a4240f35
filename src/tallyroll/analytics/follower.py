"""The follower that makes panes: batches in, pane rows with their positions out, observers in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from tallyroll.analytics.counting import announce, count_run
from tallyroll.analytics.cut import Cut
from tallyroll.analytics.kernel import Kernel
from tallyroll.analytics.lane import HeldRow, Lane, Progressed, held_rows
from tallyroll.analytics.left_out import LEFT_OUT, LeftOut
from tallyroll.analytics.moments import NEVER
from tallyroll.analytics.reading import Schemas
from tallyroll.analytics.run import Observer
from tallyroll.analytics.spec import BUILT_IN, MetricSpec, spec_id
from tallyroll.analytics.windows import USUALLY_KEPT, Retention
from tallyroll.errors import PositionConflict, StoreUnavailable
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.schema import SCHEMAS
from tallyroll.events.topics import Catalogue
from tallyroll.events.types import SYSTEM_TOPIC
from tallyroll.ports import Clock, DeadLetter, DocumentWrite, PaneAt, WindowProgress, WindowStore
from tallyroll.telemetry import FLUSH_SECONDS, HELD_ROWS, PAIRS_EXPIRED, PANES_CLOSED, RUN_SECONDS, WATERMARK_LAG, Counters, Telemetry

log: Final = logging.getLogger("tallyroll.analytics")

RUN_S: Final = 0.02  # how long records may wait for their run at most: part of an alert's 100 ms
_REST: Final = 2.0  # after a run the next one waits so many times as long as it took, within that: few records cost as much as some
_LATE: Final = 0.05  # who is behind the log rests for such a part of how late he is, too: one run for many records costs the least
_LATE_MOST_S: Final = 0.25
_MANY: Final = 300  # records of a run, for which one is behind if they are late
AWAY_S: Final = 0.2  # how long a store that was away is left alone
TURN_S: Final = 0.005  # how long a flush may hold up others that share the event loop
_SHORT_TURN_S: Final = 0.001  # the same while an alert is on its way, which needs the loop some times
_ON_ITS_WAY_S: Final = 0.05  # since its storing began
MAX_ROWS: Final = 150_000  # rows in memory that need not be there; some 3 KB each
KEYS: Final = "analytics-keys"

_encode: Final = msgspec.msgpack.Encoder().encode
_Kept = tuple[str, dict[str, tuple[int, dict[str, int]]]]
_decode: Final = msgspec.msgpack.Decoder(_Kept).decode


class _Flush:
    """What one flush stores, taken at one moment. ``asked``: the observers whose documents are in it."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self.lanes: dict[Lane, Progressed] = {}
        self.documents: list[DocumentWrite] = []
        self.asked: list[Observer] = []


class AnalyticsFollower:
    """Keeps the panes of some metrics, over every user topic but ``system-events``: anomalies are not measured.

    A record that is no event, has no readable time, or was written under a schema version that is not known here is counted
    and left out; it is never put aside, since the state follower does that with the same record. Its place is counted as read.
    ``flush`` stores changed pane rows, open pairs, keys, positions and the documents of the observers in one transaction.
    Panes made by other metrics are made anew, as far back as the log goes. The store and the observers stay the caller's.
    ``wants_flush`` runs the kernel, at most 20 ms after the last run, so it has to be asked; more seldom where records are late
    anyway. What an observer that goes ahead has is stored by itself, ahead of the panes it was seen in, and at once if it cannot
    wait: after a crash these are read again, and so is it.
    Records are read by the compiled scanner where it is installed, unless ``compiled`` says no; panes are the same. Without it,
    and where another follower of the loop reads whole heads, give that one the batches first: then they are decoded once.
    Values that come late count as long as panes of their time are kept, which ``retention`` says; what came
    later, or could not be read, is counted in a document of its partition.
    Not promised: that an event is in a pane before ``flush``.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        store: WindowStore,
        catalogue: Catalogue,
        specs: Sequence[MetricSpec] = BUILT_IN,
        *,
        clock: Clock,
        telemetry: Telemetry | None = None,
        observers: Sequence[Observer] = (),
        schemas: Schemas = SCHEMAS,
        max_rows: int = MAX_ROWS,
        retention: Retention = USUALLY_KEPT,
        compiled: bool = True,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._specs = specs
        self._clock = clock
        self._telemetry = telemetry or Counters()
        self._observers = observers
        self._leading = [observer for observer in observers if observer.goes_ahead]
        self._schemas = schemas
        self._max_rows = max_rows
        self._spec_id = spec_id(specs)
        self._disorder_us = round(max(spec.disorder_s for spec in specs) * 1e6)
        self._final_us = round(max(spec.disorder_s + spec.lateness_s for spec in specs) * 1e6)
        self._kernel = Kernel(specs, schemas, retention, compiled=compiled)
        self._lanes: dict[TopicPartition, Lane] = {}
        self._waiting = 0
        self._newest_ms = -1
        self._run_due = 0.0
        self._ahead: asyncio.Task[StoreUnavailable | None] | None = None
        self._ahead_due = 0.0
        self._on_its_way_until = 0.0
        self.rebuilding: set[TopicPartition] = set()
        announce(self._telemetry, [catalogue[base].name for base in self.topics], specs)

    @property
    def name(self) -> str:
        """``analytics``."""
        return "analytics"

    @property
    def topics(self) -> Sequence[str]:
        """Every topic that users' events go to but the one of anomalies."""
        return tuple(topic.base for topic in self._catalogue.topics if topic.user and topic.base != SYSTEM_TOPIC)

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As the port says; a partition whose panes other metrics made is left out, so that it is read from its start."""
        stored = await self._store.load_progress(partitions)
        changed = [partition for partition in partitions if not self._is_loaded(partition, stored.get(partition))]
        known = any(partition in stored for partition in changed)
        keys, left_out = [await self._store.documents(kind) if known else {} for kind in (KEYS, LEFT_OUT)]
        others = [str(one) for one in changed if one in stored and stored[one].spec_id != self._spec_id]
        if others:
            log.warning(
                "%s: stored by other metrics; the panes are made anew from the log", ", ".join(others), extra={"follower": self.name}
            )
        for partition in changed:
            self.drop([partition])
            self._lanes[partition] = lane = await self._open(partition, stored.get(partition), keys.get(str(partition)))
            if lane.expected is not None:
                lane.left_out = LeftOut.of(left_out.get(str(partition)), self._spec_id)
        return {partition: lane.next for partition in partitions if (lane := self._lanes[partition]).expected is not None}

    async def stored(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As ``ports.LooksFirst``: another member may hold these partitions, or take them just now."""
        found = await self._store.load_progress(partitions)
        return {partition: one.next for partition, one in found.items() if one.spec_id == self._spec_id}

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        """As the port says; there are never letters. Raises RuntimeError before ``positions``."""
        lane = self._lanes.get(batch.topic_partition)
        if lane is None:
            raise RuntimeError(f"positions() of {batch.topic_partition} come before its batches")
        fresh = batch.since(lane.next)
        if fresh is not None:
            if lane.first is None:
                lane.first = fresh.offsets[0]
            lane.batches.append(fresh)
            self._waiting += len(fresh)
            self._newest_ms = fresh.timestamps_ms[-1]
            if self._waiting >= self._kernel.run_rows:
                self._run()
        lane.next = max(lane.next, batch.next_offset)
        return ()

    def wants_flush(self, *, interval_over: bool) -> bool:
        """As the port says."""
        if interval_over or self._clock.monotonic() >= self._run_due:
            self._run()  # also ahead of a flush: what cannot wait is on its way to the store before panes are made
        self._go_ahead()
        return interval_over

    async def flush(self) -> Mapping[TopicPartition, int]:
        """As the port says. After PositionConflict everything in memory is forgotten; ask for ``positions`` again."""
        begin = self._clock.monotonic()
        self._run()
        self._go_ahead()
        flush = self._begin()
        try:
            await asyncio.sleep(0)  # noqa: TID251  # what goes ahead has begun then
            await self._in_turns(flush.cut)
            await self._read_missing(flush.cut)
            await self._store_leading()
            writes = [lane.write(progressed, flush.cut.rows[lane]) for lane, progressed in flush.lanes.items()]
            if writes or flush.documents:
                await self._store.commit(writes, flush.documents)
        except BaseException as error:
            await self._give_back(flush, error)
            raise
        self._stored(flush)
        self._telemetry.observe(FLUSH_SECONDS, self._clock.monotonic() - begin)
        return {partition: lane.expected for partition, lane in self._lanes.items() if lane.expected is not None}

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            lane = self._lanes.pop(partition, None)
            if lane is not None:
                self._waiting -= sum(map(len, lane.batches))
                self._kernel.close(lane)

    async def close(self) -> None:
        """Forgets everything in memory."""
        await self._settle_ahead()
        self.drop(list(self._lanes))

    # Taking over

    def _is_loaded(self, partition: TopicPartition, progress: WindowProgress | None) -> bool:
        """Whether the lane is as the store is: then it need not be read again, however often somebody asks."""
        lane = self._lanes.get(partition)
        if lane is None or lane.batches:
            return False
        expected = progress.next if progress is not None and progress.spec_id == self._spec_id else None
        return lane.expected == expected and lane.next == (expected or 0)

    async def _open(self, partition: TopicPartition, progress: WindowProgress | None, keys: bytes | None) -> Lane:
        if progress is not None and progress.spec_id != self._spec_id:
            self.rebuilding.add(partition)
            progress = None
        if progress is None:
            return self._kernel.open(partition)
        complete_s = (progress.watermark_us - self._disorder_us) // 1_000_000
        pairs = await self._store.load_pairs(partition)
        recent = await self._store.load_recent(partition, complete_s)
        lane = self._kernel.open(partition, pairs)
        lane.resume(progress, recent, complete_s)
        kept = _decode(keys) if keys is not None else ("", {})
        if kept[0] == self._spec_id:
            for table, admitted in zip(self._kernel.tables, lane.admitted, strict=True):
                if table.name in kept[1]:
                    admitted.load(kept[1][table.name])
        return lane

    def _keys_of(self, lane: Lane) -> DocumentWrite:
        """Which keys have a place. Written when one came, or when the day is another: seldom, once the keys are known."""
        dumped = {table.name: keys.dump() for table, keys in zip(self._kernel.tables, lane.admitted, strict=True) if keys.count}
        return DocumentWrite(KEYS, str(lane.partition), _encode((self._spec_id, dumped)))

    # Counting and storing

    def _run(self) -> None:
        if not self._waiting:
            return
        begin, now_us = self._clock.monotonic(), self._clock.now_us()
        late_s = now_us / 1_000_000 - self._newest_ms / 1_000 if self._waiting >= _MANY and self._newest_ms >= 0 else 0.0
        self._waiting = 0
        run = self._kernel.run(now_us, observe=bool(self._observers))
        if run is not None:
            for observer in self._observers:
                observer.observed(run)
            count_run(self._telemetry, run.tally)
        end = self._clock.monotonic()
        self._run_due = end + max(min(RUN_S, _REST * (end - begin)), min(_LATE * late_s, _LATE_MOST_S))
        self._telemetry.observe(RUN_SECONDS, end - begin)

    # Storing

    def _begin(self) -> _Flush:
        """Takes what is to be stored."""
        flush = _Flush(self._kernel.cut())
        for lane in self._lanes.values():
            if lane.next != (lane.expected or 0):
                flush.lanes[lane] = progressed = lane.take_progress(self._spec_id)
                if progressed.admitted:
                    flush.documents.append(self._keys_of(lane))
                if progressed.left_out is not None:
                    flush.documents.append(DocumentWrite(LEFT_OUT, str(lane.partition), progressed.left_out))
        for observer in self._observers:
            if not observer.goes_ahead:
                flush.documents += observer.take_documents()
                flush.asked.append(observer)
        return flush

    async def _read_missing(self, cut: Cut) -> None:
        """Late values whose panes are not in memory any more: reads these, and counts into them."""
        found = {lane: await asyncio.to_thread(self._read_rows, lane.partition, wanted) for lane, wanted in cut.missing().items()}
        if found:
            for lane, rows in found.items():
                lane.hold(rows)
            await self._in_turns(cut.put_left())  # up to its first step nothing else may happen: what is held is put first

    async def _in_turns(self, steps: Iterable[None]) -> None:
        """Does the steps, and lets others have the event loop now and then: records are read and looked at between."""
        turn = self._clock.monotonic()
        for _ in steps:
            now = self._clock.monotonic()
            if now - turn >= (_SHORT_TURN_S if now < self._on_its_way_until else TURN_S):
                await asyncio.sleep(0)  # noqa: TID251  # as said
                turn = self._clock.monotonic()

    def _read_rows(self, partition: TopicPartition, wanted: Sequence[PaneAt]) -> list[HeldRow]:
        return held_rows(wanted, self._store.load_rows(partition, wanted))

    def _go_ahead(self) -> None:
        """Begins to store what cannot wait, unless something is under way, or the store is away."""
        if (self._ahead is None or self._ahead.done()) and self._clock.monotonic() >= self._ahead_due:
            urgent = [observer for observer in self._leading if observer.is_urgent]
            self._ahead = self._go(urgent) if urgent else None
            if urgent:
                self._on_its_way_until = self._clock.monotonic() + _ON_ITS_WAY_S

    async def _store_leading(self) -> None:
        """Stores all that goes ahead: what followed from these records has to be there before they count as read."""
        await self._settle_ahead()
        self._ahead = self._go(self._leading)
        failed = await self._settle_ahead()
        if failed is not None:
            raise failed

    def _go(self, observers: Sequence[Observer]) -> asyncio.Task[StoreUnavailable | None]:
        return asyncio.create_task(self._store_ahead(observers), name="analytics, ahead")

    async def _store_ahead(self, observers: Sequence[Observer]) -> StoreUnavailable | None:
        """Stores the documents of these observers by themselves. One at a time: who was asked has to be answered first."""
        documents = [document for observer in observers for document in observer.take_documents()]
        try:
            if documents:
                await self._store.commit([], documents)
        except BaseException as error:
            for observer in observers:
                observer.give_back()
            if not isinstance(error, StoreUnavailable):
                raise
            self._ahead_due = self._clock.monotonic() + AWAY_S  # the loop's own flush tells of it, and tries again
            return error
        for observer in observers:
            observer.stored()
        return None

    async def _settle_ahead(self) -> StoreUnavailable | None:
        """Waits for what is being stored ahead, and gives why it was not; raises whatever else came of it, once."""
        failed = None
        while (task := self._ahead) is not None:  # the next may have begun since it ended
            try:
                failed = await task or failed
            finally:
                if self._ahead is task:
                    self._ahead = None
        return failed

    async def _give_back(self, flush: _Flush, error: BaseException) -> None:
        flush.cut.give_back()
        self._kernel.end_cut()
        for lane, progressed in flush.lanes.items():
            lane.give_back(progressed, flush.cut.rows[lane])
        for observer in flush.asked:
            observer.give_back()
        if isinstance(error, PositionConflict):
            await self._settle_ahead()
            self.drop(list(self._lanes))
            for observer in self._observers:
                observer.forget()

    def _stored(self, flush: _Flush) -> None:
        self._kernel.end_cut()
        for observer in flush.asked:
            observer.stored()
        for lane, progressed in flush.lanes.items():
            lane.stored(progressed)
            self.rebuilding.discard(lane.partition)
        self._shrink()

    def _shrink(self) -> None:
        """Forgets rows that nothing can change any more; with too many in memory, all that are closed."""
        bound_us = self._final_us
        if sum(lane.held for lane in self._lanes.values()) > self._max_rows:
            bound_us = self._disorder_us
        now_us, expired, held, closed = self._clock.now_us(), 0, 0, 0
        for partition, lane in self._lanes.items():
            if lane.watermark_us > NEVER:
                lane.pairs.sweep(lane.watermark_us)
                closed += lane.close_panes((lane.watermark_us - self._disorder_us) // 1_000_000)
                lane.evict((lane.watermark_us - bound_us) // 1_000_000)
                labels = {"topic": partition.topic, "partition": str(partition.partition)}
                self._telemetry.observe(WATERMARK_LAG, max(0.0, (now_us - lane.watermark_us) / 1e6), **labels)
            expired += lane.pairs.take_expired()
            held += lane.held
        self._kernel.sweep()
        self._telemetry.observe(HELD_ROWS, held)
        self._telemetry.count(PAIRS_EXPIRED, expired)
        self._telemetry.count(PANES_CLOSED, closed)
