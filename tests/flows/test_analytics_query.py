"""Questions to analytics on a roll: equal to a plain computation over the events, as fresh as what was published."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path as FilePath
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.flows.analysing import Hands
from tests.patience import PATIENCE_S, READ_WAIT_MS

from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.analytics.query import AnalyticsEngine
from tallyroll.analytics.spec import BUILT_IN, MetricSpec, One, Path, unheard
from tallyroll.analytics.tidying import tidy
from tallyroll.analytics.windows import WINDOWS, TimeWindow
from tallyroll.errors import SettingsError
from tallyroll.events.event import AgentEvent
from tallyroll.events.names import OTHER_NAME
from tallyroll.events.position import Position
from tallyroll.events.types import forget_registered_types, register_event_type
from tallyroll.ports import Delivered
from tallyroll.roll import ANALYTICS_FOLLOWER, Roll
from tallyroll.settings import Settings

pytestmark = pytest.mark.slow

MIDNIGHT = datetime(2024, 3, 1, tzinfo=UTC)  # after a leap day
NOW = MIDNIGHT + timedelta(minutes=30, seconds=20)
AGENTS = ("agent-1", "agent-12", "agent-2")
MINUTE = timedelta(minutes=1)


class Task(NamedTuple):
    """One ended task."""

    at: datetime
    agent: str
    went_well: bool
    took_ms: float
    tokens: int
    cost: Decimal

    def event(self, number: int) -> AgentEvent:
        payload = {"agent_id": self.agent, "duration_ms": self.took_ms, "tokens": self.tokens, "cost": self.cost}
        kind = "task.completed" if self.went_well else "task.failed"
        return AgentEvent(kind, f"task-{number}", "task", payload, timestamp=self.at)


def tasks() -> list[Task]:
    """A day and a bit of tasks, some of them exactly on the edges of panes, windows and days."""
    random = Random(5)  # noqa: S311  # a fixed history
    edges = [MIDNIGHT - timedelta(microseconds=1), MIDNIGHT, MIDNIGHT - timedelta(days=1), MIDNIGHT + 15 * MINUTE, NOW - timedelta(hours=1)]
    edges += [edge + timedelta(microseconds=1) for edge in edges]
    times = sorted(
        [NOW - timedelta(seconds=round(random.uniform(0, 90_000 if random.random() < 0.5 else 4_000), 6)) for _ in range(600)] + edges
    )
    return [
        Task(
            at=at,
            agent=random.choice(AGENTS),
            went_well=random.random() < 0.8,
            took_ms=round(random.lognormvariate(5, 2), 3),
            tokens=random.randrange(5_000),
            cost=Decimal(random.randrange(10**6)) / 10**6,
        )
        for at in times
    ]


def open_roll(
    url: str = "sqlite://:memory:", *, later: timedelta = timedelta(), metrics: Sequence[MetricSpec] = (), **settings: Any
) -> AbstractAsyncContextManager[Roll]:
    """A roll with a clock that stands still at ``NOW``, or later."""
    return Roll.open(
        Settings(url=url, flush_interval_ms=20, **{"read_wait_ms": READ_WAIT_MS, **settings}),
        clock=Hands(round((NOW + later).timestamp() * 1_000_000)),
        metrics=metrics,
    )


async def publish(roll: Roll, some: Sequence[Task], first: int = 0) -> None:
    outcomes = await roll.publish_batch([task.event(first + number) for number, task in enumerate(some)])
    assert all(isinstance(one, Delivered) for one in outcomes)


def plain(some: Sequence[Task], agent: str | None, start: datetime, end: datetime, minutes: float) -> dict[str, Any]:
    """What the engine should say, from the tasks themselves."""
    chosen = [task for task in some if start <= task.at < end and agent in (None, task.agent)]
    took = np.array([task.took_ms for task in chosen])
    well = sum(task.went_well for task in chosen)
    return {
        "events_processed": len(chosen),
        "tasks_completed": well,
        "tasks_failed": len(chosen) - well,
        "tokens": sum(task.tokens for task in chosen),
        "cost": sum((task.cost for task in chosen), Decimal()),
        "success_rate": 100 * well / len(chosen) if chosen else None,
        "throughput": pytest.approx(well / minutes),
        "response_time_avg": pytest.approx(took.mean()) if chosen else None,
        "response_time_min": took.min() if chosen else None,
        "response_time_max": took.max() if chosen else None,
        "response_time_stddev": pytest.approx(took.std(), abs=1e-6) if chosen else None,
        **{
            f"response_time_{name}": pytest.approx(np.quantile(took, q, method="lower"), rel=0.01) if chosen else None
            for name, q in (("median", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
    }


async def agree(engine: AnalyticsEngine, some: Sequence[Task], window: str | TimeWindow, at: datetime | None) -> None:
    duration = (WINDOWS[window] if isinstance(window, str) else window).duration
    upto = NOW if at is None else at
    for agent in AGENTS:
        found = await engine.get_agent_analytics(agent, window, at=at)
        assert found["window_start"] <= upto - duration < found["window_start"] + MINUTE
        assert found["window_end"] - MINUTE <= upto <= found["window_end"]
        minutes = (upto - found["window_start"]) / MINUTE
        wanted = plain(some, agent, found["window_start"], found["window_end"], minutes)
        assert {name: found[name] for name in wanted} == wanted  # type: ignore[literal-required]  # every name is one of it
    whole = await engine.get_system_analytics(window, at=at)
    wanted = plain(some, None, whole["window_start"], whole["window_end"], (upto - whole["window_start"]) / MINUTE)
    assert {name: whole[name] for name in wanted} == wanted  # type: ignore[literal-required]  # as above


async def test_every_window_equals_a_plain_computation() -> None:
    some = tasks()
    async with open_roll() as roll:
        await publish(roll, some)
        engine = await roll.analytics()
        for window in (*WINDOWS, TimeWindow(timedelta(minutes=45)), TimeWindow(timedelta(hours=2), timedelta(minutes=10))):
            for at in (None, MIDNIGHT, MIDNIGHT - MINUTE, MIDNIGHT + timedelta(seconds=30), NOW - timedelta(hours=1)):
                await agree(engine, some, window, at)


async def test_quarter_hours_say_what_their_minutes_said_also_after_a_late_event(tmp_path: FilePath) -> None:
    some, url = tasks(), f"sqlite:///{tmp_path}"
    async with open_roll(url) as roll:
        await publish(roll, some)
        await agree(await roll.analytics(), some, "1day", None)
    store = await SqliteWindowStore.open(tmp_path / "analytics.db")
    assert (await tidy(store, BUILT_IN))[0] > 0
    async with open_roll(url) as roll:
        engine = await roll.analytics()
        await agree(engine, some, "1day", None)
        before = (await engine.get_agent_analytics("agent-1", "1day"))["events_processed"]
        # The first event of its partition: however old, it is not late there.
        await roll.publish(AgentEvent("agent.heartbeat", "agent-1", "agent", {}, timestamp=MIDNIGHT - timedelta(hours=20)))
        assert (await engine.get_agent_analytics("agent-1", "1day"))["events_processed"] == before + 1
        await roll.publish(AgentEvent("agent.heartbeat", "agent-1", "agent", {}, timestamp=NOW))
        assert (await engine.get_agent_analytics("agent-1", "1day"))["events_processed"] == before + 2
        assert (await tidy(store, BUILT_IN))[0] > 0
        assert (await engine.get_agent_analytics("agent-1", "1day"))["events_processed"] == before + 2
    await store.close()


@pytest.mark.parametrize(
    ("window", "start"),
    [
        (TimeWindow(MINUTE), MIDNIGHT - timedelta(hours=1)),
        (WINDOWS["5min"], MIDNIGHT - timedelta(hours=3)),
        (WINDOWS["15min"], MIDNIGHT - timedelta(hours=9)),
        (WINDOWS["1hour"], MIDNIGHT - timedelta(hours=24)),
        (WINDOWS["1day"], MIDNIGHT - timedelta(days=1)),
        (TimeWindow(timedelta(minutes=10), timedelta(minutes=3)), MIDNIGHT - timedelta(hours=1)),
        (TimeWindow(timedelta(hours=6), timedelta(minutes=15)), MIDNIGHT - timedelta(hours=20)),
    ],
)
async def test_series_of_windows_side_by_side_and_sliding_equal_a_plain_computation(window: TimeWindow, start: datetime) -> None:
    some = tasks()
    async with open_roll() as roll:
        await publish(roll, some)
        engine = await roll.analytics()
        counts = await engine.series("events_processed", "count", "agent", "agent-1", start=start, end=NOW, step=window)
        highest = await engine.series("response_time", "max", "agent", "agent-1", start=start, end=NOW, step=window)
        assert [one.start for one in counts] == [one.start for one in highest]
        assert len(counts) > 1
        for count, high in zip(counts, highest, strict=True):
            chosen = [task.took_ms for task in some if count.start <= task.at < count.start + window.duration and task.agent == "agent-1"]
            assert (count.value, high.value) == (len(chosen), max(chosen, default=None))


async def test_a_new_pane_is_in_the_next_answer_and_an_old_answer_is_remembered() -> None:
    some = tasks()
    async with open_roll() as roll:
        engine = await roll.analytics()
        assert (await engine.get_agent_analytics("agent-1"))["events_processed"] == 0
        for count in (1, 2, 3):
            await publish(roll, [Task(NOW, "agent-1", True, 10, 1, Decimal(0))], first=count)
            for _ in range(2):
                assert (await engine.get_agent_analytics("agent-1"))["events_processed"] == count
        await publish(roll, some, first=100)
        found = await engine.get_agent_analytics("agent-1", "1day")
        assert await engine.get_agent_analytics("agent-1", "1day") == found


async def test_what_was_published_is_counted_once_caught_up() -> None:
    async with open_roll() as roll:
        looking = await roll.analytics(follow=False)
        for number in range(5):
            receipt = await roll.publish(Task(NOW, "agent-1", True, 10, 1, Decimal(0)).event(number))
            assert await roll.caught_up(receipt.position, PATIENCE_S, follower=ANALYTICS_FOLLOWER)
            assert (await looking.get_agent_analytics("agent-1"))["events_processed"] == number + 1


@pytest.mark.parametrize(
    ("event_type", "said"),
    [
        ("task.complete", "and 'complete' is not); did you mean task.completed?"),
        ("tool.invokd", "did you mean tool.invoked?"),
        ("agent.strated", "which is not known here; did you mean agent.started?"),
        ("zebra.quarantined", None),
        ("task.completed", None),
        ("*", None),
    ],
)
async def test_a_metric_of_an_event_type_that_looks_mistyped_is_told_of(
    event_type: str, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    spec = MetricSpec(name="steps", unit="steps", help="Steps.", event_types=(event_type,), value=One())
    async with open_roll(metrics=[spec]) as roll:
        await roll.publish(Task(NOW, "agent-1", True, 10, 1, Decimal(0)).event(0))
        assert caplog.messages == []
        await roll.analytics(follow=False)
    told = [one for one in caplog.messages if one.startswith("metric steps counts")]
    assert len(told) == (said is not None)
    assert said is None or told[0].endswith(said)


async def test_a_registered_event_type_of_ones_own_is_known(caplog: pytest.LogCaptureFixture) -> None:
    spec = MetricSpec(name="steps", unit="steps", help="Steps.", event_types=("agent.restarted",), value=One())
    register_event_type("agent.restarted", topic="agent-events")
    try:
        async with open_roll(metrics=[spec]) as roll:
            await roll.analytics(follow=False)
    finally:
        forget_registered_types()
    assert caplog.messages == []
    assert list(unheard([spec], ["agent.started"])) != []


async def test_the_default_window_is_the_setting_and_an_unknown_one_is_an_error() -> None:
    for name in WINDOWS:
        async with open_roll(analytics_window=name) as roll:
            engine = await roll.analytics(follow=False)
            found = await engine.get_agent_analytics("nobody")
            assert found["time_window"] == name
            assert found["window_end"] - found["window_start"] == WINDOWS[name].duration + MINUTE
            assert await engine.get_agent_analytics("nobody", WINDOWS["5min"]) == await engine.get_agent_analytics("nobody", "5min")
            with pytest.raises(SettingsError, match="accepted: 1min, 5min, 15min, 1hour, 1day"):
                await engine.get_agent_analytics("nobody", "2hours")
            with pytest.raises(ValueError, match="no window"):
                await engine.get_system_analytics("")


async def test_a_window_that_is_no_window_is_refused_with_what_is_one() -> None:
    async with open_roll() as roll:
        with pytest.raises(TypeError, match=r"1min, .* a TimeWindow or a timedelta, not a int"):
            await (await roll.analytics()).get_agent_analytics("agent-1", 5)  # type: ignore[arg-type]  # what is tested


async def test_above_the_most_keys_nothing_is_lost_and_the_answer_says_so() -> None:
    def steps(name: str, most: int) -> MetricSpec:
        return MetricSpec(
            name=name, unit="steps", help="Steps.", event_types=("task.progressed",), value=Path("payload.step"), per=("fleet", "agent"),
            max_keys=most,
        )  # fmt: skip

    async with open_roll(metrics=[steps("few", 2), steps("many", 10_000)]) as roll:
        made = [
            AgentEvent("task.progressed", "task-1", "task", {"agent_id": f"agent-{number % 7}", "step": number}, timestamp=NOW)
            for number in range(100)
        ]
        assert all(isinstance(one, Delivered) for one in await roll.publish_batch(made))
        engine = await roll.analytics()
        agents = [f"agent-{number}" for number in range(7)]
        few, many = [
            {key: await engine.value(name, "sum", dimension="agent", key=key) or 0 for key in (*agents, OTHER_NAME)}
            for name in ("few", "many")
        ]
        assert sum(few.values()) == sum(many.values()) == await engine.value("few", "sum") == sum(range(100))
        assert (sum(value > 0 for value in few.values()), few[OTHER_NAME] > 0, many[OTHER_NAME]) == (3, True, 0)
        assert (await engine.get_agent_analytics("agent-6"))["truncated"]
        assert [one.key for one in await engine.top("few", "sum")] == ["agent-1", "agent-0"]


async def test_times_from_two_events_are_the_same_when_they_are_counted_a_day_later(tmp_path: FilePath) -> None:
    url = f"sqlite:///{tmp_path}"
    made = []
    for number in range(40):
        ids = {"agent_id": "agent-1"}
        began = NOW - timedelta(minutes=40 - number)
        made.append(AgentEvent("task.started", f"task-{number}", "task", ids, timestamp=began))
        if number % 10:
            made.append(
                AgentEvent("task.completed", f"task-{number}", "task", ids, timestamp=began + timedelta(milliseconds=1_000 + number))
            )
    made.append(AgentEvent("task.completed", "task-without-start", "task", {"agent_id": "agent-1"}, timestamp=NOW))
    async with open_roll(url) as roll:
        assert all(isinstance(one, Delivered) for one in await roll.publish_batch(made))
        live = await (await roll.analytics()).get_agent_analytics("agent-1", at=NOW)
    assert (live["tasks_completed"], live["response_time_min"], live["response_time_max"]) == (37, 1_001, 1_039)
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"analytics.db{suffix}").unlink(missing_ok=True)  # nothing else is going on
    async with open_roll(url, later=timedelta(days=1)) as roll:
        engine = await roll.analytics()
        for partition, end in (await roll.log.ends(["task-events"])).items():
            assert not end or await roll.caught_up(Position(*partition, end - 1), PATIENCE_S, follower=ANALYTICS_FOLLOWER)
        assert {**await engine.get_agent_analytics("agent-1", at=NOW), "coverage": 1} == {**live, "coverage": 1}


async def test_a_log_whose_records_are_all_past_their_time_leaves_nothing_to_be_seen(tmp_path: FilePath) -> None:
    url = f"sqlite:///{tmp_path}"
    async with open_roll(url) as roll:
        await publish(roll, tasks())
    async with open_roll(url, later=timedelta(days=400)) as roll:
        await roll.log.retain()
        assert await roll.log.starts(["task-events"]) == await roll.log.ends(["task-events"])
        found = await (await roll.analytics()).get_agent_analytics("agent-1")
        assert (found["coverage"], found["events_processed"]) == (1, 0)
