import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tallyroll.capture import FORMATS, CaptureOptions, Skipped
from tallyroll.events.event import AgentEvent

GOLDEN = Path(__file__).parents[1] / "golden" / "capture" / "session.claude-code.jsonl"
LINES = GOLDEN.read_bytes().splitlines()
read = FORMATS["claude-code"].read


def events(source=GOLDEN, **options):
    return [item for item in read(source, options=CaptureOptions(**options)) if isinstance(item, AgentEvent)]


def skipped(source=GOLDEN):
    return [item for item in read(source) if isinstance(item, Skipped)]


def line(uuid, second, content, *, kind="user", session="s", **fields):
    message = {"role": kind, "content": content, **fields.pop("message", {})}
    return {"type": kind, "uuid": uuid, "sessionId": session, "timestamp": f"2026-03-02T10:00:{second:02d}Z", "message": message, **fields}


def transcript(*lines):
    return "\n".join(json.dumps(item) for item in lines).encode()


def is_all_results(item):
    content = item["message"]["content"]
    return isinstance(content, list) and all(part["type"] == "tool_result" for part in content)


def test_every_line_is_an_event_or_skipped():
    lines = [json.loads(item) for item in LINES if b'"message"' in item]
    assert len(lines) + len(skipped()) == len(LINES)
    messages = [event for event in events() if str(event.event_type).startswith("message.")]
    results = [event for event in events() if "matched" in event.payload]
    interrupted = [event for event in events() if event.event_type == "task.cancelled"]
    only_results = [item for item in lines if is_all_results(item)]
    assert len(messages) == len(lines) - len(only_results) - len(interrupted)
    assert len(results) == sum(len(item["message"]["content"]) for item in only_results)


def test_what_is_no_event_says_why_and_where():
    assert skipped() == [
        Skipped("line 1", "lines of type summary are no events"),
        Skipped("line 2", "lines of type queue-operation are no events"),
        Skipped("line 7", "not JSON"),
        Skipped("line 13", "system lines of subtype turn_duration are no events"),
    ]


def test_tokens_of_one_answer_on_several_lines_count_once():
    total = sum(event.payload.get("tokens", 0) for event in events())
    assert total == (4 + 41 + 1000) + (9 + 60 + 1000) + (20 + 8) + (12 + 30 + 1100) + (15 + 22 + 1200)


def test_turns_end_as_the_transcript_says():
    ends = {
        event.aggregate_id[5:13]: (str(event.event_type), event.payload["duration_ms"])
        for event in events()
        if event.event_type in ("task.completed", "task.failed", "task.cancelled")
    }
    assert ends == {
        "00000001": ("task.completed", 11_000),
        "00000006": ("task.completed", 1_500),
        "0000000c": ("task.cancelled", 3_000),
        "0000000f": ("task.failed", 1_000),
    }


def test_a_sub_agent_is_an_agent_of_its_own():
    assert Counter(event.agent_id.rpartition("-")[2] for event in events() if event.event_type == "agent.started") == {
        "00000000000a": 1,
        "a1b2c3": 1,
    }


def test_an_answer_says_how_long_its_call_took():
    took = {
        event.payload["tool_name"]: (str(event.event_type), event.payload["duration_ms"])
        for event in events()
        if "matched" in event.payload
    }
    assert took == {"Read": ("tool.completed", 250), "Bash": ("tool.failed", 3_000), "Task": ("tool.completed", 3_000)}


def test_a_file_that_has_grown_gives_the_old_ids_for_the_old_lines():
    early = {event.event_id for event in events(b"\n".join(LINES[:9]))}
    assert early <= {event.event_id for event in events()}


def test_a_line_copied_into_a_resumed_session_is_the_same_event():
    first = line("u1", 1, "hello")
    again = {**first, "sessionId": "resumed"}
    ids = [{event.event_id for event in events(transcript(item)) if event.event_type == "message.received"} for item in (first, again)]
    assert ids[0] == ids[1]


def test_the_same_line_twice_is_told_once():
    item = line("u1", 1, "hello")
    assert [found.reason for found in skipped(transcript(item, item))] == ["the same uuid again"]


def test_a_turn_cut_off_by_the_end_of_the_file_stays_open():
    call = [{"type": "tool_use", "id": "t", "name": "Read", "input": {}}]
    told = [str(event.event_type) for event in events(transcript(line("u1", 1, "go"), line("u2", 2, call, kind="assistant")))]
    assert told == ["agent.started", "task.started", "message.received", "message.sent", "tool.invoked"]


def test_an_unfinished_turn_is_cancelled_by_the_next_prompt():
    told = [event for event in events(transcript(line("u1", 1, "go"), line("u2", 5, "no, this"))) if event.event_type == "task.cancelled"]
    assert [event.payload["reason"] for event in told] == ["superseded"]


def test_a_late_answer_belongs_to_the_task_that_asked():
    call = [{"type": "tool_use", "id": "t", "name": "Read", "input": {}}]
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]
    told = events(transcript(line("u1", 1, "go"), line("u2", 2, call, kind="assistant"), line("u3", 3, "wait"), line("u4", 4, result)))
    assert {event.aggregate_id for event in told if str(event.event_type).startswith("tool.")} == {"turn-u1"}


def test_a_digest_holds_no_text_and_no_path():
    told = json.dumps([event.to_kafka_message() for event in events()])
    assert not [word for word in ("kettle", "someone", "Fahrenheit", "pytest", "sensor") if word in told]


def test_full_keeps_texts_and_paths():
    told = json.dumps([event.to_kafka_message() for event in events(content="full")])
    assert all(word in told for word in ("kettle", "someone", "Fahrenheit", "pytest", "sensor"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking"]) | JSON},
    optional=dict.fromkeys(("id", "tool_use_id", "name", "input", "content", "text", "is_error"), JSON),
)
WHOLE = {"uuid": "0", "sessionId": "s", "timestamp": "2026-01-01T00:00:00Z"}
LINE = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["user", "assistant", "system"]),
        "uuid": st.text(max_size=4) | JSON,
        "sessionId": st.just("s") | JSON,
        "timestamp": st.just("2026-01-01T00:00:00Z") | JSON,
    },
    optional={
        "message": st.fixed_dictionaries({"content": st.lists(PART | JSON, max_size=3) | JSON}, optional={"id": JSON, "usage": JSON}),
        "isSidechain": JSON,
        "agentId": JSON,
        "subtype": st.just("api_error") | JSON,
    },
)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(LINE | JSON, max_size=6), st.sampled_from(["digest", "full"]))
@example(
    [{**WHOLE, "type": "user", "uuid": ""}, {**WHOLE, "type": "assistant", "message": {"content": [{"type": []}, {"type": {}}]}}], "digest"
)
def test_any_json_becomes_events_or_skipped(items, content):
    for item in read(transcript(*items), options=CaptureOptions(content=content)):
        assert isinstance(item, (AgentEvent, Skipped))
