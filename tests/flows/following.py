"""A follower that keeps account of itself, and a loop over a log in memory: what the loop's tests are written with."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.flows.publishing import Threads, breathe
from tests.patience import PATIENCE_S

from tallyroll.adapters.sqlite.log import SqliteLog
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import PositionConflict, StoreUnavailable, Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.follow.deadletter import DeadLetters, Letter, read_letters
from tallyroll.follow.loop import FollowLoop
from tallyroll.ports import Clock, DeadLetter, Delivered, Encoded, EventLog, Follower
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters
from tallyroll.testing.builders import EventBuilder, RecordBuilder
from tallyroll.testing.clock import FakeClock


class Ledger:
    """A store: what was applied, and up to where, written together. Several followers over it are several processes."""

    def __init__(self) -> None:
        self.positions: dict[TopicPartition, int] = {}
        self.applied: dict[TopicPartition, list[int]] = defaultdict(list)
        self.away = False
        self.flushes = 0
        self.stored: list[int] = []  # records per flush

    def all(self) -> list[int]:
        """Every offset that was applied, over all partitions."""
        return [offset for offsets in self.applied.values() for offset in offsets]


class Accountant:
    """Implements ``ports.Follower``: keeps the offsets it has applied. ``refuses`` may raise for a batch."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        name: str = "accountant",
        topics: Sequence[str] = ("task-events",),
        refuses: Callable[[Batch], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._name = name
        self._topics = topics
        self.refuses = refuses
        self.fresh: dict[TopicPartition, list[int]] = defaultdict(list)
        self.next: dict[TopicPartition, int] = {}
        self.expected: dict[TopicPartition, int] = {}
        self.most_fresh = 0
        self.offered = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def topics(self) -> Sequence[str]:
        return self._topics

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        stored = {partition: self._ledger.positions[partition] for partition in partitions if partition in self._ledger.positions}
        self.expected.update({partition: stored.get(partition, -1) for partition in partitions})
        return stored

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        self.offered += 1
        self.refuses(batch)
        where = batch.topic_partition
        letters = []
        for index in range(len(batch)):
            try:
                batch.event(index)
            except Undecodable as error:
                letters.append(DeadLetter(index, error.reason, type(error).__name__))
            else:
                self.fresh[where].append(batch.offsets[index])
        self.next[where] = batch.next_offset
        self.most_fresh = max(self.most_fresh, sum(map(len, self.fresh.values())))
        return letters

    def wants_flush(self, *, interval_over: bool) -> bool:
        return interval_over

    async def flush(self) -> Mapping[TopicPartition, int]:
        if self._ledger.away:
            raise StoreUnavailable("ledger", "away")
        for where in self.next:
            stored = self._ledger.positions.get(where, -1)
            if stored != self.expected.get(where, -1):
                raise PositionConflict(str(where), stored=stored, expected=self.expected.get(where))
        self._ledger.flushes += 1
        self._ledger.stored.append(sum(len(self.fresh[where]) for where in self.next))
        for where, offset in self.next.items():
            self._ledger.applied[where] += self.fresh.pop(where, [])
            self._ledger.positions[where] = self.expected[where] = offset
        flushed, self.next = self.next, {}
        return flushed

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self.fresh.pop(partition, None)
            self.next.pop(partition, None)
            self.expected.pop(partition, None)

    async def close(self) -> None:
        pass


class Unhurried(Accountant):
    """As above; its store writes only when ``gate`` is open, what was taken before it waited. ``flushing`` while it waits."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        super().__init__(ledger, **options)
        self.gate = asyncio.Event()
        self.flushing = False

    async def flush(self) -> Mapping[TopicPartition, int]:
        fresh, ends = dict(self.fresh), dict(self.next)
        self.fresh.clear()
        self.next.clear()
        self.flushing = True
        await self.gate.wait()
        self.flushing = False
        later, self.fresh = self.fresh, defaultdict(list, fresh)
        later_ends, self.next = self.next, ends
        try:
            return await super().flush()
        finally:
            for where, offsets in later.items():
                self.fresh[where] += offsets
            self.next.update(later_ends)


class SqliteAccountant(Accountant):
    """As above, with the effects in a file: what survives ``kill -9``. Each effect is one row, so doubled ones show."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(Ledger(), **options)
        self._ids: dict[TopicPartition, list[tuple[int, str]]] = defaultdict(list)
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)
        self._connection.executescript(
            "PRAGMA journal_mode = WAL;"
            "CREATE TABLE IF NOT EXISTS position (topic TEXT, partition INT, next INT, PRIMARY KEY (topic, partition));"
            "CREATE TABLE IF NOT EXISTS effect (topic TEXT, partition INT, place INT, id TEXT);"
        )

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        rows = self._connection.execute("SELECT topic, partition, next FROM position").fetchall()
        stored = {TopicPartition(*row[:2]): row[2] for row in rows}
        self.expected.update({partition: stored.get(partition, -1) for partition in partitions})
        return {partition: stored[partition] for partition in partitions if partition in stored}

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        letters = super().apply(batch)
        bad = {letter.index for letter in letters}
        self._ids[batch.topic_partition] += [
            (offset, head.id)  # type: ignore[union-attr]
            for index, (offset, head) in enumerate(zip(batch.offsets, batch.heads(), strict=True))
            if index not in bad
        ]
        return letters

    def wants_flush(self, *, interval_over: bool) -> bool:
        return interval_over

    async def flush(self) -> Mapping[TopicPartition, int]:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for where, offset in self.next.items():
                stored = execute("SELECT next FROM position WHERE topic = ? AND partition = ?", where).fetchone()
                if (stored[0] if stored else -1) != self.expected.get(where, -1):
                    raise PositionConflict(str(where), stored=stored and stored[0], expected=self.expected.get(where))  # noqa: TRY301  # rolled back below
                execute("INSERT OR REPLACE INTO position VALUES (?, ?, ?)", (*where, offset))
                self._connection.executemany("INSERT INTO effect VALUES (?, ?, ?, ?)", [(*where, *item) for item in self._ids[where]])
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
        for where, offset in self.next.items():
            self._ids.pop(where, None)
            self.fresh.pop(where, None)
            self.expected[where] = offset
        flushed, self.next = self.next, {}
        return flushed

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        super().drop(partitions)
        for partition in partitions:
            self._ids.pop(partition, None)

    async def close(self) -> None:
        self._connection.close()


