"""Every metric that tallyroll counts, and the hook through which they leave.

Nothing is exported from here: a hook is any callable object with ``count``, ``observe`` and ``observe_many``; adapters bring
exporters. The names are part of the public surface. No label names an agent, a task or a user: their number has no bound,
and what is asked about one of them is answered by queries.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol

from tallyroll.events.names import OTHER_NAME

LABELS: Final = frozenset({"follower", "metric", "outcome", "partition", "reason", "rule", "severity", "sink", "tool", "topic", "version"})
"""Every label that a metric may have: names of which a system has tens, not thousands."""

MAX_VALUES: Final = 50
MAX_VALUE_CHARS: Final = 128
MAX_PARTITIONS: Final = 1_000  # numbers of our own log; folding them together would hide the one that is behind


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name as exported, what kind it is, its unit, labels and one line of help.

    ``known``: values of labels that exist before anything is counted; the metric appears at 0 with them. ``buckets``: upper
    bounds of a histogram's buckets, inclusive and ascending, without the last one, which has none.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if unbounded := set(self.labels) - LABELS:
            raise ValueError(f"{self.name}: label {min(unbounded)} is not among {', '.join(sorted(LABELS))}")
        if (self.kind == "histogram") != bool(self.buckets) or list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"{self.name}: a histogram, and nothing else, has ascending buckets")
        if not set(self.known) <= set(self.labels):
            raise ValueError(f"{self.name}: known values are of its own labels")


OUTCOMES: Final = ("succeeded", "failed")

_SHORT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

SEND_RATE = Metric(
    "kafka_producer_send_rate",
    "histogram",
    "events/s",
    "Acknowledged events, once a second while there are some.",
    buckets=(1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
)
PRODUCER_ERRORS = Metric(
    "kafka_producer_errors_total",
    "counter",
    "errors",
    "Reports of the log that were not a delivery.",
    ("reason",),
    known={"reason": ("_ALL_BROKERS_DOWN", "_MSG_TIMED_OUT", "_TRANSPORT")},
)
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
    "follow_repeats_total", "counter", "records", "Records dropped: applied before, or outrun by another of their version.", ("follower",)
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
DEAD_LETTERS = Metric(
    "dead_letters_total",
    "counter",
    "records",
    "Records put aside with their reason.",
    ("follower", "reason"),
    known={
        "reason": (
            "bad_data",
            "bad_time",
            "empty",
            "follower_failed",
            "no_aggregate",
            "not_an_event",
            "not_json",
            "too_deep",
            "unknown_schema",
        )
    },
)
FOLLOW_FLUSH_FAILURES = Metric(
    "follow_flush_failures_total", "counter", "failures", "Flushes that the store did not take; they are tried again.", ("follower",)
)
FOLLOW_LAG = Metric(
    "follow_lag_records",
    "gauge",
    "records",
    "Records of the log that the follower's group has not stored results of; while a service serves metrics.",
    ("follower", "topic", "partition"),
)
BUILD_INFO = Metric("tallyroll_build_info", "gauge", "info", "Always 1; the label says which version runs.", ("version",))
EVENTS_PROCESSED = Metric(
    "analytics_events_processed_total", "counter", "events", "Events that the analytics follower has put into panes.", ("topic",)
)
PANES_CLOSED = Metric(
    "analytics_panes_closed_total", "counter", "panes", "Panes whose end event time has passed; those of one minute count once per key."
)
WATERMARK_LAG = Metric(
    "analytics_watermark_lag_seconds",
    "gauge",
    "seconds",
    "How far event time is behind the clock in a partition.",
    ("topic", "partition"),
)
SKIPPED = Metric(
    "analytics_skipped_events_total",
    "counter",
    "records",
    "Records that no metric could measure.",
    ("reason",),
    known={"reason": ("bad_time", "undecodable", "unknown_schema")},
)
READ_RECORDS = Metric(
    "analytics_read_records_total",
    "counter",
    "records",
    "Records read: scanned by the compiled core, or decoded one by one; without the core all are.",
    ("outcome",),
    known={"outcome": ("decoded", "scanned")},
)
INVALID_VALUES = Metric(
    "analytics_invalid_values_total", "counter", "values", "Members of payloads that metrics read, and that have another type than that."
)
DUPLICATE_EVENTS = Metric(
    "analytics_duplicate_events_total", "counter", "events", "Events dropped: measured before, or outrun by another of their version."
)
FUTURE_EVENTS = Metric("analytics_future_events_total", "counter", "events", "Events whose time lay ahead of the log's, and was put back.")
LATE_EVENTS = Metric(
    "analytics_late_events_total",
    "counter",
    "events",
    "Events that came after their pane had closed: it was revised, or the event dropped, for no pane of its time is kept.",
    ("outcome",),
    known={"outcome": ("dropped", "revised")},
)
KEYS_OVERFLOWED = Metric(
    "analytics_keys_overflowed_total", "counter", "values", "Values counted under __other__, for there were too many keys.", ("metric",)
)
PAIRS_EXPIRED = Metric(
    "analytics_pairs_expired_total", "counter", "pairs", "Starts forgotten: no end came within a day, or too many were open."
)
PAIRS_UNMATCHED = Metric(
    "analytics_pairs_unmatched_total",
    "counter",
    "events",
    "Ends that had no value, for their start was not found in their partition.",
    ("metric",),
)
HELD_ROWS = Metric("analytics_held_rows", "gauge", "rows", "Rows of panes in memory.")
RUN_SECONDS = Metric("analytics_batch_seconds", "histogram", "seconds", "One run of the kernel, its observers included.", buckets=_SHORT_S)
FLUSH_SECONDS = Metric("analytics_flush_seconds", "histogram", "seconds", "One flush of panes and positions.", buckets=_SHORT_S)
REPLAY_SECONDS = Metric(
    "event_replay_duration_seconds",
    "histogram",
    "seconds",
    "One replay from its start to its answer, or to its failure.",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1_800),
)
RECONSTRUCTED = Metric(
    "state_reconstruction_success_rate",
    "histogram",
    "share",
    "Per replay the share of the records read that could be folded into states, 0 to 1; 0 for one that failed.",
    buckets=(0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1),
)
TASK_DURATION = Metric(
    "agent_task_duration_seconds",
    "histogram",
    "seconds",
    "From the start of a task to its end, of all agents.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600),
)
TASKS = Metric("agent_tasks_total", "counter", "tasks", "Ended tasks of all agents.", ("outcome",), known={"outcome": OUTCOMES})
TOKENS = Metric("agent_tokens_total", "counter", "tokens", "Tokens used by all agents.")
TOOL_CALLS = Metric(
    "agent_tool_calls_total", "counter", "calls", "Ended tool calls of all agents.", ("tool", "outcome"), known={"outcome": OUTCOMES}
)
ALERTS_SENT = Metric(
    "alerts_sent_total",
    "counter",
    "alerts",
    "Notices of alerts that a sink took, refused, or was given up on, and those that its queue had no room for at first.",
    ("sink", "outcome"),
    known={"outcome": ("delivered", "refused", "given_up", "overflowed")},
)
ANOMALIES = Metric(
    "anomalies_detected_total",
    "counter",
    "anomalies",
    "Incidents that detectors found, counted anew when they became worse.",
    ("metric", "severity"),
    known={"severity": ("low", "medium", "high", "critical")},
)
ALERT_LATENCY = Metric(
    "analytics_alert_latency_seconds",
    "histogram",
    "seconds",
    "From the making of the event that set off an alert, where its id tells, to the sink's acknowledgement.",
    ("sink",),
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600),
)

AUDIT_CREATED = Metric("audit_logs_created_total", "counter", "entries", "Audit entries sealed by this process.")
AUDIT_LOST = Metric(
    "audit_entries_lost_total",
    "counter",
    "records",
    "Sealed records that the log refused, after repeated tries: their numbers stay a gap in the ledger.",
)
VIOLATIONS = Metric("compliance_violations_total", "counter", "violations", "Breaches of rules in recorded entries.", ("rule", "severity"))
AUDIT_UNTOLD = Metric(
    "audit_untold_total",
    "counter",
    "tellings",
    "Calls of handlers and monitors, and events of violations, that were dropped: too many waited, or the log refused.",
    ("reason",),
    known={"reason": ("call", "event")},
)
AUDIT_CALLBACK_ERRORS = Metric(
    "audit_callback_errors_total", "counter", "errors", "Exceptions in handlers of violations and in real-time monitors."
)
REDIS_VIEWS = Metric("bridge_redis_views_total", "counter", "views", "States written to Redis that were new there.")
REDIS_FOREIGN = Metric(
    "bridge_redis_foreign_keys_total", "counter", "views", "States not written to Redis, because somebody else owns the key."
)
REDIS_REBUILDS = Metric(
    "bridge_redis_rebuilds_total", "counter", "partitions", "Partitions whose states in Redis are made from the start of the history."
)
NATS_FORWARDED = Metric("bridge_nats_messages_total", "counter", "messages", "Events forwarded to NATS and acknowledged there.")
NATS_TAKEN_IN = Metric(
    "bridge_nats_taken_in_total",
    "counter",
    "messages",
    "Messages from NATS: taken into the log, or dropped, for the log refused them, no event could be read, or they came from a log.",
    ("outcome",),
    known={"outcome": ("taken", "refused", "unreadable", "looped")},
)
OUTBOX_ROWS = Metric("bridge_outbox_rows", "gauge", "rows", "What waited in the outbox of created tasks at the last look.")
OUTBOX_EVENTS = Metric(
    "bridge_outbox_events_total",
    "counter",
    "events",
    "Events of created tasks: in the log, kept on disk, uncertain, refused by the log; of calls that a crash had cut off: dropped, for "
    "there was no task, or unresolved at a look, for nobody can say.",
    ("outcome",),
    known={"outcome": ("published", "kept", "uncertain", "refused", "dropped", "unresolved")},
)
BUS_PUBLISHED = Metric("bus_events_total", "counter", "events", "Events published on the bus of this process, once per durability.")
BUS_DROPPED = Metric(
    "bus_events_dropped_total",
    "counter",
    "events",
    "Events that a subscriber of the bus has missed, since its queue was full.",
    ("reason",),
    known={"reason": ("drop_oldest", "drop_newest", "coalesce", "block", "disconnect")},
)

AUDIT_SEALED = Metric(
    "audit_records_sealed_total",
    "counter",
    "records",
    "Records taken into the audit ledger: sealed by their writer (explicit), or made from an event (derived).",
    ("outcome",),
    known={"outcome": ("explicit", "derived")},
)
AUDIT_FINDINGS = Metric(
    "audit_findings_total",
    "counter",
    "findings",
    "What the sealer of the audit ledger found wrong; each is an entry of its own.",
    ("reason",),
    known={
        "reason": (
            *("backdated", "broken", "closed", "foreign", "forged", "fork", "gap", "postdated", "same_id", "silent", "unreadable"),
            *("unregistered", "witness", "drift", "one_person_decides", "overdue", "rewound"),
        )
    },
)
AUDIT_CHECKPOINTS = Metric("audit_checkpoints_total", "counter", "checkpoints", "Checkpoints over the whole audit ledger that were signed.")
AUDIT_WITNESS = Metric(
    "audit_witness_answers_total",
    "counter",
    "answers",
    "What a witness said to a checkpoint.",
    ("outcome",),
    known={"outcome": ("cosigned", "refused", "unavailable")},
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


class Telemetry(Protocol):
    """Where measurements go. Called from several threads; must be quick, must not block, must not raise.

    A label has tens of values, never thousands. Not promised: that a value beyond the first ones is kept apart.
    """

    def count(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        """Adds to a counter. Adding 0 says that it can be counted: it is there from now on, so that a first 1 is seen as a rise."""

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Sets a gauge (NaN: it has no value any more) or adds one observation to a histogram."""

    def observe_many(self, metric: Metric, counts: Sequence[int], total: float, /, **labels: str) -> None:
        """Adds observations to a histogram: how many fell into each of its buckets and beyond the last, and their sum."""


