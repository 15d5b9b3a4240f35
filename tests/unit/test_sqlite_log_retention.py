"""What the embedded log removes, what it keeps, and how moments are found among what is left."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.adapters.sqlite import SqliteLog, blocks, retention
from tallyroll.adapters.sqlite.schema import OFFSET_BITS, connect, create, transaction
from tallyroll.errors import SpanGone
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import DAY_MS, Catalogue
from tallyroll.ports import Delivered, Span
from tallyroll.testing.builders import numbered
from tallyroll.testing.clock import T0, FakeClock
from tallyroll.testing.contract import Member

PLACE = TopicPartition("performance-events", 0)  # kept for seven days
NOW_MS = int(T0.timestamp() * 1_000)


@pytest.fixture
def clock():
    return FakeClock(T0)


@pytest.fixture
async def log(clock):
    log = await SqliteLog.open(None, Catalogue(), clock=clock)
    yield log
    await log.close()


async def append(log, timestamps_ms, *, in_one=True):
    records = numbered(Catalogue(), len(timestamps_ms), base=PLACE.topic, partition=0)
    records = [msgspec.structs.replace(record, timestamp_ms=at) for record, at in zip(records, timestamps_ms, strict=True)]
    for part in [records] if in_one else [[record] for record in records]:
        assert all(isinstance(outcome, Delivered) for outcome in await log.append(part).settled())


async def numbers(log, start, end):
    return [int(value) async for batch in log.read([Span(*PLACE, start, end)]) for value in batch.values]


@pytest.mark.parametrize("in_one", [True, False], ids=["one block", "a block each"])
async def test_the_start_moves_to_the_first_record_that_is_young_enough(log, clock, in_one):
    await append(log, [NOW_MS + 1_000 * i for i in range(10)], in_one=in_one)
    clock.advance(timedelta(days=7, seconds=4).total_seconds())
    await log.retain()
    assert (await log.starts([PLACE.topic]))[PLACE] == 4
    assert (await log.ends([PLACE.topic]))[PLACE] == 10
    assert await numbers(log, 4, 10) == [4, 5, 6, 7, 8, 9]
    assert await log.retain() == 0


async def test_an_old_record_behind_a_young_one_stays(log, clock):
    await append(log, [NOW_MS - 5, NOW_MS, NOW_MS - 90 * DAY_MS, NOW_MS])
    clock.advance(timedelta(days=7).total_seconds())
    await log.retain()
    assert (await log.starts([PLACE.topic]))[PLACE] == 1
    assert await numbers(log, 1, 4) == [1, 2, 3]


async def test_reading_from_a_removed_start_says_where_the_log_starts_now(log, clock):
    await append(log, [NOW_MS + i for i in range(10)])
    clock.advance(timedelta(days=7, milliseconds=3).total_seconds())
    await log.retain()
    with pytest.raises(SpanGone) as caught:
        await numbers(log, 2, 10)
    assert caught.value.missing == {"performance-events/0": 3}


async def test_a_follower_that_retention_overtook_is_told(log, clock):
    await append(log, [NOW_MS + i for i in range(10)])
    member = Member(starts={PLACE: 1})
    await member.join(log, "g", PLACE.topic)
    clock.advance(timedelta(days=7, milliseconds=5).total_seconds())
    await log.retain()
    with pytest.raises(SpanGone) as caught:
        await member.subscription.poll(5_000)
    assert caught.value.missing == {"performance-events/0": 5}
    await member.seek(PLACE, 5)
    assert await member.step(5_000) == 5
    await member.subscription.close()


async def test_offsets_go_on_when_everything_was_removed(log, clock):
    await append(log, [NOW_MS] * 3)
    clock.advance(timedelta(days=8).total_seconds())
    await log.retain()
    assert (await log.starts([PLACE.topic]))[PLACE] == (await log.ends([PLACE.topic]))[PLACE] == 3
    await append(log, [NOW_MS + 8 * DAY_MS])
    assert await numbers(log, 3, 4) == [0]


async def test_each_topic_keeps_its_own_time(log, clock):
    await log.append(numbered(Catalogue(), 1, partition=0)).settled()
    await append(log, [NOW_MS])
    clock.advance(timedelta(days=30).total_seconds())
    await log.retain()
    assert (await log.starts([PLACE.topic]))[PLACE] == 1
    assert (await log.starts(["task-events"]))[TopicPartition("task-events", 0)] == 0


async def test_an_opened_log_cleans_up_by_itself(tmp_path):
    log = await SqliteLog.open(tmp_path, Catalogue(), clock=FakeClock(T0))
    await append(log, [NOW_MS] * 3)
    await log.close()
    log = await SqliteLog.open(tmp_path, Catalogue(), clock=FakeClock(T0 + timedelta(days=8)))
    while (await log.starts([PLACE.topic]))[PLACE] != 3:  # bounded by the test's time-out; the writer is at it
        await log.append([]).settled()
    await log.close()


async def test_a_log_that_is_written_to_cleans_up_every_ten_minutes(log, clock):
    await append(log, [NOW_MS] * 3)
    clock.advance(timedelta(days=8).total_seconds())
    await append(log, [NOW_MS + 8 * DAY_MS])
    while (await log.starts([PLACE.topic]))[PLACE] != 3:  # bounded by the test's time-out; the writer is at it
        await log.append([]).settled()


def a_partition(timestamps_ms, lengths):
    """A database with one partition's records in blocks of the given lengths."""
    connection = connect(None, synchronous="FULL", lock_timeout_ms=0)
    number = create(connection, None, Catalogue(), lock_timeout_ms=0)[PLACE]
    records = numbered(Catalogue(), len(timestamps_ms), base=PLACE.topic, partition=0)
    records = [msgspec.structs.replace(record, timestamp_ms=at) for record, at in zip(records, timestamps_ms, strict=True)]
    offset, high_ms = 0, -1
    for length in [*lengths, len(records)]:
        part = records[offset : offset + length]
        for block in blocks.to_blocks(part, high_ms) if part else ():
            connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", (number << OFFSET_BITS | offset, *block))
            offset, high_ms = offset + block.length, block.high_ms
    connection.execute("UPDATE partitions SET next_offset = ?, high_ms = ? WHERE number = ?", (offset, high_ms, number))
    return connection, number


