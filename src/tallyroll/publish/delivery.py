"""What becomes of accepted records: flights to the log, the spool while it is away, and the way back.

A lane goes through the spool when its partition has not reported for a while, when an outcome is unknown, or when the
client is full. It goes direct again only when its spool is empty and nothing is in flight: a new event must not pass an
old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from tallyroll.backoff import Backoff
from tallyroll.errors import Backpressure, LogError
from tallyroll.events.codec import link_of
from tallyroll.ports import Clock, Delivered, Encoded, EventLog, Outcome, Rejected, Spool, Unknown
from tallyroll.publish.lane import Lane
from tallyroll.publish.load import TAKEN, Flight, Load
from tallyroll.publish.receipt import Ticket
from tallyroll.telemetry import DELIVERED, LANES_SPOOLING, REJECTED, SHED, SPOOL_DEPTH, SPOOLED, UNCERTAIN, Telemetry

log: Final = logging.getLogger("tallyroll.publish")

OnDelivered = Callable[[Sequence[Encoded], Sequence[Outcome]], None]
"""Told of the records and outcomes of each flight that has landed."""

_WINDOW: Final = 1_000  # spooled records on their way at once per lane


class Delivery:
    """Carries loads in order and fills their tickets. Belongs to one event loop and one process."""

    def __init__(  # noqa: PLR0913  # what it carries between
        self, event_log: EventLog, spool: Spool | None, *, clock: Clock, telemetry: Telemetry, stall_ms: int, on_delivered: OnDelivered
    ) -> None:
        self._log = event_log
        self.spool = spool
        self._clock = clock
        self._telemetry = telemetry
        self._stall_s = stall_ms / 1000
        self._on_delivered = on_delivered
        self._flights: dict[Flight, None] = {}
        self._waiting: dict[int, tuple[Ticket, int]] = {}
        self._tried: set[int] = set()  # numbers in the spool whose record an earlier try may have brought into the log
        self._tasks: set[asyncio.Task[None]] = set()
        self._puts: set[asyncio.Task[None]] = set()
        self._loads_put: dict[Load, None] = {}
        self._moved = asyncio.Event()
        self._stopped = False
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.delivered = 0

    def send(self, load: Load) -> None:
        """Hands a load over, of lanes that went direct when it was accepted."""
        load = self._divert(load)
        if not load.records:
            return
        try:
            pending = self._log.append(load.records)
        except LogError as error:
            if self.spool is None:
                self._turn_away(load, error)
                return
            for lane in dict.fromkeys(load.lanes):
                self._spill(lane)  # what is in flight may yet turn out unknown: it comes first in the spool too
            for lane in load.lanes:
                lane.puts += 1
            self.put(load)
            return
        flight = Flight(load, pending, self._clock.monotonic())
        self._flights[flight] = None
        self.in_flight += len(load.records)
        self.in_flight_bytes += load.size
        for lane in load.lanes:
            lane.in_flight += 1
        self._spawn(self._land(flight))

    def _divert(self, load: Load) -> Load:
        """What still goes direct; the records of lanes that began to spool meanwhile must not pass those in the spool."""
        newest = next(reversed(self._flights), None)
        if self.spool is not None and newest is not None and type(newest.pending.outcomes[-1]) is Unknown:
            # The client failed, its successor may be at work already, and nobody has been told: what failed goes first.
            for lane in dict.fromkeys(load.lanes):
                if lane.in_flight:
                    self._spill(lane)
        if any(lane.spooling for lane in set(load.lanes)):
            load, late = load.split()
            for lane in late.lanes:
                lane.puts += 1
            self.put(late)
        return load

    def put(self, load: Load) -> None:
        """Hands a load over, of lanes that go through the spool; each record counts in its lane's ``puts`` already."""
        self._loads_put[load] = None
        self._spawn_put(self._write(load))

    async def on_disk(self) -> None:
        """Waits until everything that goes into the spool so far is there."""
        await asyncio.gather(*self._puts)

    async def movement(self, at_most_s: float) -> None:
        """Waits until something has landed or left the spool, or for so long."""
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._moved.wait(), at_most_s)

    def resume(self, lane: Lane) -> None:
        """Starts to empty the lane's spool, unless that is under way or something is still in flight."""
        if lane.spooling and lane.in_flight == 0 and lane.drain is None and self.spool is not None and not self._stopped:
            lane.drain = self._spawn(self._drain(lane))

    def watch(self, lanes: Sequence[Lane], *, force: bool = False) -> None:
        """Looks for lanes without progress and sends their events through the spool; with ``force`` all that have some open."""
        if self.spool is None:
            return
        oldest: dict[Lane, object] = {}
        now, spooling = self._clock.monotonic(), 0
        for flight in self._flights:
            if now - flight.since < self._stall_s / 2 and not force:
                break  # in order of departure: the rest is younger
            for index, outcome in enumerate(flight.pending.outcomes):
                if outcome is None:
                    oldest.setdefault(flight.load.lanes[index], flight.load.records[index])
        for lane in lanes:
            if lane.stalled(oldest.get(lane), now, self._stall_s / 2) or (force and lane in oldest):
                if not lane.spooling:
                    log.warning(
                        "no report for %s in %.1f s: its events go through the spool",
                        lane.target,
                        self._stall_s,
                        extra=lane.target._asdict(),
                    )
                self._spill(lane)
            spooling += lane.spooling and not lane.write_ahead
        self._telemetry.observe(LANES_SPOOLING, spooling)
        self._telemetry.observe(SPOOL_DEPTH, self.spool.depth)

    def unsettled(self, lanes: Sequence[Lane]) -> int:
        """Records that are not yet known to be in the log."""
        spooled = self.spool.depth if self.spool is not None else 0
        copies = sum(number != TAKEN for flight in self._flights for number in flight.spooled.values())
        return self.in_flight + spooled - copies + sum(lane.puts for lane in lanes)

    def open_records(self, *, spooling: bool) -> list[Encoded]:
        """What is not confirmed and not known to be in the spool, in order, of the lanes that go that way.

        Readable from any thread, for when the event loop does not run any more: a copy under way may never be made.
        """
        flying = [
            flight.load.records[index]
            for flight in list(self._flights)
            for index in flight.open(or_taken=True)
            if flight.load.lanes[index].spooling == spooling
        ]
        return flying + [record for load in list(self._loads_put) for record in load.records] if spooling else flying

    async def stop(self) -> bool:
        """Ends all work; what is open goes into the spool. False if that was not possible."""
        self._stopped = True
        await asyncio.gather(*self._puts, return_exceptions=True)  # cancelled before they began, they would keep nothing
        records = [flight.load.records[index] for flight in self._flights for index in flight.open()]
        kept = self.spool is not None
        if records and self.spool is not None:
            try:
                await self.spool.put(records)
            except Backpressure:
                kept = False
                log.error("%d events could not be written to the spool", len(records))  # noqa: TRY400  # no traceback needed
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return kept

    # Direct

    async def _land(self, flight: Flight) -> None:
        outcomes = await flight.pending.settled()
        load = flight.load
        delivered = sum([type(outcome) is Delivered for outcome in outcomes])
        self._telemetry.count(DELIVERED, delivered)
        self.delivered += delivered
        try:
            if delivered == len(outcomes):
                start = 0
                for ticket, slot, count in load.owners:
                    ticket.fill(slot, outcomes if count == len(outcomes) else outcomes[start : start + count])
                    start += count
            else:
                await self._sort_out(flight, outcomes)
            self._on_delivered(load.records, outcomes)
            if flight.spills:
                await asyncio.gather(*flight.spills)
                settled = [number for index, number in flight.spooled.items() if type(outcomes[index]) is not Unknown]
                if settled and self.spool is not None:
                    self._tried.difference_update(settled)
                    with contextlib.suppress(Backpressure):  # the spool's disk: what stays there goes out again under its id
                        await self.spool.remove(settled)
        finally:
            del self._flights[flight]
            self.in_flight -= len(load.records)
            self.in_flight_bytes -= load.size
            for lane, outcome in zip(load.lanes, outcomes, strict=True):
                lane.in_flight -= 1
                if type(outcome) is Delivered:
                    lane.last = outcome.position
                if lane.spooling:
                    self.resume(lane)
            self._moved.set()

    async def _sort_out(self, flight: Flight, outcomes: Sequence[Outcome]) -> None:
        """A flight with trouble: refusals are told and voided, what is unknown is kept in the spool and sent again."""
        load = flight.load
        if self.spool is not None:
            for lane in dict.fromkeys(load.lanes[index] for index, outcome in enumerate(outcomes) if type(outcome) is Unknown):
                self._spill(lane)
            await asyncio.gather(*flight.spills)
        for index, (record, lane, ticket, slot) in enumerate(load.each()):
            outcome = outcomes[index]
            if isinstance(outcome, Rejected):
                self._telemetry.count(REJECTED)
                _void(lane, record)
            elif isinstance(outcome, Unknown):
                if index in flight.spooled:
                    self._waiting[flight.spooled[index]] = (ticket, slot)
                    continue
                self._telemetry.count(UNCERTAIN)
                outcome = Unknown(outcome.error, kept=False)
            ticket.fill(slot, [outcome])

    def _turn_away(self, load: Load, error: LogError) -> None:
        self._telemetry.count(SHED, len(load.records))
        for record, lane, ticket, slot in load.each():
            _void(lane, record)
            ticket.fill(slot, [Rejected(error)])

    # Through the spool

    async def _write(self, load: Load) -> None:
        assert self.spool is not None  # noqa: S101  # lanes spool only where there is one
        try:
            numbers = await self.spool.put(load.records)
        except Backpressure as error:
            self._turn_away(load, error)
        else:
            self._telemetry.count(SPOOLED, len(numbers))
            for number, (_, _, ticket, slot) in zip(numbers, load.each(), strict=True):
                self._waiting[number] = (ticket, slot)
        finally:
            del self._loads_put[load]
            for lane in load.lanes:
                lane.puts -= 1
            for lane in set(load.lanes):
                self.resume(lane)

    def _spill(self, lane: Lane) -> None:
        """Copies what the lane has in flight, in order, into the spool; new events follow it there."""
        lane.spooling = True
        copies = [(flight, index) for flight in self._flights for index in flight.open() if flight.load.lanes[index] is lane]
        if copies:
            for flight, index in copies:
                flight.spooled[index] = TAKEN
            task = self._spawn_put(self._copy(copies))
            for flight in dict.fromkeys(flight for flight, _ in copies):
                flight.spills.append(task)

    async def _copy(self, copies: list[tuple[Flight, int]]) -> None:
        assert self.spool is not None  # noqa: S101  # lanes spool only where there is one
        try:
            numbers = await self.spool.put([flight.load.records[index] for flight, index in copies])
        except Backpressure:
            for flight, index in copies:
                del flight.spooled[index]
            log.error("the spool is full: events in flight are only in memory")  # noqa: TRY400  # a state, not a fault of this line
            return
        self._telemetry.count(SPOOLED, len(copies))
        for number, (flight, index) in zip(numbers, copies, strict=True):
            flight.spooled[index] = number
        self._tried.update(numbers)

    async def _drain(self, lane: Lane) -> None:
        """Sends the lane's spooled records in order; when nothing is left, new events go direct again."""
        assert self.spool is not None  # noqa: S101  # lanes spool only where there is one
        backoff = Backoff()
        try:
            while True:
                try:
                    window = await self.spool.take(lane.target, _WINDOW)
                    moved = not window or await self._send_window(lane, [item.number for item in window], [item.record for item in window])
                except LogError:  # the client's queue is full, the log cannot take anything now, or the spool's disk is full
                    moved = False
                if not moved:
                    await self._clock.sleep(backoff.next_s())
                elif window:
                    backoff.reset()
                elif lane.puts:
                    await self.on_disk()
                else:
                    lane.spooling = lane.write_ahead
                    return
        finally:
            lane.drain = None
            self._moved.set()

    async def _send_window(self, lane: Lane, numbers: list[int], records: list[Encoded]) -> bool:
        """One window; true when every record has a definite outcome. Raises Backpressure: nothing was sent, or not removed."""
        assert self.spool is not None  # noqa: S101  # lanes spool only where there is one
        outcomes = await self._log.append(records).settled()
        delivered: list[int] = []
        refused: dict[int, str] = {}
        for number, record, outcome in zip(numbers, records, outcomes, strict=True):
            if isinstance(outcome, Unknown):
                self._tried.add(number)
                continue
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                # Refused now says nothing of an earlier try that nobody heard of.
                told = Unknown(outcome.error) if isinstance(outcome, Rejected) and number in self._tried else outcome
                waiting[0].fill(waiting[1], [told])
            self._tried.discard(number)
            if isinstance(outcome, Delivered):
                delivered.append(number)
                lane.last = outcome.position
            else:
                refused[number] = type(outcome.error).__name__
                _void(lane, record)
                about = {**lane.target._asdict(), "event_id": record.event_id, "error": refused[number]}
                log.error("the log refused event %s, which had been kept for it (%s)", record.event_id, refused[number], extra=about)
        self._telemetry.count(DELIVERED, len(delivered))
        self.delivered += len(delivered)
        self._telemetry.count(REJECTED, len(refused))
        if delivered:
            await self.spool.remove(delivered)
        if refused:
            await self.spool.refuse(refused)
        self._on_delivered(records, outcomes)
        self._moved.set()
        return len(delivered) + len(refused) == len(numbers)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _spawn_put(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._spawn(coroutine)
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)
        return task


def _void(lane: Lane, record: Encoded) -> None:
    """A numbered record will never be in the log: the chain says so in its next record."""
    link = link_of(record.value)
    if link is not None:
        lane.void(link.session, link.number)
