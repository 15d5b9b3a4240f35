"""From an event to the load that it travels in: processors, bytes, lane, link. From here on its place in the order is fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tallyroll.errors import Backpressure, InvalidEvent, LogError, PublishRejected
from tallyroll.events.codec import HEADERS, encode
from tallyroll.events.event import DEFAULT_VERSION, AgentEvent
from tallyroll.events.ids import new_id
from tallyroll.events.partition import partition_for
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue, Topic
from tallyroll.ports import Clock, Encoded, Rejected, Spool
from tallyroll.publish.delivery import Delivery
from tallyroll.publish.lane import Lane
from tallyroll.publish.load import Body, Load
from tallyroll.publish.processors import Processor, check_version, processed
from tallyroll.publish.receipt import Ticket
from tallyroll.settings import Settings
from tallyroll.telemetry import ACCEPTED, REJECTED, SHED, Telemetry

_LINK_BYTES: Final = 320  # sequence, chain and headers, at the most


class Intake:
    """What a process has accepted and not yet handed to delivery, and the lanes in which it was numbered.

    A lane of which the spool holds something goes through the spool from the start. ``handed_over`` is what delivery is
    taking at this moment: a signal may come in the middle of it.
    """

    def __init__(  # noqa: PLR0913  # what an event meets on its way
        self,
        catalogue: Catalogue,
        settings: Settings,
        spool: Spool | None,
        *,
        clock: Clock,
        telemetry: Telemetry,
        processors: Sequence[Processor],
    ) -> None:
        self._catalogue = catalogue
        self._settings = settings
        self._spool = spool
        self._clock = clock
        self._telemetry = telemetry
        self._processors = processors
        self.direct = Load()
        self.spooled = Load()
        self.handed_over = Load()
        self._lanes: dict[TopicPartition, Lane] = {}
        self._by_topic: dict[str, list[Lane | None]] = {topic.name: [None] * topic.partitions for topic in catalogue.topics}
        for target in spool.lanes() if spool is not None else ():
            topic = catalogue.named(target.topic)
            if topic is not None and target.partition < topic.partitions:
                self._new_lane(topic, target.partition).spooling = True

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be handed over."""
        return not (self.direct.records or self.spooled.records)

    @property
    def staged(self) -> int:
        """How many records wait to go direct; those that go through the spool count in their lanes already."""
        return len(self.direct.records)

    @property
    def lanes(self) -> Sequence[Lane]:
        """Every lane that there is so far."""
        return list(self._lanes.values())

    def begin_anew(self) -> None:
        """In a new event loop: of what the closed one had under way nothing is any more."""
        for lane in self._lanes.values():
            lane.in_flight, lane.puts, lane.drain = 0, 0, None
        for lane in self.spooled.lanes:
            lane.puts += 1

    def again(self, records: Sequence[Encoded], ticket: Ticket) -> Load:
        """What a closed event loop has left open, as a load for the spool: it is numbered already, so it goes before anything new."""
        load = Load()
        for slot, record in enumerate(records):
            lane = self._lanes[TopicPartition(record.topic, record.partition)]
            lane.spooling = True
            lane.puts += 1
            load.add(record, lane, ticket, slot)
        return load

    def writes_ahead(self, topic: Topic) -> bool:
        """Whether what is accepted for the topic goes onto this machine's disk before anything else."""
        return self._spool is not None and (topic.durability == "write-ahead" or not self._settings.wait_for_ack)

    def accept(self, events: Sequence[AgentEvent], ticket: Ticket, slot: int, expects: str = "") -> None:
        """Encodes, links and stages events. From here on their place in the order is fixed."""
        max_bytes = self._settings.max_record_bytes - _LINK_BYTES
        now_ms = self._clock.now_us() // 1_000
        for_type = self._catalogue.for_type
        for event in events:
            try:
                for processor in self._processors:
                    event = processed(processor, event)  # noqa: PLW2901  # a processor may put another event in its place
                if event.schema_version != DEFAULT_VERSION:
                    check_version(event)
                topic = for_type(event.event_type)
            except Exception as error:  # a processor may raise anything, and the events beside this one are to go on
                why = str(error) if isinstance(error, InvalidEvent) else f"a processor raised {type(error).__name__}"
                refusal = PublishRejected(event.event_id, why)
                refusal.__cause__ = error
                if len(events) == 1:
                    ticket.fill(slot, [Rejected(refusal)])
                    raise
                self._refuse(ticket, slot, refusal)
                slot += 1
                continue
            name = event.key
            key, body = name.encode(), encode(event, name)
            if expects:
                body = body[:-1] + f',"expects":"{expects}"}}'.encode()
            if len(body) + len(key) > max_bytes:
                size = len(body) + len(key) + _LINK_BYTES
                self._refuse(
                    ticket, slot, PublishRejected(event.event_id, f"{size} bytes, at most {self._settings.max_record_bytes} are allowed")
                )
                slot += 1
                continue
            self._stage(Body(event.event_id, topic, partition_for(key, topic.partitions), key, body), ticket, slot, now_ms)
            slot += 1

    def stage(self, bodies: Sequence[Body], ticket: Ticket) -> None:
        """Links and stages what is encoded already."""
        now_ms = self._clock.now_us() // 1_000
        for slot, body in enumerate(bodies):
            self._stage(body, ticket, slot, now_ms)

    def _stage(self, body: Body, ticket: Ticket, slot: int, now_ms: int) -> None:
        """Links a body into its lane, which fixes its place in the order, and puts it where the lane's records wait."""
        topic = body.topic
        lane = self._by_topic[topic.name][body.partition] or self._new_lane(topic, body.partition)
        load = self.direct
        if lane.spooling:
            if self._spool is not None and not self._spool.has_room(len(body.value) + _LINK_BYTES):
                self._telemetry.count(SHED)
                ticket.fill(slot, [Rejected(Backpressure("the spool", f"{self._settings.spool_max_bytes} bytes"))])
                return
            load = self.spooled
            lane.puts += 1  # from now on the lane cannot go direct before this record
        value = lane.link(body.key, body.value)
        load.add(Encoded(body.event_id, topic.name, body.partition, body.key, value, HEADERS, now_ms), lane, ticket, slot)

    def send_to(self, delivery: Delivery) -> None:
        """Hands what is staged to delivery, in order."""
        if self.direct.records:
            self.handed_over, self.direct = self.direct, Load()
            self._telemetry.count(ACCEPTED, len(self.handed_over.records))
            delivery.send(self.handed_over)
            self.handed_over = Load()
        if self.spooled.records:
            spooled = self.spooled
            self._telemetry.count(ACCEPTED, len(spooled.records))
            delivery.put(spooled)
            self.spooled = Load()

    def _new_lane(self, topic: Topic, partition: int) -> Lane:
        lane = Lane(TopicPartition(topic.name, partition), write_ahead=self.writes_ahead(topic), new_session=_new_session)
        self._lanes[lane.target] = lane
        self._by_topic[topic.name][partition] = lane
        return lane

    def _refuse(self, ticket: Ticket, slot: int, error: LogError) -> None:
        self._telemetry.count(REJECTED)
        ticket.fill(slot, [Rejected(error)])


def _new_session() -> str:
    return new_id().replace("-", "")
