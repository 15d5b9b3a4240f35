"""A user's reducers for agents, as plain Python functions: the generic way, beside the built-in view that is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from tallyroll.replay.fold import states_hash

FIELDS: Final = ("version", "status", "tasks_started", "tasks_completed", "tasks_failed", "tool_calls", "tokens")
"""What they tell: some of what the built-in view tells, so that the two can be compared."""


class Registers(Protocol):
    """What takes the functions. Not promised: that it calls them in this process."""

    def register_projection(self, state_type: str, event_type: str | None, handler: Any) -> None:  # noqa: ANN401  # a function
        """What an event of a type does to a kind of state."""

    def register_initializer(self, state_type: str, initializer: Any) -> None:  # noqa: ANN401  # a function
        """What a state is before its first event."""


def blank(_owner: str) -> dict[str, Any]:
    """An agent without events."""
    return {"version": 0, "status": None, "tasks_started": 0, "tasks_completed": 0, "tasks_failed": 0, "tool_calls": 0, "tokens": 0}


def used(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # a recorded event
    """Every event that has no function of its own."""
    state["version"] += 1
    payload = event.payload
    tokens = payload.get("tokens")
    state["tokens"] += payload.get("input_tokens", 0) + payload.get("output_tokens", 0) if tokens is None else tokens
    return state


def created(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """agent.created."""
    state["status"] = "created"
    return used(state, event)


def started(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """agent.started."""
    state["status"] = "running"
    return used(state, event)


def stopped(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """agent.stopped."""
    state["status"] = "stopped"
    return used(state, event)


def failed(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """agent.failed."""
    state["status"] = "failed"
    return used(state, event)


def task_started(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """task.started."""
    state["tasks_started"] += 1
    return started(state, event)


def task_completed(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """task.completed."""
    state["tasks_completed"] += 1
    return used(state, event)


def task_failed(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """task.failed."""
    state["tasks_failed"] += 1
    return used(state, event)


def tool_invoked(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """tool.invoked."""
    state["tool_calls"] += 1
    return used(state, event)


_HANDLERS: Final[dict[str, Any]] = {
    "agent.created": created, "agent.started": started, "agent.stopped": stopped, "agent.failed": failed, "task.started": task_started,
    "task.completed": task_completed, "task.failed": task_failed, "tool.invoked": tool_invoked, "*": used,
}  # fmt: skip


def register(projector: Registers, state_type: str = "agent_state") -> None:
    """Gives all of them to a projector."""
    projector.register_initializer(state_type, blank)
    for event_type, handler in _HANDLERS.items():
        projector.register_projection(state_type, event_type, handler)


def hash_of(states: Mapping[str, Mapping[str, Any]]) -> str:
    """Of what they tell, whoever tells it."""
    return states_hash({owner: {name: state[name] for name in FIELDS} for owner, state in states.items()})
