"""One trace from publish through each follower; spans per batch; nothing of a payload in them; nothing at all when off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from tests.patience import PATIENCE_S

from tallyroll.adapters.otel.tracing import MAX_LINKS, OtelTracing
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.errors import InvalidEvent
from tallyroll.events.batch import Batch
from tallyroll.events.codec import decode, encode, traceparent_of
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.roll import Roll

CANARY = "canary-4b7f"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def traceparent(number: int, *, sampled: bool = True) -> str:
    return f"00-{number:032x}-{number:016x}-{1 if sampled else 0:02x}"


def event(number: int, carried: str | None = None) -> AgentEvent:
    metadata = EventMetadata(traceparent=carried, user_id=CANARY, session_id=CANARY)
    return AgentEvent("task.started", f"{CANARY}-{number}", "task", {"agent_id": CANARY, "text": CANARY}, metadata)


class Traces:
    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def tracing(self, spans_per_batch: int = 16) -> OtelTracing:
        return OtelTracing(self.provider, clock=SystemClock(), system="sqlite", spans_per_batch=spans_per_batch)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def traces() -> Iterator[Traces]:
    made = Traces()
    yield made
    made.provider.shutdown()


def batch_of(events: Sequence[AgentEvent]) -> Batch:
    count = len(events)
    values = [encode(one) for one in events]
    return Batch("task-events", 3, offsets=range(5, 5 + count), keys=[b""] * count, values=values, timestamps_ms=[0] * count)


def trace_id(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


@pytest.mark.slow
async def test_one_trace_from_publish_through_each_follower(traces: Traces) -> None:
    async with Roll.open("sqlite://:memory:", tracing=traces.tracing()) as roll:
        receipt = await roll.publish(event(1))
        for follower in ("state", "analytics"):
            assert await roll.caught_up(receipt.position, PATIENCE_S, follower=follower)
        (published,) = traces.named("publish")
        for follower in ("state", "analytics"):
            (applied,) = traces.named(f"apply {follower}")
            assert trace_id(applied) == trace_id(published)
            assert applied.parent.span_id == published.context.span_id
            assert applied.kind is SpanKind.CONSUMER
            assert applied.attributes["messaging.kafka.offset"] == receipt.position.offset
    assert published.kind is SpanKind.PRODUCER
    assert published.attributes["messaging.message.id"] == receipt.event_id
    assert published.attributes["messaging.destination.name"] == receipt.position.topic
    assert "state" in {span.attributes.get("tallyroll.follower") for span in traces.exporter.get_finished_spans()}
    assert not [span for span in traces.exporter.get_finished_spans() if CANARY in span.to_json()]


async def test_an_event_that_carries_a_trace_goes_on_in_it(traces: Traces) -> None:
    carried = f"00-{TRACE}-b7ad6b7169203331-01"
    async with Roll.open("sqlite://:memory:", tracing=traces.tracing()) as roll:
        await roll.publish(event(1, carried))
    (published,) = traces.named("publish")
    assert (trace_id(published), f"{published.parent.span_id:016x}") == (TRACE, "b7ad6b7169203331")


async def test_the_callers_own_span_is_the_parent(traces: Traces) -> None:
    with traces.provider.get_tracer("host").start_as_current_span("request") as request:
        async with Roll.open("sqlite://:memory:", tracing=traces.tracing()) as roll:
            await roll.publish(event(1))
            await roll.publish_batch([event(2), event(3)])
    assert {span.parent.span_id for span in traces.named("publish")} == {request.get_span_context().span_id}


async def test_a_batch_is_one_span_that_its_events_share(traces: Traces) -> None:
    own = traceparent(7)
    async with Roll.open("sqlite://:memory:", tracing=traces.tracing()) as roll:
        events = [*(event(number) for number in range(20)), event(20, own)]
        await roll.publish_batch(events)
        stored = [seen.event async for seen in roll.tail()]
    (published,) = traces.named("publish")
    assert published.attributes["messaging.batch.message_count"] == 21
    assert [link.context.span_id for link in published.links] == [7]
    carried = {one.metadata.traceparent for one in stored} - {own}
    assert {one[:52] for one in carried} == {f"00-{trace_id(published)}-{published.context.span_id:016x}"}
    assert {one.event_id for one in stored} == {one.event_id for one in events}
    assert all(one.metadata.traceparent in (None, own) for one in events), "the caller's events are left as they were"


async def test_the_rest_of_an_event_is_untouched(traces: Traces) -> None:
    plain = event(1)
    with traces.tracing().publishing([plain]) as traced:
        (stamped,) = traced.events
    assert stamped.metadata.trace_id == stamped.metadata.traceparent[3:35]
    without = decode(encode(stamped))
    for name in AgentEvent.__struct_fields__:
        if name != "metadata":
            assert getattr(without, name) == getattr(plain, name)
    for name in EventMetadata.__struct_fields__:
        if name not in ("traceparent", "trace_id"):
            assert getattr(stamped.metadata, name) == getattr(plain.metadata, name)


@pytest.mark.parametrize(("traces_in_batch", "limit", "own"), [(1, 16, 0), (1, 0, 0), (5, 16, 5), (40, 16, 16), (5, 0, 0), (300, 2, 2)])
def test_spans_of_a_batch_are_bounded(traces: Traces, traces_in_batch: int, limit: int, own: int) -> None:
    events = [event(number, traceparent(1 + number % traces_in_batch)) for number in range(300)]
    with traces.tracing(limit).applying("state", batch_of(events)):
        pass
    spans = traces.named("apply state")
    assert len(spans) == 1 + own
    whole = spans[0] if traces_in_batch == 1 else next(span for span in spans if span.parent is None)
    children = [span for span in spans if span is not whole]
    if traces_in_batch == 1:
        assert (whole.context.trace_id, whole.parent.span_id, list(whole.links)) == (1, 1, [])
    else:
        assert [link.context.trace_id for link in whole.links] == list(range(1, 1 + min(traces_in_batch, MAX_LINKS)))
        assert {child.context.trace_id for child in children} == set(range(1, 1 + own))
        assert {link.context.span_id for child in children for link in child.links} <= {whole.context.span_id}
    assert whole.attributes["messaging.batch.message_count"] == 300


def test_what_nobody_samples_is_no_span(traces: Traces) -> None:
    with traces.tracing().applying("state", batch_of([event(1, traceparent(1, sampled=False)), event(2)])):
        pass
    (whole,) = traces.named("apply state")
    assert list(whole.links) == []
    off = Traces(sampler=ALWAYS_OFF)
    with off.tracing().publishing([event(1)]) as traced, off.tracing().applying("state", batch_of([event(1, traceparent(1))])):
        assert int(traced.events[0].metadata.traceparent[-2:], 16) & 1 == 0
    assert off.exporter.get_finished_spans() == ()


def test_a_failure_is_told_by_its_class_alone(traces: Traces) -> None:
    tracing = traces.tracing()
    with pytest.raises(KeyError), tracing.applying("state", batch_of([event(1, traceparent(1)), event(2, traceparent(2))])):
        raise KeyError(CANARY)
    with pytest.raises(InvalidEvent), tracing.publishing([event(1)]):
        raise InvalidEvent("payload", CANARY)
    for span in traces.exporter.get_finished_spans():
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] in ("KeyError", "InvalidEvent")
        assert CANARY not in span.to_json()


async def test_events_that_were_not_delivered_are_counted(traces: Traces) -> None:
    async with Roll.open("sqlite://:memory:", tracing=traces.tracing()) as roll:
        too_large = AgentEvent("task.started", "t", "task", {"text": "x" * 899_900})
        await roll.publish_batch([event(1), too_large])
    assert traces.named("publish")[0].attributes["tallyroll.undelivered"] == 1


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None), (b"", None), (b'not json, "traceparent":', None), (b'{"traceparent":7}', None), (b'{"traceparent":"00-zz"}', None),
        (b'{"traceparent":null}', None), (b'{"data":{"traceparent":"' + traceparent(1).encode() + b'"}}', None),
        (b'{"data":{"traceparent":"x"},"traceparent":"' + traceparent(2).encode() + b'"}', traceparent(2)),
    ],
)  # fmt: skip
def test_the_trace_of_a_record_is_read_whatever_the_record_is(value: bytes | None, found: str | None) -> None:
    assert traceparent_of(value) == found


_OFF = """
import asyncio, sys
from tallyroll import AgentEvent, Roll
async def main():
    async with Roll.open("sqlite://:memory:") as roll:
        receipt = await roll.publish(AgentEvent("task.started", "t-1", "task"))
        await roll.caught_up(receipt.position)
        print([seen.event.metadata.traceparent async for seen in roll.tail()], "opentelemetry" in sys.modules)
asyncio.run(main())
"""


@pytest.mark.slow
def test_without_tracing_no_event_is_changed_and_nothing_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", _OFF], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout == "[None] False\n"
