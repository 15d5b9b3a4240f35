"""Verifying the publisher chain over what the log holds: loss, reorder and alteration between publisher and reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tallyroll.errors import Undecodable
from tallyroll.events.chain import ChainChecker, ChainFinding
from tallyroll.events.position import TopicPartition
from tallyroll.ports import EventLog, Span


@dataclass(slots=True)
class ChainReport:
    """The verdict per partition. ``unlinked`` records carry no chain (other producers, dead letters)."""

    records: int = 0
    linked: int = 0
    unlinked: int = 0
    repeats: int = 0
    sessions: int = 0
    truncated: list[TopicPartition] = field(default_factory=list)
    findings: list[tuple[TopicPartition, ChainFinding]] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether nothing is missing, altered or out of order among the linked records."""
        return not self.findings


async def verify_chain(log: EventLog, topics: Sequence[str]) -> ChainReport:
    """Reads the named topics from their start to their present end and checks every session's chain.

    Where retention removed the start (``truncated``), a session is judged from its first record that is still there. Not
    promised: that the newest records of a session are not missing; nobody who only reads the log can tell.
    """
    starts, ends = await log.starts(topics), await log.ends(topics)
    checkers = {partition: ChainChecker(from_start=starts[partition] == 0) for partition in ends}
    report = ChainReport(truncated=sorted(partition for partition, start in starts.items() if start > 0))
    async for batch in log.read([Span(*partition, starts[partition], end) for partition, end in ends.items()]):
        checker = checkers[batch.topic_partition]
        report.records += len(batch)
        heads = [None if isinstance(head, Undecodable) else head for head in batch.heads()]
        for _, finding in checker.feed_all(batch.offsets, batch.values, heads):
            report.findings.append((batch.topic_partition, finding))
    for partition, checker in checkers.items():
        report.linked += checker.linked
        report.unlinked += checker.unlinked
        report.repeats += checker.repeats
        report.sessions += checker.sessions
        report.findings += [(partition, finding) for finding in checker.open_gaps()]
    return report
