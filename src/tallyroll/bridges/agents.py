"""An existing manager of agents whose created tasks become events, and the states and histories of its aggregates."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from tallyroll.bridges.outbox import STALE_S, ListTasks, Outgoing
from tallyroll.bridges.tasks import asked_of
from tallyroll.errors import NoHistory
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.partition import partition_for
from tallyroll.events.position import TopicPartition
from tallyroll.events.recorded import rows_events
from tallyroll.ports import Clock, Outbox, Span
from tallyroll.replay.engine import ReplayEngine
from tallyroll.replay.fold import View
from tallyroll.replay.kinds import view_of
from tallyroll.telemetry import Counters, Telemetry


class Publishes(Protocol):
    """What puts events into the log: ``EventPublisher``. Not promised: speed while the log is away."""

    @property
    def clock(self) -> Clock:
        """The clock of the process."""

    async def publish(self, event: AgentEvent) -> Any:  # noqa: ANN401  # a receipt, which nobody here reads
        """Returns when the event is in the log; raises what became of it otherwise."""


class Parts(NamedTuple):
    """What stands behind a manager: the user's own, what tells of its tasks, and what knows states. None: it does without."""

    manager: Any
    outgoing: Outgoing | None
    replay: ReplayEngine | None


class EventSourcedAgentManager:
    """Events around an existing manager object, whose store and keys are left as they are.

    ::

        agents = await roll.agents(manager)
        task = await agents.create_task(request)

    ``manager`` has ``create_task(request)``, awaited if it gives an awaitable. To finish calls that a crash has cut off,
    ``list_tasks`` (else the manager's method of that name) gives its tasks; without one such calls are reported. An
    ``outbox`` and a ``replay`` engine come with ``Roll.agents``, which also sweeps at the start and each minute; a manager
    without them is a ValueError.
    Not promised: that a task's event is in the log when its call returns; it is on disk, and comes.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        event_publisher: Publishes,
        *,
        manager: Any = None,  # noqa: ANN401  # a user's object
        replay: ReplayEngine | None = None,
        outbox: Outbox | None = None,
        list_tasks: ListTasks | None = None,
        telemetry: Telemetry | None = None,
        stale_s: float = STALE_S,
    ) -> None:
        self._publisher = event_publisher
        self._sweeping: asyncio.Task[None] | None = None
        self._parts = Parts(manager, None, replay)
        if manager is None:
            return
        if outbox is None or replay is None:
            raise ValueError("a manager needs an outbox and a replay engine: make this by 'await roll.agents(manager)'")
        outgoing = Outgoing(
            outbox, event_publisher.publish,
            is_told=self._is_told,
            list_tasks=list_tasks or getattr(manager, "list_tasks", None),
            clock=event_publisher.clock, telemetry=telemetry or Counters(), stale_s=stale_s,
        )  # fmt: skip
        self._parts = Parts(manager, outgoing, replay)

    async def parts(self) -> Parts:
        """What stands behind it, opened."""
        return self._parts

    async def create_task(self, request: Any) -> Any:  # noqa: ANN401  # the user's own
        """The task that the manager makes of the request; TASK_CREATED follows it into the log, once, also after a crash.

        Of the request are kept ``agent_type``, ``task_description`` and ``env_vars["USER"]``, until the log has them. Waits
        at most two seconds for the log. Raises StoreUnavailable when the outbox is away, and InvalidEvent for a request that
        no event can tell of, before the manager is asked; whatever the manager raises, with no event then; InvalidEvent for
        a task that has no id, or one that no event can have.
        """
        manager, outgoing, _ = await self.parts()
        if outgoing is None:
            raise ValueError("there is no manager to create tasks: make this by 'await roll.agents(manager)'")
        row = await outgoing.intend(asked_of(request))
        try:
            task = manager.create_task(request)
            if inspect.isawaitable(task):
                task = await task
        except Exception:
            await outgoing.withdraw(row)
            raise
        await outgoing.tell(row, task)
        return task

    async def create_agent_event(
        self, event_type: str, agent_id: str, payload: Mapping[str, Any] | None = None, metadata: EventMetadata | None = None
    ) -> AgentEvent:
        """Publishes an event of the aggregate ``agent:ID``; gives it once the log has it. Raises as publishing does."""
        return await self._created(event_type, agent_id, "agent", payload, metadata)

    async def create_task_event(
        self, event_type: str, task_id: str, payload: Mapping[str, Any] | None = None, metadata: EventMetadata | None = None
    ) -> AgentEvent:
        """The same for ``task:ID``."""
        return await self._created(event_type, task_id, "task", payload, metadata)

    async def get_aggregate_state(self, aggregate_type: str, aggregate_id: str) -> dict[str, Any] | None:
        """The state of an agent, a task or a workflow from the log; None if no event names it. Raises ValueError, SpanGone."""
        view = _view(aggregate_type)
        return await (await self._engine()).get_reconstructed_state(f"{view.name}_state", aggregate_id)  # type: ignore[arg-type]  # text will do

    async def get_aggregate_history(self, aggregate_type: str, aggregate_id: str) -> list[dict[str, Any]]:
        """The aggregate's own events as ``to_kafka_message`` gives them, by event time; empty if there are none. Raises as above."""
        key = f"{aggregate_type}:{aggregate_id}"
        try:
            found = await (await self._engine()).history(_view(aggregate_type), aggregate_id)
        except NoHistory:
            return []
        events = [event for rows in found.rows.values() for event in rows_events(rows) if event.key == key]
        return [event.event.to_kafka_message() for event in sorted(events, key=lambda event: (event.timestamp_us, event.position))]

    def start(self) -> None:
        """Begins to sweep the outbox; ``Roll.agents`` has done it already."""
        if self._parts.outgoing is not None and self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(self._parts.outgoing.run())

    async def sweep(self) -> None:
        """Finishes now what a crash has left, instead of within a minute. Raises StoreUnavailable, and as replay does."""
        outgoing = (await self.parts()).outgoing
        if outgoing is not None:
            await outgoing.sweep()

    async def close(self) -> None:
        """Ends the sweeps, and waits a moment for what is being published. Safe to call twice."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
            self._sweeping = None
        if self._parts.outgoing is not None:
            await self._parts.outgoing.close()

    async def _created(
        self, event_type: str, aggregate_id: str, aggregate_type: str, payload: Mapping[str, Any] | None, metadata: EventMetadata | None
    ) -> AgentEvent:
        given: dict[str, Any] = {} if metadata is None else {"metadata": metadata}
        event = AgentEvent(event_type, aggregate_id, aggregate_type, dict(payload or {}), **given)
        await self._publisher.publish(event)
        return event

    async def _is_told(self, event: AgentEvent, since_us: int) -> bool:
        replayer = (await self._engine()).replayer
        log, catalogue = replayer.log, replayer.catalogue
        topic = catalogue.for_type(event.event_type)
        where = TopicPartition(topic.name, partition_for(event.key.encode(), topic.partitions))
        begin, end = (await log.positions_at([topic.name], since_us // 1_000))[where], (await log.ends([topic.name]))[where]
        async for batch in log.read([Span(*where, begin, end)] if begin < end else []):
            if any(head.id == event.event_id for head in batch.readable()[0]):
                return True
        return False

    async def _engine(self) -> ReplayEngine:
        replay = (await self.parts()).replay
        if replay is None:
            raise ValueError("states and histories need a replay engine: make this by 'await roll.agents(manager)'")
        return replay


def _view(aggregate_type: str) -> View:
    if aggregate_type not in ("agent", "task", "workflow"):
        raise ValueError(f"expected agent, task or workflow, got {aggregate_type!r}")
    return view_of(f"{aggregate_type}_state")
