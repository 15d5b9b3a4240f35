"""An event as bytes and back: CloudEvents 1.0, JSON format, structured mode.

Source: CloudEvents 1.0.2, JSON Event Format 1.0.2, Kafka Protocol Binding 1.0.2 (structured content mode). Extension
names are lower-case alphanumerics, as section 3.1 of the specification demands.

``encode`` gives the body without the publisher's link; ``Chain.link`` splices that in. This module and ``chain`` are all
that a compiled core would replace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import force_setattr

from tallyroll.errors import InvalidEvent, Undecodable
from tallyroll.events.chain import MAX_NUMBER_DIGITS
from tallyroll.events.context import check_traceparent
from tallyroll.events.event import DEFAULT_VERSION, AgentEvent, EventMetadata
from tallyroll.events.links import Link
from tallyroll.events.moments import EPOCH, moment_at
from tallyroll.events.types import EventType

CONTENT_TYPE: Final = b"application/cloudevents+json; charset=UTF-8"
HEADERS: Final = [("content-type", CONTENT_TYPE)]
SCHEMA_URI: Final = "urn:tallyroll:schema:"


class Envelope(msgspec.Struct, omit_defaults=True, gc=False):
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
    """What folds read of a record: everything but the payload, which stays raw until its type is wanted.

    Members in the order on the wire: the decoder looks for the one that follows the last.
    """

    specversion: str
    id: str
    source: str
    type: str
    subject: str = ""
    time: str = ""
    aggregatetype: str = ""
    aggregateid: str = ""
    schemaversion: str = DEFAULT_VERSION
    data: msgspec.Raw = msgspec.Raw(b"{}")
    tenantid: str | None = None
    expects: str = ""
    sequence: str = ""
    chainsession: str = ""
    chainnumber: str = ""
    chainprev: str = ""
    chainvoids: str = ""
    data_base64: str = ""

    def link(self) -> Link | None:
        """The record's place in its publisher's chain, None if it has none."""
        text = self.chainnumber
        # Number 0 is nobody's: taken for a link, it would look like a repeat of something and be dropped.
        if not self.chainsession or not text.isdecimal() or len(text) > MAX_NUMBER_DIGITS or (number := int(text)) == 0:
            return None
        return Link(self.chainsession, number, self.chainprev, self.chainvoids)


H = TypeVar("H", bound=Head)


class _Document(Head, gc=False):
    """A whole record as read."""

    correlationid: str | None = None
    causationid: str | None = None
    sessionid: str | None = None
    userid: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    traceid: str | None = None
    metadataversion: str = DEFAULT_VERSION
    createdat: str | None = None
    privacyprotected: bool = False


class _Traced(msgspec.Struct, gc=False):
    """What tracing reads of a record."""

    traceparent: str | None = None


_encode: Final = msgspec.json.Encoder().encode
_decode_traced: Final = msgspec.json.Decoder(_Traced).decode
_TRACED: Final = b'"traceparent":'
_decode_head: Final = msgspec.json.Decoder(Head).decode
_decode_document: Final = msgspec.json.Decoder(_Document).decode
_decode_payload: Final = msgspec.json.Decoder(dict[str, Any]).decode
_PREFIX: Final = b'{"specversion":"1.0","datacontenttype":"application/json",'


_schema_uris: Final[dict[tuple[str, str], str]] = {}  # one per type and version in use


def encode(event: AgentEvent, key: str | None = None) -> bytes:
    """The CloudEvents document of an event, without sequence and chain link. The same event gives the same bytes.

    ``key`` is ``event.key``, if the caller has it at hand.
    """
    metadata = event.metadata
    traceparent = metadata.traceparent
    derived = traceparent is not None and traceparent[3:35] == metadata.trace_id
    created_at, timestamp, version = metadata.created_at, event.timestamp, (event.event_type, event.schema_version)
    uri = _schema_uris.get(version)
    if uri is None:
        uri = _schema_uris[version] = f"{SCHEMA_URI}{event.event_type}:{event.schema_version}"
    return (
        _PREFIX
        + _encode(
            Envelope(
                event.event_id,
                metadata.source,
                event.event_type,
                key or event.key,
                timestamp,
                uri,
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
                None if created_at is timestamp or created_at == timestamp else created_at,
                event.privacy_protected,
            )
        )[1:]
    )


def traceparent_of(value: bytes | None) -> str | None:
    """The W3C ``traceparent`` that a record carries; None if there is none, or none that can be read."""
    if value is None or _TRACED not in value:
        return None  # most records, at the price of one look
    try:
        found = _decode_traced(value).traceparent
        return None if found is None else check_traceparent(found)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidEvent):
        return None


def decode_head(value: bytes | None) -> Head:
    """The head of a record. Raises Undecodable with a reason code; never quotes the content."""
    head: Head = _parse(_decode_head, value)
    return head


def link_of(value: bytes) -> Link | None:
    """A record's place in its publisher's chain, whatever its data is; of a value that this process has made."""
    return _decode_head(value).link()


def without_link(value: bytes, head: Head) -> bytes:
    """The beginning of a record, before the sequence and the link that ``Chain.link`` puts at its end, or the closing brace.

    Where these do not stand there just as a publisher writes them, all of it: nothing else can hide in what is left out.
    """
    if not head.chainsession:
        return value.removesuffix(b"}")
    voids = f',"chainvoids":"{head.chainvoids}"' if head.chainvoids else ""
    tail = (
        f',"sequence":"{head.sequence}","chainsession":"{head.chainsession}","chainnumber":"{head.chainnumber}"'
        f',"chainprev":"{head.chainprev}"{voids}}}'
    )
    return value.removesuffix(tail.encode())


def without_trace(content: bytes, data: bytes, traceparent: str) -> bytes:
    """``content`` without the ``traceparent`` that stands behind its ``data``; all of it where none does."""
    member = f',"traceparent":"{traceparent}"'.encode()
    at = content.rfind(member)
    return content[:at] + content[at + len(member) :] if at >= content.rfind(data) + len(data) else content


def decode_heads(values: Sequence[bytes | None]) -> list[Head | Undecodable]:
    """As ``decode_head`` of each, with the error in place of a head; one bad record must not cost its neighbours."""
    heads: list[Head | Undecodable] = []
    for value in values:
        try:
            head = _decode_head(value)  # type: ignore[arg-type]  # of None it raises TypeError
        except (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError):
            heads.append(_head_or_error(value))
            continue
        # Without a call while nothing is unusual, which saves a seventh; the rest is left to the rules of _parse.
        plain = head.specversion == "1.0" and head.aggregateid and head.aggregatetype and not head.data_base64
        heads.append(head if plain else _head_or_error(value))
    return heads


def _head_or_error(value: bytes | None) -> Head | Undecodable:
    try:
        return decode_head(value)
    except Undecodable as error:
        return error


def timestamp_us(head: Head) -> int:
    """Event time in microseconds since 1970. Raises Undecodable when ``time`` is missing or has no zone."""
    return micros_of(head.time)


def micros_of(time: str) -> int:
    """The moment that a record's ``time`` names, in microseconds since 1970. Raises as ``timestamp_us``."""
    try:
        delta = _from_iso(time) - EPOCH
    except (ValueError, TypeError):
        raise Undecodable("bad_time", "time is missing, malformed, or has no zone") from None
    days = delta.days
    if not _FIRST_DAY <= days <= _LAST_DAY:
        raise Undecodable("bad_time", "time lies outside the years 1 to 9999 in UTC")
    return (days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def times_of(heads: Sequence[Head | Undecodable]) -> list[int | Undecodable]:
    """As ``timestamp_us`` of each, with the error in place of a time; where there is no head, why there is none."""
    try:
        # The usual case without a call for each.
        deltas = [_from_iso(head.time) - EPOCH for head in heads]  # type: ignore[union-attr]  # of an error it raises AttributeError
        times = [(delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds for delta in deltas]
        if not times or (min(times) >= _FIRST_DAY * _DAY_US and max(times) < (_LAST_DAY + 1) * _DAY_US):
            return [*times]
    except (ValueError, TypeError, AttributeError):
        pass
    return [_time_or_error(head) for head in heads]


def _time_or_error(head: Head | Undecodable) -> int | Undecodable:
    try:
        return head if isinstance(head, Undecodable) else micros_of(head.time)
    except Undecodable as error:
        return error


_from_iso: Final = datetime.fromisoformat
_FIRST_DAY: Final = (datetime.min.replace(tzinfo=UTC) - EPOCH).days
_LAST_DAY: Final = (datetime.max.replace(tzinfo=UTC) - EPOCH).days
_DAY_US: Final = 86_400_000_000


def decode(value: bytes | None) -> AgentEvent:
    """The event in a record. Types this process does not know are kept as text. Raises Undecodable."""
    document: _Document = _parse(_decode_document, value)
    timestamp = moment_at(timestamp_us(document))
    try:
        payload = _decode_payload(document.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Undecodable("bad_data", "data is not a JSON object, or one nested too deeply") from None
    traceparent = document.traceparent
    trace_id = document.traceid
    if trace_id is None and traceparent is not None:
        trace_id = traceparent[3:35]
    metadata = _blank_metadata()
    force_setattr(metadata, "correlation_id", document.correlationid)
    force_setattr(metadata, "causation_id", document.causationid)
    force_setattr(metadata, "session_id", document.sessionid)
    force_setattr(metadata, "user_id", document.userid)
    force_setattr(metadata, "trace_id", trace_id)
    force_setattr(metadata, "source", document.source)
    force_setattr(metadata, "version", document.metadataversion)
    force_setattr(metadata, "created_at", timestamp if document.createdat is None else _moment(document.createdat))
    force_setattr(metadata, "tenant_id", document.tenantid)
    force_setattr(metadata, "traceparent", traceparent)
    force_setattr(metadata, "tracestate", document.tracestate)
    event = _blank_event()
    force_setattr(event, "event_type", _MEMBERS.get(document.type, document.type))
    force_setattr(event, "aggregate_id", document.aggregateid)
    force_setattr(event, "aggregate_type", document.aggregatetype)
    force_setattr(event, "payload", payload)
    force_setattr(event, "metadata", metadata)
    force_setattr(event, "event_id", document.id)
    force_setattr(event, "timestamp", timestamp)
    force_setattr(event, "schema_version", document.schemaversion)
    force_setattr(event, "privacy_protected", document.privacyprotected)
    return event


# Copied, not constructed: what is in the log has happened, and is not judged by the rules for new events.
_METADATA: Final = EventMetadata(correlation_id="-", created_at=EPOCH)
_EVENT: Final = AgentEvent(EventType.AGENT_CREATED, "-", "agent", {}, _METADATA, "-", EPOCH)
_blank_metadata: Final[Callable[[], EventMetadata]] = _METADATA.__copy__  # type: ignore[attr-defined]  # every Struct has it
_blank_event: Final[Callable[[], AgentEvent]] = _EVENT.__copy__  # type: ignore[attr-defined]  # every Struct has it
_MEMBERS: Final[dict[str, EventType]] = {member.value: member for member in EventType}


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Undecodable("bad_time", "createdat is malformed") from None


def named_by_subject(head: H) -> H:
    """A head without an aggregate, of another producer's CloudEvent, filled in: its subject may name one."""
    head.aggregatetype, _, head.aggregateid = head.subject.partition(":")
    return head


def _parse(decoder: Any, value: bytes | None) -> Any:  # noqa: ANN401  # a decoder of Head or of _Document, and what it gives
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
    if document.data_base64:
        raise Undecodable("bad_data", "data_base64 holds bytes, and an event's data is a JSON object")
    if not (document.aggregateid and document.aggregatetype) and not named_by_subject(document).aggregateid:
        raise Undecodable("no_aggregate", "neither aggregatetype and aggregateid nor a subject 'type:id'")
    return document
