"""The names of the earlier event modules, called in the forms that users wrote, on the default roll."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from tests.flows.publishing import breathe

from tallyroll._default import close_default, configure, current_roll, reset_defaults
from tallyroll.compat.audit_trail import (
    AuditEventCategory,
    AuditSeverity,
    ComplianceFramework,
    ComplianceRule,
    ComplianceRuleEngine,
    create_audit_log,
)
from tallyroll.compat.event_bus import EventBus, HybridEventSystem, KafkaNATSBridge, get_event_bus
from tallyroll.compat.kafka_events import (
    AgentEvent,
    EventMetadata,
    EventSourcedAgentManager,
    EventType,
    get_event_publisher,
    publish_agent_event,
    publish_task_event,
)
from tallyroll.errors import InvalidEvent, SettingsError


@pytest.fixture(autouse=True)
async def default_roll() -> AsyncIterator[None]:
    reset_defaults()
    configure("sqlite://:memory:")
    yield
    await close_default()
    reset_defaults()


class Manager:
    """What a user has: it makes tasks, and knows nothing of events."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    async def create_task(self, request: Any) -> Any:
        self.tasks.append(SimpleNamespace(id=f"task-{len(self.tasks)}", created_at=datetime.now(UTC), request=request))
        return self.tasks[-1]


async def test_a_manager_over_the_default_publisher_knows_states_and_creates_tasks() -> None:
    agents = EventSourcedAgentManager(await get_event_publisher(), manager=Manager())
    event = await agents.create_agent_event(EventType.AGENT_STARTED, "a1", {"agent_type": "coder"})
    assert (await agents.get_aggregate_state("agent", "a1"))["status"] == "running"
    assert [one["event_id"] for one in await agents.get_aggregate_history("agent", "a1")] == [event.event_id]
    request = SimpleNamespace(agent_type="coder", task_description="mend it", env_vars={"USER": "bob"})
    task = await agents.create_task(request)
    assert task.request is request
    (created,) = await agents.get_aggregate_history("task", task.id)
    assert created["event_type"] == EventType.TASK_CREATED
    assert created["payload"] == {"agent_type": "coder", "task_description": "mend it", "created_by": "bob"}


async def test_a_manager_whose_publisher_is_not_the_default_one_takes_nothing_from_there() -> None:
    agents = EventSourcedAgentManager(SimpleNamespace(clock=None, publish=None))
    with pytest.raises(ValueError, match="replay engine"):
        await agents.get_aggregate_state("agent", "a1")


async def test_the_hybrid_system_of_the_process_needs_no_arguments() -> None:
    bus = get_event_bus()
    assert isinstance(bus, EventBus)
    queue, system = bus.subscribe(), HybridEventSystem()
    assert await system.publish_event({"event": "whatever", "n": 1}) is None
    assert await queue.get() == {"event": "whatever", "n": 1}
    event_id = await system.publish_event({"event": "TASK_STARTED", "agent_id": "a1", "task_id": "t1", "persist": True})
    assert (await queue.get())["task_id"] == "t1"
    (seen,) = await (await current_roll()).agent_timeline("a1")
    assert seen.event.event_id == event_id
    for bad in ({"event": "nope", "persist": True}, {"event": "task.started", "agent_id": "a1", "persist": "false"}):
        with pytest.raises(InvalidEvent):
            await system.publish_event(bad)
    assert queue.empty()
    bus.unsubscribe(queue)


async def test_the_bridge_to_nats_is_of_the_default_roll_and_says_what_is_not_set() -> None:
    with pytest.raises(SettingsError, match="NATS_SERVERS"):
        await KafkaNATSBridge(event_types={EventType.AGENT_STARTED}).bridge_agent_events()


async def test_events_are_published_by_position_and_by_name_and_in_batches() -> None:
    by_position = await publish_agent_event(EventType.AGENT_STARTED, "a1", {"n": 1}, EventMetadata(user_id="u1"))
    by_name = await publish_task_event(event_type="task.started", task_id="t1", payload={"agent_id": "a1"}, metadata=None)
    assert by_position != by_name
    publisher = await get_event_publisher()
    assert await publisher.connect() is True
    heard: list[AgentEvent] = []
    publisher.register_event_handler(EventType.AGENT_HEARTBEAT, heard.append)
    events = [AgentEvent(EventType.AGENT_HEARTBEAT, f"a{number}", "agent") for number in range(3)]
    assert await publisher.publish_event(events[0], "agent-events", events[0].key) == events[0].event_id
    assert await publisher.publish_events_batch(events[1:]) == {event.event_id: True for event in events[1:]}
    while len(heard) < len(events):
        await breathe()
    assert heard == events
    assert [AgentEvent.from_kafka_message(event.to_kafka_message()) for event in events] == events


async def test_a_rule_engine_is_asked_about_recorded_entries() -> None:
    engine = ComplianceRuleEngine()
    engine.add_rule(
        ComplianceRule(
            rule_id="who", framework=ComplianceFramework.CUSTOM, title="Who", category=AuditEventCategory.DATA_ACCESS,
            severity=AuditSeverity.HIGH, required_fields=("user_id",),
        )
    )  # fmt: skip
    said = ("record.read", AuditEventCategory.DATA_ACCESS, "read", "a record was read")
    without = await create_audit_log(*said, compliance_frameworks={ComplianceFramework.CUSTOM})
    known = await create_audit_log(*said, compliance_frameworks={ComplianceFramework.CUSTOM}, user_id="u1")
    assert [rule.rule_id for rule in engine.get_applicable_rules(without)] == ["who"]
    assert engine.validate_entry(without)["violations"][0]["fields"] == ["user_id"]
    assert engine.validate_entry(known)["valid"]
