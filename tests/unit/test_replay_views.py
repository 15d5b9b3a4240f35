"""What the system, audit and performance views make of their events, and how it is shown."""

from __future__ import annotations

from tests.unit.replay_histories import CATALOGUE, ReadOnlyLog, event, log_of, replay

from tallyroll.events.types import EventType, type_info
from tallyroll.replay.kinds import StateType, view_of
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
    assert (state["last_denial"], state["last_data_access"], state["last_position"]) == (f"{place}/2", f"{place}/3", f"{place}/3")
    assert state["version"] == 4


async def test_the_performance_state_sums_exactly() -> None:
    events = [event("performance.metric", "agent:a", {"metric_name": "cpu", "value": value}, at_s=value) for value in (0.1, 0.2, 0.3)]
    events += [event("resource.allocated", "agent:a", {"resource_type": "gpu"}), event("performance.metric", "agent:a", {"value": 1})]
    state = await shown(events, PERFORMANCE, "agent:a")
    assert state["metrics"] == {"cpu": {"count": 3, "sum_micro": 600_000, "min_micro": 100_000, "max_micro": 300_000, "mean": 0.2}}
    assert (state["samples"], state["allocated"], state["version"]) == (4, {"gpu": 1}, 5)


async def test_a_measurement_that_is_no_number_is_a_finding() -> None:
    log = log_of([event("performance.metric", "agent:a", {"metric_name": "cpu", "value": "much"})])
    result = await replay(ReadOnlyLog(log), CATALOGUE, PERFORMANCE)
    assert (dict(result.states), [one.reason for one in result.findings]) == ({}, ["bad_payload"])


def test_every_kind_of_state_has_a_view_and_every_built_in_type_counts_somewhere() -> None:
    assert [view_of(kind) for kind in StateType] == list(VIEWS)
    assert {name for view in VIEWS for name in view.types} == {str(member) for member in EventType}
    assert set(FOLD.topics) == {type_info(str(member)).topic for member in EventType}
