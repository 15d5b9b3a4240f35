"""The replay engine as users know it: replays with a number, progress and an end; states; comparisons.

Handed the reading halves of the log and of the archive only, so no replay can have an effect: there is nothing here that
publishes, commits or writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypedDict

from tallyroll.errors import NoHistory, ReplayCancelled, TallyrollError
from tallyroll.events.ids import new_id
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Clock
from tallyroll.replay.differences import Difference, compare_states
from tallyroll.replay.fields import Place
from tallyroll.replay.fold import Part, State, View, join, state_hash, states_hash
from tallyroll.replay.history import History, history
from tallyroll.replay.kinds import StateType, view_of
from tallyroll.replay.plan import AsOfEventTime, AsOfOffsets, ReplayFilter, ReplayMode, as_of_event_time, as_of_offsets
from tallyroll.replay.projecting import ProjectedAll
from tallyroll.replay.projector import StateProjector
from tallyroll.replay.reduction import ViewReduction
from tallyroll.replay.replayed import Progress, Replayed
from tallyroll.replay.replayer import Ask, Replayer, Stop
from tallyroll.replay.shown import show
from tallyroll.replay.snapshots import is_sound
from tallyroll.replay.steps import Boundary, Step, step_at_version
from tallyroll.telemetry import RECONSTRUCTED, REPLAY_SECONDS, Counters, Telemetry

log: Final = logging.getLogger("tallyroll.replay")

ReplayCallback = Callable[[Progress], None]
"""Told how far a replay is, in the event loop; never sees an event. What it raises is logged and changes nothing."""

_HOUR_S: Final = 3_600
_MAX_REMEMBERED: Final = 1_000  # replays that have ended; every lookup of a state is one


@dataclass(frozen=True, slots=True)
class AtVersion:
    """An owner's state after so many of its events, and the history that they are the first of."""

    history: History
    step: Step

    def shown(self) -> dict[str, Any]:
        """For callers; ``as_of`` names the last of these events."""
        last, found = self.step.event.position, self.history
        return show(found.view, found.owner, self.step.state, coverage=found.coverage, as_of={last.topic_partition: last.offset + 1})


@dataclass(slots=True)
class _Running:
    stop: Stop
    progress: Progress
    began: float


