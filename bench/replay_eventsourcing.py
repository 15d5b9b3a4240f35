"""The same agents in the ``eventsourcing`` package: an aggregate each, its events in the package's own SQLite recorder.

An event there holds what the state needs and nothing else, so it is smaller than the record it was made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

FIELDS: Final = (
    "status", "active_tasks", "tasks_started", "tasks_completed", "tasks_failed", "tasks_cancelled", "tools", "tool_calls",
    "tool_failures", "messages_sent", "messages_received", "tokens", "cost_micro", "execution_time_us", "created_at_us",
    "started_at_us", "stopped_at_us",
)  # fmt: skip


class Deed(NamedTuple):
    """One event of an agent, in the order of its history."""

    event_type: str
    time_us: int
    task: str | None
    data: Mapping[str, Any]

    @property
    def tokens(self) -> int:
        """What it used."""
        given = self.data.get("tokens")
        return int(self.data.get("input_tokens", 0)) + int(self.data.get("output_tokens", 0)) if given is None else int(given)

    @property
    def cost_micro(self) -> int:
        """As above, in millionths."""
        micros: int = round(self.data.get("cost", 0) * 1_000_000)
        return micros


class Agent(Aggregate):
    """What the agent view tells, kept by event methods."""

    @event("Opened")
    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.status: str | None = None
        self.described: dict[str, Any] = {}
        self.active: dict[str, None] = {}
        self.tasks_started = self.tasks_completed = self.tasks_failed = self.tasks_cancelled = 0
        self.tools: dict[str, int] = {}
        self.tool_calls = self.tool_failures = self.messages_sent = self.messages_received = 0
        self.tokens = self.cost_micro = self.execution_time_us = 0
        self.last_error: str | None = None
        self.created_at_us: int | None = None
        self.started_at_us: int | None = None
        self.stopped_at_us: int | None = None

    @staticmethod
    def create_id(agent_id: str) -> UUID:
        """The same agent, the same id."""
        return uuid5(NAMESPACE_URL, agent_id)

    @property
    def active_tasks(self) -> list[str]:
        """Ids, sorted."""
        return sorted(self.active)

    @event("Created")
    def created(self, time_us: int, about: dict[str, Any]) -> None:
        """agent.created."""
        self.status = "created"
        self.described.update(about)
        self.created_at_us = self.created_at_us or time_us

    @event("Registered")
    def registered(self, about: dict[str, Any]) -> None:
        """agent.registered."""
        self.described.update(about)

    @event("Started")
    def started(self, time_us: int, about: dict[str, Any]) -> None:
        """agent.started."""
        self.status = "running"
        self.described.update(about)
        self.started_at_us = time_us

    @event("Ended")
    def ended(self, time_us: int, status: str, error: str | None) -> None:
        """agent.stopped and agent.failed."""
        self.status = status
        self.stopped_at_us = time_us
        self.last_error = error or self.last_error

    @event("TaskStarted")
    def task_started(self, task: str) -> None:
        """task.started."""
        self.status = "running"
        self.tasks_started += 1
        self.active[task] = None

    @event("TaskCompleted")
    def task_completed(self, task: str, duration_us: int) -> None:
        """task.completed."""
        self.tasks_completed += 1
        self.active.pop(task, None)
        self.execution_time_us += duration_us

    @event("TaskFailed")
    def task_failed(self, task: str, duration_us: int, error: str) -> None:
        """task.failed."""
        self.tasks_failed += 1
        self.active.pop(task, None)
        self.execution_time_us += duration_us
        self.last_error = error

    @event("TaskCancelled")
    def task_cancelled(self, task: str) -> None:
        """task.cancelled."""
        self.tasks_cancelled += 1
        self.active.pop(task, None)

    @event("ToolInvoked")
    def tool_invoked(self, tool: str) -> None:
        """tool.invoked."""
        self.tool_calls += 1
        self.tools[tool] = self.tools.get(tool, 0) + 1

    @event("ToolFailed")
    def tool_failed(self, error: str) -> None:
        """tool.failed."""
        self.tool_failures += 1
        self.last_error = error

    @event("Messaged")
    def messaged(self, *, sent: bool) -> None:
        """message.sent and message.received."""
        self.messages_sent += sent
        self.messages_received += not sent

    @event("Used")
    def used(self, tokens: int, cost_micro: int) -> None:
        """Every event that tells what it used and nothing else of interest."""
        self.tokens += tokens
        self.cost_micro += cost_micro

    @event("Noted")
    def noted(self) -> None:
        """Every event that only counts."""


def take(agent: Agent, deed: Deed) -> None:  # noqa: C901, PLR0912  # one branch per event type
    """Triggers the one event of the aggregate that a deed amounts to."""
    kind, data = deed.event_type, deed.data
    error = str(data.get("error") or data.get("error_type") or data.get("reason") or "")[:500]
    about = {name: data[name] for name in ("agent_type", "capabilities", "configuration") if name in data}
    duration_us = round(data.get("duration_ms", 0) * 1_000)
    if (deed.tokens or deed.cost_micro) and kind != "task.progressed":
        raise ValueError(f"{kind} tells what it used, and here only task.progressed is expected to")
    if kind == "agent.created":
        agent.created(deed.time_us, about)
    elif kind == "agent.registered":
        agent.registered(about)
    elif kind == "agent.started":
        agent.started(deed.time_us, about)
    elif kind in ("agent.stopped", "agent.failed"):
        agent.ended(deed.time_us, kind[6:], error if kind == "agent.failed" else None)
    elif kind == "task.started":
        agent.task_started(str(deed.task))
    elif kind == "task.completed":
        agent.task_completed(str(deed.task), duration_us)
    elif kind == "task.failed":
        agent.task_failed(str(deed.task), duration_us, error)
    elif kind == "task.cancelled":
        agent.task_cancelled(str(deed.task))
    elif kind == "tool.invoked":
        agent.tool_invoked(str(data["tool_name"]))
    elif kind == "tool.failed":
        agent.tool_failed(error)
    elif kind in ("message.sent", "message.received"):
        agent.messaged(sent=kind == "message.sent")
    elif deed.tokens or deed.cost_micro:
        agent.used(deed.tokens, deed.cost_micro)
    else:
        agent.noted()


def opened(file: Path) -> Application[UUID]:
    """The package's application on its SQLite recorder, without snapshots and without a cache."""
    return Application(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(file)})


def filled(application: Application[UUID], histories: Mapping[str, Iterable[Deed]]) -> int:
    """Saves every agent with all its events; how many events there are."""
    count = 0
    for owner, deeds in histories.items():
        agent = Agent(agent_id=owner)
        for deed in deeds:
            take(agent, deed)
        count += agent.version
        application.save(agent)
    return count
