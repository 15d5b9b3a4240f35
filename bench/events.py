"""Where each microsecond goes: the steps of one event's way, each timed alone, and the same on the reading side."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from typing import Final, cast

from bench.report import ROOT, save, table
from bench.workload import events, wire
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.events.batch import Batch
from tallyroll.events.chain import Chain
from tallyroll.events.codec import HEADERS, decode, decode_head, encode, timestamp_us
from tallyroll.events.event import AgentEvent
from tallyroll.events.ids import new_id
from tallyroll.events.payload import clean_payload
from tallyroll.events.position import Position
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Delivered, Encoded, EventLog
from tallyroll.publish.publisher import EventPublisher
from tallyroll.publish.receipt import Ticket
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters

_COUNT: Final = 20_000


def _per_event_us(work: Callable[[], object], count: int, rounds: int) -> float:
    """CPU of this thread per event, the median of the rounds."""
    times = []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        work()
        times.append((time.thread_time_ns() - begin) / count / 1_000)
    return statistics.median(times)


async def _steps(rounds: int) -> list[tuple[str, str, float]]:
    some = events(_COUNT)
    catalogue = Catalogue()
    records = wire(catalogue, some)
    bodies = [encode(event) for event in some]
    values = [record.value for record in records]
    heads = [decode_head(value) for value in values]
    payloads = [event.payload for event in some]
    publisher = EventPublisher(
        cast("EventLog", _NoLog()),
        catalogue,
        Settings(),
        clock=SystemClock(),
        telemetry=Counters(),
        open_spool=None,
    )
    loop = publisher._enter()  # noqa: SLF001  # the step before the log, alone

    def accept() -> None:
        publisher._direct = type(publisher._direct)()  # noqa: SLF001
        publisher._accept(some, Ticket(_COUNT, 1e12, loop.create_future()), 0)  # noqa: SLF001

    def link() -> list[bytes]:
        chain = Chain("0" * 32)
        return [chain.link(body, 1) for body in bodies]

    steps: list[tuple[str, str, Callable[[], object]]] = [
        ("make", "a UUIDv7", lambda: [new_id() for _ in range(_COUNT)]),
        ("make", "payload checked and copied", lambda: [clean_payload(payload) for payload in payloads]),
        (
            "make",
            "AgentEvent, all of it",
            lambda: [AgentEvent(event.event_type, event.aggregate_id, event.aggregate_type, event.payload) for event in some],
        ),
        ("publish", "encode to CloudEvents", lambda: [encode(event) for event in some]),
        ("publish", "link: sequence, chain, SHA-256", link),
        ("publish", "partition (keys repeat)", lambda: [catalogue.place(event.event_type, event.key.encode()) for event in some]),
        (
            "publish",
            "record and outcome objects",
            lambda: [(Encoded("", "", 0, b"", b"", HEADERS, 0), Delivered(Position("", 0, 0))) for _ in range(_COUNT)],
        ),
        ("publish", "accepted, all of it", accept),
        ("read", "decode the head", lambda: [decode_head(value) for value in values]),
        ("read", "event time from text", lambda: [timestamp_us(head) for head in heads]),
        ("read", "decode the whole event", lambda: [decode(value) for value in values]),
        ("read", "a batch of 500, heads decoded", lambda: [_batch(values[start : start + 500]).heads() for start in range(0, _COUNT, 500)]),
    ]
    found = [(stage, name, _per_event_us(work, _COUNT, rounds)) for stage, name, work in steps]
    publisher._direct = type(publisher._direct)()  # noqa: SLF001
    await publisher.close()
    return found


def _batch(values: list[bytes]) -> Batch:
    return Batch("t", 0, offsets=range(len(values)), keys=[None] * len(values), values=values, timestamps_ms=[0] * len(values))


class _NoLog:
    durable_spool_needed = False

    def drain(self, timeout_s: float) -> int:  # noqa: ARG002  # EventLog
        return 0


def main(argv: list[str]) -> None:
    """Prints the table and writes bench-results/events.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench events", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the median counts (default %(default)s)")
    options = parser.parse_args(argv)
    found = asyncio.run(_steps(options.rounds))
    size = statistics.mean(len(record.value) for record in wire(Catalogue(), events(_COUNT)))
    print(table(f"CPU of one thread per event, values of {size:.0f} bytes", ["stage", "step", "µs"], [list(row) for row in found]))
    where = save("events", {"value_bytes": size, "us_per_event": {f"{stage}: {name}": us for stage, name, us in found}})
    print(f"\nwritten to {where.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
