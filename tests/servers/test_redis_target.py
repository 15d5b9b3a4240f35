"""Redis keeps the contract of state targets, and touches no key that somebody else owns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from services.redis import RedisServer
from tests.patience import PATIENCE_S

from tallyroll.adapters.redis import scripts, state_target
from tallyroll.adapters.redis.state_target import RedisStateTarget
from tallyroll.errors import SettingsError, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Claim, ViewsWritten
from tallyroll.testing.state_target_contract import CASES, Case

pytestmark = pytest.mark.server

ONE = TopicPartition("task-events", 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(Path(tmp_path_factory.mktemp("redis"))) as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    with Redis(port=server.port) as client:
        client.flushall()
        yield client


def target(server: RedisServer, **options: object) -> RedisStateTarget:
    return RedisStateTarget("127.0.0.1", server.port, **options)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_contract(case: Case, server: RedisServer, redis: Redis) -> None:
    await case(partial(target, server))
    assert redis.dbsize() < 10


class Unfenced(RedisStateTarget):
    async def write_parts(self, claims, parts):
        [(claim, end)] = claims
        stored = (await self.progress([claim.partition])).get(claim.partition)
        token = (await self._client.hget(self._sync(claim.partition), "token") or b"").decode()
        return await super().write_parts([(claim._replace(token=token, next=stored and stored.next), end)], parts)


@pytest.mark.usefixtures("redis")
async def test_the_contract_notices_a_target_that_does_not_fence(server: RedisServer) -> None:
    case = next(case for case in CASES if case.__name__ == "the_newest_claim_writes_and_no_other")
    with pytest.raises(AssertionError, match="refused"):
        await case(lambda: Unfenced("127.0.0.1", server.port))


@pytest.mark.usefixtures("redis")
async def test_the_contract_notices_offsets_that_are_compared_as_doubles(server: RedisServer) -> None:
    class Doubles(RedisStateTarget):
        def __init__(self, *options: object) -> None:
            super().__init__(*options)
            self._parts = self._client.register_script(
                scripts.PARTS.replace("old:sub(17, 35) < last", "tonumber(old:sub(17, 35)) < tonumber(last)")
            )

    case = next(case for case in CASES if case.__name__ == "a_part_never_goes_back")
    with pytest.raises(AssertionError, match="one further"):
        await case(lambda: Doubles("127.0.0.1", server.port))


FOREIGN = {
    "string": lambda redis, key: redis.set(key, b"theirs", ex=10_000),
    "hash": lambda redis, key: redis.hset(key, "a", "1"),
    "list": lambda redis, key: redis.rpush(key, "a"),
    "set": lambda redis, key: redis.sadd(key, "a"),
    "zset": lambda redis, key: redis.zadd(key, {"a": 1}),
    "stream": lambda redis, key: redis.xadd(key, {"a": "1"}),
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_key_of_somebody_else_is_left_as_it_is(kind: str, server: RedisServer, redis: Redis) -> None:
    key = "agent:a:state"
    FOREIGN[kind](redis, key)
    before, ttl = redis.dump(key), redis.ttl(key)
    ours = target(server, prefix="")
    [claim] = await ours.acquire([Claim(ONE, "fold", None)])
    merged = await ours.write_parts([(claim, 1)], {"agent:a": {ONE: b"x"}, "agent:b": {ONE: b"x"}})
    views = [(owner, one.change, b'"view"') for owner, one in merged.items()]
    assert await ours.write_views(views, "fold") == ViewsWritten(1, 1)
    assert redis.dump(key) == before
    assert abs(redis.ttl(key) - ttl) < 60
    assert redis.get("agent:b:state") == b'"view"'
    await ours.close()


async def test_our_key_that_somebody_has_overwritten_is_theirs_from_then_on(server: RedisServer, redis: Redis) -> None:
    ours = target(server, prefix="")
    [claim] = await ours.acquire([Claim(ONE, "fold", None)])
    for end, theirs in ((1, None), (2, b"theirs"), (3, None)):
        change = (await ours.write_parts([(claim, end)], {"agent:a": {ONE: b"%d" % end}}))["agent:a"].change
        if theirs is not None:
            redis.set("agent:a:state", theirs)
        written = await ours.write_views([("agent:a", change, b"%d" % end)], "fold")
        assert written == (ViewsWritten(1, 0) if end == 1 else ViewsWritten(0, 1))
    assert redis.get("agent:a:state") == b"theirs"
    redis.delete("agent:a:state")  # free again
    assert await ours.write_views([("agent:a", 3, b"3")], "fold") == ViewsWritten(1, 0)
    await ours.close()


async def answered(ours: RedisStateTarget) -> None:
    """Asks until there is an answer: a machine may be slower than what a target waits for."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(StoreUnavailable):
                await ours.progress([ONE])
                return


