"""tallyroll run as a service: probes and metrics on a real port, a drain on SIGTERM, on both logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.environment import environment
from tests.patience import PATIENCE_S, SESSION_MS
from tests.servers.test_http_server import ask

pytestmark = [pytest.mark.server, pytest.mark.slow]

TALLYROLL = [sys.executable, "-m", "tallyroll"]


class Service:
    """A running ``tallyroll run``: its process, its URL, the lines it has printed."""

    def __init__(self, environ: Mapping[str, str], *words: str) -> None:
        self.process = subprocess.Popen([*TALLYROLL, "run", *words], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self.printed: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stderr, self.said), (self.process.stdout, self.printed))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], lines: list[str]) -> None:
        lines.extend(stream)  # as they come

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < end, "".join(self.said)
            assert self.process.poll() is None, "".join(self.said)
            threading.Event().wait(0.02)
        return found

    @property
    def url(self) -> str:
        line = self.until(lambda: next((one for one in self.said if one.startswith("serving ")), None))
        return str(line.split()[1].partition("/healthz")[0])

    def json(self, path: str) -> tuple[int, dict[str, Any]]:
        status, _, body = ask(self.url + path)
        return status, json.loads(body)

    def metrics(self) -> dict[str, float]:
        text = ask(f"{self.url}/metrics")[2].decode()
        found: dict[str, float] = {}
        for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code


@contextmanager
def running(environ: Mapping[str, str], *words: str) -> Iterator[Service]:
    service = Service(environ, *words)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.wait()
        for stream in (service.process.stdout, service.process.stderr):
            assert stream is not None
        for reader in service._readers:
            reader.join(PATIENCE_S)
        service.process.stdout.close()  # type: ignore[union-attr]
        service.process.stderr.close()  # type: ignore[union-attr]


def tallyroll(environ: Mapping[str, str], *words: str, code: int = 0) -> str:
    done = subprocess.run([*TALLYROLL, *words], env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def embedded(tmp_path: Path) -> dict[str, str]:
    return environment(TALLYROLL_URL=f"sqlite:///{tmp_path / 'log'}")


def drained(environ: Mapping[str, str], names: list[str]) -> None:
    """The service is ready, has counted what it applied, and leaves nothing behind when it is told to end."""
    tallyroll(environ, "simulate", "--events", "500", "--seed", "1")
    with running(environ, *names, "--http", "127.0.0.1:0", "--interval", "200ms", "--json") as service:
        service.until(lambda: service.json("/readyz")[0] == 200)
        assert service.json("/healthz") == (200, {"ok": True, "reasons": []})
        service.until(lambda: service.printed and json.loads(service.printed[-1])["behind"] == 0)
        tallyroll(environ, "simulate", "--events", "300", "--seed", "2")
        service.until(lambda: service.metrics()["follow_records_total"] >= 800)
        found = service.metrics()
        assert (found["dead_letters_total"], found["follow_flush_failures_total"], found["tallyroll_build_info"]) == (0, 0, 1)
        service.until(lambda: service.metrics().get("follow_lag_records") == 0)
        assert {one["name"] for one in service.json("/readyz")[1]["followers"]} == set(names)
        assert service.end(signal.SIGTERM) == 0
        assert "stopped; all that was applied is stored\n" in service.said
    assert json.loads(tallyroll(environ, "lag", "--json").splitlines()[0])["records"] == 0


def test_on_the_embedded_log_it_serves_and_drains(embedded: dict[str, str]) -> None:
    drained(embedded, ["state", "archive", "analytics"])


def test_on_kafka_it_serves_drains_and_leaves_the_group(kafka: str, prefix: str, tmp_path: Path) -> None:
    environ = environment(TALLYROLL_URL=f"kafka://{kafka}", TALLYROLL_TOPIC_PREFIX=prefix, TALLYROLL_DATA_DIR=str(tmp_path))
    environ["TALLYROLL_SESSION_TIMEOUT_MS"] = str(SESSION_MS)  # who does not leave is waited for longer than this test waits
    tallyroll(environ, "topics", "apply", "--yes")
    drained(environ, ["state"])
    with running(environ, "--http", "127.0.0.1:0") as successor:
        successor.until(lambda: [one for one in successor.json("/readyz")[1]["followers"] if one["partitions"]])
        assert successor.end(signal.SIGTERM) == 0


def test_ctrl_c_ends_it_with_130(embedded: dict[str, str]) -> None:
    with running(embedded, "--http", "127.0.0.1:0") as service:
        service.until(lambda: service.json("/readyz")[0] == 200)
        assert service.end(signal.SIGINT) == 130


def test_a_taken_port_ends_it_before_anything_is_opened(embedded: dict[str, str], tmp_path: Path) -> None:
    with running(embedded, "--http", "127.0.0.1:0") as service:
        address = service.url.removeprefix("http://")
        other = {**embedded, "TALLYROLL_URL": f"sqlite:///{tmp_path / 'other'}"}
        said = tallyroll(other, "run", "--http", address, code=2)
    assert f"--http: {address} is in use by another process" in said
    assert not (tmp_path / "other").exists()


def test_a_log_that_is_away_is_waited_for(tmp_path: Path) -> None:
    environ = environment(TALLYROLL_URL="kafka://127.0.0.1:1", TALLYROLL_DATA_DIR=str(tmp_path))
    with running(environ, "--http", "127.0.0.1:0", "--interval", "100ms", "--json") as service:
        service.until(lambda: service.json("/readyz")[1]["followers"])
        assert service.json("/readyz")[1]["reasons"] == ["state: holds no partition yet; the log has not answered"]
        service.until(lambda: service.printed and json.loads(service.printed[-1])["behind"] is None)
        assert service.json("/healthz")[0] == 200
        assert service.end(signal.SIGTERM) == 0


def test_without_the_exporter_the_page_says_how_to_get_it(embedded: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'prometheus_client' else find(name, *rest)\n"
    )
    paths = [str(tmp_path), embedded.get("PYTHONPATH", "")]
    with running({**embedded, "PYTHONPATH": os.pathsep.join(filter(None, paths))}, "--http", "127.0.0.1:0") as service:
        status, _, body = ask(f"{service.url}/metrics")
        assert (status, b"pip install 'tallyroll[analytics]'" in body) == (501, True)
        service.until(lambda: service.json("/readyz")[0] == 200)
