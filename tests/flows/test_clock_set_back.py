"""A clock that is set back under who records and who seals: everything is sealed, and what verifies has nothing to say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.flows.recording import Booth, entries_in, entry, recording
from tests.flows.sealing import TASKS, Away, House, Running

from tallyroll.audit.ledger.chain import Draft
from tallyroll.audit.ledger.layout import Kind
from tallyroll.audit.recording.recorder import Recorder
from tallyroll.errors import KeyRingUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import AUDIT_TOPIC, Catalogue
from tallyroll.ports import Span
from tallyroll.testing.clock import FakeClock
from tallyroll.testing.ledger import DAY_US

AUDITS = [TopicPartition(AUDIT_TOPIC, number) for number in range(Catalogue()[AUDIT_TOPIC].partitions)]
BACK = [timedelta(minutes=2), timedelta(hours=1), timedelta(days=2)]
AGENTS = ("agent-1", "agent-2", "agent-3")


class Scene(NamedTuple):
    """A recorder and a sealer of one machine."""

    booth: Booth
    house: House
    copied: dict[TopicPartition, int]

    @property
    def clock(self) -> FakeClock:
        return self.booth.desk.clock

    def set_back(self, by: timedelta) -> None:
        self.clock.set_wall_clock(self.clock.now - by)

    async def sealer(self) -> Running:
        return await Running(self.house).hold(*AUDITS, TASKS)

    async def record(self, action: str, recorder: Recorder | None = None) -> None:
        recorder = recorder or self.booth.recorder
        for agent_id in AGENTS:
            called = self.clock.now
            made = await self.booth.desk.passing(recorder.record(entry(f"clock.{action}", agent_id=agent_id)))
            assert called <= made.timestamp <= self.clock.now, "an entry has the time of the clock as it is"

    async def close(self, recorder: Recorder | None = None) -> None:
        await self.booth.desk.passing((recorder or self.booth.recorder).close())

    async def seal(self, running: Running) -> None:
        """Takes in what was recorded, and whatever a sealer does from time to time."""
        log = self.booth.log
        starts, ends = await log.starts([AUDIT_TOPIC]), await log.ends([AUDIT_TOPIC])
        values = {where: list[bytes]() for where in AUDITS}
        async for batch in log.read([Span(*where, starts[where], end) for where, end in ends.items() if end > starts[where]]):
            values[batch.topic_partition] += batch.values
        for where in AUDITS:
            self.house.log.setdefault(where, []).extend(values[where][self.copied.get(where, 0) :])
            self.copied[where] = len(values[where])
        await self.seal_events(running)
        self.clock.advance(5)
        await running.note()

    async def seal_events(self, running: Running) -> None:
        self.house.say()
        await running.seal()

    async def sealed(self, action: str) -> int:
        return len(await self.house.found(event_type=f"clock.{action}"))

    async def alarms(self) -> list[str]:
        return await self.house.found(category="audit_system")


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    async with recording(folder / "log") as booth:
        house = await House.open(folder)
        house.clock, house.ring = booth.desk.clock, booth.ring
        try:
            yield Scene(booth, house, {})
        finally:
            await house.store.close()


@pytest.mark.parametrize("back", BACK, ids=str)
async def test_what_is_recorded_and_sealed_by_a_clock_that_is_set_back_is_in_the_ledger(tmp_path: Path, back: timedelta) -> None:
    async with scene(tmp_path) as here:
        running = await here.sealer()
        await here.record("before")
        await here.seal(running)
        here.clock.advance(7_200)
        await here.record("meanwhile")
        await here.seal(running)
        await here.record("unsealed")
        here.set_back(back)
        await here.record("after")
        await here.seal(running)
        first = running.sealer.registrar.writer
        here.clock.advance(600)
        await here.record("later")
        await here.seal(running)
        await here.close()
        await here.seal(running)
        assert running.sealer.registrar.writer == first, "one new epoch is enough"
        await running.stop()
        assert await here.alarms() == []
        assert [await here.sealed(action) for action in ("before", "meanwhile", "unsealed", "after", "later")] == [len(AGENTS)] * 5
        assert await here.house.findings() == {}


async def test_a_sealer_goes_on_with_its_epoch_while_it_cannot_enrol_for_another(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        here.house.ring = ring = Away(here.house.ring)
        running = await here.sealer()
        await here.seal(running)
        here.clock.advance(7_200)
        await here.seal(running)
        here.set_back(timedelta(hours=1))
        ring.away = True
        here.clock.advance(5)
        with pytest.raises(KeyRingUnavailable):
            await running.note()
        await here.seal_events(running)
        ring.away = False
        await here.seal(running)
        assert running.sealer.registrar.writer[1] == 2
        await running.stop()
        assert await here.alarms() == []
        assert await here.house.findings() == {}


@pytest.mark.parametrize("back", BACK[:2], ids=str)
async def test_a_sealer_that_starts_after_the_clock_was_set_back_takes_what_was_recorded_before(tmp_path: Path, back: timedelta) -> None:
    async with scene(tmp_path) as here:
        running = await here.sealer()
        await here.record("before")
        await here.seal(running)
        here.clock.advance(7_200)
        await here.record("unsealed")
        here.set_back(back)
        await here.record("after")
        await running.stop()
        running = await here.sealer()
        await here.seal(running)
        await here.close()
        await here.seal(running)
        await running.stop()
        assert await here.alarms() == ["drift"], "whoever sees but the clock of now cannot know better"
        assert [await here.sealed(action) for action in ("before", "unsealed", "after")] == [len(AGENTS)] * 3
        assert await here.house.findings() == {}


@pytest.mark.parametrize("back", BACK, ids=str)
async def test_a_recorder_that_starts_after_the_clock_was_set_back_stands_beside_the_one_from_before(
    tmp_path: Path, back: timedelta
) -> None:
    async with scene(tmp_path) as here:
        running = await here.sealer()
        await here.record("before")
        here.clock.advance(7_200)
        await here.record("before")
        await here.seal(running)
        here.set_back(back)
        another = here.booth.another()
        await here.record("another", another)
        await here.record("after")
        await here.seal(running)
        await here.close(another)
        await here.close()
        await here.seal(running)
        await running.stop()
        assert await here.alarms() == []
        assert [await here.sealed(action) for action in ("before", "another", "after")] == [2 * len(AGENTS), len(AGENTS), len(AGENTS)]
        assert await here.house.findings() == {}


@pytest.mark.parametrize("beaten", [False, True], ids=["ended at once", "with a heartbeat"])
@pytest.mark.parametrize("back", BACK, ids=str)
async def test_who_records_nothing_after_the_clock_was_set_back_says_goodbye_all_the_same(
    tmp_path: Path, back: timedelta, *, beaten: bool
) -> None:
    async with scene(tmp_path) as here:
        running = await here.sealer()
        await here.record("before")
        here.clock.advance(7_200)
        await here.record("before")
        await here.seal(running)
        here.set_back(back)
        if beaten:
            beat_s = here.clock.monotonic() + 6
            await here.booth.desk.until(lambda: here.clock.monotonic() > beat_s)
            assert entries_in(await here.booth.arrived(), [Kind.CLOSE])
        await here.close()
        await here.seal(running)
        await running.stop()
        assert await here.alarms() == []
        assert await here.house.findings() == {}


async def test_a_clock_that_was_ahead_and_is_put_right_breaks_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        running = await here.sealer()
        await here.record("before")
        await here.seal(running)
        for _ in range(2):
            here.set_back(-timedelta(hours=1))
            await here.record("ahead")
            await here.seal(running)
            here.set_back(timedelta(hours=1))
            await here.record("right")
            await here.seal(running)
        await here.close()
        await here.seal(running)
        await running.stop()
        assert await here.sealed("ahead") == await here.sealed("right") == 2 * len(AGENTS)
        assert await here.alarms() == []
        assert await here.house.findings() == {}


async def test_others_look_silent_only_until_the_time_from_before_has_come_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        running = await here.sealer()
        await here.record("before")
        here.clock.advance(7_200)
        await here.record("before")
        await here.seal(running)
        here.set_back(BACK[0])
        await here.record("after")
        await here.seal(running)
        assert set(await here.house.findings()) == {"silent"}
        here.clock.advance(BACK[0].total_seconds())
        await here.record("later")
        await here.seal(running)
        assert await here.house.findings() == {}
        await running.stop()


@pytest.mark.parametrize(("code", "by_us"), [("backdated", -7_200_000_000), ("postdated", DAY_US + 60_000_000)])
async def test_what_its_key_or_the_calendar_forbids_is_found_also_after_the_clock_was_set_back(
    tmp_path: Path, code: str, by_us: int
) -> None:
    async with scene(tmp_path) as here:
        running, thief = await here.sealer(), here.house.writer()
        here.house.send(*here.house.write(thief))
        for _ in range(4):
            await here.seal(running)
            here.clock.advance(5)
        here.clock.advance(7_200)
        await here.seal(running)
        then_us = here.clock.now_us()
        here.set_back(timedelta(hours=1))
        thief.advance(7_200)
        here.house.send(*thief.seal(0, Draft(Kind.ENTRY, b"{}", (), 0, then_us // DAY_US), then_us + by_us))
        running.take()
        await running.sealer.flush()
        assert sorted(await here.alarms()) == sorted(["silent", code]), "it sends no heartbeats either"
