"""Events that come long after newer ones of their partition: they count like all others, or the answers say that they do not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from tests.flows.test_analytics_query import AGENTS, MINUTE, NOW, Task, open_roll, plain, publish, tasks

from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.analytics.query import AnalyticsEngine
from tallyroll.analytics.spec import BUILT_IN
from tallyroll.analytics.tidying import tidy
from tallyroll.analytics.windows import TimeWindow
from tallyroll.events.event import AgentEvent

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)


def recorded(before: Sequence[timedelta]) -> list[Task]:
    """Tasks that were recorded in the hour before some moments of the past."""
    random = Random(9)  # noqa: S311  # a fixed history
    return [
        Task(
            NOW - ago - random.random() * 59 * MINUTE, random.choice(AGENTS), random.random() < 0.7, random.randrange(5_000), 10, Decimal(1)
        )
        for ago in before
        for _ in range(40)
    ]


async def agree(engine: AnalyticsEngine, some: Sequence[Task], at: datetime, window: str) -> None:
    """An answer about a moment is what a plain computation over all events gives."""
    for agent in AGENTS:
        found = await engine.get_agent_analytics(agent, window, at=at)
        wanted = plain(some, agent, found["window_start"], found["window_end"], (at - found["window_start"]) / MINUTE)
        assert {name: found[name] for name in wanted} == wanted  # type: ignore[literal-required]  # every name is one of it
        assert (found["left_out"], found["coverage"]) == ({}, 1)


async def test_what_is_imported_behind_newer_events_is_in_every_answer(tmp_path: Path) -> None:
    url, live = f"sqlite:///{tmp_path}", tasks()
    moments = [timedelta(hours=hours) for hours in (3, 20, 46, 48, 50, 24 * 9, 24 * 34)]
    old = recorded(moments)
    async with open_roll(url) as roll:
        await publish(roll, live)
        engine = await roll.analytics()
        assert (await engine.get_agent_analytics("agent-1", at=NOW - moments[0]))["events_processed"] < 20
        await publish(roll, old[::2], len(live))
        for ago in moments:
            await agree(engine, [*live, *old[::2]], NOW - ago, "1hour")
    store = await SqliteWindowStore.open(tmp_path / "analytics.db")
    await tidy(store, BUILT_IN)
    async with open_roll(url) as roll:  # what was tidied away, and read again
        engine = await roll.analytics()
        await publish(roll, old[1::2], 2 * len(live) + len(old))
        for _ in range(2):
            for ago in moments:
                await agree(engine, [*live, *old], NOW - ago, "1hour")
                await agree(engine, [*live, *old], NOW - ago, "15min")
            await agree(engine, [*live, *old], NOW - moments[4], "1day")
            await tidy(store, BUILT_IN)
        step = TimeWindow(timedelta(hours=1))
        points = await engine.series("events_processed", "count", start=NOW - 36 * DAY, end=NOW, step=step)
        assert sum(int(point.value or 0) for point in points) == len(live) + len(old)
        assert await engine.known("agent") == sorted(AGENTS)
    await store.close()


async def test_response_times_of_pairs_that_come_late_are_known() -> None:
    async with open_roll() as roll:
        await publish(roll, tasks())
        engine = await roll.analytics()
        began = NOW - 5 * DAY
        ids = {"agent_id": "imported"}
        await roll.publish(AgentEvent("task.started", "task-1", "task", ids, timestamp=began))
        await roll.publish(AgentEvent("task.completed", "task-1", "task", ids, timestamp=began + timedelta(seconds=2)))
        found = await engine.get_agent_analytics("imported", "1hour", at=began + timedelta(minutes=20))
        assert (found["tasks_completed"], found["response_time_avg"]) == (1, 2_000)


async def test_what_is_older_than_panes_are_kept_is_told_as_left_out_also_after_a_restart(tmp_path: Path) -> None:
    url, live = f"sqlite:///{tmp_path}", tasks()
    long_ago = NOW - 100 * DAY
    async with open_roll(url) as roll:
        await publish(roll, live)
        engine = await roll.analytics()
        await engine.get_agent_analytics("agent-1")
        await publish(roll, [live[0]._replace(at=long_ago + timedelta(minutes=number)) for number in range(7)], len(live))
        found = await engine.get_agent_analytics("agent-1", at=long_ago + timedelta(minutes=30))
        assert (found["events_processed"], found["left_out"]) == (0, {"too_old": 7})
        assert found["coverage"] < 1
    async with open_roll(url) as roll:
        engine = await roll.analytics()
        assert (await engine.get_system_analytics(at=long_ago + timedelta(minutes=30)))["left_out"] == {"too_old": 7}
        assert await engine.left_out(start=long_ago, end=long_ago + DAY) == {"too_old": 7}
        now = await engine.get_agent_analytics("agent-1")
        assert (now["left_out"], now["coverage"]) == ({}, 1), "a window that it cannot be of says nothing of it"


async def test_how_long_panes_are_kept_is_a_setting(tmp_path: Path) -> None:
    old = recorded([100 * DAY, 399 * DAY])
    async with open_roll(f"sqlite:///{tmp_path}", analytics_keep_days=400) as roll:
        await publish(roll, tasks())
        await publish(roll, old, 10_000)
        engine = await roll.analytics()
        for ago in (100 * DAY, 399 * DAY):
            await agree(engine, old, NOW - ago, "1hour")


async def test_panes_that_were_removed_since_are_no_part_of_the_coverage(tmp_path: Path) -> None:
    url, past = f"sqlite:///{tmp_path}", NOW - 100 * DAY
    some = tasks()[-40:]
    store = await SqliteWindowStore.open(tmp_path / "analytics.db")
    async with open_roll(url) as roll:
        await publish(roll, [task._replace(at=past - number * MINUTE) for number, task in enumerate(some)])
        engine = await roll.analytics()
        found = await engine.get_system_analytics(at=past)
        assert (found["events_processed"], found["coverage"]) == (40, 1)
        await publish(roll, some)
        await engine.get_system_analytics()
        assert (await tidy(store, BUILT_IN))[1] > 0
        assert (await engine.get_system_analytics(at=past))["coverage"] < 1
        assert (await engine.get_system_analytics())["coverage"] == 1
    await store.close()
