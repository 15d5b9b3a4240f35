"""From an event to each place: the followers are a process of their own; load and onlookers are in this one and share a clock."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from confluent_kafka import Message, Producer

from bench.service import LOG, send_at, serving
from bench.workload import percentile
from tallyroll.adapters.redis.state_target import RedisStateTarget
from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore
from tallyroll.adapters.sqlite.state_store import SqliteStateStore
from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.audit.ledger.layout import take_out
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.events.types import TASK_TOPIC
from tallyroll.roll import FOLLOWERS
from tallyroll.settings import Settings

if TYPE_CHECKING:
    from nats.aio.msg import Msg

_LOOK_S: Final = 0.02  # onlookers share the cores: looking oftener would slow down what is looked at
_PROBES_PER_S: Final = 10
_PATIENCE_S: Final = 120

_PLACES: Final = {"analytics": "metrics", "audit": "trail", "state": "state", "redis": "Redis"}

Heads = Callable[[], Awaitable[Mapping[TopicPartition, int]]]


class Probe(NamedTuple):
    """An event whose ways are followed: where it is in the log, and when it was handed to the client, in ns of a clock that only rises."""

    where: TopicPartition
    offset: int
    sent_ns: int


class Change(NamedTuple):
    """A state that was pushed: when it came, and how many ended tasks it counts."""

    came_ns: int
    ended: int


def measure(settings: Settings, rate: int, seconds: int, followers: Sequence[str] = FOLLOWERS, *, processes: int = 1) -> dict[str, Any]:
    """Percentiles of the time until an event can be seen in each place, while ``rate`` events/s pass these followers."""
    with serving(settings, *followers, processes=processes):
        return {**asyncio.run(_measure(settings, rate, seconds, followers)), "processes": processes}


async def _measure(settings: Settings, rate: int, seconds: int, followers: Sequence[str]) -> dict[str, Any]:
    catalogue = catalogue_of(settings)
    probes: dict[str, Probe] = {}
    async with AsyncExitStack() as stack:
        every = await _places(settings, stack, catalogue)
        places = {place: every[follower] for follower, place in _PLACES.items() if follower in followers}
        came: dict[str, dict[str, int]] = {place: {} for place in places}
        if "nats" in followers:
            came["NATS"] = {}
            await stack.enter_async_context(_listening(settings, came["NATS"]))
        pushed: list[Change] = []
        if "redis" in followers:
            await stack.enter_async_context(_subscribed(settings, pushed))
        await asyncio.to_thread(_send_first, settings, catalogue)
        await _until_caught_up(settings, followers)
        before = await _ended(settings) if "redis" in followers else 0
        probe = partial(_probe, catalogue=catalogue, probes=probes)
        load = partial(send_at, rate, settings, catalogue, seconds, probes_per_s=_PROBES_PER_S, probe=probe)
        sending = asyncio.create_task(asyncio.to_thread(load))
        looks = [asyncio.create_task(_look(heads, probes, came[place])) for place, heads in places.items()]
        reached = await sending
        until = time.monotonic() + _PATIENCE_S
        while any(len(seen) < len(probes) for seen in came.values()) and time.monotonic() < until:  # noqa: ASYNC110  # below
            await asyncio.sleep(0.1)  # noqa: TID251  # the benchmark looks on from outside
        for look in looks:
            look.cancel()
        if "redis" in followers:
            came["subscriber of Redis"] = _told(pushed, probes, before)
    return {
        "followers": list(followers), "rate_asked": rate, "rate_reached": reached, "probes": len(probes),
        "places": {place: _figures(seen, probes) for place, seen in came.items()},
    }  # fmt: skip


def _figures(seen: Mapping[str, int], probes: Mapping[str, Probe]) -> dict[str, Any]:
    took = sorted((seen[one] - probe.sent_ns) / 1e6 for one, probe in probes.items() if one in seen)
    if not took:
        return {"seen": 0, "p50_ms": None, "p99_ms": None, "worst_ms": None}
    return {"seen": len(took), "p50_ms": percentile(took, 50), "p99_ms": percentile(took, 99), "worst_ms": took[-1]}


async def _places(settings: Settings, stack: AsyncExitStack, catalogue: Catalogue) -> dict[str, Heads]:
    """How far the place of each follower is, as a reader of it would find."""
    states = await SqliteStateStore.open(settings.data_dir / "state.db")
    windows = await SqliteWindowStore.open(settings.data_dir / "analytics.db")
    ledger = await SqliteLedgerStore.open(settings.data_dir / "audit" / "ledger.sqlite", take_out)
    redis = RedisStateTarget(settings.redis_host, settings.redis_port, tenant=settings.topic_prefix)
    for store in (states, windows, ledger, redis):
        stack.push_async_callback(store.close)
    tasks = catalogue.partitions([TASK_TOPIC])

    async def state_heads() -> Mapping[TopicPartition, int]:
        return {where: progress.next for where, progress in (await states.load_progress(tasks)).items()}

    async def window_heads() -> Mapping[TopicPartition, int]:
        return {where: progress.next for where, progress in (await windows.load_progress(tasks)).items()}

    async def ledger_heads() -> Mapping[TopicPartition, int]:
        return await ledger.progress(tasks)

    async def redis_heads() -> Mapping[TopicPartition, int]:
        return {where: progress.next for where, progress in (await redis.progress(tasks)).items()}

    return {"analytics": window_heads, "audit": ledger_heads, "state": state_heads, "redis": redis_heads}


async def _look(heads: Heads, probes: Mapping[str, Probe], seen: dict[str, int]) -> None:
    while True:
        found = await heads()
        now = time.monotonic_ns()
        for event_id, probe in list(probes.items())[-1_000:]:
            if event_id not in seen and found.get(probe.where, 0) > probe.offset:
                seen[event_id] = now
        await asyncio.sleep(_LOOK_S)  # noqa: TID251


@asynccontextmanager
async def _listening(settings: Settings, seen: dict[str, int]) -> AsyncIterator[None]:
    import nats

    connection = await nats.connect(settings.nats_servers)

    async def came(message: Msg) -> None:
        seen.setdefault((message.headers or {}).get("Nats-Msg-Id", ""), time.monotonic_ns())

    await connection.subscribe("agents.probe.status", cb=came)
    try:
        yield
    finally:
        await connection.close()


@asynccontextmanager
async def _subscribed(settings: Settings, changes: list[Change]) -> AsyncIterator[None]:
    from redis.asyncio import Redis

    async with Redis(host=settings.redis_host, port=settings.redis_port) as client, client.pubsub() as channel:
        await channel.subscribe(_channel(settings))

        async def listen() -> None:
            async for message in channel.listen():
                if message["type"] != "message":
                    continue
                changes.append(Change(time.monotonic_ns(), json.loads(message["data"])["tasks_completed"]))

        listening = asyncio.create_task(listen())
        try:
            yield
        finally:
            listening.cancel()


async def _ended(settings: Settings) -> int:
    """How many ended tasks the state of the probes' agent counts by now."""
    from redis.asyncio import Redis

    async with Redis(host=settings.redis_host, port=settings.redis_port) as client:
        return int(json.loads(await client.get(_channel(settings)) or b"")["tasks_completed"])


