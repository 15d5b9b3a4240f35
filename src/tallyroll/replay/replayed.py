"""What a replay answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from tallyroll.events.event import iso
from tallyroll.events.position import TopicPartition
from tallyroll.replay.findings import Finding
from tallyroll.replay.fold import State, View, state_hash, states_hash
from tallyroll.replay.plan import Coverage, ReplayMode
from tallyroll.replay.reading import Tally
from tallyroll.replay.shown import show
from tallyroll.replay.snapshots import StateSnapshot


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay made of the history, and of which span.

    ``as_of`` is the offset vector that was read: per partition the first offset that was not; the same vector gives the
    same states again, in every mode; ``at_offsets``: it was asked for. ``until`` is the event time at which counting
    stopped. ``final`` is false while an event that belongs into the answer may still come. ``coverage`` says how much of the
    history there was; ``missing`` lists the half-open spans of offsets that are gone. ``partial_state``: a filter left
    events out, so the states are of those alone. ``snapshot`` is ``none`` where none could be used, else how many were.
    ``findings`` are the first 1,000 that the policy lists, ``finding_counts`` all of them. ``duration_s`` is wall time.
    """

    view: View
    states: Mapping[str, State]
    mode: ReplayMode
    as_of: Mapping[TopicPartition, int]
    until: datetime | None
    coverage: Coverage
    missing: Mapping[TopicPartition, Sequence[tuple[int, int]]]
    final: bool
    tally: Tally
    findings: Sequence[Finding]
    finding_counts: Mapping[str, int]
    reducer_id: str
    workers: int = 1
    partial_state: bool = False
    duration_s: float = 0.0
    at_offsets: bool = False
    processes: Sequence[int] = field(default_factory=tuple)

    @property
    def target(self) -> Literal["now", "offsets", "event_time"]:
        """Which kind of moment the answer is of: all there was, below given offsets, or up to a time."""
        if self.until is not None:
            return "event_time"
        return "offsets" if self.at_offsets else "now"

    @property
    def records(self) -> int:
        """How many records were read, from the archive and from the log."""
        return self.tally.archived + self.tally.logged

    @property
    def events_applied(self) -> int:
        """How many events changed a state in this replay; those behind a snapshot are not among them."""
        return self.tally.folded

    @property
    def events_skipped(self) -> int:
        """How many events the filter left out after they were read."""
        return self.tally.skipped

    @property
    def snapshot(self) -> str:
        """``none``, or how many snapshots the answer began with."""
        return str(self.tally.snapshots) if self.tally.snapshots else "none"

    @property
    def state_hash(self) -> str:
        """SHA-256 in hex: of the one state there is, or of the sorted set of states."""
        return state_hash(next(iter(self.states.values()))) if len(self.states) == 1 else states_hash(self.states)

    @property
    def set_hash(self) -> str:
        """SHA-256 in hex of the sorted set of states, however many there are."""
        return states_hash(self.states)

    def snapshot_of(self, owner: str, created_at: datetime) -> StateSnapshot | None:
        """An owner's state in a form to keep; None if no event named it."""
        state = self.states.get(owner)
        if state is None:
            return None
        as_of = {str(partition): end for partition, end in sorted(self.as_of.items())}
        kind = f"{self.view.name}_state"
        return StateSnapshot(owner, kind, state, as_of, sum(as_of.values()), iso(created_at), state_hash(state))

    def shown(self, owner: str) -> dict[str, Any] | None:
        """An owner's state for callers, such as an AgentState; None if no event named it."""
        state = self.states.get(owner)
        return None if state is None else show(self.view, owner, state, coverage=self.coverage, as_of=self.as_of)


class Progress(NamedTuple):
    """How far a replay is: ``done`` of ``total`` offsets, in percent, and after how many seconds."""

    replay_id: str
    state_type: str
    done: int
    total: int
    elapsed_s: float
    finished: bool = False

    @property
    def percent(self) -> float:
        """0 to 100; 100 where there is nothing to read."""
        return 100.0 * self.done / self.total if self.total else 100.0
