"""Membership in a consumer group. One thread owns the consumer; rebalances wait for the event loop to flush.

What it holds is read by the process's ``Feed`` as long as it can be, and by its own consumer else.

No other thread calls the consumer: its client lets one in at a time, and whoever waits outside may wait for as long as the first
one polls. And nothing there waits for the answer to a commit: the client may never give one where the coordinator goes away.

Offsets are never stored or committed by librdkafka on its own: auto-commit lost 167 of 600 events when a process was
killed in mid-batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as ClientPartition

from tallyroll.adapters.kafka.batches import to_batches
from tallyroll.adapters.kafka.feed import LINGER_S, Feed
from tallyroll.adapters.kafka.outcomes import reason_of, unavailable
from tallyroll.adapters.kafka.owner import Owner
from tallyroll.adapters.kafka.place import Place
from tallyroll.errors import LogUnavailable, SettingsError, SpanGone, TopicConflict
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import AssignmentListener

log: Final = logging.getLogger("tallyroll.kafka")

_REBALANCE_S: Final = 60.0  # a flush that takes longer is a broken store; the group must not wait for it for ever
_MIXED_S: Final = 0.01  # how long its own consumer is waited for while the feed may have something, too
_ATTEND_S: Final = 0.05  # how often the group is attended to while everything comes from the feed
_WATERMARK_S: Final = 10.0  # one look-up of where a partition begins
_COMMITTED_S: Final = 2.0  # one look-up at the coordinator; the whole group waits for it
_COMMIT_S: Final = 5.0  # until a commit is confirmed; a healthy broker takes milliseconds
_SERVE_S: Final = 0.01  # how long one look for the answer to a commit takes, where nobody polls
_LEAVE_S: Final = 10.0  # a broker that does not answer would be told for ever; it notices by itself that a member is gone
T = TypeVar("T")


class KafkaSubscription:
    """Implements ``ports.Subscription`` over one consumer.

    The committed offset carries the leader epoch of the last record, so that a truncated leader is noticed.
    Not promised: that a callback is seen at all when the client loses its assignment; hence the fencing by position.
    """

    def __init__(
        self, config: Mapping[str, Any], topics: Sequence[str], listener: AssignmentListener, feed: Feed, *, max_records: int
    ) -> None:
        self._topics = list(topics)
        self._servers = config["bootstrap.servers"]
        self._listener = listener
        self._max_records = max_records
        self._owner = Owner("tallyroll-kafka-consume")
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer({**config, "on_commit": self._on_commit})
        self._paused: set[TopicPartition] = set()
        self._pause_changes: dict[TopicPartition, bool] = {}
        self._epochs: dict[TopicPartition, int | None] = {}
        self._held: set[TopicPartition] = set()
        self._feed = feed
        self._place = Place()
        self._turns: deque[tuple[TopicPartition, int | None]] = deque()  # where partitions begin that came, None for those that went
        self._attended_s = float("-inf")
        self._early: deque[Message] = deque()  # what came while the answer to a commit was looked for
        self._to_commit: dict[TopicPartition, int] = {}
        self._answers: dict[TopicPartition, tuple[int, bool]] = {}  # the last commit that was answered, and whether it is stored
        self._rebalancing = asyncio.Event()
        self._closed = False

    async def start(self) -> None:
        """Joins the group; partitions come with a later poll."""
        await self._call(self._consumer.subscribe, self._topics, self._on_assign, self._on_revoke, self._on_lost)
        self._feed.join(self._place)

    async def poll(self, timeout_ms: int) -> Sequence[Batch]:
        until = self._loop.time() + timeout_ms / 1000
        while True:
            await self._hand_back()
            batches = await self._read(until)
            for partition in self._place.undecided:
                self._pause_changes[partition] = self._feed.serve(self._place, partition)
            # From here on nothing is waited for: what is in hand is still this member's, and follows what it was given before.
            fed = self._feed.take(self._place, self._max_records - sum(map(len, batches)), but={one.topic_partition for one in batches})
            self._epochs.update((batch.topic_partition, batch.leader_epoch) for batch in fed)
            batches += fed
            left = until - self._loop.time()
            if batches or left <= 0:
                return batches
            if self._place.is_served and not self._place.reads_itself:
                await self._feed.more(min(left, _ATTEND_S))

    def pause(self, partition: TopicPartition) -> None:
        self._settle_turns()
        self._place.waiting.add(partition)
        self._pause_changes[partition] = True

    def resume(self, partition: TopicPartition) -> None:
        self._settle_turns()
        self._place.waiting.discard(partition)
        self._pause_changes[partition] = partition in self._place.fed

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        self._settle_turns()
        if partition in self._place.fed:
            self._feed.seek(self._place, partition, offset)
        else:
            await self._call(self._seek, partition, offset)
            self._settle_turns()

    # From where records come

    async def _hand_back(self) -> None:
        """What can no longer be read by the feed is read by its own consumer from here on. Nothing is in hand meanwhile."""
        self._settle_turns()
        place = self._place
        for partition in list(place.lost):
            position = place.next.get(partition)
            if position is not None and await self._call(self._begin_at, partition, position):
                place.unfeed(partition)
                self._pause_changes[partition] = partition in place.waiting
            self._settle_turns()

    async def _read(self, until: float) -> list[Batch]:
        """What its own consumer has. It is asked now and then in any case: the group is attended to there."""
        place, now = self._place, self._loop.time()
        wait_s, most = max(0.0, until - now), self._max_records
        if place.is_served:
            if not place.reads_itself and now - self._attended_s < _ATTEND_S:
                await asyncio.sleep(0)  # noqa: TID251  # lets the others have their turn, waits for nothing
                self._settle_turns()
                return []
            if place.has_news:
                wait_s, most = 0.0, max(1, most // 2)  # the rest is for what comes from the feed
            elif place.reads_itself:
                wait_s = min(wait_s, _MIXED_S)
                self._feed.look()
            else:
                wait_s = 0.0
        batches = to_batches(await self._call(self._poll, wait_s, most))
        self._attended_s = self._loop.time()
        self._settle_turns()
        batches = [batch for batch in batches if batch.topic_partition in place.own]
        for batch in batches:
            place.passed(batch.topic_partition, batch.next_offset)
            self._epochs[batch.topic_partition] = batch.leader_epoch
        return batches

    def _settle_turns(self) -> None:
        """Takes in what has come and gone, as the consumer's thread was told."""
        while self._turns:
            partition, start = self._turns.popleft()
            if start is None:
                self._place.went(partition)
            else:
                self._place.came(partition, start if start >= 0 else None)

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """As the port says; stored when it returns. Inside a rebalance it goes out when the listener is done, and nobody waits for it.

        Raises LogUnavailable when the broker does not confirm it in time.
        """
        for partition in positions:
            self._answers.pop(partition, None)
        self._to_commit.update(positions)
        until = self._loop.time() + _COMMIT_S
        while any(partition not in self._answers for partition in positions):
            if self._loop.time() > until:
                raise LogUnavailable(f"Kafka at {self._servers}", f"did not confirm a commit within {_COMMIT_S:.0f} s")
            if await self._serving():
                return
        if refused := [str(one) for one, offset in positions.items() if self._answers[one] != (offset, True)]:
            raise LogUnavailable(f"Kafka at {self._servers}", f"did not take the commit of {', '.join(sorted(refused))}")

    async def _serving(self) -> bool:
        """Has commits sent and answers looked for; true where a rebalance is under way, which waits for who waits for its thread."""
        rebalancing, serving = asyncio.ensure_future(self._rebalancing.wait()), asyncio.ensure_future(self._call(self._serve))
        try:
            await asyncio.wait({rebalancing, serving}, return_when=asyncio.FIRST_COMPLETED)
            if not rebalancing.done():
                serving.result()
            return rebalancing.done()
        finally:
            rebalancing.cancel()
            serving.cancel()

    async def close(self) -> None:
        """As the port says; a broker that does not answer is left without a word, after some seconds."""
        if not self._closed:
            self._closed = True
            unfed = asyncio.ensure_future(self._feed.leave(self._place))
            leaving = asyncio.ensure_future(self._call(self._leave))
            await asyncio.wait({leaving, unfed}, timeout=_LEAVE_S)
            self._owner.retire()
            if leaving.done():
                leaving.result()
            else:
                leaving.cancel()
                log.warning("Kafka at %s does not answer; its group is left without a word", self._servers)

    async def _call(self, function: Any, *arguments: Any) -> Any:  # noqa: ANN401
        """In the consumer's thread."""
        try:
            return await self._loop.run_in_executor(self._owner, function, *arguments)
        except KafkaException as error:
            raise unavailable(self._servers, error) from None
        except RuntimeError as error:
            raise unavailable(self._servers, error) from None

    # What follows runs in the consumer's thread.

    def _poll(self, timeout_s: float, most: int) -> list[Message]:
        self._apply_pauses()
        self._send_commits()
        early: list[Message] = []
        paused: list[Message] = []
        while self._early and len(early) < most:  # no further: there may be very many
            message = self._early.popleft()
            (paused if _place(message) in self._paused else early).append(message)
        self._early.extendleft(reversed(paused))
        good = []
        for message in early or self._take(timeout_s, most):
            error = message.error()
            if error is None:
                good.append(message)
            else:
                self._raise_for(message, error)
        return good

    def _take(self, timeout_s: float, most: int) -> list[Message]:
        # poll() returns with the first record; consume() waits for company, until it is full or the time is over.
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        return [first, *self._consumer.consume(most - 1, LINGER_S)] if most > 1 else [first]

    def _serve(self) -> None:
        """Sends commits, and looks for answers; records that come meanwhile, a few seconds of them at most, are for the next poll."""
        self._send_commits()
        self._early += self._take(_SERVE_S, self._max_records)

    def _seek(self, partition: TopicPartition, offset: int) -> None:
        self._consumer.seek(ClientPartition(partition.topic, partition.partition, offset))
        if partition in self._held:
            self._turns.append((partition, offset))  # behind what a rebalance has said of it
        self._early = deque(message for message in self._early if _place(message) != partition)

    def _begin_at(self, partition: TopicPartition, offset: int) -> bool:
        """As if the partition had come just now: there is no seeking where its last fetch has failed, maybe long ago and unseen.

        A rebalance that waits to be told of is told of first, or the client would take this for the answer. False where it has
        moved the partition, or something else has.
        """
        self._early += self._take(0.0, self._max_records)
        if partition not in self._held or any(moved == partition for moved, _ in self._turns.copy()):
            return False
        self._consumer.incremental_unassign([ClientPartition(*partition)])
        self._consumer.incremental_assign([ClientPartition(*partition, offset)])
        self._early = deque(message for message in self._early if _place(message) != partition)
        return True

    def _leave(self) -> None:
        self._send_commits()
        self._consumer.close()

    def _raise_for(self, message: Message, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET or code == KafkaError.OFFSET_OUT_OF_RANGE:  # noqa: PLR1714, SLF001
            where = ClientPartition(str(message.topic()), message.partition() or 0)
            low, _ = self._consumer.get_watermark_offsets(where, timeout=_WATERMARK_S)
            raise SpanGone({f"{message.topic()}/{message.partition()}": low})
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):  # noqa: SLF001
            raise TopicConflict(message.topic() or ",".join(self._topics), "does not exist; run tallyroll topics apply")
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            raise SettingsError("KAFKA_SASL_USERNAME", f"this principal may not read here ({error.name()}); see tallyroll topics acls")
        if error.fatal():
            raise LogUnavailable(f"Kafka at {self._servers}", reason_of(error))
        log.warning("consumer: %s", error.name())

    def _apply_pauses(self) -> None:
        while self._pause_changes:
            partition, pause = self._pause_changes.popitem()
            if partition not in self._held or (partition in self._paused) == pause:
                continue
            (self._paused.add if pause else self._paused.discard)(partition)
            (self._consumer.pause if pause else self._consumer.resume)([ClientPartition(*partition)])

    def _send_commits(self) -> None:
        offsets = []
        while self._to_commit:
            partition, offset = self._to_commit.popitem()
            epoch = self._epochs.get(partition)
            offsets.append(ClientPartition(partition.topic, partition.partition, offset, leader_epoch=-1 if epoch is None else epoch))
        if offsets:
            with contextlib.suppress(KafkaException):  # a hint only: the position stored with the results is what counts
                self._consumer.commit(offsets=offsets, asynchronous=True)

    def _on_commit(self, error: KafkaError | None, partitions: list[ClientPartition]) -> None:
        for item in partitions:
            self._answers[TopicPartition(item.topic, item.partition)] = item.offset, error is None and item.error is None

    def _on_assign(self, consumer: Consumer, partitions: list[ClientPartition]) -> None:
        ours = [TopicPartition(item.topic, item.partition) for item in partitions]
        starts = dict(self._ask(self._listener.assigned(ours)) or {})
        starts.update(self._committed(consumer, [partition for partition in ours if partition not in starts]))
        self._held.update(ours)
        begins = [(partition, starts.get(partition, OFFSET_BEGINNING)) for partition in ours]
        consumer.incremental_assign([ClientPartition(*partition, start) for partition, start in begins])
        # The client keeps a pause for as long as it lives, also of what it has given up meanwhile. What the feed will have is not fetched.
        fed = {partition for partition, start in begins if start >= 0 and self._feed.is_shared}
        consumer.resume([ClientPartition(*partition) for partition in self._paused.intersection(ours) - fed])
        consumer.pause([ClientPartition(*partition) for partition in fed])
        self._paused.difference_update(ours)
        self._paused |= fed
        self._turns.extend(begins)

    def _committed(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """What the group has committed, as far as the coordinator says it.

        Nothing may be raised in a callback: the client would raise its error object anew, which is no exception, so that nothing
        catches it. The thread would end, and whoever waits for it would wait for ever.
        """
        if not partitions:
            return {}
        try:
            found = consumer.committed([ClientPartition(*partition) for partition in partitions], timeout=_COMMITTED_S)
        except KafkaException as error:
            log.warning("%d partitions are read from their start: %s", len(partitions), unavailable(self._servers, error))
            return {}
        return {TopicPartition(item.topic, item.partition): item.offset for item in found if item.offset >= 0}

    def _on_revoke(self, consumer: Consumer, partitions: list[ClientPartition]) -> None:
        theirs = [TopicPartition(item.topic, item.partition) for item in partitions]
        self._ask(self._listener.revoked(theirs))
        self._send_commits()
        self._forget(consumer, theirs)

    def _on_lost(self, consumer: Consumer, partitions: list[ClientPartition]) -> None:
        theirs = [TopicPartition(item.topic, item.partition) for item in partitions]
        self._ask(self._listener.lost(theirs))
        self._forget(consumer, theirs)

    def _forget(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._held.difference_update(partitions)
        self._turns.extend((partition, None) for partition in partitions)
        self._early = deque(message for message in self._early if _place(message) in self._held)
        for partition in partitions:
            self._epochs.pop(partition, None)
            self._to_commit.pop(partition, None)  # somebody else commits for them now
        with contextlib.suppress(KafkaException):
            consumer.incremental_unassign([ClientPartition(*partition) for partition in partitions])

    def _ask(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """Runs a listener's call on the event loop and waits for it here; the group waits for this thread."""
        if self._loop.is_closed():
            coroutine.close()
            return None
        future = asyncio.run_coroutine_threadsafe(self._told(coroutine), self._loop)
        try:
            return future.result(_REBALANCE_S)
        except TimeoutError:
            future.cancel()
            log.error("a follower took longer than %d s to give up its partitions", _REBALANCE_S)  # noqa: TRY400  # no traceback needed
            return None
        except Exception:
            # Raising here would come out of librdkafka's poll; the followers are fenced by position anyway.
            log.exception("a follower could not follow a rebalance")
            return None

    async def _told(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """A listener's call, on the event loop; who waits for the consumer's thread meanwhile would wait for himself."""
        self._rebalancing.set()
        try:
            return await coroutine
        finally:
            self._rebalancing.clear()


def _place(message: Message) -> TopicPartition:
    return TopicPartition(message.topic() or "", message.partition() or 0)
