"""Every chosen event reaches NATS, in order per subject and once per id in a stream, whatever dies on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import nats
import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from services.nats import NatsServer
from tests.flows.publishing import breathe
from tests.patience import PATIENCE_S
from tests.servers.freezing import others_go_on

from tallyroll.adapters.nats.message_target import WINDOW, NatsMessages
from tallyroll.compat.event_bus import KafkaNATSBridge
from tallyroll.errors import SettingsError, StoreUnavailable
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.position import Position
from tallyroll.ports import LooksFirst, Message, Span
from tallyroll.roll import NATS_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.telemetry import FOLLOW_FLUSH_FAILURES, NATS_FORWARDED, Counters

pytestmark = [pytest.mark.server, pytest.mark.slow]

STREAM = "status"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


@asynccontextmanager
async def client(server: NatsServer) -> AsyncIterator[nats.aio.client.Client]:
    connection = await nats.connect(server.url)
    try:
        yield connection
    finally:
        await connection.close()


async def make_stream(server: NatsServer, *, window_s: float = 1_200) -> None:
    async with client(server) as connection:
        await connection.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["agents.*.status"], duplicate_window=window_s))


async def kept(server: NatsServer) -> list[nats.aio.msg.Msg]:
    """Everything in the stream, in its order."""
    async with client(server) as connection:
        stream = connection.jetstream()
        count = (await stream.stream_info(STREAM)).state.messages
        reader = await stream.subscribe("agents.*.status", ordered_consumer=True)
        return [await reader.next_msg(timeout=PATIENCE_S) for _ in range(count)]


def ids(messages: list[nats.aio.msg.Msg]) -> list[str]:
    return [message.headers["Nats-Msg-Id"] for message in messages]


def events(count: int, *, tag: str = "", agents: int = 7) -> list[AgentEvent]:
    return [AgentEvent("agent.started", f"agent-{number % agents}", "agent", {"number": number, "tag": tag}) for number in range(count)]


def options(server: NatsServer, tmp_path: Path, **more: object) -> Settings:
    return Settings(url=f"sqlite:///{tmp_path / 'log'}", nats_servers=server.url, **more)


async def forwarded(roll: Roll) -> bool:
    """Waits until everything that is in the log has been acknowledged."""
    ends = await roll.log.ends(["agent-events", "task-events"])
    waits = [roll.caught_up(Position(*where, end - 1), PATIENCE_S, follower=NATS_FOLLOWER) for where, end in ends.items() if end]
    return all(await asyncio.gather(*waits))


def assert_in_order(messages: list[nats.aio.msg.Msg]) -> None:
    last: dict[str, int] = {}
    for message in messages:
        offset = Position.parse(message.headers["Tallyroll-Position"]).offset
        assert offset > last.get(message.subject, -1), "order per subject"
        last[message.subject] = offset


async def test_chosen_events_arrive_as_the_serialised_message(server: NatsServer, tmp_path: Path) -> None:
    await make_stream(server)
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    counters = Counters()
    async with client(server) as connection, Roll.open(options(server, tmp_path), telemetry=counters) as roll:
        plain = await connection.subscribe("agents.>")
        await connection.flush()
        started = AgentEvent("agent.started", "a.b *", "agent", {"x": 1}, EventMetadata(traceparent=traceparent))
        completed = AgentEvent("task.completed", "task-7", "task", {"agent_id": "a.b *", "duration_ms": 5})
        for event in (started, AgentEvent("agent.stopped", "a.b *", "agent"), completed):
            await roll.publish(event)
        await roll.follow(NATS_FOLLOWER)
        assert await forwarded(roll)
        heard = {message.headers["Nats-Msg-Id"]: message for message in [await plain.next_msg(timeout=PATIENCE_S) for _ in range(2)]}
        assert set(heard) == {started.event_id, completed.event_id}
        one = heard[started.event_id]
        assert one.subject == "agents.a%2Eb%20%2A.status"
        assert AgentEvent.from_kafka_message(msgspec.json.decode(one.data)) == started
        assert one.headers["traceparent"] == traceparent
        assert Position.parse(one.headers["Tallyroll-Position"]).topic == "agent-events"
        assert heard[completed.event_id].subject == "agents.task-7.status"
        assert counters.value(NATS_FORWARDED) == 2
        async with asyncio.timeout(PATIENCE_S):  # the commit follows what was acknowledged
            while sum(lag.records for lag in await roll.lag(NATS_FOLLOWER)):
                await breathe()
    assert len(await kept(server)) == 2


@pytest.mark.fault
async def test_a_server_that_is_killed_again_and_again_loses_nothing(server: NatsServer, tmp_path: Path) -> None:
    await make_stream(server)
    sent, counters = [], Counters()
    async with Roll.open(options(server, tmp_path), telemetry=counters) as roll:
        await roll.follow(NATS_FOLLOWER)
        for number in range(4):
            batch = events(400, tag=str(number))
            sent += [event.event_id for event in batch]
            await roll.publish_batch(batch[:200])
            server.kill()
            await roll.publish_batch(batch[200:])
            failures = counters.value(FOLLOW_FLUSH_FAILURES)
            async with asyncio.timeout(PATIENCE_S):
                while counters.value(FOLLOW_FLUSH_FAILURES) == failures:
                    await breathe()
            server.restart()
        assert await forwarded(roll)
    messages = await kept(server)
    assert sorted(ids(messages)) == sorted(sent)
    assert_in_order(messages)


@pytest.mark.fault
async def test_a_bridge_that_dies_before_it_commits_sends_again_and_the_stream_keeps_one(server: NatsServer, tmp_path: Path) -> None:
    await make_stream(server)
    sent = events(300)
    async with Roll.open(options(server, tmp_path)) as roll:
        await roll.publish_batch(sent)
    for _ in range(3):
        async with Roll.open(options(server, tmp_path)) as roll:
            follower = await roll._following.make(NATS_FOLLOWER)
            partitions = roll.catalogue.partitions(["agent-events"])
            assert await follower.positions(partitions) == {}
            ends = await roll.log.ends(["agent-events"])
            async for batch in roll.log.read([Span(*where, 0, ends[where]) for where in partitions if ends[where]]):
                follower.apply(batch)
            await follower.flush()  # and no commit: gone
    async with Roll.open(options(server, tmp_path)) as roll:
        await roll.follow(NATS_FOLLOWER)
        assert await forwarded(roll)
    messages = await kept(server)
    assert sorted(ids(messages)) == sorted(event.event_id for event in sent)


async def test_who_only_asks_the_bridge_takes_no_message_from_it(server: NatsServer, tmp_path: Path) -> None:
    await make_stream(server)
    async with Roll.open(options(server, tmp_path)) as roll:
        await roll.publish_batch(sent := events(20))
        follower, partitions = await roll._following.make(NATS_FOLLOWER), roll.catalogue.partitions(["agent-events"])
        assert isinstance(follower, LooksFirst)
        await follower.positions(partitions)
        async for batch in roll.log.read([Span(*where, 0, end) for where, end in (await roll.log.ends(["agent-events"])).items() if end]):
            follower.apply(batch)
            await follower.stored(partitions)
        await follower.flush()
    assert sorted(ids(await kept(server))) == sorted(event.event_id for event in sent)


async def test_a_committed_position_is_not_sent_again(server: NatsServer, tmp_path: Path) -> None:
    await make_stream(server)
    for count, tag in ((50, "a"), (30, "b")):
        counters = Counters()
        async with Roll.open(options(server, tmp_path), telemetry=counters) as roll:
            await roll.publish_batch(events(count, tag=tag))
            await roll.follow(NATS_FOLLOWER)
            assert await forwarded(roll)
        assert counters.value(NATS_FORWARDED) == count


async def test_core_mode_sends_to_who_is_there_and_needs_no_stream(server: NatsServer, tmp_path: Path) -> None:
    async with client(server) as connection, Roll.open(options(server, tmp_path, nats_mode="core")) as roll:
        heard = await connection.subscribe("status.>")
        await connection.flush()
        await roll.publish_batch([*events(20), AgentEvent("task.failed", "t", "task", {"agent_id": "x"})])
        bridge = KafkaNATSBridge(roll, event_types={"task.failed"}, subject="status.{agent_id}")
        running = asyncio.create_task(bridge.bridge_agent_events())
        message = await heard.next_msg(timeout=PATIENCE_S)
        assert message.subject == "status.x"
        with pytest.raises(ValueError, match="forwards already"):
            await bridge.bridge_agent_events()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert heard.pending_msgs == 0


async def test_a_stream_that_is_missing_or_forgets_too_soon_is_refused(server: NatsServer) -> None:
    target = NatsMessages([server.url])
    with pytest.raises(SettingsError, match="a stream that covers it"):
        await target.check("agents.x.status")
    await make_stream(server, window_s=120)
    with pytest.raises(SettingsError, match="duplicate window of 600 s"):
        await target.check("agents.x.status")
    await target.close()


async def test_a_missing_stream_is_said_before_the_first_event(server: NatsServer, tmp_path: Path) -> None:
    async with Roll.open(options(server, tmp_path)) as roll:
        loop = await roll.follow(NATS_FOLLOWER)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(SettingsError, match="a stream that covers it"):
                await loop.finished()


def messages(count: int, *, subjects: int = 5, size: int = 10) -> list[Message]:
    return [Message(f"id-{number}", f"agents.{number % subjects}.status", b"x" * size, {}) for number in range(count)]


async def acknowledged(target: NatsMessages, some: list[Message]) -> None:
    """Sends until the server has everything, as a forwarder does: for who gives up sooner than a slow machine answers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(StoreUnavailable):
                if all(await target.send(some)):
                    return


