"""What people write: ``json.loads`` and a dict per agent, by hand. Also the bare consume loop under it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STATUS: Final = {
    "agent.created": "created", "agent.started": "running", "task.started": "running", "agent.stopped": "stopped", "agent.failed": "failed",
}  # fmt: skip

# Fields that do not depend on the order of events of different partitions; of the others a loop that folds in the order of
# arrival has an opinion, which may be another one at each run.
ORDERLESS: Final = (
    "version", "tasks_started", "tasks_completed", "tasks_failed", "tasks_cancelled", "tools", "tool_calls", "tool_failures",
    "messages_sent", "messages_received", "tokens", "cost_micro", "execution_time_us",
)  # fmt: skip
ORDERED: Final = ("status", "active_tasks")


def blank() -> dict[str, Any]:
    """An agent without events."""
    return {
        "version": 0, "status": None, "agent_type": None, "capabilities": None, "configuration": None, "active_tasks": set(),
        "tasks_started": 0, "tasks_completed": 0, "tasks_failed": 0, "tasks_cancelled": 0, "tools": {}, "tool_calls": 0, "tool_failures": 0,
        "messages_sent": 0, "messages_received": 0, "tokens": 0, "cost_micro": 0, "execution_time_us": 0, "last_error": None,
        "created_at_us": None, "started_at_us": None, "stopped_at_us": None, "last_updated_us": 0,
    }  # fmt: skip


def fold(states: dict[str, dict[str, Any]], value: bytes) -> None:
    """One record, as it came."""
    event = json.loads(value)
    data = event["data"]
    agent = event["aggregateid"] if event["aggregatetype"] == "agent" else data.get("agent_id")
    if agent is None:
        return
    state = states.get(agent)
    if state is None:
        state = states[agent] = blank()
    apply(state, event["type"], data, event["time"], task_of(event["aggregatetype"], event["aggregateid"], data))


def task_of(aggregate_type: str, aggregate_id: str, data: Mapping[str, Any]) -> str | None:
    """The task an event is about."""
    return aggregate_id if aggregate_type == "task" else data.get("task_id")


def apply(state: dict[str, Any], kind: str, data: Mapping[str, Any], time: str, task: str | None) -> None:  # noqa: C901, PLR0912  # as people write it
    """One event of an agent."""
    time_us = (datetime.fromisoformat(time) - _EPOCH) // timedelta(microseconds=1)
    state["version"] += 1
    state["last_updated_us"] = max(state["last_updated_us"], time_us)
    if kind in _STATUS:
        state["status"] = _STATUS[kind]
    tokens = data.get("tokens")
    if tokens is None:
        tokens = data.get("input_tokens", 0) + data.get("output_tokens", 0)
    state["tokens"] += tokens
    if "cost" in data:
        state["cost_micro"] += round(data["cost"] * 1_000_000)
    if kind == "task.started":
        state["tasks_started"] += 1
        state["active_tasks"].add(task)
    elif kind in ("task.completed", "task.failed", "task.cancelled"):
        state[f"tasks_{kind[5:]}"] += 1
        state["active_tasks"].discard(task)
        if kind != "task.cancelled":
            state["execution_time_us"] += round(data.get("duration_ms", 0) * 1_000)
    elif kind == "tool.invoked":
        state["tool_calls"] += 1
        state["tools"][data["tool_name"]] = state["tools"].get(data["tool_name"], 0) + 1
    elif kind == "tool.failed":
        state["tool_failures"] += 1
    elif kind == "message.sent":
        state["messages_sent"] += 1
    elif kind == "message.received":
        state["messages_received"] += 1
    elif kind in ("agent.created", "agent.registered", "agent.started"):
        for name in ("agent_type", "capabilities", "configuration"):
            if name in data:
                state[name] = data[name]
        if kind == "agent.created":
            state["created_at_us"] = state["created_at_us"] or time_us
        elif kind == "agent.started":
            state["started_at_us"] = time_us
    elif kind in ("agent.stopped", "agent.failed"):
        state["stopped_at_us"] = time_us
    if kind in ("agent.failed", "task.failed", "tool.failed", "message.failed"):
        state["last_error"] = str(data.get("error") or data.get("error_type") or data.get("reason") or "")[:500]


def differing(ours: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Owners that somebody has and the other has not, or has other values of."""
    return sorted(
        owner
        for owner in ours.keys() | theirs.keys()
        if owner not in ours or owner not in theirs or any(ours[owner][name] != _plain(theirs[owner][name]) for name in names)
    )


def _plain(value: Any) -> Any:  # noqa: ANN401  # a field
    return sorted(value) if isinstance(value, set) else value


def consumed(bootstrap: str, spans: Sequence[tuple[str, int, int]], each: Callable[[bytes], None] | None) -> int:
    """Reads the spans (topic, partition, end) with a plain consume loop and hands on every value; how many there were."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False})
    left = total = sum(end for _, _, end in spans)
    consumer.assign([TopicPartition(topic, partition, 0) for topic, partition, end in spans if end])
    while left > 0:
        messages = consumer.consume(500, 0.05)
        for message in messages:
            assert message.error() is None, message.error()
            if each is not None:
                each(message.value() or b"")
        left -= len(messages)
    consumer.close()
    return total - left
