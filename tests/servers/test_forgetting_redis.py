"""With states, outbox and alerts in a real Redis: who was forgotten is nowhere in it, nor in any file, topic or log line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis
from services.redis import RedisServer
from tests.flows.publishing import breathe
from tests.flows.test_forgetting import entry, files_with
from tests.patience import PATIENCE_S

from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.opening import open_field_sealer
from tallyroll.ports import Encoded
from tallyroll.publish.privacy import sealing
from tallyroll.roll import ANALYTICS_FOLLOWER, ARCHIVE_FOLLOWER, AUDIT_FOLLOWER, REDIS_FOLLOWER, STATE_FOLLOWER, Roll
from tallyroll.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.slow]

CANARY = "canary.customer@mail.example"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", appendonly=True) as running:
        yield running


def held_in(redis: Redis) -> dict[bytes, bytes]:
    """Everything in it: each key with all that it holds, as text."""
    readers = {
        b"string": redis.get, b"hash": redis.hgetall, b"set": redis.smembers, b"list": lambda key: redis.lrange(key, 0, -1),
        b"zset": lambda key: redis.zrange(key, 0, -1, withscores=True), b"stream": redis.xrange,
    }  # fmt: skip
    return {key: repr(readers[redis.type(key)](key)).encode() for key in redis.scan_iter()}


class Manager:
    """A manager as users have one; it keeps nothing of the person itself."""

    async def create_task(self, _request: object) -> object:
        return SimpleNamespace(id="task-of-manager", agent_type="support", created_at="2026-01-01T00:00:00+00:00")


async def test_nothing_of_who_was_forgotten_is_left_in_redis(server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="tallyroll")
    settings = Settings(
        url=f"sqlite:///{tmp_path / 'log'}", archive_dir=tmp_path / "archive", redis_host="127.0.0.1", redis_port=server.port
    )
    names = (STATE_FOLLOWER, ARCHIVE_FOLLOWER, ANALYTICS_FOLLOWER, REDIS_FOLLOWER, AUDIT_FOLLOWER)
    sealer, close = open_field_sealer(settings)
    with Redis(port=server.port) as redis:
        async with Roll.open(settings, processors=[sealing(sealer)]) as roll:
            for number in range(3):
                payload = {
                    "agent_id": "agent-1", "customer_id": "cust-9", "email": CANARY, "step": number, "error": f"refused by {CANARY}",
                    "configuration": {"reply_to": CANARY},
                }  # fmt: skip
                await roll.publish(AgentEvent("task.started", f"t-{number}", "task", payload, EventMetadata(user_id=CANARY)))
                await roll.publish(AgentEvent("agent.created", "agent-1", "agent", payload))
                await roll.publish(AgentEvent("task.failed", f"t-{number}", "task", payload))
            await (await roll.agents(Manager())).create_task(
                SimpleNamespace(agent_type="support", task_description=f"answer {CANARY}", env_vars={"USER": CANARY, "CUSTOMER": "cust-9"})
            )
            published, *_ = [seen.event async for seen in roll.tail(last=1)]
            broken = Encoded(published.event_id, "task-events", 0, b"task:t-0", b"{" + encode(published), [], 0)
            (outcome,) = await roll.log.append([broken]).settled()
            await roll.audit.create_audit_entries([entry("cust-9", f"is {CANARY}"), entry("cust-77", f"a friend of cust-9, {CANARY}")])
            for name in names:
                await roll.follow(name)
                for position in (outcome.position, *roll.publisher.last_positions()):
                    assert await roll.caught_up(position, PATIENCE_S, follower=name)
            while redis.hlen("tallyroll:outbox"):
                await breathe()
            assert any(b"agent-1" in key for key in held_in(redis)), "there are states in it"
            for name in ("cust-9", CANARY):
                assert (await roll.audit.anonymize_subject_data(name, reason="ticket 4711")).state == "done"
            assert (await roll.audit.verify_audit_integrity())["findings"] == []
        left = held_in(redis)
        redis.bgrewriteaof()  # its own journal holds what was in the outbox until the log had it
        while redis.info("persistence")["aof_rewrite_in_progress"] or redis.info("persistence")["aof_rewrite_scheduled"]:
            await breathe()
    close()
    canary = CANARY.encode()
    assert [key for key, held in left.items() if canary in key or canary in held] == []
    assert CANARY not in caplog.text
    assert [str(path.relative_to(tmp_path)) for path in files_with(canary, tmp_path)] == []
