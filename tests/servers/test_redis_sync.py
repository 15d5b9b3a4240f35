"""States in Redis are what a replay comes to, whatever happens to the bridge and to Redis."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import RedisError
from services.redis import RedisServer
from tests.flows.publishing import breathe
from tests.patience import PATIENCE_S
from tests.servers.freezing import others_go_on
from tests.servers.mirroring import history, replayed, states_in
from tests.unit.replay_histories import random_log

from tallyroll.adapters.redis.state_target import RedisStateTarget
from tallyroll.adapters.sqlite.retention import remove_older
from tallyroll.adapters.system import SystemClock
from tallyroll.bridges.state_sync import TOPICS, VIEWS
from tallyroll.events.position import Position
from tallyroll.replay.fold import state_hash
from tallyroll.roll import ARCHIVE_FOLLOWER, REDIS_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.simulate.fleet import Fleet
from tallyroll.telemetry import FOLLOW_CONFLICTS, FOLLOW_RETRIES, REDIS_FOREIGN, REDIS_REBUILDS, REDIS_VIEWS, Counters
from tallyroll.testing.builders import EventBuilder

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as running:
        yield running


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_whatever_happens_states_are_those_of_a_replay(server: RedisServer, seed: int) -> None:
    rng = Random(seed)  # noqa: S311  # histories, not secrets
    log = random_log(rng, 120)
    with Redis(port=server.port) as redis:
        redis.flushall()

        async def run() -> None:
            await history(partial(RedisStateTarget, "127.0.0.1", server.port), log, rng, turns=90, wipe=redis.flushall)
            found = {owner: sha256(body).hexdigest() for owner, body in states_in(redis).items()}
            assert found == await replayed(log)

        asyncio.run(run())


class Careless(RedisStateTarget):
    """Gives parts as if they ended where their writer stood: what was written before a crash is then counted twice."""

    async def parts(self, fold_id, wanted):
        return {where: (0, data) for where, (_, data) in (await super().parts(fold_id, wanted)).items()}


async def test_the_comparison_notices_a_record_that_was_counted_twice(server: RedisServer) -> None:
    with Redis(port=server.port) as redis:
        for seed in range(20):
            rng = Random(seed)  # noqa: S311  # histories, not secrets
            log = random_log(rng, 120)
            redis.flushall()
            await history(partial(Careless, "127.0.0.1", server.port), log, rng, turns=90, wipe=lambda: None)
            if {owner: sha256(body).hexdigest() for owner, body in states_in(redis).items()} != await replayed(log):
                return
    pytest.fail("no history has shown the difference")


@asynccontextmanager
async def mirrored(server: RedisServer, folder: Path, **more: object) -> AsyncIterator[tuple[Roll, Redis, Counters]]:
    """A roll whose states are kept in Redis, and a client that looks."""
    options = Settings(url=f"sqlite:///{folder / 'log'}", redis_host="127.0.0.1", redis_port=server.port, **more)
    counters = Counters()
    with Redis(port=server.port) as redis:
        async with Roll.open(options, telemetry=counters) as roll:
            await roll.follow(REDIS_FOLLOWER)
            yield roll, redis, counters


async def until(condition: Callable[[], object]) -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + PATIENCE_S
    while True:
        try:
            if condition():
                return
        except RedisError:
            pass
        assert clock.monotonic() < deadline, "the condition did not come"
        await breathe()


async def wanted(roll: Roll) -> dict[str, str]:
    """What should be in Redis."""
    found = {}
    for view in VIEWS:
        states = (await roll.replay(view)).states
        found |= {f"{view.name}:{owner}": state_hash(state) for owner, state in states.items()}
    return found


async def assert_mirrored(roll: Roll, redis: Redis) -> None:
    ends = await roll.log.ends([roll.catalogue[base].name for base in TOPICS])
    for partition, end in ends.items():
        assert not end or await roll.caught_up(Position(*partition, end - 1), PATIENCE_S, follower=REDIS_FOLLOWER)
    want = await wanted(roll)
    await until(lambda: {owner: sha256(body).hexdigest() for owner, body in states_in(redis).items()} == want)


def fleet(seed: int, events: int = 400) -> list:
    return list(Fleet(seed=seed, agents=5).run(events=events))


async def test_states_lag_and_metrics(server: RedisServer, tmp_path: Path) -> None:
    async with mirrored(server, tmp_path) as (roll, redis, counters):
        await roll.publish_batch(fleet(1))
        await assert_mirrored(roll, redis)
        assert sum(lag.records for lag in await roll.lag(REDIS_FOLLOWER)) == 0
        assert counters.value(REDIS_VIEWS) >= len(states_in(redis))
        assert counters.value(REDIS_FOREIGN) == counters.value(FOLLOW_CONFLICTS) == counters.value(FOLLOW_RETRIES) == 0


async def test_states_that_nobody_asks_for_are_pushed_without_waiting_for_the_interval(server: RedisServer, tmp_path: Path) -> None:
    async with mirrored(server, tmp_path, flush_interval_ms=600_000) as (roll, redis, _):
        listener = redis.pubsub(ignore_subscribe_messages=True)
        listener.subscribe("tallyroll:agent:planner:state")
        listener.get_message(timeout=PATIENCE_S)
        loop = await roll.follow(REDIS_FOLLOWER)
        await until(lambda: loop.assignment)
        await roll.publish(EventBuilder(1).event("agent.started", aggregate_id="planner", aggregate_type="agent"))
        message = None
        while message is None:
            message = listener.get_message()
            await breathe()
        assert b'"status":"running"' in message["data"]
        listener.close()


@pytest.mark.fault
@pytest.mark.parametrize("fault", ["killed", "flushed", "flushed idle", "killed idle", "older"])
async def test_a_redis_that_forgets_is_made_anew(fault: str, server: RedisServer, tmp_path: Path) -> None:
    async with mirrored(server, tmp_path) as (roll, redis, counters):
        await roll.publish_batch(fleet(1))
        await assert_mirrored(roll, redis)
        first = await begun(roll)
        assert counters.value(REDIS_REBUILDS) == first
        redis.set("theirs", b"1")
        if fault == "older":
            redis.save()
        if "idle" not in fault:
            await roll.publish_batch(fleet(2))
        if fault.startswith("flushed"):
            redis.flushall()
        else:
            server.kill()
            if "idle" not in fault:
                await roll.publish_batch(fleet(3))
            server.restart()
        await assert_mirrored(roll, redis)
        assert redis.get("theirs") == (b"1" if fault == "older" else None)
        # A partition that the older state has not may have been begun before it came back: then it is begun again.
        again, fresh = counters.value(REDIS_REBUILDS) - first, await begun(roll) - first
        assert (again <= 2 * fresh) == (fault == "older")


async def begun(roll: Roll) -> int:
    """How many partitions have a state of anything: each is begun once, if nothing is lost."""
    return sum(lag.end > 0 for lag in await roll.lag(REDIS_FOLLOWER))


@pytest.mark.fault
async def test_a_redis_with_a_file_goes_on_after_kill_9_without_a_rebuild(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", appendonly=True) as server:
        async with mirrored(server, tmp_path) as (roll, redis, counters):
            await roll.publish_batch(fleet(1))
            await assert_mirrored(roll, redis)
            for seed in (2, 3):
                await roll.publish_batch(fleet(seed))
                server.kill()
                server.restart()
            await assert_mirrored(roll, redis)
            assert counters.value(REDIS_REBUILDS) == await begun(roll)


@pytest.mark.fault
async def test_a_frozen_redis_holds_up_nobody_else(server: RedisServer, tmp_path: Path) -> None:
    async with mirrored(server, tmp_path) as (roll, redis, counters):
        await roll.publish_batch(fleet(1))
        await assert_mirrored(roll, redis)
        await others_go_on(server, roll, counters, REDIS_FOLLOWER, lambda number: fleet(number + 2, 50))
        await assert_mirrored(roll, redis)


@pytest.mark.fault
async def test_redis_may_be_away_at_the_start(server: RedisServer, tmp_path: Path) -> None:
    server.kill()
    async with mirrored(server, tmp_path) as (roll, redis, _):
        await roll.publish_batch(fleet(1))
        loop = await roll.follow(REDIS_FOLLOWER)
        await until(lambda: loop.assignment)
        server.restart()
        await assert_mirrored(roll, redis)


async def test_a_second_bridge_takes_over_and_the_first_one_yields(server: RedisServer, tmp_path: Path) -> None:
    async with mirrored(server, tmp_path) as (roll, redis, counters):
        await roll.publish_batch(fleet(1))
        await assert_mirrored(roll, redis)
        async with mirrored(server, tmp_path, group_prefix="another") as (other, _, _):  # by mistake: in a group of its own
            sync = next(f"tallyroll:sync:{lag.partition}" for lag in await roll.lag(REDIS_FOLLOWER) if lag.end)
            epoch, number = int(redis.hget(sync, "epoch")), 2
            while int(redis.hget(sync, "epoch")) == epoch:  # who is first with a batch has it: sooner or later the other is
                await other.publish_batch(fleet(number))
                await assert_mirrored(other, redis)
                number += 1
                assert number < 200, "the other one never came to write"
        await roll.publish_batch(fleet(1_000))
        await assert_mirrored(roll, redis)
        await until(lambda: counters.value(FOLLOW_CONFLICTS) > 0)


def forget(folder: Path, before_ms: int) -> None:
    """As retention does, at once."""
    with sqlite3.connect(folder / "log.db") as connection:
        for (number,) in connection.execute("SELECT number FROM partitions").fetchall():
            remove_older(connection, number, before_ms)
    connection.close()


async def test_what_the_log_has_forgotten_comes_from_the_archive(server: RedisServer, tmp_path: Path) -> None:
    async with mirrored(server, tmp_path) as (roll, redis, _):
        await roll.publish_batch(fleet(1, 1_000))
        loop = await roll.follow(ARCHIVE_FOLLOWER)
        for partition, end in (await roll.log.ends([one.name for one in roll.catalogue.topics if one.user])).items():
            assert not end or await loop.caught_up(Position(*partition, end - 1), PATIENCE_S)
        await loop.stop()
        await asyncio.to_thread(roll.archive().keeper.seal_all, await roll.archive_partitions())
        moment = SystemClock().now_us() // 1_000 + 1
        await until(lambda: SystemClock().now_us() // 1_000 > moment)
        await roll.publish_batch(fleet(2))
        await assert_mirrored(roll, redis)
        want = await wanted(roll)
    forget(tmp_path / "log", moment)
    with Redis(port=server.port) as redis:
        redis.flushall()
        async with mirrored(server, tmp_path) as (roll, _, counters):
            assert any((await roll.log.starts(["task-events"])).values())
            await until(lambda: {owner: sha256(body).hexdigest() for owner, body in states_in(redis).items()} == want)
            assert counters.value(FOLLOW_CONFLICTS) == counters.value(FOLLOW_RETRIES) == 0  # nobody else writes, nothing was away


async def test_who_waits_for_what_another_member_writes_holds_nothing_of_it(server: RedisServer, tmp_path: Path) -> None:
    async with mirrored(server, tmp_path) as (roll, _, _), mirrored(server, tmp_path) as (other, _, counters):
        loops = [await one.follow(REDIS_FOLLOWER) for one in (roll, other)]
        await until(lambda: all(loop.assignment for loop in loops) and not loops[0].assignment & loops[1].assignment)
        clock, seed = SystemClock(), 0
        over = clock.monotonic() + 2.5  # twice as long as it takes until a bridge looks at what it holds
        while clock.monotonic() < over:
            seed += 1
            await roll.publish_batch(fleet(seed, 200))
            for partition, end in (await roll.log.ends([roll.catalogue[base].name for base in TOPICS])).items():
                assert not end or await other.caught_up(Position(*partition, end - 1), PATIENCE_S, follower=REDIS_FOLLOWER)
        assert counters.value(FOLLOW_CONFLICTS) == 0
