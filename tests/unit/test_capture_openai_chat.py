import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.capture import FORMATS, CaptureOptions, Skipped
from tallyroll.errors import SettingsError
from tallyroll.events.context import event_context
from tallyroll.events.event import AgentEvent
from tallyroll.events.names import payload_findings

SAMPLE = (files("tallyroll.capture") / "sample" / "support_runs.json").read_bytes()
RUNS = json.loads(SAMPLE)
read = FORMATS["openai-chat"].read


def runs(*items, **options):
    return list(read(json.dumps(list(items)).encode(), options=CaptureOptions(**options)))


def sample(**options):
    return list(read(SAMPLE, options=CaptureOptions(**options)))


def types(events):
    return [str(event.event_type) for event in events]


def messages_of(run):
    return run.get("messages") or run["traj"]


def called(call_id, name="look", arguments="{}"):
    return {"role": "assistant", "content": None, "tool_calls": [{"id": call_id, "function": {"name": name, "arguments": arguments}}]}


HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def test_every_message_of_the_sample_is_one_event():
    seen = defaultdict(Counter)
    for event in sample():
        if "message_index" in event.payload and event.event_type != "tool.invoked":
            seen[event.metadata.correlation_id][event.payload["message_index"]] += 1
    assert [dict(counts) for counts in seen.values()] == [dict.fromkeys(range(len(messages_of(run))), 1) for run in RUNS]


def test_every_call_of_the_sample_is_invoked_and_closed_once():
    opened, closed = Counter(), Counter()
    for event in sample():
        if event.event_type == "tool.invoked":
            opened[event.payload["invocation_id"]] += 1
        elif str(event.event_type).startswith("tool.") and event.payload.get("matched", True):
            closed[event.payload["invocation_id"]] += 1
    calls = sum(len(m.get("tool_calls", [])) + ("function_call" in m) for run in RUNS for m in messages_of(run))
    assert opened == closed
    assert opened.total() == calls == 9


def test_the_sample_ends_as_its_runs_did():
    ends = [event for event in sample() if event.event_type in ("task.completed", "task.failed")]
    assert [end.payload.get("error_type", "ok") for end in ends] == ["ok", "not_solved", "ok", "refusal", "unanswered_call", "ok"]


def test_a_run_is_told_in_the_order_of_a_life():
    told = types(runs([*HELLO, called("c"), {"role": "tool", "tool_call_id": "c", "content": "1"}]))
    assert told == [
        "agent.started", "task.created", "task.started", "message.received", "message.sent", "message.sent",
        "tool.invoked", "tool.completed", "task.completed", "agent.stopped",
    ]  # fmt: skip


def test_times_never_run_backwards_inside_a_run():
    by_run = defaultdict(list)
    for event in sample():
        by_run[event.metadata.correlation_id].append(event.timestamp)
    assert all(times == sorted(times) for times in by_run.values())


def test_every_cause_comes_before_its_effect():
    known = set()
    for event in sample():
        assert event.metadata.causation_id is None or event.metadata.causation_id in known
        known.add(event.event_id)


def test_an_answer_is_caused_by_its_call_also_out_of_order():
    events = sample()
    invoked = {event.payload["invocation_id"]: event.event_id for event in events if event.event_type == "tool.invoked"}
    answers = [event for event in events if event.payload.get("matched")]
    assert answers
    assert all(event.metadata.causation_id == invoked[event.payload["invocation_id"]] for event in answers)


def test_reading_twice_gives_equal_events():
    assert sample() == sample()


def test_ids_do_not_depend_on_place_or_file():
    backwards = list(read(json.dumps(RUNS[::-1]).encode()))
    lines = list(read("\n".join(json.dumps(run) for run in RUNS).encode()))
    expected = {event.event_id for event in sample()}
    assert {event.event_id for event in backwards} == {event.event_id for event in lines} == expected


def test_the_clock_options_change_no_id():
    moved = sample(start=datetime(2030, 1, 1, tzinfo=UTC), step_ms=5, gap_ms=0)
    assert [event.event_id for event in moved] == [event.event_id for event in sample()]
    assert [event.timestamp for event in moved] != [event.timestamp for event in sample()]


