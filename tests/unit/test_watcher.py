"""The watcher over closed panes: one alarm per incident, the same after a restart anywhere, and none about its own alarms."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import pytest
from tests.unit.alerting import SPECS, START, pane_of, tasks

from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.analytics.anomalies.series import GONE_PANES, LEAST_VALUES, SeriesName, reading
from tallyroll.analytics.anomalies.watcher import BASELINE, WATCHED, Watcher
from tallyroll.analytics.pane import Pane, dump_row
from tallyroll.analytics.signal import Signal
from tallyroll.analytics.spec import MetricSpec
from tallyroll.errors import DocumentConflict, StoreUnavailable
from tallyroll.events.names import OTHER_NAME
from tallyroll.events.position import TopicPartition
from tallyroll.ports import DocumentWrite, PaneAt, WindowProgress, WindowWrite

PLACE = TopicPartition("task-events", 0)
SLOW = (SPECS["response_time"],)
BAD_FROM, BAD_TO = 100, 104


def response_times(minutes: int, *, seed: int = 1, bad: float = 5_000.0) -> list[Pane]:
    random = np.random.default_rng(seed)
    return [pane_of(random.normal(bad if BAD_FROM <= minute < BAD_TO else 100, 10, 20).tolist()) for minute in range(minutes)]


class Fleet:
    """A store with panes of one agent, and watchers of it that come and go."""

    def __init__(self, store: SqliteWindowStore, specs: Sequence[MetricSpec]) -> None:
        self.store = store
        self.specs = specs
        self.told: list[Signal] = []
        self.fails: list[Exception] = []
        self.next = 0
        self.watcher = self.restarted()

    def restarted(self) -> Watcher:
        self.watcher = Watcher(self.store, self.specs, self._tell)
        return self.watcher

    async def _tell(self, signals: Sequence[Signal], documents: Sequence[DocumentWrite]) -> None:
        if self.fails:
            raise self.fails.pop()
        await self.store.commit([], documents)
        self.told += signals

    async def put(self, rows: Sequence[tuple[str, str, int, Mapping[str, Pane]]]) -> None:
        """Rows: dimension, key, minute, panes by metric. As every event, they are in the panes of the fleet, of another metric here."""
        expected = self.next or None
        self.next += 1
        newest = max(minute for _, _, minute, _ in rows)
        progress = WindowProgress("spec", 0, self.next, (START + 60 * newest + 59) * 1_000_000)
        rows = [*rows, *(("fleet", "", minute, {"tasks_started": tasks(1, 0)}) for minute in sorted({row[2] for row in rows}))]
        written = [(PaneAt(dimension, key, 60, START + 60 * minute), 0, dump_row(panes)) for dimension, key, minute, panes in rows]
        await self.store.commit([WindowWrite(PLACE, expected, progress, written)])

    async def watch(self, minutes: int) -> None:
        """Until all that closed in the first so many minutes is judged."""
        while await self.watcher.step(START + 60 * minutes, now=START + 60 * minutes):
            pass

    def said(self) -> list[tuple[str, str, int, str]]:
        return [(one.key, one.state, (one.at - START) // 60 - 1, str(one.severity)) for one in self.told]


@asynccontextmanager
async def fleet(panes: Sequence[Pane] = (), specs: Sequence[MetricSpec] = SLOW, metric: str = "response_time") -> AsyncIterator[Fleet]:
    store = await SqliteWindowStore.open(None)
    one = Fleet(store, specs)
    rows = [("agent", "planner", minute, {metric: pane}) for minute, pane in enumerate(panes) if pane.n]
    if rows:
        await one.put(rows)
    try:
        yield one
    finally:
        await store.close()


async def test_an_incident_is_told_once_and_its_end_once() -> None:
    async with fleet(response_times(130)) as one:
        await one.watch(130)
        assert one.said() == [("planner", "firing", BAD_FROM, "critical"), ("planner", "resolved", one.said()[-1][2], "critical")]
        began, over = one.told
        assert began.dedup_key == over.dedup_key == f"response_time|agent|planner|panes|{START + 60 * BAD_FROM}"
        assert began.value == pytest.approx(5_000, rel=0.01)
        assert began.baseline == pytest.approx(100, rel=0.1)
        assert began.deviation >= began.threshold
        assert "response_time of agent planner is 5" in began.summary
        assert "is as usual again" in over.summary


async def test_steady_panes_are_silent() -> None:
    async with fleet(response_times(130, bad=100)) as one:
        await one.watch(130)
        assert one.told == []
        assert one.watcher.watched == 1


@pytest.mark.slow
async def test_restarts_anywhere_change_nothing_and_tell_nothing_twice() -> None:
    panes = response_times(130)
    async with fleet(panes) as one:
        await one.watch(130)
        expected = [msgspec.json.encode(each) for each in one.told]
    for steps in ([99, 101, 102, 130], range(90, 131), [1, 130], range(10, 131, 20), [103, 104, 105, 106, 107, 130]):
        async with fleet(panes) as one:
            for minutes in steps:
                one.restarted()
                await one.watch(minutes)
            assert [msgspec.json.encode(each) for each in one.told] == expected


async def test_a_restart_does_not_forget_a_series_that_is_young() -> None:
    panes = response_times(40)
    async with fleet() as one:
        await one.put([("agent", agent, minute, {"response_time": pane}) for agent in "abcdefgh" for minute, pane in enumerate(panes)])
        await one.watch(20)
        one.restarted()
        await one.watch(40)
        assert [len(series.detector._values) for series in one.watcher._series.values()] == [40] * 8


async def test_what_could_not_be_stored_is_judged_again() -> None:
    async with fleet(response_times(130)) as one:
        await one.watch(100)
        one.fails = [StoreUnavailable("analytics", "disk full")]
        with pytest.raises(StoreUnavailable):
            await one.watch(130)
        assert one.told == []
        await one.watch(130)
        assert [state for _, state, *_ in one.said()] == ["firing", "resolved"]


async def test_of_two_watchers_one_tells() -> None:
    async with fleet(response_times(130)) as one:
        other = Watcher(one.store, SLOW, one._tell)
        await one.watch(90)
        assert await other.step(START + 60 * 120, now=START + 60 * 120) == 30
        assert await one.watcher.step(START + 60 * 120, now=START + 60 * 120) == 0
        assert [state for _, state, *_ in one.said()] == ["firing", "resolved"]
        await one.watch(130)
        assert len(one.told) == 2
        one.fails = [DocumentConflict(WATCHED, "through")]
        assert await one.watcher.step(START + 60 * 140, now=0) == 0


async def test_history_is_learned_and_not_told() -> None:
    async with fleet(response_times(130)) as one:
        while await one.watcher.step(START + 60 * 130, now=START + 86_400 + 60 * 120):
            pass
        assert one.told == []
        assert one.watcher.usual(SeriesName("response_time", "agent", "planner")) is not None


async def test_baselines_are_of_closed_panes_and_other_processes_can_read_them() -> None:
    name = SeriesName("response_time", "agent", "planner")
    async with fleet(response_times(50)) as one:
        await one.watch(9)
        assert one.watcher.usual(name) is None
        await one.watch(10)
        first = one.watcher.usual(name)
        assert first is not None
        assert await one.store.documents(BASELINE)
        other = Watcher(one.store, SLOW, one._tell)
        assert other.usual(name) is None
        await other.refresh()
        assert other.usual(name) == first


async def test_the_good_direction_is_not_told() -> None:
    async with fleet(response_times(130, bad=0.01)) as one:
        await one.watch(130)
        assert one.told == []


async def test_a_falling_success_rate_is_told() -> None:
    random = np.random.default_rng(2)
    panes = [tasks(50, 45 if minute in range(100, 104) else int(random.integers(0, 4))) for minute in range(130)]
    async with fleet(panes, [SPECS["success"]], "success") as one:
        await one.watch(130)
        assert one.said()[0][1:3] == ("firing", 100)
        assert "success of agent planner is 10 percent, below" in one.told[0].summary


async def test_no_events_are_zero_for_counts_and_nothing_for_others() -> None:
    random = np.random.default_rng(4)
    counts = [pane_of([1.0] * int(random.poisson(200))) for _ in range(100)]
    async with fleet(counts, [SPECS["throughput"]], "throughput") as one:
        await one.watch(110)
        assert one.said()[0][:2] == ("planner", "firing")
        assert 100 <= one.said()[0][2] <= 102
        assert one.told[0].value == 0
    async with fleet(response_times(100)) as one:
        await one.watch(110)
        assert one.told == []


async def test_the_rest_of_the_keys_and_metrics_that_may_not_alarm_are_not_watched() -> None:
    specs = (*SLOW, SPECS["tasks_started"])
    async with fleet(specs=specs) as one:
        pane = pane_of([100.0] * 20)
        both = {"tasks_started": pane, "response_time": pane}
        await one.put([("agent", OTHER_NAME, 0, {"response_time": pane}), ("agent", "a", 0, both)])
        await one.watch(1)
        assert one.watcher.watched == 1


async def test_partitions_are_one_series() -> None:
    async with fleet() as one:
        await one.put([("agent", "a", 0, {"response_time": pane_of([100.0] * 3)})])
        elsewhere = WindowProgress("spec", 0, 1, START * 1_000_000)
        row = (PaneAt("agent", "a", 60, START), 0, dump_row({"response_time": pane_of([300.0] * 3)}))
        await one.store.commit([WindowWrite(TopicPartition("task-events", 1), None, elsewhere, [row])])
        await one.watch(1)
        assert one.watcher._series[SeriesName("response_time", "agent", "a")].last == 200


def test_a_pane_is_read_as_a_count_a_share_or_a_mean() -> None:
    count, share, mean, money = SPECS["throughput"], SPECS["success"], SPECS["response_time"], SPECS["cost"]
    assert (reading(count, None), reading(count, pane_of([1.0] * 3)), reading(count, None, gone=True)) == (0, 3, None)
    assert (reading(share, tasks(20, 5)), reading(share, tasks(LEAST_VALUES - 1, 0)), reading(share, None)) == (75, None, None)
    assert (reading(mean, pane_of([10.0, 20.0] * 3)), reading(mean, pane_of([10.0] * 4))) == (15, None)
    assert reading(money, pane_of([2_000_000.0] * 6)) == 2


async def test_a_count_that_stays_away_is_a_series_that_has_ended() -> None:
    async with fleet([pane_of([1.0] * 20)] * 5, [SPECS["throughput"]], "throughput") as one:
        await one.watch(5 + GONE_PANES + 20)
        assert len(one.watcher._series[SeriesName("throughput", "agent", "planner")].detector._values) == 5 + GONE_PANES


def test_its_own_alarms_are_nothing_it_could_count() -> None:
    for event_type in ("anomaly.detected", "anomaly.own"):
        with pytest.raises(ValueError, match="the alarms would feed on themselves"):
            MetricSpec(name="own", unit="events", help="", event_types=(event_type,), value=SPECS["throughput"].value)
