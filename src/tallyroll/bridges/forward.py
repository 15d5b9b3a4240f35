"""Chosen events as messages for others: to NATS.

The position moves only over the unbroken run of acknowledged events, so none is lost; what is sent again has the same id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from operator import attrgetter
from typing import Final, Protocol

import msgspec

from tallyroll.bridges.subjects import check_template, example_of, subject_of
from tallyroll.errors import SettingsError, StoreUnavailable, Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.topics import Catalogue
from tallyroll.events.types import EventType, known_types
from tallyroll.ports import DeadLetter, Message, MessageTarget
from tallyroll.telemetry import NATS_FORWARDED, Telemetry

EVENT_TYPES: Final = frozenset({EventType.AGENT_STARTED, EventType.TASK_COMPLETED})
SUBJECT: Final = "agents.{aggregate_id}.status"
POSITION_HEADER: Final = "Tallyroll-Position"

Committed = Callable[[Sequence[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]]
"""What the group has committed, of some partitions."""

Met = Callable[[Mapping[TopicPartition, int]], Awaitable[Mapping[TopicPartition, RepeatFilter]]]
"""What a reader of the log knows who has come up to these offsets."""

_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Lane:
    """One partition: what waits to be acknowledged, by offset, and the next offset to be read."""

    next: int | None = None
    waiting: list[tuple[int, Message]] = field(default_factory=list)
    repeats: RepeatFilter = field(default_factory=RepeatFilter)


class Forwarder:
    """Implements ``ports.Follower`` over a ``MessageTarget``, with the group's committed offsets as its position.

    A group that has committed nothing begins at the start of the log. Events of one subject come in the order of the log.
    An event that another one has outrun (see ``events.expected``) is none; ``met`` says what lay before a position.
    Not promised: that a message comes once: after a crash what was not committed comes again, with its id.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        target: MessageTarget,
        catalogue: Catalogue,
        committed: Committed,
        *,
        met: Met,
        telemetry: Telemetry,
        event_types: Collection[str] = EVENT_TYPES,
        subject: str = SUBJECT,
    ) -> None:
        check_template(subject)
        self._target = target
        self._committed = committed
        self._met = met
        self._telemetry = telemetry
        self._types = frozenset(map(str, event_types))
        self._topics = topics_of(self._types, catalogue)
        self._subject = subject
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._checked = False

    @property
    def name(self) -> str:
        """``nats``."""
        return "nats"

    @property
    def topics(self) -> Sequence[str]:
        """The topics of the chosen types."""
        return self._topics

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As the port says: what the group has committed."""
        stored = await self._committed(partitions)
        met = await self._met(stored)
        self._lanes.update({where: _Lane(stored.get(where), repeats=met.get(where, RepeatFilter())) for where in partitions})
        return stored

    async def stored(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As ``ports.LooksFirst``: another member may hold these partitions, or take them just now."""
        return await self._committed(partitions)

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        """As the port says; records that cannot be read are put aside."""
        lane = self._lanes.setdefault(batch.topic_partition, _Lane())
        letters = [DeadLetter(index, error.reason, "Undecodable") for index, error in batch.unreadable().items()]
        copies, types = batch.copies(lane.repeats), self._types
        for index in [at for at, event_type in enumerate(batch.types()) if event_type in types]:
            if copies.get(index) == "conflict":  # outrun
                continue
            try:
                lane.waiting.append((batch.offsets[index], self._message(batch, index)))
            except Undecodable as error:
                letters.append(DeadLetter(index, error.reason, "Undecodable"))
        letters.sort(key=attrgetter("index"))
        lane.next = batch.next_offset
        return letters

    def _message(self, batch: Batch, index: int) -> Message:
        event = batch.event(index)
        headers = {POSITION_HEADER: str(batch.position(index))}
        if event.metadata.traceparent is not None:
            headers["traceparent"] = event.metadata.traceparent
        return Message(event.event_id, subject_of(self._subject, event), _encode(event.to_kafka_message()), headers)

    def wants_flush(self, *, interval_over: bool) -> bool:
        """At once when there is something to send, and at the beginning: whether it can be sent is said before the first event."""
        return interval_over or not self._checked or any(lane.waiting for lane in self._lanes.values())

    async def flush(self) -> Mapping[TopicPartition, int]:
        """Sends what waits. Raises StoreUnavailable when not all of it was acknowledged; the rest is sent again.

        The first one, also with nothing to send, raises SettingsError where the target cannot take messages of this subject.
        """
        waiting = [(where, offset, message) for where, lane in self._lanes.items() for offset, message in lane.waiting]
        ends = {where: lane.next for where, lane in self._lanes.items()}
        if not self._checked:
            await self._target.check(example_of(self._subject))
            self._checked = True
        if waiting:
            acknowledged = await self._target.send([message for _, _, message in waiting])
            self._telemetry.count(NATS_FORWARDED, sum(acknowledged))
            open_from = {where: end for where, end in ends.items() if end is not None}
            for (where, offset, _), good in zip(reversed(waiting), reversed(acknowledged), strict=True):
                if not good:
                    open_from[where] = offset
            for where, offset in open_from.items():
                self._lanes[where].waiting = [one for one in self._lanes[where].waiting if one[0] >= offset]
            if not all(acknowledged):
                raise StoreUnavailable("NATS", "did not acknowledge everything")
        return {where: offset for where, offset in ends.items() if offset is not None}

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._lanes.pop(partition, None)

    async def close(self) -> None:
        """Forgets what waits; the target is closed by who opened it."""
        self._lanes.clear()


def types_named(text: str) -> list[str]:
    """The event types of a setting. Raises SettingsError for a name that is none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = [info.name for info in known_types()]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError("TALLYROLL_NATS_EVENT_TYPES", f"expected names of event types with commas between{hint}")
    if not names:
        raise SettingsError("TALLYROLL_NATS_EVENT_TYPES", "expected at least one event type")
    return names


def topics_of(event_types: Iterable[str], catalogue: Catalogue) -> Sequence[str]:
    """The base names of the topics in which events of these types lie."""
    return sorted({catalogue.for_type(name).base for name in event_types})


class Forwards(Protocol):
    """What can forward events to NATS: a roll. Not promised: that it ends by itself."""

    async def forward(self, event_types: Collection[str], subject: str) -> None:
        """Forwards events of these types until cancelled."""


class KafkaNATSBridge:
    """Forwards chosen events of a roll's log to NATS, under the name that users know; ``NATS_SERVERS`` says where.

    Raises SettingsError for a subject that is none.
    """

    def __init__(self, target: Forwards, *, event_types: Collection[str] = EVENT_TYPES, subject: str = SUBJECT) -> None:
        check_template(subject)
        self._target = target
        self._event_types = event_types
        self._subject = subject

    async def bridge_agent_events(self) -> None:
        """Runs until cancelled; raises what ends it otherwise."""
        await self._target.forward(self._event_types, self._subject)
