"""A made-up fleet of agents at work, as a stream of events: for demonstrations, load and tests.

Agents of five kinds take tasks that arrive by a daily rhythm with bursts. They call models and tools, retry, fail, talk
to each other, work through workflows, send heartbeats, and sometimes crash and are restarted; now and then a tool goes
slow for some minutes. Completely determined by the arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tallyroll.events.event import AgentEvent, iso
from tallyroll.events.moments import EPOCH, us_of
from tallyroll.events.types import EventType
from tallyroll.simulate.agent import Agent, Task
from tallyroll.simulate.clockwork import PARK, SECOND, Clockwork, Process
from tallyroll.simulate.world import KINDS, LOAD_BY_HOUR, PRIORITIES, WORKFLOWS

DEFAULT_START: Final = datetime(2026, 1, 5, 8, tzinfo=UTC)  # a Monday morning: work begins at once
MAX_QUEUE: Final = 20  # tasks that wait for one agent; the next one is turned away
MINUTE: Final = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet that can be run as often as wanted; each run begins anew and gives the same events.

    ``seed``: any integer. ``agents``: how many, 1 or more. ``start``: aware; the time of the first event.
    ``tasks_per_agent_hour``: arrivals per agent in the busiest hour, outside bursts; a workflow of three tasks is one arrival.
    From about 80 on, bursts fill the queues of the slower kinds and some tasks are turned away. Raises ValueError for
    other values.

    Ordered: by event time, and causes before effects. Every task that is started ends and every tool call closes,
    unless the run ends first. Ids of tasks, workflows and messages carry a tag of the seed, names of agents do not.

    Not promised: the same events from another release or another version of Python; that any real fleet looks so.
    """

    seed: int = 0
    agents: int = 20
    start: datetime = DEFAULT_START
    tasks_per_agent_hour: float = 60.0

    def __post_init__(self) -> None:
        if self.agents < 1:
            raise ValueError("agents: expected 1 or more")
        if self.start.utcoffset() is None or self.start < EPOCH:
            raise ValueError("start: expected an aware datetime from 1970 on")
        if not 0 < self.tasks_per_agent_hour <= 10_000:  # noqa: PLR2004  # three a second for each agent
            raise ValueError("tasks_per_agent_hour: expected more than 0 and at most 10000")

    def __iter__(self) -> Iterator[AgentEvent]:
        return self.run()

    def run(self, *, events: int | None = None, duration: timedelta | None = None) -> Iterator[AgentEvent]:
        """The events from the start: so many of them, or those within the duration (its end not included), or for ever.

        Lazy: 256 events are made at a time. With both bounds, what comes first. Raises ValueError for a negative bound.
        """
        if (events is not None and events < 0) or (duration is not None and duration < timedelta(0)):
            raise ValueError("events and duration: expected 0 or more")
        return self._events(events, None if duration is None else self.start + duration)

    def _events(self, events: int | None, end: datetime | None) -> Iterator[AgentEvent]:
        clockwork = self._build()
        left = events
        while left is None or left > 0:
            # No context of the caller reaches the events: the same seed has to give the same bytes everywhere.
            made = Context().run(clockwork.advance)
            for event in made if left is None else made[:left]:
                if end is not None and event.timestamp >= end:
                    return
                yield event
            left = None if left is None else left - len(made)

    def _build(self) -> Clockwork:
        start_us = us_of(self.start)
        world = Clockwork(f"{self.seed}/{self.agents}/{iso(self.start)}/{self.tasks_per_agent_hour}", start_us)
        _Dispatcher(world, self.agents, self.tasks_per_agent_hour)
        return world


