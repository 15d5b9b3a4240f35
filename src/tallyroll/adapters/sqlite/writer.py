"""The thread that writes: many appends become one transaction, in the order in which they were handed over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar, cast

from tallyroll.adapters.sqlite.blocks import headers_size, to_blocks
from tallyroll.adapters.sqlite.folding import Folding
from tallyroll.adapters.sqlite.guarded import Guarded
from tallyroll.adapters.sqlite.retention import Retention
from tallyroll.adapters.sqlite.schema import OFFSET_BITS, transaction, unavailable
from tallyroll.adapters.sqlite.tail import Tail, wake
from tallyroll.errors import Backpressure, LogUnavailable, PublishRejected
from tallyroll.events.position import Position, TopicPartition
from tallyroll.ports import Delivered, Encoded, Outcome, Rejected, Unknown

_GROUP_RECORDS: Final = 20_000  # one transaction at the most, some 50 ms of work: bounds memory and what a reader waits for
_GROUP_BYTES: Final = 16 << 20
_AROUND_BLOCK: Final = 16 << 10  # bytes of the pages that a block changes beside its own: of small ones they are most of what is written

# One step of SQLite for all partitions; see ``blocks`` for why steps are to be few.
_SET_ENDS: Final = """
UPDATE partitions SET next_offset = json_extract(value, '$[1]'), high_ms = json_extract(value, '$[2]')
FROM json_each(?) WHERE number = json_extract(value, '$[0]')
"""

T = TypeVar("T")
Parts = Mapping[int, Sequence[int]]


class Limits:
    """Bounds of what is taken in."""

    def __init__(self, *, record_bytes: int, queued_records: int, queued_bytes: int) -> None:
        self.record_bytes = record_bytes
        self.queued_records = queued_records
        self.queued_bytes = queued_bytes


class Appended:
    """Implements ``ports.Pending``: one call of ``append``. ``parts`` maps partition numbers to indexes of records."""

    __slots__ = ("_futures", "_open", "outcomes", "parts", "records", "size_bytes")

    def __init__(self, records: Sequence[Encoded], outcomes: list[Outcome | None], parts: Parts, size_bytes: int) -> None:
        self.records = records
        self.outcomes: Sequence[Outcome | None] = outcomes
        self.parts = parts
        self.size_bytes = size_bytes
        self._open = bool(parts)
        self._futures: list[asyncio.Future[None]] = []

    async def settled(self) -> Sequence[Outcome]:
        if self._open:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._futures.append(future)
            # Asked again: the writer marks the end first and takes the futures then, so one of us sees the other.
            if self._open:
                await future
        return cast("Sequence[Outcome]", self.outcomes)

    def fail(self, outcome: Rejected | Unknown) -> None:
        """Gives every open record this outcome."""
        outcomes = cast("list[Outcome | None]", self.outcomes)
        for indexes in self.parts.values():
            for index in indexes:
                outcomes[index] = outcome

    def finish(self) -> list[asyncio.Future[None]]:
        """Marks it settled; gives who waits."""
        self._open = False
        return list(self._futures)


class _Job:
    """Work for the writer's connection, with a future for its result."""

    __slots__ = ("future", "in_transaction", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], *, in_transaction: bool) -> None:
        self.work = work
        self.in_transaction = in_transaction
        self.future: Future[Any] = Future()


class _Mark:
    """Everything handed over before it is settled when ``reached`` is set. The last one ends the thread."""

    __slots__ = ("last", "reached")

    def __init__(self, *, last: bool) -> None:
        self.last = last
        self.reached = threading.Event()


