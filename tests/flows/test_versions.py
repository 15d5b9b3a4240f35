"""Many authors, one aggregate: each version has one event, the others are told, and no follower counts theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from tests.flows.publishing import breathe
from tests.patience import PATIENCE_S, READ_WAIT_MS

from tallyroll.bridges.forward import Forwarder
from tallyroll.errors import InvalidEvent, PublishUncertain, SettingsError, VersionConflict
from tallyroll.events.event import AgentEvent
from tallyroll.events.expected import WINDOW, Expected
from tallyroll.events.position import Position, TopicPartition
from tallyroll.follow.tail import repeats_before
from tallyroll.ports import Message, Span
from tallyroll.publish.receipt import Receipt
from tallyroll.publish.versions import Versions
from tallyroll.replay.policy import Policy
from tallyroll.replay.replayer import Ask
from tallyroll.replay.views import TASK
from tallyroll.roll import ARCHIVE_FOLLOWER, STATE_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters
from tallyroll.testing.versions import compete, rivals


@pytest.fixture
async def roll() -> AsyncIterator[Roll]:
    async with Roll.open("sqlite://:memory:") as one:
        yield one


def progressed(who: str = "", task: str = "t") -> AgentEvent:
    return AgentEvent("task.progressed", task, "task", {"progress_percent": 10, "message": who})


async def test_versions_are_taken_one_after_the_other(roll: Roll) -> None:
    assert await roll.version("task", "t") == 0
    for version in range(3):
        await roll.publish(progressed(), expected_version=version)
        await roll.publish(progressed())  # counts for no version
    assert (await roll.version("task", "t"), await roll.version("task", "other")) == (3, 0)
    with pytest.raises(VersionConflict) as caught:
        await roll.publish(progressed(), expected_version=2)
    assert (caught.value.aggregate, caught.value.expected, caught.value.actual) == ("task:t", 2, 3)
    assert "task:t" not in str(caught.value)
    assert await roll.agent_timeline("t") == []
    assert (await roll.replayed_state(TASK, "t"))["version"] == 6  # what was known to be too late was not published


async def test_of_two_that_have_seen_the_same_one_wins(roll: Roll) -> None:
    first, second = await asyncio.gather(*(roll.publish(progressed(who), expected_version=0) for who in "ab"), return_exceptions=True)
    assert not isinstance(first, Exception)
    assert isinstance(second, VersionConflict)
    assert (second.expected, second.actual) == (0, 1)


@pytest.mark.slow
async def test_sixteen_rivals_in_four_rolls_on_one_file(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        rolls = [await stack.enter_async_context(Roll.open(f"sqlite:///{tmp_path}")) for _ in range(4)]
        await rivals(rolls, writers=16)
        await compete(rolls, writers=16, versions=16)


class Trusting(Versions):
    """Believes that whoever has published has won."""

    async def publish(self, event: AgentEvent, expected: int) -> Receipt:
        await self.current(event.aggregate_type, event.aggregate_id)
        return await self._publisher.publish(event, expects=str(Expected(expected, 0)))


class Unrefereed:
    """A roll whose versions are those of who believes so."""

    def __init__(self, roll: Roll) -> None:
        self._versions = Trusting(roll.log, roll.catalogue, roll.publisher, wait_for_ack=True)
        self.version = self._versions.current
        self.replayed_state = roll.replayed_state

    async def publish(self, event: AgentEvent, *, expected_version: int) -> Receipt:
        return await self._versions.publish(event, expected_version)


@pytest.mark.parametrize("case", [partial(rivals, writers=4), partial(compete, writers=4, versions=4)])
async def test_a_log_without_a_referee_is_noticed(roll: Roll, case: Callable[[list[Roll]], Awaitable[None]]) -> None:
    with pytest.raises(AssertionError, match=r"winners|taken before"):
        await case([Unrefereed(roll)])


async def test_no_follower_counts_what_was_outrun(tmp_path: Path) -> None:
    async with Roll.open(f"sqlite:///{tmp_path}") as roll:
        heard: list[AgentEvent] = []
        roll.publisher.register_event_handler("task.progressed", heard.append)
        await roll.publish(AgentEvent("task.started", "t", "task", {"agent_id": "a"}))
        receipt = await roll.publish(progressed("first"), expected_version=0)
        for number in range(4):  # of authors who had seen what came before
            await roll.publisher.publish(progressed(str(number)), expects=str(Expected(0, receipt.position.offset)))
        await roll.publish(AgentEvent("task.completed", "t", "task", {"agent_id": "a"}))
        state = await roll.task_state("t")
        assert (state["version"], state["status"]) == (3, "completed")
        replayed = (await roll.replayed_state(TASK, "t")) | {"as_of": None, "coverage": None}
        assert replayed == state | {"as_of": None, "coverage": None}
        asked = await (await roll.replay_engine()).replay(Ask(TASK, "t", validate="chain", policy=Policy.strict()))
        assert (asked.finding_counts["conflict"], asked.findings) == (4, ())
        await breathe()
        assert [event.event_id for event in heard] == [receipt.event_id]
        last = max(roll.publisher.last_positions())
        assert await roll.caught_up(last, PATIENCE_S, follower=ARCHIVE_FOLLOWER)
        assert await roll.caught_up(last, PATIENCE_S, follower=STATE_FOLLOWER)
        agents = await roll.agents()
        assert [one["event_type"] for one in await agents.get_aggregate_history("task", "t")] == [
            "task.started", "task.progressed", "task.completed",
        ]  # fmt: skip
        metrics = await (await roll.analytics()).get_agent_analytics("a")
        assert metrics["events_processed"] == 2  # no progress says whose it is
    async with Roll.open(f"sqlite:///{tmp_path}") as again:  # from the archive
        assert (await again.replayed_state(TASK, "t"))["version"] == 3
        assert await again.version("task", "t") == 1


class Kept:
    """A target that acknowledges everything."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def check(self, subject: str) -> None:
        pass

    async def send(self, messages: Sequence[Message]) -> list[bool]:
        self.sent += [message.id for message in messages]
        return [True] * len(messages)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_was_outrun_is_not_forwarded_also_by_a_bridge_that_begins_between_the_two(roll: Roll, *, restarts: bool) -> None:
    target, committed = Kept(), {}

    async def begin() -> Forwarder:
        async def positions(_: object) -> dict[TopicPartition, int]:
            return dict(committed)

        bridge = Forwarder(
            target, roll.catalogue, positions, met=partial(repeats_before, roll.log), telemetry=Counters(), event_types=["task.progressed"]
        )
        await bridge.positions(roll.catalogue.partitions(bridge.topics))
        return bridge

    async def forward(bridge: Forwarder, receipt: Receipt) -> None:
        where = receipt.position.topic_partition
        async for batch in roll.log.read([Span(*where, committed.get(where, 0), receipt.position.offset + 1)]):
            assert bridge.apply(batch) == []
        committed.update(await bridge.flush())

    bridge = await begin()
    winner = await roll.publish(progressed("winner"), expected_version=0)
    await forward(bridge, winner)
    bridge = await begin() if restarts else bridge
    loser = await roll.publisher.publish(progressed("loser"), expects="0/0")
    plain = await roll.publish(progressed("plain"))
    await forward(bridge, plain)
    assert loser.event_id not in target.sent
    assert target.sent == [winner.event_id, plain.event_id]


