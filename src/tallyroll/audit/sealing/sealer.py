"""The follower ``audit``: sealed records are checked and appended to the ledger, every other event gets a derived entry.

Records, tree and position are stored in one transaction, so nothing is sealed twice and nothing is left out. Audit has no dead
letters: what cannot be read, or is not what it should be, is sealed as a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from tallyroll.audit.ledger import records
from tallyroll.audit.ledger.chain import Draft, Run
from tallyroll.audit.ledger.envelope import record_in
from tallyroll.audit.ledger.facts import facts_of
from tallyroll.audit.ledger.layout import CLOCK_BOUND_S, REGISTRY, Kind
from tallyroll.audit.ledger.partition import GAP, REPEAT, TAKEN, Offered, Verdict
from tallyroll.audit.ledger.records import Missing
from tallyroll.audit.ledger.subjects import DrawnKeys, parts_about, text_of
from tallyroll.audit.sealing.breaches import Breaches
from tallyroll.audit.sealing.deriving import Derived, Deriver, Marks, told_apart
from tallyroll.audit.sealing.drafts import DAY_US, OWN_KEEP_DAYS, drafts_of
from tallyroll.audit.sealing.finding import Finding
from tallyroll.audit.sealing.hearing import AskLog
from tallyroll.audit.sealing.intake import Intake
from tallyroll.audit.sealing.lane import Lane
from tallyroll.audit.sealing.lost import look_for_lost, look_for_lost_log, rewound
from tallyroll.audit.sealing.options import SealerOptions
from tallyroll.audit.sealing.publishers import Publishers
from tallyroll.audit.sealing.registrar import Registrar
from tallyroll.audit.sealing.registry import Admission, ChainKey, partition_counts
from tallyroll.audit.sealing.separating import Separating
from tallyroll.audit.sealing.telling import Publish, Telling
from tallyroll.errors import KeyRingUnavailable, PositionConflict, StoreUnavailable, Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.topics import AUDIT_TOPIC, Catalogue
from tallyroll.ports import Cipher, Clock, DeadLetter, KeyRing, LedgerCommit, LedgerFacts, LedgerStore
from tallyroll.telemetry import AUDIT_FINDINGS, AUDIT_SEALED, FOLLOW_REPEATS, Counters, Telemetry

_SECOND_US: Final = 1_000_000
_TOLD_EACH_S: Final = 0.05  # who watches in real time hears of a finding within a tenth of a second


class AuditSealer:
    """Implements ``ports.Follower``. One process holds a partition at a time; PositionConflict settles who.

    ``flush`` and what ``Upkeep`` does beside it take turns under ``turn``. After a failed flush the same bytes are stored by the
    next one; after PositionConflict, or a partition lost with something pending, a new writer epoch begins there.
    The store stays open when the follower is closed.
    """

    def __init__(  # noqa: PLR0913  # what a sealer touches
        self,
        store: LedgerStore,
        ring: KeyRing,
        cipher: Cipher,
        registrar: Registrar,
        deriver: Deriver,
        catalogue: Catalogue,
        *,
        clock: Clock,
        heartbeat_s: int = 5,
        options: SealerOptions | None = None,
        publish: Publish | None = None,
        telemetry: Telemetry | None = None,
        check: Callable[[Sequence[int]], Awaitable[None]] | None = None,
        committed: Callable[[], Awaitable[Mapping[TopicPartition, int]]] | None = None,
        log_spans: AskLog | None = None,
        separating: Separating | None = None,
        breaches: Breaches | None = None,
    ) -> None:
        self.registrar = registrar
        self.lanes: dict[TopicPartition, Lane] = {}
        self.turn = asyncio.Lock()
        self._store, self._ring = store, ring
        self._drawn = DrawnKeys(ring)
        self._cipher = cipher
        self._deriver = deriver
        self._catalogue = catalogue
        self._clock, self._heartbeat_s = clock, heartbeat_s
        self._intake = Intake(ring, heartbeat_s=heartbeat_s)
        self._options = options or SealerOptions()
        self._telling = Telling(publish, registrar.log_id, monotonic=clock.monotonic)
        self._telemetry = telemetry or Counters()
        self._check, self._committed, self._log_spans = check, committed, log_spans
        self._separating, self._breaches = separating, breaches
        self._findings, self._told_s = list[Finding](), float("-inf")
        self._unstored: dict[str, Marks] = {}  # by audit id, of what was taken in since the commit of those that are being stored
        self._storing: Mapping[str, Marks] = {}
        self._conflict: PositionConflict | None = None
        self._drifting: set[ChainKey] = set()
        self._latest_us = 0  # of the wall clock: where that is set back, what was sealed before is not ahead
        self._start: Callable[[], None] = lambda: None
        self._stops: Sequence[Callable[[], Awaitable[object]]] = ()

    def beside(self, start: Callable[[], None], *stops: Callable[[], Awaitable[object]]) -> None:
        """``start`` is called when there is something to keep up, ``stops`` one after the other in the end."""
        self._start, self._stops = start, stops

    @property
    def name(self) -> str:
        """``audit``."""
        return "audit"

    @property
    def topics(self) -> Sequence[str]:
        """``audit-events`` and every topic that users' events go to."""
        return [topic.base for topic in self._catalogue.topics if topic.user or topic.base == AUDIT_TOPIC]

    async def stored(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As the port says: ``positions`` means that the partitions are this process's from now on."""
        return await self._store.progress(partitions)

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As the port says. Raises LedgerTampered where the stored end of a partition is not what was noted, or all of it is gone.

        What the log knows to have been stored once is that: an empty store beside it would be filled anew, and signed as another
        history. A store that is only behind it goes on, with a finding. A log that ends before what was sealed of it is not that log.
        """
        async with self.turn:
            self._conflict = None
            self.drop(partitions)
            registry = await self.registrar.refresh()
            committed = {} if self._committed is None else await self._committed()
            before = {one: registry.numbers.get(one, one.partition) for one in partitions}
            known = await self._store.progress(partitions)
            look_for_lost(committed, known, before)
            look_for_lost_log(known, None if self._log_spans is None else await self._log_spans(), before)
            if any(map(self.registrar.burnt, [REGISTRY, *before.values()])):
                await self._commit()
                self.registrar.begin()
            for numbered in registry.unnumbered(partition_counts(self._catalogue, partitions)):
                self.registrar.record(Kind.KEY, records.topic_key(numbered.topic, numbered.first, numbered.partitions, numbered.number))
            numbers = {one: self._number(one) for one in partitions}
            if self._check is not None:
                await self._check(sorted(numbers.values()))
            stored, tails = await self._store.progress(partitions), await self._store.tails(ended=True)
            registry = await self.registrar.refresh()  # behind the tails: whoever has records by then is admitted there
            for one, number in numbers.items():
                lane = self.lanes[one] = Lane(self.registrar.log_id, one, number, stored.get(one), tails.get(number), self._store.tip)
                lane.settle(registry)
            if self._separating is not None:
                await self._separating.remember()
            for finding in rewound(committed, stored, numbers):
                self.report(finding)
        self._start()
        return stored

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        """As the port says; there are never dead letters. Blocks for look-ups.

        Raises StoreUnavailable, also where the key ring cannot be read. What was taken in before stays so, and is passed over when
        the batch is offered again.
        """
        if self._conflict is not None:
            raise self._conflict
        lane = self.lanes.get(batch.topic_partition)
        if lane is None:
            raise RuntimeError(f"positions() of {batch.topic_partition} come before its batches")
        fresh = batch.since(lane.next)
        if fresh is not None:
            topic = self._catalogue.named(batch.topic)
            base = batch.topic if topic is None else topic.base
            try:
                self._take_sealed(lane, fresh) if base == AUDIT_TOPIC else self._derive(lane, fresh, base)
            except Exception as error:
                lane.publishers = Publishers()  # it has seen the batch already, which is offered again
                if isinstance(error, KeyRingUnavailable):
                    raise StoreUnavailable(error.where, error.reason) from error  # to be tried again, never put aside
                raise
        lane.next = max(lane.next, batch.next_offset)
        return ()

    def wants_flush(self, *, interval_over: bool) -> bool:
        """As the port says; a finding does not wait for the interval, and a flood of them does not make a flush of each."""
        told = bool(self._findings) and self._clock.monotonic() - self._told_s >= _TOLD_EACH_S
        return told or interval_over or self._conflict is not None

    async def flush(self) -> Mapping[TopicPartition, int]:
        """As the port says. After PositionConflict everything in memory is forgotten; ask for ``positions`` again."""
        async with self.turn:
            if self._conflict is not None:
                raise self._conflict
            await self._commit()
            return {one: lane.stored for one, lane in self.lanes.items() if lane.stored is not None}

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            lane = self.lanes.pop(partition, None)
            if lane is not None and lane.has_pending:
                self.registrar.forget(lane.number)

    async def close(self) -> None:
        """Ends the writer's epoch, and forgets everything in memory."""
        self.drop(list(self.lanes))
        for stop in self._stops:
            await stop()
        await self._telling.settled()

    # For upkeep, under ``turn``

    async def store_now(self, *, always: bool = True) -> None:
        """Stores what was taken in; else only where a finding or the registry waits: what records bring is flushed soon enough.

        Where another writer was faster, the next ``flush`` says so.
        """
        if self._conflict is None and (always or self._findings or self.registrar.has_pending):
            try:
                await self._commit()
            except PositionConflict as error:
                self._conflict = error

    def beat(self) -> None:
        """Says how far this writer has come."""
        self._look_at_clock()
        lane = self._first_lane()
        if lane is not None:
            now_us = self.registrar.now_us()
            day = now_us // DAY_US + OWN_KEEP_DAYS
            draft = Draft(Kind.HEADS, records.heads(self.registrar.heads()), (), 0, day)
            run = Run.of(self.registrar.seal(lane.number, draft, now_us))
            lane.take_own(run, [LedgerFacts(Kind.HEADS, now_us, 0, day)], [None], now_us, self.registrar.mac_epoch)

    def is_behind(self, by_us: int) -> bool:
        """Whether records that come in now were sealed longer ago: then a silence is the log's, not a writer's."""
        now_us, now_s = self._clock.now_us(), self._clock.monotonic()
        return any(lane.seen_s > now_s - by_us / _SECOND_US and lane.seen_us < now_us - by_us for lane in self.lanes.values())

    async def look_around(self) -> None:
        """What entries show together with those that other processes have sealed. Raises StoreUnavailable."""
        if self._separating is not None:
            held = sum(one.topic == self._catalogue[AUDIT_TOPIC].name for one in self.lanes)
            alone = held == self._catalogue[AUDIT_TOPIC].partitions
            for finding in await self._separating.look_around(self.registrar.log_id, alone=alone):
                self.report(finding)

    def report(self, finding: Finding) -> None:
        """Seals a finding that no record brought along."""
        lane = self._first_lane()
        if lane is not None:
            self._find(lane, finding, None)

    # What arrives

    def _look_at_clock(self) -> int:
        now_us = self._clock.now_us()
        self._latest_us = max(self._latest_us, now_us)
        return now_us

    def _take_sealed(self, lane: Lane, batch: Batch) -> None:
        now_us, taken, repeats = self._look_at_clock(), 0, 0
        try:
            for index, value in enumerate(batch.values):
                verdict = self._take_one(lane, value, batch.position(index), now_us)
                taken += verdict in TAKEN
                repeats += verdict is REPEAT
                lane.next = batch.offsets[index] + 1
        finally:
            if taken:
                lane.seen_s = self._clock.monotonic()
                self._telemetry.count(AUDIT_SEALED, taken, outcome="explicit")
            if repeats:
                self._telemetry.count(FOLLOW_REPEATS, repeats, follower=self.name)

    def _take_one(self, lane: Lane, value: bytes | None, position: Position, now_us: int) -> Verdict:
        """What it was: BROKEN also for what is a finding for another reason."""
        try:
            _, record, raw = record_in(value)
        except Undecodable as error:
            self._find(lane, Finding("unreadable", str(position), error.reason, value or b""), position)
            return Verdict.BROKEN
        arrived = self._intake.judge(lane, record, self.registrar.registry, self._admit, self._latest_us)
        offered = arrived.offered
        if arrived.code:
            self._find(lane, Finding(arrived.code, str(position), offered.place, value or b""), position)
            return Verdict.BROKEN
        if offered.verdict is not REPEAT:
            self._append(lane, offered, raw, position, now_us)
        return offered.verdict

    def _append(self, lane: Lane, offered: Offered, raw: bytes, position: Position, now_us: int) -> None:
        core, record = offered.core, offered.record
        assert core is not None  # noqa: S101  # judged
        facts = facts_of(record, core)
        shown = self._separating.look(record, facts, position) if self._separating is not None else ()  # asks the ring: may raise
        if offered.verdict is GAP:
            missing = Missing(lane.number, core.chain.writer, core.chain.epoch, offered.missing, core.seq)
            self.registrar.record(Kind.GAP, records.gap(missing, "not delivered"))
            self._find(lane, Finding("gap", str(position), f"{core.seq - offered.missing} of {offered.place}"), position)
        chain = (core.chain.writer, core.chain.epoch)
        ahead_s = (core.ts_us - self._latest_us) // _SECOND_US
        if ahead_s > CLOCK_BOUND_S and chain not in self._drifting:
            self._drifting.add(chain)  # said once an epoch
            self._find(lane, Finding("drift", str(position), f"{ahead_s} s: {offered.place}"), position)
        lane.take(offered, raw, facts, position, now_us)
        lane.seen_us = core.ts_us
        for finding in shown:
            self._find(lane, finding, position)

    def _admit(self, chain: ChainKey, admission: Admission) -> None:
        self.registrar.record(Kind.KEY, records.writer_key(*chain, admission.commitment, admission.opened_us, admission.heartbeat_s))

    # What is derived

    def _derive(self, lane: Lane, batch: Batch, base: str) -> None:
        """All of a batch, or nothing where a key or the store cannot be had."""
        found, places = self._deriver.derive(batch, lane.publishers), batch.positions()
        derived = [item for item in found if isinstance(item, Derived)]
        known = self._store.known([item.found_by[0] for item in derived]) if derived else {}
        verdicts = told_apart(derived, known, (self._unstored, self._storing), partial(text_of, self._ring, self._cipher))
        if len(derived) == len(found) and not any(verdicts):  # the usual case
            self._seal(lane, derived, places, self._options.days(base))
            return
        verdict_of = iter(verdicts)
        fresh, sources, repeats = list[Derived | Finding](), list[Position](), 0
        for item, place, value in zip(found, places, batch.values, strict=True):
            if isinstance(item, Undecodable):
                fresh.append(Finding("unreadable", str(place), item.reason, value or b""))
            elif (verdict := next(verdict_of)) is None:
                fresh.append(item)
            elif verdict == "same_id":
                fresh.append(Finding("same_id", str(place), f"entry {item.found_by[0]}", value or b""))
            else:
                repeats += 1
                continue
            sources.append(place)
        self._seal(lane, fresh, sources, self._options.days(base))
        if repeats:
            self._telemetry.count(FOLLOW_REPEATS, repeats, follower=self.name)

    # Writing

    def _find(self, lane: Lane, finding: Finding, position: Position | None) -> None:
        self._seal(lane, [finding], [position], OWN_KEEP_DAYS)

    def _seal(self, lane: Lane, items: Sequence[Derived | Finding], sources: Sequence[Position | None], keep_days: int) -> None:
        """Entries and findings with their positions, at one moment: keys first, which may fail, then all of them or none."""
        if not items:
            return
        findings = [item for item in items if isinstance(item, Finding)]
        if findings and self._breaches is not None:
            items = [self._breaches.judged(item) if isinstance(item, Finding) else item for item in items]  # the same, and what it breaks
            findings = [item for item in items if isinstance(item, Finding)]
        now_us = self.registrar.now_us()
        parts = iter(parts_about(self._ring, [sentence for item in items for sentence in item.sentences], self._drawn.take))
        drafts, facts = drafts_of(items, parts, log_id=self.registrar.log_id, now_us=now_us, keep_days=keep_days)
        lane.take_own(self.registrar.seal_entries(lane.number, drafts, now_us), facts, sources, now_us, self.registrar.mac_epoch)
        self._unstored.update([(item.found_by[0], item.marks) for item in items if isinstance(item, Derived)])
        if len(items) > len(findings):
            self._telemetry.count(AUDIT_SEALED, len(items) - len(findings), outcome="derived")
        for finding in findings:
            self._findings.append(finding)
            self._telemetry.count(AUDIT_FINDINGS, reason=finding.code)

    async def _commit(self) -> None:
        lanes = [lane for lane in self.lanes.values() if lane.has_pending or lane.next != (lane.stored or 0)]
        positions = {lane.where: (lane.stored, lane.next) for lane in lanes}
        appends = [append for lane in lanes for append in lane.pending()]
        findings, storing = self._findings, self._unstored
        self._findings, self._unstored, self._storing, self._told_s = [], {}, storing, self._clock.monotonic()
        try:
            await self.registrar.commit(LedgerCommit(appends, positions))
        except BaseException as error:
            self._findings, self._unstored = [*findings, *self._findings], {**storing, **self._unstored}
            if isinstance(error, PositionConflict):
                self.lanes.clear()
                self._findings.clear()
                self._unstored.clear()
            raise
        finally:
            self._storing = {}
        for lane in lanes:
            lane.taken(positions[lane.where][1])
        self._telling.tell(findings)
        if self._breaches is not None and findings:
            await self._breaches.say(findings, self.registrar.log_id)

    def _first_lane(self) -> Lane | None:
        lanes = [lane for lane in self.lanes.values() if not self.registrar.burnt(lane.number)]
        return min(lanes, key=lambda lane: lane.number, default=None)

    def _number(self, partition: TopicPartition) -> int:
        if partition.topic == self._catalogue[AUDIT_TOPIC].name:
            return partition.partition
        return self.registrar.registry.numbers[partition]
