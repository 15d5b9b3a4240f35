from __future__ import annotations

from collections.abc import Iterator

import pytest

from tallyroll.errors import InvalidEvent
from tallyroll.events.event import AgentEvent
from tallyroll.events.types import EventType, forget_registered_types, known_types, register_event_type, type_info

TYPES_BY_TOPIC = {
    "agent-events": "agent.created agent.started agent.stopped agent.failed agent.heartbeat agent.registered agent.deregistered",
    "task-events": "task.created task.assigned task.started task.progressed task.completed task.failed task.cancelled task.retry "
    "tool.invoked tool.completed tool.failed",
    "workflow-events": "workflow.started workflow.step.completed workflow.completed workflow.failed "
    "message.sent message.received message.failed",
    "performance-events": "performance.metric resource.allocated resource.released resource.exhausted",
    "system-events": "auth.success auth.failure authz.granted authz.denied state.changed state.persisted state.restored "
    "configuration.changed anomaly.detected data.accessed",
}
IRREGULAR = {
    "WORKFLOW_STEP_COMPLETED": "workflow.step.completed",
    "AUTHENTICATION_SUCCESS": "auth.success",
    "AUTHENTICATION_FAILURE": "auth.failure",
    "AUTHORIZATION_GRANTED": "authz.granted",
    "AUTHORIZATION_DENIED": "authz.denied",
    "DATA_ACCESS": "data.accessed",
}


@pytest.fixture(autouse=True)
def only_built_in_types() -> Iterator[None]:
    forget_registered_types()
    yield
    forget_registered_types()


def test_there_are_39_built_in_types_with_39_wire_names():
    assert len(EventType) == len({member.value for member in EventType}) == 39


@pytest.mark.parametrize("member", EventType)
def test_a_wire_name_is_the_member_in_lower_case_with_dots_or_one_of_the_listed_exceptions(member):
    assert member.value == IRREGULAR.get(member.name, member.name.lower().replace("_", "."))


def test_each_type_goes_to_the_topic_of_its_table():
    expected = {name: topic for topic, names in TYPES_BY_TOPIC.items() for name in names.split()}
    assert {info.name: info.topic for info in known_types()} == expected


def test_a_member_is_the_text_of_its_wire_name():
    assert EventType.TASK_COMPLETED == "task.completed"
    assert f"{EventType.TASK_COMPLETED}" == "task.completed"


def test_a_registered_type_can_be_built_and_names_its_topic():
    name = register_event_type("invoice.line.approved", topic="task-events")
    assert AgentEvent(name, "i-1", "invoice").event_type == "invoice.line.approved"
    assert type_info(name).topic == "task-events"
    assert not type_info(name).builtin


def test_registering_the_same_pair_again_changes_nothing():
    register_event_type("invoice.approved", topic="task-events")
    register_event_type("invoice.approved", topic="task-events")
    assert [info.name for info in known_types()].count("invoice.approved") == 1


@pytest.mark.parametrize("topic", ["audit-events", "dead-letters", "nowhere", ""])
def test_own_types_go_to_no_reserved_or_unknown_topic(topic):
    with pytest.raises(InvalidEvent) as caught:
        register_event_type("invoice.approved", topic=topic)
    assert caught.value.field == "topic"


@pytest.mark.parametrize("name", ["task.completed", "invoice.approved"])
def test_a_type_never_moves_to_another_topic(name):
    register_event_type("invoice.approved", topic="task-events")
    with pytest.raises(InvalidEvent, match="already registered for topic task-events"):
        register_event_type(name, topic="agent-events")


def test_forgetting_leaves_the_built_in_types():
    register_event_type("invoice.approved", topic="task-events")
    forget_registered_types()
    assert type_info("invoice.approved") is None
    assert len(known_types()) == 39


def test_an_unknown_type_is_refused_with_names_near_it():
    with pytest.raises(InvalidEvent, match=r"task\.completed"):
        AgentEvent("task.complete", "t-1", "task")
