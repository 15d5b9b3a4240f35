"""Spans of several processes arrive at a collector as one trace; a collector that is away holds up nobody."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from services.nats import NatsServer
from services.redis import RedisServer
from tests.environment import environment
from tests.servers.test_run_service import tallyroll

from tallyroll.roll.names import FOLLOWERS

pytestmark = [pytest.mark.server, pytest.mark.slow]

CANARY = "canary-e81"


class Collector(ThreadingHTTPServer):
    """Takes what OTLP over HTTP brings to 127.0.0.1."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []
        self.bodies: list[bytes] = []
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[tuple[str, Span]]:
        """Each with the name of its service."""
        return [
            (next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name"), span)
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.server.asked.append((self.path, self.headers.get("x-key")))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def messenger(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def traced(tmp_path: Path, endpoint: str, **more: str) -> dict[str, str]:
    return environment(TALLYROLL_URL=f"sqlite:///{tmp_path / 'log'}", TALLYROLL_TRACES="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **more)


def test_two_processes_make_one_trace_through_every_follower(
    collector: Collector, redis: RedisServer, messenger: NatsServer, tmp_path: Path
) -> None:
    servers = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port), "NATS_SERVERS": messenger.url, "TALLYROLL_NATS_MODE": "core"}
    environ = traced(tmp_path, collector.url, OTEL_EXPORTER_OTLP_HEADERS="x-key=k", **servers)
    payload = json.dumps({"text": CANARY})
    published = json.loads(
        tallyroll(environ, "publish", "task.started", f"task-{CANARY}", "--agent", CANARY, "--payload", payload, "--json")
    )
    tallyroll({**environ, "OTEL_SERVICE_NAME": "followers"}, "run", "all", "--once")
    spans = collector.spans()
    assert {service for service, _ in spans} == {"tallyroll", "followers"}
    by_name = {span.name: span for _, span in spans}
    assert set(by_name) == {"publish", *(f"apply {follower}" for follower in FOLLOWERS)}
    root = by_name.pop("publish")
    assert {span.trace_id for span in by_name.values()} == {root.trace_id}
    assert {span.parent_span_id for span in by_name.values()} == {root.span_id}
    assert (root.kind, {span.kind for span in by_name.values()}) == (Span.SPAN_KIND_PRODUCER, {Span.SPAN_KIND_CONSUMER})
    attributes = {one.key: one.value for one in root.attributes}
    assert attributes["messaging.message.id"].string_value == published["event_id"]
    assert f"{attributes['messaging.destination.name'].string_value}/" in published["position"]
    assert set(collector.asked) == {("/v1/traces", "k")}
    assert not [body for body in collector.bodies if CANARY.encode() in body]


@pytest.mark.parametrize(
    "more",
    [{"TALLYROLL_TRACES": "off"}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_SAMPLER": "always_off"}],
)
def test_nothing_is_sent_where_it_is_turned_off(collector: Collector, tmp_path: Path, more: dict[str, str]) -> None:
    tallyroll({**traced(tmp_path, collector.url), **more}, "publish", "agent.started", "a-1")
    assert collector.spans() == []


def test_a_collector_that_is_away_costs_neither_events_nor_the_end(tmp_path: Path) -> None:
    environ = traced(tmp_path, "http://127.0.0.1:1")
    said = tallyroll(environ, "publish", "agent.started", "a-1", "--json").splitlines()
    assert json.loads(said[0])["position"]
    assert said[1:] == ["the last spans were not sent: their collector has not answered in 2 s"]
    lines = tallyroll({**environ, "TALLYROLL_LOG_FORMAT": "json"}, "run", "--once", "--json").splitlines()
    assert {"applied", "message"} <= {name for line in lines for name in json.loads(line)}  # every line is an object


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    said = tallyroll(traced(tmp_path, "http://127.0.0.1:1", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"), "run", "--once", code=2)
    assert "OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf" in said
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # names are enough
