"""Into the log: every event gets one of three true outcomes, in the order in which it was accepted.

The path of an event: processors, bytes, lane, link; then a load that ``delivery`` carries to the log or the spool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tallyroll.errors import Backpressure, InvalidEvent, LogError, LogUnavailable
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import Position
from tallyroll.events.topics import Catalogue, Topic
from tallyroll.ports import Clock, Delivered, Encoded, EventLog, Outcome, Spool, SpoolFactory, Tracing, Unknown
from tallyroll.publish import exit as exit_hooks
from tallyroll.publish.delivery import Delivery
from tallyroll.publish.handlers import Handler, Handlers
from tallyroll.publish.intake import Intake
from tallyroll.publish.load import Body
from tallyroll.publish.processors import Processor
from tallyroll.publish.receipt import Receipt, Ticket, Tickets, receipt_of
from tallyroll.settings import Settings
from tallyroll.telemetry import SEND_RATE, SHED, UNCERTAIN, Telemetry

log: Final = logging.getLogger("tallyroll.publish")

_CHUNK: Final = 1_000  # events encoded between two looks at the event loop: some 5 ms
_TICK_S: Final = 0.1  # how exactly deadlines and stalls are kept
_LOOK_S: Final = 0.05  # how long a wait for movement lasts before the deadline is looked at


class EventPublisher:
    """Publishes events with a true outcome for each.

    Durability: as the log promises from Delivered on; before that, events of write-ahead topics are on disk when accepted,
    the others are written to disk as soon as the log stalls or the process ends in any way but ``kill -9``.
    Ordering: one key's events lie in the log in the order of acceptance, first copies counted.
    Used from one event loop at a time; a forked child gets a life of its own. Made by ``Roll``, not by hand.
    Not promised: order between keys; that a cancelled ``publish`` did not publish.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        event_log: EventLog,
        catalogue: Catalogue,
        settings: Settings,
        *,
        clock: Clock,
        telemetry: Telemetry,
        open_spool: SpoolFactory | None,
        processors: Sequence[Processor] = (),
        tracing: Tracing | None = None,
    ) -> None:
        self._log = event_log
        self._catalogue = catalogue
        self._settings = settings
        self._clock = clock
        self._telemetry = telemetry
        self._open_spool = open_spool
        self._processors = tuple(processors)
        self._tracing = tracing
        self._handlers = Handlers(telemetry)
        self._last_words: list[Callable[[], Sequence[Body]]] = []
        self._closed = False
        self._inherited: list[object] = []
        self._begin()
        exit_hooks.watch(self, settings.exit_grace_ms / 1000)

    def _begin(self) -> None:
        """A fresh life: at the start, and in a forked child."""
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: asyncio.Task[None]
        self._tickets = Tickets(self._settings.publish_deadline_ms)
        self._spool: Spool | None = self._open_spool() if self._open_spool is not None else None
        self._left = self.spool_depth  # by processes that are gone
        self._delivery: Delivery
        self._queue: asyncio.Lock
        self._queueing = 0
        self._intake = Intake(
            self._catalogue, self._settings, self._spool, clock=self._clock, telemetry=self._telemetry, processors=self._processors
        )

    # The surface

    async def publish(self, event: AgentEvent, *, expects: str = "") -> Receipt:
        """Proof that the event is in the log: its id and position. ``expects`` is for ``Versions``, who finds what became of it.

        Raises PublishRejected (it is not in the log), PublishUncertain (deadline passed; see ``kept``), Backpressure
        (nothing was accepted), LogUnavailable (the embedded log could not write), InvalidEvent.
        """
        if not isinstance(event, AgentEvent):
            raise InvalidEvent("event", f"expected AgentEvent, got {type(event).__name__}")
        if self._tracing is None:
            return await self._publish(event, expects)
        with self._tracing.publishing((event,)) as traced:
            receipt = await self._publish(traced.events[0], expects)
            traced.positions = [receipt.position]
        return receipt

    async def _publish(self, event: AgentEvent, expects: str) -> Receipt:
        loop = self._enter()
        if self._full or self._queueing:
            await self._room()
        ticket = self._ticket(loop, 1)
        if self._intake.is_empty:
            loop.call_soon(self._intake.send_to, self._delivery)  # events accepted in the same turn of the loop travel together
        self._intake.accept((event,), ticket, 0, expects)
        if not self._settings.wait_for_ack and ticket.outcomes[0] is None:
            self._intake.send_to(self._delivery)
            await self._delivery.on_disk()
            return Receipt(event.event_id, None) if ticket.outcomes[0] is None else receipt_of(event.event_id, ticket.outcomes[0])
        await ticket.future
        return receipt_of(event.event_id, ticket.outcomes[0])

    async def publish_batch(self, events: Iterable[AgentEvent]) -> list[Outcome]:
        """The outcome of each event, in the order given: Delivered with its position, Rejected or Unknown with the error.

        All of them are taken in at once, also those of a generator. Raises InvalidEvent only for what is no AgentEvent at all,
        before anything is accepted. One event's refusal does not stop the others.
        """
        events = _taken(events)
        if self._tracing is None or not events:
            return await self._publish_batch(events)
        with self._tracing.publishing(events) as traced:
            outcomes = await self._publish_batch(traced.events)
            traced.positions = [one.position if isinstance(one, Delivered) else None for one in outcomes]
        return outcomes

    async def _publish_batch(self, events: Sequence[AgentEvent]) -> list[Outcome]:
        loop = self._enter()
        if not events:
            return []
        ticket = self._ticket(loop, len(events))
        for start in range(0, len(events), _CHUNK):
            if self._full or self._queueing:
                await self._room()
            self._intake.accept(events[start : start + _CHUNK], ticket, start)
            self._intake.send_to(self._delivery)
            if start + _CHUNK < len(events):
                await asyncio.sleep(0)  # noqa: TID251  # lets the loop breathe, waits for nothing
        await ticket.future
        return [outcome for outcome in ticket.outcomes if outcome is not None]

    async def publish_event(self, event: AgentEvent, topic: str | None = None, partition_key: str | None = None) -> str:
        """The id of the published event; as ``publish``. ``topic`` and ``partition_key`` can only name what follows anyway.

        Another topic than the type's, or another key than the event's, is InvalidEvent: one aggregate in two partitions has
        no order.
        """
        own = self._catalogue.for_type(event.event_type)
        if topic not in (None, own.name, own.base):
            raise InvalidEvent("topic", f"{event.event_type} belongs to {own.base}")
        if partition_key not in (None, event.key):
            raise InvalidEvent("partition_key", "the key follows from the aggregate: one aggregate in two partitions has no order")
        return (await self.publish(event)).event_id

    async def publish_events_batch(self, events: Iterable[AgentEvent]) -> dict[str, bool]:
        """Per event id whether the log has acknowledged it. For reasons and positions use ``publish_batch``."""
        events = _taken(events)
        outcomes = await self.publish_batch(events)
        return {event.event_id: isinstance(outcome, Delivered) for event, outcome in zip(events, outcomes, strict=True)}

    def tell_handlers(self, event: AgentEvent) -> None:
        """Calls the handlers of an event that expected a version, once it is known that it counts."""
        self._handlers.tell_of(event)

    def register_event_handler(self, event_type: str, handler: Handler) -> None:
        """Calls ``handler`` in the event loop after each delivery of such an event by this process."""
        self._handlers.add(event_type, handler)

    async def flush(self, timeout_s: float | None = None) -> int:
        """Waits until everything accepted is in the log; returns how many events are not when the time is over."""
        self._enter()
        return await self._settle(timeout_s)

    async def close(self, grace_s: float | None = None) -> None:
        """Refuses new events, waits out the grace (that of the settings), spools the rest.

        Safe to call twice; in a forked child it leaves the parent's alone.
        """
        if self._closed:
            return
        self._closed = True
        exit_hooks.forget(self)
        if self._pid != os.getpid():
            return
        if self._loop is not None:
            await self._settle(self._settings.exit_grace_ms / 1000 if grace_s is None else grace_s)
            kept = await self._delivery.stop()
            self._keeper.cancel()
            self._tickets.close(kept=kept)
        if self._spool is not None:
            await self._spool.close()

    async def connect(self) -> bool:
        """True: the publisher is ready. It connects by itself, and spools while the broker is away."""
        self._enter()
        return True

    async def disconnect(self) -> None:
        """Flushes and closes, as ``close``."""
        await self.close()

    @property
    def clock(self) -> Clock:
        """The clock that deadlines are kept by."""
        return self._clock

    @property
    def unsettled(self) -> int:
        """Accepted events that are not yet known to be in the log: staged, in flight, and spooled."""
        if self._loop is None:
            return self.spool_depth
        return self._intake.staged + self._delivery.unsettled(self._intake.lanes)

    def last_positions(self) -> list[Position]:
        """Per partition the newest position this process knows to have published; what reads of one's own writes wait for."""
        return [lane.last for lane in self._intake.lanes if lane.last is not None]

    @property
    def spool_depth(self) -> int:
        """Events that lie in the spool now."""
        return self._spool.depth if self._spool is not None else 0

    @property
    def refused_in_spool(self) -> int:
        """Events that the log refused after their caller was told that they are kept; an operator must look."""
        return self._spool.refused if self._spool is not None else 0

    # Bodies that are encoded already

    async def room(self, size_bytes: int) -> None:
        """Waits while too much is in flight. Raises Backpressure where the spool could not take so many bytes more."""
        self._enter()
        if self._full or self._queueing:
            await self._room()
        if self._spool is not None and not self._spool.has_room(size_bytes):
            self._telemetry.count(SHED)
            raise Backpressure("the spool", f"{self._settings.spool_max_bytes} bytes")

    def hand_over(self, bodies: Sequence[Body]) -> Ticket:
        """Accepts bodies as they are, each for its own partition: their order is fixed when this returns, which is at once.

        Not for events: nothing is checked. What is Unknown and not kept may be handed over again, the same bytes under the
        same id. Call ``room`` before.
        """
        ticket = self._ticket(self._enter(), len(bodies))
        self._intake.stage(bodies, ticket)
        self._intake.send_to(self._delivery)
        return ticket

    def at_exit(self, last_words: Callable[[], Sequence[Body]]) -> None:
        """What ``last_words`` gives is sent when the process ends without closing; called in another thread, with the loop at a stand."""
        self._last_words.append(last_words)

    def writes_ahead(self, topic: Topic) -> bool:
        """Whether what is accepted for the topic goes onto this machine's disk before anything else."""
        return self._intake.writes_ahead(topic)

    async def on_disk(self) -> None:
        """Waits until everything that goes through the spool, of what was accepted so far, is there."""
        await self._delivery.on_disk()

    # One life: a process and an event loop

    def _enter(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid():
            # A forked child. The parent's buffers and its open files stay the parent's: referenced, never touched.
            self._inherited += [self._spool, self._delivery if self._loop is not None else None, self._intake]
            self._closed = False
            self._begin()
            exit_hooks.watch(self, self._settings.exit_grace_ms / 1000)
        if self._closed:
            raise LogUnavailable("publisher", "closed")
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(
                    "a publisher is used from one event loop at a time, and that one still runs; "
                    "from another thread hand it over with asyncio.run_coroutine_threadsafe, or open a roll there"
                )
            spoolings = (True, False) if self._loop is not None and self._spool is not None else ()
            left = [record for spooling in spoolings for record in self._delivery.open_records(spooling=spooling)]
            self._loop = loop
            self._tell_what_was_left()
            self._queue, self._queueing = asyncio.Lock(), 0
            self._delivery = Delivery(
                self._log, self._spool, clock=self._clock, telemetry=self._telemetry,
                stall_ms=self._settings.stall_ms, on_delivered=self._handlers.tell,
            )  # fmt: skip
            self._keeper = loop.create_task(self._keep())
            self._intake.begin_anew()
            if left:
                self._delivery.put(self._intake.again(left, self._ticket(loop, len(left))))
            self._intake.send_to(self._delivery)
            for lane in self._intake.lanes:
                self._delivery.resume(lane)
        return loop

    def _tell_what_was_left(self) -> None:
        """Once, and only by who is going to send it."""
        left, self._left = self._left, 0
        if left == 1:
            log.warning("1 event is left in the spool by an earlier process; it goes out before anything new of its partition")
        elif left:
            log.warning("%d events are left in the spool by earlier processes; they go out before anything new of their partitions", left)

    def _ticket(self, loop: asyncio.AbstractEventLoop, count: int) -> Ticket:
        return self._tickets.new(loop, count, self._clock.monotonic())

    @property
    def _full(self) -> bool:
        delivery = self._delivery
        return delivery.in_flight >= self._settings.max_in_flight or delivery.in_flight_bytes >= self._settings.max_in_flight_bytes

    async def _room(self) -> None:
        """Waits while too much is in flight; not longer than a stall, after which new events go through the spool.

        First come, first served: nobody who calls later is accepted before somebody who waits here.
        """
        self._queueing += 1
        try:
            async with self._queue:
                deadline = self._clock.monotonic() + self._settings.stall_ms / 1000
                while self._full:
                    if self._spool is not None and self._clock.monotonic() >= deadline:
                        self._delivery.watch(self._intake.lanes, force=True)
                        return
                    await self._delivery.movement(_LOOK_S)
        finally:
            self._queueing -= 1

    async def _settle(self, timeout_s: float | None) -> int:
        if self._loop is None:
            return self.unsettled
        self._intake.send_to(self._delivery)
        deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
        while (left := self.unsettled) and (deadline is None or self._clock.monotonic() < deadline):
            await self._delivery.movement(_LOOK_S)
        return left

    async def _keep(self) -> None:
        """Keeps deadlines, looks for stalled lanes, and tells the rate of each second that delivered something."""
        since, before = self._clock.monotonic(), self._delivery.delivered
        while True:
            await self._clock.sleep(_TICK_S)
            now = self._clock.monotonic()
            if now - since >= 1:
                if self._delivery.delivered > before:
                    self._telemetry.observe(SEND_RATE, (self._delivery.delivered - before) / (now - since))
                since, before = now, self._delivery.delivered
            if unknown := self._tickets.expire(now, kept=self._spool is not None):
                self._telemetry.count(UNCERTAIN, unknown)
            self._delivery.watch(self._intake.lanes)

    def drain_now(self, grace_s: float) -> None:
        """For the end of the process: blocks the calling thread until all is in the log, or on disk. Not from the loop's thread."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        if self._loop is not None:
            words = [body for speak in self._last_words for body in speak()]
            self._intake.stage(words, self._ticket(self._loop, len(words)))
        delivery = self._delivery if self._loop is not None else None
        # A signal may come in the middle of handing a load over: sending it twice is harmless, losing it is not.
        staged = [load.split() for load in (self._intake.handed_over, self._intake.direct)]
        # What goes to disk goes there first: the grace may be longer than whoever ends us is patient.
        spooled = delivery.open_records(spooling=True) if delivery is not None else []
        spooled += [record for _, diverted in staged for record in diverted.records]
        self._keep_now(spooled + self._intake.spooled.records)
        direct = [record for load, _ in staged for record in load.records]
        late: Sequence[Outcome | None] = [None] * len(direct)
        if direct:
            with contextlib.suppress(LogError):
                late = self._log.append(direct).outcomes
        self._log.drain(grace_s)
        flying = delivery.open_records(spooling=False) if delivery is not None else []
        flying += [record for record, outcome in zip(direct, late, strict=True) if outcome is None or isinstance(outcome, Unknown)]
        self._keep_now(flying)

    def _keep_now(self, records: Sequence[Encoded]) -> None:
        if records and (self._spool is None or not self._spool.put_now(records, exit_hooks.KEEP_S)):
            log.error("%d events could not be written to the spool in time", len(records))


def _taken(events: Iterable[AgentEvent]) -> tuple[AgentEvent, ...]:
    """All of them, whatever they come in. Raises InvalidEvent for what holds no events."""
    if not isinstance(events, Iterable):  # an event alone, or a generator that is to be awaited
        raise InvalidEvent("events", f"expected events, such as a list of them, got {type(events).__name__}")
    taken = tuple(events)
    for event in taken:
        if not isinstance(event, AgentEvent):
            raise InvalidEvent("events", f"expected AgentEvent, got {type(event).__name__}")
    return taken
