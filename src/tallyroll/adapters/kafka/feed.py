"""One reading of the log for all members of this process: each record is fetched, and taken apart, once.

Every member of a group has a consumer of its own, for the group. What it holds is read by one more consumer, which belongs to no
group, and is the same batch for all. Who cannot go on from there (he is far behind, or was told to wait for long) reads by himself
until he can: one that is slow, or stands still, costs the others nothing but the memory of a window.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka import TopicPartition as ClientPartition

from tallyroll.adapters.kafka.batches import to_batches
from tallyroll.adapters.kafka.outcomes import unavailable
from tallyroll.adapters.kafka.owner import Owner
from tallyroll.adapters.kafka.place import Place
from tallyroll.adapters.kafka.window import Window
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition

log: Final = logging.getLogger("tallyroll.kafka")

MOST_BYTES: Final = 64 * 1024 * 1024
"""What all windows keep for those who are behind, with all that was made of it; further behind a member reads by itself."""

LINGER_S: Final = 0.005
"""A batch costs each follower more than a record does; a slow stream comes in batches, too, if it may wait."""

_AHEAD: Final = 1_000  # records a member may be ahead of what was read; beyond that the reading goes on from the member's place
_LOOK_S: Final = 0.05  # one look for records
_AWAY_S: Final = 5.0  # how long everybody reads a partition by himself that could not be read here
_GATHER_S: Final = 10.0  # for so long after somebody has joined everything is kept for members that have no partitions yet
_CLOSE_S: Final = 10.0  # as a member waits for a broker that does not answer


class Feed:
    """The one reading. Used on one event loop; its consumer belongs to a thread of its own.

    Not promised: anything about a partition that nobody has asked for with ``serve``. What goes wrong here is nobody's error:
    who was served reads by himself, and gets it told by his own consumer.
    """

    def __init__(self, config: Mapping[str, Any], *, max_records: int, most_bytes: int = MOST_BYTES) -> None:
        self._config = config
        self._max_records = max_records
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._places: list[Place] = []
        self._windows: dict[TopicPartition, Window] = {}
        self._refused: dict[TopicPartition, float] = {}  # until when
        self._changes: list[tuple[TopicPartition, int | None]] = []  # what is read from now on, None for no longer
        self._reading: _Reading | None = None
        self._look: asyncio.Task[None] | None = None
        self._looks = 0
        self._joined_s = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one member; one alone reads by itself."""
        return len(self._places) > 1

    @property
    def is_here(self) -> bool:
        """Whether it belongs to the event loop that runs."""
        return asyncio.get_running_loop() is self._loop

    def join(self, place: Place) -> None:
        """One more member."""
        self._places.append(place)
        self._joined_s = self._loop.time()

    async def leave(self, place: Place) -> None:
        """The member is gone; the consumer ends with the last but one."""
        self._places.remove(place)
        if not self.is_shared:
            for partition in list(self._windows):
                self._forget(partition)
            await self._close()

    def serve(self, place: Place, partition: TopicPartition) -> bool:
        """Feeds the partition to a member, if it can be taken from where he stands; it is read from now on if it was not.

        The member who is furthest leads. Who is behind what is kept has to come nearer by himself.
        """
        if not self.is_shared or self._refused.get(partition, 0.0) > self._loop.time():
            return False
        window, position = self._windows.get(partition), place.next[partition]
        if window is None or position > window.end + _AHEAD or not any(partition in one.fed for one in self._places):
            self._forget(partition)
            self._windows[partition] = Window(position, self._looks + 1)
            self._changes.append((partition, position))
        elif position < window.start:
            return False
        place.feed(partition)
        return True

    def seek(self, place: Place, partition: TopicPartition, offset: int) -> None:
        """A member that is fed goes on elsewhere."""
        place.moved(partition, offset)
        place.news.add(partition)
        self._lose(partition, self._windows.get(partition))

    def take(self, place: Place, most: int, *, but: Collection[TopicPartition]) -> list[Batch]:
        """What comes next for a member, at most so many records, nothing of ``but``. The same batches for all, unless they must be cut."""
        found, left = list[Batch](), most
        for partition in place.ready if most > 0 else ():
            window = self._windows.get(partition)
            if window is None or place.next[partition] < window.start:
                place.lost.add(partition)
                continue
            batch = None if partition in but else window.at(place.next[partition], most)
            if batch is not None:
                if len(batch) > left:
                    continue  # the next time, as a whole: what is made of a part is not there for the others
                left -= len(batch)
                found.append(batch)
                place.passed(partition, batch.next_offset)
            if window.end <= place.next[partition]:
                place.news.discard(partition)
        return found

    def look(self) -> asyncio.Task[None]:
        """Has somebody look for more, unless somebody does already."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._read(), name="feed")
        return self._look

    async def more(self, timeout_s: float) -> None:
        """Waits until something was looked for, or so long."""
        look = self.look()
        await asyncio.wait({look}, timeout=timeout_s)
        if look.done():
            look.result()

    async def _read(self) -> None:
        if not self.is_shared:
            return
        reading = self._reading = self._reading or _Reading(self._config, max_records=self._max_records)
        self._looks += 1
        changes, self._changes, number = self._changes, [], self._looks
        try:
            messages, failed = await self._loop.run_in_executor(reading.owner, reading.take, changes)
        except Exception as error:  # noqa: BLE001  # nobody's error, as said
            log.warning("%s; followers read by themselves for %d s", unavailable(self._config["bootstrap.servers"], error), _AWAY_S)
            self._refuse(list(self._windows))
            return
        for batch in to_batches(messages):
            window = self._windows.get(batch.topic_partition)
            if window is not None and window.read <= number:
                window.add(batch)
                for place in self._places:
                    if batch.topic_partition in place.fed:
                        place.news.add(batch.topic_partition)
        self._refuse([partition for partition in self._windows if partition.topic in failed])
        self._settle()

    def _settle(self) -> None:
        """Forgets what everybody has, partitions that nobody takes from here any more, and the oldest of what is too much."""
        gathering = self._loop.time() - self._joined_s < _GATHER_S and not all(place.next for place in self._places)
        for partition, window in list(self._windows.items()):
            if not any(partition in place.fed for place in self._places):
                self._forget(partition)
            elif not gathering:
                window.drop_to(min(place.next[partition] for place in self._places if partition in place.next))
        held = sum(window.size for window in self._windows.values())
        while held > self._most_bytes:
            partition, window = max(self._windows.items(), key=lambda item: item[1].size)
            held -= window.size
            window.drop_first()
            held += window.size
            self._lose(partition, window)

    def _refuse(self, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self._refused[partition] = self._loop.time() + _AWAY_S
            self._forget(partition)

    def _forget(self, partition: TopicPartition) -> None:
        if self._windows.pop(partition, None) is not None:
            self._changes.append((partition, None))
            self._lose(partition, None)

    def _lose(self, partition: TopicPartition, window: Window | None) -> None:
        """Whoever stands before what is kept cannot go on here."""
        for place in self._places:
            if partition in place.fed and (window is None or place.next[partition] < window.start):
                place.lost.add(partition)

    async def _close(self) -> None:
        reading, self._reading = self._reading, None
        self._changes.clear()
        if reading is not None:
            closing = asyncio.ensure_future(self._loop.run_in_executor(reading.owner, reading.end))
            await asyncio.wait({closing, self._look} if self._look is not None else {closing}, timeout=_CLOSE_S)
            reading.owner.retire()


class _Reading:
    """The consumer, in its thread: what it does is done by ``take`` and ``end`` there, one after the other."""

    def __init__(self, config: Mapping[str, Any], *, max_records: int) -> None:
        self.owner = Owner("tallyroll-kafka-feed")
        self._config = config
        self._max_records = max_records
        self._consumer: Consumer | None = None
        self._assigned: set[TopicPartition] = set()

    def take(self, changes: list[tuple[TopicPartition, int | None]]) -> tuple[list[Message], set[str]]:
        """Records, and topics of which something cannot be read."""
        consumer = self._consumer = self._consumer or Consumer(dict(self._config))
        try:
            for partition, start in changes:
                self._turn_to(consumer, partition, start)
            first = consumer.poll(_LOOK_S)
            rest = consumer.consume(self._max_records - 1, LINGER_S) if first is not None and self._max_records > 1 else []
        except (KafkaException, RuntimeError):
            self.end()
            raise
        found = [*rest] if first is None else [first, *rest]
        bad = [(message.topic(), error) for message in found if (error := message.error()) is not None]
        for _, error in bad:
            log.warning("followers' consumer: %s", error.name())
        good = [message for message in found if message.error() is None] if bad else found
        return good, {topic for topic, _ in bad if topic is not None}

    def _turn_to(self, consumer: Consumer, partition: TopicPartition, start: int | None) -> None:
        if partition in self._assigned:
            self._assigned.discard(partition)
            consumer.incremental_unassign([ClientPartition(*partition)])
        if start is not None:
            consumer.incremental_assign([ClientPartition(*partition, start)])
            self._assigned.add(partition)

    def end(self) -> None:
        """Nothing is read any more; another ``take`` begins with a new consumer, and with nothing assigned."""
        consumer, self._consumer = self._consumer, None
        self._assigned.clear()
        if consumer is not None:
            consumer.close()