class Office(NamedTuple):
    """What a test of the loop works with."""

    log: EventLog
    catalogue: Catalogue
    settings: Settings
    clock: Clock
    telemetry: Counters
    letters: DeadLetters
    threads: Threads

    def loop(self, *followers: Follower, group: str = "g") -> FollowLoop:
        """A loop over these followers, not started."""
        return FollowLoop(
            self.log, followers, self.catalogue, self.settings,
            group=group, dead_letters=self.letters, clock=self.clock, telemetry=self.telemetry,
        )  # fmt: skip

    async def append(self, records: Sequence[Encoded]) -> list[Position]:
        """Appends and gives where they went."""
        outcomes = await self.log.append(records).settled()
        assert all(isinstance(outcome, Delivered) for outcome in outcomes), outcomes
        return [outcome.position for outcome in outcomes if isinstance(outcome, Delivered)]

    def records(self, count: int, *, seed: int = 0, keys: int = 20) -> list[Encoded]:
        """Records of ``task-events``, spread over its partitions."""
        builder = EventBuilder(seed)
        events = [builder.event(aggregate_id=f"task-{number % keys}", payload={"number": number}) for number in range(count)]
        return RecordBuilder(self.catalogue, seed).encode(events)

    async def until(self, condition: Callable[[], object]) -> None:
        """Lets the loop run until the condition holds; fake time passes meanwhile."""
        deadline = SystemClock().monotonic() + PATIENCE_S
        while not condition():
            assert SystemClock().monotonic() < deadline, "the condition did not come"
            if isinstance(self.clock, FakeClock):
                await self.threads.idle()
                self.clock.advance(0.02)
            await breathe()

    async def passing(self, awaitable: Any) -> Any:
        """The result of something that needs time to pass."""
        task = asyncio.ensure_future(awaitable)
        await self.until(task.done)
        return await task

    async def dead(self, follower: str | None = None) -> list[Letter]:
        """The letters in the log."""
        return [letter async for letter in read_letters(self.log, self.catalogue, follower=follower)]


@asynccontextmanager
async def office(wrap: Callable[[EventLog, Clock], EventLog] | None = None, **settings: Any) -> AsyncIterator[Office]:
    """A log in memory with dead letters, on a clock that the test moves."""
    options = Settings(url="sqlite://:memory:", **settings)
    catalogue, clock, telemetry = catalogue_of(options), FakeClock(), Counters()
    inner = await SqliteLog.open(None, catalogue, clock=clock, session_timeout_ms=3_600_000)  # for no process that stands still
    log = wrap(inner, clock) if wrap is not None else inner
    letters = DeadLetters(log, catalogue, clock=clock, telemetry=telemetry, max_record_bytes=options.max_record_bytes)
    try:
        yield Office(log, catalogue, options, clock, telemetry, letters, Threads(inner))
    finally:
        if log is not inner:
            await log.close()
        await inner.close()


@asynccontextmanager
async def running(desk: Office, loop: FollowLoop) -> AsyncIterator[FollowLoop]:
    """The loop started, and stopped at the end."""
    loop.start()
    try:
        yield loop
    finally:
        await desk.passing(loop.stop())
