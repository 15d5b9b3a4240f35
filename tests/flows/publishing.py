"""A publisher before a log with faults, on a clock that the test moves: what the publisher's tests are written with."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.patience import PATIENCE_S

from tallyroll.adapters.sqlite.log import SqliteLog
from tallyroll.adapters.sqlite.spool import SqliteSpool
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import LogUnavailable
from tallyroll.events.chain import ChainChecker, ChainFinding
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.ports import EventLog, Span
from tallyroll.publish.processors import Processor
from tallyroll.publish.publisher import EventPublisher
from tallyroll.settings import Settings
from tallyroll.telemetry import ACCEPTED, DELIVERED, REJECTED, SHED, SPOOLED, Counters
from tallyroll.testing.builders import EventBuilder
from tallyroll.testing.clock import FakeClock
from tallyroll.testing.faulty_log import Chances, FaultyLog

STEP_S = 0.05  # fake time per look


class Threads:
    """What other threads have in hand. Whoever moves a clock waits for it, or time would run on while a thread stands still."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._counted: list[_Counting | _CountingSpool] = [_Counting()]
        asyncio.get_running_loop().set_default_executor(self._counted[0])

    def spool(self, folder: Path | None, max_bytes: int) -> SqliteSpool:
        """A spool whose work is waited for as well."""
        spool = _CountingSpool(folder, max_bytes=max_bytes)
        self._counted.append(spool)
        return spool

    async def idle(self) -> None:
        """Until what they were given so far is done, and those who wait for it have heard."""
        deadline = SystemClock().monotonic() + PATIENCE_S
        with suppress(LogUnavailable):  # it is closed
            await self._log.ends([])  # comes after everything that its thread has before it
        while any(one.open for one in self._counted):
            assert SystemClock().monotonic() < deadline, "a thread does not come to an end"
            await breathe()


class _Counting(ThreadPoolExecutor):
    """Of ``asyncio.to_thread``. ``open`` is changed by the event loop's thread alone."""

    def __init__(self) -> None:
        super().__init__()
        self.open = 0

    def submit(self, *given: Any, **more: Any) -> Future[Any]:
        loop = asyncio.get_running_loop()
        self.open += 1
        future = super().submit(*given, **more)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._end))
        return future

    def _end(self) -> None:
        self.open -= 1


class _CountingSpool(SqliteSpool):
    open = 0

    async def _run(self, *given: Any, **more: Any) -> Any:
        self.open += 1
        try:
            return await super()._run(*given, **more)
        finally:
            self.open -= 1


class Seen(NamedTuple):
    """One record as the log has it."""

    event_id: str
    key: str
    number: Any


