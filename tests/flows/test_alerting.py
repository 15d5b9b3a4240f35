"""Alerts from values and panes to a sink: stored before they are told, told once per key whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S
from tests.unit.alerting import SPECS, START, Kernel, Remembering, Value, pane_of, signal, tasks

from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.adapters.system import SystemClock
from tallyroll.analytics.alerts.alerting import ALERT, STEP_S, Alerting
from tallyroll.analytics.alerts.delivery import DEFAULT_LIMITS, Delivery, Limits
from tallyroll.analytics.alerts.lifecycle import Silence
from tallyroll.analytics.alerts.notice import OUTBOX, body_of
from tallyroll.analytics.alerts.rules import AbsenceRule, AnomalyRule, AnyRule, BurnRateRule, GaugeRule, ThresholdRule
from tallyroll.analytics.alerts.watching import Watch
from tallyroll.analytics.detection import Detection
from tallyroll.analytics.pane import Pane, dump_row
from tallyroll.analytics.signal import Severity
from tallyroll.errors import DocumentConflict, SinkRefused, SinkUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import AlertSink, Clock, DocumentWrite, PaneAt, WindowProgress, WindowWrite
from tallyroll.telemetry import ALERT_LATENCY, ALERTS_SENT, ANOMALIES, Counters
from tallyroll.testing.clock import FakeClock

SLOW = ThresholdRule(
    name="slow", metric="response_time", function="max", comparison=">", value=1_000, dimension="agent", severity=Severity.HIGH
)
UNUSUAL = AnomalyRule(name="anomalies", labels={"team": "search"}, runbook="https://runbooks.example/unusual")
IDLE = Watch(caught_up=True)


class Service:
    """One process: a store, alerts, sinks, and the half of a follower that flushes."""

    def __init__(
        self, store: SqliteWindowStore, clock: FakeClock, sinks: Sequence[AlertSink], rules: Sequence[AnyRule], limits: Limits
    ) -> None:
        self.store = store
        self.clock = clock
        self.telemetry = Counters()
        self.delivery = Delivery(sinks, clock, self.telemetry, limits)
        self.alerting = Alerting(rules, list(SPECS.values()), store=store, delivery=self.delivery, clock=clock, telemetry=self.telemetry)
        self.kernel = Kernel()
        self.next: dict[int, int] = {}

    async def flush(self) -> None:
        """As the follower does it: panes, documents, positions, then the word that they are stored."""
        documents = self.alerting.take_documents()
        await self.store.commit([], documents)
        self.alerting.stored()

    async def put(self, dimension: str, key: str, start: int, *, partition: int = 0, **metrics: Pane) -> None:
        """A row of panes in the store."""
        place = TopicPartition("task-events", partition)
        stored = (await self.store.load_progress([place])).get(place)
        at = 0 if stored is None else stored.next
        progress = WindowProgress("spec", 0, at + 1, (start + 59) * 1_000_000)
        row = (PaneAt(dimension, key, 60, start), 0, dump_row(metrics))
        await self.store.commit([WindowWrite(place, None if stored is None else at, progress, [row])])

    async def minute(self, watch: Watch = IDLE) -> None:
        """A minute passes, and a little, so that its pane has closed; the rules are judged."""
        self.clock.advance(60)
        await self.alerting.step(watch)


@asynccontextmanager
async def service(
    path: Path | None = None,
    *sinks: AlertSink,
    rules: Sequence[AnyRule] = (SLOW, UNUSUAL),
    clock: FakeClock | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Service]:
    """A process that delivers while the block runs."""
    store = await SqliteWindowStore.open(path)
    clock = clock or FakeClock()
    if clock.now_us() == START * 1_000_000:
        clock.advance(10)  # the disorder that panes wait for
    one = Service(store, clock, sinks, rules, limits)
    running = asyncio.create_task(one.alerting.run(lambda: None))
    await clock.until_asleep()
    try:
        yield one
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await one.delivery.close()
        await store.close()


async def until(condition: Callable[[], bool], clock: FakeClock) -> None:
    """Lets time pass until the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await clock.until_asleep()
            clock.advance(0.5)
            await asyncio.to_thread(lambda: None)


async def outbox(one: Service) -> list[str]:
    return sorted(await one.store.documents(OUTBOX))


# Live


