"""Questions about how one owner's state came about: event by event, between two moments, and when something became true.

All of them fold the owner's own events in order-key order. ``Step.event`` is the event as recorded. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from typing import Any, NamedTuple

from tallyroll.errors import ReducerFailed
from tallyroll.events.moments import us_of
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.recorded import RecordedEvent
from tallyroll.events.rows import Rows
from tallyroll.replay.differences import Change, diff
from tallyroll.replay.fold import State
from tallyroll.replay.order import OwnerRows
from tallyroll.replay.projector import where
from tallyroll.replay.reduction import Reduction, ViewReduction
from tallyroll.replay.selection import take_rows

Predicate = Callable[[State], bool]
"""Whether something holds of a canonical state. Pure; what it raises is ReducerFailed."""

Moment = int | datetime | Mapping[TopicPartition, int]
"""After so many events; of all events up to an event time, inclusive; or below these offsets, all of a partition not named."""


class Step(NamedTuple):
    """One event that counted, the ``number``-th from 1, the state after it, and what it changed."""

    number: int
    event: RecordedEvent
    state: State
    changes: Sequence[Change]


class Explained(NamedTuple):
    """A path that differs between two moments, and the events between them that changed it, in order.

    No event: something that came between the two made an earlier or later one have another effect on it.
    """

    path: str
    old: Any
    new: Any
    events: Sequence[RecordedEvent]


class Boundary(NamedTuple):
    """A state that is known already: that of all events below ``ends``; of a partition that is not named, none."""

    ends: Mapping[TopicPartition, int]
    state: State


@dataclass(frozen=True, slots=True)
class FirstTrue:
    """The first event after which a predicate held, None if it never did; of how many states it was asked.

    ``exact``: every state from the first one on was looked at. If not, boundaries were searched by halves, and that is the
    first event only if the predicate, once true, never turns false again.
    """

    step: Step | None
    exact: bool
    evaluated: int


def steps(reduction: Reduction, history: OwnerRows, *, after: int = 0) -> Iterator[Step]:
    """The state after each event that counts, with what the event changed; ``after`` so many that are only folded.

    Raises ReducerFailed. Not promised: speed; a view's parts are joined at every step.
    """
    running = reduction.begin()
    events = reduction.ordered(history)
    for event in events[:after]:
        running.apply(event)
    state = running.state()
    for number, event in enumerate(events[after:], after + 1):
        running.apply(event)
        before, state = state, running.state()
        yield Step(number, event, state, diff(before, state))


def final_state(reduction: Reduction, history: OwnerRows) -> State:
    """The state of all the events; before any event the initial one."""
    return _folded(reduction, reduction.ordered(history))


def step_at_version(reduction: Reduction, history: OwnerRows, version: int) -> Step:
    """The state of the owner's first ``version`` events, where these have one order: where they lie in one partition.

    Raises ValueError for the agent view, for an owner with events in several partitions, and if there are fewer events.
    """
    if isinstance(reduction, ViewReduction) and reduction.view.owner == "agent":
        raise ValueError("version: an agent's events lie in many partitions, which have no common count; name offsets or a time")
    events = reduction.ordered(history)
    places = {event.rows.topic_partition for event in events}
    if len(places) > 1:
        raise ValueError(f"version: these events lie in {len(places)} partitions, which have no common count; name offsets or a time")
    if not 1 <= version <= len(events):
        raise ValueError(f"version: expected 1 to {len(events)}, which is how many events there are")
    return next(steps(reduction, history, after=version - 1))


def explain(reduction: Reduction, history: OwnerRows, since: Moment, until: Moment) -> list[Explained]:
    """What differs between two moments, and which events between them did it.

    Raises ValueError if the earlier moment has events that the later one has not; ReducerFailed.
    """
    older, newer = (_until(reduction, history, moment) for moment in (since, until))
    known = {event.position for event in reduction.ordered(older)}
    came: dict[Position, Step] = {step.event.position: step for step in steps(reduction, newer)}
    if not known <= came.keys():
        raise ValueError("since: the earlier moment has events that the later one has not")
    between = [step for position, step in came.items() if position not in known]
    changes = diff(final_state(reduction, older), final_state(reduction, newer))
    return [
        Explained(*one, [step.event for step in between if any(_touches(done.path, one.path) for done in step.changes)]) for one in changes
    ]


def first_true(
    predicate: Predicate, reduction: Reduction, history: OwnerRows, *, monotone: bool = False, boundaries: Sequence[Boundary] = ()
) -> FirstTrue:
    """The first event after which ``predicate(state)`` holds.

    With ``monotone``, the caller's word that more events never make it false again, the states at ``boundaries`` (offsets
    that nowhere fall) are searched by halves, and events one by one only between two of them. Raises ReducerFailed when the
    predicate or a reducer does; ValueError for boundaries that fall, or without ``monotone``.
    """
    if boundaries and not monotone:
        raise ValueError("boundaries: only a monotone predicate can be searched by halves")
    asked = _Asked(predicate)
    events, running = reduction.ordered(history), reduction.begin()
    low = _certainly_false(asked, events, boundaries) if boundaries else 0
    for number, event in enumerate(events, 1):
        running.apply(event)
        if number > low and asked(running.state(), event):
            step = next(islice(steps(reduction, history, after=number - 1), 1))
            return FirstTrue(step, not boundaries, asked.count)
    return FirstTrue(None, not boundaries, asked.count)


class _Asked:
    """A predicate, how often it was asked, and its exceptions as ours."""

    def __init__(self, predicate: Predicate) -> None:
        self._predicate = predicate
        self.count = 0

    def __call__(self, state: State, event: RecordedEvent | None) -> bool:
        self.count += 1
        try:
            return bool(self._predicate(state))
        except Exception as error:
            raise ReducerFailed("predicate", "a boundary" if event is None else where(event), type(error).__name__) from error


def _certainly_false(asked: _Asked, events: Sequence[RecordedEvent], boundaries: Sequence[Boundary]) -> int:
    """How many of the first events a monotone predicate cannot be true after: those that the last false boundary contains."""
    for left, right in pairwise(boundaries):
        if any(right.ends.get(partition, 0) < end for partition, end in left.ends.items()):
            raise ValueError("boundaries: offsets fall from one to the next")
    first = bisect_left(boundaries, True, key=lambda boundary: asked(boundary.state, None))
    if first == 0:
        return 0
    ends = boundaries[first - 1].ends
    outside = (number for number, event in enumerate(events) if event.rows.offsets[event.index] >= ends.get(event.rows.topic_partition, 0))
    return next(outside, len(events))


def _touches(path: str, other: str) -> bool:
    """Whether one path is the other, or lies in it."""
    short, long = sorted((path, other), key=len)
    return long == short or (long.startswith(short) and long[len(short)] in ".[")


def _folded(reduction: Reduction, events: Sequence[RecordedEvent]) -> State:
    running = reduction.begin()
    for event in events:
        running.apply(event)
    return running.state()


def _until(reduction: Reduction, history: OwnerRows, moment: Moment) -> OwnerRows:
    """The rows below a moment; of so many events, the offsets that these reach."""
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise ValueError("a datetime without a zone could mean any hour; use datetime.now(timezone.utc)")
        until_us = us_of(moment)
        return _chosen(history, lambda rows, index: rows.times_us[index] <= until_us)
    if isinstance(moment, int):
        if moment < 0:
            raise ValueError("a number of events is 0 or more")
        ends: Mapping[TopicPartition, int] = {
            event.rows.topic_partition: event.rows.offsets[event.index] + 1 for event in reduction.ordered(history)[:moment]
        }
        return _chosen(history, lambda rows, index: rows.offsets[index] < ends.get(rows.topic_partition, 0))
    return _chosen(history, lambda rows, index: rows.offsets[index] < moment.get(rows.topic_partition, rows.offsets[index] + 1))


def _chosen(history: OwnerRows, passes: Callable[[Rows, int], bool]) -> OwnerRows:
    kept = {partition: [index for index in range(len(rows)) if passes(rows, index)] for partition, rows in history.items()}
    return {partition: take_rows(history[partition], indexes) for partition, indexes in kept.items() if indexes}
