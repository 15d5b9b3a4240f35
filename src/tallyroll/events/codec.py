"""An event as bytes and back: CloudEvents 1.0, JSON format, structured mode.

Source: CloudEvents 1.0.2, JSON Event Format 1.0.2, Kafka Protocol Binding 1.0.2 (structured content mode). Extension
names are lower-case alphanumerics, as section 3.1 of the specification demands.

``encode`` gives the body without the publisher's link; ``Chain.link`` splices that in. This module and ``chain`` are all
that a compiled core would replace.
"""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec.structs import force_setattr

from tallyroll.errors import Undecodable
from tallyroll.events.chain import Link
from tallyroll.events.event import DEFAULT_SOURCE, DEFAULT_VERSION, AgentEvent, EventMetadata, agent_of
from tallyroll.events.types import EventType

CONTENT_TYPE: Final = b"application/cloudevents+json; charset=UTF-8"
HEADERS: Final = [("content-type", CONTENT_TYPE)]
SCHEMA_URI: Final = "urn:tallyroll:schema:"


class _Envelope(msgspec.Struct, omit_defaults=True, gc=False):
    """The document in the order of its members on the wire. Optional ones are left out when unset."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    dataschema: str
    aggregatetype: str
    aggregateid: str
    schemaversion: str
    data: dict[str, Any]
    correlationid: str | None = None
    causationid: str | None = None
    sessionid: str | None = None
    userid: str | None = None
    tenantid: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    traceid: str | None = None
    metadataversion: str = DEFAULT_VERSION
    createdat: datetime | None = None
    privacyprotected: bool = False


class Head(msgspec.Struct, gc=False):
    """What folds read of a record: everything but the payload, which stays raw until its type is wanted."""

    id: str
    type: str
    source: str
    specversion: str
    time: str = ""
    subject: str = ""
    aggregatetype: str = ""
    aggregateid: str = ""
    schemaversion: str = DEFAULT_VERSION
    sequence: str = ""
    chainsession: str = ""
    chainnumber: str = ""
    chainprev: str = ""
    chainvoids: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")

    def link(self) -> Link | None:
        """The record's place in its publisher's chain, None if it has none."""
        if not self.chainsession or not self.chainnumber.isdecimal():
            return None
        return Link(self.chainsession, int(self.chainnumber), self.chainprev, self.chainvoids)


class _Document(Head, gc=False):
    """A whole record as read."""

    correlationid: str | None = None
    causationid: str | None = None
    sessionid: str | None = None
    userid: str | None = None
    tenantid: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    traceid: str | None = None
    metadataversion: str = DEFAULT_VERSION
    createdat: str | None = None
    privacyprotected: bool = False
    datacontenttype: str = "application/json"


_encode: Final = msgspec.json.Encoder().encode
_decode_head: Final = msgspec.json.Decoder(Head).decode
_decode_document: Final = msgspec.json.Decoder(_Document).decode
_decode_payload: Final = msgspec.json.Decoder(dict[str, Any]).decode
_PREFIX: Final = b'{"specversion":"1.0","datacontenttype":"application/json",'


def encode(event: AgentEvent) -> bytes:
    """The CloudEvents document of an event, without sequence and chain link. The same event gives the same bytes."""
    metadata = event.metadata
    traceparent = metadata.traceparent
    derived = traceparent is not None and traceparent[3:35] == metadata.trace_id
    return (
        _PREFIX
        + _encode(
            _Envelope(
                event.event_id,
                metadata.source,
                event.event_type,
                event.key,
                event.timestamp,
                f"{SCHEMA_URI}{event.event_type}:{event.schema_version}",
                event.aggregate_type,
                event.aggregate_id,
                event.schema_version,
                event.payload,
                metadata.correlation_id,
                metadata.causation_id,
                metadata.session_id,
                metadata.user_id,
                metadata.tenant_id,
                traceparent,
                metadata.tracestate,
                None if derived else metadata.trace_id,
                metadata.version,
                metadata.created_at if metadata.created_at != event.timestamp else None,
                event.privacy_protected,
            )
        )[1:]
    )


def decode_head(value: bytes | None) -> Head:
    """The head of a record. Raises Undecodable with a reason code; never quotes the content."""
    head: Head = _parse(_decode_head, value)
    if not head.aggregateid or not head.aggregatetype:
        # Another producer's CloudEvent: its subject may name the aggregate.
        head.aggregatetype, _, head.aggregateid = head.subject.partition(":")
        if not head.aggregateid:
            raise Undecodable("no_aggregate", "neither aggregatetype and aggregateid nor a subject 'type:id'")
    return head


def timestamp_us(head: Head) -> int:
    """Event time in microseconds since 1970. Raises Undecodable when ``time`` is missing or has no zone."""
    try:
        moment = datetime.fromisoformat(head.time)
        delta = moment - _EPOCH
    except (ValueError, TypeError):
        raise Undecodable("bad_time", "time is missing, malformed, or has no zone") from None
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def decode(value: bytes | None) -> AgentEvent:
    """The event in a record. Types this process does not know are kept as text. Raises Undecodable."""
    document: _Document = _parse(_decode_document, value)
    if not document.aggregateid or not document.aggregatetype:
        document.aggregatetype, _, document.aggregateid = document.subject.partition(":")
        if not document.aggregateid:
            raise Undecodable("no_aggregate", "neither aggregatetype and aggregateid nor a subject 'type:id'")
    timestamp = moment_at(timestamp_us(document))
    try:
        payload = _decode_payload(document.data)
    except (msgspec.DecodeError, RecursionError):
        raise Undecodable("bad_data", "data is not a JSON object") from None
    metadata = copy(_BLANK_METADATA)
    trace_id = document.traceid
    if trace_id is None and document.traceparent is not None:
        trace_id = document.traceparent[3:35]
    for name, item in (
        ("correlation_id", document.correlationid),
        ("causation_id", document.causationid),
        ("session_id", document.sessionid),
        ("user_id", document.userid),
        ("trace_id", trace_id),
        ("source", DEFAULT_SOURCE if document.source == DEFAULT_SOURCE else document.source),
        ("version", document.metadataversion),
        ("created_at", timestamp if document.createdat is None else _moment(document.createdat)),
        ("tenant_id", document.tenantid),
        ("traceparent", document.traceparent),
        ("tracestate", document.tracestate),
    ):
        force_setattr(metadata, name, item)
    event = copy(_BLANK_EVENT)
    for name, item in (
        ("event_type", _MEMBERS.get(document.type, document.type)),
        ("aggregate_id", document.aggregateid),
        ("aggregate_type", document.aggregatetype),
        ("payload", payload),
        ("metadata", metadata),
        ("event_id", document.id),
        ("timestamp", timestamp),
        ("schema_version", document.schemaversion),
        ("privacy_protected", document.privacyprotected),
    ):
        force_setattr(event, name, item)
    return event


# Copied, not constructed: what is in the log has happened, and is not judged by the rules for new events.
_BLANK_METADATA: Final = EventMetadata(correlation_id="-", created_at=_EPOCH)
_BLANK_EVENT: Final = AgentEvent(EventType.AGENT_CREATED, "-", "agent", {}, _BLANK_METADATA, "-", _EPOCH)
_MEMBERS: Final[dict[str, EventType]] = {member.value: member for member in EventType}


def moment_at(micros: int) -> datetime:
    """The aware UTC datetime that many microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=micros)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Undecodable("bad_time", "createdat is malformed") from None
    return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _parse(decoder: Any, value: bytes | None) -> Any:  # noqa: ANN401
    if not value:
        raise Undecodable("empty", "the record has no value")
    try:
        document = decoder(value)
    except msgspec.ValidationError:
        raise Undecodable("not_an_event", "JSON, but not a CloudEvents document: a member is missing or has the wrong type") from None
    except msgspec.DecodeError:
        raise Undecodable("not_json", "the value is not JSON") from None
    except RecursionError:
        raise Undecodable("too_deep", "the value is nested too deeply to be read") from None
    except UnicodeDecodeError:
        raise Undecodable("not_json", "the value is not UTF-8") from None
    if document.specversion != "1.0":
        raise Undecodable("not_an_event", "specversion is not 1.0")
    return document


def head_agent(head: Head, payload_agent: object) -> str | None:
    """Whose deed a record is; the same rule as ``AgentEvent.agent_id``."""
    return agent_of(head.aggregatetype, head.aggregateid, payload_agent)
