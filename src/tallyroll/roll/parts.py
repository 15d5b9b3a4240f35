"""What a roll has opened so far: each thing at its first use, and all of them closed on one stack."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

from tallyroll.analytics.opening import OpenAnalytics
from tallyroll.analytics.spec import MetricSpec, unheard
from tallyroll.analytics.windows import Retention
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.events.types import known_types
from tallyroll.opening import (
    archive_folder,
    compliance_rules_of,
    open_archive,
    open_audit_keys,
    open_ledger_store,
    open_pii_finder,
    open_state_store,
    open_state_target,
    open_window_store,
    open_witnesses,
    replayer_on,
    window_store_file,
)
from tallyroll.ports import Clock, EventLog, LedgerStore, PiiFinder, StateStore, StateTarget, Tracing
from tallyroll.publish.publisher import EventPublisher
from tallyroll.replay.engine import ReplayEngine
from tallyroll.roll.names import ANALYTICS_FOLLOWER, AUDIT_FOLLOWER
from tallyroll.settings import Settings
from tallyroll.telemetry import Telemetry

if TYPE_CHECKING:
    from tallyroll.archive.opening import OpenArchive
    from tallyroll.audit.compliance.rules import RuleSet
    from tallyroll.audit.opening import AuditKeys, OpenAudit
    from tallyroll.audit.recording.violations import Violations


log: Final = logging.getLogger("tallyroll.analytics")


class Parts:
    """The parts of one roll. ``follow`` starts a follower; ``catch_up`` waits for it to have what this process has published.

    Nothing is opened before it is asked for; ``stack`` closes it. What is given stays its opener's.
    """

    def __init__(  # noqa: PLR0913  # what a roll is made of
        self,
        settings: Settings,
        catalogue: Catalogue,
        log: EventLog,
        *,
        clock: Clock,
        telemetry: Telemetry,
        publisher: EventPublisher,
        metrics: Sequence[MetricSpec],
        tracing: Tracing | None,
        follow: Callable[[str], Awaitable[object]],
        catch_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.log = log
        self.clock = clock
        self.telemetry = telemetry
        self.publisher = publisher
        self.metrics = metrics
        self.tracing = tracing
        self.stack = AsyncExitStack()
        self._follow = follow
        self._catch_up = catch_up
        self._store: StateStore | None = None
        self._target: StateTarget | None = None
        self._archive: OpenArchive | None = None
        self._engine: ReplayEngine | None = None
        self._analytics: OpenAnalytics | None = None
        self._audit: OpenAudit | None = None
        self._ledger: LedgerStore | None = None
        self._opening_audit = asyncio.Lock()
        self._opening_ledger = asyncio.Lock()
        self._opening_analytics = asyncio.Lock()

    @property
    def user_topics(self) -> list[str]:
        """The names of the topics that users' events go to."""
        return [topic.name for topic in self.catalogue.topics if topic.user]

    @property
    def user_partitions(self) -> list[TopicPartition]:
        """Their partitions."""
        return self.catalogue.partitions(topic.base for topic in self.catalogue.topics if topic.user)

    async def state_store(self) -> StateStore:
        """Where the state follower keeps its parts. Raises StoreUnavailable."""
        if self._store is None:
            self._store = await open_state_store(self.settings)
            self.stack.push_async_callback(self._store.close)
        return self._store

    def state_target(self) -> StateTarget:
        """Where the Redis bridge keeps states. Raises MissingExtra, SettingsError."""
        if self._target is None:
            self._target = open_state_target(self.settings)
            self.stack.push_async_callback(self._target.close)
        return self._target

    @property
    def is_archived(self) -> bool:
        """Whether there is an archive."""
        return self._archive is not None or (not self.settings.in_memory and archive_folder(self.settings).is_dir())

    def archive(self) -> OpenArchive:
        """The archive; nothing is made before something is archived. Raises MissingExtra, SettingsError.

        Blocks at the first call: what reads its files is a lot to import. ``opened_archive`` does that beside the event loop.
        """
        if self._archive is None:
            self._archive = open_archive(self.settings, self.catalogue, self.clock)
            self.stack.push_async_callback(asyncio.to_thread, self._archive.close)  # folds logs of many indexes into their files
        return self._archive

    async def opened_archive(self) -> OpenArchive:
        """The same, and nobody waits for the importing but who asks."""
        if self._archive is None:
            await asyncio.to_thread(open_archive, self.settings, self.catalogue, self.clock)  # for what it imports; it opens nothing
        return self.archive()

    async def replay_engine(self) -> ReplayEngine:
        """The engine behind every replay; it reads the archive where there is one by now."""
        reader = (await self.opened_archive()).reader if self.is_archived else None
        if self._engine is None:
            replayer = replayer_on(self.settings, self.log, self.catalogue, self.clock, reader)
            self._engine = ReplayEngine(replayer, clock=self.clock, telemetry=self.telemetry)
        self._engine.replayer.archive = reader
        return self._engine

    async def analytics(self) -> OpenAnalytics:
        """Analytics. Raises MissingExtra, StoreUnavailable."""
        async with self._opening_analytics:
            if self._analytics is None:
                for doubt in unheard(self.metrics, [info.name for info in known_types()]):
                    log.warning("%s", doubt)
                store = await open_window_store(self.settings)
                self.stack.push_async_callback(store.close)
                self._analytics = OpenAnalytics(
                    store, self.metrics, self.catalogue, self.log,
                    clock=self.clock, telemetry=self.telemetry, default_window=self.settings.analytics_window,
                    retention=Retention(86_400 * self.settings.analytics_keep_days),
                    follow=partial(self._follow, ANALYTICS_FOLLOWER), catch_up=partial(self._catch_up, ANALYTICS_FOLLOWER),
                )  # fmt: skip
                self.stack.push_async_callback(self._analytics.close)
            return self._analytics

    @property
    def is_counted(self) -> bool:
        """Whether there is a store of analytics."""
        return self._analytics is not None or (not self.settings.in_memory and window_store_file(self.settings).is_file())

    @cached_property
    def violations(self) -> Violations:
        """Who is told of breaches."""
        from tallyroll.audit.recording.violations import Violations  # noqa: PLC0415  # who has no audit does without

        return Violations(self.telemetry, self.publisher.publish_batch)

    async def audit(self) -> OpenAudit:
        """The audit ledger. Raises as ``open_audit_keys``."""
        async with self._opening_audit:
            if self._audit is None:
                made_of, rules, finder, keys = await asyncio.to_thread(_audit_needs, self.settings)
                self._audit = made_of(
                    keys, rules, self.ledger_store, self.publisher, self.log, self.catalogue, self.settings,
                    clock=self.clock, telemetry=self.telemetry, finder=finder, violations=self.violations,
                    catch_up=self._read_own_entries, open_witnesses=partial(open_witnesses, self.settings),
                )  # fmt: skip
                self.stack.push_async_callback(self._audit.close)
            return self._audit

    async def ledger_store(self) -> LedgerStore:
        """What is sealed lies here; who only counts it needs no keys. Raises StoreUnavailable."""
        async with self._opening_ledger:
            if self._ledger is None:
                self._ledger = await open_ledger_store(self.settings)
                self.stack.push_async_callback(self._ledger.close)
            return self._ledger

    async def _read_own_entries(self) -> None:
        """Who only looks joins no group on Kafka: for a moment every member would hand over partitions."""
        if self.publisher.last_positions() or not self.settings.is_kafka:
            await self._catch_up(AUDIT_FOLLOWER)


def _audit_needs(settings: Settings) -> tuple[type[OpenAudit], RuleSet, PiiFinder, AuditKeys]:
    """What the ledger is opened with, keys last since somebody has to close them. Imports a good deal: not for the event loop."""
    from tallyroll.audit.opening import OpenAudit  # noqa: PLC0415  # who has no audit does without

    return OpenAudit, compliance_rules_of(settings), open_pii_finder(), open_audit_keys(settings)
