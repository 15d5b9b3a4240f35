"""What ``Counters`` holds, in the text format of Prometheus or OpenMetrics.

Nothing is kept here: a scrape reads the counters, so that counting costs the same with and without an exporter.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tallyroll.telemetry import BUILD_INFO, Counters, Metric, Reading


class CountersCollector(Collector):
    """Shows ``Counters`` to a registry of prometheus_client, one's own or the default one of a program that has one already.

    ::

        counters = Counters()
        prometheus_client.REGISTRY.register(CountersCollector(counters))
        async with Roll.open(telemetry=counters) as roll: ...

    Not promised: one moment over all metrics; each is read at its own.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        counters.observe(BUILD_INFO, 1, version=version("tallyroll"))

    def collect(self) -> Iterator[Family]:
        """One family per metric, those without any value too."""
        for metric, readings in self._counters.readings():
            yield _family(metric, readings)


class PrometheusExporter:
    """The text of a scrape of ``Counters``, with a registry of its own: no metric that ``telemetry`` does not name."""

    def __init__(self, counters: Counters) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(CountersCollector(counters))

    def text(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type, in the format that the header ``Accept`` asks for. From any thread."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _family(metric: Metric, readings: list[Reading]) -> Family:
    if metric.kind == "counter":
        counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        for reading in readings:
            counter.add_metric(reading.values, reading.value)
        return counter
    if metric.kind == "gauge":
        gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for reading in readings:
            gauge.add_metric(reading.values, reading.value)
        return gauge
    histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
    for reading in readings:
        histogram.add_metric(reading.values, list(zip(bounds, accumulate(reading.counts), strict=True)), reading.value)
    return histogram
