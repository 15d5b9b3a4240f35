"""Load on a publisher while a broker is broken on purpose, written down as a history."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.flows.publishing import seen_in
from tests.patience import PATIENCE_S

from tallyroll.adapters.kafka.admin import KafkaAdmin
from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.sqlite.spool import SqliteSpool
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import LogUnavailable
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.ids import new_id
from tallyroll.events.topic_plan import CreateTopic, plan
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.ports import Outcome, Unknown
from tallyroll.publish.publisher import EventPublisher
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters
from tallyroll.testing.checker import Report, check
from tallyroll.testing.history import Entry, Fail, Invoke, Poll, Read, outcome_entry

CLOCK = SystemClock()


async def until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Waits for a condition; looks every 20 ms."""
    deadline = CLOCK.monotonic() + timeout_s
    while not condition():
        assert CLOCK.monotonic() < deadline, f"within {timeout_s} s: {what}"
        await CLOCK.sleep(0.02)


async def create_topics(settings: Settings, *, replication: int = 1, min_in_sync: int = 1) -> Catalogue:
    """The catalogue, made in the cluster."""
    catalogue = catalogue_of(settings)
    admin = await KafkaAdmin.open(settings)
    wanted = [change for change in plan(catalogue, {}, replication=replication).changes if isinstance(change, CreateTopic)]
    more = {"min.insync.replicas": str(min_in_sync)}
    await asyncio.gather(*(admin.create(one.topic, replication=replication, config={**one.config, **more}) for one in wanted))
    assert len(wanted) == len(catalogue.topics)
    return catalogue


class Beat:
    """Measures for how long the event loop was blocked at the longest, by another thread: if that stands still as well, nobody blocks."""

    _EVERY_S = 0.005

    def __init__(self) -> None:
        self._ticks = self._longest = 0
        self._ended = threading.Event()
        self._task = asyncio.get_running_loop().create_task(self._beat())
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        while not self._ended.wait(self._EVERY_S):
            self._ticks += 1

    async def _beat(self) -> None:
        while True:
            before = self._ticks
            await CLOCK.sleep(self._EVERY_S)
            self._longest = max(self._longest, self._ticks - before)

    def stop(self) -> float:
        """The longest block, in milliseconds, or somewhat less."""
        self._task.cancel()
        self._ended.set()
        self._thread.join()
        return self._longest * self._EVERY_S * 1_000


class Desk(NamedTuple):
    """A publisher under load and what became of its events."""

    log: KafkaLog
    publisher: EventPublisher
    catalogue: Catalogue
    telemetry: Counters
    history: list[Entry]
    outcomes: list[Outcome]

    async def send(self, key: str, first: int, count: int) -> list[Outcome]:
        """One batch of one key."""
        events = [
            AgentEvent("task.completed", key, "task", {"number": first + n}, EventMetadata(correlation_id="c"), new_id())
            for n in range(count)
        ]
        self.history.extend(Invoke("p", event.event_id, event.key) for event in events)
        outcomes = await self.publisher.publish_batch(events)
        for event, outcome in zip(events, outcomes, strict=True):
            if not (isinstance(outcome, Unknown) and outcome.kept):  # a kept one is settled later, without a word to us
                self.history.append(outcome_entry(event.event_id, outcome))
        self.outcomes.extend(outcomes)
        return outcomes

    @asynccontextmanager
    async def load(self, *, senders: int = 6, batch: int = 10) -> AsyncIterator[Callable[[], int]]:
        """Senders that go on until the end of the block; gives how many batches were answered so far."""
        stopping = asyncio.Event()
        done = 0

        async def sender(key: str) -> None:
            nonlocal done
            number = 0
            while not stopping.is_set():
                await self.send(key, number, batch)
                number += batch
                done += 1
                await CLOCK.sleep(0.005)  # a load, not a benchmark: others share this machine

        tasks = [asyncio.create_task(sender(f"task-{n}")) for n in range(senders)]
        try:
            yield lambda: done
        finally:
            stopping.set()
            await asyncio.gather(*tasks)

    async def judge(self, *, repeats_allowed: bool = True) -> Report:
        """Waits until everything kept is in the log, reads all of it, and checks the history."""
        assert await self.publisher.flush(PATIENCE_S) == 0
        deadline = CLOCK.monotonic() + PATIENCE_S
        while True:
            try:
                seen = await seen_in(self.log, self.catalogue)
                break
            except LogUnavailable:
                assert CLOCK.monotonic() < deadline
                await CLOCK.sleep(0.2)
        ids: set[str] = set()
        for partition, records in seen.items():
            self.history.append(Poll("c", [Read(str(partition), offset, record.event_id) for offset, record in enumerate(records)]))
            ids.update(record.event_id for record in records)
        missing = [entry.id for entry in self.history if isinstance(entry, Invoke) and entry.id not in ids]
        failed = {entry.id for entry in self.history if isinstance(entry, Fail)}
        assert set(missing) <= failed, f"{len(missing)} accepted events are not in the log"
        return check(self.history, repeats_allowed=repeats_allowed)


@asynccontextmanager
async def publishing(settings: Settings, catalogue: Catalogue) -> AsyncIterator[Desk]:
    """A publisher over Kafka with a spool in the data folder."""
    telemetry = Counters()
    log = await KafkaLog.open(settings, catalogue, clock=CLOCK, telemetry=telemetry)
    folder: Path = settings.data_dir / "spool"
    publisher = EventPublisher(
        log, catalogue, settings, clock=CLOCK, telemetry=telemetry,
        open_spool=lambda: SqliteSpool(folder, max_bytes=settings.spool_max_bytes),
    )  # fmt: skip
    try:
        yield Desk(log, publisher, catalogue, telemetry, [], [])
    finally:
        await publisher.close()
        await log.close()


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Breaks and mends servers without stopping the event loop."""
    return await asyncio.to_thread(function, *arguments)