async def test_a_live_alert_is_told_after_it_is_stored_and_then_removed_from_the_outbox() -> None:
    sink = Remembering()
    async with service(None, sink) as one:
        one.alerting.observed(one.kernel.run(Value("planner", 5_000), Value("coder", 10)))
        assert one.alerting.is_urgent
        assert one.delivery.open == 0
        await one.flush()
        assert not one.alerting.is_urgent
        assert await sink.until(1) == [("firing", "planner")]
        body = body_of(sink.told[0])
        assert body.summary == "response_time max of agent planner is 5000 ms, above 1000, over 1 min"
        assert body.evidence[0].position == "task-events/0/0"
        assert body.evidence[0].replay == "tallyroll replay state agent planner --as-of '{\"task-events/0\":1}'"
        await one.clock.until_asleep(2)
        one.clock.advance(1)
        await until_removed(one)
        assert list(await one.store.documents(ALERT)) == ["response_time|agent|planner|slow"]
        assert one.telemetry.value(ALERTS_SENT, sink="memory", outcome="delivered") == 1


async def until_removed(one: Service) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await outbox(one):
            await asyncio.to_thread(lambda: None)


async def test_values_that_go_on_being_bad_are_one_alert_and_the_closed_pane_ends_it() -> None:
    sink = Remembering()
    async with service(None, sink) as one:
        for _ in range(3):
            one.alerting.observed(one.kernel.run(Value("planner", 5_000)))
            await one.flush()
        await one.put("agent", "planner", START, response_time=pane_of([5_000] * 3))
        await one.minute()  # still bad
        await one.put("agent", "planner", START + 60, response_time=pane_of([10]))
        await one.minute()  # good
        await one.minute()  # no values, which is quiet as well
        assert await sink.until(2) == [("firing", "planner"), ("resolved", "planner")]
        assert sink.told[0].dedup_key == sink.told[1].dedup_key == f"response_time|agent|planner|slow|{START}"
        assert await one.store.documents(ALERT) == {}


async def test_what_could_not_be_stored_is_not_told_and_comes_with_the_next_flush() -> None:
    sink = Remembering()
    async with service(None, sink) as one:
        one.alerting.observed(one.kernel.run(Value("planner", 5_000)))
        first = one.alerting.take_documents()
        one.alerting.give_back()
        assert one.alerting.is_urgent
        one.alerting.observed(one.kernel.run(Value("planner", 6_000)))
        assert one.alerting.take_documents() == first
        one.alerting.give_back()
        one.alerting.forget()
        assert list(one.alerting.alerts()) == []
        one.alerting.observed(one.kernel.run(Value("planner", 5_000)))  # read again
        await one.flush()
        assert await sink.until(1) == [("firing", "planner")]


async def test_a_flush_without_anything_leaves_nothing_behind() -> None:
    async with service(None, Remembering()) as one:
        for _ in range(3):
            assert one.alerting.take_documents() == []
        one.alerting.observed(one.kernel.run(Value("planner", 5_000)))
        assert len(one.alerting.take_documents()) == 2


# Restarts


@pytest.mark.parametrize("died", ["before the flush", "between outbox and send", "after the send, before it was removed"])
async def test_a_restart_anywhere_gives_one_alert_per_dedup_key(tmp_path: Path, died: str) -> None:
    path, clock, told = tmp_path / "analytics.db", FakeClock(), []
    async with service(path, clock=clock) as first:  # without sinks nothing is sent
        first.alerting.observed(first.kernel.run(Value("planner", 5_000)))
        if died != "before the flush":
            await first.store.commit([], first.alerting.take_documents())
    if died.startswith("after"):
        sink = Remembering()
        async with service(path, sink, clock=clock):
            await sink.until(1)
        told += sink.told
    sink = Remembering()
    async with service(path, sink, clock=clock) as second:
        if died == "before the flush":  # the position went back with the alert: the same records come again
            second.alerting.observed(second.kernel.run(Value("planner", 5_000)))
            await second.flush()
        await sink.until(1)
        second.alerting.observed(second.kernel.run(Value("planner", 7_000)))  # it fires already
        assert not second.alerting.is_urgent
        told += sink.told
    assert {(notice.id, notice.dedup_key) for notice in told} == {(told[0].id, f"response_time|agent|planner|slow|{START}")}
    assert len(told) == (2 if died.startswith("after") else 1)


