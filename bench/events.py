"""Where each microsecond goes: the steps of one event's way, each timed alone, and the same on the reading side."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from bench.report import ROOT, save, table
from bench.workload import Wire, events, wire
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.events.batch import Batch
from tallyroll.events.chain import Chain
from tallyroll.events.codec import HEADERS, decode, decode_head, encode, timestamp_us
from tallyroll.events.event import AgentEvent
from tallyroll.events.ids import new_id
from tallyroll.events.payload import clean_payload
from tallyroll.events.position import Position
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Delivered, Encoded
from tallyroll.publish.intake import Intake
from tallyroll.publish.load import Load
from tallyroll.publish.receipt import Ticket
from tallyroll.replay.findings import SequenceCheck
from tallyroll.replay.judge import Judge
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.views import FOLD
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
    intake = Intake(catalogue, Settings(), None, clock=SystemClock(), telemetry=Counters(), processors=())
    loop = asyncio.get_running_loop()

    def accept() -> None:
        intake.direct = Load()
        intake.accept(some, Ticket(_COUNT, 1e12, loop.create_future()), 0)

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
        *_folding(records, catalogue),
    ]
    return [(stage, name, _per_event_us(work, _COUNT, rounds)) for stage, name, work in steps]


def _folding(records: Sequence[Wire], catalogue: Catalogue) -> list[tuple[str, str, Callable[[], object]]]:
    """What follows the heads in a replay. Per event of the whole load, though some topics are not folded."""
    bases = {topic.name: topic.base for topic in catalogue.topics if topic.base in FOLD.topics}
    places: dict[tuple[str, int], list[bytes]] = {}
    for record in records:
        if record.topic in bases:
            places.setdefault((record.topic, record.partition), []).append(record.value)
    batches = [
        _batch(values[start : start + 500], place, start) for place, values in places.items() for start in range(0, len(values), 500)
    ]
    rows = [some for batch in batches if (some := Judge().rows(batch)) is not None]

    def folds(view: int | None) -> dict[tuple[str, int], PartitionFold]:
        return {place: PartitionFold(FOLD, place[0], bases[place[0]], place[1], view=view) for place in places}

    def fold(view: int | None) -> None:
        made = folds(view)
        for batch in batches:
            made[batch.topic_partition].apply(batch)

    def fold_rows() -> None:
        made = folds(FOLD.index("agent"))
        for some in rows:
            made[some.topic_partition].apply_rows(some)

    def check() -> None:
        made = {place: SequenceCheck(*place) for place in places}
        for batch in batches:
            made[batch.topic_partition].read(batch)

    return [
        ("fold", "repeats and the agent view", lambda: fold(FOLD.index("agent"))),
        ("fold", "repeats and three views", lambda: fold(None)),
        ("fold", "the agent view from archived rows", fold_rows),
        ("fold", "sequence numbers", check),
    ]


def _batch(values: list[bytes], place: tuple[str, int] = ("t", 0), start: int = 0) -> Batch:
    count = len(values)
    return Batch(*place, offsets=range(start, start + count), keys=[None] * count, values=values, timestamps_ms=[0] * count)


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
