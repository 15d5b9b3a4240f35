"""Seals go on beside following, come by themselves, and hold following up only where tails would grow without end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contracts.test_archive_edges import FullDisk, one_agent
from tests.patience import PATIENCE_S
from tests.unit.archiving import ALL, archive_in, files_in, following, raw
from tests.unit.replay_histories import batch_of

from tallyroll.archive.sealing import SealLimits
from tallyroll.testing.clock import FakeClock

TEN = SealLimits(records=10)
HOUR = 3_600


class Held:
    """A fault that holds a seal at one place until it is let go."""

    def __init__(self, at: str = "tail read") -> None:
        self.at = at
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, point: str) -> None:
        if point == self.at:
            self.reached.set()
            assert self.go_on.wait(PATIENCE_S)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.go_on.set()


@pytest.mark.parametrize("point", ["tail read", "file put", "before commit"])
async def test_following_goes_on_while_a_segment_is_made(tmp_path: Path, held: Held, point: str) -> None:
    place, values = one_agent(30)
    held.at = point
    with archive_in(tmp_path, fault=held) as archive:
        follower = await following(archive, {place: values}, limits=SealLimits(records=12))
        follower.apply(batch_of(place, values[:12]))
        await follower.flush()
        assert await asyncio.to_thread(held.reached.wait, PATIENCE_S)
        for start in (12, 14):
            follower.apply(batch_of(place, values[start : start + 2], start))
            assert await follower.flush() == {place: start + 2}
        assert list(archive.reader.segments(place)) == []
        assert raw(list(archive.reader.records(place, 0, ALL))) == raw([batch_of(place, values[:16])])
        held.go_on.set()
        await follower.sealed()
        assert [(one.base, one.next) for one in archive.reader.segments(place)] == [(0, 12)]
        assert archive.keeper.status([place])[0].tail_records == 4
        assert raw(list(archive.reader.records(place, 0, ALL))) == raw([batch_of(place, values[:16])])
        await follower.close()


async def test_a_silent_partition_is_sealed_at_its_age(tmp_path: Path) -> None:
    place, values = one_agent(12)
    clock = FakeClock()
    with archive_in(tmp_path, clock=clock) as archive:
        follower = await following(archive, {place: values}, limits=SealLimits())
        follower.apply(batch_of(place, values))
        await follower.flush()
        for hours in (3, 3):
            assert list(archive.reader.segments(place)) == []
            await clock.until_asleep()
            clock.advance(hours * HOUR)
        await follower.sealed()
        assert [one.records for one in archive.reader.segments(place)] == [12]
        await follower.close()


async def test_what_waited_before_a_start_is_sealed_without_a_further_record(tmp_path: Path) -> None:
    place, values = one_agent(12)
    clock = FakeClock()
    with archive_in(tmp_path, clock=clock) as archive:
        follower = await following(archive, {place: values})
        follower.apply(batch_of(place, values))
        await follower.flush()
    with archive_in(tmp_path, clock=clock) as archive:
        follower = await following(archive, {place: values}, limits=TEN)
        await follower.sealed()
        assert [one.records for one in archive.reader.segments(place)] == [12]


async def test_who_gave_a_partition_up_does_not_seal_it(tmp_path: Path) -> None:
    place, values = one_agent(12)
    clock = FakeClock()
    with archive_in(tmp_path, clock=clock) as archive:
        follower = await following(archive, {place: values}, limits=SealLimits())
        follower.apply(batch_of(place, values))
        await follower.flush()
        follower.drop([place])
        clock.advance(7 * HOUR)
        await follower.sealed()
        await follower.close()
        assert list(archive.reader.segments(place)) == []


async def test_following_waits_only_for_a_tail_of_twice_its_limit(tmp_path: Path, held: Held) -> None:
    place, values = one_agent(40)
    with archive_in(tmp_path, fault=held) as archive:
        follower = await following(archive, {place: values}, limits=TEN)
        for start in (0, 10):
            follower.apply(batch_of(place, values[start : start + 9 + start // 10], start))
            if not start:
                follower.apply(batch_of(place, values[9:10], 9))
                await follower.flush()
        flushing = asyncio.ensure_future(follower.flush())
        assert not (await asyncio.wait({flushing}, timeout=0.1))[0]
        held.go_on.set()
        assert await flushing == {place: 20}
        await follower.sealed()
        assert sum(one.records for one in archive.reader.segments(place)) == 20
        await follower.close()


async def test_a_seal_that_fails_does_not_hold_following_up(tmp_path: Path) -> None:
    place, values = one_agent(60)
    clock, files = FakeClock(), FullDisk(files_in(tmp_path, place))
    with archive_in(tmp_path, open_files=lambda _: files, clock=clock) as archive:
        follower = await following(archive, {place: values}, limits=TEN)
        for start in range(0, 60, 10):
            follower.apply(batch_of(place, values[start : start + 10], start))
            assert await follower.flush() == {place: start + 10}
        files.full = False
        await clock.until_asleep()
        clock.advance(30)
        await follower.sealed()
        assert [one.records for one in archive.reader.segments(place)] == [60]
        await follower.close()


async def test_a_seal_that_is_asked_for_waits_for_the_one_under_way(tmp_path: Path, held: Held) -> None:
    place, values = one_agent(15)
    with archive_in(tmp_path, fault=held) as archive:
        follower = await following(archive, {place: values}, limits=TEN)
        follower.apply(batch_of(place, values[:12]))
        await follower.flush()
        assert await asyncio.to_thread(held.reached.wait, PATIENCE_S)
        follower.apply(batch_of(place, values[12:], 12))
        await follower.flush()
        asked = asyncio.ensure_future(asyncio.to_thread(archive.keeper.seal, place))
        held.go_on.set()
        assert (await asked).base == 12
        assert [one.records for one in archive.reader.segments(place)] == [12, 3]


async def test_closing_waits_for_the_seal_under_way(tmp_path: Path, held: Held) -> None:
    place, values = one_agent(12)
    with archive_in(tmp_path, fault=held) as archive:
        follower = await following(archive, {place: values}, limits=TEN)
        follower.apply(batch_of(place, values))
        await follower.flush()
        assert await asyncio.to_thread(held.reached.wait, PATIENCE_S)
        closing = asyncio.ensure_future(follower.close())
        assert not (await asyncio.wait({closing}, timeout=0.05))[0]
        held.go_on.set()
        await closing
        assert [one.records for one in archive.reader.segments(place)] == [12]


async def test_what_came_during_a_seal_is_not_as_old_as_what_it_took(tmp_path: Path, held: Held) -> None:
    place, values = one_agent(14)
    clock = FakeClock()
    with archive_in(tmp_path, fault=held, clock=clock) as archive:
        follower = await following(archive, {place: values}, limits=SealLimits(records=10))
        follower.apply(batch_of(place, values[:9]))
        await follower.flush()
        await clock.until_asleep()
        clock.advance(5 * HOUR)
        follower.apply(batch_of(place, values[9:12], 9))
        await follower.flush()
        assert await asyncio.to_thread(held.reached.wait, PATIENCE_S)
        follower.apply(batch_of(place, values[12:], 12))
        await follower.flush()
        held.go_on.set()
        await follower.sealed()
        await clock.until_asleep()
        clock.advance(5 * HOUR)
        await follower.sealed()
        assert [one.records for one in archive.reader.segments(place)] == [12]
        await clock.until_asleep()
        clock.advance(HOUR)
        await follower.sealed()
        assert [one.records for one in archive.reader.segments(place)] == [12, 2]
        await follower.close()


async def test_a_defect_in_a_seal_ends_following(tmp_path: Path) -> None:
    place, values = one_agent(14)

    def fault(point: str) -> None:
        raise ZeroDivisionError(point)

    with archive_in(tmp_path, fault=fault) as archive:
        follower = await following(archive, {place: values}, limits=TEN)
        follower.apply(batch_of(place, values[:12]))
        await follower.flush()
        await follower.sealed()
        follower.apply(batch_of(place, values[12:], 12))
        with pytest.raises(ZeroDivisionError):
            await follower.flush()