async def test_a_restart_in_the_middle_of_a_pending_alert_changes_nothing(tmp_path: Path) -> None:
    held = ThresholdRule(name="held", metric="response_time", function="avg", comparison=">", value=100, dimension="agent", for_s=180)
    path, clock, told = tmp_path / "analytics.db", FakeClock(), set()
    for minute in range(5):
        sink = Remembering()
        async with service(path, sink, rules=[held], clock=clock) as one:
            await one.put("agent", "planner", START + 60 * minute, response_time=pane_of([500]))
            await one.minute()
            if minute >= 3:
                await until(lambda: one.delivery.open == 0, clock)  # called at once
            told |= {(notice.state, notice.dedup_key) for notice in sink.told}
        assert len(told) == (minute >= 3)
    assert told == {("firing", f"response_time|agent|planner|held|{START}")}


# Anomalies


async def test_anomalies_are_tickets_with_labels_and_runbook_of_their_rule() -> None:
    sink = Remembering()
    async with service(None, sink) as one:
        one.alerting.offer([signal("planner")])
        await one.flush()
        await one.alerting.tell([signal("coder", detector="panes")], [DocumentWrite("baseline", "x", b"1")])
        await sink.until(2)
        body = body_of(sink.told[0])
        assert (body.urgency, body.labels, body.runbook) == ("ticket", {"team": "search"}, "https://runbooks.example/unusual")
        assert await one.store.documents("baseline") == {"x": b"1"}
        assert one.telemetry.value(ANOMALIES, metric="response_time", severity="medium") == 2


async def test_every_anomaly_metric_is_there_at_0() -> None:
    async with service(None) as one:
        there = {values for metric, rows in one.telemetry.readings() if metric is ANOMALIES for values, *_ in rows}
    assert there == {(name, severity) for name in SPECS for severity in ("low", "medium", "high", "critical")}


async def test_a_conflict_of_a_guarded_document_stores_and_tells_nothing() -> None:
    sink = Remembering()
    async with service(None, sink) as one:
        with pytest.raises(DocumentConflict):
            await one.alerting.tell([signal()], [DocumentWrite("detected", "through", b"2", guarded=True, expected=b"1")])
        assert await one.store.documents(ALERT) == {}
        assert list(one.alerting.alerts()) == []
        await one.alerting.tell([signal()], [DocumentWrite("detected", "through", b"2", guarded=True, expected=None)])
        assert await sink.until(1) == [("firing", "planner")]


async def test_two_processes_that_step_at_once_tell_one_alert(tmp_path: Path) -> None:
    path, clock, sink = tmp_path / "analytics.db", FakeClock(), Remembering()
    async with service(path, sink, clock=clock) as one, service(path, sink, clock=clock) as other:
        await one.put("agent", "planner", START, response_time=pane_of([5_000]))
        clock.advance(60)
        await asyncio.gather(one.alerting.step(IDLE), other.alerting.step(IDLE))
        await one.alerting.step(IDLE)
        await sink.until(1)
        assert len({notice.id for notice in sink.told}) == 1
        assert len(await one.store.documents(ALERT)) == 1


# Rules over closed panes


async def test_a_budget_that_burns_is_told_and_over_once_the_short_window_is_good() -> None:
    burn = BurnRateRule(name="burn", factor=14.4, window_s=3_600, short_s=300, min_count=50, urgency="page")
    sink = Remembering()
    async with service(None, sink, rules=[burn]) as one:
        for minute in range(4):
            await one.put("fleet", "", START + 60 * minute, success=tasks(10, 5), partition=minute % 2)
            await one.minute()
        assert sink.told == []  # 40 tasks are too few
        for minute in range(4, 15):
            await one.put("fleet", "", START + 60 * minute, success=tasks(10, 5 if minute == 4 else 0), partition=minute % 2)
            await one.minute()
        await sink.until(2)
        firing, resolved = map(body_of, sink.told)
        assert (firing.urgency, firing.unit, firing.value, firing.baseline, firing.deviation) == ("page", "percent", 50, 1, 50)
        assert resolved.state == "resolved"


