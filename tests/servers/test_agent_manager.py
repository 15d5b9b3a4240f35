"""A manager that keeps its tasks in Redis: killed between any two steps, each task has one event, and each event a task."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from services.redis import RedisServer
from tests.servers import crashing_manager
from tests.servers.crashing_manager import REQUEST, STEPS, RedisManager

from tallyroll.adapters.redis.outbox import RedisOutbox
from tallyroll.adapters.system import SystemClock
from tallyroll.bridges.agents import EventSourcedAgentManager
from tallyroll.bridges.outbox import STALE_S
from tallyroll.bridges.tasks import asked_of, created_event, created_us_of
from tallyroll.errors import StoreUnavailable
from tallyroll.roll import Roll
from tallyroll.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", appendonly=True) as running:
        yield running


class Later(SystemClock):
    """The clock of who comes when every lease is over."""

    def now_us(self) -> int:
        return super().now_us() + int(2 * STALE_S * 1_000_000)


async def told(roll: Roll) -> list[tuple[str, str]]:
    return [(seen.event.aggregate_id, seen.event.event_id) async for seen in roll.tail()]


def killed(folder: Path, port: int, step: str) -> None:
    arguments = [sys.executable, crashing_manager.__file__, str(folder), str(port), step]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr


async def test_killed_between_any_two_steps_each_task_has_one_event(server: RedisServer, tmp_path: Path) -> None:
    folder = tmp_path / "roll"
    for step in STEPS:
        killed(folder, server.port, step)
    manager, outbox = RedisManager(server.port), RedisOutbox("127.0.0.1", server.port)
    tasks = {task.id: task for task in await manager.list_tasks()}
    assert len(tasks) == len(STEPS) - 2  # two processes were killed before they had asked the manager
    async with Roll.open(f"sqlite:///{folder}", clock=Later()) as roll:
        before = await told(roll)
        assert len(before) == len(STEPS) - STEPS.index("delivered")
        agents = EventSourcedAgentManager(roll.publisher, manager=manager, replay=await roll.replay_engine(), outbox=outbox)
        for _ in range(2):
            await agents.sweep()
        after = await told(roll)
        assert set(after) == {(name, created_event(name, created_us_of(task), asked_of(REQUEST)).event_id) for name, task in tasks.items()}
        assert len(after) == len(tasks)
        histories = [await agents.get_aggregate_history("task", name) for name in tasks]
        assert [[event["payload"]["created_by"] for event in history] for history in histories] == [["ada"]] * len(tasks)
    assert list(await outbox.rows()) == []
    assert await manager.redis.hgetall("task:t1") == {"agent_type": "analyst", "created_at": tasks["t1"].created_at}
    await outbox.close()
    await manager.redis.aclose()


async def test_while_redis_is_down_no_task_is_made_and_afterwards_all_is_well(server: RedisServer, tmp_path: Path) -> None:
    settings = Settings(url="sqlite://:memory:", redis_host="127.0.0.1", redis_port=server.port, data_dir=tmp_path)
    manager = RedisManager(server.port)
    async with Roll.open(settings) as roll:
        agents = await roll.agents(manager)
        server.kill()
        with pytest.raises(StoreUnavailable):
            await agents.create_task(REQUEST)
        server.restart()
        assert (await agents.create_task(REQUEST)).id == "t1"
        assert [name for name, _ in await told(roll)] == ["t1"]
    with Redis(port=server.port) as redis:
        assert sorted(redis.keys()) == [b"task:t1", b"tasks:number"]
    await manager.redis.aclose()
