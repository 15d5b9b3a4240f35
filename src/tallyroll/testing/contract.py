"""What contract suites are written with: plain checks, clients that are closed again, a member of a group that keeps account of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

from tallyroll.adapters.system import SystemClock
from tallyroll.errors import PositionConflict, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue, Topic
from tallyroll.events.types import TASK_TOPIC
from tallyroll.ports import Delivered, Encoded, EventLog, Span, Subscription
from tallyroll.testing.builders import numbered

COMES_S = 60.0
"""How long a case waits for what has to come: a bound that only what never comes reaches, however busy the machine is."""

_STEP_MS = 20  # one poll of a member that waits for a condition; short, so that members take turns


@dataclass(frozen=True, slots=True)
class LogUnderTest:
    """A log that a contract suite can run on.

    ``open`` gives one more client of the same log; what it opened is closed by the case. ``catalogue`` has topics that
    exist and are empty, so a suite needs a new one (a prefix of its own) for each case. ``timeout_s`` bounds every wait;
    ``takeover_s`` how long a dead member may keep its partitions, start of a process included. Cases that start
    processes pickle all of this: ``open`` is then a function of a module or a ``functools.partial`` of one.
    """

    catalogue: Catalogue
    open: Callable[[Catalogue], Awaitable[EventLog]]
    timeout_s: float = COMES_S
    takeover_s: float = 60.0

    @property
    def topic(self) -> Topic:
        """The topic that the cases use."""
        return self.catalogue[TASK_TOPIC]

    @property
    def partitions(self) -> list[TopicPartition]:
        """All of its partitions, in order."""
        return self.catalogue.partitions([TASK_TOPIC])

    def numbered(self, count: int, *, first: int = 0, partition: int | None = None) -> list[Encoded]:
        """Records whose value is their number, as of now: a timestamp of long ago would be removed by retention."""
        return numbered(self.catalogue, count, first=first, partition=partition, timestamp_ms=now_ms() + first)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[EventLog]:
        """An open client, closed at the end."""
        log = await self.open(self.catalogue)
        try:
            yield log
        finally:
            await log.close()


def now_ms() -> int:
    """The machine's wall clock."""
    return SystemClock().now_us() // 1_000


def expect(condition: object, what: str) -> None:
    """Raises AssertionError with the promise that was broken; unlike ``assert`` also under ``python -O``."""
    if not condition:
        raise AssertionError(what)


def expect_equal(actual: object, expected: object, what: str) -> None:
    """As ``expect``, and shows both values."""
    if actual != expected:
        raise AssertionError(f"{what}: expected {expected!r}, got {actual!r}")


class Closes(Protocol):
    """Anything that a case opens."""

    async def close(self) -> None:
        """Ends it."""


_Opened = TypeVar("_Opened", bound=Closes)


@asynccontextmanager
async def opened(*openers: Callable[[], Awaitable[_Opened]]) -> AsyncIterator[list[_Opened]]:
    """One client of each opener, closed at the end."""
    async with AsyncExitStack() as stack:
        clients: list[_Opened] = []
        for opener in openers:
            clients.append(await opener())
            stack.push_async_callback(clients[-1].close)
        yield clients


async def refused(call: Awaitable[object]) -> PositionConflict:
    """The PositionConflict that a call ends with."""
    try:
        await call
    except PositionConflict as error:
        return error
    raise AssertionError("who does not build on what is stored is refused")


async def unwritable(call: Awaitable[object]) -> None:
    """A call that ends with StoreUnavailable."""
    try:
        await call
    except StoreUnavailable:
        return
    raise AssertionError("what is written to a moment is refused")


async def deliver(under_test: LogUnderTest, log: EventLog, records: Sequence[Encoded]) -> list[TopicPartition]:
    """Appends and waits; gives where each record went. AssertionError when one was not delivered."""
    async with asyncio.timeout(under_test.timeout_s):
        outcomes = await log.append(records).settled()
    expect_equal(len(outcomes), len(records), "one outcome per record")
    for outcome in outcomes:
        expect(isinstance(outcome, Delivered), f"a record is delivered, got {type(outcome).__name__}")
    return [outcome.position.topic_partition for outcome in outcomes if isinstance(outcome, Delivered)]


async def everything(under_test: LogUnderTest, log: EventLog) -> dict[TopicPartition, list[int]]:
    """The numbers in the log, per partition in offset order."""
    found: dict[TopicPartition, list[int]] = {}
    starts, ends = await log.starts([under_test.topic.name]), await log.ends([under_test.topic.name])
    async with asyncio.timeout(under_test.timeout_s):
        async for batch in log.read([Span(*partition, starts[partition], end) for partition, end in ends.items()]):
            found.setdefault(batch.topic_partition, []).extend(int(value or b"") for value in batch.values)
    return found