async def test_a_long_window_is_read_from_rolled_up_rows_too() -> None:
    burn = BurnRateRule(name="burn", factor=1, window_s=6 * 3_600, short_s=1_800, min_count=300)
    sink = Remembering()
    async with service(None, sink, rules=[burn]) as one:
        for minute in range(60):
            await one.put("fleet", "", START + 60 * minute, success=tasks(6, 1))
        wrote = await one.store.roll_up(width_s=60, into_s=900, settle_s=0, join=lambda blobs: blobs[0])  # of 15 rows the first
        one.clock.advance(3_600)
        await one.alerting.step(IDLE)
        assert sink.told == []  # the wider rows were read: they hold a fifteenth
    assert wrote in {3, 4}


async def test_silence_is_noticed_once_the_service_has_caught_up() -> None:
    silent = AbsenceRule(name="silent", metric="events_processed", dimension="agent", window_s=180, seen_s=600)
    sink = Remembering()
    async with service(None, sink, rules=[silent]) as one:
        for minute in range(9):
            await one.put("agent", "coder", START + 60 * minute, events_processed=pane_of([1]))
            if minute < 2 or minute > 6:
                await one.put("agent", "planner", START + 60 * minute, events_processed=pane_of([1]))
            await one.minute(Watch(caught_up=minute != 4))
        assert await sink.until(2) == [("firing", "planner"), ("resolved", "planner")]
        assert body_of(sink.told[0]).summary == "agent planner has no events_processed for 3 min"


async def test_an_agent_that_is_gone_for_good_does_not_alert_for_ever() -> None:
    silent = AbsenceRule(name="silent", metric="events_processed", dimension="agent", window_s=120, seen_s=300)
    sink = Remembering()
    async with service(None, sink, rules=[silent]) as one:
        await one.put("agent", "planner", START, events_processed=pane_of([1]))
        for minute in range(1, 14):
            await one.put("agent", "coder", START + 60 * minute, events_processed=pane_of([1]))
            await one.minute()
        assert await sink.until(2) == [("firing", "planner"), ("resolved", "planner")]


async def test_panes_that_closed_during_a_pause_are_judged_one_by_one() -> None:
    sink = Remembering()
    async with service(None, sink) as one:
        await one.put("agent", "planner", START, response_time=pane_of([10]))
        await one.minute()
        for minute, value in ((1, 5_000), (2, 10), (3, 10), (4, 10)):
            await one.put("agent", "planner", START + 60 * minute, response_time=pane_of([value]))
        one.clock.advance(4 * 60)
        await one.alerting.step(IDLE)
        assert await sink.until(2) == [("firing", "planner"), ("resolved", "planner")]


async def test_the_log_away_is_told_and_inhibits_what_follows_from_it() -> None:
    away = GaugeRule(name="away", gauge="log_unavailable", comparison=">", value=0, inhibits=("lag",))
    lag = GaugeRule(name="lag", gauge="watermark_lag_seconds", comparison=">", value=300)
    sink = Remembering()
    async with service(None, sink, rules=[away, lag]) as one:
        await one.minute(Watch(caught_up=False, gauges={"log_unavailable": 1, "watermark_lag_seconds": 900}))
        await sink.until(1)
        await one.minute(Watch(caught_up=False, gauges={"log_unavailable": 0, "watermark_lag_seconds": 900}))
        await one.minute(Watch(caught_up=False, gauges={"log_unavailable": 0, "watermark_lag_seconds": 900}))
        await sink.until(3)
        assert [(notice.state, body_of(notice).detector) for notice in sink.told] == [
            ("firing", "away"),
            ("resolved", "away"),
            ("firing", "lag"),
        ]


async def test_an_alert_whose_rule_is_gone_is_over(tmp_path: Path) -> None:
    path, clock, sink = tmp_path / "analytics.db", FakeClock(), Remembering()
    async with service(path, sink, clock=clock) as one:
        one.alerting.observed(one.kernel.run(Value("planner", 5_000)))
        await one.flush()
        await sink.until(1)
    sink = Remembering()
    async with service(path, sink, rules=[UNUSUAL], clock=clock) as one:
        await one.minute()
        await until(lambda: any(notice.state == "resolved" for notice in sink.told), clock)


# Silences


async def test_a_silence_is_heeded_live_kept_over_a_restart_and_ends(tmp_path: Path) -> None:
    path, clock = tmp_path / "analytics.db", FakeClock()
    async with service(path, Remembering(), clock=clock) as one:
        await one.alerting.silence(Silence(id="s1", start=START, end=START + 9_999, by="ann", why="maintenance", key="planner"))
    sink = Remembering()
    async with service(path, sink, clock=clock) as one:
        await one.alerting.recover()
        one.alerting.observed(one.kernel.run(Value("planner", 5_000), Value("coder", 5_000)))
        await one.flush()
        assert await sink.until(1) == [("firing", "coder")]
        await one.alerting.end_silence("s1")
        await one.alerting.step(IDLE)
        assert await sink.until(2) == [("firing", "coder"), ("firing", "planner")]


