"""What a scraper reads is what was counted, in both text formats, and nothing else."""

from __future__ import annotations

import prometheus_client
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tallyroll.adapters.prometheus.exporter import CountersCollector, PrometheusExporter
from tallyroll.events.names import OTHER_NAME
from tallyroll.telemetry import BUILD_INFO, DEAD_LETTERS, METRICS, SPOOL_DEPTH, TASK_DURATION, TASKS, Counters

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def scraped(counters: Counters) -> dict[str, prometheus_client.Metric]:
    body, content_type = PrometheusExporter(counters).text("")
    assert content_type.startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def values(family: prometheus_client.Metric, suffix: str = "") -> dict[tuple[tuple[str, str], ...], float]:
    return {tuple(sorted(one.labels.items())): one.value for one in family.samples if one.name == family.name + suffix}


def test_every_metric_is_exported_with_its_kind_and_help_and_no_other() -> None:
    families = scraped(Counters())
    assert {name: (family.type, family.documentation) for name, family in families.items()} == {
        metric.name.removesuffix("_total"): (metric.kind, metric.help) for metric in METRICS
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("kafka_producer_send_rate", "histogram"),
        ("kafka_producer_errors", "counter"),
        ("analytics_events_processed", "counter"),
        ("anomalies_detected", "counter"),
        ("event_replay_duration_seconds", "histogram"),
        ("state_reconstruction_success_rate", "histogram"),
    ],
)
def test_the_names_that_dashboards_know_keep_their_kind(name: str, kind: str) -> None:
    text = PrometheusExporter(Counters()).text("")[0].decode()
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert families[name] == kind


def test_counts_arrive() -> None:
    counters = Counters()
    counters.count(TASKS, 3, outcome="failed")
    counters.observe(SPOOL_DEPTH, 7)
    families = scraped(counters)
    assert values(families["agent_tasks"], "_total") == {(("outcome", "failed"),): 3, (("outcome", "succeeded"),): 0}
    assert values(families["publisher_spool_depth"]) == {(): 7}
    assert list(values(families[BUILD_INFO.name]).values()) == [1]


def test_histograms_are_cumulative_with_sum_and_count() -> None:
    counters = Counters()
    for seconds in (0.01, 0.3, 5_000):
        counters.observe(TASK_DURATION, seconds)
    family = scraped(counters)[TASK_DURATION.name]
    buckets = {one.labels["le"]: one.value for one in family.samples if one.name.endswith("_bucket")}
    assert len(buckets) == len(TASK_DURATION.buckets) + 1
    assert (buckets["0.01"], buckets["0.25"], buckets["0.5"], buckets["3600.0"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    assert values(family, "_count") == {(): 3}
    assert values(family, "_sum")[()] == pytest.approx(5_000.31)


def test_openmetrics_is_spoken_where_it_is_asked_for() -> None:
    body, content_type = PrometheusExporter(Counters()).text(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert {family.name for family in openmetrics.text_string_to_metric_families(body.decode())} >= {"agent_tasks"}


def test_what_strangers_name_cannot_break_the_text() -> None:
    counters = Counters()
    for follower in ('a"b\\c', "a\nb", "\ud800", "long" * 1_000):
        counters.count(DEAD_LETTERS, follower=follower, reason="empty")
    found = values(scraped(counters)["dead_letters"], "_total")
    assert found[("follower", 'a"b\\c'), ("reason", "empty")] == 1
    assert found[("follower", OTHER_NAME), ("reason", "empty")] == 3


def test_a_program_with_a_registry_of_its_own_can_show_them_there() -> None:
    registry = prometheus_client.CollectorRegistry()
    counters = Counters()
    registry.register(CountersCollector(counters))
    counters.count(TASKS, outcome="succeeded")
    assert registry.get_sample_value("agent_tasks_total", {"outcome": "succeeded"}) == 1