def test_runs_that_differ_only_at_the_end_share_no_id():
    events = runs(HELLO, [*HELLO, {"role": "user", "content": "bye"}])
    assert len({event.event_id for event in events}) == len(events)


def test_twice_the_same_run_in_one_file_is_two_runs():
    events = runs(HELLO, HELLO)
    assert len({event.event_id for event in events}) == len(events)
    assert len({event.metadata.session_id for event in events}) == 2


def test_a_namespace_separates_imports():
    ids = {event.event_id for event in sample()}
    assert ids.isdisjoint(event.event_id for event in sample(namespace="other"))


def test_one_run_has_one_correlation_one_session_and_one_task():
    for run in RUNS:
        events = runs(run)
        assert len({(event.metadata.correlation_id, event.metadata.session_id) for event in events}) == 1
        assert len({event.key for event in events if event.aggregate_type == "task"}) == 1


def test_a_digest_holds_no_text_no_argument_and_no_result():
    canary = "Zq7canary"
    kept = runs(
        [
            {"role": "system", "content": canary},
            {"role": "user", "content": [{"type": "text", "text": canary}]},
            called("c", arguments=json.dumps({"name": canary})),
            {"role": "tool", "tool_call_id": "c", "content": canary},
            {"role": "assistant", "content": None, "refusal": canary},
        ]
    )
    assert canary not in json.dumps([event.to_kafka_message() for event in kept])


def test_full_keeps_texts_arguments_and_results():
    kept = runs([HELLO[0], called("c", arguments='{"a":1}'), {"role": "tool", "tool_call_id": "c", "content": "one"}], content="full")
    payloads = {str(event.event_type): event.payload for event in kept}
    assert payloads["message.received"]["text"] == "hello"
    assert payloads["tool.invoked"]["arguments"] == {"a": 1}
    assert payloads["tool.completed"]["result"] == "one"


def test_arguments_that_are_no_json_are_marked_and_kept_as_text():
    invoked = runs([called("c", arguments='{"a": ')], content="full")[4]
    assert invoked.payload["arguments_valid"] is False
    assert invoked.payload["arguments_text"] == '{"a": '


def test_an_answer_without_a_call_is_kept_and_marked():
    events = runs([HELLO[0], {"role": "tool", "tool_call_id": "nobody", "name": "look", "content": "1"}])
    answer = next(event for event in events if event.event_type == "tool.completed")
    assert (answer.payload["matched"], answer.payload["tool_name"]) == (False, "look")


def test_a_call_without_an_answer_is_closed_at_the_end():
    events = runs([HELLO[0], called("c")])
    failed = next(event for event in events if event.event_type == "tool.failed")
    assert failed.payload["error_type"] == "unanswered"
    assert types(events)[-2:] == ["task.failed", "agent.stopped"]


def test_the_same_call_id_twice_pairs_first_with_first():
    answer = {"role": "tool", "tool_call_id": "c", "content": "1"}
    events = runs([called("c", "one"), called("c", "two"), answer, answer])
    assert [event.payload["tool_name"] for event in events if event.event_type == "tool.completed"] == ["one", "two"]


@pytest.mark.parametrize("mark", [{"content": "Error: no seat"}, {"content": "no", "is_error": True}, {"content": "no", "status": "error"}])
def test_a_failed_answer_is_a_failure(mark):
    assert "tool.failed" in types(runs([called("c"), {"role": "tool", "tool_call_id": "c", **mark}]))


@pytest.mark.parametrize(("reward", "end"), [(1.0, "task.completed"), (1, "task.completed"), (0.0, "task.failed"), (0.99, "task.failed")])
def test_a_reward_decides_how_a_run_ended(reward, end):
    assert end in types(runs({"messages": HELLO, "reward": reward}))


def test_recorded_times_are_used():
    start = datetime(2026, 3, 1, tzinfo=UTC)
    events = runs([{**HELLO[0], "timestamp": start.isoformat()}, {**HELLO[1], "created_at": start.timestamp() + 2.5}])
    assert events[0].timestamp == start
    assert events[-1].timestamp == start + timedelta(seconds=2.5)
    assert events[-2].payload["clock"] == "recorded"


