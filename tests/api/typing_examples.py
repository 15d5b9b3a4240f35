"""How users' code reads to a type checker; checked with mypy strict, never run."""

from datetime import UTC, datetime

import tallyroll
from tallyroll import AgentEvent, Delivered, EventType, Receipt, Rejected, Roll, Settings, Unknown


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


async def known_names() -> str:
    event_id = await tallyroll.publish_agent_event(EventType.AGENT_STARTED, "agent-1", {"agent_type": "coder"})
    await tallyroll.replay_agent_state("agent-1", datetime.now(UTC))
    return event_id