async def test_a_sealed_archive_holds_what_was_outrun_and_does_not_count_it(tmp_path: Path) -> None:
    async with Roll.open(Settings(url=f"sqlite:///{tmp_path}", archive_seal_records=1, read_wait_ms=READ_WAIT_MS)) as roll:
        winner = await roll.publish(progressed("winner"), expected_version=0)
        await roll.publisher.publish(progressed("loser"), expects="0/0")
        last = await roll.publish(progressed("plain"))
        assert await roll.caught_up(last.position, PATIENCE_S, follower=ARCHIVE_FOLLOWER)
        where = winner.position.topic_partition
        await asyncio.to_thread(roll.archive().keeper.seal, where)
        reader = roll.archive().reader
        assert [one.records for one in reader.segments(where)] == [3]
        assert sum(len(batch) for batch in reader.records(where, 0, 3)) == 3
        assert [list(rows.ids) for rows in reader.rows(where, 0, 3, whole=True)] == [[winner.event_id, last.event_id]]
        assert [(one.kind, one.offset) for one in reader.findings(where, 0, 3)] == [("conflict", 1)]
        await asyncio.to_thread(roll.archive().keeper.rebuild, where)
        found = await roll.replay(TASK)
        assert (found.states["t"]["version"], found.finding_counts["conflict"]) == (2, 1)