def test_times_without_a_zone_are_no_times():
    events = runs([{**HELLO[0], "timestamp": "2026-03-01T00:00:00"}])
    assert events[0].timestamp == CaptureOptions().start
    assert events[-2].payload["clock"] == "synthetic"


def test_runs_without_times_follow_each_other():
    events = runs(HELLO, [*HELLO, *HELLO], step_ms=10, gap_ms=1_000)
    starts = [event.timestamp for event in events if event.event_type == "agent.started"]
    assert starts[1] - starts[0] == timedelta(milliseconds=1_010)


def test_a_broken_line_costs_only_itself():
    data = b"\n".join([json.dumps(HELLO).encode(), b'[{"role": "user', json.dumps([*HELLO, *HELLO]).encode()])
    events = list(read(data))
    assert [item for item in events if isinstance(item, Skipped)] == [Skipped("line 2", "not JSON")]
    assert types(item for item in events if isinstance(item, AgentEvent)).count("agent.started") == 2


def test_a_broken_message_costs_only_itself():
    events = runs([HELLO[0], {"content": "no role"}, {"role": "narrator", "content": "x"}, 7, HELLO[1]])
    assert [item.where for item in events if isinstance(item, Skipped)] == ["run 0 message 1", "run 0 message 2", "run 0 message 3"]
    assert types(item for item in events if isinstance(item, AgentEvent))[-3:] == ["message.sent", "task.completed", "agent.stopped"]


def test_a_list_of_messages_is_one_run():
    assert types(runs(*HELLO)).count("agent.started") == 1


def test_a_run_without_messages_is_skipped():
    assert [type(item) for item in runs({"messages": []}, {"other": 1}, 5)] == [Skipped] * 3


def test_the_callers_context_does_not_leak_in():
    with event_context(user_id="importer", correlation_id="import", tenant_id="elsewhere"):
        assert sample() == sample()
        assert {event.metadata.user_id for event in sample()} == {None}
        inside = sample()
    assert inside == sample()


def test_a_payload_too_large_is_skipped_without_its_text():
    events = runs([{"role": "user", "content": "x" * 1_000_000}], content="full")
    assert [item for item in events if isinstance(item, Skipped)] == [Skipped("run 0 message 0", "not a valid event: payload")]


def test_matched_events_say_all_that_readers_need():
    lacking = [
        event.event_type
        for event in sample()
        if event.payload.get("matched", True) and payload_findings(event.event_type, event.aggregate_type, event.payload)
    ]
    assert lacking == []


@pytest.mark.parametrize("wrong", [{"content": "some"}, {"start": datetime(2026, 1, 1)}, {"step_ms": 0}])  # noqa: DTZ001  # the point
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(SettingsError):
        CaptureOptions(**wrong)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
PART = st.fixed_dictionaries({}, optional={"type": st.sampled_from(["text", "refusal", "image_url"]) | JSON, "text": JSON, "refusal": JSON})
CALL = st.fixed_dictionaries({}, optional={"id": JSON, "function": st.fixed_dictionaries({}, optional={"name": JSON, "arguments": JSON})})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "function", "system"]) | JSON},
    optional={
        "content": st.text(max_size=8) | st.lists(PART, max_size=3) | JSON,
        "tool_calls": st.lists(CALL, max_size=3) | JSON,
        "function_call": JSON,
        "tool_call_id": JSON,
        "timestamp": JSON | st.sampled_from(["2026-01-01T00:00:00Z", 1e10, "0001-01-01T00:00:00+14:00"]),
        "usage": JSON | st.fixed_dictionaries({"prompt_tokens": JSON}),
        "refusal": JSON,
    },
)
RUN = st.fixed_dictionaries({"messages": st.lists(MESSAGE | JSON, max_size=5)}, optional={"reward": JSON, "model": JSON, "agent_id": JSON})


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(RUN | JSON, max_size=3), st.sampled_from(["digest", "full"]))
def test_any_json_becomes_events_or_skipped(items, content):
    for item in read(json.dumps(items).encode(), options=CaptureOptions(content=content)):
        assert isinstance(item, (AgentEvent, Skipped))


@settings(max_examples=50)
@given(st.binary(max_size=60))
def test_any_bytes_become_events_or_skipped(data):
    assert all(isinstance(item, (AgentEvent, Skipped)) for item in read(data))
