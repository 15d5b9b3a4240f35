"""One owner's events folded one by one: by a built-in view or by a user's projector, with the state to be had at any event.

A view's state is exact at every event: each partition's part is folded by the live fold, and all parts are joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from tallyroll.events.position import TopicPartition
from tallyroll.events.recorded import RecordedEvent, recorded
from tallyroll.events.rows import Rows
from tallyroll.replay.fields import Place
from tallyroll.replay.fold import Fold, State, View, join
from tallyroll.replay.kinds import StateType
from tallyroll.replay.order import OwnerRows, by_order_key, in_order
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.projector import StateProjector, check_state, where
from tallyroll.replay.selection import take_rows
from tallyroll.replay.views import FOLD

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Running(Protocol):
    """A fold under way. Not promised: that it can go back."""

    def apply(self, event: RecordedEvent) -> None:
        """Takes the next event that counts, in order-key order."""

    def state(self) -> State:
        """The canonical state now; later events leave it as it is."""


class Reduction(Protocol):
    """What makes a state of one owner's events. Not promised: that two of them order the same events alike."""

    def ordered(self, history: OwnerRows) -> list[RecordedEvent]:
        """The events that count, in order-key order, made anew."""

    def begin(self) -> Running:
        """A fold that has met no event."""


@dataclass(frozen=True)
class ViewReduction:
    """A built-in view of one owner. ``bases`` maps names of topics to base names; a topic that is not in it is its own."""

    view: View
    owner: str
    bases: Mapping[str, str] = field(default_factory=dict)
    fold: Fold = FOLD

    def ordered(self, history: OwnerRows) -> list[RecordedEvent]:
        counting: list[tuple[Rows, list[int]]] = []
        order_us: list[list[int]] = []
        for partition, rows in sorted(history.items()):
            lane = self.lane(partition)
            if lane is not None:
                kept = [index for index in range(len(rows)) if lane.apply_rows(take_rows(rows, [index])).changed]
                counting.append((rows, kept))
                order_us.append([rows.times_us[index] for index in kept])
        streams = [iter(kept) for _, kept in counting]
        return [recorded(counting[lane][0], next(streams[lane])) for lane in by_order_key(order_us)]

    def begin(self) -> Running:
        return _RunningView(self)

    def lane(self, partition: TopicPartition) -> PartitionFold | None:
        """A fold of the owner's part of a partition; None if the view does not read its topic."""
        base = self.bases.get(partition.topic, partition.topic)
        if base not in self.view.topics:
            return None
        view = self.fold.index(self.view.name)
        return PartitionFold(self.fold, partition.topic, base, partition.partition, view=view, owner=self.owner)

    def blank(self) -> State:
        """The state before the first event, in the shape of all others."""
        part, nowhere = self.fold.blank(self.fold.index(self.view.name), self.owner), Place("", 0)
        state = {name: one.show(one.lift(slot, nowhere)) for (name, one), slot in zip(self.view.fields.items(), part.slots, strict=True)}
        return {**state, "version": 0, "last_updated_us": None}


class _RunningView:
    def __init__(self, reduction: ViewReduction) -> None:
        self._reduction = reduction
        self._view = reduction.fold.index(reduction.view.name)
        self._lanes: dict[TopicPartition, PartitionFold] = {}

    def apply(self, event: RecordedEvent) -> None:
        partition = event.rows.topic_partition
        lane = self._lanes.get(partition)
        if lane is None:
            made = self._reduction.lane(partition)
            if made is None:
                return
            lane = self._lanes[partition] = made
        lane.apply_rows(take_rows(event.rows, [event.index]))

    def state(self) -> State:
        reduction = self._reduction
        parts = [
            (Place(*partition), lane.kept(self._view)[reduction.owner])
            for partition, lane in self._lanes.items()
            if reduction.owner in lane.kept(self._view)
        ]
        state = join(reduction.view, parts)
        # Through JSON, since a joined list or map may be the very one that the part goes on to change.
        return reduction.blank() if state is None else _decode(_encode(state))


@dataclass(frozen=True)
class ProjectorReduction:
    """A projector's state of one owner. The events are all the owner's that the projector has handlers for."""

    projector: StateProjector
    state_type: StateType
    owner: str

    def ordered(self, history: OwnerRows) -> list[RecordedEvent]:
        return list(in_order(history, self.projector.types(self.state_type)))

    def begin(self) -> Running:
        return _RunningProjector(self)


class _RunningProjector:
    def __init__(self, reduction: ProjectorReduction) -> None:
        self._projector, self._kind = reduction.projector, reduction.state_type
        self._state = self._projector.initialize_state(self._kind, reduction.owner)
        self._last: RecordedEvent | None = None

    def apply(self, event: RecordedEvent) -> None:
        self._state = self._projector.apply_event(self._kind, self._state, event)
        self._last = event

    def state(self) -> State:
        check_state(self._state, "the start" if self._last is None else where(self._last))
        return _decode(_encode(self._state))
