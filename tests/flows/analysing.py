"""A program that counts the embedded log's metrics, alerts, and dies where it is told to; run by the tests of analytics.

Sinks write what they are told to ``FOLDER/told``, a line each. It ends when all is counted, judged and told; before, it goes on where
another one died.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Self

from tests.patience import PATIENCE_S
from tests.unit.analytics_histories import NOW, PLACES, SPECS, T0, Maker, Record
from tests.unit.replay_histories import CATALOGUE

from tallyroll.adapters.sqlite.log import SqliteLog
from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.adapters.system import SystemClock
from tallyroll.analytics.alerts.alerting import Alerting
from tallyroll.analytics.alerts.delivery import Delivery
from tallyroll.analytics.alerts.notice import OUTBOX
from tallyroll.analytics.alerts.rules import ThresholdRule
from tallyroll.analytics.alerts.watching import Watch
from tallyroll.analytics.follower import AnalyticsFollower
from tallyroll.analytics.run import KernelRun
from tallyroll.events.position import Position, TopicPartition
from tallyroll.follow.deadletter import DeadLetters
from tallyroll.follow.loop import FollowLoop
from tallyroll.ports import Delivered, DocumentWrite, Encoded, Notice, PaneAt, PaneRow, Span, WindowWrite
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters

Fault = Callable[[str], None]

SLOW_MS = 9_000_000
RULE = ThresholdRule(
    name="slow", metric="response_time", function="max", comparison=">=", value=SLOW_MS, dimension="agent",
    keys=tuple(f"slow-{number}" for number in range(99)),
)  # fmt: skip
TOPICS = ("task-events", "agent-events")
TALLY = "tally"
COUNT = 120
LEASE_MS = 300
POINTS = (
    *("rows read", "before commit", "panes written", "documents written", "after commit"),
    *("before send", "after send", "before removal", "after removal"),
)


class Hands(SystemClock):
    """The machine's clock, whose date is set by hand: what is read from the log must not depend on the day of the test."""

    def __init__(self, now_us: int) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us


class Dying(SqliteWindowStore):
    """Comes to the steps of a flush."""

    fault: Fault = staticmethod(lambda _: None)

    def load_rows(self, partition: TopicPartition, wanted: Sequence[PaneAt]) -> dict[PaneAt, PaneRow]:
        found = super().load_rows(partition, wanted)
        self.fault("rows read")
        return dict(found)

    async def commit(self, writes: Sequence[WindowWrite], documents: Sequence[DocumentWrite] = ()) -> None:
        removal = not writes and bool(documents) and all(one.kind == OUTBOX and one.data is None for one in documents)
        self.fault("before removal" if removal else "before commit")
        await super().commit(writes, _Documents(documents, self.fault) if writes else documents)
        self.fault("after removal" if removal else "after commit")


class _Documents(tuple[DocumentWrite, ...]):
    """Documents that the store comes to after the panes, in one transaction with them."""

    __slots__ = ()
    fault: Fault

    def __new__(cls, documents: Sequence[DocumentWrite], fault: Fault) -> Self:
        made = super().__new__(cls, documents)
        cls.fault = staticmethod(fault)
        return made

    def __iter__(self) -> Iterator[DocumentWrite]:
        self.fault("panes written")
        yield from super().__iter__()
        self.fault("documents written")


class Book:
    """A sink that writes down what it is told, and comes to steps of its own."""

    name = "book"

    def __init__(self, path: Path, fault: Fault) -> None:
        self._path = path
        self._fault = fault

    async def send(self, notice: Notice) -> None:
        self._fault("before send")
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps([notice.dedup_key, notice.state, notice.id]).encode() + b"\n")
        self._fault("after send")

    async def close(self) -> None:
        """The file is closed."""


class Quiet:
    """An observer that has nothing to store."""

    goes_ahead = False
    is_urgent = False

    def observed(self, run: KernelRun) -> None:
        """Looks."""

    def take_documents(self) -> Sequence[DocumentWrite]:
        return ()

    def stored(self) -> None:
        """Nothing is."""

    def give_back(self) -> None:
        """As above."""

    def forget(self) -> None:
        """As above."""


class Tally(Quiet):
    """An observer that counts the events it has seen of the fleet: right only if it is stored with the panes."""

    def __init__(self, count: int) -> None:
        self.count = self._kept = self._taken = count

    def observed(self, run: KernelRun) -> None:
        for seen in run.observed:
            if seen.spec.name == "events_processed" and seen.dimension == "fleet":
                self.count += len(seen.values)

    def take_documents(self) -> Sequence[DocumentWrite]:
        self._taken = self.count
        return [DocumentWrite(TALLY, TALLY, str(self.count).encode())] if self.count != self._kept else []

    def stored(self) -> None:
        self._kept = self._taken

    def forget(self) -> None:
        self.count = self._kept


