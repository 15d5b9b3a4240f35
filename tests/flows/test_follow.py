"""What the loop promises to followers: each record once, in order, whatever fails."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.flows.following import Accountant, Ledger, Unhurried, office, running
from tests.flows.publishing import breathe
from tests.patience import PATIENCE_S

from tallyroll.errors import LogUnavailable, PositionConflict, SettingsError, SpanGone, StoreFilling, StoreUnavailable, TallyrollError
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import TopicPartition
from tallyroll.follow import flushing
from tallyroll.ports import LooksFirst, Span
from tallyroll.roll import FOLLOWERS, NATS_FOLLOWER, REDIS_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.telemetry import DEAD_LETTERS, FOLLOW_CONFLICTS, FOLLOW_RETRIES, FOLLOWED
from tallyroll.testing.builders import EventBuilder
from tallyroll.testing.clock import FakeClock
from tallyroll.testing.faulty_log import Fault, FaultyLog


def faulty(inner, clock):
    return FaultyLog(inner, clock=clock, durable_spool_needed=False)


def once(ledger, count):
    """Whether every record was applied, once, in the order of its partition."""
    assert len(ledger.all()) == count
    for offsets in ledger.applied.values():
        assert offsets == list(range(len(offsets)))
    return True


async def test_every_record_is_applied_once_in_order():
    async with office() as desk:
        ledger = Ledger()
        await desk.append(desk.records(1_000))
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: len(ledger.all()) >= 1_000)
        assert once(ledger, 1_000)
        assert desk.telemetry.value(FOLLOWED, follower="accountant") == 1_000


async def test_a_follower_goes_on_where_its_store_says_whatever_was_committed():
    async with office() as desk:
        ledger = Ledger()
        await desk.append(desk.records(100))
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: len(ledger.all()) >= 100)
        await desk.append(desk.records(100, seed=1))
        ledger.applied.clear()
        ledger.positions.clear()
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: len(ledger.all()) >= 200)
        assert once(ledger, 200)


async def test_caught_up_waits_until_results_are_stored():
    async with office() as desk:
        ledger = Ledger()
        async with running(desk, desk.loop(Accountant(ledger))) as loop:
            position = (await desk.append(desk.records(5)))[-1]
            assert await desk.passing(loop.caught_up(position, 3_600))
            assert ledger.positions[position.topic_partition] > position.offset


async def test_caught_up_says_no_when_the_time_is_over():
    async with office() as desk:
        ledger = Ledger()
        ledger.away = True
        async with running(desk, desk.loop(Accountant(ledger))) as loop:
            position = (await desk.append(desk.records(1)))[0]
            assert not await desk.passing(loop.caught_up(position, 0.5))
            ledger.away = False


async def test_stop_stores_what_was_applied():
    async with office(flush_interval_ms=3_600_000) as desk:
        ledger, follower = Ledger(), None
        follower = Accountant(ledger)
        await desk.append(desk.records(50))
        async with running(desk, desk.loop(follower)):
            await desk.until(lambda: sum(map(len, follower.fresh.values())) == 50)
            assert ledger.all() == []
        assert once(ledger, 50)


class Unanswered(Accountant):
    """Its store does not answer: each flush fails after ten seconds."""

    def __init__(self, ledger, clock):
        super().__init__(ledger)
        self._clock = clock
        self.asked = 0

    async def flush(self):
        if self._ledger.away:
            self.asked += 1
            await self._clock.sleep(10)
        return await super().flush()


@pytest.mark.parametrize("under_way", [True, False])
async def test_stop_waits_once_for_a_store_that_does_not_answer(under_way):
    async with office(flush_interval_ms=20) as desk:
        ledger = Ledger()
        follower = Unanswered(ledger, desk.clock)
        loop = desk.loop(follower)
        loop.start()
        await desk.append(desk.records(50))
        await desk.until(lambda: len(ledger.all()) == 50)
        ledger.away = True
        if under_way:
            await desk.append(desk.records(50, seed=1))
            await desk.until(lambda: follower.asked == 1)
        began = desk.clock.monotonic()
        await desk.passing(loop.stop())
        assert follower.asked == 1
        assert desk.clock.monotonic() - began < 11
        assert once(ledger, 50)


async def test_stop_waits_for_no_pause_between_two_tries():
    async with office() as desk:

        class Away(FaultyLog):
            async def subscribe(self, *_, **__):
                raise LogUnavailable("log", "away")

        loop = desk._replace(log=Away(desk.log, clock=desk.clock)).loop(Accountant(Ledger()))
        loop.start()
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(10):  # the pauses grow
                await desk.clock.until_asleep()
                desk.clock.advance(5)
            await desk.clock.until_asleep()
            await loop.stop()  # no time passes any more


async def test_stop_does_not_wait_for_a_log_that_takes_no_dead_letters():
    async with office(wrap=faulty, flush_interval_ms=20) as desk:
        ledger = Ledger()
        bad = [msgspec.structs.replace(record, value=b"poison") for record in desk.records(1)]
        where = (await desk.append(bad))[0].topic_partition
        desk.log.hold()
        loop = desk.loop(Accountant(ledger))
        loop.start()
        await desk.until(lambda: desk.log.faults["held"])
        began = desk.clock.monotonic()
        await desk.passing(loop.stop())
        assert desk.clock.monotonic() - began < 11
        assert where not in ledger.positions
        desk.log.release()
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: ledger.positions.get(where) == 1)
        assert [letter.value for letter in await desk.dead()] == [b"poison"]


async def test_stop_commits_so_that_lag_tools_see_it():
    async with office() as desk:
        ledger = Ledger()
        await desk.append(desk.records(50))
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: len(ledger.all()) >= 50)
        topic = desk.catalogue["task-events"].name
        assert dict(await desk.log.committed("g", [topic])) == ledger.positions


class SlowToCommit:
    """A log whose answers to commits take as long as ``gate`` is closed; afterwards they are ``refused``."""

    def __init__(self, inner, _):
        self._inner = inner
        self.gate = asyncio.Event()
        self.asked = 0
        self.refused = False

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def subscribe(self, *arguments, **options):
        log, subscription = self, await self._inner.subscribe(*arguments, **options)

        class Slow:
            def __getattr__(self, name):
                return getattr(subscription, name)

            async def commit(self, positions):
                log.asked += 1
                await log.gate.wait()
                if log.refused:
                    raise LogUnavailable("log", "full")
                await subscription.commit(positions)

        return Slow()


async def test_nobody_waits_for_a_commit():
    async with office(wrap=SlowToCommit, flush_interval_ms=20) as desk:
        ledger = Ledger()
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.append(desk.records(50))
            await desk.until(lambda: desk.log.asked)
            for seed in range(1, 4):
                await desk.append(desk.records(50, seed=seed))
                await desk.until(lambda seed=seed: len(ledger.all()) >= 50 * (seed + 1))
            assert desk.log.asked == 1, "one at a time"
            desk.log.gate.set()
        assert once(ledger, 200)
        assert dict(await desk.log.committed("g", ["task-events"])) == ledger.positions


async def test_a_commit_that_failed_is_made_again():
    async with office(wrap=SlowToCommit, flush_interval_ms=20) as desk:
        ledger = Ledger()
        desk.log.refused = True
        desk.log.gate.set()
        await desk.append(desk.records(50))
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: desk.log.asked)
            desk.log.refused = False
            await desk.append(desk.records(50, seed=1))
            await desk.until(lambda: len(ledger.all()) >= 100)
        assert dict(await desk.log.committed("g", ["task-events"])) == ledger.positions


# Retriable errors


async def test_a_retriable_error_holds_one_partition_and_its_neighbours_go_on():
    async with office() as desk:
        ledger, stuck = Ledger(), TopicPartition("task-events", 0)
        trouble = True

        def refuse(batch):
            if trouble and batch.topic_partition == stuck:
                raise StoreUnavailable("ledger", "busy")

        follower = Accountant(ledger, refuses=refuse)
        records = desk.records(400)
        await desk.append(records)
        elsewhere = sum(record.partition != 0 for record in records)
        async with running(desk, desk.loop(follower)):
            await desk.until(lambda: len(ledger.all()) == elsewhere and desk.telemetry.value(FOLLOW_RETRIES) >= 3)
            assert stuck not in ledger.applied
            trouble = False
            await desk.until(lambda: len(ledger.all()) >= 400)
        assert once(ledger, 400)


async def test_what_arrives_while_a_partition_is_held_comes_after_it_in_order():
    async with office(batch_records=10) as desk:
        ledger, stuck = Ledger(), TopicPartition("task-events", 0)
        trouble = True

        def refuse(batch):
            if trouble and batch.topic_partition == stuck and batch.offsets[0] >= 10:
                raise StoreUnavailable("ledger", "busy")

        await desk.append(desk.records(300))
        async with running(desk, desk.loop(Accountant(ledger, refuses=refuse))):
            await desk.until(lambda: desk.telemetry.value(FOLLOW_RETRIES) >= 2)
            await desk.append(desk.records(300, seed=1))
            trouble = False
            await desk.until(lambda: len(ledger.all()) >= 600)
        assert once(ledger, 600)


async def test_a_held_partition_of_one_follower_does_not_repeat_for_another():
    async with office(batch_records=20) as desk:
        first, second = Ledger(), Ledger()
        trouble = True

        def refuse(batch):
            if trouble and batch.partition == 0:
                raise StoreUnavailable("ledger", "busy")

        await desk.append(desk.records(300))
        followers = Accountant(first, refuses=refuse, name="first"), Accountant(second, name="second")
        async with running(desk, desk.loop(*followers)):
            await desk.until(lambda: desk.telemetry.value(FOLLOW_RETRIES) >= 2)
            trouble = False
            await desk.until(lambda: len(first.all()) >= 300 and len(second.all()) >= 300)
        assert once(first, 300)
        assert once(second, 300)


# Position conflicts


async def test_after_a_position_conflict_the_loop_yields_and_doubles_nothing():
    async with office(flush_interval_ms=50) as desk:
        ledger = Ledger()
        follower = Accountant(ledger)
        await desk.append(desk.records(100))
        async with running(desk, desk.loop(follower)):
            await desk.until(lambda: len(ledger.all()) >= 100)
            before = dict(ledger.positions)
            # Somebody else applied the next records of one partition.
            other = next(iter(before))
            positions = await desk.append([record for record in desk.records(100, seed=1) if record.partition == other.partition])
            ledger.applied[other] += [position.offset for position in positions]
            ledger.positions[other] = positions[-1].offset + 1
            await desk.until(lambda: desk.telemetry.value(FOLLOW_CONFLICTS) >= 1)
            more = await desk.append(desk.records(100, seed=2))
            await desk.until(lambda: len(ledger.all()) >= 100 + len(positions) + len(more))
        assert once(ledger, 100 + len(positions) + len(more))


async def test_a_conflict_of_one_follower_does_not_repeat_for_another():
    async with office(flush_interval_ms=50) as desk:
        first, second = Ledger(), Ledger()
        conflicts = iter([False, True])

        def refuse(_):
            if next(conflicts, False):
                raise PositionConflict("task-events/0", stored=4, expected=2)

        async with running(desk, desk.loop(Accountant(first, name="first", refuses=refuse), Accountant(second, name="second"))):
            for seed in range(4):
                await desk.append(desk.records(100, seed=seed))
                await desk.until(lambda seed=seed: len(second.all()) >= 100 * (seed + 1))
            await desk.until(lambda: len(first.all()) >= 400)
        assert once(first, 400)
        assert once(second, 400)


async def test_a_conflict_at_the_flush_of_one_follower_does_not_repeat_for_another():
    async with office(flush_interval_ms=50) as desk:
        ledger, other = Ledger(), Ledger()
        await desk.append(desk.records(100))
        async with running(desk, desk.loop(Accountant(ledger, name="first"), Accountant(other, name="second"))):
            await desk.until(lambda: len(ledger.all()) >= 100)
            where = next(iter(ledger.positions))
            ledger.positions[where] -= 1  # somebody rewound it
            ledger.applied[where].pop()
            await desk.append(desk.records(100, seed=1))
            await desk.until(lambda: len(ledger.all()) >= 200 and len(other.all()) >= 200)
        assert once(ledger, 200)
        assert once(other, 200)


async def test_a_follower_that_notices_the_conflict_while_applying_starts_over():
    async with office() as desk:
        ledger = Ledger()
        conflicts = iter([True])

        def refuse(_):
            if next(conflicts, False):
                raise PositionConflict("task-events/0", stored=4, expected=2)

        await desk.append(desk.records(100))
        async with running(desk, desk.loop(Accountant(ledger, refuses=refuse))):
            await desk.until(lambda: len(ledger.all()) >= 100)
        assert once(ledger, 100)


async def test_starting_over_in_the_middle_of_a_poll_skips_nothing():
    async with office(flush_interval_ms=3_600_000) as desk:
        ledger, calls = Ledger(), 0

        def refuse(batch):
            nonlocal calls
            calls += batch.offsets[0] > 0
            if calls == 1 and batch.offsets[0] > 0:
                raise PositionConflict("task-events/0", stored=4, expected=2)

        follower = Accountant(ledger, refuses=refuse)
        async with running(desk, desk.loop(follower)):
            await desk.append(desk.records(100))
            await desk.until(lambda: sum(map(len, follower.fresh.values())) == 100)
            await desk.append(desk.records(100, seed=1))
            await desk.until(lambda: calls and sum(map(len, follower.fresh.values())) >= 200)
        assert once(ledger, 200)


async def test_a_conflict_among_records_that_are_offered_one_by_one_is_no_dead_letter():
    async with office() as desk:
        ledger, conflicts = Ledger(), iter([True])

        def refuse(batch):
            if len(batch) > 1:
                raise ZeroDivisionError
            if next(conflicts, False):
                raise PositionConflict("task-events/0", stored=4, expected=2)

        await desk.append(desk.records(60, keys=3))
        async with running(desk, desk.loop(Accountant(ledger, refuses=refuse))):
            await desk.until(lambda: len(ledger.all()) >= 60)
        assert once(ledger, 60)
        assert await desk.dead() == []


# Dead letters


async def test_a_record_that_a_follower_cannot_apply_is_put_aside_and_its_neighbours_are_applied():
    async with office() as desk:
        ledger = Ledger()

        def refuse(batch):
            for head in batch.heads():
                if b'"number":13}' in bytes(head.data):
                    raise ZeroDivisionError

        records = desk.records(100)
        position = (await desk.append(records))[13]
        async with running(desk, desk.loop(Accountant(ledger, refuses=refuse))):
            await desk.until(lambda: len(ledger.all()) >= 99)
        assert len(ledger.all()) == 99
        (letter,) = await desk.dead()
        assert (letter.position, letter.value, letter.key) == (position, records[13].value, records[13].key)
        assert (letter.info.reason, letter.info.error) == ("follower_failed", "ZeroDivisionError")
        assert desk.telemetry.value(DEAD_LETTERS, follower="accountant", reason="follower_failed") == 1


async def test_while_dead_letters_cannot_be_written_the_position_is_held():
    async with office(wrap=faulty, flush_interval_ms=20) as desk:
        ledger = Ledger()
        bad = desk.records(1)
        bad[0] = type(bad[0])("x", bad[0].topic, bad[0].partition, bad[0].key, b"poison", [], bad[0].timestamp_ms)
        where = (await desk.append(bad))[0].topic_partition
        desk.log.next_records(Fault.LOSE, 3)
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: desk.log.faults[Fault.LOSE] == 3)
            assert where not in ledger.positions
            await desk.until(lambda: ledger.positions.get(where) == 1)
        assert [letter.value for letter in await desk.dead()] == [b"poison"]


async def test_while_dead_letters_cannot_be_written_no_other_follower_misses_anything():
    async with office(wrap=faulty, flush_interval_ms=20) as desk:
        poisoned, healthy = Ledger(), Ledger()
        good = desk.records(40)
        others = [msgspec.structs.replace(record, topic="workflow-events", partition=1) for record in desk.records(200, seed=1)]
        await desk.append([*good, msgspec.structs.replace(good[0], value=b"poison"), *others])
        desk.log.next_records(Fault.LOSE, 3)
        followers = Accountant(poisoned, name="poisoned"), Accountant(healthy, name="healthy", topics=("workflow-events",))
        async with running(desk, desk.loop(*followers)):
            await desk.until(lambda: len(poisoned.all()) >= 40 and desk.telemetry.value(DEAD_LETTERS) == 1)
            await desk.until(lambda: len(healthy.all()) >= 200)
        assert once(healthy, 200)
        assert len(poisoned.all()) == 40


async def test_a_retriable_error_between_records_that_are_offered_one_by_one_loses_and_doubles_nothing():
    async with office() as desk:
        ledger, seen = Ledger(), Counter()

        def refuse(batch):
            if len(batch) > 1:
                raise ZeroDivisionError
            seen[batch.position(0)] += 1
            if batch.offsets[0] == 3 and seen[batch.position(0)] == 1:
                raise StoreUnavailable("ledger", "busy")

        await desk.append(desk.records(60, keys=3))
        async with running(desk, desk.loop(Accountant(ledger, refuses=refuse))):
            await desk.until(lambda: len(ledger.all()) >= 60)
        assert once(ledger, 60)
        assert await desk.dead() == []


# The store away


async def test_while_the_store_is_away_memory_stays_bounded_and_the_loop_goes_on_after():
    bound = flushing._FLUSH_RECORDS
    async with office(batch_records=5_000, flush_interval_ms=20) as desk:
        ledger = Ledger()
        ledger.away = True
        follower = Accountant(ledger)
        for first in range(0, bound * 2, 20_000):
            await desk.append(desk.records(20_000, seed=first))
        async with running(desk, desk.loop(follower)):
            await desk.until(lambda: follower.most_fresh >= bound and desk.telemetry.value(FOLLOW_RETRIES) >= 5)
            most = follower.most_fresh
            await desk.until(lambda: desk.telemetry.value(FOLLOW_RETRIES) >= 7)
            assert follower.most_fresh == most <= bound + 8 * 5_000
            ledger.away = False
            await desk.until(lambda: len(ledger.all()) >= bound * 2)
        assert once(ledger, bound * 2)


# Beside a flush


async def test_reading_goes_on_during_a_flush_and_the_rest_belongs_to_the_next():
    async with office(flush_interval_ms=20) as desk:
        ledger = Ledger()
        follower = Unhurried(ledger)
        first = await desk.append(desk.records(100))
        async with running(desk, desk.loop(follower)) as loop:
            await desk.until(lambda: follower.flushing and sum(map(len, follower.fresh.values())) == 0)
            await desk.append(desk.records(100, seed=1))
            await desk.until(lambda: sum(map(len, follower.fresh.values())) == 100)
            assert ledger.all() == []
            assert loop.flushed["accountant"] == {}
            follower.gate.set()
            assert await desk.passing(loop.caught_up(first[-1], 3_600))
            await desk.until(lambda: len(ledger.all()) >= 200)
            assert ledger.stored[0] == 100, "one flush stores what was applied when it began"
        assert once(ledger, 200)


async def test_who_dies_during_a_flush_leaves_no_more_than_what_was_applied_before_it():
    async with office(flush_interval_ms=20) as desk:
        ledger = Ledger()
        follower = Unhurried(ledger)
        await desk.append(desk.records(100))
        loop = desk.loop(follower)
        loop.start()
        await desk.until(lambda: follower.flushing)
        await desk.append(desk.records(100, seed=1))
        await desk.until(lambda: sum(map(len, follower.fresh.values())) == 100)
        stored, applied = dict(ledger.positions), dict(ledger.applied)
        loop._task.cancel()
        follower.gate.set()
        await asyncio.wait([loop._task])
        assert once(ledger, 200), "a loop that ends in order stores the rest as well"
        ledger.positions, ledger.applied = stored, defaultdict(list, applied)
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: len(ledger.all()) >= 200)
        assert once(ledger, 200)


async def test_partitions_are_given_up_only_when_what_is_being_stored_is_stored():
    async with office(flush_interval_ms=20) as desk:
        ledger = Ledger()
        follower = Unhurried(ledger)
        await desk.append(desk.records(200))
        async with running(desk, desk.loop(follower)) as one:
            await desk.until(lambda: follower.flushing)
            await desk.append(desk.records(200, seed=1))
            async with running(desk, desk.loop(Accountant(ledger))) as two:
                for _ in range(50):
                    desk.clock.advance(0.02)
                    await breathe()
                assert not two.assignment
                follower.gate.set()
                await desk.until(lambda: one.assignment and two.assignment and len(ledger.all()) >= 400)
                assert not one.assignment & two.assignment
        assert once(ledger, 400)
        assert desk.telemetry.value(FOLLOW_CONFLICTS) == 0


async def test_partitions_that_were_lost_during_a_flush_are_fenced_and_nothing_is_doubled():
    async with office(flush_interval_ms=20) as desk:
        ledger = Ledger()
        follower = Unhurried(ledger)
        await desk.append(desk.records(100))
        async with running(desk, desk.loop(follower)) as loop:
            await desk.until(lambda: follower.flushing)
            await desk.append(desk.records(100, seed=1))
            await desk.until(lambda: sum(map(len, follower.fresh.values())) == 100)
            lost = min(loop.assignment & follower.expected.keys() & follower.next.keys())
            ledger.applied[lost] += [0]  # another member has gone on with it
            ledger.positions[lost] = 1
            follower.gate.set()
            await desk.until(lambda: desk.telemetry.value(FOLLOW_CONFLICTS) >= 1)
            await desk.until(lambda: len(ledger.all()) >= 200)
        assert once(ledger, 200)


async def test_a_flush_that_fails_is_made_again_with_what_came_meanwhile():
    async with office(flush_interval_ms=20) as desk:
        ledger = Ledger()
        follower = Unhurried(ledger)
        ledger.away = True
        await desk.append(desk.records(100))
        async with running(desk, desk.loop(follower)):
            await desk.until(lambda: follower.flushing)
            await desk.append(desk.records(100, seed=1))
            await desk.until(lambda: sum(map(len, follower.fresh.values())) == 100)
            follower.gate.set()
            await desk.until(lambda: desk.telemetry.value(FOLLOW_RETRIES) >= 2)
            ledger.away = False
            await desk.until(lambda: len(ledger.all()) >= 200)
        assert once(ledger, 200)


async def test_a_slow_flush_of_one_follower_holds_up_no_other():
    async with office(flush_interval_ms=20) as desk:
        slow, quick = Ledger(), Ledger()
        follower = Unhurried(slow, name="slow")
        async with running(desk, desk.loop(follower, Accountant(quick, name="quick"))):
            for seed in range(3):
                await desk.append(desk.records(100, seed=seed))
                await desk.until(lambda seed=seed: len(quick.all()) >= 100 * (seed + 1))
            assert slow.all() == []
            follower.gate.set()
            await desk.until(lambda: len(slow.all()) >= 300)
        assert once(slow, 300)
        assert once(quick, 300)


async def test_beside_a_flush_that_does_not_end_memory_stays_bounded():
    async with office() as desk:
        follower = Unhurried(Ledger())

        async def stored(*_):
            pass

        flushes = flushing.Flushes([follower], interval_s=1, stored=stored, clock=desk.clock, telemetry=desk.telemetry)
        flushes.applied(follower, flushing._FLUSH_RECORDS, -1)
        assert await flushes.begin(asked=False, behind=True)
        assert follower.flushing
        flushes.applied(follower, flushing._MOST_RECORDS - 1, -1)
        assert not flushes.overfull
        flushes.applied(follower, 1, -1)
        assert flushes.overfull
        follower.gate.set()
        await flushes.everything()
        assert not flushes.overfull


@asynccontextmanager
async def timed_flushes(interval_s):
    """Gives what tells whether a flush begins after so long, and has it take some time if it does."""
    async with office() as desk:
        follower, clock = Unhurried(Ledger()), FakeClock()

        async def stored(*_):
            pass

        flushes = flushing.Flushes([follower], interval_s=interval_s, stored=stored, clock=clock, telemetry=desk.telemetry)

        async def begins_after(rest_s: float, *, takes_s: float, behind: bool = False, late_s: float = 0.0) -> bool:
            flushes.applied(follower, 1, (clock.now_us() - round((late_s + rest_s) * 1_000_000)) // 1_000 if late_s else -1)
            clock.advance(rest_s)
            await flushes.begin(asked=False, behind=behind)
            began = follower.flushing
            if began:
                clock.advance(takes_s)
                follower.gate.set()
                await flushes.settled()
                follower.gate.clear()
            return began

        yield begins_after


async def test_who_stores_slowly_stores_more_seldom():
    async with timed_flushes(interval_s=0.1) as begins_after:
        assert await begins_after(0.2, takes_s=1.0)
        assert await begins_after(0.2, takes_s=1.0)
        assert not await begins_after(3.9, takes_s=0.01, behind=True)
        assert await begins_after(0.2, takes_s=1.0, behind=True)
        assert not await begins_after(0.9, takes_s=1.0)
        assert await begins_after(0.2, takes_s=1.0), "who keeps up rests as long as flushes take"


async def test_after_one_slow_flush_nobody_rests_longer():
    async with timed_flushes(interval_s=0.1) as begins_after:
        assert await begins_after(0.2, takes_s=0.01)
        assert await begins_after(0.2, takes_s=1.0)
        assert await begins_after(0.02, takes_s=1.0), "what came meanwhile has waited for a second"
        assert not await begins_after(0.9, takes_s=1.0), "two in a row are a slow store"


async def test_flushes_begin_an_interval_apart():
    async with timed_flushes(interval_s=0.1) as begins_after:
        assert await begins_after(0.2, takes_s=0.04)
        assert not await begins_after(0.05, takes_s=0.04)
        assert await begins_after(0.02, takes_s=0.04)


# Several followers, one read


async def test_followers_at_different_positions_share_one_read():
    async with office() as desk:
        old, new = Ledger(), Ledger()
        await desk.append(desk.records(100))
        async with running(desk, desk.loop(Accountant(old, name="old"))):
            await desk.until(lambda: len(old.all()) >= 100)
        follower = Accountant(old, name="old")
        async with running(desk, desk.loop(follower, Accountant(new, name="new"))):
            await desk.append(desk.records(100, seed=1))
            await desk.until(lambda: len(old.all()) >= 200 and len(new.all()) >= 200)
        assert once(old, 200)
        assert once(new, 200)


async def test_the_commit_is_the_lowest_of_all_followers():
    async with office(flush_interval_ms=20) as desk:
        quick, slow = Ledger(), Ledger()

        def refuse(_):
            raise StoreUnavailable("ledger", "busy")

        await desk.append(desk.records(100))
        async with running(desk, desk.loop(Accountant(quick, name="quick"), Accountant(slow, name="slow", refuses=refuse))):
            await desk.until(lambda: len(quick.all()) >= 100)
            assert set((await desk.log.committed("g", ["task-events"])).values()) <= {0}


async def test_a_follower_is_offered_batches_of_its_own_topics_only():
    async with office() as desk:
        tasks, others = Ledger(), Ledger()
        await desk.append(desk.records(50))
        async with running(desk, desk.loop(Accountant(tasks, name="tasks"), Accountant(others, name="others", topics=("agent-events",)))):
            await desk.until(lambda: len(tasks.all()) >= 50)
        assert others.all() == []


# The log away, and fatal ends


async def test_an_error_of_the_log_that_may_pass_is_waited_out():
    async with office() as desk:
        ledger, failures = Ledger(), iter([True, True])

        class Shaky(FaultyLog):
            async def subscribe(self, *arguments, **options):
                if next(failures, False):
                    raise LogUnavailable("broker", "away")
                return await super().subscribe(*arguments, **options)

        log = Shaky(desk.log, clock=desk.clock)
        await desk.append(desk.records(20))
        async with running(desk, desk._replace(log=log).loop(Accountant(ledger))):
            await desk.until(lambda: len(ledger.all()) >= 20)
        assert once(ledger, 20)


async def test_reading_that_could_not_be_set_back_is_set_back_later_and_skips_nothing():
    async with office() as desk:
        ledger, failures, away = Ledger(), iter([True] * 2), iter([True] * 2)

        class Stiff:
            def __init__(self, inner):
                self._inner = inner

            def __getattr__(self, name):
                return getattr(self._inner, name)

            async def seek(self, partition, offset):
                if next(failures, False):
                    raise LogUnavailable("broker", "away")
                await self._inner.seek(partition, offset)

        class Shaky(FaultyLog):
            async def subscribe(self, *arguments, **options):
                return Stiff(await super().subscribe(*arguments, **options))

        def refuse(_):
            if next(away, False):
                raise StoreUnavailable("ledger", "busy")

        log = Shaky(desk.log, clock=desk.clock)
        await desk.append(desk.records(300))
        async with running(desk, desk._replace(log=log).loop(Accountant(ledger, refuses=refuse))):
            await desk.until(lambda: len(ledger.all()) >= 300)
            await desk.append(desk.records(100, seed=1))
            await desk.until(lambda: len(ledger.all()) >= 400)
        assert not list(failures)
        assert once(ledger, 400)


@pytest.mark.parametrize("error", [StoreUnavailable("ledger", "locked"), LogUnavailable("broker", "away")])
async def test_after_a_conflict_nothing_is_applied_before_it_is_known_what_is_stored(error):
    async with office(flush_interval_ms=50) as desk:
        ledger, failures = Ledger(), iter(())

        class Late(Accountant):
            async def positions(self, partitions):
                if next(failures, False):
                    raise error
                return await super().positions(partitions)

            def apply(self, batch):
                assert batch.topic_partition in self.expected, "offered before it was asked where it stands"
                return super().apply(batch)

        await desk.append(desk.records(100))
        async with running(desk, desk.loop(Late(ledger))):
            await desk.until(lambda: len(ledger.all()) >= 100)
            other = next(iter(ledger.positions))
            failures = iter([True] * 3)
            positions = await desk.append([record for record in desk.records(100, seed=1) if record.partition == other.partition])
            ledger.applied[other] += [position.offset for position in positions]
            ledger.positions[other] = positions[-1].offset + 1  # somebody else was quicker
            more = await desk.append(desk.records(100, seed=2))
            await desk.until(lambda: len(ledger.all()) >= 100 + len(positions) + len(more))
        assert once(ledger, 100 + len(positions) + len(more))


async def test_what_ends_the_loop_is_raised_to_whoever_waits():
    async with office() as desk:

        class Gone(FaultyLog):
            async def subscribe(self, *_, **__):
                raise SpanGone({"task-events/0": 17})

        loop = desk._replace(log=Gone(desk.log, clock=desk.clock)).loop(Accountant(Ledger()))
        loop.start()
        with pytest.raises(SpanGone):
            await desk.passing(loop.finished())
        with pytest.raises(SpanGone):
            await loop.caught_up((await desk.append(desk.records(1)))[0], 1)
        await loop.stop()


async def test_two_members_of_a_group_share_the_work_and_double_nothing():
    async with office(flush_interval_ms=20) as desk:
        ledger = Ledger()
        async with running(desk, desk.loop(Accountant(ledger))) as first:
            await desk.append(desk.records(200))
            async with running(desk, desk.loop(Accountant(ledger))) as second:
                await desk.until(lambda: first.assignment and second.assignment and len(ledger.all()) >= 200)
                await desk.append(desk.records(200, seed=1))
                await desk.until(lambda: len(ledger.all()) >= 400)
            await desk.append(desk.records(200, seed=2))
            await desk.until(lambda: len(ledger.all()) >= 600)
        assert once(ledger, 600)


async def test_caught_up_asks_the_store_for_partitions_that_another_member_holds():
    async with office(flush_interval_ms=20) as desk:
        ledger = Ledger()
        async with running(desk, desk.loop(Accountant(ledger))) as first, running(desk, desk.loop(Accountant(ledger))) as second:
            await desk.until(lambda: first.assignment and second.assignment)
            positions = await desk.append(desk.records(100))
            theirs = next(position for position in positions if position.topic_partition in second.assignment)
            assert await desk.passing(first.caught_up(theirs, 3_600))


async def test_a_cancelled_loop_leaves_its_group():
    async with office() as desk:
        loop = desk.loop(Accountant(Ledger()))
        loop.start()
        await desk.until(lambda: loop.assignment)
        loop._task.cancel()
        await asyncio.wait([loop._task])
        ledger = Ledger()
        await desk.append(desk.records(10))
        async with running(desk, desk.loop(Accountant(ledger))):
            await desk.until(lambda: len(ledger.all()) >= 10)
        await breathe()


class Refilled(Accountant):
    """Its store is empty, and a flush fills one partition up to ``end`` from elsewhere; before that it takes nothing of it."""

    stuck, end = TopicPartition("task-events", 0), 20
    filled = False

    def apply(self, batch):
        if batch.topic_partition != self.stuck or self.filled:
            return super().apply(batch)
        raise StoreFilling("ledger")

    def wants_flush(self, *, interval_over):
        return interval_over or not self.filled

    async def flush(self):
        if not self.filled:
            self._ledger.applied[self.stuck] += range(self.end)
            self._ledger.positions[self.stuck] = self.expected[self.stuck] = self.end
            self.filled = True
            return {**await super().flush(), self.stuck: self.end}
        return await super().flush()


async def test_what_a_flush_has_from_elsewhere_is_not_offered_and_counts_as_no_trouble():
    async with office(batch_records=7) as desk:
        ledger = Ledger()
        await desk.append(desk.records(400))
        async with running(desk, desk.loop(Refilled(ledger))) as loop:
            await desk.until(lambda: len(ledger.all()) >= 400)
            assert loop.flushed["accountant"][Refilled.stuck] > Refilled.end
        assert once(ledger, 400)
        assert desk.telemetry.value(FOLLOW_CONFLICTS) == desk.telemetry.value(FOLLOW_RETRIES) == 0


@pytest.mark.parametrize("name", [one for one in FOLLOWERS if one not in (REDIS_FOLLOWER, NATS_FOLLOWER)])
async def test_who_only_asks_a_follower_changes_nothing_of_what_it_has_begun(name, tmp_path):
    async with Roll.open(f"sqlite:///{tmp_path}") as roll:
        receipt = await roll.publish(EventBuilder(1).event("agent.started", aggregate_id="a1", aggregate_type="agent"))
        partition, follower = receipt.position.topic_partition, await roll._following.make(name)
        assert isinstance(follower, LooksFirst)
        await follower.positions([partition])
        async for batch in roll.log.read([Span(*partition, 0, 1)]):
            follower.apply(batch)
            assert await follower.stored([partition]) == {}
        assert (await follower.flush())[partition] == 1
        assert await follower.stored([partition]) == {partition: 1}
        await follower.close()


class Deaf:
    """A log whose groups go on without those who could not follow them, as Kafka's do."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def subscribe(self, group, topics, listener, **options):
        class Quiet:
            revoked, lost = listener.revoked, listener.lost

            @staticmethod
            async def assigned(partitions):
                try:
                    return await listener.assigned(partitions)
                except TallyrollError:
                    return {}

        return await self._inner.subscribe(group, topics, Quiet, **options)