class Told(NamedTuple):
    """One call of a listener."""

    member: str
    what: Literal["assigned", "revoked", "lost"]
    partition: TopicPartition


class Received(NamedTuple):
    """One record as a member got it."""

    partition: TopicPartition
    offset: int
    number: int


class Member:
    """One member of a group: polls, checks that what comes is contiguous, and commits what it has when it gives it up.

    ``starts`` is what it answers to ``assigned``. Members that share a ``history`` show in which order they were told.
    ``commits``: false for one that gives up without a commit.
    """

    def __init__(
        self,
        name: str = "a",
        *,
        history: list[Told] | None = None,
        starts: Mapping[TopicPartition, int] | None = None,
        commits: bool = True,
    ) -> None:
        self.name = name
        self.history = [] if history is None else history
        self.held: set[TopicPartition] = set()
        self.received: list[Received] = []
        self._starts = dict(starts or {})
        self._commits = commits
        self._next: dict[TopicPartition, int] = {}
        self._max_records = 0
        self._subscription: Subscription | None = None

    @property
    def subscription(self) -> Subscription:
        """Its membership, once it has joined."""
        if self._subscription is None:
            raise RuntimeError("join first")
        return self._subscription

    @property
    def numbers(self) -> list[int]:
        """What it has received, in order."""
        return [item.number for item in self.received]

    def next_in(self, partition: TopicPartition) -> int | None:
        """The offset that comes next; None while nothing has come."""
        return self._next.get(partition)

    async def join(self, log: EventLog, group: str, *topics: str, max_records: int = 500) -> Member:
        """Subscribes; partitions come with a later step."""
        self._max_records = max_records
        self._subscription = await log.subscribe(group, topics, self, max_records=max_records)
        return self

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._tell("assigned", partitions)
        expect(self.held.isdisjoint(partitions), "assigned tells of partitions that were not held")
        self.held.update(partitions)
        return {partition: self._starts[partition] for partition in partitions if partition in self._starts}

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._tell("revoked", partitions)
        if self._commits:
            await self.commit(partitions)
        self._drop(partitions)

    async def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self._tell("lost", partitions)
        self._drop(partitions)

    async def commit(self, partitions: Sequence[TopicPartition] | None = None) -> None:
        """Commits what has been received of the given partitions, or of all."""
        offsets = {partition: offset for partition, offset in self._next.items() if partitions is None or partition in partitions}
        if offsets:
            await self.subscription.commit(offsets)

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        """Goes elsewhere, and expects to go on there."""
        await self.subscription.seek(partition, offset)
        self._next[partition] = offset

    async def step(self, timeout_ms: int = _STEP_MS) -> int:
        """One poll; gives how many records came, after checking what the port says of batches."""
        batches = await self.subscription.poll(timeout_ms)
        partitions = [batch.topic_partition for batch in batches]
        expect_equal(len(set(partitions)), len(partitions), "at most one batch per partition")
        expect(sum(map(len, batches)) <= self._max_records, "no more than was asked for")
        for batch in batches:
            partition = batch.topic_partition
            expect(partition in self.held, f"batches come of held partitions only, not of {partition}")
            offsets = list(batch.offsets)
            expected = self._next.get(partition, offsets[0])
            expect_equal(offsets, list(range(expected, expected + len(offsets))), f"{partition} goes on without a hole or an overlap")
            expect_equal(batch.next_offset, offsets[-1] + 1, "next_offset is where the next batch starts")
            self._next[partition] = batch.next_offset
            self.received += [Received(partition, offset, int(value or b"")) for offset, value in zip(offsets, batch.values, strict=True)]
        return sum(map(len, batches))

    def _tell(self, what: Literal["assigned", "revoked", "lost"], partitions: Sequence[TopicPartition]) -> None:
        self.history += [Told(self.name, what, partition) for partition in partitions]

    def _drop(self, partitions: Sequence[TopicPartition]) -> None:
        expect(self.held.issuperset(partitions), "only what is held can be revoked or lost")
        self.held.difference_update(partitions)
        for partition in partitions:
            self._next.pop(partition, None)


async def until(condition: Callable[[], bool], *members: Member, timeout_s: float, what: str) -> None:
    """Lets the members poll, all at the same time, until the condition holds. AssertionError after the time-out."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        expect(loop.time() < deadline, f"within {timeout_s} s: {what}")
        await asyncio.gather(*(member.step() for member in members))
