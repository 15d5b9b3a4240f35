"""State from the log alone: the live fold over a bounded span. Publishes nothing, commits nothing, joins no group."""

from __future__ import annotations

import types
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tallyroll.errors import SpanGone, Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import EventLog, Span
from tallyroll.replay.fields import Place
from tallyroll.replay.findings import Finding, Findings, SequenceCheck
from tallyroll.replay.fold import Fold, Part, State, View, join, state_hash, states_hash
from tallyroll.replay.partition import Cut, PartitionFold
from tallyroll.replay.views import FOLD, Coverage, show

SKEW: Final = timedelta(minutes=5)  # the disorder of event times that is expected of clocks and publishers' spools
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay made of the log, and of which span.

    ``as_of`` is the offset vector that was read: per partition the first offset that was not; the same vector gives the
    same states again. ``truncated`` coverage: ``missing`` maps partitions to the first offset that still exists.
    ``final`` is false while an event that belongs into the answer may still come. ``records`` were read,
    ``events_applied`` changed a state. ``findings`` are the first 1,000, ``finding_counts`` all of them.
    """

    view: View
    states: Mapping[str, State]
    as_of: Mapping[TopicPartition, int]
    until: datetime | None
    coverage: Coverage
    missing: Mapping[TopicPartition, int]
    final: bool
    records: int
    events_applied: int
    findings: Sequence[Finding]
    finding_counts: Mapping[str, int]
    reducer_id: str

    @property
    def state_hash(self) -> str:
        """SHA-256 in hex: of the one state there is, or of the sorted set of states."""
        return state_hash(next(iter(self.states.values()))) if len(self.states) == 1 else states_hash(self.states)

    def shown(self, owner: str) -> dict[str, Any] | None:
        """An owner's state for callers: an AgentState, TaskState or WorkflowState; None if no event named it."""
        state = self.states.get(owner)
        return None if state is None else show(self.view, owner, state, coverage=self.coverage, as_of=self.as_of)