# Delivery


async def test_a_dead_sink_keeps_neither_the_other_sinks_nor_the_fold_waiting() -> None:
    class Dead(Remembering):
        async def send(self, _: object) -> None:
            await asyncio.Event().wait()

    sink = Remembering()
    async with service(None, Dead("dead"), sink, limits=Limits(queue=5, attempt_s=600)) as one:
        for number in range(50):
            one.alerting.offer([signal(f"agent-{number}")])
            async with asyncio.timeout(PATIENCE_S):
                await one.flush()
        assert len(await sink.until(50)) == 50
        assert len(await outbox(one)) == 50
        assert one.telemetry.value(ALERTS_SENT, sink="dead", outcome="overflowed") == 44


async def test_a_failing_sink_is_tried_again_with_growing_pauses_until_it_takes_the_notice() -> None:
    sink = Remembering(fails=[SinkUnavailable("memory", "HTTP 503")] * 3)
    async with service(None, sink) as one:
        one.alerting.offer([signal()])
        await one.flush()
        began = one.clock.monotonic()
        await until(lambda: bool(sink.told), one.clock)
        assert one.clock.monotonic() - began >= 0.5 * (0.5 + 1 + 2)
        assert one.telemetry.value(ALERTS_SENT, sink="memory", outcome="delivered") == 1


async def test_a_notice_is_given_up_after_an_hour_and_the_next_ones_get_their_turn() -> None:
    sink = Remembering(fails=[SinkUnavailable("memory", "HTTP 503")] * 1_000)
    async with service(None, sink, limits=Limits(give_up_s=60)) as one:
        one.alerting.offer([signal("planner")])
        await one.flush()
        await until(lambda: one.telemetry.value(ALERTS_SENT, outcome="given_up") == 1, one.clock)
        sink.fails.clear()
        one.alerting.offer([signal("coder")])
        await one.flush()
        assert await sink.until(1) == [("firing", "coder")]
        await until(lambda: one.delivery.open == 0, one.clock)
        one.clock.advance(1)
        await until_removed(one)


