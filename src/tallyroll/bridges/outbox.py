"""A task in the manager's store and its event in the log, though no transaction spans both: neither is without the other.

First it is written down that something was asked for, then the manager makes the task, then the event is written down,
then it is published, then the row goes. Whatever a crash cuts off, a sweep finishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from tallyroll.bridges.tasks import Asked, created_event, created_us_of, may_be_of, task_id_of
from tallyroll.errors import InvalidEvent, PublishRejected, PublishUncertain, StoreUnavailable, TallyrollError
from tallyroll.events.event import AgentEvent
from tallyroll.events.ids import new_id
from tallyroll.ports import Clock, Outbox, OutboxRow
from tallyroll.telemetry import OUTBOX_EVENTS, OUTBOX_ROWS, Telemetry
from tallyroll.waiting import ends_within

log: Final = logging.getLogger("tallyroll.bridges")

Publish = Callable[[AgentEvent], Awaitable[Any]]
"""Puts an event into the log; returns when it is there, as ``Roll.publish``."""

ListTasks = Callable[[], Awaitable[Iterable[object]] | Iterable[object]]
"""The manager's tasks, those of the last minutes among them."""

IsTold = Callable[[AgentEvent, int], Awaitable[bool]]
"""Whether the log has an event by its id, among what came since a moment in µs."""

SWEEP_S: Final = 60.0
STALE_S: Final = 300.0  # a manager may start a program; after so long without a task, its process is taken for dead
_LEASE_S: Final = 60.0  # longer than publishing waits for the log
_WAIT_S: Final = 2.0  # how long a caller who has its task waits for the event's delivery
_SKEW_S: Final = 5.0  # between the clocks of who asked, of who made the task, and of who published

