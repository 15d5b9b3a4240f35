"""Out of the log: the only consume loop. Reads batches, offers them to followers, flushes, commits.

Order of trust: the position in the log, then the position a follower stored with its results, then the committed offset,
which is only a hint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from tallyroll.backoff import Backoff
from tallyroll.errors import LogError, PositionConflict, SpanGone, StoreFilling, StoreUnavailable, TallyrollError
from tallyroll.events.batch import Batch
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.follow.applying import applied, one_by_one
from tallyroll.follow.committing import Commits
from tallyroll.follow.deadletter import DeadLetters
from tallyroll.follow.flushing import Flushes
from tallyroll.follow.retry import Held, Unbegun
from tallyroll.ports import Clock, EventLog, Follower, LooksFirst, Subscription, Tracing
from tallyroll.settings import Settings
from tallyroll.telemetry import DEAD_LETTERS, FOLLOW_CONFLICTS, FOLLOW_FLUSH_FAILURES, FOLLOW_RETRIES, FOLLOWED, Telemetry
from tallyroll.waiting import within

log: Final = logging.getLogger("tallyroll.follow")

_POLL_MS: Final = 50  # how long an idle loop waits before it looks at its timers
_BUSY_POLL_MS: Final = 10  # the same while something is not flushed: a follower may want to, within an alert's 100 ms


class FollowLoop:
    """Drives several followers over one read of the log, as one member of a group.

    Several processes with the same group share the partitions. A follower sees each record once, in offset order per
    partition; after a crash it goes on from the position stored with its results.
    Not promised: that two members never hold a partition at the same moment; PositionConflict settles that.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        event_log: EventLog,
        followers: Sequence[Follower],
        catalogue: Catalogue,
        settings: Settings,
        *,
        group: str,
        dead_letters: DeadLetters,
        clock: Clock,
        telemetry: Telemetry,
        tracing: Tracing | None = None,
    ) -> None:
        self._log = event_log
        self._followers = tuple(followers)
        self._catalogue = catalogue
        self._settings = settings
        self._group = group
        self._who = ", ".join(follower.name for follower in followers)
        self._dead_letters = dead_letters
        self._clock = clock
        self._telemetry = telemetry
        self._tracing = tracing
        self._topics = {follower.name: frozenset(catalogue[base].name for base in follower.topics) for follower in followers}
        self._applied: dict[str, dict[TopicPartition, int]] = {follower.name: {} for follower in followers}
        self._flushed: dict[str, dict[TopicPartition, int]] = {follower.name: {} for follower in followers}
        self._held: dict[tuple[str, TopicPartition], Held] = {}
        self._unbegun = Unbegun()
        self._moved: set[TopicPartition] = set()  # what is read next of them does not follow what was read last
        self._restarted: set[str] = set()  # followers whose part of the present poll lies beyond what they have now
        self._subscription: Subscription | None = None
        self._interval_s = settings.flush_interval_ms / 1000
        self._flushes = Flushes(self._followers, interval_s=self._interval_s, stored=self._stored, clock=clock, telemetry=telemetry)
        self._commits = Commits(interval_s=self._interval_s, clock=clock)
        self._flush_asked = False
        self._commit_wanted = False
        self._choked = self._has_stored_last = False
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._progress = asyncio.Condition()
        self.failure: BaseException | None = None

    # The surface

    def start(self) -> None:
        """Begins to follow, in a task of its own. Safe to call twice."""
        if self._task is None:
            for name in self._topics:
                self._telemetry.count(DEAD_LETTERS, 0, follower=name, reason="follower_failed")
                for metric in (FOLLOWED, FOLLOW_RETRIES, FOLLOW_CONFLICTS, FOLLOW_FLUSH_FAILURES):
                    self._telemetry.count(metric, 0, follower=name)
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"follow {self._group}")

    async def stop(self) -> None:
        """Flushes, commits, leaves the group. A store or a log that does not answer is waited for once, and what it has not taken is left.

        Whoever follows next does that again, from what is stored.
        """
        self._stopping.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def finished(self) -> None:
        """Waits until the loop ends; raises what ended it."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def caught_up(self, position: Position, timeout_s: float) -> bool:
        """Waits until every follower of that topic has stored results beyond ``position``; false if it takes too long.

        Results may be stored by another process of the group: then the store is asked. Raises what ended the loop.
        """
        deadline = self._clock.monotonic() + timeout_s
        partition = position.topic_partition
        concerned = [follower for follower in self._followers if partition.topic in self._topics[follower.name]]
        while True:
            if self.failure is not None:
                raise self.failure
            if all([await self._is_past(follower, partition, position.offset) for follower in concerned]):
                return True
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            self._flush_asked = True
            with contextlib.suppress(TimeoutError):
                async with self._progress:
                    await asyncio.wait_for(self._progress.wait(), min(left, _POLL_MS / 1000))

    @property
    def assignment(self) -> set[TopicPartition]:
        """The partitions this member holds now."""
        return {partition for applied in self._applied.values() for partition in applied}

    @property
    def flushed(self) -> Mapping[str, Mapping[TopicPartition, int]]:
        """Per follower the next offset that its stored results stand for."""
        return self._flushed

    # The group's calls

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Each follower resumes from its own store; a follower without a position starts at the log's start.

        While a store is away its partitions wait, paused; what else is wrong ends the loop, whatever the group makes of it.
        """
        try:
            await self._flushes.settled()
            return await self._begin(self._followers, partitions)
        except BaseException as error:  # noqa: BLE001  # raised again where it does not pass
            self._release(partitions)
            self._unbegun.failed(partitions, error, self._clock.monotonic())
            log.warning("%s; %d partitions wait for it", error, len(partitions), extra={"follower": self._who})
            return {}

    async def _begin(self, followers: Sequence[Follower], partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Sets these followers to what they have stored; gives the lowest offset per partition."""
        starts = await self._log.starts(sorted({partition.topic for partition in partitions}))
        begin: dict[TopicPartition, int] = {}
        for follower in followers:
            ours = [partition for partition in partitions if partition.topic in self._topics[follower.name]]
            stored = await follower.positions(ours) if ours else {}
            for partition in ours:
                position = stored.get(partition, starts.get(partition, 0))
                self._applied[follower.name][partition] = position
                if partition in stored:
                    self._flushed[follower.name][partition] = position
                begin[partition] = min(position, begin.get(partition, position))
        return begin

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Results are stored and committed before somebody else goes on; at the end that was done, or tried, before it leaves."""
        if not self._has_stored_last:
            await self._flush_everything()
        await self._flushes.settled()  # one may have begun while positions were committed
        self._release(partitions)

    async def lost(self, partitions: Sequence[TopicPartition]) -> None:
        """Somebody else goes on already: what is not stored is theirs to do."""
        await self._flushes.settled()
        self._release(partitions)

    def _release(self, partitions: Sequence[TopicPartition]) -> None:
        for follower in self._followers:
            follower.drop(partitions)
            for partition in partitions:
                self._applied[follower.name].pop(partition, None)
                self._flushed[follower.name].pop(partition, None)
                self._held.pop((follower.name, partition), None)
        self._unbegun.discard(partitions)
        self._moved.difference_update(partitions)
        self._commits.forget(partitions)

    # The loop

    async def _run(self) -> None:
        backoff = Backoff()
        try:
            while not self._stopping.is_set():
                try:
                    await self._subscribe()
                    await self._turn()
                    backoff.reset()
                except LogError as error:
                    if not error.retriable:
                        raise
                    log.warning("%s; trying again", error, extra={"follower": self._who})
                    with contextlib.suppress(TimeoutError):
                        await within(self._clock, backoff.next_s(), self._stopping.wait())
            with contextlib.suppress(SpanGone):
                await self._flush_everything()
            self._has_stored_last = True
        except BaseException as error:
            self.failure = error
            if not isinstance(error, asyncio.CancelledError):
                about = {"follower": self._who, "error": type(error).__name__}
                log.error("following stopped: %s", error, extra=about)  # noqa: TRY400  # the caller gets the exception itself
            raise
        finally:
            await self._leave()
            await self._flushes.settled()  # their stores are closed next
            async with self._progress:
                self._progress.notify_all()

    async def _subscribe(self) -> None:
        if self._subscription is None:
            topics = sorted(set().union(*self._topics.values()))
            self._subscription = await self._log.subscribe(self._group, topics, self, max_records=self._settings.batch_records)

    async def _turn(self) -> None:
        assert self._subscription is not None  # noqa: S101  # _subscribe has set it
        trouble = await self._move(self._subscription)
        self._restarted.clear()
        polled = await self._subscription.poll(_BUSY_POLL_MS if self._flushes.pending else _POLL_MS)
        batches = [batch for batch in polled if batch.topic_partition not in self._moved]
        try:
            for batch in batches:
                for follower in self._followers:
                    if batch.topic in self._topics[follower.name] and follower.name not in self._restarted:
                        await self._offer(follower, batch)
        except LogError:
            self._moved.update(batch.topic_partition for batch in batches)  # what nobody was offered is read again
            raise
        await self._begin_late(self._subscription)
        await self._retry_held()
        asked, self._flush_asked = self._flush_asked, False
        if not await self._flushes.begin(asked=asked, behind=2 * sum(map(len, batches)) >= self._settings.batch_records) and asked:
            self._flush_asked = True
        for follower in [one for one in self._followers if one.name in self._flushes.conflicted]:
            await self._start_over(follower)
        self._choke()
        if self._commits.due and (self._commit_wanted or self._commits.failed):
            self._commits.begin(self._subscription, self._to_commit())
        if trouble is not None:
            raise trouble

    async def _begin_late(self, subscription: Subscription) -> None:
        """Begins with partitions whose store was away when they came. Raises why others could not be begun with."""
        if partitions := self._unbegun.due(self._clock.monotonic()):
            for partition in partitions:
                subscription.pause(partition)
            with contextlib.suppress(StoreUnavailable):
                for follower in self._followers:
                    await self._begin([follower], [one for one in partitions if one not in self._applied[follower.name]])
                self._unbegun.discard(partitions)
                self._moved.update(partitions)

    async def _offer(self, follower: Follower, batch: Batch, held: Held | None = None) -> None:
        """Applies the new part of a batch, unless the partition waits for an earlier batch; ``held`` is then that one."""
        partition = batch.topic_partition
        applied = self._applied[follower.name].get(partition)
        if applied is None or self._held.get((follower.name, partition)) is not held:
            return  # given up meanwhile; or paused, and offered again from the held batch on
        fresh = batch.since(applied)
        if fresh is not None:
            await self._apply(follower, fresh, held)
        else:
            self._applied[follower.name][partition] = max(applied, batch.next_offset)

    async def _apply(self, follower: Follower, batch: Batch, held: Held | None = None) -> None:
        if follower.name in self._flushes.conflicted:
            await self._start_over(follower)
            return
        try:
            letters = applied(follower, batch, self._tracing)
        except Exception as error:  # noqa: BLE001  # whatever a follower raises is retried, or becomes a dead letter
            if isinstance(error, TallyrollError) and error.retriable:
                self._hold(follower, batch, held, retried=not isinstance(error, StoreFilling))
                return
            try:
                if isinstance(error, PositionConflict):
                    raise
                letters = one_by_one(follower, batch)
            except TallyrollError:
                await self._start_over(follower)  # in the middle of the batch: back to what is stored
                return
        try:
            if letters:
                attempts, first_us = (held.backoff.attempts + 1, held.first_us) if held else (1, None)
                await self._dead_letters.write(follower.name, batch, letters, attempts=attempts, first_us=first_us)
        except LogError:
            # The letters come first: going on without them would drop records unseen. What was applied is forgotten again.
            await self._start_over(follower)
            raise
        self._applied[follower.name][batch.topic_partition] = batch.next_offset
        self._flushes.applied(follower, len(batch), batch.timestamps_ms[-1])
        self._telemetry.count(FOLLOWED, len(batch), follower=follower.name)

    def _hold(self, follower: Follower, batch: Batch, held: Held | None, *, retried: bool) -> None:
        partition = batch.topic_partition
        if held is None:
            held = self._held[follower.name, partition] = Held(follower, batch, 0.0, self._clock.now_us())
            if self._subscription is not None:
                self._subscription.pause(partition)
        held.batch = batch
        held.due = self._clock.monotonic() + held.backoff.next_s()
        self._telemetry.count(FOLLOW_RETRIES, int(retried), follower=follower.name)

    async def _retry_held(self) -> None:
        now = self._clock.monotonic()
        for where, held in list(self._held.items()):
            if held.due <= now and where in self._held:
                due = held.due
                await self._offer(held.follower, held.batch, held)
                if held.due == due and self._held.pop(where, None) is not None:
                    self._moved.add(where[1])

    async def _move(self, subscription: Subscription) -> LogError | None:
        """Reading resumes where the slowest follower stands, of partitions for which nobody waits any more; what stood against it.

        Of one that could not be moved nothing is offered: what lies between would be skipped.
        """
        held = {partition for _, partition in self._held}
        for partition in list(self._moved):
            positions = [applied[partition] for applied in self._applied.values() if partition in applied]
            if positions and partition not in held:
                try:
                    await subscription.seek(partition, min(positions))
                except LogError as error:
                    return error
                if not self._choked:
                    subscription.resume(partition)
            self._moved.discard(partition)
        return None

    async def _start_over(self, follower: Follower) -> None:
        """Forgets what this follower has not stored, and goes on from there; what others have applied already passes them by.

        What is stored may not be known now: then nothing is applied until it is.
        """
        await self._flushes.settled()
        self._flushes.forget(follower)
        partitions = list(self._applied[follower.name])
        follower.drop(partitions)
        for partition in partitions:
            self._held.pop((follower.name, partition), None)
            self._applied[follower.name].pop(partition)
        self._restarted.add(follower.name)
        self._moved.update(partitions)
        try:
            await self._begin([follower], partitions)
        except TallyrollError as error:
            self._unbegun.failed(partitions, error, self._clock.monotonic())
            log.warning("%s; %d partitions wait for it", error, len(partitions), extra={"follower": self._who})

    async def _flush_everything(self) -> None:
        await self._flushes.everything()
        self._choke()
        await self._commits.finish(self._subscription, self._to_commit())

    async def _stored(self, follower: Follower, positions: Mapping[TopicPartition, int]) -> None:
        """Takes what a flush has stored; the commit follows when one is due, and a seek where it is more than was applied."""
        applied = self._applied[follower.name]
        for partition, position in positions.items():
            if position > applied.get(partition, position):
                applied[partition] = position
                self._moved.add(partition)
                if (held := self._held.get((follower.name, partition))) is not None:
                    held.due = 0.0
        self._flushed[follower.name].update(positions)
        self._commit_wanted = True
        async with self._progress:
            self._progress.notify_all()

    def _choke(self) -> None:
        """Nothing more is read than memory should hold; polling goes on, or the group would drop us."""
        choked = self._flushes.overfull
        if choked == self._choked or self._subscription is None:
            return
        self._choked = choked
        for partition in self.assignment - {waiting for _, waiting in self._held}:
            (self._subscription.pause if choked else self._subscription.resume)(partition)

    def _to_commit(self) -> dict[TopicPartition, int]:
        """The lowest stored position per partition."""
        self._commit_wanted = False
        lowest: dict[TopicPartition, int] = {}
        for partition in self.assignment:
            stored = [self._flushed[name].get(partition) for name, applied in self._applied.items() if partition in applied]
            known = [offset for offset in stored if offset is not None]
            if len(known) == len(stored):  # a follower that has stored nothing yet stands before everything
                lowest[partition] = min(known)
        return lowest

    async def _leave(self) -> None:
        if self._subscription is not None:
            await self._commits.settled()
            with contextlib.suppress(LogError):
                await self._subscription.close()  # calls revoked(), which flushes and commits
            self._subscription = None

    async def _is_past(self, follower: Follower, partition: TopicPartition, offset: int) -> bool:
        known = self._flushed[follower.name].get(partition)
        if known is None and partition not in self._applied[follower.name]:  # another member holds it
            known = (await (follower.stored if isinstance(follower, LooksFirst) else follower.positions)([partition])).get(partition)
        return known is not None and known > offset