@asynccontextmanager
async def sending(
    server: NatsServer, mode: str, *, timeout_s: int = round(2 * PATIENCE_S), window: int = WINDOW
) -> AsyncIterator[NatsMessages]:
    """A target that gives up after so long; if nothing is said, never while a test waits."""
    target = NatsMessages([server.url], jetstream=mode == "jetstream", timeout_s=timeout_s, window=window)
    yield target
    await target.close()


@pytest.mark.parametrize("mode", ["jetstream", "core"])
async def test_no_more_is_acknowledged_than_the_server_has(server: NatsServer, mode: str) -> None:
    await make_stream(server)
    async with sending(server, mode, window=20) as patient, asyncio.timeout(PATIENCE_S):
        assert all(await patient.send(messages(100)))
    async with sending(server, mode, window=20, timeout_s=1) as target:
        await acknowledged(target, messages(100))
        server.freeze()
        assert not any(await target.send(messages(200)[100:]))
        server.thaw()
        server.kill()
        with pytest.raises(StoreUnavailable):
            await target.send(messages(1))
        server.restart()
        await acknowledged(target, messages(200))
        if mode == "jetstream":
            assert sorted(ids(await kept(server))) == sorted(one.id for one in messages(200))
        with pytest.raises(SettingsError, match="max_payload"):
            await target.send(messages(1, size=2_000_000))
    async with sending(server, mode, window=20) as patient, asyncio.timeout(PATIENCE_S):
        assert all(await patient.send(messages(200)))