class Unsure:
    """A publisher that brings the event into the log, and is not told so the first time."""

    def __init__(self, roll: Roll) -> None:
        self._publish = roll.publisher.publish
        self.tell_handlers = roll.publisher.tell_handlers
        self.sure = False

    async def publish(self, event: AgentEvent, **more: str) -> object:
        receipt = await self._publish(event, **more)
        if not self.sure:
            raise PublishUncertain(event.event_id, "no answer", kept=False)
        return receipt


async def test_an_uncertain_event_is_published_again_and_has_taken_its_version_once(roll: Roll) -> None:
    event, unsure = progressed(), Unsure(roll)
    versions = Versions(roll.log, roll.catalogue, unsure, wait_for_ack=True)
    with pytest.raises(PublishUncertain):
        await versions.publish(event, 0)
    unsure.sure = True
    receipts = [await versions.publish(event, 0) for _ in range(2)]
    assert [one.event_id for one in receipts] == [event.event_id] * 2
    assert (await roll.replayed_state(TASK, "t"))["version"] == 1
    with pytest.raises(VersionConflict):
        await roll.publish(progressed(), expected_version=0)


async def test_who_comes_too_late_is_told_so(roll: Roll) -> None:
    """The author has seen the aggregate, is frozen, and wakes after thousands of other records."""

    class Frozen(Unsure):
        async def publish(self, event: AgentEvent, **more: str) -> object:
            await roll.publish_batch([progressed() for _ in range(WINDOW + 1)])
            return await self._publish(event, **more)

    versions = Versions(roll.log, roll.catalogue, Frozen(roll), wait_for_ack=True)
    with pytest.raises(VersionConflict) as caught:
        await versions.publish(progressed(), 0)
    assert (caught.value.expected, caught.value.actual) == (0, 0)
    assert await roll.version("task", "t") == 0


async def test_slips_of_the_caller(roll: Roll) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        await roll.publish(progressed(), expected_version=-1)
    with pytest.raises(ValueError, match="expected the topic"):
        await roll.version("invoice", "i")
    assert await roll.version("invoice", "i", topic="task-events") == 0
    hasty = Versions(roll.log, roll.catalogue, roll.publisher, wait_for_ack=False)
    with pytest.raises(SettingsError, match="KAFKA_WAIT_FOR_ACK"):
        await hasty.publish(progressed(), 0)
    with pytest.raises(InvalidEvent, match="expected AgentEvent"):
        await roll.publish({"event": "task.progressed"}, expected_version=0)


async def test_an_aggregate_has_versions_per_topic(roll: Roll) -> None:
    started = AgentEvent("agent.started", "a", "agent", {})
    tasked = AgentEvent("task.started", "a", "agent", {})
    receipt = await roll.publish(started, expected_version=0)
    assert isinstance(receipt.position, Position)
    await roll.publish(tasked, expected_version=0)
    assert await roll.version("agent", "a") == await roll.version("agent", "a", topic="task-events") == 1
