"""Records that a fold met and could not count, noted when snapshots were made: an answer that begins with those must tell of them. Pure.

What cannot be folded depends on the reducer, so a note counts for the one that made it, and only below the snapshots that are
used; behind them the fold meets the records itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.event import agent_of
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.rows import Rows, Subject
from tallyroll.ports import ArchivedFinding
from tallyroll.replay.applied import Found
from tallyroll.replay.findings import Finding
from tallyroll.replay.fold import View
from tallyroll.replay.judge import agent_in

_PREFIX: Final = "unfolded:"
_KINDS: Final = ("poison", "unknown_schema")
_encode: Final = msgspec.json.Encoder().encode


class Unfolded(NamedTuple):
    """One such record: of which reducer, whose it is (see ``owner_of``), its event time, and what was wrong."""

    reducer_id: str
    owner: str | None
    time_us: int
    kind: str
    reason: str


_decode: Final = msgspec.json.Decoder(Unfolded).decode


def unfolded(view: View, reducer_id: str, rows: Rows, found: Sequence[Found]) -> Iterator[ArchivedFinding]:
    """Notes of what a fold of the rows found, of the types that the view counts: a full fold of the view tells of no others."""
    for one in found:
        at = one.index
        owner = owner_of(view, rows.subjects[at], rows.agents[at])
        if one.kind in _KINDS and rows.types[at] in view.types:
            note = Unfolded(reducer_id, owner, rows.times_us[at], one.kind, one.reason)
            yield ArchivedFinding(f"{_PREFIX}{one.kind}", rows.offsets[at], _encode(note).decode(), rows.subjects[at].key)


def owner_of(view: View, subject: Subject, agent: str | None) -> str | None:
    """Whose a record is that was not folded: empty where nobody can know, None if certainly nobody's of the view."""
    if view.owner == "agent":
        return agent or ""
    if view.owner == "aggregate":
        return subject.key
    return subject.aggregateid if subject.aggregatetype == view.owner else None


class Below(NamedTuple):
    """For what snapshots are used: of which reducer, up to which offset, event time and of which owner (None: all)."""

    reducer_id: str
    base: int
    until_us: int | None
    owner: str | None


def finding_of(found: ArchivedFinding, where: TopicPartition, below: Below, *, checked: bool) -> Finding | None:
    """What an answer has to tell of a finding of the archive; None for nothing. ``checked``: of others than notes too."""
    note, position = noted(found), Position(*where, found.offset)
    if note is None:
        return Finding(found.kind, position, found.reason, found.aggregate, found.missing) if checked else None  # type: ignore[arg-type]  # what kinds there are is the archive's word
    counts = (
        found.offset < below.base and note.reducer_id == below.reducer_id and (below.until_us is None or note.time_us <= below.until_us)
    )
    theirs = below.owner is not None and note.owner not in ("", below.owner)
    return Finding(note.kind, position, note.reason, found.aggregate) if counts and not theirs else None  # type: ignore[arg-type]  # as above


def is_anothers(found: Found, view: View, owner: str | None, read: Rows | Batch) -> bool:
    """Whether an event of a newer version is certainly not of the owner who is asked for."""
    if owner is None or found.kind != "unknown_schema":
        return False
    if isinstance(read, Rows):
        whose = owner_of(view, read.subjects[found.index], read.agents[found.index])
    else:
        head = read.heads()[found.index]
        if isinstance(head, Undecodable):
            return False
        of = Subject(head.aggregatetype, head.aggregateid)
        whose = owner_of(view, of, agent_of(of.aggregatetype, of.aggregateid, agent_in(head.data)))
    return whose not in ("", owner)


def aggregate_of(batch: Batch, index: int) -> str:
    """The key of a record's aggregate, empty where it cannot be read."""
    head = batch.heads()[index]
    return "" if isinstance(head, Undecodable) else f"{head.aggregatetype}:{head.aggregateid}"


def noted(found: ArchivedFinding) -> Unfolded | None:
    """The note that a finding of the archive is; None if it is another finding."""
    return _decode(found.reason) if found.kind.startswith(_PREFIX) else None
