import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.events.codec import encode
from tallyroll.events.context import event_context
from tallyroll.events.names import payload_findings
from tallyroll.simulate import Fleet

ENDS = ("task.completed", "task.failed", "task.cancelled")


@cache
def told(seed=1, agents=8, count=5_000):
    return tuple(Fleet(seed=seed, agents=agents).run(events=count))


def open_at_the_end(events):
    """Tasks and calls that are open when the events end; raises AssertionError at the first step that cannot be."""
    tasks, calls, agents = set(), set(), {}
    for event in events:
        kind, key = str(event.event_type), event.payload.get("invocation_id")
        if kind == "task.started":
            assert event.aggregate_id not in tasks
            assert agents[event.agent_id] == "running"
            tasks.add(event.aggregate_id)
        elif kind in ENDS and event.payload.get("reason") not in ("withdrawn", "queue_full"):
            tasks.remove(event.aggregate_id)
        elif kind == "tool.invoked":
            assert event.aggregate_id in tasks
            assert key not in calls
            calls.add(key)
        elif kind in ("tool.completed", "tool.failed"):
            calls.remove(key)
        elif kind == "agent.created":
            assert event.aggregate_id not in agents
            agents[event.aggregate_id] = "created"
        elif kind == "agent.started":
            assert agents[event.aggregate_id] != "running"
            agents[event.aggregate_id] = "running"
        elif kind in ("agent.stopped", "agent.failed"):
            assert agents[event.aggregate_id] == "running"
            agents[event.aggregate_id] = kind
    return tasks, calls


@settings(max_examples=8)
@given(st.integers(), st.integers(min_value=1, max_value=12))
def test_the_same_seed_gives_the_same_bytes(seed, agents):
    first, second = ([encode(event) for event in Fleet(seed=seed, agents=agents).run(events=300)] for _ in range(2))
    assert first == second


def test_one_fleet_can_be_run_again():
    fleet = Fleet(seed=3, agents=4)
    assert list(fleet.run(events=100)) == list(fleet.run(events=100))


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    assert list(Fleet(seed=1, agents=8).run(events=777)) == list(told()[:777])


@pytest.mark.parametrize("other", [{"seed": 2}, {"agents": 9}, {"start": datetime(2026, 1, 6, tzinfo=UTC)}, {"tasks_per_agent_hour": 61.0}])
def test_another_fleet_shares_no_event_id(other):
    ids = {event.event_id for event in told()}
    assert ids.isdisjoint(event.event_id for event in Fleet(**({"seed": 1, "agents": 8} | other)).run(events=500))


def test_event_ids_are_unique():
    assert len({event.event_id for event in told()}) == len(told())


def test_events_come_in_the_order_of_time_and_cause():
    assert all(earlier.timestamp <= later.timestamp for earlier, later in pairwise(told()))
    known = set()
    for event in told():
        assert event.metadata.causation_id is None or event.metadata.causation_id in known
        known.add(event.event_id)


@settings(max_examples=6)
@given(st.integers(min_value=0, max_value=10**6), st.integers(min_value=1, max_value=10))
def test_every_task_and_call_closes_unless_the_end_comes_first(seed, agents):
    tasks, calls = open_at_the_end(Fleet(seed=seed, agents=agents).run(events=1_500))
    assert len(tasks) <= agents
    assert len(calls) <= agents


def test_the_check_of_states_sees_a_missing_start():
    events = [event for event in told() if event.event_type != "task.started"]
    with pytest.raises((AssertionError, KeyError)):
        open_at_the_end(events)


def test_payloads_say_all_that_readers_need():
    findings = Counter(
        (str(event.event_type), finding.rule)
        for event in told()
        for finding in payload_findings(event.event_type, event.aggregate_type, event.payload)
    )
    assert findings == {}


def test_payloads_are_of_the_size_of_real_ones():
    sizes = sorted(len(json.dumps(event.payload, separators=(",", ":"))) for event in told())
    assert sizes[len(sizes) // 20] >= 150
    assert sizes[-1] <= 400


def test_tokens_and_costs_are_given_once_per_model_call():
    costly = [event for event in told() if "tokens" in event.payload or "cost" in event.payload]
    assert {str(event.event_type) for event in costly} == {"task.progressed"}
    assert all(isinstance(event.payload["tokens"], int) and event.payload["cost"] >= 0 for event in costly)


@pytest.mark.slow
def test_a_long_run_shows_every_kind_of_trouble():
    events = told(seed=4, agents=10, count=40_000)
    kinds = Counter(str(event.event_type) for event in events)
    for kind in (
        "agent.failed",
        "agent.stopped",
        "task.cancelled",
        "task.retry",
        "tool.failed",
        "workflow.failed",
        "message.received",
        "performance.metric",
    ):
        assert kinds[kind] > 0, kind
    errors = {event.payload.get("error_type") for event in events}
    assert {"agent_crashed", "timeout", "rate_limited"} <= errors
    assert open_at_the_end(events)


def test_nights_are_quieter_than_mornings():
    def created(hour):
        fleet = Fleet(seed=1, agents=10, start=datetime(2026, 1, 5, hour, tzinfo=UTC))
        return sum(event.event_type == "task.created" for event in fleet.run(duration=timedelta(minutes=20)))

    assert created(2) * 2 < created(10)


def test_a_duration_bounds_the_run_and_leaves_its_end_out():
    fleet = Fleet(seed=1, agents=4)
    end = fleet.start + timedelta(minutes=2)
    events = list(fleet.run(duration=timedelta(minutes=2)))
    longer = list(fleet.run(events=len(events) + 1))
    assert events == longer[:-1]
    assert events[-1].timestamp < end <= longer[-1].timestamp


def test_no_events_are_asked_for_and_none_come():
    assert list(Fleet().run(events=0)) == []
    assert list(Fleet().run(duration=timedelta(0))) == []


def test_the_callers_context_does_not_leak_in():
    with event_context(user_id="me", tenant_id="t", correlation_id="c"):
        inside = list(Fleet(seed=1, agents=8).run(events=300))
    assert inside == list(told()[:300])


@pytest.mark.parametrize("wrong", [{"agents": 0}, {"start": datetime(2026, 1, 1)}, {"tasks_per_agent_hour": 0}])  # noqa: DTZ001  # the point
def test_a_fleet_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Fleet(**wrong)


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        Fleet().run(events=-1)
