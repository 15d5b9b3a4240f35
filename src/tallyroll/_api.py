"""The convenience functions: each one delegating line over the default roll."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from tallyroll._default import current_bus, current_field_sealer, current_roll, roll_of
from tallyroll.analytics.profile import AgentPerformance, SystemPerformance
from tallyroll.analytics.query import AnalyticsEngine
from tallyroll.analytics.windows import TimeWindow
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.bridges import agents, forward, hybrid
from tallyroll.bridges.bus import EventBus
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.position import TopicPartition
from tallyroll.publish.privacy import FieldSealer, ProtectedEvent
from tallyroll.publish.publisher import EventPublisher
from tallyroll.replay.engine import ReplayAnswer, ReplayEngine
from tallyroll.replay.kinds import StateType
from tallyroll.replay.plan import ReplayFilter, ReplayMode
from tallyroll.replay.shown import AgentState, TaskState
from tallyroll.replay.views import AGENT, TASK

if TYPE_CHECKING:
    from tallyroll.audit.reading.query import AuditPage
    from tallyroll.audit.trail import AuditTrail
    from tallyroll.ports import Outbox


async def publish_agent_event(
    event_type: str, agent_id: str, payload: dict[str, Any] | None = None, metadata: EventMetadata | None = None
) -> str:
    """The id of the event, once the log has it. Aggregate ``agent:{agent_id}``. Raises as ``EventPublisher.publish``."""
    return await (await get_event_publisher()).publish_event(_event(event_type, agent_id, "agent", payload, metadata))


async def publish_task_event(
    event_type: str, task_id: str, payload: dict[str, Any] | None = None, metadata: EventMetadata | None = None
) -> str:
    """The id of the event, once the log has it. Aggregate ``task:{task_id}``. Raises as ``EventPublisher.publish``."""
    return await (await get_event_publisher()).publish_event(_event(event_type, task_id, "task", payload, metadata))


async def get_event_publisher() -> EventPublisher:
    """The default roll's publisher, ready; the same object at each call in one process and event loop."""
    return (await current_roll()).publisher


def get_event_bus() -> EventBus:
    """The bus of this process; the same object at each call. Not async."""
    return current_bus()


async def replay_agent_state(agent_id: str, target_time: datetime | None = None) -> AgentState | None:
    """The agent's state from the log alone, now or at a moment (event time, inclusive); None if it had no event by then.

    Waits first for what this process has published. Raises SpanGone when retention removed the start of the history, and
    ValueError for a naive ``target_time``.
    """
    return cast("AgentState | None", await (await current_roll()).replayed_state(AGENT, agent_id, target_time))


async def replay_task_state(task_id: str, target_time: datetime | None = None) -> TaskState | None:
    """The task's state from the log alone; as ``replay_agent_state``."""
    return cast("TaskState | None", await (await current_roll()).replayed_state(TASK, task_id, target_time))


async def get_replay_engine() -> ReplayEngine:
    """The default roll's replay engine; the same object at each call in one process and event loop."""
    return await (await current_roll()).replay_engine()


async def replay_events(
    state_type: StateType,
    replay_mode: ReplayMode = ReplayMode.FULL,
    event_filter: ReplayFilter | None = None,
    target_time: datetime | None = None,
    parallel: bool = False,  # noqa: FBT001, FBT002  # as it is known
) -> ReplayAnswer:
    """Everybody's states from the history, as ``ReplayEngine.replay_events``."""
    return await (await get_replay_engine()).replay_events(state_type, replay_mode, event_filter, target_time, parallel)


async def get_reconstructed_state(
    state_type: StateType,
    aggregate_id: str,
    target_time: datetime | None = None,
    *,
    as_of: Mapping[str, int] | Mapping[TopicPartition, int] | None = None,
    version: int | None = None,
) -> dict[str, Any] | None:
    """One owner's state from the history, as ``ReplayEngine.get_reconstructed_state``."""
    engine = await get_replay_engine()
    return await engine.get_reconstructed_state(state_type, aggregate_id, target_time, as_of=as_of, version=version)


async def get_agent_performance_metrics(agent_id: str, time_window: str | TimeWindow | None = None) -> AgentPerformance:
    """One agent in one window: response times in ms, rates in percent, throughput per minute; see ``AnalyticsEngine``.

    ``time_window``: ``1min 5min 15min 1hour 1day``, ``ANALYTICS_WINDOW_SIZE`` without. Waits first for what this process has
    published. An unknown agent has 0 and None everywhere. Raises SettingsError, a ValueError too, for another name.
    """
    return await (await get_analytics_engine()).get_agent_analytics(agent_id, time_window)


