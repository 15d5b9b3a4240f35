"""Analytics joined from its ports: one store, the metrics, the engines that answer and the follower that counts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tallyroll.analytics.query import AnalyticsEngine, Attached
from tallyroll.analytics.spec import MetricSpec, spec_id
from tallyroll.analytics.tidying import Tidier
from tallyroll.analytics.windows import Retention
from tallyroll.errors import LogUnavailable
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.events.types import SYSTEM_TOPIC
from tallyroll.ports import AlertSink, Clock, DocumentWrite, EventLog, WindowStore
from tallyroll.telemetry import Telemetry

if TYPE_CHECKING:
    from tallyroll.analytics.alerts.lifecycle import Silence
    from tallyroll.analytics.alerts.rules import AnyRule
    from tallyroll.analytics.detection import Detection
    from tallyroll.analytics.fingerprint import PanesFingerprint
    from tallyroll.analytics.follower import AnalyticsFollower
    from tallyroll.analytics.run import Observer


class OpenAnalytics:
    """The panes of one log: ``engine`` to ask, ``follower`` for the loop. Store and log stay their opener's.

    ``follow`` sees to it that events are counted, ``catch_up`` waits until what this process has published is. Not promised:
    that anything is counted before ``follow``; another process may do it.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        store: WindowStore,
        specs: Sequence[MetricSpec],
        catalogue: Catalogue,
        log: EventLog,
        *,
        clock: Clock,
        telemetry: Telemetry,
        default_window: str,
        retention: Retention,
        follow: Callable[[], Awaitable[object]],
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self.store = store
        self.specs = specs
        self._catalogue = catalogue
        self._log = log
        self._clock = clock
        self._telemetry = telemetry
        self._default_window = default_window
        self._attached = Attached(follow, catch_up, self._ends, self._firing)
        self.retention = retention
        self._tidier = Tidier(store, specs, clock, retention)
        self._detection: Detection | None = None

    @property
    def topics(self) -> list[str]:
        """The names of the topics that are counted: all that users' events go to, but the one of anomalies."""
        return [topic.name for topic in self._catalogue.topics if topic.user and topic.base != SYSTEM_TOPIC]

    @cached_property
    def engine(self) -> AnalyticsEngine:
        """Follows the log, and waits for what this process has published."""
        return self._engine(self._attached)

    @cached_property
    def onlooker(self) -> AnalyticsEngine:
        """Only looks into the store."""
        return self._engine(Attached(_nothing, _nothing, self._ends, self._firing))

    def follower(self, rules: Sequence[AnyRule], sinks: Sequence[AlertSink], *, leading: Callable[[], bool]) -> AnalyticsFollower:
        """What counts events into the store, which is kept tidy and watched from here on; alerts go to the sinks.

        ``leading``: whether this process is the one of its group that judges closed panes. The sinks are closed in the end.
        """
        from tallyroll.analytics.detection import Detection  # noqa: PLC0415  # needs the extra; who only asks does without
        from tallyroll.analytics.exposition import Exposition  # noqa: PLC0415  # as above
        from tallyroll.analytics.follower import AnalyticsFollower  # noqa: PLC0415  # as above

        self._tidier.start()
        self._detection = Detection(
            self.store, self.specs, rules, sinks, ends=self._ends, leading=leading, clock=self._clock, telemetry=self._telemetry
        )
        self._detection.start()
        observers: Sequence[Observer] = (Exposition(self._telemetry), *self._detection.observers)
        return AnalyticsFollower(
            self.store,
            self._catalogue,
            self.specs,
            clock=self._clock,
            telemetry=self._telemetry,
            observers=observers,
            retention=self.retention,
        )

    def recount(
        self, store: WindowStore, partitions: Sequence[TopicPartition], batches: AsyncIterable[Batch], retention: Retention
    ) -> AsyncGenerator[int, None]:
        """Counts batches of a history anew by the metrics of now; see ``recounting.recount``."""
        from tallyroll.analytics.recounting import recount  # noqa: PLC0415  # needs the extra; who only asks does without

        return recount(store, self._catalogue, self.specs, partitions, batches, clock=self._clock, retention=retention)

    async def fingerprint(self, store: WindowStore, retention: Retention) -> PanesFingerprint:
        """What a store holds by the metrics of now; see ``fingerprint``."""
        from tallyroll.analytics.fingerprint import panes_fingerprint  # noqa: PLC0415  # as above

        return await panes_fingerprint(store, self.specs, retention)

    def engine_on(self, store: WindowStore) -> AnalyticsEngine:
        """Answers from another store."""
        return AnalyticsEngine(store, self.specs, clock=self._clock, default_window=self._default_window)

    async def open_alerts(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Alerts that are pending or firing, the most severe first, and the silences in force."""
        from tallyroll.analytics.alerts.showing import shown_alerts, shown_silences  # noqa: PLC0415  # needs the extra

        alerts, silences = await self.store.documents("alert"), await self.store.documents("silence")
        return shown_alerts(alerts.values()), shown_silences(silences.values(), self._clock.now_us() // 1_000_000)

    async def silence(self, silence: Silence) -> None:
        """Keeps alerts quiet; durable when it returns."""
        from tallyroll.analytics.alerts.showing import silence_document  # noqa: PLC0415  # needs the extra

        await self.store.commit([], [silence_document(silence)])

    async def end_silence(self, silence_id: str) -> None:
        """Takes a silence back."""
        await self.store.commit([], [DocumentWrite("silence", silence_id, None)])

    async def stored(self) -> Mapping[TopicPartition, int]:
        """How far the panes of these metrics go; where others made them they go nowhere, and are made anew."""
        ours, stored = spec_id(self.specs), await self.store.load_progress()
        return {partition: one.next for partition, one in stored.items() if one.spec_id == ours}

    async def close(self) -> None:
        """Ends what runs beside the follower."""
        if self._detection is not None:
            await self._detection.stop()
        await self._tidier.stop()

    def _engine(self, attached: Attached) -> AnalyticsEngine:
        return AnalyticsEngine(
            self.store, self.specs, clock=self._clock, default_window=self._default_window, attached=attached, retention=self.retention
        )

    async def _firing(self) -> Sequence[dict[str, Any]]:
        return (await self.open_alerts())[0]

    async def _ends(self) -> Mapping[TopicPartition, int] | None:
        try:
            ends, starts = await self._log.ends(self.topics), await self._log.starts(self.topics)
        except LogUnavailable:
            return None
        # Where retention has removed everything, nobody will ever count anything.
        return {partition: end for partition, end in ends.items() if starts.get(partition, 0) < end}


async def _nothing() -> None:
    """For an engine that only looks."""
