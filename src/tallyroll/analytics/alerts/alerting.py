"""Alerts at work: what rules and detectors find becomes alerts and notices, stored together, and told after the commit."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tallyroll.analytics.alerts.book import Book, Layer
from tallyroll.analytics.alerts.delivery import Delivery
from tallyroll.analytics.alerts.evaluate import Judgement, Outcome, settle, speak_up
from tallyroll.analytics.alerts.lifecycle import Alert, Silence, anomaly_rule
from tallyroll.analytics.alerts.live import LiveRules
from tallyroll.analytics.alerts.notice import OUTBOX, Waiting, notice_of, read_outbox, waiting_documents
from tallyroll.analytics.alerts.rules import ANOMALY_DETECTORS, AnyRule
from tallyroll.analytics.alerts.showing import ALERT, SILENCE, read_alert, read_silence, silence_document, write_alert
from tallyroll.analytics.alerts.watching import Watch, Watching
from tallyroll.analytics.run import KernelRun
from tallyroll.analytics.signal import Severity, Signal
from tallyroll.analytics.spec import MetricSpec
from tallyroll.errors import DocumentConflict, StoreUnavailable
from tallyroll.events.ids import made_us
from tallyroll.ports import Clock, DocumentWrite, WindowStore
from tallyroll.telemetry import ANOMALIES, Telemetry

log: Final = logging.getLogger("tallyroll.alerts")

STEP_S: Final = 5.0
_LEFT_S: Final = 30.0  # a notice that waits so long has lost whoever was to deliver it
_TIDY_S: Final = 0.2  # acknowledged notices are removed together
_REMEMBERED: Final = 10_000  # ids of notices lately removed, so that one read before is not told again


class _Pack(NamedTuple):
    """What is stored in one transaction."""

    layer: Layer
    notices: list[Waiting]


class Alerting:
    """Makes alerts of what rules and detectors find, and sees to it that they are told.

    As an ``Observer`` it judges threshold rules on open panes. ``offer`` takes what live detectors found in a run, ``tell``
    what others found at the close of panes. ``step`` judges all other rules, in the one process that does so. ``run``
    delivers; start it before the follower. A notice is told after the transaction in which its alert was written.
    Not promised: that two processes which hold parts of one series fire once between them; they do so under one dedup key
    where they fire for the same pane.
    """

    def __init__(  # noqa: PLR0913  # what it is made of; nothing is optional
        self,
        rules: Sequence[AnyRule],
        specs: Sequence[MetricSpec],
        *,
        store: WindowStore,
        delivery: Delivery,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._rules = rules
        self._by_name = {rule.name: rule for rule in rules}
        self._live = LiveRules(rules, specs)
        self._watching = Watching(rules, specs, store)
        self._store = store
        self._delivery = delivery
        self._clock = clock
        self._telemetry = telemetry
        self._book = Book()
        self._silences: Sequence[Silence] = ()
        self._pack = _Pack(self._book.open(), [])
        self._taken: _Pack | None = None
        self._removed: deque[str] = deque(maxlen=_REMEMBERED)
        self._writing = asyncio.Lock()
        self._recovered = asyncio.Event()
        for spec in specs:
            telemetry.count(ANOMALIES, 0, metric=spec.name, severity=Severity.LOW)

    # The observer

    def observed(self, run: KernelRun) -> None:
        now = self._clock.now_us() // 1_000_000
        found = list(self._live.judge(run, self._is_firing, now))
        if found:
            self._add(settle(self._book, found, self._rules, self._silences, now), self._pack)

    def offer(self, signals: Sequence[Signal]) -> None:
        """Takes what a live detector found in this run: stored as soon as the follower is asked whether it wants to flush."""
        found = self._wanted(signals)
        if found:
            self._add(settle(self._book, found, self._rules, self._silences, self._now()), self._pack)

    @property
    def goes_ahead(self) -> bool:
        return True

    @property
    def is_urgent(self) -> bool:
        return bool(self._pack.notices)

    def take_documents(self) -> Sequence[DocumentWrite]:
        self.give_back()  # what an empty flush took and did not store
        self._taken, self._pack = self._pack, _Pack(self._book.open(), [])
        return [*_alert_documents(self._taken.layer), *waiting_documents(self._taken.notices)]

    def stored(self) -> None:
        if self._taken is not None:
            self._book.keep(self._taken.layer)
            self._delivery.hand(self._taken.notices)
            self._taken = None

    def give_back(self) -> None:
        if self._taken is not None:
            layer = {**self._taken.layer, **self._pack.layer}
            self._book.drop(self._taken.layer)
            self._pack.layer.update(layer)
            self._pack.notices[:0] = self._taken.notices
            self._taken = None

    def forget(self) -> None:
        self._book.drop(self._pack.layer)
        self._pack = _Pack(self._book.open(), [])

    # Detectors and rules that look at closed panes

    async def tell(self, signals: Sequence[Signal], documents: Sequence[DocumentWrite] = ()) -> None:
        """Stores what follows from the signals together with the caller's documents; durable when it returns.

        Raises DocumentConflict when one of the guarded documents, or one of the alerts, is not what it was; then nothing was
        stored, and the caller may look again.
        """
        async with self._writing:
            stored = await self._refresh()
            pack = _Pack(self._book.open(), [])
            self._add(settle(self._book, self._wanted(signals), self._rules, self._silences, self._now()), pack)
            await self._commit(pack, stored, documents)

    async def step(self, watch: Watch) -> None:
        """Judges the rules whose panes have closed since the last time. For one process of the group, every few seconds."""
        async with self._writing:
            stored = await self._refresh()
            now = self._now()
            found, marks = await self._watching.judge(self._book, watch, now)
            pack = _Pack(self._book.open(), [])
            still = [one for one in found if isinstance(one, Signal) or not self._book.is_moving(one.series)]
            self._add(settle(self._book, still, self._rules, self._silences, now), pack)
            self._add(speak_up(self._book, self._rules, self._silences, now), pack)
            try:
                await self._commit(pack, stored, ())
            except DocumentConflict:
                return  # somebody else moved one of these alerts: judged again with the next step
            self._watching.done(marks)
            self._live.forget_before(now - _OLDEST_OPEN_S)

    async def silence(self, silence: Silence) -> None:
        """Keeps alerts quiet from now on as it says; durable when it returns, heeded by other processes within seconds."""
        await self._store.commit([], [silence_document(silence)])
        await self._refresh()

    async def end_silence(self, silence_id: str) -> None:
        """Ends a silence; what fires and was kept quiet is told with the next step."""
        await self._store.commit([], [DocumentWrite(SILENCE, silence_id, None)])
        await self._refresh()

    def alert(self, series: str) -> Alert | None:
        """The alert of ``METRIC|DIMENSION|KEY|DETECTOR``, as this process knows it."""
        return self._book.get(series)

    def alerts(self) -> Sequence[Alert]:
        """Everything that is pending or firing, as this process knows it."""
        return list(self._book.alerts())

    # Delivery

    async def recover(self) -> None:
        """Hands over every notice that an earlier process left in the outbox, and reads which alerts there are."""
        await self._refresh()
        await self._sweep(until_us=None)

    async def run(self, watch: Callable[[], Watch | None]) -> None:
        """Delivers until cancelled, and steps while ``watch`` gives something, which it does in one process of the group."""
        await self._persistently(self.recover)
        self._recovered.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._delivery.run())
            tasks.create_task(self._tidy())
            tasks.create_task(self._step_on(watch))

    async def drain(self) -> None:
        """Waits, beside ``run``, until everything in the outbox has been told or given up, and removes it."""
        await self._recovered.wait()
        await self._delivery.idle.wait()
        await self._persistently(self.remove_done)

    async def _step_on(self, watch: Callable[[], Watch | None]) -> None:
        swept = self._clock.monotonic()
        while True:
            await self._clock.sleep(STEP_S)
            seen = watch()
            if seen is None:
                await self._persistently(self._refresh)  # live rules have to know what fires, and what is silenced
                continue
            await self._persistently(lambda seen=seen: self.step(seen))  # type: ignore[misc]  # the default binds it now
            if self._clock.monotonic() - swept >= _LEFT_S:
                swept = self._clock.monotonic()
                await self._persistently(lambda: self._sweep(until_us=self._clock.now_us() - _LEFT_S * 1_000_000))

    async def _tidy(self) -> None:
        while True:
            await self._delivery.settled.wait()
            await self._clock.sleep(_TIDY_S)
            await self._persistently(self.remove_done)

    async def remove_done(self) -> None:
        """Removes from the outbox what every sink has taken or was given up on."""
        done = self._delivery.take_done()
        if done:
            self._removed.extend(done)
            try:
                await self._store.commit([], [DocumentWrite(OUTBOX, one, None) for one in done])
            except StoreUnavailable:
                self._delivery.put_back(done)
                raise

    async def _sweep(self, *, until_us: float | None) -> None:
        """Hands over what was written until then; None: everything, whatever this machine's clock says of when that was."""
        left = read_outbox(await self._store.documents(OUTBOX))
        removed = set(self._removed)
        self._delivery.hand([one for one in left if (until_us is None or one.written_us <= until_us) and one.notice.id not in removed])

    async def _persistently(self, act: Callable[[], object]) -> None:
        """Once more after a while where the store cannot be reached; what was not done is still to be done then."""
        try:
            await act()  # type: ignore[misc]  # every one of them is a coroutine function
        except StoreUnavailable as error:
            log.warning("alerts wait for the store: %s", error.reason)

    # What all of these do

    def _now(self) -> int:
        return self._clock.now_us() // 1_000_000

    def _is_firing(self, series: str) -> bool:
        alert = self._book.get(series)
        return alert is not None and alert.firing

    def _wanted(self, signals: Iterable[Signal]) -> list[Judgement | Signal]:
        wanted: list[Judgement | Signal] = []
        for signal in signals:
            if signal.state == "firing":
                self._telemetry.count(ANOMALIES, metric=signal.metric, severity=signal.severity.value)
            if signal.state == "resolved" or anomaly_rule(self._rules, signal) is not None:
                wanted.append(signal)
        return wanted

    def _add(self, outcome: Outcome, pack: _Pack) -> None:
        pack.layer.update(outcome.changes)
        now_us = self._clock.now_us()
        for signal in outcome.notices:
            rule = anomaly_rule(self._rules, signal) if signal.detector in ANOMALY_DETECTORS else self._by_name.get(signal.detector)
            made = made_us(signal.evidence[0].event_id) if signal.evidence else None
            pack.notices.append(Waiting(notice_of(signal, rule), now_us, now_us if made is None else made))

    async def _refresh(self) -> Mapping[str, bytes]:
        while True:
            kept = self._book.kept
            alerts = await self._store.documents(ALERT)
            silences = await self._store.documents(SILENCE)
            if kept == self._book.kept:  # nothing of ours was stored meanwhile, so what was read is not older than the book
                self._book.refresh({series: read_alert(data) for series, data in alerts.items()})
                self._silences = [read_silence(data) for data in silences.values()]
                return alerts

    async def _commit(self, pack: _Pack, stored: Mapping[str, bytes], documents: Sequence[DocumentWrite]) -> None:
        written = [
            one._replace(guarded=True, expected=stored.get(one.id))
            for one in _alert_documents(pack.layer)
            if one.data != stored.get(one.id)
        ]
        try:
            if written or pack.notices or documents:
                await self._store.commit([], [*documents, *written, *waiting_documents(pack.notices)])
        except BaseException:
            self._book.drop(pack.layer)
            raise
        self._book.keep(pack.layer)
        self._delivery.hand(pack.notices)


_OLDEST_OPEN_S: Final = 2 * 3_600  # twice the longest pane


def _alert_documents(layer: Layer) -> list[DocumentWrite]:
    return [DocumentWrite(ALERT, series, None if alert is None else write_alert(alert)) for series, alert in layer.items()]
