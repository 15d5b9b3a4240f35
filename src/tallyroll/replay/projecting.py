"""A user's reducers over everybody's history: events gathered by owner, folded owner by owner, in one process or several."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.rows import Rows
from tallyroll.ports import Archive, EventLog, Span
from tallyroll.replay.fold import View, states_hash
from tallyroll.replay.gather import bucketed, owners_by
from tallyroll.replay.judge import Judge
from tallyroll.replay.kept import Kept, KeptEnd, KeptState
from tallyroll.replay.kinds import StateType
from tallyroll.replay.order import OwnerRows, Standing, counting, follows, merged, standing
from tallyroll.replay.partition import no_collecting
from tallyroll.replay.plan import Coverage, Plan
from tallyroll.replay.projector import Projected, StateProjector, fold_events
from tallyroll.replay.selection import take_rows

_WAITING: Final = 8  # batches of the log that wait to be gathered
_LOOK_S: Final = 0.1


@dataclass(slots=True)
class Projecting:
    """One run of a projector over a plan; ``share`` (k, n): only owners that fall to process k of n.

    ``whole``: handlers may read ids and metadata as well, which takes about twice as long from the archive. ``states`` fills
    up; ``done`` of the plan's offsets are read. Memory: the states, and 256 MiB of events before they are spilled into
    temporary files. ``base``: states to begin with, those of the events below the plan; whom they do not fit, since something
    came late, ends up in ``late``. ``keeping``: whether to note in ``standings`` how far each owner is folded.
    Not promised: that events of types without a handler are looked at at all.
    """

    projector: StateProjector
    state_type: StateType
    view: View
    plan: Plan
    until_us: int | None = None
    share: tuple[int, int] = (0, 1)
    whole: bool = True
    base: Kept | None = None
    keeping: bool = False
    late: list[str] = field(default_factory=list)
    standings: dict[str, Standing] = field(default_factory=dict)
    states: dict[str, Projected] = field(default_factory=dict)
    events: int = 0
    done: int = 0
    _judges: dict[TopicPartition, Judge] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _logged: queue.Queue[Rows | None] = field(default_factory=lambda: queue.Queue(_WAITING))

    async def run(self, log: EventLog, archive: Archive | None) -> AsyncGenerator[int, None]:
        """Carries it out; gives now and then how many offsets are read. Raises ReducerFailed; as log and archive do."""
        work = asyncio.ensure_future(asyncio.to_thread(self._gather, archive))
        feeding = asyncio.ensure_future(self._feed(log, work))
        try:
            while not (await asyncio.wait({work}, timeout=_LOOK_S))[0]:
                if feeding.done() and feeding.exception() is not None:
                    break
                yield self.done
            await feeding
            await work
        finally:
            self._stop.set()
            feeding.cancel()
            with suppress(queue.Full):
                self._logged.put_nowait(None)
            await asyncio.gather(feeding, work, return_exceptions=True)
        yield self.done

    async def _feed(self, log: EventLog, work: asyncio.Future[None]) -> None:
        """The log's part, judged, into the queue."""
        judges = self._judges = {one.partition: Judge(RepeatFilter.from_bytes(one.repeats)) for one in self.plan.partitions}
        spans = [Span(*one.partition, *one.log) for one in self.plan.partitions if one.log[0] < one.log[1]]
        if spans:
            async for batch in log.read(spans):
                rows = judges[batch.topic_partition].rows(batch)
                if rows is not None and not await self._put(rows, work):
                    return
                self.done += batch.next_offset - batch.offsets[0]
        await self._put(None, work)

    async def _put(self, rows: Rows | None, work: asyncio.Future[None]) -> bool:
        while not (work.done() or self._stop.is_set()):
            try:
                self._logged.put_nowait(rows)
            except queue.Full:
                await asyncio.wait({work}, timeout=0.002)
            else:
                return True
        return False

    def _gather(self, archive: Archive | None) -> None:
        with no_collecting():
            for owner, history in bucketed(self._rows(archive), owners_by(self.view.owner)):
                self._fold(owner, history)
                if self._stop.is_set():
                    return
            if self.base is not None:
                self._take_over(self.base)

    def _fold(self, owner: str, history: OwnerRows) -> None:
        """One owner's events, all or those after its kept state."""
        some = counting(history, self.projector.types(self.state_type))
        if not some:
            return
        known = self.base.owners.get(owner) if self.base is not None else None
        since, before = (None, None) if known is None else ((known.state, known.version), known.standing)
        if before is not None and not follows(before, some):
            self.late.append(owner)
            return
        found = self.states[owner] = fold_events(self.projector, self.state_type, owner, merged(some), since)
        self.events += found.version - (known.version if known is not None else 0)
        if self.keeping:
            self.standings[owner] = standing(before, some)

    def _take_over(self, base: Kept) -> None:
        """The kept states of those of whom nothing came."""
        late = frozenset(self.late)
        for owner, known in base.owners.items():
            if owner not in self.states and owner not in late:
                verdict = self.projector.validate_state(self.state_type, known.state)
                self.states[owner] = Projected(self.state_type, owner, known.state, known.version, verdict)
                self.standings[owner] = known.standing

    def refold(self, histories: Mapping[str, OwnerRows]) -> None:
        """Those that came late, each from its first event. Blocks. Raises ReducerFailed."""
        self.base = None
        for owner, history in histories.items():
            self._fold(owner, history)

    def kept(self) -> Kept:
        """What has been made, to begin with the next time. Only of a run with ``keeping``."""
        ends = {
            one.partition: KeptEnd(one.end, self._judges[one.partition].repeats.to_bytes() if one.log[0] < one.log[1] else one.repeats)
            for one in self.plan.partitions
        }
        owners = {owner: KeptState(dict(one.state), one.version, self.standings[owner]) for owner, one in self.states.items()}
        return Kept(ends, owners)

    def _rows(self, archive: Archive | None) -> Iterator[Rows]:
        types, by_agent = self.projector.types(self.state_type), self.view.owner == "agent"
        agents = self._is_ours if by_agent and self.share[1] > 1 else None
        for one in self.plan.partitions:
            start, end = one.archive
            if archive is not None and start < end:
                for rows in archive.rows(
                    one.partition, start, end, types=types, until_us=self.until_us, whole=self.whole, by_agent=by_agent, agents=agents
                ):
                    if self._stop.is_set():
                        return
                    yield from (rows,) if by_agent else self._ours(rows)
                self.done += end - start
        while not self._stop.is_set() and (logged := self._logged.get()) is not None:
            yield from self._ours(logged)

    def _ours(self, rows: Rows) -> Iterator[Rows]:
        """The rows that fall to this process, up to the moment."""
        if self.share[1] == 1 and self.until_us is None:
            yield rows
            return
        mine: dict[str | None, bool] = {}
        kept = []
        for index, owner in enumerate(owners_by(self.view.owner)(rows)):
            ours = mine.get(owner)
            if ours is None:
                ours = mine[owner] = self._is_ours(owner)
            if ours and (self.until_us is None or rows.times_us[index] <= self.until_us):
                kept.append(index)
        if kept:
            yield take_rows(rows, kept)

    def _is_ours(self, owner: str | None) -> bool:
        number, count = self.share
        return owner is not None and crc32(owner.encode()) % count == number


@dataclass(frozen=True, slots=True)
class ProjectedAll:
    """What a projector made of a history: the states by owner, of how many events, as of which offsets, and how complete.

    ``events`` are in the states; ``folded`` of them in this run, the others came from ``snapshot``: ``none``, or how many
    kept states the run began with. ``late`` of these were folded anew. ``damaged`` names kept files that are not what was
    written; ``kept``: whether these states were kept for the next run.
    """

    state_type: StateType
    states: dict[str, Projected]
    events: int
    as_of: Mapping[TopicPartition, int]
    workers: int = 1
    coverage: Coverage = "complete"
    missing: Mapping[TopicPartition, Sequence[tuple[int, int]]] = field(default_factory=dict)
    folded: int = 0
    snapshot: str = "none"
    late: int = 0
    damaged: tuple[str, ...] = ()
    kept: bool = False

    @property
    def set_hash(self) -> str:
        """SHA-256 in hex over everybody's states, as of a view's."""
        return states_hash({owner: one.state for owner, one in self.states.items()})
