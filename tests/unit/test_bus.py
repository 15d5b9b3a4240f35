"""The bus: each queue is bounded and answers a flood in its own way; what is missed is counted."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.patience import PATIENCE_S

from tallyroll import reset_defaults
from tallyroll.bridges.bus import EventBus, Subscription
from tallyroll.bridges.hybrid import HybridEventSystem
from tallyroll.compat import event_bus
from tallyroll.errors import Backpressure, InvalidEvent, LogUnavailable, PublishUncertain
from tallyroll.events.event import AgentEvent
from tallyroll.roll import Roll
from tallyroll.telemetry import BUS_DROPPED, BUS_PUBLISHED, Counters


def numbers(queue: Subscription) -> list[Any]:
    found = []
    while not queue.empty():
        found.append(queue.get_nowait()["n"])
    return found


def flood(bus: EventBus, count: int, **more: Any) -> None:
    for number in range(count):
        bus.publish({"event": "task.started", "n": number, **more})


async def test_plain_use_as_users_know_it() -> None:
    bus = event_bus.get_event_bus()
    assert bus is event_bus.get_event_bus()
    queue = bus.subscribe()
    assert isinstance(queue, asyncio.Queue)
    await bus.publish({"event": "anything", "n": 1})  # awaited or not
    bus.publish({"n": 2})
    assert [(await queue.get())["n"], queue.get_nowait()["n"]] == [1, 2]
    bus.unsubscribe(queue)
    bus.unsubscribe(queue)
    bus.publish({"n": 3})
    assert queue.empty()
    reset_defaults()
    assert event_bus.get_event_bus() is not bus


@pytest.mark.parametrize(
    ("overflow", "left", "dropped"), [("drop_oldest", [7, 8, 9], 7), ("drop_newest", [0, 1, 2], 7), ("disconnect", [0, 1, 2], 1)]
)
async def test_each_policy_at_its_bound(overflow: str, left: list[int], dropped: int) -> None:
    counters = Counters()
    bus = EventBus(telemetry=counters)
    slow, quick = bus.subscribe(maxsize=3, overflow=overflow), bus.subscribe()
    flood(bus, 10)
    assert (slow.qsize(), quick.qsize(), quick.dropped) == (3, 10, 0)
    assert (numbers(slow), slow.dropped) == (left, dropped)
    assert counters.value(BUS_DROPPED, reason=overflow) == dropped
    assert counters.value(BUS_PUBLISHED) == 10
    if overflow == "disconnect":
        with pytest.raises(Backpressure, match="disconnected"):
            await slow.get()
        with pytest.raises(Backpressure):
            slow.get_nowait()


async def test_coalescing_keeps_the_newest_of_each_aggregate() -> None:
    bus = EventBus()
    queue = bus.subscribe(maxsize=3, overflow="coalesce")
    for number, agent in enumerate("abcaab"):
        bus.publish({"agent_id": agent, "n": number})
    assert (numbers(queue), queue.dropped) == ([2, 4, 5], 3)
    for number, agent in enumerate("abcd"):
        bus.publish({"agent_id": agent, "n": number})
    assert numbers(queue) == [1, 2, 3]


async def test_blocking_waits_for_room_and_keeps_the_order() -> None:
    bus = EventBus(block_s=30)
    queue = bus.subscribe(maxsize=1, overflow="block")
    waits = [bus.publish({"n": number}) for number in range(5)]
    assert [(await queue.get())["n"] for _ in range(5)] == [0, 1, 2, 3, 4]
    for wait in waits:
        await wait
    assert queue.dropped == 0


async def test_blocking_has_an_end() -> None:
    bus = EventBus(block_s=0.01)
    queue = bus.subscribe(maxsize=1, overflow="block")
    await bus.publish({"n": 0})
    with pytest.raises(Backpressure, match="stayed full"):
        await bus.publish({"n": 1})
    assert (numbers(queue), queue.dropped) == ([0], 1)


async def test_who_gives_up_waiting_for_room_takes_nothing_away_from_the_subscriber() -> None:
    bus = EventBus(block_s=PATIENCE_S)
    queue = bus.subscribe(maxsize=1, overflow="block")
    await bus.publish({"event": "e", "n": 0})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await bus.publish({"event": "e", "n": 1})
    assert [(await queue.get())["n"], (await queue.get())["n"]] == [0, 1]
    assert queue.dropped == 0


async def test_of_several_who_take_from_a_queue_that_ends_none_waits_for_ever() -> None:
    bus = EventBus()
    queue = bus.subscribe(maxsize=1, overflow="disconnect")
    takers = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)  # noqa: TID251  # each waits for an event
    flood(bus, 2)
    taken = await asyncio.wait_for(asyncio.gather(*takers, return_exceptions=True), PATIENCE_S)
    assert [type(one) for one in taken] == [dict, Backpressure, Backpressure]


async def test_types_filter_and_bad_subscriptions() -> None:
    bus = EventBus()
    queue = bus.subscribe(types=["task.failed"])
    for name in ("event", "event_type", "other"):
        bus.publish({name: "task.failed", "n": name})
    assert numbers(queue) == ["event", "event_type"]
    for bad in ({"overflow": "drop"}, {"durability": "kept"}, {"maxsize": 0}):
        with pytest.raises(ValueError, match="expected overflow"):
            bus.subscribe(**bad)
    with pytest.raises(InvalidEvent):
        bus.publish("text")


async def test_a_later_change_by_the_caller_alters_nothing() -> None:
    bus = EventBus()
    queue = bus.subscribe()
    event = {"n": [1]}
    bus.publish(event)
    event["n"].append(2)
    assert numbers(queue) == [[1]]


async def test_threads_hand_over_to_the_loop_of_the_queue_in_order() -> None:
    bus = EventBus(block_s=PATIENCE_S)
    queues = [bus.subscribe(maxsize=2_000), bus.subscribe(maxsize=1, overflow="block")]
    threads = [threading.Thread(target=flood, args=(bus, 300), kwargs={"who": who}) for who in range(3)]
    for thread in threads:
        thread.start()
    for queue in queues:
        seen: dict[int, list[int]] = {who: [] for who in range(3)}
        for _ in range(900):
            event = await asyncio.wait_for(queue.get(), PATIENCE_S)
            seen[event["who"]].append(event["n"])
        assert seen == {who: list(range(300)) for who in range(3)}
    for thread in threads:
        thread.join()


def test_a_queue_whose_loop_is_closed_unsubscribes_itself() -> None:
    bus = EventBus()

    async def subscribe() -> list[Subscription]:
        return [bus.subscribe(), bus.subscribe(overflow="block")]

    queues = asyncio.run(subscribe())
    bus.publish({"n": 1})
    bus.publish({"n": 2})
    assert [queue.qsize() for queue in queues] == [0, 0]
    assert bus._subscriptions == ()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60), st.integers(1, 4))
@settings(max_examples=100)
def test_what_is_published_is_taken_waits_or_is_counted(steps: list[tuple[bool, int]], size: int) -> None:
    async def run() -> None:
        bus = EventBus()
        for overflow in ("drop_oldest", "drop_newest", "coalesce"):
            queue, taken, published = bus.subscribe(maxsize=size, overflow=overflow), [], 0
            for publish, agent in steps:
                if publish:
                    bus.publish({"agent_id": str(agent), "n": published})
                    published += 1
                elif not queue.empty():
                    taken.append(queue.get_nowait()["n"])
            assert queue.qsize() <= size
            taken += numbers(queue)
            assert taken == sorted(taken)
            assert len(taken) + queue.dropped == published
            bus.unsubscribe(queue)

    asyncio.run(run())


# The bus and the log together


class Log:
    """Takes events, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.events: list[AgentEvent] = []
        self.error = error

    async def publish(self, event: AgentEvent) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(event)


