"""Implements ``ports.Tracing`` with OpenTelemetry: spans of publishing, and of each batch that a follower applies.

No attribute holds a payload, a key or a name of who did something: topics, partitions, counts, types, and ids of events.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from importlib.metadata import version
from typing import Final

from msgspec.structs import force_setattr
from opentelemetry.context import Context, get_current
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import TracerProvider as AnyProvider

from tallyroll.errors import SettingsError
from tallyroll.events.batch import Batch
from tallyroll.events.codec import traceparent_of
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import Position
from tallyroll.ports import Clock, TracedEvents
from tallyroll.settings import Settings

log: Final = logging.getLogger("tallyroll.otel")

MAX_LINKS: Final = 128
"""So many traces a span links to, as the SDK takes by default; those of later records are left out."""

_LAST_S: Final = 2.0  # a collector that is there answers in milliseconds
_PROTOCOL: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_NO_CONTEXT: Final = Context()


class OtelTracing:
    """Spans through a tracer provider. ``system`` names the log, as in ``messaging.system``.

    A provider that is handed in stays open; ``close`` then does nothing. ``end``: what sends the rest and ends the provider,
    and what makes that give up. Not promised: as the port says.
    """

    def __init__(
        self,
        provider: AnyProvider,
        *,
        clock: Clock,
        system: str,
        spans_per_batch: int = 16,
        end: tuple[Callable[[], None], Callable[[], None]] | None = None,
    ) -> None:
        self._tracer = provider.get_tracer("tallyroll", version("tallyroll"))
        self._clock = clock
        self._system = system
        self._spans_per_batch = spans_per_batch
        self._end = end

    @contextmanager
    def publishing(self, events: Sequence[AgentEvent]) -> Iterator[TracedEvents]:
        """As the port says: the span of one event goes on the trace that the event carries, else on the current one."""
        links: list[Link] = []
        attributes: dict[str, str | int] = {"messaging.system": self._system, "messaging.operation.type": "send"}
        if len(events) == 1:
            carried = events[0].metadata.traceparent
            parent = get_current() if carried is None else _remote(carried)
            attributes |= {"messaging.message.id": events[0].event_id, "tallyroll.event.type": events[0].event_type}
        else:
            parent = get_current()
            attributes["messaging.batch.message_count"] = len(events)
            links = _links(dict.fromkeys(event.metadata.traceparent for event in events if event.metadata.traceparent))
        span = self._tracer.start_span("publish", parent, SpanKind.PRODUCER, attributes, links)
        traced = TracedEvents(_stamped(events, span.get_span_context(), all_=len(events) == 1))
        try:
            yield traced
        except BaseException as error:
            _failed(span, error)
            raise
        finally:
            self._tell_positions(span, traced.positions)
            span.end()

    def _tell_positions(self, span: Span, positions: Sequence[Position | None]) -> None:
        where = positions[0] if len(positions) == 1 else None
        if where is not None:
            span.set_attributes(
                {
                    "messaging.destination.name": where.topic,
                    "messaging.destination.partition.id": str(where.partition),
                    "messaging.kafka.offset": where.offset,
                }
            )
        if undelivered := sum(one is None for one in positions):
            span.set_attribute("tallyroll.undelivered", undelivered)

    @contextmanager
    def applying(self, follower: str, batch: Batch) -> Iterator[None]:
        """As the port says. A batch of one trace is a span in it; else the batch's own span links to the traces it touches."""
        carried = _carried(batch)
        alone = len(carried) == 1
        attributes: dict[str, str | int] = {
            "messaging.system": self._system, "messaging.operation.type": "process",
            "messaging.destination.name": batch.topic, "messaging.destination.partition.id": str(batch.partition),
            "messaging.kafka.offset": batch.offsets[0], "messaging.batch.message_count": len(batch), "tallyroll.follower": follower,
        }  # fmt: skip
        name, start = f"apply {follower}", self._now()
        whole = self._tracer.start_span(
            name, _remote(carried[0]) if alone else _NO_CONTEXT, SpanKind.CONSUMER, attributes, [] if alone else _links(carried), start
        )
        spans = [whole]
        if not alone:
            link = [Link(whole.get_span_context())]
            spans += [
                self._tracer.start_span(name, _remote(one), SpanKind.CONSUMER, attributes, link, start)
                for one in carried[: self._spans_per_batch]
            ]
        try:
            yield
        except BaseException as error:
            for span in spans:
                _failed(span, error)
            raise
        finally:
            end = self._now()
            for span in spans:
                span.end(end)

    async def close(self) -> None:
        """Sends what waits; gives up after two seconds, so that a collector that is away holds up no end. Safe to call twice."""
        end, self._end = self._end, None
        if end is None:
            return
        sending = asyncio.ensure_future(asyncio.to_thread(end[0]))
        await asyncio.wait({sending}, timeout=_LAST_S)
        if not sending.done():
            log.warning("the last spans were not sent: their collector has not answered in %.0f s", _LAST_S)
            await asyncio.to_thread(end[1])
        await sending

    def _now(self) -> int:
        return self._clock.now_us() * 1_000


def otlp_tracing(settings: Settings, clock: Clock) -> OtelTracing | None:
    """Spans by OTLP over HTTP, as the variables ``OTEL_…`` say; None where they turn tracing off.

    Raises SettingsError for a protocol that is not http/protobuf.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER", "").lower() == "none":
        return None
    for variable in _PROTOCOL:
        if os.environ.get(variable, "http/protobuf") not in ("", "http/protobuf"):
            raise SettingsError(variable, "expected http/protobuf")
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "tallyroll"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return OtelTracing(
        provider,
        clock=clock,
        system="kafka" if settings.is_kafka else "sqlite",
        spans_per_batch=settings.trace_spans_per_batch,
        end=(provider.shutdown, exporter.shutdown),
    )


def _carried(batch: Batch) -> list[str]:
    """The sampled traces that records of a batch carry, each once, the first ones."""
    found: dict[str, None] = {}
    for value in batch.values:
        carried = traceparent_of(value)
        if carried is not None and _context(carried).trace_flags.sampled:
            found[carried] = None
            if len(found) == MAX_LINKS:
                break
    return list(found)


def _stamped(events: Sequence[AgentEvent], context: SpanContext, *, all_: bool) -> Sequence[AgentEvent]:
    """Events that carry the span's trace; of several those that carry none of their own."""
    if not context.is_valid:
        return events
    carried = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return [_with_trace(event, carried) if all_ or event.metadata.traceparent is None else event for event in events]


def _with_trace(event: AgentEvent, carried: str) -> AgentEvent:
    """The same event in that trace; not made anew, which would take the rest of its metadata from the present context."""
    event, metadata = copy(event), copy(event.metadata)
    force_setattr(metadata, "traceparent", carried)
    if metadata.trace_id is None:
        force_setattr(metadata, "trace_id", carried[3:35])
    force_setattr(event, "metadata", metadata)
    return event


def _links(carried: Sequence[str] | dict[str, None]) -> list[Link]:
    return [Link(_context(one)) for one in list(carried)[:MAX_LINKS]]


def _remote(traceparent: str) -> Context:
    return set_span_in_context(NonRecordingSpan(_context(traceparent)), _NO_CONTEXT)


def _context(traceparent: str) -> SpanContext:
    """Of text that ``check_traceparent`` has let through."""
    _, trace, span, flags = traceparent.split("-")[:4]
    return SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def _failed(span: Span, error: BaseException) -> None:
    """Only the class: the text of a foreign error may quote a payload."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))
