"""The Python of the README, as a user would type-check it; a test holds the two together."""

import asyncio

from tallyroll import publish_agent_event, publish_task_event, replay_agent_state


async def main() -> None:
    await publish_agent_event("agent.started", "coder-1", {"agent_type": "coder"})
    await publish_task_event("task.started", "task-7", {"agent_id": "coder-1"})
    await publish_task_event("task.completed", "task-7", {"agent_id": "coder-1", "duration_ms": 5200, "tokens": 1830})
    state = await replay_agent_state("coder-1")
    if state is not None:
        print(state["status"], state["tasks_completed"], state["tokens"], state["coverage"])


asyncio.run(main())