async def replay(  # noqa: PLR0913  # a log, what to make of it, and up to where
    log: EventLog,
    catalogue: Catalogue,
    view: View,
    owner: str | None = None,
    until: datetime | None = None,
    *,
    as_of_offsets: Mapping[TopicPartition, int] | None = None,
    allow_truncated: bool = False,
    skew: timedelta = SKEW,
    fold: Fold = FOLD,
) -> Replayed:
    """The states of a view, or of one owner, made of every record below the log's present ends, each read once.

    ``until`` keeps to events with that time or an earlier one (inclusive), wherever they lie; reading goes on behind it,
    since event times do not rise with offsets. ``as_of_offsets`` keeps to the records below these offsets and reads no
    partition that is not named. Equal to the stored state wherever both have read as far: it is the same fold.
    Raises ValueError for a naive ``until``, for both targets at once and for offsets beyond the end; SpanGone where
    retention removed the start, unless ``allow_truncated``; LogUnavailable.
    """
    if until is not None and as_of_offsets is not None:
        raise ValueError("either until or as_of_offsets")
    cut = None if until is None else Cut(_micros(until), skew // _MICROSECOND)
    bases = {catalogue[base].name: base for base in view.topics}
    spans, missing = await _spans(log, sorted(bases), as_of_offsets)
    if missing and not allow_truncated:
        raise SpanGone({str(partition): start for partition, start in missing.items()})
    run = _Run(
        {
            TopicPartition(span.topic, span.partition): _Lane(
                PartitionFold(fold, span.topic, bases[span.topic], span.partition, view=fold.index(view.name), owner=owner, cut=cut),
                SequenceCheck(span.topic, span.partition),
            )
            for span in spans
        },
        one_owner=owner is not None,
    )
    readable = [span for span in spans if span.start < span.end]
    if readable:
        async for batch in log.read(readable):
            run.apply(batch)
            await _turn()
    run.close()
    return Replayed(
        view,
        run.states(view, fold.index(view.name)),
        as_of={TopicPartition(span.topic, span.partition): span.end for span in spans},
        until=until,
        coverage="truncated" if missing else "complete",
        missing=missing,
        final=as_of_offsets is not None or (cut is not None and run.has_passed(cut)),
        records=run.records,
        events_applied=run.events_applied,
        findings=tuple(run.findings.listed),
        finding_counts=dict(run.findings.counts),
        reducer_id=fold.reducer_ids[view.name],
    )


async def _spans(
    log: EventLog, topics: Sequence[str], as_of: Mapping[TopicPartition, int] | None
) -> tuple[list[Span], dict[TopicPartition, int]]:
    """What to read, and where the start is gone. Ends first: a writer that goes on must not make the replay endless."""
    ends = await log.ends(topics)
    starts = await log.starts(topics)
    if as_of is not None:
        for partition, offset in as_of.items():
            if not 0 <= offset <= ends.get(partition, -1):
                raise ValueError(f"as_of_offsets: {partition} has no offset {offset} in this view")
        ends = as_of
    # A log may be cut at its start between the two questions; then the span is empty, not negative.
    spans = [Span(*partition, min(starts.get(partition, 0), end), end) for partition, end in sorted(ends.items())]
    return spans, {partition: starts[partition] for partition, end in sorted(ends.items()) if starts.get(partition, 0) > 0 and end > 0}


@dataclass(slots=True)
class _Lane:
    fold: PartitionFold
    sequences: SequenceCheck


@dataclass(slots=True)
class _Run:
    """A replay under way."""

    lanes: Mapping[TopicPartition, _Lane]
    one_owner: bool
    findings: Findings = field(default_factory=Findings)
    records: int = 0
    events_applied: int = 0

    def apply(self, batch: Batch) -> None:
        lane = self.lanes[batch.topic_partition]
        applied = lane.fold.apply(batch)
        self.records += len(batch)
        self.events_applied += applied.changed
        copies = set()
        for found in applied.found:
            if found.kind in ("repeat", "duplicate"):
                copies.add(found.index)
            self._add(lane, Finding(found.kind, batch.position(found.index), found.reason, _aggregate(batch, found.index)))
        offsets = batch.offsets
        for index, head in enumerate(batch.heads()):
            if not isinstance(head, Undecodable) and index not in copies:
                lane.sequences.feed(offsets[index], head)

    def close(self) -> None:
        """Adds what is only sure at the end."""
        for lane in self.lanes.values():
            for finding in lane.sequences.findings():
                self._add(lane, finding)

    def _add(self, lane: _Lane, finding: Finding) -> None:
        """Of one owner's replay only what concerns the owner, and records of which nobody can tell whose they are."""
        if not self.one_owner or not finding.aggregate or finding.kind == "skew_exceeded" or finding.aggregate in lane.fold.aggregates:
            self.findings.add(finding)

    def states(self, view: View, number: int) -> dict[str, State]:
        parts: dict[str, list[tuple[Place, Part]]] = {}
        for partition, lane in self.lanes.items():
            for owner, part in lane.fold.parts(number).items():
                parts.setdefault(owner, []).append((Place(*partition), part))
        joined = {owner: join(view, own) for owner, own in parts.items()}
        return {owner: state for owner, state in sorted(joined.items()) if state is not None}

    def has_passed(self, cut: Cut) -> bool:
        """Whether the log has gone on for longer than the expected disorder, and nothing came later than that."""
        peak = max((lane.fold.peak_us for lane in self.lanes.values()), default=0)
        return peak > cut.until_us + cut.skew_us and not self.findings.counts["skew_exceeded"]


def _aggregate(batch: Batch, index: int) -> str:
    head = batch.heads()[index]
    return "" if isinstance(head, Undecodable) else f"{head.aggregatetype}:{head.aggregateid}"


def _micros(moment: datetime) -> int:
    if moment.utcoffset() is None:
        raise ValueError("until: a datetime without a zone could mean any hour; use datetime.now(timezone.utc)")
    return (moment - _EPOCH) // _MICROSECOND


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """Lets the event loop serve others between two batches."""
    yield
