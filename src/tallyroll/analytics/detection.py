"""Detection and alerts of one process, joined: the live detector, the watcher of closed panes, the rules, the delivery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from tallyroll.analytics.alerts.alerting import Alerting
from tallyroll.analytics.alerts.delivery import Delivery
from tallyroll.analytics.alerts.rules import AnyRule
from tallyroll.analytics.alerts.watching import Watch
from tallyroll.analytics.anomalies.live import LIVE, LiveDetector, quiet_again
from tallyroll.analytics.anomalies.series import SeriesName
from tallyroll.analytics.anomalies.watcher import Watcher
from tallyroll.analytics.run import Observer
from tallyroll.analytics.signal import Signal
from tallyroll.analytics.spec import MetricSpec
from tallyroll.errors import DocumentConflict, LogUnavailable, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import AlertSink, Clock, WindowStore
from tallyroll.telemetry import Telemetry

log: Final = logging.getLogger("tallyroll.analytics")

EVERY_S: Final = 5.0
_REFRESH_S: Final = 60.0
_LAST_WORDS_S: Final = 2.0

Ends = Callable[[], Awaitable[Mapping[TopicPartition, int] | None]]
"""How far the log goes, per partition that is counted and holds records; None while it is away."""


class Detection:
    """What looks at values and panes, and tells.

    ``observers`` belong to the follower. ``leading`` says whether this process is the one of its group that judges closed
    panes; the others judge values as they come. Panes close with the partition that is furthest behind until the log has been
    followed to its end, then with the newest event while events come, which may be a history that is being published, and
    with the wall clock once none does. The store stays its opener's; the sinks are closed.
    Not promised: detection while nobody follows; what was missed is judged when somebody does.
    """

    def __init__(  # noqa: PLR0913  # what it is joined from
        self,
        store: WindowStore,
        specs: Sequence[MetricSpec],
        rules: Sequence[AnyRule],
        sinks: Sequence[AlertSink],
        *,
        ends: Ends,
        leading: Callable[[], bool],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._ends = ends
        self._leading = leading
        self._clock = clock
        self._delivery = Delivery(sinks, clock, telemetry)
        self.alerting = Alerting(rules, specs, store=store, delivery=self._delivery, clock=clock, telemetry=telemetry)
        self._watcher = Watcher(store, specs, self.alerting.tell)
        live = LiveDetector(self._watcher.usual, self._open_since, self.alerting.offer, self._now)
        self.observers: Sequence[Observer] = (live, self.alerting)
        self._disorder_s = max((spec.disorder_s for spec in specs), default=0.0)
        self._watch: Watch | None = None
        self._before: Mapping[TopicPartition, int] | None = None  # how far the log went at the last look
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, in a task of its own. Safe to call twice."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="detection")

    async def stop(self) -> None:
        """Ends it, after two seconds at most for what is still to be told; what is in the outbox then is for the next process."""
        if self._task is not None:
            if not self._task.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WORDS_S):
                        await self.alerting.drain()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._delivery.close()

    async def step(self) -> None:
        """Judges what has closed since the last time, if this process leads. Raises StoreUnavailable, DocumentConflict."""
        ends = await self._ends()
        progress = await self._store.load_progress()
        caught_up = ends is not None and all(one in progress and progress[one].next >= end for one, end in ends.items() if end)
        marks = [one.watermark_us // 1_000_000 for one in progress.values() if one.watermark_us >= 0]
        if marks and all(one in progress for one, end in (ends or {}).items() if end):  # else panes lack what is not read yet
            mark = min(marks) if not caught_up else self._now() if ends == self._before else min(self._now(), max(marks))
            closed = int(mark - self._disorder_s)
            while await self._watcher.step(closed, now=self._now()):
                pass
            if over := quiet_again(self._live_alerts(), closed):
                await self.alerting.tell(over)
        self._before = ends
        lag_s = 0 if caught_up or not marks else max(0, self._now() - min(marks))
        self._watch = Watch(caught_up, {"log_unavailable": float(ends is None), "watermark_lag_seconds": float(lag_s)})

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.alerting.run(lambda: self._watch))
            tasks.create_task(self._step_on())

    async def _step_on(self) -> None:
        refreshed = -_REFRESH_S
        while True:
            try:
                if self._leading():
                    await self.step()
                else:
                    self._watch = None
                    if self._clock.monotonic() - refreshed >= _REFRESH_S:
                        await self._watcher.refresh()
                        refreshed = self._clock.monotonic()
            except (StoreUnavailable, LogUnavailable) as error:
                log.warning("detection waits: %s", error)
            except DocumentConflict:
                log.info("detection: another process was quicker")
            await self._clock.sleep(EVERY_S)

    def _now(self) -> int:
        return self._clock.now_us() // 1_000_000

    def _live_alerts(self) -> Mapping[SeriesName, Signal]:
        found = (alert.signal for alert in self.alerting.alerts() if alert.signal.detector == LIVE)
        return {SeriesName(one.metric, one.dimension, one.key): one for one in found}

    def _open_since(self, name: SeriesName) -> tuple[int, int] | None:
        alert = self.alerting.alert(f"{name}|{LIVE}")
        return None if alert is None else (alert.signal.since, alert.signal.at)