@pytest.mark.fault
async def test_a_server_that_does_not_answer_is_waited_for_once(server: RedisServer, redis: Redis) -> None:
    ours = target(server, timeout_s=0.5)
    await answered(ours)
    before = redis.info("stats")["total_connections_received"]
    server.freeze()
    try:
        with pytest.raises(StoreUnavailable, match="TimeoutError"):
            await ours.progress([ONE])
    finally:
        server.thaw()
    with Redis(port=server.port) as later:  # connections are taken in order
        assert later.info("stats")["total_connections_received"] == before + 1, "it has connected and asked again"
    await answered(ours)
    await ours.close()


async def test_who_listens_on_the_channel_of_a_state_is_told_once(server: RedisServer, redis: Redis) -> None:
    listener = redis.pubsub(ignore_subscribe_messages=True)
    listener.psubscribe("tallyroll:agent:*:state")
    listener.get_message(timeout=PATIENCE_S)
    ours = target(server)
    [claim] = await ours.acquire([Claim(ONE, "fold", None)])
    change = (await ours.write_parts([(claim, 1)], {"agent:a": {ONE: b"x"}}))["agent:a"].change
    for _ in range(2):
        await ours.write_views([("agent:a", change, b'"view"')], "fold")
    await ours.close()
    message = listener.get_message(timeout=PATIENCE_S)
    assert (message["channel"], message["data"]) == (b"tallyroll:agent:a:state", b'"view"')
    assert listener.get_message() is None
    listener.close()


@pytest.mark.usefixtures("redis")
async def test_tenants_do_not_meet(server: RedisServer) -> None:
    for tenant in ("one.", "two."):
        ours = target(server, tenant=tenant)
        [claim] = await ours.acquire([Claim(ONE, "fold", None)])
        merged = await ours.write_parts([(claim, 1)], {"agent:a": {ONE: tenant.encode()}})
        assert dict(merged["agent:a"].parts) == {ONE: tenant.encode()}
        await ours.close()


async def test_a_server_that_evicts_any_key_is_refused(server: RedisServer, redis: Redis) -> None:
    redis.config_set("maxmemory-policy", "allkeys-lru")
    redis.config_set("maxmemory", "1gb")
    ours = target(server)
    try:
        with pytest.raises(SettingsError, match="maxmemory-policy"):
            await ours.progress([ONE])
    finally:
        redis.config_set("maxmemory", "0")
        await ours.close()


async def test_a_frozen_server_is_unavailable_and_scripts_are_loaded_again_after_a_restart(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as own:
        ours, hasty = RedisStateTarget("127.0.0.1", own.port), RedisStateTarget("127.0.0.1", own.port, timeout_s=0.2)
        await ours.acquire([Claim(ONE, "fold", None)])
        own.freeze()
        try:
            with pytest.raises(StoreUnavailable, match="TimeoutError"):
                await hasty.progress([ONE])
        finally:
            own.thaw()
        own.kill()
        with pytest.raises(StoreUnavailable):
            await ours.progress([ONE])
        own.restart()
        assert await ours.progress([ONE]) == {}
        [claim] = await ours.acquire([Claim(ONE, "fold", None)])
        assert set(await ours.write_parts([(claim, 1)], {"agent:a": {ONE: b"x"}})) == {"agent:a"}
        await ours.close()
        await hasty.close()


def test_the_length_of_a_mark_is_that_of_the_scripts() -> None:
    assert f":sub(1, {state_target._FOLD_CHARS})" in scripts.PARTS
    assert f":sub(17, {state_target._MARK_CHARS})" in scripts.PARTS
