"""The contract of event logs is seen to fail: each broken promise is caught by the case that is about it."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
import pytest

from tallyroll.adapters.sqlite import SqliteLog
from tallyroll.adapters.system import SystemClock
from tallyroll.events.ids import new_id
from tallyroll.events.topics import Catalogue
from tallyroll.testing import group_contract, log_contract
from tallyroll.testing.log_contract import LogUnderTest


class Around:
    """Hands everything on to a log that keeps its promises; subclasses break one."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Reorders(Around):
    def append(self, records):
        return self.inner.append(list(reversed(records)))


class Truncates(Around):
    def append(self, records):
        return self.inner.append([msgspec.structs.replace(record, value=record.value[:1_000]) for record in records])


class ForgetsTheLastOfEachBatch(Around):
    async def read(self, spans, *, max_records=500):
        async for batch in self.inner.read(spans, max_records=max_records):
            if len(batch) > 1:
                yield batch.slice(0, len(batch) - 1)


class ReadsBeyondTheEnd(Around):
    async def read(self, spans, *, max_records=500):
        wider = [span._replace(end=span.end + 1) for span in spans]
        async for batch in self.inner.read(wider, max_records=max_records):
            yield batch


class EndsOneLate(Around):
    async def ends(self, topics):
        return {partition: end + 1 for partition, end in (await self.inner.ends(topics)).items()}


class FindsNoMoment(Around):
    async def positions_at(self, topics, timestamp_ms):  # noqa: ARG002
        return await self.inner.starts(topics)


class ForgetsCommits(Around):
    async def committed(self, group, topics):  # noqa: ARG002
        return {}


class Subscribes(Around):
    """Breaks the membership instead of the log."""

    broken: type[Around]

    async def subscribe(self, *arguments, **options):
        return self.broken(await self.inner.subscribe(*arguments, **options))


class IgnoresPause(Subscribes):
    class broken(Around):  # noqa: N801  # the name of the field above
        def pause(self, partition):
            pass


class PausesForGood(Subscribes):
    class broken(Around):  # noqa: N801
        def __init__(self, inner):
            super().__init__(inner)
            self.shut = set()

        def pause(self, partition):
            self.shut.add(partition)

        def resume(self, partition):
            self.shut.discard(partition)

        async def poll(self, timeout_ms):
            return [batch for batch in await self.inner.poll(timeout_ms) if batch.topic_partition not in self.shut]


class IgnoresSeek(Subscribes):
    class broken(Around):  # noqa: N801
        async def seek(self, partition, offset):
            pass


class DropsCommits(Subscribes):
    class broken(Around):  # noqa: N801
        async def commit(self, positions):
            pass


class NeverWaits(Subscribes):
    class broken(Around):  # noqa: N801
        async def poll(self, timeout_ms):  # noqa: ARG002
            return await self.inner.poll(0)


class WaitsForTheWholeTime(Subscribes):
    class broken(Around):  # noqa: N801
        async def poll(self, timeout_ms):
            batches = []
            deadline = asyncio.get_running_loop().time() + timeout_ms / 1_000
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                batches += await self.inner.poll(left * 1_000)
            return batches


class RepeatsBatches(Subscribes):
    class broken(Around):  # noqa: N801
        kept = ()

        async def poll(self, timeout_ms):
            batches, self.kept = self.kept, ()
            if not batches:
                batches = self.kept = await self.inner.poll(timeout_ms)
            return batches


class SharesNothing(Around):
    async def subscribe(self, group, *arguments, **options):
        return await self.inner.subscribe(f"{group}.{new_id()}", *arguments, **options)


class GivesMoreThanWasAskedFor(Around):
    async def subscribe(self, *arguments, max_records=500):
        return await self.inner.subscribe(*arguments, max_records=max_records + 1)


class StarvesTheRest(Subscribes):
    class broken(Around):  # noqa: N801
        async def poll(self, timeout_ms):
            batches = await self.inner.poll(timeout_ms)
            for batch in batches:
                if batch.partition != 0:
                    await self.inner.seek(batch.topic_partition, batch.offsets[0])
            return [batch for batch in batches if batch.partition == 0]


BROKEN = [
    (Reorders, log_contract.outcomes_come_in_the_order_of_the_records),
    (Reorders, log_contract.appends_keep_the_order_of_the_calls),
    (Truncates, log_contract.refused_records_leave_no_trace),
    (Truncates, log_contract.records_come_back_byte_for_byte),
    (ForgetsTheLastOfEachBatch, log_contract.appends_keep_the_order_of_the_calls),
    (ForgetsTheLastOfEachBatch, log_contract.tasks_that_append_at_the_same_time_keep_their_own_order),
    (ForgetsTheLastOfEachBatch, log_contract.a_span_is_read_from_its_start_up_to_its_end),
    (ReadsBeyondTheEnd, log_contract.a_span_is_read_from_its_start_up_to_its_end),
    (ReadsBeyondTheEnd, log_contract.several_spans_are_read_together),
    (EndsOneLate, log_contract.starts_and_ends_count_what_is_in_the_log),
    (FindsNoMoment, log_contract.a_moment_is_found_by_record_timestamps),
    (ForgetsCommits, group_contract.a_group_goes_on_where_it_committed),
    (DropsCommits, group_contract.a_group_goes_on_where_it_committed),
    (DropsCommits, group_contract.members_share_partitions_and_hand_them_over),
    (IgnoresSeek, group_contract.groups_of_one_client_do_not_touch_each_other),
    (RepeatsBatches, group_contract.groups_of_one_client_do_not_touch_each_other),
    (IgnoresPause, group_contract.a_paused_partition_waits_while_the_others_go_on),
    (PausesForGood, group_contract.a_partition_that_comes_back_is_not_paused),
    (IgnoresPause, group_contract.a_partition_that_comes_back_is_not_paused),
    (IgnoresSeek, group_contract.seek_goes_back_and_forward),
    (NeverWaits, group_contract.a_poll_without_news_returns_empty_after_its_time),
    (WaitsForTheWholeTime, group_contract.a_poll_returns_when_something_arrives),
    (RepeatsBatches, group_contract.a_member_gets_every_partition_and_every_record),
    (SharesNothing, group_contract.members_share_partitions_and_hand_them_over),
    (StarvesTheRest, group_contract.no_partition_starves),
    (GivesMoreThanWasAskedFor, group_contract.members_share_partitions_and_hand_them_over),
]


async def open_broken(broken, catalogue):
    return broken(await SqliteLog.open(None, catalogue, clock=SystemClock(), session_timeout_ms=3_600_000))


@pytest.mark.parametrize(("broken", "case"), BROKEN, ids=lambda item: item.__name__)
async def test_a_broken_log_is_caught(broken, case):
    with pytest.raises((AssertionError, TimeoutError)):
        await case(LogUnderTest(Catalogue(), partial(open_broken, broken), timeout_s=0.2))


@pytest.mark.parametrize("case", {case: None for _, case in BROKEN}, ids=lambda case: case.__name__)
async def test_the_wrapper_alone_breaks_nothing(case):
    await case(LogUnderTest(Catalogue(), partial(open_broken, Around)))
