"""Events as they were read back: made in a fraction of a microsecond, taken apart only as far as somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any, Final

import msgspec
from msgspec.structs import force_setattr

from tallyroll.errors import Undecodable
from tallyroll.events.codec import decode, encode
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.moments import moment_at, us_of
from tallyroll.events.position import Position
from tallyroll.events.rows import Rows, Subject
from tallyroll.events.types import EventType

_decode_payload: Final = msgspec.json.Decoder(dict[str, Any]).decode
_encode_payload: Final = msgspec.json.Encoder().encode
_MEMBERS: Final[dict[str, str]] = {member.value: member for member in EventType}
_OBJECT: Final = ord("{")


class RecordedEvent(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One event of the history, under the attribute names of ``AgentEvent``; a handler written for the one takes the other.

    ``payload`` is what was recorded, under the ``schema_version`` of then: nothing is upcast. It is decoded once per event
    and belongs to the log: change a copy. ``timestamp_us`` is event time, microseconds since 1970. ``metadata``,
    ``privacy_protected`` and ``event`` need the whole record, ``event_id`` the ids: ValueError where the rows were read
    without. ``payload`` raises Undecodable where its inside is garbage. Equal to itself only.

    Not promised: that it stays readable without the rows it was made from; it keeps them in memory.
    """

    event_type: str
    timestamp_us: int
    subject: Subject
    data: bytes
    rows: Rows
    index: int
    _payload: dict[str, Any] | None = None
    _event: AgentEvent | None = None

    @property
    def position(self) -> Position:
        """Where it lies."""
        return self.rows.position(self.index)

    @property
    def aggregate_type(self) -> str:
        """The kind of aggregate."""
        return self.subject.aggregatetype

    @property
    def aggregate_id(self) -> str:
        """Its id."""
        return self.subject.aggregateid

    @property
    def key(self) -> str:
        """``type:id``."""
        return self.subject.key

    @property
    def agent_id(self) -> str | None:
        """Whose deed it is, by the rule of ``AgentEvent.agent_id``."""
        return self.rows.agents[self.index]

    @property
    def schema_version(self) -> str:
        """The version under which the payload was written."""
        return self.rows.versions[self.index]

    @property
    def timestamp(self) -> datetime:
        """Event time, aware, UTC."""
        return moment_at(self.timestamp_us)

    @property
    def payload(self) -> dict[str, Any]:
        """The payload as recorded."""
        payload = self._payload
        if payload is None:
            try:
                payload = _decode_payload(self.data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise Undecodable("bad_data", "data is not a JSON object, or one nested too deeply") from None
            force_setattr(self, "_payload", payload)
        return payload

    @property
    def event_id(self) -> str:
        """The id that its publisher gave it."""
        if self.rows.ids is None:
            raise ValueError("event_id: these rows were read without ids")
        return self.rows.ids[self.index]

    @property
    def event(self) -> AgentEvent:
        """The whole event."""
        event = self._event
        if event is None:
            if self.rows.values is None:
                raise ValueError("event, metadata: these rows were read without the whole records")
            event = decode(self.rows.values[self.index])
            force_setattr(self, "_event", event)
        return event

    @property
    def metadata(self) -> EventMetadata:
        """The context it was published in."""
        return self.event.metadata

    @property
    def privacy_protected(self) -> bool:
        """Whether its publisher said so."""
        return self.event.privacy_protected

    def is_untouched(self) -> bool:
        """Whether nobody has changed the payload that was handed out."""
        return self._payload is None or _encode_payload(self._payload) == _encode_payload(_decode_payload(self.data))


def recorded(rows: Rows, index: int) -> RecordedEvent:
    """One row as an event; made anew at each call."""
    event_type = rows.types[index]
    return RecordedEvent(_MEMBERS.get(event_type, event_type), rows.times_us[index], rows.subjects[index], rows.data[index], rows, index)


def rows_events(rows: Rows) -> Iterator[RecordedEvent]:
    """The rows as events, in their order, made as they are asked for.

    A record whose payload is no JSON object is left out, as it is left out of every built-in state.
    """
    types = map(_MEMBERS.get, rows.types, rows.types)
    # All in C: a generator with a constructor call in its body takes twice as long.
    events = map(RecordedEvent, types, rows.times_us, rows.subjects, rows.data, repeat(rows), range(len(rows)))
    return events if is_sound(rows) else (event for event in events if event.data[:1] == b"{")


def is_sound(rows: Rows) -> bool:
    """Whether every payload looks like a JSON object."""
    return all(rows.data) and {data[0] for data in rows.data} <= {_OBJECT}


def events_rows(topic: str, partition: int, events: Sequence[AgentEvent], *, first_offset: int = 0) -> Rows:
    """Events as if they had been read back from offsets ``first_offset`` on; for tests of handlers, and for what never happened."""
    return Rows(
        topic,
        partition,
        range(first_offset, first_offset + len(events)),
        [us_of(event.timestamp) for event in events],
        [str(event.event_type) for event in events],
        [event.schema_version for event in events],
        [Subject(event.aggregate_type, event.aggregate_id) for event in events],
        [_encode_payload(event.payload) for event in events],
        [event.agent_id for event in events],
        [event.event_id for event in events],
        [encode(event) for event in events],
    )