@pytest.mark.parametrize("error", [SinkRefused("memory", "HTTP 404"), KeyError("canary-5521")])
async def test_what_is_refused_is_not_tried_again_and_nothing_of_the_error_is_quoted(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Remembering(fails=[error])
    async with service(None, sink) as one:
        one.alerting.offer([signal("planner"), signal("coder")])
        await one.flush()
        assert await sink.until(1) == [("firing", "coder")]
        assert one.telemetry.value(ALERTS_SENT, sink="memory", outcome="refused") == 1
    assert "canary-5521" not in caplog.text
    assert "was not told to memory: refused" in caplog.text


async def test_an_attempt_that_takes_too_long_is_broken_off() -> None:
    class Slow(Remembering):
        async def send(self, notice: object) -> None:
            if not self.told:
                self.told.append(notice)
                await asyncio.Event().wait()
            await super().send(notice)

    sink = Slow()
    async with service(None, sink, limits=Limits(attempt_s=0.05)) as one:
        one.alerting.offer([signal()])
        await one.flush()
        await until(lambda: len(sink.told) == 2, one.clock)


async def test_what_an_earlier_process_left_behind_is_swept_up(tmp_path: Path) -> None:
    path, clock, sink = tmp_path / "analytics.db", FakeClock(), Remembering()
    watch = partial(Watch, caught_up=True)
    store = await SqliteWindowStore.open(path)
    one = Service(store, clock, [sink], [SLOW, UNUSUAL], Limits())
    running = asyncio.create_task(one.alerting.run(watch))
    async with service(path, clock=FakeClock()) as other:  # dies right after its commit
        await clock.until_asleep()
        other.alerting.offer([signal()])
        await other.store.commit([], other.alerting.take_documents())
    while not sink.told:
        await clock.until_asleep()
        clock.advance(STEP_S)
        await asyncio.to_thread(lambda: None)
    assert clock.monotonic() >= 30
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await store.close()


async def test_what_is_left_behind_is_told_at_once_also_when_the_clock_went_back(tmp_path: Path) -> None:
    path, ahead, sink = tmp_path / "analytics.db", FakeClock(), Remembering()
    ahead.advance(86_400)
    async with service(path, clock=ahead) as one:  # dies right after its commit
        one.alerting.offer([signal()])
        await one.store.commit([], one.alerting.take_documents())
    async with service(path, sink) as later:
        async with asyncio.timeout(PATIENCE_S):
            await later.alerting.drain()
        assert len(sink.told) == 1
        assert await outbox(later) == []


async def test_the_time_from_the_event_to_the_sink_is_measured() -> None:
    sink = Remembering()
    async with service(None, sink) as one:
        one.kernel.rows = 100
        one.alerting.observed(one.kernel.run(Value("planner", 5_000)))
        await one.flush()
        await sink.until(1)
        await until(lambda: one.delivery.open == 0, one.clock)
        assert one.telemetry.value(ALERT_LATENCY, sink="memory") == pytest.approx(10)


@pytest.mark.slow
async def test_a_service_that_ends_tells_what_it_can_and_leaves_the_rest_in_the_outbox() -> None:
    class Dead(Remembering):
        async def send(self, _: object) -> None:
            raise SinkUnavailable("dead", "away")

    sink, store = Remembering(), await SqliteWindowStore.open(None)
    for sinks, left in (([sink], 0), ([sink, Dead("dead")], 1)):
        joined = detection(store, sinks)
        joined.start()
        await joined.alerting.tell([signal(f"agent-{left}")])
        async with asyncio.timeout(PATIENCE_S):
            await joined.stop()
        assert [notice.dedup_key.split("|")[2] for notice in sink.told] == ["agent-0", "agent-1"][: left + 1]
        assert len(await store.documents(OUTBOX)) == left
    await store.close()


async def test_panes_are_not_judged_while_a_partition_with_records_has_not_been_read() -> None:
    store = await SqliteWindowStore.open(None)
    joined = detection(store, [], {TopicPartition("task-events", 0): 1, TopicPartition("task-events", 1): 5})
    for partition in (0, 1):
        await joined.step()
        assert await store.documents("watched") == {}
        progress = WindowProgress("spec", 0, 1, (START + 600) * 1_000_000)
        row = (PaneAt("fleet", "", 60, START), 0, dump_row({"response_time": pane_of([10])}))
        await store.commit([WindowWrite(TopicPartition("task-events", partition), None, progress, [row])])
    await joined.step()
    assert await store.documents("watched") != {}
    await joined.stop()
    await store.close()


async def test_panes_of_a_history_that_is_being_published_are_judged_when_they_are_whole() -> None:
    store, place, log = await SqliteWindowStore.open(None), TopicPartition("task-events", 0), dict[TopicPartition, int]()
    clock = FakeClock(datetime.fromtimestamp(START + 7_200, UTC))
    joined = detection(store, [], log, clock)

    async def judged_through() -> int:
        await joined.step()
        (mark,) = (await store.documents("watched")).values()
        return int(mark)

    async def comes(expected: int | None, offset: int, minutes: int) -> None:
        log[place] = offset
        progress = WindowProgress("spec", 0, offset, (START + 60 * minutes) * 1_000_000)
        row = (PaneAt("fleet", "", 60, START + 60 * (minutes - 3)), 0, dump_row({"response_time": pane_of([10])}))
        await store.commit([WindowWrite(place, expected, progress, [row])])

    await comes(None, 10, 5)
    assert await judged_through() <= START + 60 * 5, "it is read to its end, and yet more comes"
    await comes(10, 20, 30)
    assert START + 60 * 5 < await judged_through() <= START + 60 * 30
    assert await judged_through() > START + 7_000, "nothing has come since the last look: silence passes as time does"
    await joined.stop()
    await store.close()


def detection(
    store: SqliteWindowStore, sinks: Sequence[AlertSink], log: Mapping[TopicPartition, int] | None = None, clock: Clock | None = None
) -> Detection:
    async def ends() -> Mapping[TopicPartition, int] | None:
        return None if log is None else dict(log)

    return Detection(
        store, list(SPECS.values()), [UNUSUAL], sinks, ends=ends, leading=lambda: False, clock=clock or SystemClock(), telemetry=Counters()
    )
