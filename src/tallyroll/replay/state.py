"""The state that runs with the log: a follower that keeps the parts of all views current in a store."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec

from tallyroll.errors import PositionConflict
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.topics import Catalogue
from tallyroll.ports import DeadLetter, OwnerParts, PartitionWrite, Progress, StateStore
from tallyroll.replay.fields import Place
from tallyroll.replay.fold import Fold, Part, State, View, join, state_hash
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.plan import Coverage
from tallyroll.replay.shown import show
from tallyroll.replay.views import FOLD
from tallyroll.telemetry import FOLLOW_REPEATS, Counters, Telemetry

log: Final = logging.getLogger("tallyroll.state")

MAX_CACHED_PARTS: Final = 20_000  # some 2 to 5 KB each: at most about 100 MB
_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Lane:
    """One partition in memory: its fold, and what of it is stored. ``expected`` is None until this fold has stored something."""

    fold: PartitionFold
    first: int | None
    next: int
    expected: int | None


class StateFollower:
    """Folds every batch into the parts it concerns; ``flush`` stores changed parts and positions in one transaction.

    A part that is not in memory is read from the store while a batch is applied, all of a batch in one query per view;
    that blocks the event loop for about a microsecond per owner. What stands in memory between two flushes is what they
    changed, and up to ``max_cached_parts`` more. Parts of an earlier fold (other views, other upcasters) are never mixed
    with new ones: such a partition starts anew, which is logged and shown by ``rebuilding``.
    The store stays open when the follower is closed.
    Not promised: that a state contains what is applied and not flushed.
    """

    TOPICS: ClassVar[Sequence[str]] = FOLD.topics

    def __init__(
        self,
        store: StateStore,
        catalogue: Catalogue,
        *,
        fold: Fold = FOLD,
        telemetry: Telemetry | None = None,
        max_cached_parts: int = MAX_CACHED_PARTS,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._fold = fold
        self._telemetry = telemetry or Counters()
        self._max_cached_parts = max_cached_parts
        self._lanes: dict[TopicPartition, _Lane] = {}
        self.rebuilding: set[TopicPartition] = set()

    @property
    def name(self) -> str:
        """``state``."""
        return "state"

    @property
    def topics(self) -> Sequence[str]:
        """The base names that some view reads."""
        return self._fold.topics

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As the port says; a partition whose parts another fold made is left out, so that it is read from its start."""
        stored = await self._store.load_progress(partitions)
        for partition in partitions:
            self._lanes[partition] = self._lane(partition, stored.get(partition))
        return {partition: lane.next for partition in partitions if (lane := self._lanes[partition]).expected is not None}

    async def stored(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As ``ports.LooksFirst``: another member may hold these partitions, or take them just now."""
        found = await self._store.load_progress(partitions)
        return {partition: one.next for partition, one in found.items() if one.fold_id == self._fold.fold_id}

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        """As the port says. Raises StoreUnavailable when parts cannot be read; RuntimeError before ``positions``."""
        lane = self._lanes.get(batch.topic_partition)
        if lane is None:
            raise RuntimeError(f"positions() of {batch.topic_partition} come before its batches")
        fresh = batch.since(lane.next)
        letters: list[DeadLetter] = []
        if fresh is not None:
            partition, views = batch.topic_partition, self._fold.views

            def load(view: int, owners: Sequence[str]) -> Mapping[str, bytes]:
                return self._store.load_parts(partition, views[view].name, owners) if lane.expected is not None else {}

            applied = lane.fold.apply(fresh, load)
            skipped = len(batch) - len(fresh)
            letters = [DeadLetter(skipped + one.index, one.reason, one.error) for one in applied.found if one.error]
            if repeats := len(applied.found) - len(letters):
                self._telemetry.count(FOLLOW_REPEATS, repeats, follower=self.name)
            if lane.first is None:
                lane.first = fresh.offsets[0]
        lane.next = max(lane.next, batch.next_offset)
        return letters

    def wants_flush(self, *, interval_over: bool) -> bool:
        """As the port says."""
        return interval_over

    async def flush(self) -> Mapping[TopicPartition, int]:
        """As the port says. After PositionConflict everything in memory is forgotten; ask for ``positions`` again."""
        # Bytes are made here, before the first await, so that a batch applied meanwhile cannot be half in them.
        taken = {partition: (lane, lane.fold.take_dirty()) for partition, lane in self._lanes.items() if lane.next != (lane.expected or 0)}
        writes = [self._write(partition, lane, parts) for partition, (lane, parts) in taken.items()]
        try:
            await self._store.commit(writes)
        except PositionConflict:
            self._lanes.clear()
            raise
        except BaseException:
            for lane, parts in taken.values():
                lane.fold.give_back(parts)
            raise
        for write in writes:
            taken[write.partition][0].expected = write.progress.next
            self.rebuilding.discard(write.partition)
        self._shrink()
        return {partition: lane.expected for partition, lane in self._lanes.items() if lane.expected is not None}

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self._lanes.pop(partition, None)

    async def close(self) -> None:
        """Forgets everything in memory."""
        self._lanes.clear()

    def _lane(self, partition: TopicPartition, progress: Progress | None) -> _Lane:
        topic = self._catalogue.named(partition.topic)
        if topic is None:
            raise ValueError(f"{partition.topic} is not a topic of the catalogue")
        fold = PartitionFold(self._fold, partition.topic, topic.base, partition.partition)
        if progress is None:
            return _Lane(fold, None, 0, None)
        if progress.fold_id != self._fold.fold_id:
            self.rebuilding.add(partition)
            about = {"follower": self.name, **partition._asdict()}
            log.warning("%s: stored by another version of the fold; its state is made anew from the log", partition, extra=about)
            return _Lane(fold, None, 0, None)
        fold.repeats = RepeatFilter.from_bytes(progress.repeats)
        return _Lane(fold, progress.first, progress.next, progress.next)

    def _write(self, partition: TopicPartition, lane: _Lane, parts: Sequence[Part]) -> PartitionWrite:
        views = self._fold.views
        progress = Progress(self._fold.fold_id, lane.first or 0, lane.next, lane.fold.repeats.to_bytes())
        return PartitionWrite(partition, lane.expected, progress, [(views[part.view].name, part.owner, part.dump()) for part in parts])

    def _shrink(self) -> None:
        if sum(lane.fold.cached() for lane in self._lanes.values()) > self._max_cached_parts:
            for lane in self._lanes.values():
                lane.fold.forget_old()


@dataclass(frozen=True, slots=True)
class StoredState:
    """One owner's state as the store has it, and which span of the log it is made of. Hash and state as in a replay."""

    view: View
    owner: str
    state: State
    as_of: Mapping[TopicPartition, int]
    coverage: Coverage

    @property
    def state_hash(self) -> str:
        """SHA-256 in hex over the canonical state."""
        return state_hash(self.state)

    def shown(self) -> dict[str, Any]:
        """The state for callers: an AgentState, TaskState and so on; see ``replay.shown``."""
        return show(self.view, self.owner, self.state, coverage=self.coverage, as_of=self.as_of)


async def stored_state(
    store: StateStore, view: View, owner: str, *, topics: Collection[str] | None = None, fold: Fold = FOLD
) -> StoredState | None:
    """What the store knows of one owner; None if no stored event names it. Raises StoreUnavailable.

    ``topics``: the names in the log of those that the view reads; how far others were read says nothing about the state.
    """
    found = await store.parts_of(fold.fold_id, view.name, owner)
    if topics is not None:
        found = found._replace(progress={partition: one for partition, one in found.progress.items() if partition.topic in topics})
    return _joined(fold, view, owner, found)


async def stored_owners(store: StateStore, view: View, *, after: str = "", limit: int = 100, fold: Fold = FOLD) -> Sequence[str]:
    """A page of the owners that have a state, ascending; the next page starts ``after`` the last one. Raises StoreUnavailable."""
    return await store.owners(fold.fold_id, view.name, after=after, limit=limit)


async def stored_positions(store: StateStore, *, fold: Fold = FOLD) -> Mapping[TopicPartition, int]:
    """Per partition the next offset that the stored states do not contain. Raises StoreUnavailable."""
    return {partition: one.next for partition, one in (await store.load_progress()).items() if one.fold_id == fold.fold_id}


def _joined(fold: Fold, view: View, owner: str, found: OwnerParts) -> StoredState | None:
    parts = []
    for partition, dumped in found.parts.items():
        part = fold.blank(fold.index(view.name), owner)
        part.load(dumped)
        parts.append((Place(*partition), part))
    state = join(view, parts)
    if state is None:
        return None
    as_of = {partition: progress.next for partition, progress in found.progress.items()}
    complete = all(progress.first == 0 for progress in found.progress.values())
    return StoredState(view, owner, state, as_of, "complete" if complete else "truncated")