async def test_what_no_stream_keeps_is_not_acknowledged(server: NatsServer) -> None:
    target = NatsMessages([server.url])
    assert not any(await target.send(messages(3)))
    async with client(server) as connection:
        config = StreamConfig(name=STREAM, subjects=["agents.*.status"], max_msgs=2, discard=DiscardPolicy.NEW)
        await connection.jetstream().add_stream(config)
    assert await target.send(messages(5)) == [True, True, False, False, False]
    await target.close()


@pytest.mark.fault
async def test_a_connection_that_is_gone_is_not_waited_for(server: NatsServer) -> None:
    await make_stream(server)
    target = NatsMessages([server.url], timeout_s=600)
    await target.send(messages(1))
    server.freeze()
    sending = asyncio.create_task(target.send(messages(100)))
    await breathe()
    server.kill()
    async with asyncio.timeout(PATIENCE_S):
        await sending
    await target.close()


async def test_nothing_but_its_id_makes_a_message_a_repeat(server: NatsServer) -> None:
    await make_stream(server)
    target = NatsMessages([server.url])
    for again in ("", "", "-again"):
        assert all(await target.send([one._replace(id=one.id + again) for one in messages(10)]))
    await target.close()
    assert len(await kept(server)) == 20


class Tried(Mapping[str, str]):
    """The headers of messages of which it is counted how many the client was given."""

    def __init__(self) -> None:
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        self.count += 1
        return iter(())

    def __len__(self) -> int:
        return 0

    def __getitem__(self, name: str) -> str:
        raise KeyError(name)


@pytest.mark.fault
@pytest.mark.parametrize("mode", ["jetstream", "core"])
async def test_more_than_the_network_holds_for_a_frozen_server_is_not_waited_for(server: NatsServer, mode: str) -> None:
    await make_stream(server)
    tried = Tried()
    async with sending(server, mode, timeout_s=1) as target:
        await acknowledged(target, messages(1))
        server.freeze()
        async with asyncio.timeout(PATIENCE_S):
            large = [one._replace(headers=tried) for one in messages(200, subjects=200, size=500_000)]
            assert not any(await target.send(large))
            await target.close()
        assert 0 < tried.count < len(large), "nothing is tried any more when one was waited for in vain"
        server.thaw()
        await acknowledged(target, messages(10))
    async with sending(server, mode) as patient, asyncio.timeout(PATIENCE_S):
        assert all(await patient.send(messages(10)))


@pytest.mark.fault
async def test_a_frozen_server_holds_up_nobody_else(server: NatsServer, tmp_path: Path) -> None:
    await make_stream(server)
    counters = Counters()
    async with Roll.open(options(server, tmp_path), telemetry=counters) as roll:
        await roll.publish_batch(sent := events(10))
        await roll.follow(NATS_FOLLOWER)
        assert await forwarded(roll)
        sent += await others_go_on(server, roll, counters, NATS_FOLLOWER, lambda number: events(50, tag=str(number)))
    assert sorted(ids(await kept(server))) == sorted(event.event_id for event in sent)