async def get_system_performance_dashboard() -> SystemPerformance:
    """The whole fleet in the default window, with rankings and open alerts; see ``AnalyticsEngine``."""
    return await (await get_analytics_engine()).get_system_analytics()


async def get_analytics_engine() -> AnalyticsEngine:
    """The default roll's analytics engine; the same object at each call in one process and event loop. Raises MissingExtra."""
    return await (await current_roll()).analytics()


async def create_audit_log(
    event_type: str,
    category: str,
    action: str,
    description: str,
    **fields: Any,  # noqa: ANN401  # see NewEntry
) -> AuditEntry:
    """The entry as it was recorded, with its hashes, once it is as durable as its rules demand; see ``audit.recording.recorder``.

    ``fields`` as those of ``audit.recording.new_entry.NewEntry``: ``user_id``, ``agent_id``, ``payload``, ``compliance_frameworks``,
    ``subjects`` (the people it is about), and so on. Raises as ``AuditTrail.create_audit_entry``.
    """
    return await (await get_audit_manager()).create_audit_entry(event_type, category, action, description, **fields)


async def query_audit_trail(  # noqa: PLR0913  # one argument a filter, in the order that is known
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    user_id: str | None = None,
    agent_id: str | None = None,
    task_id: str | None = None,
    category: str | None = None,
    severity: str | None = None,
    outcome: str | None = None,
    compliance_framework: str | None = None,
    limit: int = 1_000,
    offset: int = 0,
    **more: Any,  # noqa: ANN401  # the method's keywords
) -> AuditPage:
    """A page of the trail, newest first; see ``AuditTrail.query_audit_trail``, which takes further keywords."""
    filters = (start_time, end_time, user_id, agent_id, task_id, category, severity, outcome, compliance_framework)
    return await (await get_audit_manager()).query_audit_trail(*filters, limit, offset, **more)


async def get_audit_manager() -> AuditTrail:
    """The default roll's audit trail; the same object at each call in one process and event loop."""
    return (await current_roll()).audit


class PrivacyCompliantEvent(ProtectedEvent):
    """As ``ProtectedEvent``, with the keys of the default settings unless another sealer is given. Raises as ``open_audit_keys``."""

    def __init__(self, event_data: Mapping[str, Any], *, sealer: FieldSealer | None = None) -> None:
        super().__init__(event_data, sealer=sealer or current_field_sealer())


class EventSourcedAgentManager(agents.EventSourcedAgentManager):
    """As the one that ``Roll.agents`` gives. With the default roll's publisher it takes from there what is not given, too."""

    def __init__(
        self,
        event_publisher: agents.Publishes,
        *,
        manager: Any = None,  # noqa: ANN401  # a user's object
        replay: ReplayEngine | None = None,
        outbox: Outbox | None = None,
        **more: Any,  # noqa: ANN401  # as its parent has it
    ) -> None:
        roll = roll_of(event_publisher) if replay is None or outbox is None else None
        super().__init__(event_publisher, manager=manager if roll is None else None, replay=replay, outbox=outbox, **more)
        self._made = None if roll is None else partial(roll.agents, manager, outbox=outbox, list_tasks=more.get("list_tasks"))

    async def parts(self) -> agents.Parts:
        """As its parent; the first use opens what comes from the default roll."""
        if self._made is not None:
            self._parts, self._made = await (await self._made()).parts(), None
        return self._parts


class HybridEventSystem(hybrid.HybridEventSystem):
    """As its parent, on the bus of this process and the default roll unless others are given."""

    def __init__(self, bus: EventBus | None = None, publish: hybrid.Publish | None = None) -> None:
        super().__init__(bus or current_bus(), publish or _publish)


class KafkaNATSBridge(forward.KafkaNATSBridge):
    """As its parent, of the default roll unless another one is given."""

    def __init__(self, target: forward.Forwards | None = None, **options: Any) -> None:  # noqa: ANN401  # as its parent has them
        super().__init__(target or _DefaultRoll(), **options)


class _DefaultRoll:
    async def forward(self, event_types: Collection[str], subject: str) -> None:
        await (await current_roll()).forward(event_types, subject)


async def _publish(event: AgentEvent) -> Any:  # noqa: ANN401  # a receipt, which nobody here reads
    return await (await current_roll()).publish(event)


def _event(
    event_type: str, aggregate_id: str, aggregate_type: str, payload: dict[str, Any] | None, metadata: EventMetadata | None
) -> AgentEvent:
    given: dict[str, Any] = {} if metadata is None else {"metadata": metadata}
    return AgentEvent(event_type, aggregate_id, aggregate_type, payload or {}, **given)
