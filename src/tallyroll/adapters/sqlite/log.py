"""The embedded log: SQLite in WAL mode as ``ports.EventLog``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tallyroll.adapters.sqlite import reads
from tallyroll.adapters.sqlite.blocks import Want, fetch
from tallyroll.adapters.sqlite.handles import Handles, Options
from tallyroll.adapters.sqlite.membership import Member
from tallyroll.adapters.sqlite.opened import opened
from tallyroll.adapters.sqlite.retention import remove_older
from tallyroll.adapters.sqlite.subscription import SqliteSubscription
from tallyroll.adapters.sqlite.writer import Appended
from tallyroll.errors import LogUnavailable, TopicConflict
from tallyroll.events.batch import Batch
from tallyroll.events.ids import new_id
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import AssignmentListener, Clock, Encoded, Span
from tallyroll.settings import Synchronous


class SqliteLog:
    """Implements ``ports.EventLog`` in ``FOLDER/log.db``, for all processes of one host, or in memory for one process.

    Durability: with ``synchronous="FULL"`` a Delivered record is on disk and survives a power cut, as far as the disk
    tells the truth; with ``"NORMAL"`` it survives the death of the process, and a power cut may take the last ones.
    In memory it lives as long as the log is open. Ordering: within a partition as appended; appends that wait together
    share one commit. Outcomes: Rejected with LogUnavailable means that the transaction was rolled back (locked, disk
    full, read-only); Unknown is left for a disk that failed in the middle of a commit, and for what close cuts off.
    Forks: connections are closed for the moment of a fork, which waits for a transaction at work; a child opens its own
    at first use. What the parent has queued, and its subscriptions, stay with the parent. A log in memory stays with the
    process that opened it.

    Not promised: use from more than one host, or on a network file system (SQLite's locks and shared memory do not work
    there); copies (one disk holds the only one); that the file shrinks when retention removes records (their space is
    used again); speed when many processes write at once, since SQLite lets one write at a time.
    """

    def __init__(self, options: Options, handles: Handles) -> None:
        self._options = options
        self._current = handles
        self._closed = False
        self._subscriptions: set[SqliteSubscription] = set()

    @classmethod
    async def open(  # noqa: PLR0913  # one keyword per setting
        cls,
        folder: Path | None,
        catalogue: Catalogue,
        *,
        clock: Clock,
        synchronous: Synchronous = "FULL",
        max_record_bytes: int = 900_000,
        max_queued_records: int = 100_000,
        max_queued_bytes: int = 64 << 20,
        session_timeout_ms: int = 10_000,
        lock_timeout_ms: int = 5_000,
    ) -> SqliteLog:
        """The log in that folder, made when it is not there; None is one in memory, new at each call.

        ``clock`` decides what retention removes; leases of group members run on the machine's monotonic clock, since
        they are shared with other processes. ``max_queued_*`` bound what waits to be written. ``lock_timeout_ms``: how
        long a transaction waits for those of other processes. Raises LogUnavailable for a file that cannot be opened, is
        damaged, of another program or of a newer version, and leaves it as it is; TopicConflict when its topics have
        other partition counts.
        """
        options = Options(
            folder,
            catalogue,
            clock,
            synchronous,
            max_record_bytes,
            max_queued_records,
            max_queued_bytes,
            session_timeout_ms,
            lock_timeout_ms,
        )
        return cls(options, await opened(partial(Handles, options), Handles.close))

    @property
    def durable_spool_needed(self) -> bool:
        return False

    def append(self, records: Sequence[Encoded]) -> Appended:
        return self._handles().writer.append(records)

    async def read(self, spans: Sequence[Span], *, max_records: int = 500) -> AsyncIterator[Batch]:
        """See the port. A span that reaches beyond the log's end is read to the end as it is then."""
        handles = self._handles()
        for span in spans:
            partition = TopicPartition(span.topic, span.partition)
            number = handles.numbers.get(partition)
            if number is None:
                raise TopicConflict(span.topic, f"partition {span.partition} is not in the log")
            start = span.start
            while start < span.end:
                batches = await handles.read(partial(fetch, wants=[Want(partition, number, start, span.end)], max_records=max_records))
                if not batches:
                    break
                yield batches[0]
                start = batches[0].next_offset

    async def subscribe(
        self, group: str, topics: Sequence[str], listener: AssignmentListener, *, max_records: int = 500
    ) -> SqliteSubscription:
        handles = self._handles()
        self._numbers(topics)
        handles.watch()
        member = Member(group, new_id(), tuple(topics), self._options.session_timeout_ms * 1_000)
        subscription = SqliteSubscription(handles, member, listener, max_records=max_records)
        await subscription.start()
        self._subscriptions = {known for known in self._subscriptions if not known.closed} | {subscription}
        return subscription

    async def starts(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        return await self._ask(reads.firsts, topics)

    async def ends(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        return await self._ask(reads.ends, topics)

    async def positions_at(self, topics: Sequence[str], timestamp_ms: int) -> Mapping[TopicPartition, int]:
        return await self._ask(partial(reads.firsts_at, timestamp_ms=timestamp_ms), topics)

    async def committed(self, group: str, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        return await self._ask(partial(reads.committed, group=group), topics)

    async def retain(self) -> int:
        """Removes what is older than its topic keeps; returns how many records that were.

        Goes in pieces of some 50 ms, so that appends are not held up. The log does the same by itself when it is opened
        and every ten minutes in which something is written.
        """
        handles = self._handles()
        removed = 0
        for number in handles.numbers.values():
            more = True
            while more:
                step = await handles.write(partial(remove_older, number=number, cutoff_ms=handles.retention.cutoff_ms(number)))
                removed += step.records
                more = step.more
        return removed

    def drain(self, timeout_s: float) -> int:
        if self._closed or self._current.pid != os.getpid():
            return 0
        return self._current.writer.drain(timeout_s)

    async def close(self) -> None:
        """Writes what is queued, leaves every group without calling its listener, and ends the threads."""
        if self._closed:
            return
        if self._current.pid == os.getpid():
            for subscription in self._subscriptions:
                await subscription.abandon()
            self._closed = True
            await asyncio.to_thread(self._current.close)
        self._closed = True

    async def _ask(self, question: Callable[..., dict[TopicPartition, int]], topics: Iterable[str]) -> dict[TopicPartition, int]:
        numbers = self._numbers(topics)
        return await self._handles().read(partial(question, numbers=numbers))

    def _numbers(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        wanted = set(topics)
        numbers = {partition: number for partition, number in self._handles().numbers.items() if partition.topic in wanted}
        unknown = wanted - {partition.topic for partition in numbers}
        if unknown:
            raise TopicConflict(min(unknown), "is not in the catalogue of this log")
        return numbers

    def _handles(self) -> Handles:
        """What this process holds open; after a fork the child gets its own."""
        if self._closed:
            raise LogUnavailable(self._current.what, "closed")
        if self._current.pid != os.getpid():
            if self._options.path is None:
                raise LogUnavailable(self._current.what, "a log in memory stays with the process that opened it")
            if self._current.torn:
                raise LogUnavailable(self._current.what, "forked in the middle of a transaction that hung; start workers by spawn")
            self._subscriptions = set()
            self._current = Handles(self._options)
        return self._current
