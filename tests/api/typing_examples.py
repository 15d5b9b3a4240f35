"""How users' code reads to a type checker; checked with mypy strict, never run."""

from datetime import UTC, datetime

import tallyroll
from tallyroll import (
    AgentEvent,
    AuditEventCategory,
    AuditSeverity,
    ComplianceFramework,
    Delivered,
    EventType,
    Receipt,
    Rejected,
    Roll,
    Settings,
    StateType,
    Undecodable,
    Unknown,
)
from tallyroll.audit.verify import Trust, verify_proof
from tallyroll.replay.shown import AgentState, TaskState


async def publish_one(roll: Roll) -> Receipt:
    return await roll.publish(AgentEvent(EventType.TASK_STARTED, "task-1", "task", {"agent_id": "agent-1"}))


async def outcomes(roll: Roll, events: list[AgentEvent]) -> list[str]:
    texts = []
    for outcome in await roll.publish_batch(events):
        match outcome:
            case Delivered(position):
                texts.append(str(position))
            case Rejected(error):
                texts.append(str(error))
            case Unknown(error, kept):
                texts.append(f"{error} {kept}")
    return texts


async def state() -> str | None:
    async with Roll.open(Settings(url="sqlite://:memory:")) as roll:
        found = await roll.agent_state("agent-1")
        return found["status"] if found else None


async def known_names() -> tuple[str, int]:
    event_id = await tallyroll.publish_agent_event(EventType.AGENT_STARTED, "agent-1", {"agent_type": "coder"})
    agent: AgentState | None = await tallyroll.replay_agent_state("agent-1", datetime.now(UTC))
    task: TaskState | None = await tallyroll.replay_task_state("task-1")
    tokens = agent["tokens"] + task["tokens"] if agent is not None and task is not None else 0
    numbers = await tallyroll.get_agent_performance_metrics("agent-1", time_window="1hour")
    return event_id, tokens + numbers["events_processed"]


async def looking(roll: Roll) -> list[str]:
    deeds = [f"{seen.position.offset} {seen.event.event_type}" for seen in await roll.agent_timeline("agent-1")]
    newest = [str(seen.event) if isinstance(seen.event, Undecodable) else seen.event.event_type async for seen in roll.tail(last=5)]
    answer = await (await roll.replay_engine()).replay_events(StateType.AGENT_STATE)
    return [*deeds, *newest, *answer["reconstructed_states"]]


async def audited(roll: Roll, proof: bytes) -> list[str]:
    entry = await roll.audit.create_audit_entry(
        "customer.read",
        AuditEventCategory.DATA_ACCESS,
        "read",
        "looked up",
        severity=AuditSeverity.HIGH,
        user_id="anna",
        compliance_frameworks={ComplianceFramework.GDPR},
    )
    again = await roll.audit.get_audit_entry(entry.audit_id)
    page = await roll.audit.query_audit_trail(user_id="anna", limit=10)
    proven = verify_proof(proof, Trust(today=0)).coverage["proven"]["env"]["event_type"]
    return [again.action if again else "", str(proven), *(one["event_type"] for one in page["entries"])]