class ReplayEngine:
    """Replays of one log and its archive. Used from one event loop.

    Not promised: that a replay is remembered after the process, after ``cleanup_old_replays``, or after a thousand others.
    """

    def __init__(self, replayer: Replayer, *, clock: Clock, telemetry: Telemetry | None = None) -> None:
        self.replayer = replayer
        self._telemetry = telemetry or Counters()
        self._clock = clock
        self._callbacks: list[ReplayCallback] = []
        self._replays: dict[str, _Running] = {}

    async def replay(self, ask: Ask, *, replay_id: str | None = None) -> Replayed:
        """The answer to an ask, under a number by which it can be watched and cancelled. Raises as ``Replayer.replay``."""
        replay_id, began = replay_id or new_id(), self._clock.monotonic()
        running = self._replays[replay_id] = _Running(Stop(), Progress(replay_id, ask.view.name, 0, 0, 0.0), began)

        def tell(done: int, total: int) -> None:
            running.progress = Progress(replay_id, ask.view.name, done, total, self._clock.monotonic() - began)
            self._tell(running.progress)

        try:
            found = await self.replayer.replay(ask, on_progress=tell, stop=running.stop)
            self._telemetry.observe(RECONSTRUCTED, _share_folded(found))
        except ReplayCancelled as error:
            raise ReplayCancelled(replay_id, error.percent) from None
        except TallyrollError:
            self._telemetry.observe(RECONSTRUCTED, 0.0)
            raise
        else:
            return found
        finally:
            self._telemetry.observe(REPLAY_SECONDS, self._clock.monotonic() - began)
            running.progress = running.progress._replace(elapsed_s=self._clock.monotonic() - began, finished=True)
            self._tell(running.progress)
            self._forget_oldest()

    async def project(
        self,
        projector: StateProjector,
        state_type: StateType,
        target_time: datetime | None = None,
        *,
        mode: ReplayMode | None = None,
        whole: bool = True,
        **more: Any,  # noqa: ANN401  # members of Ask
    ) -> ProjectedAll:
        """Everybody's states by a user's reducers, each owner's events folded in order-key order.

        ``target_time`` is event time, inclusive; ``more`` are members of ``Ask`` such as ``workers``, for which handlers must
        be importable by name. ``mode`` INCREMENTAL goes on from the last such run of the same reducers, for which the projector
        needs a ``version`` and its functions names; FULL or POINT_IN_TIME unless given. ``whole`` as in ``Replayer.project``.
        Raises ReducerFailed, and as ``replay``.
        """
        target = None if target_time is None else as_of_event_time(target_time)
        if mode is None:
            mode = ReplayMode.FULL if target is None else ReplayMode.POINT_IN_TIME
        if "target" not in more:
            more["target"] = target
        return await self.replayer.project(projector, Ask(view_of(state_type), mode=mode, **more), whole=whole)

    async def replay_events(  # as it is known
        self,
        state_type: StateType,
        replay_mode: ReplayMode = ReplayMode.FULL,
        event_filter: ReplayFilter | None = None,
        target_time: datetime | None = None,
        parallel: bool = False,  # noqa: FBT001, FBT002  # as it is known
        **more: Any,  # noqa: ANN401  # members of Ask
    ) -> ReplayAnswer:
        """Everybody's states, as plain values. ``target_time`` is event time, inclusive; ``more`` are members of ``Ask``.

        A filter makes the replay SELECTIVE and a time POINT_IN_TIME where the mode is FULL. ``parallel``: in as many
        processes as there are cores. Raises as ``Replayer.replay``.
        """
        mode = ReplayMode(replay_mode)
        if mode is ReplayMode.FULL and event_filter is not None:
            mode = ReplayMode.SELECTIVE
        elif mode is ReplayMode.FULL and target_time is not None:
            mode = ReplayMode.POINT_IN_TIME
        target = None if target_time is None else as_of_event_time(target_time)
        ask = Ask(view_of(state_type), mode=mode, target=target, only=event_filter, **more)
        if parallel:
            ask = replace(ask, workers=replace(ask, mode=ReplayMode.PARALLEL, only=None, workers=None).processes)
        replay_id = new_id()
        found = await self.replay(ask, replay_id=replay_id)
        return answer(replay_id, StateType(state_type), found)

    async def get_reconstructed_state(
        self,
        state_type: StateType,
        aggregate_id: str,
        target_time: datetime | None = None,
        *,
        as_of: Mapping[str, int] | Mapping[TopicPartition, int] | None = None,
        version: int | None = None,
    ) -> dict[str, Any] | None:
        """One owner's state, from the newest snapshot and what came after; None if no event named it by then.

        At a moment (event time, inclusive), at the offsets that an earlier answer gives as its ``as_of``, or after the first
        ``version`` of its events; now without any of these. Raises ValueError for two of them, and for a version as
        ``at_version``; otherwise as ``replay``.
        """
        if sum(one is not None for one in (target_time, as_of, version)) > 1:
            raise ValueError("one of target_time, as_of and version says which moment is meant")
        if version is not None:
            try:
                return (await self.at_version(view_of(state_type), aggregate_id, version)).shown()
            except NoHistory:
                return None
        ask = _one(state_type, aggregate_id, target_time)
        if as_of is not None:
            ends = {TopicPartition.parse(where) if isinstance(where, str) else where: end for where, end in as_of.items()}
            ask = replace(ask, mode=ReplayMode.POINT_IN_TIME, target=as_of_offsets(ends))
        return (await self.replay(ask)).shown(aggregate_id)

    async def at_version(self, view: View, owner: str, version: int, *, allow_truncated: bool = False) -> AtVersion:
        """The state after the first ``version`` events of one owner.

        Raises ValueError where its events have no common count, as an agent's, which lie in many partitions, or are fewer;
        NoHistory, SpanGone.
        """
        found = await self.history(view, owner, allow_truncated=allow_truncated)
        return AtVersion(found, step_at_version(self.reduction(view, owner), found.rows, version))

    async def get_all_reconstructed_states(self, state_type: StateType, target_time: datetime | None = None) -> dict[str, dict[str, Any]]:
        """Everybody's states, by owner."""
        found = await self.replay(_one(state_type, None, target_time))
        return {owner: shown for owner in found.states if (shown := found.shown(owner)) is not None}

    async def validate_reconstructed_states(self, state_type: StateType) -> Validated:
        """Whether snapshots and what came after give the very states that all events give: folds both and compares hashes."""
        quick = await self.replay(Ask(view_of(state_type), mode=ReplayMode.INCREMENTAL))
        ends = as_of_offsets(quick.as_of)
        full = await self.replay(Ask(view_of(state_type), target=ends))
        wrong = sorted(
            owner
            for owner in quick.states.keys() | full.states.keys()
            if owner not in quick.states or owner not in full.states or state_hash(quick.states[owner]) != state_hash(full.states[owner])
        )
        total = len(full.states)
        return Validated(
            valid=not wrong,
            total_states=total,
            valid_states=total - len(wrong),
            mismatches=wrong[:_MAX_NAMED],
            snapshots=quick.tally.snapshots,
            state_hash=states_hash(full.states),
            as_of={str(partition): offset for partition, offset in full.as_of.items()},
        )

    async def require_state(self, ask: Ask) -> Replayed:
        """The answer to an ask about one owner. Raises NoHistory, which says when its first event came, if there is no state."""
        found = await self.replay(ask)
        if ask.owner is None or ask.owner in found.states:
            return found
        whole = await history(self.replayer, ask.view, ask.owner, allow_truncated=ask.allow_truncated)
        first_us = min(rows.times_us[0] for rows in whole.rows.values())
        raise NoHistory(ask.view.name, ask.owner, first_us=first_us if ask.target is not None else None)

    # How a state came to be

    async def history(
        self, view: View, owner: str, target: AsOfEventTime | AsOfOffsets | None = None, *, allow_truncated: bool = False
    ) -> History:
        """One owner's own events up to a target. Raises NoHistory, SpanGone; as log and archive do."""
        return await history(self.replayer, view, owner, target, allow_truncated=allow_truncated)

    def reduction(self, view: View, owner: str) -> ViewReduction:
        """How the owner's events are folded one by one, for ``steps``, ``explain``, ``first_true`` and ``what_if``."""
        bases = {topic.name: topic.base for topic in self.replayer.catalogue.topics}
        return ViewReduction(view, owner, bases, self.replayer.fold)

    async def boundaries(self, view: View, owner: str, found: History) -> list[Boundary]:
        """The owner's snapshots as states at offsets that nowhere fall: where a monotone predicate can be searched by halves."""
        if self.replayer.archive is None:
            return []
        reducer_id = self.replayer.fold.reducer_ids[view.name]
        return await asyncio.to_thread(_boundaries, self.replayer, view, owner, reducer_id, found)

    def compare_states(self, ours: State, theirs: State) -> list[Difference]:
        """Where two states differ: path, ours, theirs."""
        return compare_states(ours, theirs)

    def add_replay_callback(self, callback: ReplayCallback) -> None:
        """From now on told of every replay's progress."""
        self._callbacks.append(callback)

    def get_replay_progress(self, replay_id: str) -> Progress | None:
        """How far a replay is, or was; None for a number that is not known, or no more."""
        running = self._replays.get(replay_id)
        return None if running is None else running.progress

    def cancel_replay(self, replay_id: str) -> bool:
        """Asks a replay to stop; it raises ReplayCancelled where it is awaited. False if it is not running."""
        running = self._replays.get(replay_id)
        if running is None or running.progress.finished:
            return False
        running.stop.asked = True
        return True

    def cleanup_old_replays(self, max_age_hours: float = 24) -> int:
        """Forgets replays that ended, and began longer ago than that; returns how many."""
        limit = self._clock.monotonic() - max_age_hours * _HOUR_S
        old = [replay_id for replay_id, one in self._replays.items() if one.progress.finished and one.began <= limit]
        for replay_id in old:
            del self._replays[replay_id]
        return len(old)

    def _forget_oldest(self) -> None:
        ended = [replay_id for replay_id, one in self._replays.items() if one.progress.finished]
        for replay_id in ended[: max(0, len(ended) - _MAX_REMEMBERED)]:
            del self._replays[replay_id]

    def _tell(self, progress: Progress) -> None:
        for callback in self._callbacks:
            try:
                callback(progress)
            except Exception:  # a listener must not end what it listens to
                log.exception("a replay callback failed")


