"""What the system, audit and performance views make of their events, and how it is shown."""

from __future__ import annotations

from typing import get_type_hints

from tests.unit.replay_histories import CATALOGUE, ReadOnlyLog, batch_of, event, log_of, replay

from tallyroll.adapters.sqlite.state_store import SqliteStateStore
from tallyroll.events.types import EventType, type_info
from tallyroll.replay.fields import Place
from tallyroll.replay.fold import join
from tallyroll.replay.kinds import StateType, view_of
from tallyroll.replay.shown import AgentState, AuditState, PerformanceState, SystemState, TaskState, WorkflowState, show
from tallyroll.replay.state import StateFollower, stored_state
from tallyroll.replay.values import MAX_SETTING_CHARS
from tallyroll.replay.views import AUDIT, FOLD, PERFORMANCE, SYSTEM, VIEWS


async def shown(events: list, view: object, owner: str) -> dict:
    return (await replay(ReadOnlyLog(log_of(events)), CATALOGUE, view, owner)).shown(owner)


async def test_the_system_state_has_the_last_configuration_and_counts_by_type() -> None:
    events = [
        event("configuration.changed", "service:s", {"setting": "limit", "new_value": 3}, at_s=1),
        event("configuration.changed", "service:s", {"setting": "limit", "new_value": {"b": 1, "a": 2}}, at_s=2),
        event("configuration.changed", "service:s", {"setting": "mode", "new_value": "fast", "configuration": {"mode": "fast"}}, at_s=3),
        event("state.changed", "service:s", {"new_state": ["up"]}, at_s=4),
        event("anomaly.detected", "service:s", {"severity": "high", "metric_name": "latency"}, at_s=5),
        event("auth.success", "service:other", at_s=6),
    ]
    state = await shown(events, SYSTEM, "service:s")
    expected = {
        "aggregate": "service:s",
        "events": {"configuration.changed": 3, "state.changed": 1, "anomaly.detected": 1},
        "configuration": {"mode": "fast"},
        "settings": {"limit": {"a": 2, "b": 1}, "mode": "fast"},
        "last_state": ["up"],
        "anomalies": {"high": 1},
        "last_anomaly": "latency",
        "configured_at": "2026-01-01T00:00:03.000000Z",
        "version": 5,
    }
    assert {name: state[name] for name in expected} == expected


async def test_the_audit_state_counts_by_category_and_says_where_the_last_ones_lie() -> None:
    events = [
        event("auth.success", "user:u", at_s=1),
        event("auth.failure", "user:u", {"reason": "password"}, at_s=2),
        event("authz.denied", "user:u", {"resource": "ledger"}, at_s=3),
        event("data.accessed", "user:u", {"resource": "ledger"}, at_s=4),
        event("state.changed", "user:u", at_s=5),
    ]
    state = await shown(events, AUDIT, "user:u")
    assert state["categories"] == {"AUTHENTICATION": 2, "AUTHORIZATION": 1, "DATA_ACCESS": 1, "CONFIGURATION_CHANGE": 0}
    assert (state["authentication_failures"], state["authorization_denials"], state["resources"]) == (1, 1, {"ledger": 2})
    place = CATALOGUE.place("auth.success", b"user:u")
    assert state["last_seen"] == {
        "AUTHENTICATION": {"position": f"{place}/1", "at": "2026-01-01T00:00:02.000000Z"},
        "AUTHORIZATION": {"position": f"{place}/2", "at": "2026-01-01T00:00:03.000000Z"},
        "DATA_ACCESS": {"position": f"{place}/3", "at": "2026-01-01T00:00:04.000000Z"},
    }
    assert state["last_refused"] == {name: state["last_seen"][name] for name in ("AUTHENTICATION", "AUTHORIZATION")}
    assert state["version"] == 4


async def test_the_last_of_a_category_is_told_with_its_own_time_also_when_its_clock_is_behind() -> None:
    state = await shown([event("auth.success", "user:u", at_s=9), event("auth.failure", "user:u", at_s=1)], AUDIT, "user:u")
    place = CATALOGUE.place("auth.success", b"user:u")
    assert state["last_seen"] == {"AUTHENTICATION": {"position": f"{place}/1", "at": "2026-01-01T00:00:01.000000Z"}}


async def test_a_long_setting_is_shown_by_the_beginning_of_its_json_text() -> None:
    long = {"rules": "ü" * 5_000}
    state = await shown([event("configuration.changed", "service:s", {"setting": "s", "new_value": long})], SYSTEM, "service:s")
    assert state["settings"]["s"].startswith('{"rules":"üü')
    assert len(state["settings"]["s"]) == MAX_SETTING_CHARS


