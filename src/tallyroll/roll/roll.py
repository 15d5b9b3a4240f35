"""The composition root: opens what the settings name, joins features and adapters, closes everything on one exit stack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final, cast

from tallyroll.adapters.system.clock import SystemClock
from tallyroll.analytics.query import AnalyticsEngine
from tallyroll.analytics.spec import MetricSpec
from tallyroll.bridges.agents import EventSourcedAgentManager
from tallyroll.bridges.inward import Inward, check_no_loop
from tallyroll.bridges.outbox import ListTasks
from tallyroll.errors import RollClosed, SpanGone
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.follow.deadletter import Letter, read_letters
from tallyroll.follow.loop import FollowLoop
from tallyroll.follow.tail import Seen, SeenRecord, tail, timeline
from tallyroll.opening import (
    archive_folder,
    metrics_of,
    open_log,
    open_message_source,
    open_outbox,
    open_tracing,
    spool_of,
)
from tallyroll.ports import (
    Clock,
    EventLog,
    Outbox,
    Outcome,
    PartitionWrite,
    Progress,
    TopicAdmin,
    Tracing,
)
from tallyroll.publish.processors import Processor
from tallyroll.publish.publisher import EventPublisher
from tallyroll.publish.receipt import Receipt
from tallyroll.publish.versions import Versions
from tallyroll.replay.chain import ChainReport, verify_chain
from tallyroll.replay.differences import Difference, compare_states
from tallyroll.replay.engine import ReplayEngine
from tallyroll.replay.fold import View
from tallyroll.replay.plan import ReplayMode, as_of_event_time, as_of_offsets
from tallyroll.replay.policy import Policy
from tallyroll.replay.replayed import Replayed
from tallyroll.replay.replayer import Ask
from tallyroll.replay.restore import Fingerprint, Restored, fingerprint, restore
from tallyroll.replay.shown import AgentState, TaskState, WorkflowState
from tallyroll.replay.state import StoredState, stored_owners, stored_positions, stored_state
from tallyroll.replay.views import AGENT, TASK, WORKFLOW
from tallyroll.roll.following import Following, Lag
from tallyroll.roll.names import ARCHIVE_FOLLOWER, STATE_FOLLOWER
from tallyroll.roll.parts import Parts
from tallyroll.roll.recounting import metrics_fingerprint, recounted, recounted_fingerprint, restore_metrics
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters, Telemetry

if TYPE_CHECKING:
    from tallyroll.analytics.alerts.lifecycle import Silence
    from tallyroll.analytics.fingerprint import PanesFingerprint
    from tallyroll.archive.opening import OpenArchive
    from tallyroll.archive.report import ArchiveReport
    from tallyroll.audit.opening import OpenAudit
    from tallyroll.audit.trail import AuditTrail

_NO_FOLD: Final = ""  # no fold has this id: the store removes what another fold had stored


@dataclass(frozen=True, slots=True)
class LiveComparison:
    """A stored state (None: there is none) beside the replayed one, and where they differ."""

    replayed: Replayed
    stored: StoredState | None
    differences: Sequence[Difference]


class Roll:
    """Everything that one process does with one log: publishing, following, replaying, and looking.

    ::

        async with Roll.open("sqlite:///./tallyroll-data") as roll:
            receipt = await roll.publish(event)
            await roll.caught_up(receipt.position)
            state = await roll.agent_state("agent-1")

    Nothing is followed until a state is asked for (or ``run`` is called): a process that only publishes joins no group.
    Used from one event loop. What is handed in stays open; what was opened here is closed at the end of the block, and every call
    then raises RollClosed.
    Not promised: state on more than one host; the built-in store is a file on this one.
    """

    def __init__(  # noqa: PLR0913  # made by open() only
        self,
        settings: Settings,
        catalogue: Catalogue,
        log: EventLog,
        *,
        clock: Clock,
        telemetry: Telemetry,
        publisher: EventPublisher,
        metrics: Sequence[MetricSpec],
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.log = log
        self.clock = clock
        self.telemetry = telemetry
        self.publisher = publisher
        self._own_parts = Parts(
            settings, catalogue, log,
            clock=clock, telemetry=telemetry, publisher=publisher, metrics=metrics, tracing=tracing,
            follow=self.follow, catch_up=self._catch_up,
        )  # fmt: skip
        self._following = Following(self._own_parts)
        self._held: Sequence[object] = ()
        self._closed = Event()
        self._versions = Versions(log, catalogue, publisher, wait_for_ack=settings.wait_for_ack)

    @staticmethod
    def open(  # noqa: PLR0913  # what a program may bring of its own
        target: str | Settings | None = None,
        *,
        clock: Clock | None = None,
        telemetry: Telemetry | None = None,
        processors: Sequence[Processor] = (),
        metrics: Sequence[MetricSpec] = (),
        tracing: Tracing | None = None,
    ) -> AbstractAsyncContextManager[Roll]:
        """The roll for a log URL, for settings, or (with nothing) for what the environment says.

        ``metrics`` are counted beside the built-in ones; every process that follows or asks should name the same.
        Without ``tracing`` spans go where the settings say.
        Closing flushes the publisher within its grace and stops the followers at a flushed position. Raises SettingsError,
        MissingExtra, TopicConflict, StoreUnavailable while the spool cannot be opened, as on a full disk, and TypeError for metrics
        that are none; an absent broker raises nothing, the publisher spools until it is there.
        """
        held: list[object] = []
        opening = Roll._open(target, clock, telemetry, processors, metrics, tracing, held)
        held.append(opening)
        return opening

    @staticmethod
    @asynccontextmanager
    async def _open(  # noqa: PLR0913  # as open
        target: str | Settings | None,
        clock: Clock | None,
        telemetry: Telemetry | None,
        processors: Sequence[Processor],
        metrics: Sequence[MetricSpec],
        tracing: Tracing | None,
        held: Sequence[object],
    ) -> AsyncIterator[Roll]:
        settings = target if isinstance(target, Settings) else Settings.from_env(**_url(target))
        clock, telemetry = clock or SystemClock(), telemetry or Counters()
        catalogue, measured = catalogue_of(settings), metrics_of(settings, metrics)
        closed = Event()
        async with AsyncExitStack() as stack:
            stack.callback(closed.set)  # last of all: what ends now may still ask
            if tracing is None and (tracing := open_tracing(settings, clock)) is not None:
                stack.push_async_callback(tracing.close)  # after everything that makes spans
            log = await open_log(settings, catalogue, clock, telemetry)
            stack.push_async_callback(log.close)
            publisher = EventPublisher(
                log,
                catalogue,
                settings,
                clock=clock,
                telemetry=telemetry,
                open_spool=spool_of(settings, log),
                processors=processors,
                tracing=tracing,
            )
            stack.push_async_callback(publisher.close)
            roll = Roll(settings, catalogue, log, clock=clock, telemetry=telemetry, publisher=publisher, metrics=measured, tracing=tracing)
            roll._closed = closed  # own class
            stack.push_async_callback(roll._parts.stack.aclose)
            roll._held = held  # who has entered this by hand, as in a notebook, may keep only the roll; it must not close then
            yield roll

    @property
    def _parts(self) -> Parts:
        self._check_open()
        return self._own_parts

    def _check_open(self) -> None:
        """Raises RollClosed: a closed roll would open things anew that nobody closes."""
        if self._closed.is_set():
            raise RollClosed

    # Into the log

    async def publish(self, event: AgentEvent, *, expected_version: int | None = None) -> Receipt:
        """As ``EventPublisher.publish``; with ``expected_version`` as ``Versions.publish``: VersionConflict unless it is the next one."""
        self._check_open()
        if expected_version is None:
            return await self.publisher.publish(event)
        return await self._versions.publish(event, expected_version)

    async def version(self, aggregate_type: str, aggregate_id: str, *, topic: str | None = None) -> int:
        """At which version an aggregate is now: how many of its events that expected a version count; 0 before the first.

        Each topic counts for itself; without ``topic`` (a base name) it is that of the aggregate type's own events.
        """
        self._check_open()
        return await self._versions.current(aggregate_type, aggregate_id, topic=topic)

    async def publish_batch(self, events: Iterable[AgentEvent]) -> list[Outcome]:
        """As ``EventPublisher.publish_batch``."""
        self._check_open()
        return await self.publisher.publish_batch(events)

    async def agents(
        self,
        manager: Any = None,  # noqa: ANN401  # a user's object
        *,
        outbox: Outbox | None = None,
        list_tasks: ListTasks | None = None,
    ) -> EventSourcedAgentManager:
        """Events around an existing manager: see ``EventSourcedAgentManager``. What crashes have left is looked for from now on.

        Without ``outbox``, which stays open, it is in Redis where ``REDIS_HOST`` is set, else in a file beside the log.
        Raises MissingExtra, StoreUnavailable.
        """
        if outbox is None and manager is not None:
            outbox = await open_outbox(self.settings)
            self._parts.stack.push_async_callback(outbox.close)
        agents = EventSourcedAgentManager(
            self.publisher,
            manager=manager,
            replay=await self.replay_engine(),
            outbox=outbox,
            list_tasks=list_tasks,
            telemetry=self.telemetry,
        )
        self._parts.stack.push_async_callback(agents.close)
        agents.start()
        return agents

    # Following

    async def follow(self, name: str = STATE_FOLLOWER) -> FollowLoop:
        """The loop of one follower in this process, started: ``state`` keeps the state store, ``archive`` the archive.

        ``analytics`` keeps the panes that metrics are read from, ``redis`` the states in Redis,
        ``nats`` forwards events, ``audit`` seals the ledger.
        It runs until the roll is closed. Raises ValueError for another name.
        """
        self._check_open()
        return await self._following.follow(name)

    async def forward(self, event_types: Collection[str] | None = None, subject: str | None = None) -> None:
        """Forwards events to NATS until cancelled: of these types and to this subject, else as the settings say.

        Raises what ends it otherwise; ValueError when this roll forwards already.
        """
        self._check_open()
        await (await self._following.forward(event_types, subject)).finished()

    async def take_in(self, subject: str) -> None:
        """Takes events that others publish on a NATS subject, kept by a stream, into the log, until cancelled.

        Raises SettingsError when what is forwarded could come back this way; see ``bridges.inward`` for what is dropped.
        """
        self._check_open()
        check_no_loop(subject, self.settings.nats_subject)
        source = open_message_source(self.settings, subject)
        try:
            await Inward(source, self.publish_batch, clock=self.clock, telemetry=self.telemetry).run()
        finally:
            await source.close()

    async def run(self, *names: str) -> None:
        """Follows until cancelled, the state unless other followers are named; raises what ends one of them otherwise."""
        loops = [await self.follow(name) for name in names or (STATE_FOLLOWER,)]
        await asyncio.gather(*(loop.finished() for loop in loops))

    async def caught_up(self, position: Position | None, timeout_s: float | None = None, *, follower: str = STATE_FOLLOWER) -> bool:
        """Waits until what a follower has stored contains the record at ``position``; false when the time is over first.

        The time is ``read_wait_ms`` unless given. None, the position of an event that is only spooled, is never reached.
        """
        self._check_open()
        if position is None:
            return False
        wait_s = self.settings.read_wait_ms / 1000 if timeout_s is None else timeout_s
        return await self._following.caught_up(position, wait_s, follower=follower)

    async def lag(self, *names: str) -> list[Lag]:
        """Per partition how far followers are behind the log, the state unless others are named; reads, follows nothing."""
        self._check_open()
        return [one for name in names or (STATE_FOLLOWER,) for one in await self._following.lag(name)]

    async def rebuild_state(self, partitions: Collection[TopicPartition], *, allow_truncated: bool = False) -> None:
        """Forgets what is stored of these partitions, so that whoever follows them makes it anew from the log's start.

        For records that were put aside and can be applied now: a fold is only right in the order of the log. Another
        follower of the same store notices at its next flush (PositionConflict) and begins anew as well. Raises SpanGone
        where retention removed the start, since what is stored then knows more than the log; StoreUnavailable.
        """
        self._check_open()
        starts = await self.log.starts(sorted({partition.topic for partition in partitions}))
        gone = {str(partition): starts[partition] for partition in partitions if starts.get(partition, 0) > 0}
        if gone and not allow_truncated:
            raise SpanGone(gone)
        store = await self._parts.state_store()
        stored = await store.load_progress(list(partitions))
        forgotten = [partition for partition in partitions if partition in stored and stored[partition].fold_id != _NO_FOLD]
        await store.commit([PartitionWrite(partition, None, Progress(_NO_FOLD, 0, 0), []) for partition in forgotten])

    # State, live and replayed

    async def state(self, view: View, owner: str, *, follow: bool = True) -> dict[str, Any] | None:
        """One owner's state as stored now; None if no stored event names it. ``as_of`` says up to which offsets.

        Waits first, at most ``read_wait_ms``, until what this process has published is in it. With ``follow`` false it
        only looks into the store, and joins no group.
        """
        if follow:
            await self._catch_up(STATE_FOLLOWER)
        found = await self._stored(view, owner)
        return None if found is None else found.shown()

    async def _stored(self, view: View, owner: str) -> StoredState | None:
        topics = {self.catalogue[base].name for base in view.topics}
        return await stored_state(await self._parts.state_store(), view, owner, topics=topics)

    async def agent_state(self, agent_id: str) -> AgentState | None:
        """As ``state``, of an agent."""
        return cast("AgentState | None", await self.state(AGENT, agent_id))

    async def task_state(self, task_id: str) -> TaskState | None:
        """As ``state``, of a task."""
        return cast("TaskState | None", await self.state(TASK, task_id))

    async def workflow_state(self, workflow_id: str) -> WorkflowState | None:
        """As ``state``, of a workflow."""
        return cast("WorkflowState | None", await self.state(WORKFLOW, workflow_id))

    async def owners(self, view: View, *, after: str = "", limit: int = 100, follow: bool = True) -> Sequence[str]:
        """A page of the ids that have a stored state, ascending; the next page starts ``after`` the last one.

        ``follow`` as in ``state``.
        """
        if follow:
            await self._catch_up(STATE_FOLLOWER)
        return await stored_owners(await self._parts.state_store(), view, after=after, limit=limit)

    async def replay(
        self,
        view: View,
        owner: str | None = None,
        until: datetime | None = None,
        *,
        as_of_offsets: Mapping[TopicPartition, int] | None = None,
        allow_truncated: bool = False,
    ) -> Replayed:
        """One owner's state, or everybody's, made from the history alone, at any moment (event time, inclusive) or offset vector.

        What the archive has is read from there, from the newest valid snapshots on where it is one owner's or a moment's; see
        ``replay_engine`` for everything else that can be asked. Publishes nothing, commits nothing, joins no group. Raises
        SpanGone where a part of the history is gone, unless ``allow_truncated``; ValueError for a naive ``until``.
        """
        return await (await self.replay_engine()).replay(_ask(view, owner, until, as_of_offsets, allow_truncated=allow_truncated))

    async def replayed_state(self, view: View, owner: str, until: datetime | None = None) -> dict[str, Any] | None:
        """The state that ``replay`` gives, for callers; None if no event named the owner by then."""
        return (await self.replay(view, owner, until)).shown(owner)

    async def replay_engine(self) -> ReplayEngine:
        """The engine behind every replay of this roll; the same object each time. Reads the archive where there is one."""
        return await self._parts.replay_engine()

    async def compare_live(self, view: View, owner: str, *, allow_truncated: bool = False) -> LiveComparison:
        """The stored state beside the replayed one, both as of the offsets that the store has applied.

        Raises NoHistory where neither log nor archive names the owner. A state that is not stored differs in everything.
        """
        engine, stored = await self.replay_engine(), await self._stored(view, owner)
        target = as_of_offsets(stored.as_of) if stored is not None else None
        ask = Ask(view, owner, ReplayMode.FULL, target, allow_truncated=allow_truncated, policy=Policy().but(unknown_schema="warn"))
        found = await engine.require_state(ask)
        return LiveComparison(found, stored, compare_states(found.states[owner], {} if stored is None else stored.state))

    # Analytics

    async def analytics(self, *, follow: bool = True) -> AnalyticsEngine:
        """What answers questions about agents, tools and the fleet; see ``analytics.query``. The same object each time.

        A query waits first, at most ``read_wait_ms``, until what this process has published is counted. With ``follow``
        false the engine, another one, only looks into the store, and joins no group. Raises MissingExtra, StoreUnavailable.
        """
        opened = await self._parts.analytics()
        return opened.engine if follow else opened.onlooker

    def recounted(self, since: datetime | None = None) -> AbstractAsyncContextManager[AnalyticsEngine]:
        """Metrics of the log since a moment (by record time), counted anew and by themselves: for trying things on the past.

        Touches nothing that is stored. Raises MissingExtra, SpanGone, LogUnavailable.
        """
        return recounted(self._parts, since)

    async def open_alerts(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Alerts that are pending or firing, the most severe first, and the silences in force, as stored."""
        return await (await self._parts.analytics()).open_alerts()

    async def silence(self, silence: Silence) -> None:
        """Keeps alerts quiet as it says; durable when it returns, heeded by every process within seconds."""
        await (await self._parts.analytics()).silence(silence)

    async def end_silence(self, silence_id: str) -> None:
        """Takes a silence back; one that is not there is none."""
        await (await self._parts.analytics()).end_silence(silence_id)

    # Audit

    @cached_property
    def audit(self) -> AuditTrail:
        """What records into the audit ledger, and answers from it; opens what it needs at its first call."""
        from tallyroll.audit.trail import AuditTrail  # noqa: PLC0415  # who has no audit does without

        return AuditTrail(self._opened_audit, self._parts.violations)

    async def _opened_audit(self) -> OpenAudit:
        return await self._parts.audit()

    # The archive

    def archive(self) -> OpenArchive:
        """The archive, opened; nothing is made before something is archived. Its methods block: use worker threads.

        Raises MissingExtra; SettingsError for a log in memory.
        """
        return self._parts.archive()

    async def archive_partitions(self) -> list[TopicPartition]:
        """Every partition that can be archived: those of users' topics."""
        return self._parts.user_partitions

    async def archived_partitions(self) -> list[TopicPartition]:
        """Those that have sealed files."""
        archive = await self._parts.opened_archive()
        return [one for one in await self.archive_partitions() if await asyncio.to_thread(archive.has_files, one)]

    async def archive_report(self) -> list[ArchiveReport]:
        """How the archive of each partition stands beside the log."""
        archive = await self._parts.opened_archive()
        from tallyroll.archive.report import report  # noqa: PLC0415  # needs the extra, which is there now

        return await report(archive.keeper, self.log, self.catalogue, self.clock)

    async def archive_files(self) -> list[tuple[str, int, Path]]:
        """Every sealed file that the manifests name: topic, partition, path."""
        reader, folder = (await self._parts.opened_archive()).reader, archive_folder(self.settings)
        files = []
        for partition in await self.archive_partitions():
            place = folder / partition.topic / str(partition.partition) / "segments"
            files += [(*partition, place / one.name) for one in await asyncio.to_thread(reader.segments, partition)]
        return files

    async def rebuild_lost_indexes(self) -> int:
        """Makes the index of each partition that has sealed files and no index; how many that were."""
        if not self._parts.is_archived:
            return 0
        archive, archived = await self._parts.opened_archive(), await self.archived_partitions()
        lost = set(archived) - set(await asyncio.to_thread(archive.reader.marks, archived))
        for partition in sorted(lost):
            await asyncio.to_thread(archive.keeper.rebuild, partition)
        return len(lost)

    async def stored_heads(self) -> dict[str, Mapping[TopicPartition, int]]:
        """Per follower how far its results go, the archive among them."""
        heads: dict[str, Mapping[TopicPartition, int]] = {STATE_FOLLOWER: await stored_positions(await self._parts.state_store())}
        replayer = (await self.replay_engine()).replayer
        if replayer.archive is not None:
            marks = await asyncio.to_thread(replayer.archive.marks, await self.archive_partitions())
            heads[ARCHIVE_FOLLOWER] = {partition: mark.next for partition, mark in marks.items()}
        return heads

    async def restore(self, *, allow_truncated: bool = False) -> AsyncGenerator[tuple[int, int], None]:
        """Fills the empty state store from archive and log; gives how many of how many offsets are done.

        Raises PositionConflict if the store is not empty, SpanGone where a part of the history is gone.
        """
        engine = await self.replay_engine()
        async for done in restore(engine.replayer, await self._parts.state_store(), Restored(), allow_truncated=allow_truncated):
            yield done

    async def state_fingerprint(self) -> Fingerprint:
        """What the state store holds: per view how many owners and one hash, as of which offsets."""
        return await fingerprint((await self.replay_engine()).replayer, await self._parts.state_store())

    def restore_metrics(self, *, allow_truncated: bool = False) -> AsyncGenerator[tuple[int, int], None]:
        """Counts archive and log into the empty store of analytics, without alarms; gives how many of how many offsets are done.

        What the archive has pruned is not counted. Raises PositionConflict if the store is not empty, MissingExtra, SpanGone.
        """
        return restore_metrics(self._parts, allow_truncated=allow_truncated)

    async def metrics_fingerprint(self) -> PanesFingerprint | None:
        """What the store of analytics holds by the metrics of now, as one hash of which offsets; None if it has nothing of these."""
        return await metrics_fingerprint(self._parts)

    async def recounted_fingerprint(self, like: PanesFingerprint, tell: Callable[[int, int], None]) -> PanesFingerprint | None:
        """What counting the same offsets anew, in a store of its own, comes to; None if ``like`` is of other metrics than now.

        ``tell`` is called with how many of how many offsets are done. Raises MissingExtra, SpanGone, NoSuchOffset.
        """
        return await recounted_fingerprint(self._parts, like, tell)

    # Looking

    def tail(
        self, *, since: datetime | None = None, last: int | None = None, follow: bool = False, at_end: Callable[[], None] | None = None
    ) -> AsyncIterator[SeenRecord]:
        """Records of all user topics as they come; see ``follow.tail.tail``."""
        return tail(self.log, self._parts.user_topics, clock=self.clock, since=since, last=last, follow=follow, at_end=at_end)

    async def agent_timeline(self, agent_id: str) -> list[Seen[AgentEvent]]:
        """Every event that is this agent's deed, in order of event time."""
        return await timeline(self.log, self._parts.user_topics, lambda event: event.agent_id == agent_id)

    async def verify_chain(self) -> ChainReport:
        """Checks the publisher chain over all user topics."""
        return await verify_chain(self.log, self._parts.user_topics)

    def dead_letters(self, follower: str | None = None) -> AsyncIterator[Letter]:
        """The dead letters still kept, of one follower or of all."""
        self._check_open()
        return read_letters(self.log, self.catalogue, follower=follower)

    def topic_admin(self) -> TopicAdmin:
        """For creating and altering topics; Kafka only. Raises SettingsError on the embedded log, which makes its own."""
        self._check_open()
        from tallyroll.adapters.kafka.admin import KafkaAdmin  # noqa: PLC0415  # needs the extra

        return KafkaAdmin(self.settings)

    async def _catch_up(self, follower: str) -> None:
        self._check_open()
        await self._following.catch_up(follower)


def _ask(view: View, owner: str | None, until: datetime | None, ends: Mapping[TopicPartition, int] | None, *, allow_truncated: bool) -> Ask:
    """What is quickest of what gives the same answer."""
    if until is not None and ends is not None:
        raise ValueError("either until or as_of_offsets")
    if until is not None:
        return Ask(view, owner, ReplayMode.POINT_IN_TIME, as_of_event_time(until), allow_truncated=allow_truncated)
    if ends is not None:
        return Ask(view, owner, ReplayMode.POINT_IN_TIME, as_of_offsets(ends), allow_truncated=allow_truncated)
    return Ask(view, owner, ReplayMode.FULL if owner is None else ReplayMode.INCREMENTAL, allow_truncated=allow_truncated)


def _url(target: str | None) -> dict[str, Any]:
    return {} if target is None else {"url": target}