def history(seed: int) -> dict[TopicPartition, list[Record]]:
    """Random records, and agents that are very slow once in their lives, each another one, and at the newest time of all."""
    random, found, slow = Random(seed), {}, iter(range(99))  # noqa: S311  # a fixed history
    for place in PLACES:
        maker, records = Maker(random), []
        for number in range(COUNT):
            value, _ = maker.record()
            if number % 20 == 10:
                value = slow_task(maker.now + timedelta(seconds=61), f"slow-{next(slow)}")
            records.append((value or b"", int((maker.now + timedelta(seconds=1)).timestamp() * 1_000)))
        found[place] = records
    return found


def slow_task(at: datetime, agent: str) -> bytes:
    event = {
        "specversion": "1.0", "id": f"of-{agent}", "source": "test", "type": "task.completed", "aggregatetype": "task",
        "aggregateid": agent, "time": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}", "data": {"agent_id": agent, "duration_ms": SLOW_MS},
    }  # fmt: skip
    return json.dumps(event).encode()


async def fill(folder: Path, log: dict[TopicPartition, list[Record]]) -> None:
    """Puts a history into an embedded log as it is."""
    opened = await SqliteLog.open(folder, CATALOGUE, clock=Hands(_us(T0)), synchronous="NORMAL")
    for place, records in log.items():
        made = [
            Encoded(f"{place}/{number}", *place, b"k", value or b"", (), timestamp_ms)
            for number, (value, timestamp_ms) in enumerate(records)
        ]
        outcomes = await opened.append(made).settled()
        assert all(isinstance(one, Delivered) for one in outcomes), outcomes
    await opened.close()


async def read(folder: Path) -> dict[TopicPartition, list[Record]]:
    """What the log holds, as it hands it over."""
    opened = await SqliteLog.open(folder, CATALOGUE, clock=Hands(_us(T0)))
    found: dict[TopicPartition, list[Record]] = {place: [] for place in PLACES}
    for place, end in (await opened.ends(TOPICS)).items():
        async for batch in opened.read([Span(*place, 0, end)] if end else []):
            found[place] += list(zip(batch.values, batch.timestamps_ms, strict=True))
    await opened.close()
    return found


async def count(folder: Path, fault: Fault) -> None:
    """Goes on where another one stopped, until all is counted, judged and told."""
    telemetry, settings = Counters(), Settings(url=f"sqlite:////{folder}", batch_records=20, flush_interval_ms=20)
    log = await SqliteLog.open(folder, CATALOGUE, clock=Hands(_us(T0)), session_timeout_ms=LEASE_MS)
    store = await Dying.open(folder / "analytics.db")
    store.fault = fault  # type: ignore[method-assign]  # of this one
    judging = Hands(_us(NOW + timedelta(days=3)))  # an earlier process may have come so far
    delivery = Delivery([Book(folder / "told", fault)], judging, telemetry)
    alerting = Alerting([RULE], SPECS, store=store, delivery=delivery, clock=judging, telemetry=telemetry)
    tally = Tally(int((await store.documents(TALLY)).get(TALLY, b"0")))
    await alerting.recover()
    judging.us = _us(T0)  # no value is too old to be told of
    clock = Hands(_us(NOW))
    follower = AnalyticsFollower(store, CATALOGUE, SPECS, clock=clock, telemetry=telemetry, observers=[tally, alerting], max_rows=50)
    letters = DeadLetters(log, CATALOGUE, clock=clock, telemetry=telemetry, max_record_bytes=settings.max_record_bytes)
    loop = FollowLoop(log, [follower], CATALOGUE, settings, group="analytics", dead_letters=letters, clock=clock, telemetry=telemetry)
    telling = asyncio.create_task(alerting.run(lambda: None))
    loop.start()
    for place, end in (await log.ends(TOPICS)).items():
        assert not end or await loop.caught_up(Position(*place, end - 1), PATIENCE_S)
    await loop.stop()
    for day in (1, 2, 3):  # nothing comes any more: what fired is over
        judging.us = _us(NOW + timedelta(days=day))
        await alerting.step(Watch(caught_up=True))
    async with asyncio.timeout(PATIENCE_S):
        while await store.documents(OUTBOX):
            assert not telling.done(), telling.result()
            await clock.sleep(0.01)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    await follower.close()
    await store.close()
    await log.close()


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def dying_at(point: str, nth: int) -> Fault:
    """Ends the process as ``kill -9`` does."""
    left = [nth]

    def fault(passed: str) -> None:
        print(passed, flush=True)  # noqa: T201  # for the one who kills at a moment of its own
        if passed == point:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    return fault


def main(folder: Path, point: str = "", nth: int = 1) -> None:
    """Kills itself at the nth time it comes to ``point``; prints each point."""
    asyncio.run(count(folder, dying_at(point, nth)))
