"""What would have been: an owner's history with some events dropped, replaced or put in, folded in memory.

The answer is marked ``hypothetical``, and there is nothing on it by which it could be stored, kept as a snapshot or
published. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final, Literal, NamedTuple

import msgspec
from msgspec.structs import force_setattr

from tallyroll.events.codec import decode, encode
from tallyroll.events.event import AgentEvent, agent_of
from tallyroll.events.moments import moment_at, us_of
from tallyroll.events.payload import clean_payload
from tallyroll.events.position import TopicPartition
from tallyroll.events.recorded import events_rows
from tallyroll.events.rows import Rows, Subject
from tallyroll.events.types import type_info
from tallyroll.replay.differences import Change, diff
from tallyroll.replay.fold import State, state_hash
from tallyroll.replay.judge import agent_in
from tallyroll.replay.order import OwnerRows
from tallyroll.replay.reduction import Reduction
from tallyroll.replay.steps import final_state

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Drop:
    """As if the event had not been published."""

    event_id: str


@dataclass(frozen=True, slots=True)
class Replace:
    """As if the event, at its place, had been another one; what is None stays as it was recorded. ``timestamp`` is aware."""

    event_id: str
    payload: Mapping[str, Any] | None = None
    event_type: str | None = None
    timestamp: datetime | None = None
    schema_version: str | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """As if the event had been published too, directly after or before a recorded one, in the same partition.

    Give it a time: between partitions time decides which event is the newer one. It shares the offset of its neighbour.
    """

    event: AgentEvent
    after: str | None = None
    before: str | None = None

    def __post_init__(self) -> None:
        if (self.after is None) == (self.before is None):
            raise ValueError("Insert: name the event that it comes after, or the one that it comes before")


Edit = Drop | Replace | Insert


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The state as it is (``truth``), as it would be (``state``), and the paths that differ."""

    truth: State
    state: State
    changes: Sequence[Change]
    edits: Sequence[Edit]
    hypothetical: ClassVar[Literal[True]] = True

    @property
    def state_hash(self) -> str:
        """SHA-256 in hex over the state as it would be."""
        return state_hash(self.state)


def what_if(reduction: Reduction, history: OwnerRows, edits: Sequence[Edit]) -> Hypothesis:
    """An owner's state with its history edited, one edit after the other. The history itself is left as it is.

    Its rows must carry ids; an inserted event's id may be named by later edits. Raises ValueError for an id that is not
    there, InvalidEvent for a payload that no event can have, ReducerFailed.
    """
    truth, state = final_state(reduction, history), final_state(reduction, edited(history, edits))
    return Hypothesis(truth, state, diff(truth, state), tuple(edits))


def edited(history: OwnerRows, edits: Sequence[Edit]) -> OwnerRows:
    """The history with the edits made. Raises as ``what_if``."""
    lanes = {partition: _rows(rows) for partition, rows in history.items()}
    for edit in edits:
        if isinstance(edit, Insert):
            lane, at = _find(lanes, edit.after if edit.after is not None else edit.before or "")
            lanes[lane].insert(at + (edit.after is not None), _inserted(lane, lanes[lane][at].offset, edit.event))
        else:
            lane, at = _find(lanes, edit.event_id)
            lanes[lane][at : at + 1] = [] if isinstance(edit, Drop) else [_replaced(lanes[lane][at], edit)]
    return {lane: Rows(*lane, *map(list, zip(*rows, strict=True))) for lane, rows in lanes.items() if rows}


class _Row(NamedTuple):
    """A row of ``Rows``, in the order of its columns."""

    offset: int
    time_us: int
    event_type: str
    version: str
    subject: Subject
    data: bytes
    agent: str | None
    event_id: str
    value: bytes


def _rows(rows: Rows) -> list[_Row]:
    if rows.ids is None or rows.values is None:
        raise ValueError("what_if: these rows were read without ids and whole records")
    columns = (rows.offsets, rows.times_us, rows.types, rows.versions, rows.subjects, rows.data, rows.agents, rows.ids, rows.values)
    return list(map(_Row, *columns))


def _find(lanes: Mapping[TopicPartition, Sequence[_Row]], event_id: str) -> tuple[TopicPartition, int]:
    for lane, rows in sorted(lanes.items()):
        for at, row in enumerate(rows):
            if row.event_id == event_id:
                return lane, at
    raise ValueError(f"no event {event_id!r} in this history")


def _inserted(lane: TopicPartition, offset: int, event: AgentEvent) -> _Row:
    return _rows(events_rows(*lane, [event], first_offset=offset))[0]


def _replaced(row: _Row, edit: Replace) -> _Row:
    event = decode(row.value)
    if edit.payload is not None:
        data = _encode(clean_payload(dict(edit.payload)))
        agent = agent_of(row.subject.aggregatetype, row.subject.aggregateid, agent_in(data))
        row = row._replace(data=data, agent=agent)
        force_setattr(event, "payload", msgspec.json.decode(data))
    if edit.event_type is not None:
        if type_info(edit.event_type) is None:
            raise ValueError(f"Replace: {edit.event_type!r} is no event type; own ones go through register_event_type()")
        row = row._replace(event_type=str(edit.event_type))
        force_setattr(event, "event_type", row.event_type)
    if edit.timestamp is not None:
        if edit.timestamp.utcoffset() is None:
            raise ValueError("Replace: a timestamp without a zone could mean any hour; use datetime.now(timezone.utc)")
        row = row._replace(time_us=us_of(edit.timestamp))
        force_setattr(event, "timestamp", moment_at(row.time_us))
    if edit.schema_version is not None:
        row = row._replace(version=edit.schema_version)
        force_setattr(event, "schema_version", edit.schema_version)
    return row._replace(value=encode(event))
