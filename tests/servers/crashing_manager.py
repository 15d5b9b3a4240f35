"""A program that creates a task and is killed at a step on the way; run by the tests of the manager.

``python crashing_manager.py FOLDER PORT STEP``
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from redis.asyncio import Redis

from tallyroll.adapters.redis.outbox import RedisOutbox
from tallyroll.roll import Roll

STEPS = ("asked", "intended", "made", "ready", "delivered", "removed")
"""What was done last: the manager is asked after ``intended``, and the event published after ``ready``."""

REQUEST = SimpleNamespace(agent_type="analyst", task_description="look at it", env_vars={"USER": "ada"})

Reached = Callable[[str], None]


class RedisManager:
    """An existing manager, as users have one: a hash per task, under its own names."""

    def __init__(self, port: int, reached: Reached = lambda _: None) -> None:
        self.redis = Redis(port=port, decode_responses=True)
        self._reached = reached

    async def create_task(self, request: Any) -> Any:
        task_id = f"t{await self.redis.incr('tasks:number')}"
        fields = {"agent_type": request.agent_type, "created_at": datetime.now(UTC).isoformat()}
        await self.redis.hset(f"task:{task_id}", mapping=fields)
        self._reached("made")
        return SimpleNamespace(id=task_id, **fields)

    async def list_tasks(self) -> list[Any]:
        return [SimpleNamespace(id=key[5:], **await self.redis.hgetall(key)) async for key in self.redis.scan_iter("task:t*")]


class WatchedOutbox(RedisOutbox):
    """Tells of each step."""

    reached: Reached

    async def put(self, row):
        self.reached("asked")
        await super().put(row)
        self.reached("intended")

    async def ready(self, row_id, event, until_us):
        added = await super().ready(row_id, event, until_us)
        self.reached("ready")
        return added

    async def remove(self, row_id):
        self.reached("delivered")
        await super().remove(row_id)
        self.reached("removed")


async def main(folder: str, port: int, last: str) -> None:
    def reached(step: str) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    async with Roll.open(f"sqlite:///{folder}") as roll:
        outbox = WatchedOutbox("127.0.0.1", port)
        outbox.reached = reached
        await (await roll.agents(RedisManager(port, reached), outbox=outbox)).create_task(REQUEST)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
