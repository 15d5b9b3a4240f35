"""Every metric that tallyroll counts, and the hook through which they leave.

Nothing is exported from here: a hook is any callable object with ``count`` and ``observe``; adapters bring exporters.
The names are part of the public surface; a metric that is not in METRICS cannot be sent.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name as exported, what kind it is, its unit, labels and one line of help."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()


SEND_RATE = Metric("kafka_producer_send_rate", "histogram", "events/s", "Acknowledged events, once a second while there are some.")
PRODUCER_ERRORS = Metric("kafka_producer_errors_total", "counter", "errors", "Reports of the log that were not a delivery.", ("reason",))
ACCEPTED = Metric(
    "publisher_events_accepted_total", "counter", "events", "Events taken in; equals the sum of delivered, rejected, spooled and in flight."
)
DELIVERED = Metric("publisher_events_delivered_total", "counter", "events", "Events the log has acknowledged.")
REJECTED = Metric("publisher_events_rejected_total", "counter", "events", "Events the log has refused for good.")
UNCERTAIN = Metric("publisher_events_uncertain_total", "counter", "events", "Events whose deadline passed before an answer.")
SHED = Metric("publisher_events_shed_total", "counter", "events", "Events refused because buffers and spool were full.")
SPOOLED = Metric("publisher_events_spooled_total", "counter", "events", "Events written to the spool.")
SPOOL_DEPTH = Metric("publisher_spool_depth", "gauge", "events", "Events that lie in the spool now.")
LANES_SPOOLING = Metric("publisher_lanes_spooling", "gauge", "partitions", "Partitions whose events go through the spool now.")
CALLBACK_ERRORS = Metric("publisher_callback_errors_total", "counter", "errors", "Exceptions in delivery callbacks and event handlers.")
CLIENT_RESTARTS = Metric(
    "kafka_client_restarts_total", "counter", "restarts", "Client instances replaced after a fatal error.", ("reason",)
)
FOLLOWED = Metric("follow_records_total", "counter", "records", "Records applied.", ("follower",))
FOLLOW_REPEATS = Metric(
    "follow_repeats_total", "counter", "records", "Records dropped because they had been applied before.", ("follower",)
)
FOLLOW_RETRIES = Metric("follow_retries_total", "counter", "retries", "Batches tried again after a retriable error.", ("follower",))
FOLLOW_CONFLICTS = Metric(
    "follow_position_conflicts_total", "counter", "conflicts", "Flushes that yielded to another writer.", ("follower",)
)
ARCHIVED = Metric("archive_records_total", "counter", "records", "Records written to the archive's tail.", ("topic",))
ARCHIVE_SEALED = Metric("archive_segments_sealed_total", "counter", "segments", "Segments sealed.", ("topic",))
ARCHIVE_SEAL_FAILURES = Metric(
    "archive_seal_failures_total", "counter", "failures", "Seals that failed and are tried again; the tail keeps the records.", ("topic",)
)
ARCHIVE_UNARCHIVED = Metric(
    "archive_unarchived_records", "gauge", "records", "Records of the log that are not archived yet.", ("topic", "partition")
)
ARCHIVE_HEADROOM = Metric(
    "archive_retention_headroom_seconds",
    "gauge",
    "seconds",
    "Time until the log forgets something that is not archived; 0 when it has happened.",
    ("topic", "partition"),
)
ANALYTICS_EVENTS = Metric("analytics_events_processed_total", "counter", "events", "Events measured, repeats left out.", ("topic",))
ANALYTICS_SKIPPED = Metric(
    "analytics_skipped_events_total", "counter", "records", "Records that could not be measured, whatever the metric.", ("reason",)
)
ANALYTICS_INVALID = Metric("analytics_invalid_values_total", "counter", "values", "Values and keys of a type that no metric can read.")
ANALYTICS_DUPLICATES = Metric(
    "analytics_duplicate_events_total", "counter", "events", "Events dropped because they had been measured before."
)
ANALYTICS_FUTURE = Metric(
    "analytics_future_events_total", "counter", "events", "Events whose time lay ahead of the log's, and was put back."
)
ANALYTICS_LATE = Metric(
    "analytics_late_events_total",
    "counter",
    "events",
    "Events after the end of their pane: it was revised, or they were dropped.",
    ("outcome",),
)
ANALYTICS_OVERFLOWED = Metric(
    "analytics_keys_overflowed_total", "counter", "values", "Values counted under __other__, for there are too many keys.", ("metric",)
)
ANALYTICS_PAIRS_EXPIRED = Metric(
    "analytics_pairs_expired_total", "counter", "pairs", "Starts forgotten: no end came within a day, or too many were open."
)
ANALYTICS_UNMATCHED = Metric(
    "analytics_pairs_unmatched_total", "counter", "events", "Ends without a start that said nothing of how long it took.", ("metric",)
)
ANALYTICS_WATERMARK_LAG = Metric(
    "analytics_watermark_lag_seconds", "gauge", "seconds", "Time since the largest event time of a partition.", ("topic", "partition")
)
ANALYTICS_ROWS = Metric("analytics_held_rows", "gauge", "rows", "Rows of panes in memory.")
ANALYTICS_BATCH = Metric("analytics_batch_seconds", "histogram", "seconds", "One run of the kernel, its observers included.")
ANALYTICS_FLUSH = Metric("analytics_flush_seconds", "histogram", "seconds", "One flush of panes, positions and documents.")
DEAD_LETTERS = Metric("dead_letters_total", "counter", "records", "Records put aside with their reason.", ("follower", "reason"))

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


class Telemetry(Protocol):
    """Where measurements go. Called from several threads; must be quick, must not block, must not raise."""

    def count(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        """Adds to a counter."""

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Sets a gauge or adds one observation to a histogram."""


class Counters:
    """Keeps sums and last values in memory: the default, and what tests read.

    Not promised: history, or percentiles; an exporter has them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)

    def count(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        with self._lock:
            self._values[metric.name, tuple(sorted(labels.items()))] += amount

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        with self._lock:
            self._values[metric.name, tuple(sorted(labels.items()))] = value

    def value(self, metric: Metric, /, **labels: str) -> float:
        """The sum or last value; without labels the sum over all label sets. 0 if never touched."""
        with self._lock:
            if labels:
                return self._values.get((metric.name, tuple(sorted(labels.items()))), 0.0)
            return sum(value for (name, _), value in self._values.items() if name == metric.name)
