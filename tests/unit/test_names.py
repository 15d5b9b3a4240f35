from __future__ import annotations

import pytest

from tallyroll.events.names import name_problem, payload_findings
from tallyroll.events.types import EventType


@pytest.mark.parametrize("member", EventType)
def test_every_built_in_name_is_a_good_one(member):
    assert name_problem(member.value) is None


@pytest.mark.parametrize(
    "name",
    ["invoice.approved", "invoice.line.approved", "order_item.was_shipped", "mail.sent", "goal.met", "a1.closed", "x.red_led_lit_up_ended"],
)
def test_a_dotted_fact_in_the_past_tense_is_accepted(name):
    assert name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("completed", "joined by dots"),
        ("", "joined by dots"),
        ("Task.Completed", "joined by dots"),
        ("task.", "joined by dots"),
        (".completed", "joined by dots"),
        ("task..completed", "joined by dots"),
        ("task completed", "joined by dots"),
        ("task-completed", "joined by dots"),
        ("1task.completed", "joined by dots"),
        ("täsk.completed", "joined by dots"),
        ("task.completed\n", "joined by dots"),
        ("task.complete", "past tense"),
        ("task.completing", "past tense"),
        ("agent.need", "past tense"),
        ("limit.exceed", "past tense"),
        ("lamp.red", "past tense"),
        ("a" * 98 + ".ed", "longer than 100"),
    ],
)
def test_what_is_no_fact_in_the_past_tense_is_refused_with_the_reason(name, why):
    assert why in (name_problem(name) or "")


def rules(event_type, aggregate_type, payload):
    return [finding.rule for finding in payload_findings(event_type, aggregate_type, payload)]


def test_a_complete_payload_has_no_findings():
    assert rules("task.completed", "task", {"agent_id": "a", "duration_ms": 5, "result": "ok"}) == []
    assert rules("tool.failed", "agent", {"task_id": "t", "execution_time": 0.1, "error": "x"}) == []
    assert rules("agent.started", "agent", {}) == []


@pytest.mark.parametrize(
    ("event_type", "aggregate_type", "payload", "rule"),
    [
        ("task.started", "task", {}, "names-its-agent"),
        ("task.started", "task", {"agent_id": ""}, "names-its-agent"),
        ("task.started", "agent", {"agent_id": "a"}, "names-its-task"),
        ("task.completed", "task", {"agent_id": "a", "result": 1}, "says-how-long"),
        ("task.completed", "task", {"agent_id": "a", "duration_ms": 1}, "says-how-it-ended"),
        ("task.failed", "task", {"agent_id": "a", "duration_ms": 1}, "says-why-it-failed"),
    ],
)
def test_what_a_reader_will_miss_is_found(event_type, aggregate_type, payload, rule):
    assert rules(event_type, aggregate_type, payload) == [rule]


def test_a_task_may_be_created_before_it_has_an_agent():
    assert rules("task.created", "task", {}) == []
