"""A log that misbehaves on demand: a wrapper around any ``ports.EventLog``, to see what a publisher makes of it.

Faults are scripted by calls (the next records, or everything until ``release``) or drawn from a seed by ``Chances``. What
a fault leaves behind is what a log may leave: an acknowledgement that got lost has its record in the log, a refused
record has not, and after a lost record its partition takes nothing more until the loss has been told, as a Kafka client
that failed for good does.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from tallyroll.errors import Backpressure, LogUnavailable, PublishRejected
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import AssignmentListener, Clock, Encoded, EventLog, Outcome, Pending, Rejected, Span, Subscription, Unknown


class Fault(StrEnum):
    """What happens to one record."""

    DROP_ACK = "drop_ack"
    """It is appended; the outcome is Unknown."""
    LOSE = "lose"
    """It is not appended; the outcome is Unknown, also of what follows in its partition until that has been told."""
    REFUSE = "refuse"
    """It is not appended; the outcome is Rejected."""
    REPEAT = "repeat"
    """It is appended twice in a row; the outcome tells of the first copy."""


@dataclass(frozen=True, slots=True)
class Chances:
    """How likely each fault is: per record, or for ``backpressure`` and ``delay`` per append. ``delay_s`` is the longest delay."""

    drop_ack: float = 0.0
    lose: float = 0.0
    refuse: float = 0.0
    repeat: float = 0.0
    backpressure: float = 0.0
    delay: float = 0.0
    delay_s: float = 1.0


_SOUND: Final = Chances()


class FaultyPending:
    """Implements ``ports.Pending`` for records that a FaultyLog took in."""

    def __init__(self, records: Sequence[Encoded]) -> None:
        self.records = records
        self.outcomes: list[Outcome | None] = [None] * len(records)
        self.told = False
        self.behind: frozenset[TopicPartition] = frozenset()  # partitions with a loss that nobody had been told of when this was held
        self._settled = asyncio.Event()

    def fill(self, outcomes: Sequence[Outcome]) -> None:
        """All outcomes at once."""
        self.outcomes[:] = outcomes
        self._settled.set()

    async def settled(self) -> Sequence[Outcome]:
        await self._settled.wait()
        self.told = True
        return [outcome for outcome in self.outcomes if outcome is not None]


class FaultyLog:
    """Implements ``ports.EventLog`` over another one, with faults in ``append``; reading is passed through.

    The same seed and the same appends give the same faults. Outcomes come in the order of the appends. ``heal`` ends all
    faults. The inner log stays open when this one is closed. Use it from one event loop.
    Not promised: faults of reading, or of more than one client.
    """

    def __init__(
        self, inner: EventLog, *, clock: Clock, seed: int = 0, chances: Chances = _SOUND, durable_spool_needed: bool = True
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._inner = inner
        self._clock = clock
        self._random = Random(seed)  # noqa: S311  # the same faults again are the point
        self._chances = chances
        self._durable_spool_needed = durable_spool_needed
        self._next: deque[Fault] = deque()
        self._backpressure = 0
        self._holding = False
        self._held: list[FaultyPending] = []
        self._acks = asyncio.Event()
        self._acks.set()
        self._broken: dict[TopicPartition, FaultyPending] = {}
        self._reveal: asyncio.Task[None] | None = None
        self._closed = False

    # Faults

    def next_records(self, fault: Fault, count: int = 1) -> None:
        """The next records get this fault, after those that were asked for before."""
        self._next.extend([fault] * count)

    def push_back(self, appends: int = 1) -> None:
        """The next appends raise Backpressure."""
        self._backpressure += appends

    def hold(self) -> None:
        """Nothing is appended and no outcome comes, until ``release``: a broker that is away."""
        self._holding = True

    def hold_acks(self) -> None:
        """Records are appended, no outcome comes, until ``release``: a broker whose answers are stuck."""
        self._acks.clear()

    def release(self) -> None:
        """What was held goes on, in order."""
        self._holding = False
        self._acks.set()
        held, self._held = self._held, []
        for pending in held:
            self._go(pending)

    def heal(self) -> None:
        """No faults any more, and what was held goes on."""
        self._chances = _SOUND
        self._next.clear()
        self._backpressure = 0
        self.release()

    # The port

    @property
    def durable_spool_needed(self) -> bool:
        return self._durable_spool_needed

    def append(self, records: Sequence[Encoded]) -> Pending:
        if self._closed:
            raise LogUnavailable("faulty log", "closed")
        if self._backpressure or self._random.random() < self._chances.backpressure:
            self._backpressure = max(0, self._backpressure - 1)
            self.faults["backpressure"] += 1
            raise Backpressure("the faulty log", "on demand")
        pending = FaultyPending(records)
        if self._holding:
            self.faults["held"] += len(records)
            pending.behind = frozenset(partition for partition, cause in self._broken.items() if not cause.told)
            self._held.append(pending)
        else:
            self._go(pending)
        return pending

    def read(self, spans: Sequence[Span], *, max_records: int = 500) -> AsyncIterator[Batch]:
        return self._inner.read(spans, max_records=max_records)

    async def subscribe(self, group: str, topics: Sequence[str], listener: AssignmentListener, *, max_records: int = 500) -> Subscription:
        return await self._inner.subscribe(group, topics, listener, max_records=max_records)

    async def starts(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        return await self._inner.starts(topics)

    async def ends(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        return await self._inner.ends(topics)

    async def positions_at(self, topics: Sequence[str], timestamp_ms: int) -> Mapping[TopicPartition, int]:
        return await self._inner.positions_at(topics, timestamp_ms)

    async def committed(self, group: str, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        return await self._inner.committed(group, topics)

    def drain(self, timeout_s: float) -> int:
        """As the port; what is held counts and does not move."""
        return self._inner.drain(timeout_s) + sum(len(pending.records) for pending in self._held)

    async def close(self) -> None:
        """What is open becomes Unknown; what is held is never appended."""
        self._closed = True
        for pending in self._held:
            pending.fill([Unknown(LogUnavailable("faulty log", "closed"))] * len(pending.records))
        self._held.clear()
        self._acks.set()
        if self._reveal is not None:
            await asyncio.gather(self._reveal, return_exceptions=True)

    # One append

    def _go(self, pending: FaultyPending) -> None:
        """Appends what the faults leave, and has the outcomes told after those of earlier appends."""
        self._broken = {partition: cause for partition, cause in self._broken.items() if not cause.told}
        sent: list[Encoded] = []
        fates: list[int | Outcome] = []  # where the record is in ``sent``, or the outcome that it gets instead
        dropped: set[int] = set()
        for index, record in enumerate(pending.records):
            fault = self._draw()
            partition = TopicPartition(record.topic, record.partition)
            if partition in self._broken or partition in pending.behind:
                fault = Fault.LOSE
            if fault is not None:
                self.faults[fault] += 1
            if fault is Fault.LOSE:
                self._broken.setdefault(partition, pending)
                fates.append(_unknown("the record was lost"))
            elif fault is Fault.REFUSE:
                fates.append(Rejected(PublishRejected(record.event_id, "refused on demand")))
            else:
                fates.append(len(sent))
                sent += [record, record] if fault is Fault.REPEAT else [record]
                if fault is Fault.DROP_ACK:
                    dropped.add(index)
        delay_s = self._random.uniform(0, self._chances.delay_s) if self._random.random() < self._chances.delay else 0.0
        before = self._reveal
        appended = self._inner.append(sent) if sent else None
        self._reveal = asyncio.get_running_loop().create_task(self._tell(pending, appended, fates, dropped, delay_s, before))

    async def _tell(  # noqa: PLR0913  # one append and what becomes of it
        self,
        pending: FaultyPending,
        appended: Pending | None,
        fates: Sequence[int | Outcome],
        dropped: set[int],
        delay_s: float,
        before: asyncio.Task[None] | None,
    ) -> None:
        inner = await appended.settled() if appended is not None else ()
        if delay_s:
            await self._clock.sleep(delay_s)
        if before is not None:
            await before
        await self._acks.wait()
        outcomes = [inner[fate] if isinstance(fate, int) else fate for fate in fates]
        pending.fill([_unknown("its acknowledgement was lost") if index in dropped else outcome for index, outcome in enumerate(outcomes)])

    def _draw(self) -> Fault | None:
        if self._next:
            return self._next.popleft()
        draw = self._random.random()
        for fault in Fault:
            chance: float = getattr(self._chances, fault.value)
            if draw < chance:
                return fault
            draw -= chance
        return None


def _unknown(reason: str) -> Unknown:
    return Unknown(LogUnavailable("faulty log", reason))
