"""Membership in a group that shares partitions, over the tables of the embedded log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from tallyroll.adapters.sqlite import membership
from tallyroll.adapters.sqlite.blocks import Want, fetch
from tallyroll.adapters.sqlite.handles import Handles
from tallyroll.adapters.sqlite.membership import Member
from tallyroll.adapters.sqlite.reads import committed_or_first
from tallyroll.adapters.sqlite.schema import OFFSET_MASK
from tallyroll.errors import LogUnavailable
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import AssignmentListener

_RENEWALS: Final = 4  # per lease: three may fail before it runs out


class SqliteSubscription:
    """Implements ``ports.Subscription``. Made by ``SqliteLog.subscribe``; for one task, and one event loop.

    Partitions are handed over one by one: a member gives one up when ``revoked`` has returned, then another takes it.
    The lease is renewed by a task on the event loop, also while nobody polls: a loop that hangs for longer than the
    session time-out loses its partitions, a slow follower does not.
    Not promised: that a member which hung notices before its successor starts; ``lost`` comes with its next poll.
    """

    def __init__(self, handles: Handles, member: Member, listener: AssignmentListener, *, max_records: int) -> None:
        self._handles = handles
        self._member = member
        self._listener = listener
        self._max_records = max_records
        self._next: dict[TopicPartition, int] = {}  # what we hold; the order is the order of service
        self._paused: set[TopicPartition] = set()
        self._generation = -1
        self._closed = asyncio.Event()
        self._turn = asyncio.Lock()  # a rebalance and the close must not tell the listener different things at once
        self._renewal: asyncio.Task[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether it has left its group."""
        return self._closed.is_set()

    async def start(self) -> None:
        """Joins the group; partitions come with a later poll."""
        try:
            await self._handles.write(partial(membership.join, member=self._member))
        except BaseException:
            # Cancelled, it may have joined all the same, and nobody else could take its share before the lease has run out.
            await self.abandon()
            raise
        self._renewal = asyncio.create_task(self._renew())

    async def poll(self, timeout_ms: int) -> Sequence[Batch]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1_000
        tail = self._handles.tail
        while True:
            if self._closed.is_set():
                raise LogUnavailable(self._handles.what, "the subscription is closed")
            seen = tail.version
            if tail.generation(self._member.group) != self._generation:
                await self._rebalance()
            batches = await self._fetch()
            left = deadline - loop.time()
            if batches or left <= 0:
                return batches
            await tail.changed(seen, left)

    def pause(self, partition: TopicPartition) -> None:
        if partition in self._next:
            self._paused.add(partition)

    def resume(self, partition: TopicPartition) -> None:
        self._paused.discard(partition)

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._next:
            raise ValueError(f"{partition} is not held by this member")
        if not 0 <= offset <= OFFSET_MASK:
            raise ValueError(f"an offset is 0 to {OFFSET_MASK}, got {offset}")
        self._next[partition] = offset

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """See the port. What is not held any more is left out."""
        offsets = {self._handles.numbers[partition]: offset for partition, offset in positions.items() if partition in self._next}
        if offsets:
            await self._handles.write(partial(membership.commit, member=self._member, offsets=offsets))

    async def close(self) -> None:
        async with self._turn:
            if self._closed.is_set():
                return
            await self._stop_renewal()
            held = sorted(self._next)
            ours = True
            with suppress(LogUnavailable):  # what is held is flushed all the same; a follower's store is elsewhere
                ours = await self._handles.write(partial(membership.renew, member=self._member))
            if held:
                await (self._listener.revoked(held) if ours else self._listener.lost(held))
            await self._leave()

    async def abandon(self) -> None:
        """Leaves without a word to the listener: the log itself is being closed, and what is not flushed is dropped."""
        if not self._closed.is_set():
            await self._stop_renewal()
            with suppress(LogUnavailable):  # then the lease runs out by itself
                await self._leave()

    async def _stop_renewal(self) -> None:
        self._closed.set()
        if self._renewal is not None:
            await asyncio.gather(self._renewal, return_exceptions=True)  # cancelled already, where a whole event loop ends

    async def _leave(self) -> None:
        self._forget(tuple(self._next))
        await self._handles.write(partial(membership.leave, member=self._member))

    async def _renew(self) -> None:
        interval_s = self._member.lease_us / 1_000_000 / _RENEWALS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._closed.wait()
                return
            # A lease that had run out shows in the generation, and a lock or a full disk may pass before it does.
            with suppress(LogUnavailable):
                await self._handles.write(partial(membership.renew, member=self._member))

    async def _rebalance(self) -> None:
        async with self._turn:
            if self._closed.is_set():
                return
            share = await self._handles.write(partial(membership.settle, member=self._member))
            if share.rejoined and self._next:
                lost = sorted(self._next)
                self._forget(lost)
                await self._listener.lost(lost)
            leaving = sorted(share.to_release)
            if leaving:
                held = [partition for partition in leaving if partition in self._next]
                if held:
                    await self._listener.revoked(held)
                self._forget(held)
                numbers = [self._handles.numbers[partition] for partition in leaving]
                await self._handles.write(partial(membership.release, member=self._member, numbers=numbers))
            fresh = sorted(share.claimed - share.to_release - self._next.keys())
            if fresh:
                starts = dict(await self._listener.assigned(fresh))
                missing = [partition for partition in fresh if partition not in starts]
                if missing:
                    wanted = {partition: self._handles.numbers[partition] for partition in missing}
                    starts.update(await self._handles.read(partial(committed_or_first, group=self._member.group, numbers=wanted)))
                self._next.update((partition, starts[partition]) for partition in fresh)
            # Only now: when a listener raised or the log failed, the next poll goes through it again.
            self._generation = share.generation

    async def _fetch(self) -> list[Batch]:
        tail, numbers = self._handles.tail, self._handles.numbers
        wants = [
            Want(partition, numbers[partition], start, end)
            for partition, start in self._next.items()
            if partition not in self._paused and start < (end := tail.end(numbers[partition]))
        ]
        if not wants:
            return []
        fetched = await self._handles.read(partial(fetch, wants=wants, max_records=self._max_records))
        starts = {want.partition: want.start for want in wants}
        batches = []
        for batch in fetched:
            partition = batch.topic_partition
            # While we read, somebody may have paused or sought it.
            if partition not in self._paused and self._next.get(partition) == starts[partition]:
                del self._next[partition]  # to the end of the queue, so that everybody has its turn
                self._next[partition] = batch.next_offset
                batches.append(batch)
        return batches

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._next.pop(partition, None)
            self._paused.discard(partition)
