"""The service as its users run it, a process of its own, and a load that comes at a rate: what latencies are measured with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from confluent_kafka import Producer

from bench.analytics_load import Load
from bench.report import ROOT
from tallyroll.events.topics import Catalogue
from tallyroll.settings import Settings

LOG: Final[Path] = ROOT / ".bench-data" / "service.log"
_SLICE_S: Final = 0.01
_WARM_S: Final = 1  # of load before the first probe: the client connects, and everybody does what is done once


@contextmanager
def serving(settings: Settings, *followers: str, processes: int = 1) -> Iterator[None]:
    """These followers run, as ``tallyroll run`` with these settings in so many processes; what it says is in ``LOG``."""
    command = [sys.executable, "-m", "tallyroll", "run", *followers, "--http", "off", "--processes", str(processes)]
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w") as log, subprocess.Popen(command, env={**os.environ, **settings.to_env()}, stdout=log, stderr=log) as service:
        try:
            yield
            if service.poll() is not None:
                raise SystemExit(f"the service ended by itself: {LOG}")
        finally:
            service.terminate()
            service.wait(60)


def send_at(  # noqa: PLR0913  # the load
    rate: int, settings: Settings, catalogue: Catalogue, seconds: float, *, probes_per_s: int, probe: Callable[[Producer], None]
) -> float:
    """Sends so many events a second, ten milliseconds' worth at a time, with probes between them; gives the rate that was reached."""
    load = Load(catalogue, 50)
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "linger.ms": 1})
    per_slice, run, number = round(rate * _SLICE_S), f"{time.time_ns():026x}", 0
    began = due = time.perf_counter()
    for piece in range(round((_WARM_S + seconds) / _SLICE_S)):
        now = datetime.now(UTC)
        for _ in range(per_slice):
            one = load.live(number, now, run)
            number += 1
            producer.produce(one.topic, one.value, one.key, one.partition)
        if piece >= _WARM_S / _SLICE_S and piece % round(1 / _SLICE_S / probes_per_s) == 0:
            probe(producer)
        producer.poll(0)
        due += _SLICE_S
        if (left := due - time.perf_counter()) > 0:
            time.sleep(left)  # a rate is what is wanted
    reached = number / (time.perf_counter() - began)
    producer.flush(60)
    return reached