class Desk(NamedTuple):
    """What a test works with."""

    log: FaultyLog
    publisher: EventPublisher
    clock: FakeClock
    telemetry: Counters
    catalogue: Catalogue
    settings: Settings
    builder: EventBuilder
    threads: Threads

    def events(self, count: int, *, key: str = "task-1", first: int = 0, **payload: Any) -> list[AgentEvent]:
        """Numbered events of one key."""
        return [self.builder.event(aggregate_id=key, payload={"number": n, **payload}) for n in range(first, first + count)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Lets fake time pass until the condition holds."""
        deadline = SystemClock().monotonic() + PATIENCE_S
        while not condition():
            assert SystemClock().monotonic() < deadline, "the condition did not come"
            await self.threads.idle()
            self.clock.advance(STEP_S)
            await breathe()

    async def passing(self, awaitable: Any) -> Any:
        """The result of something that needs time to pass."""
        task = asyncio.ensure_future(awaitable)
        await self.until(task.done)
        return await task

    async def spooling(self) -> None:
        """Lets the log hang until the publisher has written to its spool."""
        await self.until(lambda: self.publisher.spool_depth > 0)

    async def settled(self) -> None:
        """Lets time pass until all that was accepted is in the log."""
        await self.until(lambda: self.publisher.unsettled == 0)

    async def seen(self) -> dict[TopicPartition, list[Seen]]:
        """The log, as it is."""
        return await seen_in(self.log, self.catalogue)

    async def numbers(self, key: str = "task-1") -> list[int]:
        """The numbers of one key's first copies, in the order of the log."""
        return firsts(await self.seen(), key)

    def sums(self) -> dict[str, float]:
        """What the metrics say became of the events."""
        return {metric.name: self.telemetry.value(metric) for metric in (ACCEPTED, DELIVERED, REJECTED, SHED, SPOOLED)}


async def breathe() -> None:
    """Gives other threads and tasks a moment; decides nothing."""
    await asyncio.sleep(0.001)  # noqa: TID251  # real time for real threads, always under a condition


async def seen_in(log: EventLog, catalogue: Catalogue) -> dict[TopicPartition, list[Seen]]:
    """Every record of the user topics."""
    found: dict[TopicPartition, list[Seen]] = defaultdict(list)
    async for batch in log.read(await _spans(log, catalogue)):
        for index in range(len(batch)):
            event = batch.event(index)
            found[batch.topic_partition].append(Seen(event.event_id, event.aggregate_id, event.payload.get("number")))
    return found


async def chain_findings(log: EventLog, catalogue: Catalogue) -> tuple[list[ChainFinding], int]:
    """What the publisher's chain says of the log, and how many records it linked."""
    checkers: dict[TopicPartition, ChainChecker] = defaultdict(ChainChecker)
    findings = []
    async for batch in log.read(await _spans(log, catalogue)):
        for offset, value, head in zip(batch.offsets, batch.values, batch.heads(), strict=True):
            finding = checkers[batch.topic_partition].feed(offset, value or b"", head.link())  # type: ignore[union-attr]
            findings += [finding] if finding is not None else []
    for checker in checkers.values():
        findings += checker.open_gaps()
    return findings, sum(checker.linked for checker in checkers.values())


async def _spans(log: EventLog, catalogue: Catalogue) -> list[Span]:
    topics = [topic.name for topic in catalogue.topics if topic.user]
    starts, ends = await log.starts(topics), await log.ends(topics)
    return [Span(*partition, starts[partition], end) for partition, end in ends.items() if starts[partition] < end]


def firsts(seen: dict[TopicPartition, list[Seen]], key: str) -> list[int]:
    """The numbers of one key, repeats of an event dropped."""
    known: dict[str, int] = {}
    for records in seen.values():
        for record in records:
            if record.key == key:
                known.setdefault(record.event_id, record.number)
    return list(known.values())


def copies(seen: dict[TopicPartition, list[Seen]]) -> dict[str, int]:
    """How often each event id is in the log."""
    count: dict[str, int] = defaultdict(int)
    for records in seen.values():
        for record in records:
            count[record.event_id] += 1
    return dict(count)


@asynccontextmanager
async def publishing(  # noqa: PLR0913
    folder: Path | None = None,
    *,
    spool: bool = True,
    seed: int = 0,
    chances: Chances | None = None,
    processors: Sequence[Processor] = (),
    inner: EventLog | None = None,
    **settings: Any,
) -> AsyncIterator[Desk]:
    """A publisher with its spool in ``folder`` (None: in memory) before a log with faults; both closed at the end."""
    options = Settings(url="kafka://127.0.0.1:1", **({} if folder is None else {"data_dir": folder}), **settings)
    catalogue, clock, telemetry = catalogue_of(options), FakeClock(), Counters()
    owned = await SqliteLog.open(None, catalogue, clock=clock) if inner is None else None
    log = FaultyLog(inner or owned, clock=clock, seed=seed, chances=chances or Chances())
    where, threads = None if folder is None else folder / "spool", Threads(inner or owned)
    publisher = EventPublisher(
        log, catalogue, options, clock=clock, telemetry=telemetry, processors=processors,
        open_spool=(lambda: threads.spool(where, options.spool_max_bytes)) if spool else None,
    )  # fmt: skip
    desk = Desk(log, publisher, clock, telemetry, catalogue, options, EventBuilder(seed), threads)
    try:
        yield desk
    finally:
        log.heal()
        await desk.passing(publisher.close())
        await log.close()
        if owned is not None:
            await owned.close()
