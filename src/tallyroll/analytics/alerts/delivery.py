"""From the outbox to the sinks: a bounded queue and a task for each, so that none waits for another and nobody waits for any.

Nothing here is durable: a notice that is not taken by every sink, or given up, stays in the outbox and comes again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tallyroll.analytics.alerts.notice import Waiting
from tallyroll.backoff import Backoff
from tallyroll.errors import SinkRefused, SinkUnavailable
from tallyroll.ports import AlertSink, Clock
from tallyroll.telemetry import ALERT_LATENCY, ALERTS_SENT, Telemetry

log: Final = logging.getLogger("tallyroll.alerts")


class Limits(NamedTuple):
    """How patient delivery is, per sink.

    ``queue``: notices in memory, about 2 KB each; those beyond wait in the outbox. ``attempt_s`` bounds one attempt,
    ``give_up_s`` all of them together: an alert of an hour ago wakes nobody. Pauses double between the two bounds.
    """

    queue: int = 1_000
    attempt_s: float = 10.0
    give_up_s: float = 3_600.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0


DEFAULT_LIMITS: Final = Limits()


class Delivery:
    """Hands notices to all sinks, each at its own pace; knows which ones are done with. ``idle`` is set while none is open.

    Not promised: order between sinks, or that a notice reaches a sink once.
    """

    def __init__(self, sinks: Sequence[AlertSink], clock: Clock, telemetry: Telemetry, limits: Limits = DEFAULT_LIMITS) -> None:
        self._lanes = [_Lane(sink, clock, telemetry, limits, self._is_done) for sink in sinks]
        self._owed: dict[str, set[str]] = {}
        self._done: list[str] = []
        self.settled = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    def hand(self, waiting: Sequence[Waiting]) -> None:
        """Puts notices into the queues; one that a sink has queued already is not queued again. Returns at once."""
        for one in waiting:
            self.idle.clear()
            owed = self._owed.setdefault(one.notice.id, {lane.name for lane in self._lanes})
            for lane in self._lanes:
                if lane.name in owed:
                    lane.put(one)
            if not owed:
                self._is_done(one.notice.id, "")

    @property
    def open(self) -> int:
        """How many notices some sink has not finished with."""
        return len(self._owed)

    def take_done(self) -> Sequence[str]:
        """The ids of notices that every sink has taken, or that were given up; they are given once."""
        done, self._done = self._done, []
        self.settled.clear()
        return done

    def put_back(self, done: Sequence[str]) -> None:
        """They could not be removed from the outbox: ``take_done`` gives them again."""
        self._done += done
        self.settled.set()

    async def run(self) -> None:
        """Delivers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(lane.run())

    async def close(self) -> None:
        """Closes the sinks."""
        for lane in self._lanes:
            await lane.sink.close()

    def _is_done(self, notice_id: str, sink: str) -> None:
        owed = self._owed[notice_id]
        owed.discard(sink)
        if not owed:
            del self._owed[notice_id]
            self._done.append(notice_id)
            self.settled.set()
            if not self._owed:
                self.idle.set()


class _Finished(NamedTuple):
    outcome: str
    reason: str = ""


class _Lane:
    """One sink with its queue."""

    def __init__(self, sink: AlertSink, clock: Clock, telemetry: Telemetry, limits: Limits, done: Callable[[str, str], None]) -> None:
        self.sink = sink
        self.name = sink.name
        self._clock = clock
        self._telemetry = telemetry
        self._limits = limits
        self._done = done
        self._queue: asyncio.Queue[tuple[Waiting, float]] = asyncio.Queue(limits.queue)
        self._queued: set[str] = set()
        telemetry.count(ALERTS_SENT, 0, sink=self.name, outcome="delivered")

    def put(self, one: Waiting) -> None:
        if one.notice.id in self._queued:
            return
        try:
            self._queue.put_nowait((one, self._clock.monotonic()))
        except asyncio.QueueFull:
            self._telemetry.count(ALERTS_SENT, sink=self.name, outcome="overflowed")
        else:
            self._queued.add(one.notice.id)

    async def run(self) -> None:
        while True:
            one, since = await self._queue.get()
            finished = await self._deliver(one, since)
            self._telemetry.count(ALERTS_SENT, sink=self.name, outcome=finished.outcome)
            if finished.outcome != "delivered":
                log.warning("alert %s was not told to %s: %s, %s", one.notice.id, self.name, finished.outcome, finished.reason)
            elif one.notice.state == "firing":
                took_us = self._clock.now_us() - one.made_us
                self._telemetry.observe(ALERT_LATENCY, max(0, took_us) / 1_000_000, sink=self.name)
            self._queued.discard(one.notice.id)
            self._done(one.notice.id, self.name)

    async def _deliver(self, one: Waiting, since: float) -> _Finished:
        pauses = Backoff(self._limits.first_pause_s, self._limits.longest_pause_s)
        while True:
            error = await self._attempt(one)
            if error is None:
                return _Finished("delivered")
            if not error.retriable:
                return _Finished("refused", error.reason)
            if self._clock.monotonic() - since >= self._limits.give_up_s:
                return _Finished("given_up", error.reason)
            await self._clock.sleep(pauses.next_s())

    async def _attempt(self, one: Waiting) -> SinkUnavailable | SinkRefused | None:
        try:
            async with asyncio.timeout(self._limits.attempt_s):
                await self.sink.send(one.notice)
        except (SinkUnavailable, SinkRefused) as error:
            return error
        except TimeoutError:
            return SinkUnavailable(self.name, f"no answer within {self._limits.attempt_s:g} s")
        except Exception as error:  # noqa: BLE001  # a sink of somebody else's must not end the others; its message may quote anything
            return SinkRefused(self.name, type(error).__name__)
        return None