class Reading(NamedTuple):
    """One label set of a metric as it stands: ``value`` is the sum or last value, of a histogram the sum of observations.

    ``values`` in the order of the metric's labels; ``counts`` per bucket, the one without bound last, () but for histograms.
    """

    values: tuple[str, ...]
    value: float
    counts: tuple[int, ...] = ()


class _Series:
    __slots__ = ("counts", "value")

    def __init__(self, buckets: int) -> None:
        self.value = 0.0
        self.counts = [0] * (buckets + 1) if buckets else []


class _Family:
    """All label sets of one metric."""

    __slots__ = ("metric", "seen", "series")

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.seen: dict[str, set[str]] = {label: set(metric.known.get(label, ())) for label in metric.labels}
        self.series: dict[tuple[str, ...], _Series] = {}

    def at(self, values: tuple[str, ...]) -> _Series:
        if values not in self.series:
            self.series[values] = _Series(len(self.metric.buckets))
        return self.series[values]

    def bounded(self, label: str, value: str) -> str:
        """The value itself if it is a name and there are few of its label."""
        if len(value) > MAX_VALUE_CHARS or not value.isprintable():  # half a surrogate would spoil a whole scrape
            return OTHER_NAME
        seen = self.seen[label]
        if value not in seen:
            if len(seen) >= (MAX_PARTITIONS if label == "partition" else MAX_VALUES):
                return OTHER_NAME
            seen.add(value)
        return value

    def with_known(self, given: Mapping[str, str]) -> None:
        """Makes every label set of the values given and of all known values of the labels not given."""
        sets: list[tuple[str, ...]] = [()]
        for label in self.metric.labels:
            choices = (given[label],) if label in given else self.metric.known.get(label, ())
            sets = [(*one, choice) for one in sets for choice in choices]
        for values in sets:
            self.at(values)