def _share_folded(found: Replayed) -> float:
    """Of the records read those that were no riddle; 1 where there was nothing to read."""
    riddles = found.finding_counts.get("poison", 0) + found.finding_counts.get("unknown_schema", 0)
    return max(0.0, 1.0 - riddles / found.records) if found.records else 1.0


_MAX_NAMED: Final = 100


class ReplayAnswer(TypedDict):
    """What ``replay_events`` returns."""

    replay_id: str
    state_type: str
    mode: str
    target: str  # now, offsets, or event_time
    aggregates_count: int
    events_processed: int  # that changed a state; those behind a snapshot are not among them
    events_skipped: int  # that the filter left out
    reconstructed_states: dict[str, dict[str, Any]]  # by owner, as shown
    duration: float  # seconds
    as_of: dict[str, int]  # topic/partition -> first offset that was not read
    coverage: str
    missing: dict[str, list[tuple[int, int]]]  # topic/partition -> half-open spans of offsets that are gone
    final: bool
    partial_state: bool
    snapshot: str  # "none", or how many snapshots the answer began with
    workers: int
    partitions_processed: int
    findings: dict[str, int]  # kind -> how many
    state_hash: str
    reducer_id: str


class Validated(TypedDict):
    """What ``validate_reconstructed_states`` returns. ``mismatches`` names at most 100 owners."""

    valid: bool
    total_states: int
    valid_states: int
    mismatches: list[str]
    snapshots: int
    state_hash: str
    as_of: dict[str, int]