def _channel(settings: Settings) -> str:
    """The key of that state, and the name of the channel on which it is pushed."""
    return f"{settings.redis_prefix}{settings.topic_prefix}agent:probe:state"


def _told(changes: Sequence[Change], probes: Mapping[str, Probe], before: int) -> dict[str, int]:
    """When each probe was in a state that was pushed; one state may tell of several. ``before``: ended tasks that are no probes."""
    seen: dict[str, int] = {}
    waiting = iter(sorted(probes, key=lambda event_id: probes[event_id].offset))
    for change in changes:
        seen.update((event_id, change.came_ns) for event_id in islice(waiting, max(0, change.ended - before - len(seen))))
    return seen


async def _until_caught_up(settings: Settings, followers: Sequence[str]) -> None:
    """The service starts at the beginning of topics that are not empty."""
    from tallyroll.roll import Roll

    until = time.monotonic() + _PATIENCE_S
    async with Roll.open(settings) as roll:
        for follower in followers:
            while sum(lag.records for lag in await roll.lag(follower)):
                if time.monotonic() > until:
                    raise SystemExit(f"waited in vain: {follower} never caught up; see {LOG}")
                await asyncio.sleep(0.2)  # noqa: TID251  # the benchmark looks on from outside


def _send_first(settings: Settings, catalogue: Catalogue) -> None:
    """Who has this has begun to follow."""
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    _probe(producer, catalogue, {})
    producer.flush(60)


def _probe(producer: Producer, catalogue: Catalogue, probes: dict[str, Probe]) -> None:
    event = AgentEvent("task.completed", "probe", "task", {"agent_id": "probe", "duration_ms": 1_000.0})
    key = event.key.encode()
    place = catalogue.place(event.event_type, key)
    sent_ns = time.monotonic_ns()

    def delivered(error: object, message: Message) -> None:
        if error is None:
            probes[event.event_id] = Probe(TopicPartition(place.topic, place.partition), message.offset() or 0, sent_ns)

    producer.produce(place.topic, encode(event), key, place.partition, on_delivery=delivered)
