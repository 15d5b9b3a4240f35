"""Proving a history's derived things against the history itself: snapshots, and how far followers say they have read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from tallyroll.errors import SegmentDamaged, SnapshotMismatch, SpanGone
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Archive
from tallyroll.replay.fold import View, state_hash
from tallyroll.replay.plan import AsOfOffsets, ReplayMode
from tallyroll.replay.policy import Policy
from tallyroll.replay.replayer import Ask, Replayer


class Wrong(NamedTuple):
    """Something that does not hold: of which kind, where, and what."""

    kind: str
    where: str
    detail: str


@dataclass(slots=True)
class Verified:
    """What was compared, and what did not hold; ``pruned`` owners have no events from zero on any more."""

    owners: int = 0
    pruned: int = 0
    snapshots: int = 0
    heads: int = 0
    wrong: list[Wrong] = field(default_factory=list)


async def verify_sample(replayer: Replayer, verified: Verified, *, sample: int, seed: int) -> AsyncGenerator[int, None]:
    """Folds a sample of owners of each view from zero, and from the newest snapshot, to the same offsets; gives the count so far.

    Owners are drawn from those that have snapshots, ``sample`` a view; ``seed`` decides which. Not promised: to find a bad
    snapshot of an owner that was not drawn.
    """
    rng = Random(seed)  # noqa: S311  # a sample that can be drawn again
    lenient = Policy().but(unknown_schema="warn")
    for view in replayer.fold.views:
        owners = [] if replayer.archive is None else await asyncio.to_thread(_owners, replayer, view, replayer.archive)
        for owner in sorted(rng.sample(owners, min(sample, len(owners)))):
            try:
                quick = await replayer.replay(Ask(view, owner, ReplayMode.INCREMENTAL, policy=lenient))
                full = await replayer.replay(Ask(view, owner, target=AsOfOffsets(quick.as_of), policy=lenient))
            except SpanGone as gone:
                if not gone.pruned:
                    raise
                verified.pruned += 1
                continue
            except SegmentDamaged as damaged:  # one finding however many owners need it, also where digests have named it
                if ("segment_damaged", damaged.segment) not in {(one.kind, one.where) for one in verified.wrong}:
                    verified.wrong.append(Wrong("segment_damaged", damaged.segment, damaged.reason))
                continue
            verified.owners += 1
            verified.snapshots += quick.tally.snapshots
            if quick.finding_counts.get("snapshot_corrupt"):
                verified.wrong.append(Wrong("snapshot_corrupt", f"{view.name} {owner}", "its bytes are not what was kept"))
            if {name: state_hash(state) for name, state in quick.states.items()} != {
                name: state_hash(state) for name, state in full.states.items()
            }:
                error = SnapshotMismatch(f"{view.name} {owner}", "snapshot and tail do not come to what all events come to")
                verified.wrong.append(Wrong("snapshot_mismatch", error.where, error.reason))
            yield verified.owners


async def verify_heads(replayer: Replayer, verified: Verified, stored: Mapping[str, Mapping[TopicPartition, int]]) -> None:
    """Whether anybody has applied records that the log does not have any more: the loss that no reader of the log can see.

    ``stored`` maps followers to the next offsets that they have stored.
    """
    topics = sorted({partition.topic for positions in stored.values() for partition in positions})
    ends = await replayer.log.ends(topics) if topics else {}
    for follower, positions in sorted(stored.items()):
        for partition, position in sorted(positions.items()):
            verified.heads += 1
            if position > ends.get(partition, 0):
                lost = position - ends.get(partition, 0)
                verified.wrong.append(
                    Wrong("head_lost", str(partition), f"{follower} has applied {lost} records that the log does not have")
                )


def _owners(replayer: Replayer, view: View, archive: Archive) -> Sequence[str]:
    topics = {replayer.catalogue[base].name for base in view.topics}
    partitions = [one for one in replayer.catalogue.partitions(view.topics) if one.topic in topics]
    marks, reducer_id = archive.marks(partitions), replayer.fold.reducer_ids[view.name]
    return sorted({one.owner for where, mark in marks.items() for one in archive.parts(where, view.name, reducer_id, end=mark.sealed)})
