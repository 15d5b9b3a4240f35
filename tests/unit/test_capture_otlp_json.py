import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.capture import FORMATS, CaptureOptions, Skipped
from tallyroll.events.event import AgentEvent

GOLDEN = Path(__file__).parents[1] / "golden" / "capture" / "trace.otlp.json"
TRACE = "5b8efff798038103d269b633813fc60c"
read = FORMATS["otlp-json"].read


def events(source=GOLDEN, **options):
    return [item for item in read(source, options=CaptureOptions(**options)) if isinstance(item, AgentEvent)]


def snake(value):
    if isinstance(value, dict):
        return {re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), key): snake(item) for key, item in value.items()}
    return [snake(item) for item in value] if isinstance(value, list) else value


def test_every_span_is_a_pair_of_events_or_one_or_skipped_with_its_reason():
    items = list(read(GOLDEN))
    reasons = Counter(item.reason for item in items if isinstance(item, Skipped))
    assert reasons == {
        "ends before it starts": 1,
        "trace id and span id are not 32 and 16 hex digits": 1,
        "not a span of generative AI": 1,
        "the operation embeddings is no event": 1,
    }
    told = Counter(event.metadata.traceparent for event in events())
    assert sorted(told.values()) == [1, 1, 2, 2, 2, 2]
    spans = json.loads(GOLDEN.read_bytes())["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert len(told) + reasons.total() == len(spans)


def test_events_come_in_the_order_of_time_and_cause():
    known = set()
    times = [event.timestamp for event in events()]
    assert times == sorted(times)
    for event in events():
        assert event.metadata.causation_id is None or event.metadata.causation_id in known
        known.add(event.event_id)


def test_events_carry_the_trace_context_of_their_span():
    tool = next(event for event in events() if event.event_type == "tool.completed")
    assert tool.metadata.traceparent == f"00-{TRACE}-eee19b7ec3c1b174-01"
    assert tool.metadata.trace_id == tool.metadata.correlation_id == TRACE


def test_agent_task_and_conversation_come_from_the_spans_above():
    tool = next(event for event in events() if event.event_type == "tool.failed")
    assert (tool.agent_id, tool.aggregate_id) == ("barista-1", f"task-{TRACE}-eee19b7ec3c1b172")
    assert tool.metadata.session_id == "conv-9"


def test_durations_tokens_and_errors_come_from_the_span():
    told = {str(event.event_type): event.payload for event in events()}
    assert told["tool.completed"]["duration_ms"] == 2_500
    assert (told["tool.failed"]["error_type"], told["tool.failed"]["duration_ms"]) == ("timeout", 1_000)
    assert (told["message.sent"]["input_tokens"], told["message.sent"]["tokens"]) == (120, 153)


def test_snake_case_and_lines_give_the_same_events():
    document = json.loads(GOLDEN.read_bytes())
    assert events(json.dumps(snake(document)).encode()) == events()
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    lines = [{"resourceSpans": [{**document["resourceSpans"][0], "scopeSpans": [{"spans": [span]}]}]} for span in reversed(spans)]
    assert events("\n".join(json.dumps(item) for item in lines).encode()) == events()


def test_the_same_span_again_is_skipped():
    document = json.loads(GOLDEN.read_bytes())
    twice = list(read(json.dumps([document, document]).encode()))
    assert sum(isinstance(item, Skipped) and item.reason == "the same span again" for item in twice) == 8
    assert [item for item in twice if isinstance(item, AgentEvent)] == events()


def test_a_span_without_an_end_gives_only_its_start():
    span = {
        "traceId": TRACE,
        "spanId": "a" * 16,
        "startTimeUnixNano": 1_772_445_600_000_000_000,
        "attributes": [{"key": "gen_ai.operation.name", "value": {"stringValue": "invoke_agent"}}],
    }
    told = events(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode(), agent_id="a-1")
    assert [(str(event.event_type), event.agent_id) for event in told] == [("task.started", "a-1")]


def test_a_digest_holds_no_text():
    told = json.dumps([event.to_kafka_message() for event in events()])
    assert not [word for word in ("Grinding", "Ada", "18 g", "no water") if word in told]
    assert "Grinding" in json.dumps([event.to_kafka_message() for event in events(content="full")])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
VALUE = JSON | st.fixed_dictionaries({"stringValue": st.sampled_from(["invoke_agent", "chat", "execute_tool", "create_agent"])})
KEY = st.sampled_from(["gen_ai.operation.name", "gen_ai.agent.id", "gen_ai.tool.name", "error.type", "gen_ai.output.messages"])
SPAN = st.fixed_dictionaries(
    {
        "traceId": st.just(TRACE),
        "spanId": st.sampled_from(["a" * 16, "b" * 16, "c" * 16]),
        "startTimeUnixNano": st.just("1772445600000000000") | JSON,
    },
    optional={
        "endTimeUnixNano": st.just("1772445601000000000") | JSON,
        "parentSpanId": st.sampled_from(["a" * 16, "b" * 16]) | JSON,
        "attributes": st.lists(st.fixed_dictionaries({"key": KEY, "value": VALUE}), max_size=4) | JSON,
        "status": JSON,
        "flags": JSON,
        "traceState": JSON,
    },
)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(SPAN | JSON, max_size=5), st.sampled_from(["digest", "full"]))
def test_any_spans_become_events_or_skipped(spans, content):
    data = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()
    for item in read(data, options=CaptureOptions(content=content)):
        assert isinstance(item, (AgentEvent, Skipped))
