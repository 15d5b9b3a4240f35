"""A replay answers from the log alone, says what it read, and what it found wrong."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.replay_histories import CATALOGUE, T0, Log, Publisher, ReadOnlyLog, empty_log, event, log_of, replay

from tallyroll.errors import SpanGone
from tallyroll.events.position import TopicPartition
from tallyroll.replay.fold import Fold
from tallyroll.replay.views import AGENT, FOLD, TASK, VIEWS, WORKFLOW


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


async def shown(log: Log, owner: str, until: datetime | None = None, view: object = AGENT) -> dict | None:
    return (await replay(ReadOnlyLog(log), CATALOGUE, view, owner, until)).shown(owner)


@pytest.mark.parametrize("aggregate", ["agent:a", "task:t"])
async def test_an_agent_runs_whether_its_task_started_under_its_own_key_or_the_tasks(aggregate: str) -> None:
    log = log_of(
        [
            event("task.started", aggregate, {"agent_id": "a", "task_id": "t"}),
            event("task.completed", "task:t", {"agent_id": "a", "duration_ms": 1_500}, at_s=2),
        ]
    )
    state = await shown(log, "a")
    assert (state["status"], state["tasks_started"], state["tasks_completed"], state["active_tasks"]) == ("running", 1, 1, [])
    assert state["execution_time_us"] == 1_500_000


async def test_the_agent_state_has_the_promised_keys() -> None:
    log = log_of(
        [event("agent.created", "agent:a", {"agent_type": "coder", "capabilities": ["x"], "configuration": {"b": 1.5, "a": None}})]
    )
    state = await shown(log, "a")
    assert {
        "agent_id", "status", "agent_type", "capabilities", "configuration", "active_tasks", "tasks_started", "tasks_completed",
        "tasks_failed", "started_at", "stopped_at", "last_updated", "version", "events_applied", "coverage", "as_of",
    } <= set(state)  # fmt: skip
    assert (state["agent_type"], state["capabilities"], state["configuration"]) == ("coder", ["x"], {"a": None, "b": 1.5})
    assert state["last_updated"] == "2026-01-01T00:00:00.000000Z"
    assert not any(name.endswith(("_at_us", "last_updated_us")) for name in state)


async def test_nobody_knows_an_agent_whose_name_only_starts_alike() -> None:
    assert await shown(log_of([event("agent.created", "agent:agent-12")]), "agent-1") is None


async def test_a_task_shows_its_life() -> None:
    log = log_of(
        [
            event("task.created", "task:t", {"task_type": "review"}, at_s=0),
            event("task.started", "task:t", {"agent_id": "a"}, at_s=1),
            event("task.progressed", "task:t", {"agent_id": "a", "progress_percent": 37.5}, at_s=2),
            event("tool.invoked", "task:t", {"agent_id": "a", "tool_name": "grep"}, at_s=3),
            event("tool.completed", "task:t", {"agent_id": "a", "tool_name": "grep", "tokens": 5, "cost": "0.25"}, at_s=3.5),
            event("task.completed", "task:t", {"agent_id": "a", "tokens": 7, "cost": 0.5}, at_s=4),
        ]
    )
    state = await shown(log, "t", view=TASK)
    expected = {
        "task_id": "t", "status": "completed", "agent_id": "a", "task_type": "review", "attempts": 1, "progress_percent": 37.5,
        "tools": {"grep": 1}, "tokens": 12, "cost_micro": 750_000, "duration_ms": 3_000.0, "version": 6,
        "ended_at": "2026-01-01T00:00:04.000000Z",
    }  # fmt: skip
    assert {name: state[name] for name in expected} == expected


async def test_a_workflow_shows_its_steps() -> None:
    log = log_of(
        [
            event("workflow.started", "workflow:w", {"workflow_type": "deploy", "steps": 2}),
            event("workflow.step.completed", "workflow:w", {"step": "build", "duration_ms": 5}, at_s=1),
            event("workflow.failed", "workflow:w", {"error": "no", "duration_ms": 9_000}, at_s=2),
        ]
    )
    state = await shown(log, "w", view=WORKFLOW)
    expected = {"status": "failed", "steps": 2, "steps_completed": 1, "last_step": "build", "last_error": "no", "duration_ms": 9_000.0}
    assert {name: state[name] for name in expected} == expected


async def test_event_time_is_inclusive_and_reading_goes_on_behind_it() -> None:
    log = log_of(
        [event("task.created", "task:t", at_s=5), event("task.started", "task:t", at_s=60), event("task.assigned", "task:t", at_s=6)]
    )
    assert (await shown(log, "t", at(6), TASK))["version"] == 2
    assert (await shown(log, "t", at(5.999999), TASK))["version"] == 1
    assert await shown(log, "t", at(4), TASK) is None


async def test_an_answer_is_final_once_the_log_has_passed_the_expected_disorder() -> None:
    log = log_of([event("task.created", "task:t"), event("task.created", "task:later", at_s=400)])
    skew = timedelta(seconds=300)
    assert (await replay(ReadOnlyLog(log), CATALOGUE, TASK, "t", at(99), skew=skew)).final
    assert not (await replay(ReadOnlyLog(log), CATALOGUE, TASK, "t", at(101), skew=skew)).final
    assert not (await replay(ReadOnlyLog(log), CATALOGUE, TASK, "t")).final


async def test_an_event_later_than_the_expected_disorder_is_found_and_counted() -> None:
    log = log_of([event("task.created", "task:t", at_s=900), event("task.started", "task:t", at_s=1)])
    result = await replay(ReadOnlyLog(log), CATALOGUE, TASK, until=at(2))
    assert result.states["t"]["status"] == "running"
    assert result.finding_counts == {"skew_exceeded": 1}
    assert not result.final


async def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        await replay(ReadOnlyLog(empty_log()), CATALOGUE, TASK, until=datetime(2026, 1, 1))  # noqa: DTZ001


async def test_offsets_that_do_not_exist_and_two_targets_are_refused() -> None:
    log = ReadOnlyLog(empty_log())
    with pytest.raises(ValueError, match="has no offset 1"):
        await replay(log, CATALOGUE, TASK, as_of_offsets={TopicPartition("task-events", 0): 1})
    with pytest.raises(ValueError, match="either"):
        await replay(log, CATALOGUE, TASK, until=at(0), as_of_offsets={})


async def test_the_ends_are_taken_before_reading() -> None:
    log = ReadOnlyLog(log_of([event("task.created", "task:t")]))

    class Growing(ReadOnlyLog):
        async def read(self, spans: object, **options: int) -> object:
            for values in self.log.values():
                values.extend(values[:1])
            async for batch in super().read(spans, **options):
                yield batch

    assert (await replay(Growing(log.log), CATALOGUE, TASK)).records == 1


async def test_a_history_whose_start_is_gone_is_refused_or_marked() -> None:
    log = log_of([event("task.created", "task:t", event_id=str(number)) for number in range(3)])
    partition = next(one for one, values in log.items() if values)
    cut = ReadOnlyLog(log, removed={partition: 1})
    with pytest.raises(SpanGone) as caught:
        await replay(cut, CATALOGUE, TASK, "t")
    assert caught.value.missing == {str(partition): 1}
    result = await replay(cut, CATALOGUE, TASK, "t", allow_truncated=True)
    assert (result.coverage, result.missing, result.states["t"]["version"]) == ("truncated", {partition: [(0, 1)]}, 2)
    assert (await replay(cut, CATALOGUE, AGENT, "a", allow_truncated=True)).coverage == "truncated"


async def test_a_history_that_is_gone_as_a_whole_is_refused_too() -> None:
    log = log_of([event("task.created", "task:t")])
    partition = next(one for one, values in log.items() if values)
    with pytest.raises(SpanGone):
        await replay(ReadOnlyLog(log, removed={partition: 1}), CATALOGUE, TASK, "t")


async def test_an_empty_log_has_no_states_and_is_complete() -> None:
    log = ReadOnlyLog(empty_log())
    result = await replay(log, CATALOGUE, AGENT)
    assert (result.states, result.coverage, result.records, log.reads) == ({}, "complete", 0, [])


def found(result: object) -> list[tuple]:
    return sorted((one.kind, one.position.offset, one.reason, one.aggregate, one.missing) for one in result.findings)


async def test_each_finding_is_reported_with_its_position() -> None:
    publisher, log = Publisher("p"), empty_log()
    events = [event("task.progressed", "task:t", {"progress_percent": number}, event_id=str(number)) for number in range(5)]
    (place, first), (_, second) = publisher.record(events[0]), publisher.record(events[1])
    _, copy = publisher.record(events[1])
    _, jumped = publisher.record(events[2], skip=2)
    _, forked = publisher.record(events[3], again=True)
    bad = publisher.record(event("task.completed", "task:t", {"cost": []}))[1]
    newer = publisher.record(event("task.created", "task:t", version="99.0.0"))[1]
    log[place] = [first, second, second, copy, jumped, forked, b"{", bad, newer]
    result = await replay(ReadOnlyLog(log), CATALOGUE, TASK)
    assert found(result) == [
        ("duplicate", 3, "", "task:t", 0),
        ("fork", 5, "", "task:t", 0),
        ("gap", 4, "", "task:t", 3),
        ("poison", 6, "not_json", "", 0),
        ("poison", 7, "bad_payload", "task:t", 0),
        ("unknown_schema", 8, "unknown_schema", "task:t", 0),
    ]
    assert result.finding_counts["repeat"] == 1
    assert result.states["t"]["version"] == 4
    assert result.events_applied == 4


async def test_a_number_that_comes_late_closes_its_gap() -> None:
    publisher, log = Publisher("p"), empty_log()
    records = [publisher.record(event("task.created", "task:t", event_id=str(number))) for number in range(4)]
    log[records[0][0]] = [records[number][1] for number in (0, 2, 1, 3)]
    assert found(await replay(ReadOnlyLog(log), CATALOGUE, TASK)) == []


async def test_numbers_of_two_sessions_and_of_two_aggregates_are_independent() -> None:
    log = empty_log()
    for name in ("p", "q"):
        publisher = Publisher(name)
        for number in range(3):
            for aggregate in ("task:t", "task:u"):
                place, value = publisher.record(event("task.created", aggregate, event_id=f"{name}{number}{aggregate}"))
                log[place].append(value)
    assert found(await replay(ReadOnlyLog(log), CATALOGUE, TASK)) == []


async def test_findings_about_others_are_left_out_of_one_owners_replay() -> None:
    publisher, log = Publisher("p"), empty_log()
    for number in range(3):
        for aggregate in ("task:t", "task:u"):
            place, value = publisher.record(
                event("task.created", aggregate, event_id=f"{number}{aggregate}"), skip=2 if aggregate == "task:u" else 0
            )
            log[place].append(value)
    assert (await replay(ReadOnlyLog(log), CATALOGUE, TASK, "t")).findings == ()
    assert {one.aggregate for one in (await replay(ReadOnlyLog(log), CATALOGUE, TASK, "u")).findings} == {"task:u"}


async def test_others_are_served_while_a_replay_runs() -> None:
    log = log_of([event("task.created", "task:t", event_id=str(number)) for number in range(2_000)])
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    loop.call_soon(turn)
    before = turns
    await replay(ReadOnlyLog(log), CATALOGUE, TASK)
    assert turns - before >= 4


class Doubling:
    """Version 0.9.0 of a payload amounts to two events, version 0.8.0 to none, and 0.7.0 cannot be read."""

    def current(self, event_type: str) -> str:  # noqa: ARG002
        return "1.0.0"

    def fingerprint(self, event_types: object = None) -> str:  # noqa: ARG002
        return "doubling"

    def upcast(self, event_type: str, version: str, payload: dict) -> list[dict]:  # noqa: ARG002
        if version == "0.7.0":
            raise KeyError("cost")
        return [{**payload, "cost": payload["cents"] / 200}] * 2 if version == "0.9.0" else []


async def test_old_payloads_are_lifted_first() -> None:
    fold = Fold(VIEWS, Doubling())
    events = [
        event("task.completed", "task:t", {"cents": 50}, event_id=version, version=version) for version in ("0.9.0", "0.8.0", "0.7.0")
    ]
    result = await replay(ReadOnlyLog(log_of(events)), CATALOGUE, TASK, fold=fold)
    assert (result.states["t"]["cost_micro"], result.states["t"]["version"]) == (500_000, 2)
    assert [one.reason for one in result.findings] == ["upcast_failed"]
    assert result.reducer_id != FOLD.reducer_ids["task"]


async def test_a_foreign_cloudevent_counts_by_its_subject() -> None:
    value = (
        b'{"specversion":"1.0","id":"1","source":"x","type":"agent.started","subject":"agent:a","time":"2026-01-01T00:00:00Z","data":{}}'
    )
    log = {**empty_log(), TopicPartition("agent-events", 0): [value]}
    assert (await shown(log, "a"))["status"] == "running"


async def test_a_name_written_with_escapes_is_still_found() -> None:
    head = b'{"specversion":"1.0","id":"1","source":"x","type":"task.started","subject":"task:t","time":"2026-01-01T00:00:00Z",'
    value = head + b'"data":{"agent_id":"\\u0061"}}'
    log = {**empty_log(), TopicPartition("task-events", 0): [value]}
    assert (await shown(log, "a"))["status"] == "running"


async def test_a_broken_time_is_a_finding() -> None:
    value = b'{"specversion":"1.0","id":"1","source":"x","type":"task.started","subject":"task:t","time":"soon","data":{}}'
    log = {**empty_log(), TopicPartition("task-events", 0): [value]}
    assert [one.reason for one in (await replay(ReadOnlyLog(log), CATALOGUE, TASK)).findings] == ["bad_time"]


async def test_a_number_that_must_be_a_mistake_voids_its_record() -> None:
    log = log_of(
        [event("task.completed", "task:t", {"tokens": 2**53, "agent_id": "a"}), event("task.failed", "task:t", {"tokens": 2**53 - 1})]
    )
    result = await replay(ReadOnlyLog(log), CATALOGUE, TASK)
    assert (result.states["t"]["tokens"], result.states["t"]["version"]) == (2**53 - 1, 1)
    assert await shown(log, "a") is None


async def test_clock_skew_of_one_publisher_does_not_reorder_a_partition() -> None:
    log = log_of([event("task.started", "task:t", at_s=1_000), event("task.completed", "task:t", at_s=1)])
    assert (await shown(log, "t", view=TASK))["status"] == "completed"


@settings(max_examples=150)
@given(data=st.data())
def test_no_bytes_can_stop_a_replay(data: st.DataObject) -> None:
    kind, aggregate = data.draw(st.sampled_from(
        [("agent.created", "agent:a"), ("task.failed", "task:t"), ("tool.invoked", "task:t"), ("performance.metric", "task:t"),
         ("configuration.changed", "agent:a"), ("authz.denied", "user:u")]
    ))  # fmt: skip
    payload = {
        "agent_id": "a", "cost": 1, "error": {"a": ["b"]}, "configuration": {"x": "é"}, "tool_name": "g", "metric_name": "m",
        "value": 1.5, "setting": "s", "new_value": ["é"], "resource": "r",
    }  # fmt: skip
    place, value = next((one, values[0]) for one, values in log_of([event(kind, aggregate, payload)]).items() if values)
    edited = bytearray(value)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(edited)))
        edited[start : start + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"\\", b"\\ud800", b"\xff", b"[" * 2_000, b"9" * 400, b'"', b"null", b"-", b"1e999", b"\x00", b"{"])
        )
    log = {**empty_log(), place: [bytes(edited), value]}
    for view in VIEWS:
        assert asyncio.run(replay(ReadOnlyLog(log), CATALOGUE, view)).records <= 2
