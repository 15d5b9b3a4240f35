"""Publishing recorded runs once: what is in the log already is not published again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from tallyroll.capture.recording import Skipped
from tallyroll.errors import Undecodable
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import Position
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Delivered, EventLog, Outcome, Span
from tallyroll.publish.publisher import EventPublisher

_CHUNK: Final = 5_000  # events looked up and published together; bounds memory to some 20 MB

Progress = Callable[[int], None]
"""Told how many events have been dealt with so far."""


@dataclass(slots=True)
class ImportReport:
    """What an import did. ``failed`` pairs event ids with what the log said; import again to publish those."""

    published: int = 0
    already_there: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    last: dict[str, Position] = field(default_factory=dict)


async def publish_new(
    log: EventLog,
    catalogue: Catalogue,
    publisher: EventPublisher,
    items: Iterable[AgentEvent | Skipped],
    *,
    progress: Progress | None = None,
) -> ImportReport:
    """Publishes, in order, the events whose ids are not in the log.

    Idempotent: ids come from the recording, so importing again adds nothing, also after an import that was cut off.
    ``last`` holds the newest position per ``topic/partition``, to wait for. Not promised: the same for two imports of one
    file at the same moment; followers drop the repeats then.
    """
    report = ImportReport()
    there = await _ids_in(log, catalogue)
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        report.skipped += [item for item in chunk if isinstance(item, Skipped)]
        events = [item for item in chunk if isinstance(item, AgentEvent)]
        fresh = [event for event in events if event.event_id not in there]
        there.update(event.event_id for event in fresh)
        report.already_there += len(events) - len(fresh)
        _note(report, fresh, await publisher.publish_batch(fresh))
        if progress is not None:
            progress(report.published + report.already_there + len(report.skipped) + len(report.failed))
    return report


def _note(report: ImportReport, events: Sequence[AgentEvent], outcomes: Sequence[Outcome]) -> None:
    for event, outcome in zip(events, outcomes, strict=True):
        if isinstance(outcome, Delivered):
            report.published += 1
            report.last[str(outcome.position.topic_partition)] = outcome.position
        else:
            report.failed.append((event.event_id, str(outcome.error)))


async def _ids_in(log: EventLog, catalogue: Catalogue) -> set[str]:
    """Every event id in the topics that users publish to. One pass over the log: some 400,000 records a second."""
    topics = [topic.name for topic in catalogue.topics if topic.user]
    starts, ends = await log.starts(topics), await log.ends(topics)
    ids: set[str] = set()
    async for batch in log.read([Span(*partition, starts[partition], end) for partition, end in ends.items()]):
        ids.update(head.id for head in batch.heads() if not isinstance(head, Undecodable))
    return ids
