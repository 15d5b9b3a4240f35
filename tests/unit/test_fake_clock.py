"""The clock that tests move by hand, and the builders that make the same things again."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tallyroll.events.batch import Batch
from tallyroll.events.chain import ChainChecker
from tallyroll.events.topics import Catalogue
from tallyroll.testing.builders import EventBuilder, records
from tallyroll.testing.clock import T0, FakeClock


async def test_sleepers_wake_in_the_order_of_their_times():
    clock, woken = FakeClock(), []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds in (3, 1, 2, 9):
            group.create_task(sleeper(seconds))
        await clock.until_asleep(4)
        clock.advance(5)
        await clock.until_asleep(1)
        while len(woken) < 3:
            await FakeClock().sleep(0)
            await asyncio.wait([group.create_task(clock.sleep(0))])
        assert woken == [1, 2, 3]
        clock.advance(4)
    assert woken == [1, 2, 3, 9]


async def test_nobody_wakes_before_time():
    clock = FakeClock()
    task = asyncio.ensure_future(clock.sleep(10))
    await clock.until_asleep()
    clock.advance(9.999)
    assert clock.sleepers == 1
    clock.advance(0.001)
    await task


async def test_a_cancelled_sleeper_is_forgotten():
    clock = FakeClock()
    task = asyncio.ensure_future(clock.sleep(10))
    await clock.until_asleep()
    task.cancel()
    await asyncio.wait([task])
    assert clock.sleepers == 0
    clock.advance(20)


def test_both_clocks_advance_and_only_the_wall_clock_can_be_set():
    clock = FakeClock(T0)
    clock.advance(1.5)
    assert (clock.now, clock.monotonic()) == (T0 + timedelta(seconds=1.5), 1.5)
    clock.set_wall_clock(T0 - timedelta(days=10))
    assert (clock.now, clock.monotonic()) == (T0 - timedelta(days=10), 1.5)
    assert clock.now_us() == (T0 - timedelta(days=10)).timestamp() * 1_000_000
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_the_same_seed_builds_the_same_records_and_another_seed_others():
    catalogue = Catalogue()
    assert records(catalogue, 100, seed=7) == records(catalogue, 100, seed=7)
    assert records(catalogue, 100, seed=7) != records(catalogue, 100, seed=8)


def test_built_events_rise_in_time_and_have_ids_of_their_own():
    events = EventBuilder(1).events(500)
    assert sorted(events, key=lambda event: event.timestamp) == events
    assert len({event.event_id for event in events}) == 500


def test_built_records_are_chained_as_by_one_publisher():
    checkers = {}
    for record in records(Catalogue(), 500, seed=3):
        checker, offset = checkers.setdefault((record.topic, record.partition), [ChainChecker(), 0])
        head = Batch(record.topic, record.partition, offsets=[offset], keys=[record.key], values=[record.value], timestamps_ms=[0]).heads()[
            0
        ]
        assert checker.feed(offset, record.value, head.link()) is None
        checkers[record.topic, record.partition][1] += 1
    assert sum(checker.linked for checker, _ in checkers.values()) == 500
    assert all(checker.open_gaps() == [] for checker, _ in checkers.values())