class Writer:
    """Owns the only writing connection of a process (and closes it), and the order of what goes through it.

    ``append`` is for one thread at a time; ``drain`` and ``call`` for any. It takes no lock, so that a signal handler
    that interrupts it can still drain from another thread.
    """

    def __init__(  # noqa: PLR0913  # one argument per collaborator
        self,
        what: str,
        guarded: Guarded,
        numbers: Mapping[TopicPartition, int],
        *,
        limits: Limits,
        retention: Retention,
        tail: Tail,
        folding: Folding | None,
    ) -> None:
        self._what = what
        self._guarded = guarded
        self._numbers: Mapping[tuple[str, int], int] = {(topic, partition): number for (topic, partition), number in numbers.items()}
        self._names = {number: partition for partition, number in numbers.items()}
        self._limits = limits
        self._retention = retention
        self._tail = tail
        self._folding = folding
        self._queue: queue.SimpleQueue[Appended | _Job | _Mark] = queue.SimpleQueue()
        self._taken_records = self._taken_bytes = 0  # written by the appending thread only
        self._done_records = self._done_bytes = 0  # written by the writer's thread only
        self._ends: dict[int, tuple[int, int]] = {}
        self._seen: tuple[sqlite3.Connection, int] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="tallyroll-sqlite-writer", daemon=True)
        self._thread.start()

    @property
    def unsettled(self) -> int:
        """How many records are taken and have no outcome yet."""
        return self._taken_records - self._done_records

    def append(self, records: Sequence[Encoded]) -> Appended:
        """See ``ports.EventLog.append``. A call larger than the bound is taken when nothing else waits."""
        if self._stopped:
            raise LogUnavailable(self._what, "closed")
        outcomes: list[Outcome | None] = [None] * len(records)
        parts: dict[int, list[int]] = {}
        taken = size = 0
        for index, record in enumerate(records):
            number = self._numbers.get((record.topic, record.partition))
            own = len(record.key) + len(record.value) + headers_size(record.headers)
            if number is None:
                outcomes[index] = Rejected(PublishRejected(record.event_id, f"the log has no {record.topic}/{record.partition}"))
            elif own > self._limits.record_bytes:
                reason = f"{own} bytes with key and headers, the limit is {self._limits.record_bytes}"
                outcomes[index] = Rejected(PublishRejected(record.event_id, reason))
            else:
                parts.setdefault(number, []).append(index)
                taken += 1
                size += own
        if self.unsettled:
            if self.unsettled + taken > self._limits.queued_records:
                raise Backpressure(self._what, f"{self._limits.queued_records} records wait to be written")
            if self._taken_bytes - self._done_bytes + size > self._limits.queued_bytes:
                raise Backpressure(self._what, f"{self._limits.queued_bytes} bytes wait to be written")
        pending = Appended(records, outcomes, parts, size)
        if taken:
            self._taken_records += taken
            self._taken_bytes += size
            self._queue.put(pending)
        return pending

    def call(self, work: Callable[[sqlite3.Connection], T], *, in_transaction: bool) -> Future[T]:
        """Runs ``work`` on the writer's connection, after what was handed over before."""
        job = _Job(work, in_transaction=in_transaction)
        if self._stopped:
            job.future.set_exception(LogUnavailable(self._what, "closed"))
        else:
            self._queue.put(job)
        return job.future

    def drain(self, timeout_s: float) -> int:
        """See ``ports.EventLog.drain``."""
        mark = _Mark(last=False)
        self._queue.put(mark)
        if self.unsettled:
            mark.reached.wait(timeout_s)
        return self.unsettled

    def stop(self, timeout_s: float) -> None:
        """Writes what is queued, then ends the thread. What is not written in time becomes Unknown when its turn comes."""
        self._stopped = True
        self._queue.put(_Mark(last=True))
        self._thread.join(timeout_s)

    # What follows runs in the writer's own thread.

    def _run(self) -> None:
        group: list[Appended] = []
        try:
            while True:
                group, other = self._next()
                if group:
                    self._write(group)
                if isinstance(other, _Job):
                    self._do(other)
                elif isinstance(other, _Mark):
                    other.reached.set()
                    if other.last:
                        return
                elif self._retention.due():
                    self._retain()
        finally:
            self._stopped = True
            self._abandon(group)
            if self._folding is not None:
                self._folding.close()
            self._guarded.close()

    def _next(self) -> tuple[list[Appended], _Job | _Mark | None]:
        """Appends that go into one transaction, and what came behind them; both empty when retention is due and nothing else."""
        group: list[Appended] = []
        records = size = 0
        try:
            item = self._queue.get(block=not self._retention.due())
            while isinstance(item, Appended):
                group.append(item)
                records += len(item.records)
                size += item.size_bytes
                if records >= _GROUP_RECORDS or size >= _GROUP_BYTES:
                    return group, None
                item = self._queue.get_nowait()
        except queue.Empty:
            return group, None
        return group, item

    def _write(self, group: Sequence[Appended]) -> None:
        by_number: dict[int, list[tuple[Appended, Sequence[int]]]] = {}
        for pending in group:
            for number, indexes in pending.parts.items():
                by_number.setdefault(number, []).append((pending, indexes))
        try:
            starts = self._insert(by_number)
        except sqlite3.Error as error:
            outcome = _outcome(unavailable(self._what, error), error)
            for pending in group:
                pending.fail(outcome)
        else:
            for number, parts in by_number.items():
                _deliver(parts, self._names[number], starts[number])
            self._tail.advance({number: self._ends[number][0] for number in by_number})
        self._settle(group)
        if self._folding is not None:
            size = sum(pending.size_bytes for pending in group) + _AROUND_BLOCK * len(by_number)
            self._folding.committed(size, self._guarded.use)

    def _settle(self, group: Sequence[Appended]) -> None:
        self._done_records += sum(len(indexes) for pending in group for indexes in pending.parts.values())
        self._done_bytes += sum(pending.size_bytes for pending in group)
        wake([future for pending in group for future in pending.finish()])

    def _insert(self, by_number: Mapping[int, Sequence[tuple[Appended, Sequence[int]]]]) -> dict[int, int]:
        """Stores the records in one transaction; gives the first offset of each partition's run."""
        starts: dict[int, int] = {}
        ends: dict[int, tuple[int, int]] = {}
        rows: list[tuple[int, int, int, int, bytes]] = []
        with self._guarded.use() as connection, transaction(connection):
            self._learn_ends(connection)
            for number, parts in by_number.items():
                end, high_ms = self._ends[number]
                starts[number] = end
                for block in to_blocks([pending.records[index] for pending, indexes in parts for index in indexes], high_ms):
                    rows.append((number << OFFSET_BITS | end, *block))
                    end += block.length
                    high_ms = block.high_ms
                ends[number] = (end, high_ms)
            connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", rows)
            connection.execute(_SET_ENDS, (json.dumps([(number, *end) for number, end in ends.items()]),))
        self._ends.update(ends)
        return starts

    def _learn_ends(self, connection: sqlite3.Connection) -> None:
        """Reads the ends anew when another process has committed since we did. Inside the transaction nobody else can."""
        seen = (connection, connection.execute("PRAGMA data_version").fetchone()[0])
        if seen != self._seen:
            rows = connection.execute("SELECT number, next_offset, high_ms FROM partitions")
            self._ends = {number: (next_offset, high_ms) for number, next_offset, high_ms in rows}
            self._seen = seen

    def _do(self, job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            with self._guarded.use() as connection:
                if job.in_transaction:
                    with transaction(connection):
                        result = job.work(connection)
                    with contextlib.suppress(sqlite3.Error):  # it is committed; the next change tells
                        self._tail.refresh(connection)
                else:
                    result = job.work(connection)
        except sqlite3.Error as error:
            job.future.set_exception(unavailable(self._what, error))
        except Exception as error:  # noqa: BLE001  # whoever asked gets it; the thread serves others too
            job.future.set_exception(error)
        else:
            job.future.set_result(result)

    def _retain(self) -> None:
        # A damaged block keeps what is before it, and must not end the thread that writes for everybody; who reads it is told.
        with contextlib.suppress(sqlite3.Error, LogUnavailable), self._guarded.use() as connection, transaction(connection):
            self._retention.step(connection)  # what fails now is tried again after the interval

    def _abandon(self, group: Sequence[Appended]) -> None:
        """Settles whatever can no longer be written, so that nobody waits for ever."""
        closed = LogUnavailable(self._what, "closed")
        left = [pending for pending in group if None in pending.outcomes]
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, Appended):
                    left.append(item)
                elif isinstance(item, _Mark):
                    item.reached.set()
                elif item.future.set_running_or_notify_cancel():
                    item.future.set_exception(closed)
        for pending in left:
            pending.fail(Unknown(closed))
        self._settle(left)


def _outcome(failure: LogUnavailable, error: sqlite3.Error) -> Rejected | Unknown:
    """What became of records whose transaction failed: rolled back means certainly not in the log.

    After a failed sync the disk may hold them all the same: if the machine stops before the next write, recovery finds them.
    """
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
        return Unknown(failure)
    return Rejected(failure)


def _deliver(parts: Sequence[tuple[Appended, Sequence[int]]], name: TopicPartition, offset: int) -> None:
    topic, partition = name
    for pending, indexes in parts:
        outcomes = cast("list[Outcome | None]", pending.outcomes)
        for index in indexes:
            outcomes[index] = Delivered(Position(topic, partition, offset))
            offset += 1
