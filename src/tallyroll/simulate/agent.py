"""One simulated agent: its life, its work on tasks, its tools, its heartbeat."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any, Final, Literal, TypeAlias

from tallyroll.events.types import EventType
from tallyroll.simulate.clockwork import PARK, SECOND, Clockwork, Process
from tallyroll.simulate.world import FAILURES, HOSTS, Kind, Tool

MAX_ATTEMPTS: Final = 3  # of a tool call and of a task
HEARTBEAT_US: Final = 30 * SECOND
METRIC_EVERY: Final = 5  # heartbeats
CACHED_SHARE: Final = 0.15  # of the answers of tools
TASKS_PER_RELEASE: Final = 120  # after so many tasks an idle agent stops for its next version

Outcome: TypeAlias = Literal["completed", "failed", "cancelled"]
Ended: TypeAlias = tuple[str, str | None]  # the last event, and the error or None
CRASHED: Final = "agent_crashed"


class Task:
    """One task on its way through the fleet."""

    __slots__ = (
        "attempt",
        "calls",
        "cause",
        "correlation",
        "created_us",
        "error",
        "id",
        "outcome",
        "priority",
        "session",
        "task_type",
        "waiter",
    )

    def __init__(  # noqa: PLR0913  # what a task is born with
        self, name: str, task_type: str, priority: str, *, created_us: int, correlation: str, session: str | None
    ) -> None:
        self.id = name
        self.task_type = task_type
        self.priority = priority
        self.created_us = created_us
        self.correlation = correlation
        self.session = session
        self.cause: str | None = None
        self.attempt = 1
        self.calls = 0
        self.outcome: Outcome | None = None
        self.error: str | None = None
        self.waiter: Process | None = None


class Agent:
    """One agent. ``doomed`` lets it crash at its next step; ``slow`` is the fleet's table of tools that are slow just now."""

    def __init__(self, world: Clockwork, name: str, kind: Kind, number: int, slow: dict[str, float]) -> None:
        self.world = world
        self.id = name
        self.kind = kind
        self.doomed = False
        self.queue: deque[Task] = deque()
        self.peers: list[Agent] = []
        self._slow = slow
        self._host = HOSTS[number % len(HOSTS)]
        self._release = 1
        self._tasks_done = 0
        self._since_release = 0
        self._alive = False
        self._busy = False
        self._started_us = 0
        self._idle = False
        self._life = self._live()
        self._key = ("agent", name)

    def begin(self, delay_us: int) -> None:
        """Starts its life and its heartbeat."""
        self.world.wake(self._life, delay_us)
        self.world.wake(self._beat(), delay_us + round(self.world.random.random() * HEARTBEAT_US))

    def give(self, task: Task, cause: str) -> None:
        """Puts a task into its queue and wakes it if it has nothing to do."""
        task.cause = self._task_event(
            EventType.TASK_ASSIGNED,
            task,
            {"priority": task.priority, "queue_depth": len(self.queue), "assigned_by": "dispatcher"},
            cause,
        )
        self.queue.append(task)
        if self._idle:
            self._idle = False
            self.world.wake(self._life)

    def end(self, task: Task, kind: EventType, payload: dict[str, Any], cause: str | None) -> str:
        """Ends a task for good and tells who waits for it."""
        event_id = self._task_event(kind, task, payload, cause)
        task.outcome = "completed" if kind is EventType.TASK_COMPLETED else "failed" if kind is EventType.TASK_FAILED else "cancelled"
        task.cause = event_id
        if task.waiter is not None:
            self.world.wake(task.waiter)
        return event_id

    def _task_event(self, kind: EventType, task: Task, payload: dict[str, Any], cause: str | None) -> str:
        payload = {"agent_id": self.id, "task_id": task.id, "task_type": task.task_type, "attempt": task.attempt, **payload}
        return self.world.emit(kind, ("task", task.id), payload, correlation=task.correlation, cause=cause, session=task.session)

    def _own(self, kind: EventType, payload: dict[str, Any], cause: str | None = None) -> str:
        payload = {"agent_type": self.kind.name, "host": self._host, "version": f"1.{self._release}.0", **payload}
        return self.world.emit(kind, self._key, payload, correlation=self.id, cause=cause)

    def _live(self) -> Process:
        about = {"model": self.kind.model.name, "capabilities": list(self.kind.capabilities)}
        created = self._own(EventType.AGENT_CREATED, {**about, "configuration": {"max_attempts": MAX_ATTEMPTS, "max_queue": 20}})
        yield SECOND // 4
        registered = self._own(EventType.AGENT_REGISTERED, {**about, "tools": [tool.name for tool in self.kind.tools]}, created)
        yield SECOND // 2
        self._start("deployed", registered)
        while True:
            if not self.queue:
                self._idle = True
                yield PARK
                continue
            self._busy = True
            task = self.queue.popleft()
            yield from self._take_on(task)
            self._busy = False
            if self._since_release >= TASKS_PER_RELEASE and not self.queue:
                yield from self._new_release()

    def _start(self, reason: str, cause: str | None) -> None:
        self._started_us = self.world.now_us
        self._alive = True
        self._own(EventType.AGENT_STARTED, {"reason": reason, "model": self.kind.model.name, "tasks_waiting": len(self.queue)}, cause)

    def _new_release(self) -> Process:
        uptime_s = (self.world.now_us - self._started_us) // SECOND
        self._alive = False
        stopped = self._own(EventType.AGENT_STOPPED, {"reason": "new_release", "uptime_s": uptime_s, "tasks_done": self._tasks_done})
        self._since_release = 0
        self._release += 1
        yield 8 * SECOND
        self._start("new_release", stopped)

    def _take_on(self, task: Task) -> Process:
        world = self.world
        yield round(world.lognormal(60_000, 0.5))
        if task.attempt == 1 and world.random.random() < 0.008:  # noqa: PLR2004  # few tasks are withdrawn
            waited = {"reason": "withdrawn", "duration_ms": (world.now_us - task.created_us) // 1_000, "priority": task.priority}
            self.end(task, EventType.TASK_CANCELLED, waited, task.cause)
            return
        started_us = world.now_us
        waited_ms = (started_us - task.created_us) // 1_000
        begun = {"priority": task.priority, "waited_ms": waited_ms, "model": self.kind.model.name}
        cause, error = yield from self._work(task, self._task_event(EventType.TASK_STARTED, task, begun, task.cause))
        took = {"duration_ms": (world.now_us - started_us) // 1_000, "tool_calls": task.calls}
        if error is None:
            self._tasks_done += 1
            self._since_release += 1
            self.end(
                task,
                EventType.TASK_COMPLETED,
                {**took, "status": "ok", "result": f"{task.task_type}: done after {task.attempt} attempts"},
                cause,
            )
            return
        again = task.attempt < MAX_ATTEMPTS and (error == CRASHED or world.random.random() < 0.5)  # noqa: PLR2004  # half are worth it
        failed = {**took, "error_type": error, "will_retry": again, "error": f"gave up on {task.task_type}: {error}"}
        if not again:
            task.error = error
            cause = self.end(task, EventType.TASK_FAILED, failed, cause)
        else:
            cause = self._task_event(EventType.TASK_FAILED, task, failed, cause)
        if error == CRASHED:
            yield from self._crash(cause)
        if again:
            yield from self._try_again(task, error, cause)

    def _crash(self, cause: str) -> Process:
        self.doomed = False
        self._alive = False
        uptime_s = (self.world.now_us - self._started_us) // SECOND
        failure = {"error_type": "out_of_memory", "exit_code": 137, "uptime_s": uptime_s, "tasks_waiting": len(self.queue)}
        failed = self._own(EventType.AGENT_FAILED, failure, cause)
        yield round(self.world.lognormal(20 * SECOND, 0.4))
        self._start("restarted", failed)

    def _try_again(self, task: Task, error: str, cause: str) -> Process:
        backoff_us = SECOND * 2**task.attempt
        task.attempt += 1
        retry = {"reason": error, "backoff_ms": backoff_us // 1_000, "max_attempts": MAX_ATTEMPTS, "priority": task.priority}
        task.cause = self._task_event(EventType.TASK_RETRY, task, retry, cause)
        yield backoff_us
        self.queue.appendleft(task)

    def _work(self, task: Task, cause: str) -> Generator[int, None, Ended]:
        """The steps of a task: a model call each, often a tool, now and then a word to a colleague."""
        draw = self.world.random.random
        low, high = self.kind.steps
        steps = low + int(draw() * (high - low + 1))
        for step in range(1, steps + 1):
            cause = yield from self._think(task, cause, step, steps)
            if self.doomed:
                return cause, CRASHED
            if draw() < 0.7:  # noqa: PLR2004  # most steps use a tool
                cause, error = yield from self._use_tool(task, cause)
                if error is not None and (error == CRASHED or draw() < 0.4):  # noqa: PLR2004  # often there is another way
                    return cause, error
            if self.peers and draw() < 0.06:  # noqa: PLR2004  # agents rarely talk
                cause = yield from self._tell_peer(task, cause)
        return cause, None

    def _think(self, task: Task, cause: str, step: int, steps: int) -> Generator[int, None, str]:
        world = self.world
        model = self.kind.model
        latency_us = round(world.lognormal(model.median_ms, 0.45) * 1_000)
        yield latency_us
        sent = round(world.lognormal(2_400, 0.7))
        received = round(world.lognormal(260, 0.8))
        progress = {
            "step": step,
            "progress_percent": 100 * step // (steps + 1),
            "model": model.name,
            "model_latency_ms": latency_us // 1_000,
            "input_tokens": sent,
            "output_tokens": received,
            "tokens": sent + received,
            "cost": round(sent * model.input_price + received * model.output_price) / 1_000_000,
        }
        return self._task_event(EventType.TASK_PROGRESSED, task, progress, cause)

    def _use_tool(self, task: Task, cause: str) -> Generator[int, None, Ended]:
        """One use of a tool with its retries."""
        world = self.world
        tool = self.kind.tools[int(world.random.random() * len(self.kind.tools))]
        error: str | None = None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            task.calls += 1
            call = {"tool_name": tool.name, "invocation_id": f"{task.id}-{task.calls}", "call_attempt": attempt}
            about = {**call, "argument_names": list(tool.arguments), "arguments_bytes": round(world.lognormal(140, 0.8))}
            cause = self._task_event(EventType.TOOL_INVOKED, task, about, cause)
            took_us, error, retriable = self._tool_outcome(tool)
            yield took_us
            call["duration_ms"] = took_us // 1_000
            if error is None:
                answer = {
                    **call,
                    "status": "ok",
                    "result_bytes": round(world.lognormal(1_800, 1.2)),
                    "cached": world.random.random() < CACHED_SHARE,
                }
                return self._task_event(EventType.TOOL_COMPLETED, task, answer, cause), None
            failure = {**call, "error_type": error, "retriable": retriable, "error": f"{tool.name} failed: {error}"}
            cause = self._task_event(EventType.TOOL_FAILED, task, failure, cause)
            if not retriable or attempt == MAX_ATTEMPTS:
                break
            yield round(world.lognormal(250_000 * 2**attempt, 0.2))
        return cause, error

    def _tool_outcome(self, tool: Tool) -> tuple[int, str | None, bool]:
        """How long the call takes in microseconds, what goes wrong, and whether trying again may help."""
        world = self.world
        draw = world.random.random
        took_ms = world.lognormal(tool.median_ms, tool.sigma) * self._slow.get(tool.name, 1.0)
        if self.doomed:
            return round(took_ms * draw() * 1_000) + 1, CRASHED, False
        if took_ms > tool.timeout_ms:
            return tool.timeout_ms * 1_000, "timeout", True
        took_us = round(took_ms * 1_000) + 1
        if draw() * 100 < tool.failure_percent:
            failure = FAILURES[int(draw() * len(FAILURES))]
            return took_us, failure.error_type, failure.retriable
        return took_us, None, False

    def _tell_peer(self, task: Task, cause: str) -> Generator[int, None, str]:
        """A message to a colleague, and its arrival there."""
        world = self.world
        peer = self.peers[int(world.random.random() * len(self.peers))]
        if peer is self:
            return cause
        message = {"task_id": task.id, "message_id": world.name("message"), "chars": round(world.lognormal(320, 0.7)), "channel": "direct"}
        key = ("task", task.id)
        sent = {"agent_id": self.id, "recipient": peer.id, **message}
        cause = world.emit(EventType.MESSAGE_SENT, key, sent, correlation=task.correlation, cause=cause, session=task.session)
        transit_us = round(world.lognormal(40_000, 0.6))
        yield transit_us
        received = {"agent_id": peer.id, "sender": self.id, "transit_ms": transit_us // 1_000, **message}
        return world.emit(EventType.MESSAGE_RECEIVED, key, received, correlation=task.correlation, cause=cause, session=task.session)

    def _beat(self) -> Process:
        world = self.world
        count = 0
        while True:
            if self._alive:
                load = (55 if self._busy else 4) + 20 * world.random.random()
                vitals: dict[str, Any] = {
                    "status": "busy" if self._busy else "idle",
                    "uptime_s": (world.now_us - self._started_us) // SECOND,
                    "queue_depth": len(self.queue),
                    "tasks_done": self._tasks_done,
                    "cpu_percent": round(load, 1),
                    "memory_mb": 380 + 6 * len(self.queue) + int(90 * world.random.random()),
                }
                beat = self._own(EventType.AGENT_HEARTBEAT, vitals)
                count += 1
                if count % METRIC_EVERY == 0:
                    metric = {
                        "metric": "cpu_percent",
                        "value": vitals["cpu_percent"],
                        "unit": "percent",
                        "period_ms": HEARTBEAT_US // 1_000,
                    }
                    self._own(EventType.PERFORMANCE_METRIC, {"agent_id": self.id, **metric}, beat)
            yield HEARTBEAT_US
