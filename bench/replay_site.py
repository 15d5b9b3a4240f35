"""What every contender of the replay benchmark is given, and how it is timed."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from bench.replay_access import CATALOGUE
from bench.replay_data import Meta, forms
from tallyroll.replay.views import AGENT

BATCH: Final = 500  # records of a batch, as a log gives them

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Site:
    """Where the history is: the folder, the topics, and how much of it."""

    folder: Path
    meta: Meta
    bootstrap: str = ""
    prefix: str = ""
    kafka_count: int = 0
    lookups: int = 1_000

    @property
    def full(self) -> Path:
        """The whole archive."""
        return self.folder / "full"

    @property
    def read(self) -> int:
        """How many records of the archive an agent's state is made of."""
        topics = {CATALOGUE[base].name for base in AGENT.topics}
        return sum(count for where, count in self.meta.records.items() if where.partition("/")[0] in topics)


Step = Callable[[Site], Coroutine[Any, Any, Figures]]


class Timed:
    """Wall, and CPU of this process and of those that ended meanwhile."""

    wall_s = cpu_s = 0.0

    def __enter__(self) -> Self:
        self.wall_s, self.cpu_s = time.perf_counter(), _cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s, self.cpu_s = time.perf_counter() - self.wall_s, _cpu_s() - self.cpu_s

    def figures(self, events: int, **more: Any) -> Figures:  # noqa: ANN401  # plain values
        """As a contender gives them."""
        return {"events": events, "wall_s": self.wall_s, "cpu_s": self.cpu_s, **more}


def _cpu_s() -> float:
    return sum(
        used.ru_utime + used.ru_stime for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def owners(site: Site) -> list[str]:
    """The agents, sorted."""
    told = site.folder / "owners.json"
    if not told.exists():
        made = {event.key.partition(b":")[2].decode() for event in forms(site.meta.agents, site.meta.count) if event.is_agents}
        told.write_bytes(msgspec.json.encode(sorted(made)))
    found: list[str] = msgspec.json.decode(told.read_bytes())
    return found
