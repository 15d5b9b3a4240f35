"""What an event is: who did what, when, in which context. Frozen, checked when built, equal by value."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec.structs import force_setattr

from tallyroll.errors import InvalidEvent
from tallyroll.events.context import NO_CONTEXT, check_traceparent, current_context, no_context
from tallyroll.events.ids import new_id, utc_now
from tallyroll.events.payload import clean_payload
from tallyroll.events.types import EventType, type_info

MAX_ID_CHARS: Final = 255  # keys are hashed, logged and shown; the payload is the place for more
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_SEMVER: Final = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})")
_AGGREGATE_TYPE: Final = re.compile(r"[a-z][a-z0-9_-]{0,49}")
DEFAULT_SOURCE: Final = "tallyroll"
DEFAULT_VERSION: Final = "1.0.0"

_encode_copy: Final = msgspec.json.Encoder().encode
_decode_copy: Final = msgspec.json.Decoder().decode


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(field, f"expected text, got {type(value).__name__}")
    if not value or len(value) > MAX_ID_CHARS:
        raise InvalidEvent(field, f"expected 1 to {MAX_ID_CHARS} characters, got {len(value)}")
    if not value.isprintable() and _CONTROL.search(value):
        raise InvalidEvent(field, "control characters and lone surrogates are not allowed")
    return value if type(value) is str else str.__str__(value)


def _aggregate_type(value: object) -> str:
    if not isinstance(value, str) or not _AGGREGATE_TYPE.fullmatch(value):
        raise InvalidEvent("aggregate_type", "expected a short lower-case word such as agent, task or workflow")
    return value if type(value) is str else str.__str__(value)


def _utc(field: str, value: object) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidEvent(field, f"expected a datetime, got {type(value).__name__}")
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise InvalidEvent(field, "a datetime without a zone could mean any hour; use datetime.now(timezone.utc)")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidEvent(field, "lies outside the years 1 to 9999 in UTC") from None


def _version(field: str, value: object) -> str:
    if value == DEFAULT_VERSION:
        return DEFAULT_VERSION
    if not isinstance(value, str) or not _SEMVER.fullmatch(value):
        raise InvalidEvent(field, "expected a version such as 1.2.0")
    return value if type(value) is str else str.__str__(value)


class EventMetadata(msgspec.Struct, frozen=True, gc=False):
    """The context of an event. What is not given comes from the current context, else from the defaults below.

    Fields: ``correlation_id`` (new if there is none), ``causation_id`` (the event that caused this one), ``session_id``,
    ``user_id``, ``trace_id`` (32 hex digits; taken from ``traceparent`` if there is one), ``source`` (a URI reference that
    names the producer), ``version`` (of the metadata), ``created_at`` (aware, UTC, microseconds), ``tenant_id``,
    ``traceparent`` and ``tracestate`` (W3C Trace Context). Raises InvalidEvent naming the field.
    """

    correlation_id: str | None = None
    causation_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    trace_id: str | None = None
    source: str = DEFAULT_SOURCE
    version: str = DEFAULT_VERSION
    created_at: datetime | None = None
    tenant_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None

    def __post_init__(self) -> None:
        context = current_context()
        for field, path in _CARRIED:
            own = getattr(self, field)
            value = getattr(context, field) if own is None else own
            if value is not None:
                text = _text(path, value)
                if text is not own:
                    force_setattr(self, field, text)
        if self.correlation_id is None:
            force_setattr(self, "correlation_id", new_id())
        if self.traceparent is not None:
            check_traceparent(self.traceparent)
            if self.trace_id is None:
                force_setattr(self, "trace_id", self.traceparent[3:35])
        if self.trace_id is not None:
            force_setattr(self, "trace_id", _text("metadata.trace_id", self.trace_id))
        if self.source is not DEFAULT_SOURCE:
            force_setattr(self, "source", _text("metadata.source", self.source))
        force_setattr(self, "version", _version("metadata.version", self.version))
        force_setattr(self, "created_at", utc_now() if self.created_at is None else _utc("metadata.created_at", self.created_at))

    def to_dict(self) -> dict[str, str | None]:
        """All fields as JSON values; times in ISO 8601 with microseconds and ``Z``. ``EventMetadata(**d)`` takes text for none of them."""
        result: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        result["created_at"] = iso(self.created_at or utc_now())
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EventMetadata:
        """The metadata that ``to_dict`` wrote. Raises InvalidEvent for unknown or malformed fields."""
        unknown = set(data) - set(cls.__struct_fields__)
        if unknown:
            raise InvalidEvent("metadata", f"unknown fields: {', '.join(sorted(unknown))}")
        values = dict(data)
        if isinstance(values.get("created_at"), str):
            values["created_at"] = from_iso("metadata.created_at", values["created_at"])
        with no_context():  # of this moment: the metadata was made in another
            return cls(**values)


_CARRIED: Final = tuple(
    (field, f"metadata.{field}")
    for field in ("correlation_id", "causation_id", "session_id", "user_id", "tenant_id", "traceparent", "tracestate")
)
_PLAIN_METADATA: Final = EventMetadata(correlation_id="-", created_at=datetime(1970, 1, 1, tzinfo=UTC))


def _metadata(value: object, correlation_id: str, created_at: datetime) -> EventMetadata:
    """An event that brings no metadata is the root of its own correlation, unless the context names one."""
    if isinstance(value, EventMetadata):
        return value
    if value is not None:
        raise InvalidEvent("metadata", f"expected EventMetadata, got {type(value).__name__}")
    context = current_context()
    if context is not NO_CONTEXT:
        return EventMetadata(correlation_id=context.correlation_id or correlation_id, created_at=created_at)
    # The usual case: a copy saves a quarter of what building an event costs, and there is nothing left to check.
    metadata: EventMetadata = _PLAIN_METADATA.__copy__()  # type: ignore[attr-defined]  # every Struct has it
    force_setattr(metadata, "correlation_id", correlation_id)
    force_setattr(metadata, "created_at", created_at)
    return metadata


class AgentEvent(msgspec.Struct, frozen=True, gc=False):
    """One thing that an agent did.

    ``AgentEvent(EventType.TASK_COMPLETED, "task-7", "task", {"agent_id": "a-1", "duration_ms": 5200})`` is enough: the id
    (UUIDv7), the time (now) and the metadata (from the current context) are filled in. The payload is copied into JSON
    values; see ``clean_payload`` for what it may hold. ``timestamp`` is event time, aware UTC with microseconds; order in
    the log comes from positions, never from it. Raises InvalidEvent, which names the field.

    Not promised: that two events with the same content have the same id.
    """

    event_type: str
    aggregate_id: str
    aggregate_type: str
    payload: dict[str, Any] = {}
    metadata: EventMetadata = None  # type: ignore[assignment]  # filled in __post_init__, never None afterwards
    event_id: str = ""
    timestamp: datetime = None  # type: ignore[assignment]  # filled in __post_init__, never None afterwards
    schema_version: str = DEFAULT_VERSION
    privacy_protected: bool = False

    def __post_init__(self) -> None:
        force_setattr(self, "event_type", _event_type(self.event_type))
        force_setattr(self, "aggregate_id", _text("aggregate_id", self.aggregate_id))
        force_setattr(self, "aggregate_type", _aggregate_type(self.aggregate_type))
        force_setattr(self, "payload", clean_payload(self.payload))
        force_setattr(self, "event_id", new_id() if self.event_id == "" else _text("event_id", self.event_id))
        force_setattr(self, "timestamp", utc_now() if self.timestamp is None else _utc("timestamp", self.timestamp))
        force_setattr(self, "metadata", _metadata(self.metadata, self.event_id, self.timestamp))
        force_setattr(self, "schema_version", _version("schema_version", self.schema_version))
        if not isinstance(self.privacy_protected, bool):
            raise InvalidEvent("privacy_protected", "expected true or false")

    @property
    def key(self) -> str:
        """The key in the log: events with one key keep the order in which one publisher accepted them."""
        return f"{self.aggregate_type}:{self.aggregate_id}"

    @property
    def agent_id(self) -> str | None:
        """Whose deed it is: the aggregate if that is an agent, else the payload's ``agent_id``, else None."""
        return agent_of(self.aggregate_type, self.aggregate_id, self.payload.get("agent_id"))

    def to_kafka_message(self) -> dict[str, Any]:
        """The event as JSON values under the well-known field names; ``from_kafka_message`` gives an equal event."""
        return {
            "event_id": self.event_id,
            "event_type": self.event_type,
            "aggregate_id": self.aggregate_id,
            "aggregate_type": self.aggregate_type,
            # A copy: the message is the caller's to change, the event is not.
            "payload": _decode_copy(_encode_copy(self.payload)),
            "metadata": self.metadata.to_dict(),
            "timestamp": iso(self.timestamp),
            "schema_version": self.schema_version,
            "privacy_protected": self.privacy_protected,
        }

    @classmethod
    def from_kafka_message(cls, message: dict[str, Any]) -> AgentEvent:
        """The event that ``to_kafka_message`` described. Raises InvalidEvent naming what is missing or malformed."""
        if not isinstance(message, dict):
            raise InvalidEvent("message", f"expected a dict, got {type(message).__name__}")
        for field in ("event_id", "event_type", "aggregate_id", "aggregate_type", "timestamp"):
            if not message.get(field):
                raise InvalidEvent(field, "missing")
        metadata = message.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise InvalidEvent("metadata", f"expected a dict, got {type(metadata).__name__}")
        payload = message.get("payload")
        with no_context():  # of this moment: the event was made in another
            return cls(
                event_type=message["event_type"],
                aggregate_id=message["aggregate_id"],
                aggregate_type=message["aggregate_type"],
                payload={} if payload is None else payload,
                metadata=EventMetadata.from_dict(metadata) if metadata is not None else None,  # type: ignore[arg-type]  # None: fill in
                event_id=message["event_id"],
                timestamp=from_iso("timestamp", message["timestamp"]),
                schema_version=message.get("schema_version", DEFAULT_VERSION),
                privacy_protected=message.get("privacy_protected", False),
            )