def listeners(bus: EventBus) -> dict[str, Subscription]:
    return {durability: bus.subscribe(durability=durability) for durability in ("local", "accepted", "durable")}


def told(queues: dict[str, Subscription]) -> list[str]:
    return [durability for durability, queue in queues.items() if not queue.empty()]


async def test_an_event_goes_to_the_log_only_when_it_says_so() -> None:
    bus, log = EventBus(), Log()
    queues = listeners(bus)
    system = HybridEventSystem(bus, log.publish)
    assert await system.publish_event({"event": "whatever", "n": 1}) is None
    assert (log.events, told(queues)) == ([], ["local"])
    data = {"event": "TASK_STARTED", "task_id": "t", "agent_id": "a", "persist": True}
    event_id = await system.publish_event(data)
    assert [(one.event_id, one.event_type, one.key, one.payload) for one in log.events] == [(event_id, "task.started", "agent:a", data)]
    assert told(queues) == ["local", "accepted", "durable"]
    await system.publish_event({"event": "task.started", "task_id": "t", "persist": True})
    assert log.events[-1].key == "agent:t"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"event": "task.start", "agent_id": "a", "persist": True}, r"event: .*did you mean task\.started"),
        ({"agent_id": "a", "persist": True}, "event: "),
        ({"event": "task.started", "persist": True}, "agent_id"),
        ({"event": "task.started", "agent_id": "a", "persist": "false"}, "persist"),
        ({"event": "task.started", "agent_id": "a", "cost": float("nan"), "persist": True}, "cost"),
        ([], "event_data"),
    ],
)
async def test_a_bad_event_is_refused_before_anything_has_happened(data: Any, field: str) -> None:
    bus, log = EventBus(), Log()
    queues = listeners(bus)
    with pytest.raises(InvalidEvent, match=field):
        await HybridEventSystem(bus, log.publish).publish_event(data)
    assert (log.events, told(queues)) == ([], [])


@pytest.mark.parametrize(
    ("error", "heard"),
    [
        (LogUnavailable("log", "away"), ["local"]),
        (PublishUncertain("id", "late", kept=False), ["local"]),
        (PublishUncertain("id", "late", kept=True), ["local", "accepted"]),
    ],
)
async def test_what_the_log_has_not_acknowledged_is_never_durable(error: Exception, heard: list[str]) -> None:
    bus = EventBus()
    queues = listeners(bus)
    with pytest.raises(type(error)):
        await HybridEventSystem(bus, Log(error).publish).publish_event({"event": "task.started", "agent_id": "a", "persist": True})
    assert told(queues) == heard


async def test_with_a_roll() -> None:
    bus = EventBus()
    durable = bus.subscribe(durability="durable", maxsize=1, overflow="block")
    async with Roll.open("sqlite://:memory:") as roll:
        system = HybridEventSystem(bus, roll.publish)
        assert await system.publish_event({"event": "agent.started", "agent_id": "a", "persist": True})
        assert (await durable.get())["agent_id"] == "a"
        assert (await roll.agent_state("a"))["status"] == "running"
