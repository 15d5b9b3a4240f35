"""What every event log must do: the behaviour of ``ports.EventLog``, as cases that any adapter can run.

::

    async def test_my_log():
        for case in CASES:
            await case(LogUnderTest(fresh_catalogue(), open_my_log))

``CASES`` run on a single client. ``SHARED_CASES`` open several clients of one log, ``PROCESS_CASES`` also start processes
and kill them. A case raises AssertionError with the promise that was broken. Cases are independent of each other; each
needs topics that are empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Final

import msgspec

from tallyroll.events.codec import HEADERS
from tallyroll.events.position import Position, TopicPartition
from tallyroll.ports import Delivered, Encoded, Rejected, Span
from tallyroll.testing.contract import LogUnderTest, deliver, everything, expect, expect_equal, now_ms
from tallyroll.testing.group_contract import GROUP_CASES, PROCESS_CASES, SHARED_GROUP_CASES

__all__ = ["CASES", "PROCESS_CASES", "SHARED_CASES", "Case", "LogUnderTest"]

Case = Callable[[LogUnderTest], Awaitable[None]]
_TOO_LARGE: Final = 2_000_000  # bytes; above the limit of every log


async def outcomes_come_in_the_order_of_the_records(under_test: LogUnderTest) -> None:
    """Each outcome names the position of its record; offsets of a partition count up from its end."""
    records = under_test.numbered(100)
    async with under_test.client() as log, asyncio.timeout(under_test.timeout_s):
        pending = log.append(records)
        outcomes = await pending.settled()
        expect_equal(list(pending.outcomes), list(outcomes), "outcomes and settled() say the same")
    following = dict.fromkeys(under_test.partitions, 0)
    for record, outcome in zip(records, outcomes, strict=True):
        where = TopicPartition(record.topic, record.partition)
        expect_equal(outcome, Delivered(Position(*where, following[where])), f"the outcome of record {record.event_id}")
        following[where] += 1


async def settled_can_be_awaited_again(under_test: LogUnderTest) -> None:
    """By several tasks, before and after the end; an empty append is settled at once."""
    async with under_test.client() as log, asyncio.timeout(under_test.timeout_s):
        pending = log.append(under_test.numbered(3))
        first, second = await asyncio.gather(pending.settled(), pending.settled())
        expect_equal(list(first), list(second), "two tasks get the same outcomes")
        expect_equal(list(await pending.settled()), list(first), "a third one later too")
        expect_equal(list(await log.append([]).settled()), [], "nothing appended, nothing to wait for")


async def a_cancelled_wait_withdraws_nothing(under_test: LogUnderTest) -> None:
    """Cancelling who waits leaves the records on their way."""
    async with under_test.client() as log, asyncio.timeout(under_test.timeout_s):
        pending = log.append(under_test.numbered(10, partition=0))
        waiting = asyncio.ensure_future(pending.settled())
        waiting.cancel()
        await asyncio.wait([waiting])
        outcomes = await pending.settled()
        expect_equal([type(outcome) for outcome in outcomes], [Delivered] * 10, "all are delivered all the same")


async def appends_keep_the_order_of_the_calls(under_test: LogUnderTest) -> None:
    """Within a partition, over many calls that nobody waited for."""
    async with under_test.client() as log:
        pendings = [log.append(under_test.numbered(10, first=first)) for first in range(0, 1_000, 10)]
        async with asyncio.timeout(under_test.timeout_s):
            for pending in pendings:
                await pending.settled()
        found = await everything(under_test, log)
    for partition, numbers in found.items():
        expect_equal(numbers, sorted(numbers), f"{partition} is in the order of the calls")
    expect_equal(sorted(chain(*found.values())), list(range(1_000)), "every record is there once")


async def tasks_that_append_at_the_same_time_keep_their_own_order(under_test: LogUnderTest) -> None:
    """Ten tasks on one partition, each waiting for its own records one by one."""
    async with under_test.client() as log:

        async def task(first: int) -> None:
            for number in range(first, first + 20):
                await deliver(under_test, log, under_test.numbered(1, first=number, partition=1))

        await asyncio.gather(*(task(first) for first in range(0, 1_000, 100)))
        numbers = (await everything(under_test, log))[under_test.partitions[1]]
    expect_equal(len(numbers), 200, "every record is there once")
    for first in range(0, 1_000, 100):
        own = [number for number in numbers if first <= number < first + 100]
        expect_equal(own, list(range(first, first + 20)), "one task's records are in its order")


async def refused_records_leave_no_trace(under_test: LogUnderTest) -> None:
    """Too large, an unknown topic, an unknown partition: Rejected, not in the log, and their neighbours are."""
    good = under_test.numbered(3, partition=0)
    bad = [
        _changed(good[0], event_id="large", value=b"x" * _TOO_LARGE),
        _changed(good[0], event_id="elsewhere", topic=f"{under_test.topic.name}-unknown"),
        _changed(good[0], event_id="beyond", partition=under_test.topic.partitions + 100),
    ]
    async with under_test.client() as log:
        async with asyncio.timeout(under_test.timeout_s):
            outcomes = await log.append([good[0], bad[0], good[1], bad[1], bad[2], good[2]]).settled()
        kinds = [type(outcome) for outcome in outcomes]
        expect_equal(kinds, [Delivered, Rejected, Delivered, Rejected, Rejected, Delivered], "refusals hit their own record only")
        expect_equal(await everything(under_test, log), {under_test.partitions[0]: [0, 1, 2]}, "refused records are not in the log")


async def records_come_back_byte_for_byte(under_test: LogUnderTest) -> None:
    """Key, value, headers in order and with repeated names, and the timestamp."""
    moment = now_ms()
    name = under_test.topic.name
    records = [
        Encoded("1", name, 2, b"task:1", bytes(range(256)) * 40, HEADERS, moment),
        Encoded("2", name, 2, b"\x00\xff\xfe", b"\x00", [], moment - 5),
        Encoded("3", name, 2, "tâsk:ü".encode(), b'{"a":1}', [("b", b"\x00\xff"), ("a", b"1"), ("b", b"2")], moment + 7),
        Encoded("4", name, 2, b"k", b"v" * 100_000, [("traceparent", b"00-1-2-01"), *HEADERS], moment),
    ]
    async with under_test.client() as log:
        await deliver(under_test, log, records)
        seen = []
        async for batch in log.read([Span(name, 2, 0, 4)]):
            seen += [(batch.keys[i], batch.values[i], list(batch.headers(i)), batch.timestamps_ms[i]) for i in range(len(batch))]
    expect_equal(len(seen), len(records), "every record comes back")
    for got, record in zip(seen, records, strict=True):
        expect(got == (record.key, record.value, list(record.headers), record.timestamp_ms), f"record {record.event_id} is as appended")


async def a_span_is_read_from_its_start_up_to_its_end(under_test: LogUnderTest) -> None:
    """Also in the middle of a partition, empty, of one record, and with batches bounded by max_records."""
    name = under_test.topic.name
    async with under_test.client() as log:
        await deliver(under_test, log, under_test.numbered(700, partition=0))
        for start, end, max_records in ((0, 700, 500), (0, 0, 500), (123, 124, 500), (250, 650, 7), (499, 501, 1), (0, 700, 1_000)):
            position, numbers = start, []
            async with asyncio.timeout(under_test.timeout_s):
                async for batch in log.read([Span(name, 0, start, end)], max_records=max_records):
                    expect(1 <= len(batch) <= max_records, "a batch is not empty, and not above max_records")
                    expect_equal(list(batch.offsets), list(range(position, position + len(batch))), "batches follow each other")
                    position = batch.next_offset
                    numbers += [int(value or b"") for value in batch.values]
            expect_equal(numbers, list(range(start, end)), f"the span {start} to {end} is whole and no more")


async def several_spans_are_read_together(under_test: LogUnderTest) -> None:
    """Partitions in any order, each in its own; what was not asked for stays out; reading again gives the same."""
    async with under_test.client() as log:
        for partition in range(4):
            await deliver(under_test, log, under_test.numbered(30, first=partition * 100, partition=partition))
        spans = [Span(under_test.topic.name, 3, 10, 30), Span(under_test.topic.name, 0, 0, 5), Span(under_test.topic.name, 1, 7, 7)]
        for _ in range(2):
            found: dict[int, list[int]] = {}
            async with asyncio.timeout(under_test.timeout_s):
                async for batch in log.read(spans):
                    found.setdefault(batch.partition, []).extend(int(value or b"") for value in batch.values)
            expect_equal(found, {3: list(range(310, 330)), 0: list(range(5))}, "exactly the spans")


async def starts_and_ends_count_what_is_in_the_log(under_test: LogUnderTest) -> None:
    """Zero in an empty log, every partition named; ends rise with what is delivered; other topics do not show."""
    name = under_test.topic.name
    async with under_test.client() as log:
        zeros = dict.fromkeys(under_test.partitions, 0)
        expect_equal(dict(await log.starts([name])), zeros, "an empty log starts at 0")
        expect_equal(dict(await log.ends([name])), zeros, "an empty log ends at 0")
        await deliver(under_test, log, under_test.numbered(5, partition=2))
        expect_equal(dict(await log.starts([name])), zeros, "appending moves no start")
        expect_equal(dict(await log.ends([name])), {**zeros, under_test.partitions[2]: 5}, "the end is one past the last record")


async def a_moment_is_found_by_record_timestamps(under_test: LogUnderTest) -> None:
    """The first offset at or after it; the end when there is none."""
    name, moment = under_test.topic.name, now_ms()
    records = [_changed(record, timestamp_ms=moment + 10 * i) for i, record in enumerate(under_test.numbered(1_200, partition=0))]
    async with under_test.client() as log:
        for first in range(0, 1_200, 400):
            await deliver(under_test, log, records[first : first + 400])
        for offset, at in (
            (0, moment - 1_000),
            (0, moment),
            (1, moment + 1),
            (700, moment + 7_000),
            (701, moment + 7_001),
            (1_200, moment + 20_000),
        ):
            async with asyncio.timeout(under_test.timeout_s):
                found = await log.positions_at([name], at)
            expect_equal(found[under_test.partitions[0]], offset, f"the first record from {at - moment} ms on")
            expect_equal(found[under_test.partitions[1]], 0, "an empty partition answers with its end")


async def drain_waits_for_every_outcome(under_test: LogUnderTest) -> None:
    """From another thread, while the event loop does nothing."""
    async with under_test.client() as log:
        pending = log.append(under_test.numbered(2_000))
        left = await asyncio.to_thread(log.drain, under_test.timeout_s)
        expect_equal(left, 0, "drain says that nothing is left")
        expect(all(isinstance(outcome, Delivered) for outcome in pending.outcomes), "and every outcome is there")
        expect_equal(log.drain(under_test.timeout_s), 0, "with nothing to wait for it returns at once")


async def close_settles_what_was_appended(under_test: LogUnderTest) -> None:
    """Nobody waits for ever for a log that is closed; closing again changes nothing."""
    log = await under_test.open(under_test.catalogue)
    pending = log.append(under_test.numbered(100))
    async with asyncio.timeout(under_test.timeout_s):
        await log.close()
        outcomes = await pending.settled()
        await log.close()
    expect(None not in outcomes, "every record has its outcome")


async def what_one_client_appends_another_reads(under_test: LogUnderTest) -> None:
    """Delivered means that every other client sees it."""
    async with under_test.client() as one, under_test.client() as other:
        await deliver(under_test, one, under_test.numbered(20, partition=0))
        await deliver(under_test, other, under_test.numbered(20, first=20, partition=0))
        await deliver(under_test, one, under_test.numbered(20, first=40, partition=0))
        for log in (one, other):
            expect_equal(await everything(under_test, log), {under_test.partitions[0]: list(range(60))}, "both see the same log")


def _changed(record: Encoded, **fields: object) -> Encoded:
    return msgspec.structs.replace(record, **fields)


CASES: Final[tuple[Case, ...]] = (
    outcomes_come_in_the_order_of_the_records,
    settled_can_be_awaited_again,
    a_cancelled_wait_withdraws_nothing,
    appends_keep_the_order_of_the_calls,
    tasks_that_append_at_the_same_time_keep_their_own_order,
    refused_records_leave_no_trace,
    records_come_back_byte_for_byte,
    a_span_is_read_from_its_start_up_to_its_end,
    several_spans_are_read_together,
    starts_and_ends_count_what_is_in_the_log,
    a_moment_is_found_by_record_timestamps,
    drain_waits_for_every_outcome,
    close_settles_what_was_appended,
    *GROUP_CASES,
)
SHARED_CASES: Final[tuple[Case, ...]] = (what_one_client_appends_another_reads, *SHARED_GROUP_CASES)