_encode: Final = msgspec.json.Encoder().encode
_decode_asked: Final = msgspec.json.Decoder(Asked).decode
_decode_event: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Outgoing:
    """Tells the log of created tasks through an outbox. One per process; several share an outbox.

    Not promised: that the event lies in the log once. A process that was frozen past its time goes on when it wakes, and
    publishes it again, under its id. Nor, of calls that asked for the same and were all cut off, which task was whose.
    """

    def __init__(  # noqa: PLR0913  # what was opened, and whom to ask
        self,
        outbox: Outbox,
        publish: Publish,
        *,
        is_told: IsTold,
        list_tasks: ListTasks | None,
        clock: Clock,
        telemetry: Telemetry,
        stale_s: float = STALE_S,
    ) -> None:
        self._outbox = outbox
        self._publish = publish
        self._is_told = is_told
        self._list_tasks = list_tasks
        self._clock = clock
        self._telemetry = telemetry
        self._stale_us = int(stale_s * 1_000_000)
        self._sending: set[asyncio.Task[None]] = set()

    async def intend(self, asked: Asked) -> OutboxRow:
        """Writes down that a task is asked for. Raises StoreUnavailable; then the manager was not asked."""
        now = self._clock.now_us()
        row = OutboxRow(new_id(), now, now + self._stale_us, _encode(asked))
        await self._outbox.put(row)
        return row

    async def withdraw(self, row: OutboxRow) -> None:
        """The manager has refused: there is no task and no event. A row that cannot be removed is looked into by a sweep."""
        with contextlib.suppress(StoreUnavailable):
            await self._outbox.remove(row.id)

    async def tell(self, row: OutboxRow, task: object) -> None:
        """Publishes the event of a task; returns when the log has it, or after two seconds, and then goes on by itself.

        Raises InvalidEvent for a task without an id that an event can have; nothing is left of its row then.
        """
        try:
            event = self._event(row, task)
        except InvalidEvent:
            await self.withdraw(row)
            raise
        try:
            # False: the manager took so long that a sweep has looked into the intent. It found the task, or there was none yet.
            if not await self._ready(row, event) and await self._told(row, event):
                return
        except TallyrollError as error:
            log.warning("%s; the event of a created task is published without its row", error)
        sending = asyncio.create_task(self._send(row, event))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        await ends_within(self._clock, _WAIT_S, sending)

    async def run(self) -> None:
        """Sweeps now and each minute, until cancelled."""
        while True:
            try:
                await self.sweep()
            except TallyrollError as error:  # outbox, log or archive are away
                log.warning("%s; the outbox is looked at again in a minute", error)
            await self._clock.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Finishes what others have left: publishes ready rows, and looks into intents whose time is over."""
        rows = await self._outbox.rows()
        self._telemetry.observe(OUTBOX_ROWS, len(rows))
        for row in sorted(rows, key=lambda row: row.event is None):  # tasks that are known first, so that none is taken twice
            now = self._clock.now_us()
            if row.until_us <= now and await self._outbox.lease(row, now + int(_LEASE_S * 1_000_000)):
                try:
                    await self._finish(row, rows, now)
                except (TallyrollError, msgspec.MsgspecError) as error:  # one row must not hold up the others
                    log.warning("outbox row %s is tried again in a minute (%s)", row.id, type(error).__name__)

    async def close(self) -> None:
        """Waits a moment for what is being published; the rest stays in the outbox."""
        sending = list(self._sending)
        if sending:
            await asyncio.wait(sending, timeout=_WAIT_S)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    # One row

    def _event(self, row: OutboxRow, task: object) -> AgentEvent:
        created_us = created_us_of(task)
        return created_event(task_id_of(task), row.since_us if created_us is None else created_us, _decode_asked(row.request))

    async def _ready(self, row: OutboxRow, event: AgentEvent) -> bool:
        until_us = self._clock.now_us() + int(_LEASE_S * 1_000_000)
        return await self._outbox.ready(row.id, _encode(event.to_kafka_message()), until_us)

    async def _told(self, row: OutboxRow, event: AgentEvent) -> bool:
        return await self._is_told(event, _before(row))

    async def _send(self, row: OutboxRow, event: AgentEvent) -> None:
        """Publishes and removes the row. What is not certain stays, for a sweep to publish it again."""
        outcome = "published"
        try:
            await self._publish(event)
        except PublishUncertain as error:
            if not error.kept:
                self._telemetry.count(OUTBOX_EVENTS, outcome="uncertain")
                return
            outcome = "kept"  # it lies in the spool, and goes out by itself
        except TallyrollError as error:
            refused = isinstance(error, PublishRejected)
            self._telemetry.count(OUTBOX_EVENTS, outcome="refused" if refused else "uncertain")
            log.warning("event %s of a created task stays in the outbox (%s)", event.event_id, type(error).__name__)
            return
        self._telemetry.count(OUTBOX_EVENTS, outcome=outcome)
        try:
            await self._outbox.remove(row.id)
        except StoreUnavailable as error:
            log.warning("%s; event %s is published again later, under its id", error, event.event_id)

    # What a crash has cut off

    async def _finish(self, row: OutboxRow, rows: Sequence[OutboxRow], now: int) -> None:
        if row.event is None:
            await self._resolve(row, rows, now)
            return
        event = AgentEvent.from_kafka_message(_decode_event(row.event))
        if await self._told(row, event):  # it was cut off before the row was removed
            await self._outbox.remove(row.id)
        else:
            await self._send(row, event)

    async def _resolve(self, row: OutboxRow, rows: Sequence[OutboxRow], now: int) -> None:
        """An intent whose time is over: the task was made and not told, or never made."""
        asked = _decode_asked(row.request)
        if any(other.event is None and other.until_us > now and _decode_asked(other.request).alike(asked) for other in rows):
            return  # somebody is asking for the same just now, and that task is not to be taken for this one
        tasks = await self._tasks(row)
        if tasks is None:
            self._telemetry.count(OUTBOX_EVENTS, outcome="unresolved")
            return
        known = {_decode_event(other.event).get("aggregate_id") for other in rows if other.event is not None}
        for task in tasks:
            if not may_be_of(task, asked, _before(row), row.since_us + self._stale_us) or task_id_of(task) in known:
                continue
            try:
                event = self._event(row, task)
            except InvalidEvent:  # no event can tell of it, whoever asked for it
                continue
            if not await self._told(row, event):
                if await self._ready(row, event):
                    await self._send(row, event)
                return
        await self._outbox.remove(row.id)
        self._telemetry.count(OUTBOX_EVENTS, outcome="dropped")
        log.info("outbox row %s: no task was made", row.id)

    async def _tasks(self, row: OutboxRow) -> list[object] | None:
        """The manager's tasks, oldest first; None if it cannot say."""
        if self._list_tasks is None:
            log.warning("outbox row %s: a call was cut off, and the manager cannot list its tasks; look whether there is one", row.id)
            return None
        try:
            found = self._list_tasks()
            tasks = list(await found if isinstance(found, Awaitable) else found)
        except Exception as error:  # noqa: BLE001  # foreign code; its text may quote what nobody should read
            log.warning("outbox row %s: the manager could not list its tasks (%s)", row.id, type(error).__name__)
            return None
        return sorted(tasks, key=lambda task: created_us_of(task) or 0)


def _before(row: OutboxRow) -> int:
    """A moment before anything was done for the row, whoever's clock it is."""
    return row.since_us - int(_SKEW_S * 1_000_000)