times = st.lists(st.integers(0, 20), max_size=30)
lengths = st.lists(st.integers(1, 5), max_size=30)


@given(times, lengths, st.integers(-1, 21), st.integers(0, 30))
@settings(max_examples=100)
def test_a_moment_is_found_as_by_looking_at_every_record(timestamps, sizes, moment, start):
    connection, number = a_partition(timestamps, sizes)
    start = min(start, len(timestamps))
    expected = next((i for i in range(start, len(timestamps)) if timestamps[i] >= moment), len(timestamps))
    assert blocks.first_at(connection, number, start, len(timestamps), moment) == expected
    connection.close()


@given(times, lengths, st.lists(st.integers(0, 21), min_size=1, max_size=3))
@settings(max_examples=100)
def test_removal_takes_the_prefix_of_old_records_and_nothing_else(timestamps, sizes, cutoffs):
    connection, number = a_partition(timestamps, sizes)
    start = 0
    for cutoff in cutoffs:
        keep = next((i for i in range(start, len(timestamps)) if timestamps[i] >= cutoff), len(timestamps))
        with transaction(connection):
            assert retention.remove_older(connection, number, cutoff) == (keep - start, False)
        start = keep
    want = blocks.Want(PLACE, number, start, len(timestamps))
    left = [int(value) for batch in blocks.fetch(connection, [want], 1_000) for value in batch.values]
    assert left == list(range(start, len(timestamps)))
    connection.close()


def test_removal_goes_in_pieces():
    connection, number = a_partition([0] * 1_201, [1] * 1_201)
    step = partial(retention.remove_older, connection, number, 1)
    assert [step(), step(), step()] == [(500, True), (500, True), (201, False)]
    connection.close()
