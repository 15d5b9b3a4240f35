"""The producing half: one librdkafka producer, one poll thread, outcomes handed back in batches.

Delivery callbacks run in the poll thread and only fill slots; after each poll one call per event loop wakes whoever
waits. A wake-up per event costs more than the send.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tallyroll.adapters.kafka.outcomes import is_fatal, outcome_of
from tallyroll.backoff import Backoff
from tallyroll.errors import Backpressure, LogUnavailable
from tallyroll.events.position import Position
from tallyroll.ports import Clock, Delivered, Encoded, Outcome, Unknown
from tallyroll.telemetry import CALLBACK_ERRORS, CLIENT_RESTARTS, PRODUCER_ERRORS, Telemetry

log: Final = logging.getLogger("tallyroll.kafka")

_DRAIN_LOOK_S: Final = 0.005
_LOCK_S: Final = 0.5  # making a client takes some ms
_POLL_S: Final = 0.1  # how long the poll thread sleeps in librdkafka when nothing happens; reports wake it at once
_INHERITED: Final[list[object]] = []  # handles of a forked parent: kept referenced, since closing them here would harm it


class PendingRecords:
    """Records handed over together; implements ``ports.Pending``.

    Two threads fill outcomes, each counts its own: no lock, and no count that both write.
    """

    __slots__ = ("_refused", "_reported", "disconnects", "outcomes", "records", "waiters")

    def __init__(self, records: Sequence[Encoded], disconnects: int) -> None:
        self.records = records
        self.outcomes: list[Outcome | None] = [None] * len(records)
        self.disconnects = disconnects
        self._reported = 0
        self._refused = 0
        self.waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def report(self, index: int, outcome: Outcome) -> bool:
        """Sets one outcome, in the poll thread; true when no outcome is open any more."""
        self.outcomes[index] = outcome
        self._reported += 1
        return not self._open

    def refuse(self, index: int, outcome: Outcome) -> bool:
        """Sets one outcome, in the thread that appends; true when no outcome is open any more."""
        self.outcomes[index] = outcome
        self._refused += 1
        return not self._open

    @property
    def _open(self) -> int:
        return len(self.records) - self._reported - self._refused

    async def settled(self) -> Sequence[Outcome]:
        if self._open:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            # Waiting first, looking again after: the other side counts first and looks for those who wait after.
            self.waiters.append((loop, future))
            if self._open:
                await future
        return self.outcomes  # type: ignore[return-value]  # none is None any more


class _Report(msgspec.Struct, gc=False):
    """The delivery callback of one record; a partial would be work for the garbage collector."""

    handle: Callable[[PendingRecords, int, KafkaError | None, Message], None]
    pending: PendingRecords
    index: int

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        self.handle(self.pending, self.index, error, message)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class KafkaProducer:
    """Appends encoded records; implements the appending half of ``ports.EventLog`` for Kafka.

    A fatal client error ends that instance: what it held becomes Unknown, and a new one is made after a pause.
    Survives a fork: the child gets an instance of its own, the parent's buffer stays the parent's.
    Not promised: order between what an ended instance held and what is appended later; the publisher keeps that order.
    """

    def __init__(self, config: Mapping[str, Any], *, clock: Clock, telemetry: Telemetry, max_records: int) -> None:
        self._config = dict(config)
        self._clock = clock
        self._telemetry = telemetry
        self._max_records = max_records
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._producer: Producer | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._disconnects = 0
        self._fatal: str | None = None
        self._backoff = Backoff()  # before a new instance after a fatal error
        self._next_try = 0.0
        self._settled: deque[PendingRecords] = deque()  # filled and emptied by several threads
        self._wait = threading.Event()
        _register_fork(self)

    def append(self, records: Sequence[Encoded]) -> PendingRecords:
        """See ``ports.EventLog.append``."""
        pending = PendingRecords(records, self._disconnects)
        producer = self._ready_producer()
        if producer is None:
            self._give_up(pending, 0, LogUnavailable("kafka client", "waiting before a new client instance is made"))
            return pending
        if len(producer) + len(records) > self._max_records:
            raise Backpressure("the Kafka client's queue", f"{self._max_records} records")
        produce = producer.produce
        for index, record in enumerate(records):
            try:
                produce(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    on_delivery=_Report(self._report, pending, index),
                    timestamp=record.timestamp_ms,
                    headers=record.headers,  # type: ignore[arg-type]  # a list in fact; the annotation is wider for other logs
                )
            except KafkaException as error:
                # Refused before it was queued: this record only, unless the code says that the client is done for.
                outcome = outcome_of(error.args[0], record.event_id, disconnected_since=False)
                if pending.refuse(index, outcome):
                    self._settled.append(pending)
                    self._hand_back()
            except (BufferError, RuntimeError) as error:  # the rest must follow in order or not at all
                self._refuse_rest(pending, index, error)
                break
        return pending

    def outstanding(self) -> int:
        """How many records wait for their report, about."""
        producer = self._producer
        return len(producer) if producer is not None and self._pid == os.getpid() else 0

    def drain(self, timeout_s: float) -> int:
        """See ``ports.EventLog.drain``."""
        # Only the poll thread serves reports, so slots have one writer; here we just wait for it.
        deadline = self._clock.monotonic() + timeout_s
        while (left := self.outstanding()) and self._clock.monotonic() < deadline:
            self._wait.wait(_DRAIN_LOOK_S)
        return left

    def close(self) -> None:
        """Ends the client; what is open becomes Unknown. Blocks for as long as the poll thread needs to see it."""
        self._closing = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)
        producer, self._producer = self._producer, None
        if producer is not None and self._pid == os.getpid():
            self._purge(producer)
        self._hand_back()

    def _ready_producer(self) -> Producer | None:
        if self._pid != os.getpid():  # second guard: a fork that bypassed Python's hooks
            self._after_fork()
        if self._producer is not None and self._fatal is None:
            return self._producer
        if not self._lock.acquire(timeout=_LOCK_S):
            return None  # whoever holds it was interrupted by the signal that ends us
        try:
            if self._producer is None and not self._closing and self._clock.monotonic() >= self._next_try:
                self._fatal = None
                self._producer = Producer({**self._config, "error_cb": self._on_error})
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._poll_forever, name="tallyroll-kafka-poll", daemon=True)
                    self._thread.start()
            return self._producer if self._fatal is None else None
        finally:
            self._lock.release()

    def _report(self, pending: PendingRecords, index: int, error: KafkaError | None, message: Message) -> None:
        # An exception here would come out of somebody else's poll() or flush().
        try:
            record = pending.records[index]
            if error is None:
                outcome: Outcome = Delivered(Position(record.topic, record.partition, message.offset() or 0))
                self._backoff.attempts = 0
            else:
                outcome = outcome_of(error, record.event_id, disconnected_since=self._disconnects != pending.disconnects)
                self._telemetry.count(PRODUCER_ERRORS, reason=error.name())
                if is_fatal(error):
                    self._fatal = error.name()
            if pending.report(index, outcome):
                self._settled.append(pending)
        except BaseException:
            self._telemetry.count(CALLBACK_ERRORS)
            log.exception("delivery report could not be handled")

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT):  # noqa: SLF001
            self._disconnects += 1
        if is_fatal(error):
            self._fatal = error.name()

    def _poll_forever(self) -> None:
        while not self._closing and self._pid == os.getpid():
            producer = self._producer
            if producer is None:  # a later append makes a new one
                self._wait.wait(_POLL_S)
                continue
            producer.poll(_POLL_S)
            self._hand_back()
            if self._fatal is not None:
                self._retire(producer, self._fatal)

    def _hand_back(self) -> None:
        """Wakes those whose records are all settled: one call per event loop, however many they are."""
        by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        while self._settled:
            try:
                pending = self._settled.popleft()
            except IndexError:  # another thread was quicker
                break
            for loop, future in pending.waiters:
                by_loop.setdefault(loop, []).append(future)
        for loop, futures in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more, the outcomes stand in the slots
                loop.call_soon_threadsafe(_wake, futures)

    def _retire(self, producer: Producer, reason: str) -> None:
        with self._lock:
            self._producer = None
            pause = self._backoff.next_s()
            self._next_try = self._clock.monotonic() + pause
        self._telemetry.count(CLIENT_RESTARTS, reason=reason)
        log.error("Kafka client ended by a fatal error (%s); a new one in %.1f s", reason, pause)
        self._purge(producer)
        self._hand_back()

    def _purge(self, producer: Producer) -> None:
        with contextlib.suppress(KafkaException):
            producer.purge()
            producer.flush(1.0)  # serves the reports of what was purged

    def _refuse_rest(self, pending: PendingRecords, first: int, error: BaseException) -> None:
        self._give_up(pending, first, LogUnavailable("kafka client", f"did not take the record ({type(error).__name__})"))

    def _give_up(self, pending: PendingRecords, first: int, error: LogUnavailable) -> None:
        for index in range(first, len(pending.records)):
            if pending.refuse(index, Unknown(error)):
                self._settled.append(pending)
        if first == 0:
            self._hand_back()

    def _after_fork(self) -> None:
        _INHERITED.append((self._producer, self._thread))
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._producer = None
        self._thread = None
        self._fatal = None
        self._settled = deque()
        self._wait = threading.Event()


def _register_fork(producer: KafkaProducer) -> None:
    """Fork hooks cannot be taken back, so they must not keep the producer alive."""
    reference = weakref.ref(producer)

    def after_fork() -> None:
        alive = reference()
        if alive is not None:
            alive._after_fork()  # noqa: SLF001  # own class

    os.register_at_fork(after_in_child=after_fork)