def answer(replay_id: str, state_type: StateType, found: Replayed) -> ReplayAnswer:
    """A replay as plain values."""
    shown: Mapping[str, dict[str, Any] | None] = {owner: found.shown(owner) for owner in found.states}
    return ReplayAnswer(
        replay_id=replay_id,
        state_type=str(state_type),
        mode=str(found.mode),
        target=found.target,
        aggregates_count=len(found.states),
        events_processed=found.events_applied,
        events_skipped=found.events_skipped,
        reconstructed_states={owner: state for owner, state in shown.items() if state is not None},
        duration=found.duration_s,
        as_of={str(partition): offset for partition, offset in sorted(found.as_of.items())},
        coverage=found.coverage,
        missing={str(partition): [tuple(span) for span in spans] for partition, spans in found.missing.items()},  # type: ignore[misc]  # pairs
        final=found.final,
        partial_state=found.partial_state,
        snapshot=found.snapshot,
        workers=found.workers,
        partitions_processed=len(found.as_of),
        findings=dict(found.finding_counts),
        state_hash=states_hash(found.states),
        reducer_id=found.reducer_id,
    )


def _one(state_type: StateType, owner: str | None, target_time: datetime | None) -> Ask:
    if target_time is None:
        return Ask(view_of(state_type), owner, ReplayMode.INCREMENTAL)
    return Ask(view_of(state_type), owner, ReplayMode.POINT_IN_TIME, as_of_event_time(target_time))


def _boundaries(replayer: Replayer, view: View, owner: str, reducer_id: str, found: History) -> list[Boundary]:
    archive, number = replayer.archive, replayer.fold.index(view.name)
    assert archive is not None  # noqa: S101  # asked before
    ends: dict[TopicPartition, int] = {}
    parts: dict[TopicPartition, Part] = {}
    result: list[Boundary] = []
    kept = [
        one for partition in found.rows for one in archive.parts(partition, view.name, reducer_id, end=found.as_of[partition], owner=owner)
    ]
    for one in sorted((one for one in kept if is_sound(one)), key=lambda one: (one.order_us, one.end)):
        part = replayer.fold.blank(number, owner)
        part.load(one.part)
        if one.end > ends.get(one.partition, 0):
            ends[one.partition], parts[one.partition] = one.end, part
            state = join(view, [(Place(*where), each) for where, each in parts.items()])
            if state is not None:
                result.append(Boundary(dict(ends), state))
    return result