class Counters:
    """Keeps sums, last values and histograms in memory: the default, what tests read and exporters show.

    Counters and histograms are there at 0 with the values their labels are known to have; the first count of one label set
    brings its neighbours with them. A label has ``MAX_VALUES`` values, whichever came first, then ``__other__``: memory is
    bounded. Labels that a metric does not have are dropped. Not promised: history, or percentiles; who scrapes has them.
    """

    def __init__(self, metrics: Sequence[Metric] = METRICS) -> None:
        self._lock = threading.Lock()
        self._families: dict[str, _Family] = {}
        self._called: dict[tuple[object, ...], _Series] = {}  # as callers name them, so that a count is one look-up
        for metric in metrics:
            self._family(metric)

    def count(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        key = (metric.name, *labels.items())
        with self._lock:
            (self._called.get(key) or self._find(key, metric, labels)).value += amount

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        key = (metric.name, *labels.items())
        with self._lock:
            if value != value:  # noqa: PLR0124  # NaN, at the price of one comparison
                if metric.kind == "gauge":
                    self._remove(metric, labels)
                return
            series = self._called.get(key) or self._find(key, metric, labels)
            if metric.kind == "histogram":
                series.value += value
                series.counts[bisect_left(metric.buckets, value)] += 1
            else:
                series.value = value

    def observe_many(self, metric: Metric, counts: Sequence[int], total: float, /, **labels: str) -> None:
        key = (metric.name, *labels.items())
        with self._lock:
            series = self._called.get(key) or self._find(key, metric, labels)
            series.value += total
            series.counts = [held + int(more) for held, more in zip(series.counts, counts, strict=True)]

    def value(self, metric: Metric, /, **labels: str) -> float:
        """The sum or last value, of a histogram the sum of observations, over all label sets that have these labels; else 0."""
        with self._lock:
            family = self._family(metric)
            wanted = [(metric.labels.index(label), value) for label, value in labels.items()]
            return sum(series.value for values, series in family.series.items() if all(values[at] == value for at, value in wanted))

    def readings(self) -> Iterator[tuple[Metric, list[Reading]]]:
        """Every metric with its label sets as they stand, each metric at one moment."""
        for name in list(self._families):
            with self._lock:
                family = self._families[name]
                rows = [Reading(values, series.value, tuple(series.counts)) for values, series in family.series.items()]
            yield family.metric, rows

    def _family(self, metric: Metric) -> _Family:
        family = self._families.get(metric.name)
        if family is None:
            family = self._families[metric.name] = _Family(metric)
            if metric.kind != "gauge":  # a gauge at 0 would be a statement
                family.with_known({})
        return family

    def _find(self, key: tuple[object, ...], metric: Metric, labels: Mapping[str, str]) -> _Series:
        family = self._family(metric)
        given = {label: family.bounded(label, labels.get(label, "")) for label in metric.labels}
        if metric.kind != "gauge":
            for label in metric.known:
                family.with_known({name: value for name, value in given.items() if name != label})
        series = family.at(tuple(given.values()))
        if given == labels:  # of what was bounded or dropped there may be any number
            self._called[key] = series
        return series

    def _remove(self, metric: Metric, labels: Mapping[str, str]) -> None:
        self._family(metric).series.pop(tuple(labels.get(label, "") for label in metric.labels), None)
        self._called = {key: series for key, series in self._called.items() if key[0] != metric.name}
