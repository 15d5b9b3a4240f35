"""One answer from the history: asks how much there is, plans, reads, here or in several processes, and joins.

Handed the reading halves of log and archive, and nothing else: it publishes nothing, commits nothing, joins no group.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from tallyroll.errors import ReplayCancelled, SettingsError, SnapshotMismatch, WorkerFailed
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Archive, ArchiveMark, Clock, EventLog, SegmentFiles, Workers
from tallyroll.replay.applied import Cut
from tallyroll.replay.fields import Place
from tallyroll.replay.findings import Finding
from tallyroll.replay.fold import Fold, Part, State, View, join
from tallyroll.replay.jobs import (
    Ended,
    Failed,
    Message,
    Parts,
    States,
    Told,
    carry_out,
    decode_message,
    side_by_side,
    split,
    to_job,
    to_project_job,
)
from tallyroll.replay.kept import Kept, KeptStates, kept_key
from tallyroll.replay.kinds import StateType
from tallyroll.replay.owners import owners_rows
from tallyroll.replay.partition import no_collecting
from tallyroll.replay.plan import AsOfEventTime, AsOfOffsets, Coverage, Extent, Plan, ReplayFilter, ReplayMode, Target, plan
from tallyroll.replay.policy import Policy, Validation
from tallyroll.replay.projecting import ProjectedAll, Projecting
from tallyroll.replay.projector import Projected, StateProjector, Verdict
from tallyroll.replay.reading import Reading, Tally, Task
from tallyroll.replay.replayed import Replayed
from tallyroll.replay.views import FOLD

Source = Literal["both", "archive", "log"]
"""Where to read: the archive and what the log has behind it; the archive alone, as of what it has; or the log alone."""

OnProgress = Callable[[int, int], None]
"""Told in the event loop how many of how many offsets are dealt with."""

_MAX_WORKERS: Final = 64  # far above what one machine's disk serves


@dataclass(frozen=True, slots=True)
class Ask:
    """What a replay is asked for. The defaults give every owner's state now, from the whole history, in this process.

    ``workers`` above 1 spreads the partitions over so many processes, this one among them; None is 1, or one per core where
    the mode is PARALLEL. ``columnar`` folds archived segments as columns, which needs the archive extra and gives the same states.
    ``allow_truncated`` answers also where a part of the history is gone. ``imports``: modules that every process imports.
    """

    view: View
    owner: str | None = None
    mode: ReplayMode = ReplayMode.FULL
    target: Target | None = None
    only: ReplayFilter | None = None
    workers: int | None = None
    columnar: bool = False
    validate: Validation = "sequence"
    policy: Policy = field(default_factory=Policy)
    allow_truncated: bool = False
    source: Source = "both"
    imports: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.mode is ReplayMode.POINT_IN_TIME and self.target is None:
            raise ValueError("POINT_IN_TIME needs a target: as_of_offsets or as_of_event_time")
        if self.mode is ReplayMode.SELECTIVE and self.only is None:
            raise ValueError("SELECTIVE needs a filter")
        if self.only is not None and self.mode is not ReplayMode.SELECTIVE:
            raise ValueError(f"a filter makes a SELECTIVE replay; the mode is {self.mode.name}")
        if self.workers is not None and not 1 <= self.workers <= _MAX_WORKERS:
            raise ValueError(f"workers: expected 1 to {_MAX_WORKERS}")

    @property
    def processes(self) -> int:
        """In how many processes the history is read."""
        if self.workers is None:
            return min(os.cpu_count() or 1, _MAX_WORKERS) if self.mode is ReplayMode.PARALLEL else 1
        return self.workers

    @property
    def task(self) -> Task:
        """What each process does."""
        cut = Cut(self.target.until_us, self.target.skew_us) if isinstance(self.target, AsOfEventTime) else None
        snapshots = self.mode in (ReplayMode.INCREMENTAL, ReplayMode.POINT_IN_TIME) and self.validate != "chain"
        return Task(self.view, self.owner, cut, self.only, snapshots, self.columnar, self.validate, self.policy)


class Stop:
    """Asks a replay to stop, from the event loop it runs in."""

    def __init__(self) -> None:
        self.asked = False


class Replayer:
    """Answers asks from one log and, where there is one, its archive.

    Not promised: that a log which goes on meanwhile is in the answer; the ends are fixed before anything is read.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        log: EventLog,
        catalogue: Catalogue,
        *,
        clock: Clock,
        archive: Archive | None = None,
        workers: Workers | None = None,
        kept: SegmentFiles | None = None,
        fold: Fold = FOLD,
    ) -> None:
        self.log = log
        self.catalogue = catalogue
        self.archive = archive
        self.fold = fold
        self._workers = workers
        self._kept = kept
        self._clock = clock

    async def replay(self, ask: Ask, *, on_progress: OnProgress | None = None, stop: Stop | None = None) -> Replayed:
        """The answer.

        Raises SpanGone where a part of the history is gone, unless ``allow_truncated``; what the policy says for findings;
        ReducerFailed, WorkerFailed, ReplayCancelled; LogUnavailable, StoreUnavailable, SegmentDamaged; ValueError for what
        cannot be asked of this view.
        """
        began = self._clock.monotonic()
        task, planned = ask.task, await self.plan(ask)
        made = _Made()
        # An archive is read in seconds. Switched on between, the collector would look through all the parts, two or three times.
        with nullcontext() if any(one.log[0] < one.log[1] for one in planned.partitions) else no_collecting():
            await self._run(ask, task, planned, made, on_progress, stop)
            states = await asyncio.to_thread(joined, ask.view, made.parts)
            made.parts.clear()
        return Replayed(
            ask.view,
            states,
            mode=ask.mode,
            as_of=planned.as_of,
            until=ask.target.moment if isinstance(ask.target, AsOfEventTime) else None,
            coverage=planned.coverage,
            missing=planned.missing,
            final=_is_final(ask, task, made),
            tally=made.tally,
            findings=tuple(made.findings),
            finding_counts=made.counts,
            reducer_id=self.fold.reducer_ids[ask.view.name],
            workers=ask.processes,
            partial_state=ask.only is not None and ask.only.narrows,
            duration_s=self._clock.monotonic() - began,
            at_offsets=isinstance(ask.target, AsOfOffsets),
            processes=tuple(sorted(made.processes)),
        )

    async def _run(  # noqa: PLR0913  # as replay, and what it has made of that
        self, ask: Ask, task: Task, planned: Plan, made: _Made, on_progress: OnProgress | None, stop: Stop | None
    ) -> None:
        own, *others = split(planned, ask.processes, columnar=task.columnar)
        jobs = [to_job(task, one, self.fold.reducer_ids[ask.view.name], ask.imports) for one in others]
        runs = [self._here(task, own, made), *([self._elsewhere(ask, jobs, made)] if jobs else [])]
        async with aclosing(side_by_side(runs)) as progress:
            async for done in progress:
                if on_progress is not None:
                    on_progress(done, planned.records)
                if stop is not None and stop.asked:
                    raise ReplayCancelled("", 100 * done / max(1, planned.records))

    async def project(
        self,
        projector: StateProjector,
        ask: Ask,
        *,
        whole: bool = True,
        on_progress: OnProgress | None = None,
        stop: Stop | None = None,
    ) -> ProjectedAll:
        """What a user's reducers make of everybody's history.

        Of the ask, view, target, workers, source, imports, ``allow_truncated`` and the policy for damaged snapshots count;
        INCREMENTAL begins with what the last such run kept, and keeps its own. The owners, and the topics that are read, are
        those of the ask's view. ``whole`` false: handlers read type, time, aggregate and payload only, not ids and metadata;
        that is quicker. Raises ReducerFailed, and as ``replay``; SnapshotMismatch where the policy says so.
        """
        if ask.only is not None or ask.owner is not None:
            raise ValueError("a projector is run over everybody's whole history; filter in its handlers")
        kind, count = StateType(f"{ask.view.name}_state"), ask.processes
        if ask.mode is ReplayMode.INCREMENTAL and count > 1:
            raise ValueError("workers: a projector goes on from its last run in one process; full replays take several, and keep nothing")
        extents = await self._extents_of(ask)
        everything = plan(extents, ends=_ends_of(ask))
        kept = self._kept_states(projector, kind, ask)
        base = await _newest(kept, everything, ask.policy) if kept is not None else None
        planned = everything if base is None else base.rest(everything)
        if planned.missing and not ask.allow_truncated:
            raise planned.gone(extents)
        until_us, keeping = ask.target.until_us if isinstance(ask.target, AsOfEventTime) else None, kept is not None and not planned.missing
        shares = [
            Projecting(projector, kind, ask.view, planned, until_us, (number, count), whole, base, keeping) for number in range(count)
        ]
        made = ProjectedAll(kind, {}, 0, planned.as_of, count, planned.coverage, planned.missing)
        jobs = [to_project_job(one, ask.imports) for one in shares[1:]]
        runs = [shares[0].run(self.log, self.archive), *([self._projected(jobs, made)] if jobs else [])]
        async with aclosing(side_by_side(runs)) as progress:
            async for done in progress:
                if on_progress is not None:
                    on_progress(done // count, planned.records)
                if stop is not None and stop.asked:
                    raise ReplayCancelled("", 100 * done / max(1, planned.records * count))
        made = replace(made, **await self._gone_on(ask, shares[0], base, everything, extents))
        made.states.update(shares[0].states)
        if kept is not None:
            is_whole = keeping and made.coverage != "truncated"
            made = replace(made, damaged=tuple(kept.damaged), kept=is_whole and await asyncio.to_thread(kept.keep, shares[0].kept()))
        events = sum(one.version for one in made.states.values())
        return replace(made, states=dict(sorted(made.states.items())), events=events, folded=shares[0].events if count == 1 else events)

    def _kept_states(self, projector: StateProjector, kind: StateType, ask: Ask) -> KeptStates | None:
        """Where the states of an incremental run are kept; None where they are not."""
        if self._kept is None or ask.mode is not ReplayMode.INCREMENTAL or isinstance(ask.target, AsOfEventTime):
            return None
        reducer_id = projector.reducer_id(kind)
        return None if reducer_id is None else KeptStates(self._kept, kept_key(reducer_id, ask.view))

    async def _gone_on(
        self, ask: Ask, one: Projecting, base: Kept | None, everything: Plan, extents: Mapping[TopicPartition, Extent]
    ) -> dict[str, Any]:
        """Folds those anew of whom something came late; what the answer says of that."""
        if base is None:
            return {}
        if one.late:
            if everything.missing and not ask.allow_truncated:
                raise everything.gone(extents)
            found = await owners_rows(self.log, self.archive, everything, ask.view, one.late, whole=one.whole)
            await asyncio.to_thread(one.refold, found)
        coverage: Coverage = "from_snapshot" if everything.missing and one.plan.coverage == "complete" else one.plan.coverage
        if one.late and everything.missing:
            return {"snapshot": str(len(base.owners)), "late": len(one.late), "coverage": "truncated", "missing": everything.missing}
        return {"snapshot": str(len(base.owners)), "late": len(one.late), "coverage": coverage}

    async def _projected(self, jobs: Sequence[bytes], made: ProjectedAll) -> AsyncGenerator[int, None]:
        def take(said: Message) -> None:
            if isinstance(said, States):
                for owner, state, version, problems in said.states:
                    made.states[owner] = Projected(made.state_type, owner, state, version, Verdict(tuple(problems)))

        async with aclosing(self._told(jobs, take)) as progress:
            async for done in progress:
                yield done

    async def plan(self, ask: Ask) -> Plan:
        """What the answer would read. Raises SpanGone, unless ``allow_truncated``."""
        extents, ends = await self._extents_of(ask), _ends_of(ask)
        reducers = [self.fold.reducer_ids[ask.view.name]] if ask.task.from_snapshots else []
        found = plan(extents, ends=ends, reducers=reducers, until_us=ask.task.cut.until_us if ask.task.cut is not None else None)
        if found.missing and not ask.allow_truncated:
            raise found.gone(extents)
        return found

    async def _extents_of(self, ask: Ask) -> dict[TopicPartition, Extent]:
        return await self.extents(sorted(self.catalogue[base].name for base in ask.view.topics), ask.source, _ends_of(ask))

    async def extents(
        self, topics: Sequence[str], source: Source = "both", ends: Mapping[TopicPartition, int] | None = None
    ) -> dict[TopicPartition, Extent]:
        """What there is of each partition. The log is not asked where the archive has everything as far as ``ends``."""
        partitions = [
            TopicPartition(topic.name, number)
            for topic in self.catalogue.topics
            if topic.name in topics
            for number in range(topic.partitions)
        ]
        if source == "archive" and self.archive is None:
            raise SettingsError("archive", "there is none here; make one with: tallyroll archive seal")
        marks: Mapping[TopicPartition, ArchiveMark] = {}
        if self.archive is not None and source != "log":
            marks = await asyncio.to_thread(self.archive.marks, partitions)
        if source == "archive" or (
            ends is not None and all(one in marks and end <= marks[one].next and not marks[one].kept for one, end in ends.items())
        ):
            return {one: Extent(marks[one], marks[one].next, marks[one].next) for one in partitions if one in marks}
        # Ends first: a writer that goes on must not make the replay endless. A log may be cut at its start meanwhile.
        log_ends = await self.log.ends(topics)
        starts = await self.log.starts(topics)
        return {one: Extent(marks.get(one), min(starts.get(one, 0), end), end) for one, end in log_ends.items()}

    async def _here(self, task: Task, planned: Plan, made: _Made) -> AsyncGenerator[int, None]:
        reading = Reading(self.fold, self.catalogue, task, planned)
        async with aclosing(carry_out(reading, planned, self.log, self.archive)) as progress:
            async for done in progress:
                yield done
        with no_collecting():
            made.parts += reading.parts()
        made.processes.add(os.getpid())
        made.add(reading.tally, reading.passed_us, reading.findings.counts, reading.findings.listed)

    async def _elsewhere(self, ask: Ask, jobs: Sequence[bytes], made: _Made) -> AsyncGenerator[int, None]:
        number = self.fold.index(ask.view.name)

        def take(said: Message) -> None:
            if isinstance(said, Parts):
                for topic, partition, owner, dumped in said.parts:
                    part = Part(number, owner, [])
                    self.fold.load(part, dumped)
                    made.parts.append((TopicPartition(topic, partition), owner, part))
            elif isinstance(said, Ended):
                made.processes.add(said.pid)
                made.add(said.tally, said.passed_us, said.counts, said.findings())

        async with aclosing(self._told(jobs, take)) as progress:
            async for done in progress:
                yield done

    async def _told(self, jobs: Sequence[bytes], take: Callable[[Message], None]) -> AsyncGenerator[int, None]:
        """Has the jobs done and hands on what is said; gives how many offsets are dealt with. No answer is made of a part."""
        if self._workers is None:
            raise SettingsError("workers", "a log in memory stays with the process that opened it; use one process")
        done, left = [0] * len(jobs), set(range(len(jobs)))
        async with aclosing(self._workers.run(jobs)) as messages:
            async for worker, message in messages:
                said = decode_message(message)
                if isinstance(said, Failed):
                    raise said.exception(worker)
                take(said)
                if isinstance(said, Ended):
                    left.discard(worker)
                elif isinstance(said, Told):
                    done[worker] = said.done
                    yield sum(done)
        if left:
            raise WorkerFailed(min(left), "said nothing")


@dataclass(slots=True)
class _Made:
    """What the processes of a replay have made so far."""

    parts: list[tuple[TopicPartition, str, Part]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    passed_us: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    processes: set[int] = field(default_factory=set)

    def add(self, tally: Tally, passed_us: int, counts: Mapping[str, int], findings: Collection[Finding]) -> None:
        self.tally.add(tally)
        self.passed_us = max(self.passed_us, passed_us)
        for kind, count in counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
        self.findings += findings


def joined(view: View, parts: Iterable[tuple[TopicPartition, str, Part]]) -> dict[str, State]:
    """The states of every owner, by owner, of parts in different places."""
    by_owner: dict[str, list[tuple[Place, Part]]] = {}
    places: dict[TopicPartition, Place] = {}
    with no_collecting():
        for partition, owner, part in parts:
            place = places.get(partition) or places.setdefault(partition, Place(*partition))
            by_owner.setdefault(owner, []).append((place, part))
        states = {owner: join(view, own) for owner, own in sorted(by_owner.items())}
    return {owner: state for owner, state in states.items() if state is not None}


def _ends_of(ask: Ask) -> Mapping[TopicPartition, int] | None:
    return ask.target.ends if isinstance(ask.target, AsOfOffsets) else None


async def _newest(kept: KeptStates, planned: Plan, policy: Policy) -> Kept | None:
    found = await asyncio.to_thread(kept.newest, planned)
    if kept.damaged and policy.actions["snapshot_corrupt"] == "fail":
        raise SnapshotMismatch(kept.damaged[0], "its bytes are not what was kept")
    return found


def _is_final(ask: Ask, task: Task, made: _Made) -> bool:
    """Whether no event that belongs into the answer can be expected any more."""
    if isinstance(ask.target, AsOfOffsets):
        return True
    return task.cut is not None and made.passed_us > task.cut.until_us + task.cut.skew_us and not made.counts.get("skew_exceeded")
