"""What the kernel has met, as metrics of this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tallyroll.analytics.gathered import Tally
from tallyroll.analytics.pairs import pairs_of
from tallyroll.analytics.spec import MetricSpec
from tallyroll.telemetry import (
    DUPLICATE_EVENTS,
    EVENTS_PROCESSED,
    FUTURE_EVENTS,
    INVALID_VALUES,
    KEYS_OVERFLOWED,
    LATE_EVENTS,
    PAIRS_UNMATCHED,
    READ_RECORDS,
    SKIPPED,
    Telemetry,
)


def announce(telemetry: Telemetry, topics: Iterable[str], specs: Sequence[MetricSpec]) -> None:
    """Every label set at 0, so that the first count of it is seen as a rise."""
    for topic in topics:
        telemetry.count(EVENTS_PROCESSED, 0, topic=topic)
    for spec in specs:
        telemetry.count(KEYS_OVERFLOWED, 0, metric=spec.name)
        if any(pairs_of(spec)):
            telemetry.count(PAIRS_UNMATCHED, 0, metric=spec.name)
    count_run(telemetry, Tally())


def count_run(telemetry: Telemetry, tally: Tally) -> None:
    """Adds one run."""
    for topic, events in tally.events.items():
        telemetry.count(EVENTS_PROCESSED, events, topic=topic)
    for outcome, records in tally.read.items():
        telemetry.count(READ_RECORDS, records, outcome=outcome)
    for reason, records in tally.skipped.items():
        telemetry.count(SKIPPED, records, reason=reason)
    for metric, values in tally.overflowed.items():
        telemetry.count(KEYS_OVERFLOWED, values, metric=metric)
    for metric, events in tally.unmatched.items():
        telemetry.count(PAIRS_UNMATCHED, events, metric=metric)
    telemetry.count(LATE_EVENTS, tally.revised, outcome="revised")
    telemetry.count(LATE_EVENTS, tally.dropped, outcome="dropped")
    telemetry.count(DUPLICATE_EVENTS, tally.duplicates)
    telemetry.count(INVALID_VALUES, tally.invalid)
    telemetry.count(FUTURE_EVENTS, tally.future)