class _Dispatcher:
    """Takes tasks as they arrive and hands them to agents; also what happens to the fleet as a whole."""

    def __init__(self, world: Clockwork, agents: int, tasks_per_agent_hour: float) -> None:
        self._world = world
        self._slow: dict[str, float] = {}
        self._burst = 1.0
        self._rate = agents * tasks_per_agent_hour / 3_600 / SECOND  # tasks per microsecond in the busiest hour
        self._agents: list[Agent] = []
        self._by_kind: dict[str, list[Agent]] = {}
        for number in range(agents):
            kind = KINDS[number % len(KINDS)]
            agent = Agent(world, f"{kind.name}-{number // len(KINDS) + 1:03d}", kind, number, self._slow)
            self._agents.append(agent)
            self._by_kind.setdefault(kind.name, []).append(agent)
            agent.begin(number * SECOND // agents)  # the fleet comes up within a second
        if agents > 1:
            for agent in self._agents:
                agent.peers = self._agents
        for process in (self._arrivals(), self._bursts(), self._slow_tools(), self._crashes()):
            world.wake(process, SECOND)

    def _arrivals(self) -> Process:
        world = self._world
        while True:
            hour = world.now_us // (3_600 * SECOND) % 24
            gap = world.random.expovariate(self._rate * LOAD_BY_HOUR[hour] * self._burst)
            if gap > MINUTE:
                yield MINUTE  # the rate changes with hour and burst; a process without memory may simply draw again
                continue
            yield round(gap)
            if world.random.random() < 0.06:  # noqa: PLR2004  # most work is single tasks
                _Workflow(world, self)
            else:
                agent = self._agents[int(world.random.random() * len(self._agents))]
                self.submit(agent.kind.name, None, None)

    def submit(self, kind: str, correlation: str | None, cause: str | None) -> Task:
        """A new task for some agent of a kind, if there is one, else of any; the less busy of two is taken."""
        world = self._world
        draw = world.random.random
        choice = self._by_kind.get(kind, self._agents)
        agent, other = choice[int(draw() * len(choice))], choice[int(draw() * len(choice))]
        if len(other.queue) < len(agent.queue):
            agent = other
        name = world.name("task")
        task_type = agent.kind.tasks[int(draw() * len(agent.kind.tasks))]
        priority = PRIORITIES[int(draw() * len(PRIORITIES))]
        session = f"session-{name[5:]}" if agent.kind.name == "support" else None
        task = Task(name, task_type, priority, created_us=world.now_us, correlation=correlation or name, session=session)
        asked: dict[str, Any] = {
            "task_type": task_type,
            "priority": priority,
            "agent_type": agent.kind.name,
            "created_by": "workflow" if correlation else "queue",
            "task_description": f"{task_type.replace('_', ' ')} for request {name[5:]}, as soon as an agent of this kind is free",
        }
        created = world.emit(EventType.TASK_CREATED, ("task", name), asked, correlation=task.correlation, cause=cause, session=session)
        if len(agent.queue) >= MAX_QUEUE:
            agent.end(task, EventType.TASK_CANCELLED, {"reason": "queue_full", "duration_ms": 0, "priority": priority}, created)
        else:
            agent.give(task, created)
        return task

    def _bursts(self) -> Process:
        draw = self._world.random
        while True:
            yield round(draw.expovariate(1 / (90 * MINUTE)))
            self._burst = 2.0 + 3.0 * draw.random()
            yield round((2 + 8 * draw.random()) * MINUTE)
            self._burst = 1.0

    def _slow_tools(self) -> Process:
        draw = self._world.random
        while True:
            yield round(draw.expovariate(1 / (40 * MINUTE)))
            tools = self._agents[int(draw.random() * len(self._agents))].kind.tools
            tool = tools[int(draw.random() * len(tools))].name
            self._slow[tool] = 6.0 + 14.0 * draw.random()
            yield round((4 + 8 * draw.random()) * MINUTE)
            del self._slow[tool]

    def _crashes(self) -> Process:
        draw = self._world.random
        while True:
            yield round(draw.expovariate(len(self._agents) / (12 * 60 * MINUTE)))  # each agent twice a day
            self._agents[int(draw.random() * len(self._agents))].doomed = True


class _Workflow:
    """A chain of tasks, one after the other, each by another kind of agent."""

    def __init__(self, world: Clockwork, dispatcher: _Dispatcher) -> None:
        self._world = world
        self._dispatcher = dispatcher
        self._name = world.name("workflow")
        self._process = self._steps()
        world.wake(self._process)

    def _emit(self, kind: EventType, payload: dict[str, Any], cause: str | None) -> str:
        return self._world.emit(kind, ("workflow", self._name), payload, correlation=self._name, cause=cause)

    def _steps(self) -> Process:
        world = self._world
        title, plan = WORKFLOWS[int(world.random.random() * len(WORKFLOWS))]
        started_us = world.now_us
        about = {"workflow_type": title, "workflow_id": self._name, "steps": len(plan)}
        cause: str | None = self._emit(EventType.WORKFLOW_STARTED, {**about, "plan": list(plan), "started_by": "schedule"}, None)
        for number, kind in enumerate(plan, 1):
            step_us = world.now_us
            task = self._dispatcher.submit(kind, self._name, cause)
            if task.outcome is None:
                task.waiter = self._process
                yield PARK
            took = {"step": kind, "step_number": number, "task_id": task.id, "duration_ms": (world.now_us - step_us) // 1_000}
            if task.outcome != "completed":
                failure = {**about, **took, "error_type": task.error or task.outcome or "unknown"}
                self._emit(EventType.WORKFLOW_FAILED, failure | {"duration_ms": (world.now_us - started_us) // 1_000}, task.cause)
                return
            cause = self._emit(EventType.WORKFLOW_STEP_COMPLETED, {**about, **took, "status": "ok"}, task.cause)
        self._emit(EventType.WORKFLOW_COMPLETED, {**about, "status": "ok", "duration_ms": (world.now_us - started_us) // 1_000}, cause)
