"""The same work for every contender: events of a simulated fleet, and their bytes as tallyroll puts them on the wire."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from confluent_kafka.admin import AdminClient, NewTopic

from tallyroll.events.chain import Chain
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent
from tallyroll.events.topics import Catalogue
from tallyroll.simulate import Fleet

DISTINCT: Final = 50_000  # events made once and sent again and again: making them is not what is measured


class Wire(NamedTuple):
    """One record as any client may send it."""

    topic: str
    partition: int
    key: bytes
    value: bytes


def events(count: int = DISTINCT) -> list[AgentEvent]:
    """Events of the same fleet, every time. They are the load's, not the program's: the collector need not look at them."""
    made = list(Fleet(seed=7, agents=50).run(events=count))
    gc.collect()
    gc.freeze()
    return made


def wire(catalogue: Catalogue, some: list[AgentEvent]) -> list[Wire]:
    """Their final bytes, chain included: what raw clients send."""
    chains: dict[tuple[str, int], Chain] = {}
    records = []
    for event in some:
        key = event.key.encode()
        place = catalogue.place(event.event_type, key)
        chain = chains.setdefault(place, Chain("0" * 32))
        records.append(Wire(place.topic, place.partition, key, chain.link(encode(event), 1)))
    return records


def make_topics(bootstrap: str, catalogue: Catalogue) -> None:
    """The catalogue's topics, one copy each, on an empty prefix."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics(
        [NewTopic(t.name, t.partitions, 1, config={"retention.ms": "-1"}) for t in catalogue.topics]
    ).values():
        future.result()


def drop_topics(bootstrap: str, catalogue: Catalogue) -> None:
    """Gives the disk back."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics([topic.name for topic in catalogue.topics]).values():
        future.result()


class Meter:
    """Wall, CPU of this process with all its threads, and memory, between two moments."""

    def __enter__(self) -> Self:
        self.wall_s, self.cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s, self.cpu_s = time.perf_counter() - self.wall_s, time.process_time() - self.cpu_s

    def per(self, count: int) -> Mapping[str, Any]:
        """Rate and CPU per event."""
        return {"events": count, "events_per_s": count / self.wall_s, "cpu_us_per_event": self.cpu_s / count * 1e6}


def resident_mib() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1_048_576


def percentile(sorted_values: list[float], percent: float) -> float:
    """Nearest rank."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * percent / 100))]
