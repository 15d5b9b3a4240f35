"""One owner's own events, from the archive and the log: what is stepped through, compared, and folded by users' reducers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tallyroll.errors import NoHistory
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Rows
from tallyroll.replay.fold import View
from tallyroll.replay.owners import owners_rows
from tallyroll.replay.plan import AsOfEventTime, AsOfOffsets, Coverage, plan
from tallyroll.replay.replayer import Replayer
from tallyroll.replay.selection import take_rows


@dataclass(frozen=True, slots=True)
class History:
    """An owner's events per partition, in offset order, copies left out; records whole. ``as_of``: how far was read.

    Not promised: that a fold counts all of them; garbage in a payload shows only then.
    """

    view: View
    owner: str
    rows: Mapping[TopicPartition, Rows]
    as_of: Mapping[TopicPartition, int]
    coverage: Coverage

    @property
    def events(self) -> int:
        """How many there are."""
        return sum(map(len, self.rows.values()))


async def history(  # noqa: PLR0913  # whose, up to where, and from where
    replayer: Replayer,
    view: View,
    owner: str,
    target: AsOfEventTime | AsOfOffsets | None = None,
    *,
    topics: Collection[str] | None = None,
    allow_truncated: bool = False,
) -> History:
    """Everything that the archive and the log have of one owner up to a target.

    ``topics``: base names to look in, those of the view unless given. Raises NoHistory if there is nothing; SpanGone where
    a part of the history is gone, unless ``allow_truncated``; as the log and the archive do.
    """
    names = sorted(replayer.catalogue[base].name for base in (view.topics if topics is None else topics))
    ends = target.ends if isinstance(target, AsOfOffsets) else None
    until_us = target.until_us if isinstance(target, AsOfEventTime) else None
    extents = await replayer.extents(names, ends=ends)
    planned = plan(extents, ends=ends)
    if planned.missing and not allow_truncated:
        raise planned.gone(extents)
    found = (await owners_rows(replayer.log, replayer.archive, planned, view, [owner]))[owner]
    rows = {partition: chosen for partition, own in found.items() if (chosen := _until(own, until_us)) is not None}
    if not rows:
        raise NoHistory(view.name, owner, first_us=min((own.times_us[0] for own in found.values()), default=None))
    return History(view, owner, rows, planned.as_of, planned.coverage)


def _until(rows: Rows, until_us: int | None) -> Rows | None:
    if until_us is None:
        return rows
    kept = [index for index, time_us in enumerate(rows.times_us) if time_us <= until_us]
    return take_rows(rows, kept) if kept else None