def agent_of(aggregate_type: str, aggregate_id: str, payload_agent: object) -> str | None:
    """The one rule for whose deed an event is; replay, analytics and bridges all use it."""
    if aggregate_type == "agent":
        return aggregate_id
    return payload_agent if isinstance(payload_agent, str) and payload_agent else None


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC, always six decimals, ``Z``: 27 characters, sorts as text."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def from_iso(field: str, text: object) -> datetime:
    """The moment that an ISO 8601 text with a zone names. Raises InvalidEvent for text without one."""
    if not isinstance(text, str):
        raise InvalidEvent(field, f"expected ISO 8601 text, got {type(text).__name__}")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidEvent(field, "expected ISO 8601 with a zone, such as 2026-01-31T12:00:00Z") from None
    return _utc(field, moment)


def _event_type(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEvent("event_type", f"expected an EventType or a registered name, got {type(value).__name__}")
    info = type_info(value)
    if info is None:
        raise InvalidEvent(
            "event_type", f"unknown type; the built-in ones are in EventType, own ones go through register_event_type(). {_nearest(value)}"
        )
    return _MEMBERS.get(value, info.name)


_MEMBERS: Final[dict[str, str]] = {member.value: member for member in EventType}


def _nearest(value: str) -> str:
    import difflib  # noqa: PLC0415  # only on the way to an error

    close = difflib.get_close_matches(value, _MEMBERS, n=3, cutoff=0.5)
    return f"Near it: {', '.join(close)}" if close else ""