def deafened(inner, _):
    return Deaf(inner)


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_store_that_is_away_when_partitions_come_is_waited_for(deaf):
    async with office(wrap=deafened if deaf else None) as desk:
        ledger, asked = Ledger(), 0

        class Late(Accountant):
            async def positions(self, partitions):
                nonlocal asked
                asked += 1
                if asked <= 2:
                    raise StoreUnavailable("ledger", "locked")
                return await super().positions(partitions)

        await desk.append(desk.records(300))
        async with running(desk, desk.loop(Late(ledger))) as loop:
            await desk.until(lambda: len(ledger.all()) >= 300)
            assert loop.assignment
        assert once(ledger, 300)


async def test_what_does_not_pass_when_partitions_come_ends_the_loop_although_the_group_does_not_hand_it_on():
    async with office(wrap=deafened) as desk:

        class Broken(Accountant):
            async def positions(self, _):
                raise SettingsError("REDIS_PASSWORD", "refused")

        loop = desk.loop(Broken(Ledger()))
        loop.start()
        with pytest.raises(SettingsError):
            await desk.passing(loop.finished())


async def test_a_read_that_cannot_wait_for_what_was_published_says_so_once(caplog):
    with caplog.at_level(logging.WARNING, "tallyroll.follow"):
        async with Roll.open(Settings(url="sqlite://:memory:", read_wait_ms=0)) as roll:
            for _ in range(3):
                await roll.publish(AgentEvent("agent.started", "a", "agent"))
                await roll.agent_state("a")
    assert caplog.messages == ["a read has waited 0 s (TALLYROLL_READ_WAIT_MS); 'state' has not all that this process has published"]


async def test_who_is_behind_rests_for_a_tenth_of_how_old_what_he_reads_is():
    async with timed_flushes(interval_s=0.1) as begins_after:
        assert await begins_after(0.2, takes_s=0.01)
        assert not await begins_after(0.4, takes_s=0.01, behind=True, late_s=6.0)
        assert await begins_after(0.3, takes_s=0.01, behind=True, late_s=6.0)
        assert await begins_after(0.2, takes_s=0.01, late_s=6.0), "who keeps up does not, whatever a clock says"
        assert not await begins_after(0.9, takes_s=0.01, behind=True, late_s=3_600.0)
        assert await begins_after(0.2, takes_s=0.01, behind=True, late_s=3_600.0), "a second at the most"
