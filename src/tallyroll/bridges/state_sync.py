"""The states of agents, tasks and workflows, kept current where other programs read them: in Redis.

Parts of the target are read when a flush needs them, never while a batch is applied: a slow target holds up this bridge
and nobody else. What the log says is folded exactly as everywhere; the joined state is the JSON whose SHA-256 is the
state's hash, byte for byte what a replay to the same offsets gives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Final, NamedTuple

import msgspec

from tallyroll.errors import PositionConflict, StoreFilling, StoreUnavailable
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Claim, Clock, DeadLetter, Merged, PartAt, Progress, StateTarget, ViewsWritten, ViewWrite
from tallyroll.replay.fields import Place
from tallyroll.replay.fold import Fold, Part, join
from tallyroll.replay.partition import PartitionFold, PartOf, no_collecting
from tallyroll.replay.views import AGENT, FOLD, TASK, WORKFLOW
from tallyroll.telemetry import FOLLOW_REPEATS, REDIS_FOREIGN, REDIS_REBUILDS, REDIS_VIEWS, Telemetry

log: Final = logging.getLogger("tallyroll.bridges")

VIEWS: Final = (AGENT, TASK, WORKFLOW)
"""The views that are kept in the target."""

TOPICS: Final = sorted({topic for view in VIEWS for topic in view.topics})
"""The base names that they read."""

MAX_CACHED_PARTS: Final = 20_000
_CHECK_S: Final = 1.0  # a target that was wiped while no event came is made anew after about so long
_PAUSE_S: Final = 0.02  # between two flushes; events of the same owner that come within it cost one write
_OWNERS_AT_ONCE: Final = 500  # one call of the target, some 5 ms; it serves nobody else meanwhile
_BYTES_AT_ONCE: Final = 1_000_000  # the same for large parts
_LOTS_AT_ONCE: Final = 3  # with two the target still waited for us, and we for it
_PARTS_AT_ONCE: Final = 2_000  # as above; reading is cheaper
_encode: Final = msgspec.json.Encoder(order="sorted").encode

Dumped = Mapping[str, Mapping[TopicPartition, bytes]]
"""Parts as bytes, by owner and partition."""

History = Callable[[TopicPartition], Awaitable[tuple[PartitionFold, int, int] | None]]
"""What is known of a partition besides the log: its fold, and the offsets it is made of; None where there is nothing."""


@dataclass(slots=True)
class _Lane:
    """One partition in memory. ``claim.next`` is what the target has; ``lost``: where it begins must be found first."""

    fold: PartitionFold
    claim: Claim
    first: int | None
    next: int
    lost: bool = False


class _Taken(NamedTuple):
    """What a flush stores of one partition: all below ``next``, once the ``awaited`` parts are there."""

    lane: _Lane
    first: int
    next: int
    repeats: bytes
    awaited: Sequence[PartOf]

    def progress(self, fold_id: str) -> Progress:
        return Progress(fold_id, self.first, self.next, self.repeats)


def _take(lane: _Lane) -> _Taken:
    return _Taken(lane, lane.first or 0, lane.next, lane.fold.repeats.to_bytes(), lane.fold.awaited())


class StateSync:
    """Implements ``ports.Follower`` over a ``StateTarget``: parts, then views, then the position, once per flush.

    Each owner is written once per flush however many of its events came. A target that was wiped, went back, or is held by
    another writer is noticed at the next write, or within a second or so when nothing is written; then everything begins
    anew from what it says, or from the history. ``history`` gives what the log no longer has.
    Not promised: that the views of different owners are of one moment.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        target: StateTarget,
        catalogue: Catalogue,
        *,
        clock: Clock,
        telemetry: Telemetry,
        history: History | None = None,
        fold: Fold = FOLD,
        max_cached_parts: int = MAX_CACHED_PARTS,
    ) -> None:
        self._target = target
        self._catalogue = catalogue
        self._clock = clock
        self._telemetry = telemetry
        self._history = history
        self._fold = fold
        self._max_cached_parts = max_cached_parts
        self._views = {fold.index(view.name): view for view in VIEWS}
        self._names = {number: view.name for number, view in self._views.items()}
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._no_history: set[TopicPartition] = set()
        self._away = False
        self._check_due = 0.0
        self._fresh = False
        self._flush_due = 0.0
        self._took_s = 0.0

    @property
    def name(self) -> str:
        """``redis``."""
        return "redis"

    @property
    def topics(self) -> Sequence[str]:
        """The base names that the views read."""
        return TOPICS

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As the port says. While the target is away nothing is known: batches then wait, until a flush finds it back."""
        try:
            stored = await self._target.progress(partitions)
        except StoreUnavailable as error:
            log.warning("%s; waiting for it", error, extra={"follower": self.name})
            self._away = True
            self._lanes.update({partition: self._lane(partition, None, lost=True) for partition in partitions})
            return {}
        self._lanes.update({partition: self._lane(partition, stored.get(partition)) for partition in partitions})
        return {where: lane.next for where in partitions if (lane := self._lanes[where]).claim.next is not None}

    async def stored(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As ``ports.LooksFirst``: another member may hold these partitions."""
        try:
            found = await self._target.progress(partitions)
        except StoreUnavailable:
            return {}
        return {where: one.next for where, one in found.items() if one.fold_id == self._fold.fold_id}

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        """As the port says. Raises StoreUnavailable while the target is away, StoreFilling until it is known where to begin.

        RuntimeError before ``positions``.
        """
        lane = self._lanes.get(batch.topic_partition)
        if lane is None:
            raise RuntimeError(f"positions() of {batch.topic_partition} come before its batches")
        if lane.lost:
            raise StoreUnavailable("Redis", "it has not answered yet") if self._away else StoreFilling("Redis")
        fresh = batch.since(lane.next)
        letters: list[DeadLetter] = []
        if fresh is not None:
            if lane.first is None:
                self._telemetry.count(REDIS_REBUILDS)
                lane.first = fresh.offsets[0]
            applied = lane.fold.take(fresh)
            skipped = len(batch) - len(fresh)
            letters = [DeadLetter(skipped + one.index, one.reason, one.error) for one in applied.found if one.error]
            if repeats := len(applied.found) - len(letters):
                self._telemetry.count(FOLLOW_REPEATS, repeats, follower=self.name)
        lane.next = max(lane.next, batch.next_offset)
        self._fresh = True
        return letters

    def wants_flush(self, *, interval_over: bool) -> bool:
        """Soon after something came, and when the target has not been looked at for a second.

        Flushes take half of the time at most: where much comes, or the target is slow, more of it is written at once. One slow
        flush among quick ones is an accident, and what came meanwhile has waited for it already.
        """
        now = self._clock.monotonic()
        due = (self._fresh and now >= self._flush_due) or (bool(self._lanes) and now >= self._check_due)
        return interval_over or due or any(lane.lost for lane in self._lanes.values())

    async def flush(self) -> Mapping[TopicPartition, int]:
        """As the port says. After PositionConflict everything in memory is forgotten; ask for ``positions`` again."""
        began, self._fresh = self._clock.monotonic(), False
        taken = [_take(lane) for lane in self._lanes.values() if not lane.lost and lane.next != (lane.claim.next or 0)]
        try:
            await self._find_lost()
            await self._store(taken)
            if self._clock.monotonic() >= self._check_due:
                await self._target.check([lane.claim for lane in self._lanes.values() if lane.claim.next is not None])
                self._check_due = self._clock.monotonic() + _CHECK_S
        except PositionConflict:
            self._lanes.clear()
            raise
        ended = self._clock.monotonic()
        took, before = ended - began, self._took_s
        self._took_s = took
        self._flush_due = ended + max(_PAUSE_S, min(took, before))
        if sum(lane.fold.cached() for lane in self._lanes.values()) > self._max_cached_parts:
            for lane in self._lanes.values():
                lane.fold.forget_old()
        return {where: lane.claim.next for where, lane in self._lanes.items() if lane.claim.next is not None}

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._lanes.pop(partition, None)

    async def close(self) -> None:
        """Forgets everything in memory; the target is closed by who opened it."""
        self._lanes.clear()

    def _lane(self, partition: TopicPartition, progress: Progress | None, *, lost: bool = False) -> _Lane:
        topic = self._catalogue.named(partition.topic)
        if topic is None:
            raise ValueError(f"{partition.topic} is not a topic of the catalogue")
        fold = PartitionFold(self._fold, partition.topic, topic.base, partition.partition)
        if progress is None or progress.fold_id != self._fold.fold_id:
            lost = lost or (self._history is not None and partition not in self._no_history)
            return _Lane(fold, Claim(partition, self._fold.fold_id, None), None, 0, lost)
        fold.repeats = RepeatFilter.from_bytes(progress.repeats)
        return _Lane(fold, Claim(partition, self._fold.fold_id, progress.next), progress.first, progress.next)

    # What a flush does

    async def _find_lost(self) -> None:
        """Finds where lost lanes begin: where the target is, behind what the history has, or at the log's start.

        The loop learns it from what the flush gives, and goes on from there.
        """
        lost = {where: lane for where, lane in self._lanes.items() if lane.lost}
        stored = await self._target.progress(list(lost)) if lost else {}
        self._away = False
        filled = 0
        for where, lane in lost.items():
            known = stored.get(where)
            if known is not None and known.fold_id == self._fold.fold_id:
                self._lanes[where] = self._lane(where, known)
                continue
            filled += await self._from_history(where, lane)
            lane.lost = False
        if filled:
            log.info("made anew in Redis from the archive; partitions: %d", filled, extra={"follower": self.name})

    async def _from_history(self, where: TopicPartition, lane: _Lane) -> bool:
        """Writes what the history knows of a partition; false if that is nothing."""
        found = await self._history(where) if self._history is not None else None
        if found is None:
            self._no_history.add(where)
            return False
        lane.fold, lane.first, lane.next = found
        for view in self._views:
            lane.fold.give_back([part for part in lane.fold.parts(view).values() if part.version])
        self._telemetry.count(REDIS_REBUILDS)
        await self._store([_take(lane)])
        return True

    async def _store(self, taken: Sequence[_Taken]) -> None:
        if not taken:
            return
        lanes = [one.lane for one in taken]
        written: list[tuple[_Lane, list[Part]]] = []
        try:
            await self._claim([lane for lane in lanes if not lane.claim.token])
            await self._settle(taken)
            written = [(lane, lane.fold.take_dirty()) for lane in lanes]
            views = await self._write([(one.lane.claim, one.next) for one in taken], written)
            claims, done = await self._target.commit([(one.lane.claim, one.progress(self._fold.fold_id)) for one in taken], views)
            self._count(done)
            for lane, claim in zip(lanes, claims, strict=True):
                lane.claim = claim
        except BaseException:
            for lane, parts in written:
                lane.fold.give_back(parts)
            raise

    async def _claim(self, lanes: Sequence[_Lane]) -> None:
        claims = await self._target.acquire([lane.claim for lane in lanes]) if lanes else []
        for lane, claim in zip(lanes, claims, strict=True):
            lane.claim = claim

    async def _settle(self, taken: Sequence[_Taken]) -> None:
        """Loads the parts that the folds waited for, and lets these go on as far as was taken."""
        wanted = [
            ((one.lane.claim.partition, f"{self._names[part[0]]}:{part[1]}"), part)
            for one in taken
            for part in one.awaited
            if part[0] in self._names
        ]
        stored: dict[PartAt, tuple[int, bytes]] = {}
        for start in range(0, len(wanted), _PARTS_AT_ONCE):
            stored |= await self._target.parts(self._fold.fold_id, [where for where, _ in wanted[start : start + _PARTS_AT_ONCE]])
        found: dict[TopicPartition, dict[PartOf, tuple[int, bytes]]] = {}
        for where, part in wanted if stored else ():
            if where in stored:
                found.setdefault(where[0], {})[part] = stored[where]
        for one in taken:
            one.lane.fold.settle(one.awaited, found.get(one.lane.claim.partition, {}), one.next)

    async def _write(self, claims: Sequence[tuple[Claim, int]], written: Sequence[tuple[_Lane, list[Part]]]) -> Sequence[ViewWrite]:
        """Parts and views, some owners at a time, several such lots at once: some are under way while the next one is made.

        Of a single lot only the parts: gives its views, to be written together with the positions.
        """
        owners: dict[str, dict[TopicPartition, Part]] = {}
        with no_collecting():
            for lane, parts in written:
                where = lane.claim.partition
                for part in parts:
                    if part.view in self._names:
                        owners.setdefault(f"{self._names[part.view]}:{part.owner}", {})[where] = part
        lots = _lots(owners)
        first = list(islice(lots, 2))
        if len(first) < 2:  # noqa: PLR2004  # as said
            return await self._merged(claims, owners, first[0]) if first else ()
        begun = chain(first, lots)

        async def work() -> None:
            try:
                for lot in begun:
                    views = await self._merged(claims, owners, lot)
                    self._count(await self._target.write_views(views, self._fold.fold_id))
            except BaseException:
                lots.close()  # nothing more is begun
                raise

        for result in await asyncio.gather(*(work() for _ in range(_LOTS_AT_ONCE)), return_exceptions=True):
            if result is not None:
                raise result
        return ()

    async def _merged(
        self, claims: Sequence[tuple[Claim, int]], owners: Mapping[str, Mapping[TopicPartition, Part]], lot: Dumped
    ) -> Sequence[ViewWrite]:
        """Writes the parts of some owners; gives the views that are to be written then."""
        merged = await self._target.write_parts(claims, lot)
        with no_collecting():
            views = [(owner, one.change, self._joined(owners[owner], lot[owner], one)) for owner, one in merged.items()]
        return [view for view in views if view[2]]

    def _count(self, done: ViewsWritten) -> None:
        self._telemetry.count(REDIS_VIEWS, done.written)
        self._telemetry.count(REDIS_FOREIGN, done.foreign)

    def _joined(self, own: Mapping[TopicPartition, Part], dumped: Mapping[TopicPartition, bytes], merged: Merged) -> bytes:
        """The view of one owner; parts that are in memory need not be read again."""
        view = next(iter(own.values())).view
        parts = [
            (_place(where), own[where] if data is dumped.get(where) else self._loaded(view, data)) for where, data in merged.parts.items()
        ]
        state = join(self._views[view], parts)
        return b"" if state is None else _encode(state)

    def _loaded(self, view: int, data: bytes) -> Part:
        part = Part(view, "", [])
        self._fold.load(part, data)
        return part


@lru_cache(maxsize=4_096)  # the same few partitions, once for every part
def _place(where: TopicPartition) -> Place:
    return Place(*where)


def _lots(owners: Mapping[str, Mapping[TopicPartition, Part]]) -> Generator[Dumped]:
    """Owners with the bytes of their parts, as many as one call should write."""
    lot: dict[str, Mapping[TopicPartition, bytes]] = {}
    size = 0
    for owner, parts in owners.items():
        lot[owner] = dumped = {where: part.dump() for where, part in parts.items()}
        size += sum(map(len, dumped.values()))
        if len(lot) >= _OWNERS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield lot
            lot, size = {}, 0
    if lot:
        yield lot