async def test_a_setting_that_was_removed_is_there_with_nothing_as_its_value() -> None:
    events = [
        event("configuration.changed", "service:s", {"setting": "limit", "new_value": value}, at_s=at) for at, value in ((1, 3), (2, None))
    ]
    assert (await shown(events, SYSTEM, "service:s"))["settings"] == {"limit": None}


async def test_the_performance_state_sums_exactly() -> None:
    events = [event("performance.metric", "agent:a", {"metric_name": "cpu", "value": value}, at_s=value) for value in (0.1, 0.2, 0.3)]
    events += [event("resource.allocated", "agent:a", {"resource_type": "gpu"}), event("performance.metric", "agent:a", {"value": 1})]
    state = await shown(events, PERFORMANCE, "agent:a")
    assert state["metrics"] == {"cpu": {"count": 3, "sum_micro": 600_000, "min_micro": 100_000, "max_micro": 300_000, "mean": 0.2}}
    assert (state["samples"], state["allocated"], state["version"]) == (4, {"gpu": 1}, 5)


async def test_measurements_in_bytes_are_no_mistake_and_their_sum_costs_nobody_the_state() -> None:
    many = [event("performance.metric", "host:h", {"metric_name": "memory", "value": 16e9}, event_id=str(n)) for n in range(600)]
    log = log_of([*many, event("performance.metric", "host:h", {"metric_name": "cpu", "value": 0.5})])
    result = await replay(ReadOnlyLog(log), CATALOGUE, PERFORMANCE, "host:h")
    metrics = result.shown("host:h")["metrics"]
    assert result.findings == ()
    assert metrics["memory"] == {"count": 600, "sum_micro": None, "min_micro": 16 * 10**15, "max_micro": 16 * 10**15, "mean": None}
    assert metrics["cpu"]["sum_micro"] == 500_000


async def test_a_sum_beyond_64_bits_is_the_same_after_restarts_as_in_a_replay() -> None:
    events = [event("performance.metric", "host:h", {"metric_name": "m", "value": value}, event_id=f"{value}") for value in range(-9, 10)]
    events = [event("performance.metric", "host:h", {"metric_name": "m", "value": 9e12}, event_id=f"up{n}") for n in range(4)] + events
    events += [event("performance.metric", "host:h", {"metric_name": "m", "value": -9e12}, event_id=f"down{n}") for n in range(4)]
    log = log_of(events)
    partition = next(one for one, values in log.items() if values)
    store = await SqliteStateStore.open(None)
    for offset, value in enumerate(log[partition]):
        follower = StateFollower(store, CATALOGUE)
        await follower.positions([partition])
        follower.apply(batch_of(partition, [value], offset))
        await follower.flush()
    found = await stored_state(store, PERFORMANCE, "host:h")
    await store.close()
    assert found.state["metrics"] == {"m": [27, 0, -9 * 10**18, 9 * 10**18]}
    assert found.state_hash == (await replay(ReadOnlyLog(log), CATALOGUE, PERFORMANCE, "host:h")).state_hash


async def test_the_owner_is_the_aggregate_of_any_type_and_two_types_with_one_id_are_two_owners() -> None:
    log = log_of([event("auth.success", f"{kind}:x", {"agent_id": "a"}) for kind in ("agent", "user")])
    assert set((await replay(ReadOnlyLog(log), CATALOGUE, AUDIT)).states) == {"agent:x", "user:x"}
    assert set((await replay(ReadOnlyLog(log), CATALOGUE, AUDIT, "user:x")).states) == {"user:x"}
    assert not (await replay(ReadOnlyLog(log), CATALOGUE, AUDIT, "x")).states


async def test_a_measurement_that_is_no_number_is_a_finding() -> None:
    log = log_of([event("performance.metric", "agent:a", {"metric_name": "cpu", "value": "much"})])
    result = await replay(ReadOnlyLog(log), CATALOGUE, PERFORMANCE)
    assert (dict(result.states), [one.reason for one in result.findings]) == ({}, ["bad_payload"])


SHOWN = {
    "agent": AgentState, "task": TaskState, "workflow": WorkflowState, "system": SystemState, "audit": AuditState,
    "performance": PerformanceState,
}  # fmt: skip


def test_a_shown_state_has_the_members_that_its_type_declares() -> None:
    for number, view in enumerate(VIEWS):
        part = FOLD.blank(number, "x")
        part.version = 1
        state = show(view, "x", join(view, [(Place("t", 0), part)]), coverage="complete", as_of={})
        assert set(state) == set(get_type_hints(SHOWN[view.name])), view.name


def test_every_kind_of_state_has_a_view_and_every_built_in_type_counts_somewhere() -> None:
    assert [view_of(kind) for kind in StateType] == list(VIEWS)
    assert {name for view in VIEWS for name in view.types} == {str(member) for member in EventType}
    assert set(FOLD.topics) == {type_info(str(member)).topic for member in EventType}
