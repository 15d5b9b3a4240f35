"""Every record of some topics as it was published, from the archive and, behind it, from the log: for who counts, not folds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Span
from tallyroll.replay.plan import PartitionPlan, Plan, plan
from tallyroll.replay.replayer import Replayer


async def plan_records(
    replayer: Replayer,
    topics: Sequence[str],
    *,
    spans: Mapping[TopicPartition, tuple[int, int]] | None = None,
    allow_truncated: bool = False,
) -> Plan:
    """What there is of these topics (names), or of the offsets ``spans`` of some of their partitions.

    What was pruned is not there, and that is no error. Raises SpanGone where something else is gone, unless ``allow_truncated``;
    NoSuchOffset; as log and archive do.
    """
    ends = None if spans is None else {partition: end for partition, (_, end) in spans.items()}
    extents = await replayer.extents(topics, ends=ends)
    planned = plan(extents, ends=ends)
    begins = {} if spans is None else {partition: begin for partition, (begin, _) in spans.items()}
    for partition, gone in planned.missing.items():
        mark = extents[partition].mark
        needed = max(begins.get(partition, 0), mark.kept if mark is not None else 0)
        if not allow_truncated and any(end > needed for _, end in gone):
            raise planned.gone(extents)
    return Plan([_since(one, begins.get(one.partition, 0)) for one in planned.partitions])


def _since(planned: PartitionPlan, begin: int) -> PartitionPlan:
    archive, log = ((max(start, min(begin, end)), end) for start, end in (planned.archive, planned.log))
    return replace(planned, archive=archive, log=log)


async def records(replayer: Replayer, planned: Plan) -> AsyncGenerator[Batch, None]:
    """The records of a plan, a partition after the other, each in offset order; copies and garbage among them."""
    for one in planned.partitions:
        if replayer.archive is not None and one.archive[0] < one.archive[1]:
            archived = replayer.archive.records(one.partition, *one.archive)
            while (batch := await asyncio.to_thread(next, archived, None)) is not None:
                yield batch
        if one.log[0] < one.log[1]:
            async for batch in replayer.log.read([Span(*one.partition, *one.log)]):
                yield batch
