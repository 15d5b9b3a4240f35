"""Messages from NATS come into the log once per id, whatever dies on the way, and nothing goes round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.js.api import StreamConfig
from services.nats import NatsServer
from tests.flows.publishing import breathe
from tests.patience import PATIENCE_S
from tests.servers.test_nats_forward import client

from tallyroll.adapters.nats.message_source import NatsSource
from tallyroll.adapters.system import SystemClock
from tallyroll.bridges.forward import POSITION_HEADER
from tallyroll.bridges.inward import Inward, check_no_loop
from tallyroll.errors import LogUnavailable, PublishRejected, SettingsError
from tallyroll.events.event import AgentEvent
from tallyroll.ports import Delivered, Outcome, Rejected, Unknown
from tallyroll.roll import NATS_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.telemetry import NATS_TAKEN_IN, Counters

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


async def make_stream(server: NatsServer) -> None:
    async with client(server) as connection:
        await connection.jetstream().add_stream(StreamConfig(name="inbox", subjects=["inbox.>"]))


async def send(server: NatsServer, bodies: Sequence[bytes], **headers: str) -> None:
    async with client(server) as connection:
        for body in bodies:
            await connection.jetstream().publish("inbox.agents", body, headers=headers or None)


def bodies(events: Sequence[AgentEvent]) -> list[bytes]:
    return [msgspec.json.encode(event.to_kafka_message()) for event in events]


def started(count: int) -> list[AgentEvent]:
    return [AgentEvent("agent.started", f"agent-{number % 5}", "agent", {"number": number}) for number in range(count)]


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object], task: asyncio.Task[None]) -> None:
    deadline = SystemClock().monotonic() + PATIENCE_S
    while not condition():
        assert SystemClock().monotonic() < deadline, "the condition did not come"
        if task.done():
            task.result()
        await breathe()


async def ids_in(roll: Roll) -> list[str]:
    return [seen.event.event_id async for seen in roll.tail()]


async def test_events_come_in_under_their_ids_and_what_is_none_is_dropped(server: NatsServer, tmp_path: Path) -> None:
    await make_stream(server)
    events, counters = started(30), Counters()
    own = events[0].to_kafka_message() | {"event_id": None}
    await send(server, bodies(events))
    await send(server, [msgspec.json.encode(own)], **{"Nats-Msg-Id": "theirs-1"})
    await send(server, [b"", b"{", b"[]", b"{}", msgspec.json.encode(own | {"event_type": "no.such.type"})])
    await send(server, bodies(started(2)), **{POSITION_HEADER: "agent-events/0/1"})
    async with Roll.open(Settings(url=f"sqlite:///{tmp_path / 'log'}", nats_servers=server.url), telemetry=counters) as roll:
        async with running(roll.take_in("inbox.>")) as task:
            await until(lambda: counters.value(NATS_TAKEN_IN) == 38, task)
        assert sorted(await ids_in(roll)) == sorted([*(event.event_id for event in events), "theirs-1"])
    for outcome, count in (("taken", 31), ("unreadable", 5), ("looped", 2), ("refused", 0)):
        assert counters.value(NATS_TAKEN_IN, outcome=outcome) == count


class Shaky:
    """Publishes in vain now and then, or dies after it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.calls = 0

    async def publish(self, events: Sequence[AgentEvent]) -> list[Outcome]:
        self.calls += 1
        if self.calls == 1:
            raise LogUnavailable("log", "away")
        outcomes: list[Outcome] = []
        for number, event in enumerate(events):
            if self.calls == 2 and number % 3 == 0:
                outcomes.append(Unknown(LogUnavailable("log", "no answer")))
                continue
            self.log.append(event.event_id)
            outcomes.append(Delivered(None))
        return outcomes


@pytest.mark.fault
async def test_what_the_log_does_not_have_comes_again_also_after_kills(server: NatsServer) -> None:
    await make_stream(server)
    events, shaky = started(60), Shaky()
    await send(server, bodies(events[:40]))
    source = NatsSource([server.url], "inbox.>", "tallyroll.inward", ack_wait_s=0.5)
    async with running(Inward(source, shaky.publish, clock=SystemClock(), telemetry=Counters()).run()) as task:
        await until(lambda: len(shaky.log) >= 20, task)
        server.kill()
        server.restart()
        await send(server, bodies(events[40:]))
        await until(lambda: set(shaky.log) == {event.event_id for event in events}, task)
    await source.close()


async def test_an_event_that_is_refused_for_good_does_not_come_again(server: NatsServer) -> None:
    await make_stream(server)
    counters = Counters()
    await send(server, bodies(started(3)))

    async def refuse(events: Sequence[AgentEvent]) -> list[Outcome]:
        return [Rejected(refusal) for _ in events]

    refusal = PublishRejected("id", "too large")
    source = NatsSource([server.url], "inbox.>", "refusing", ack_wait_s=0.2)
    async with running(Inward(source, refuse, clock=SystemClock(), telemetry=counters).run()) as task:
        await until(lambda: counters.value(NATS_TAKEN_IN, outcome="refused") == 3, task)
    assert await source.receive(10, 0.5) == []
    await source.close()


async def test_a_circle_of_bridges_ends(server: NatsServer, tmp_path: Path) -> None:
    """Forwarded to the very subject that is taken in, by a roll that was not asked about it."""
    await make_stream(server)
    counters = Counters()
    out = Settings(url=f"sqlite:///{tmp_path / 'log'}", nats_servers=server.url, nats_mode="core", nats_subject="inbox.{aggregate_id}")
    async with Roll.open(out) as roll, Roll.open(Settings(url=out.url, nats_servers=server.url), telemetry=counters) as other:
        async with running(other.take_in("inbox.>")) as task:
            await roll.publish_batch(started(5))
            await roll.follow(NATS_FOLLOWER)
            await until(lambda: counters.value(NATS_TAKEN_IN, outcome="looped") == 5, task)
        assert len(await ids_in(roll)) == 5


async def test_what_would_go_round_or_has_no_stream_is_refused_at_the_start(server: NatsServer, tmp_path: Path) -> None:
    for inbound, outbound in (("agents.>", "agents.{aggregate_id}.status"), ("inbox.>", "{tenant}.x"), (">", "agents.x"), ("*.a", "b.a")):
        with pytest.raises(SettingsError, match="go round"):
            check_no_loop(inbound, outbound)
    check_no_loop("inbox.>", "agents.{aggregate_id}.status")
    async with Roll.open(Settings(url=f"sqlite:///{tmp_path / 'log'}", nats_servers=server.url)) as roll:
        with pytest.raises(SettingsError, match="a stream that covers"):
            await roll.take_in("nowhere.>")
