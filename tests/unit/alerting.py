"""What tests of alerts are made with: runs of the kernel, panes, signals, a sink that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tests.patience import PATIENCE_S

from tallyroll.analytics.alerts.notice import body_of
from tallyroll.analytics.pane import EMPTY, Pane, bin_of, merge, pack
from tallyroll.analytics.signal import Evidence, Severity, Signal
from tallyroll.analytics.spec import BUILT_IN, MetricSpec
from tallyroll.events.ids import id_at
from tallyroll.events.position import Position
from tallyroll.ports import Notice

SPECS = {spec.name: spec for spec in BUILT_IN}
START = 1_767_225_600  # 2026-01-01T00:00:00Z, where FakeClock starts


def pane_of(values: Sequence[float]) -> Pane:
    """The pane of some values above 0; of a metric of successes, of ones and zeros."""
    if not len(values):
        return EMPTY
    array = np.asarray(values, np.float64)
    index, count = np.unique(bin_of(array[array > 0]), return_counts=True)
    return Pane(
        len(array), float(array.sum()), float(((array - array.mean()) ** 2).sum()), float(array.min()), float(array.max()),
        int((array == 1).sum()), int((array == 0).sum()), 0, 0, 0, *pack(index, count),
    )  # fmt: skip


def tasks(ended: int, failed: int) -> Pane:
    """A pane of successes."""
    return pane_of([0.0] * failed + [1.0] * (ended - failed))


def event_id(number: int, at_us: int = START * 1_000_000) -> str:
    return id_at(at_us, number.to_bytes(10))


@dataclass
class Value:
    """One value of a run."""

    key: str
    value: float
    start: int = START


class Seen(NamedTuple):
    """Values of a run, as ``Observed`` says."""

    spec: MetricSpec
    dimension: str
    keys: Sequence[str]
    key_of: NDArray[np.int32]
    values: NDArray[np.float64]
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]

    @property
    def bins(self) -> NDArray[np.int64]:
        return bin_of(np.maximum(self.values * self.spec.scale, self.spec.domain[0]))


class Kernel:
    """Keeps panes as the kernel does, and gives runs of one metric and dimension."""

    def __init__(self, metric: str = "response_time", dimension: str = "agent") -> None:
        self.spec: MetricSpec = SPECS[metric]
        self.dimension = dimension
        self.panes: dict[tuple[str, int], Pane] = {}
        self.looked: list[str] = []
        self.rows = 0

    def run(self, *values: Value) -> Run:
        keys = list(dict.fromkeys(value.key for value in values))
        for value in values:
            at = (value.key, value.start)
            self.panes[at] = merge([self.panes.get(at, EMPTY), pane_of([value.value])])
        observed = Seen(
            self.spec, self.dimension, keys, np.array([keys.index(value.key) for value in values], np.int32),
            np.array([value.value for value in values], np.float64), np.array([value.start for value in values], np.int64),
            np.arange(len(values), dtype=np.int32),
        )  # fmt: skip
        self.rows += len(values)
        return Run(self, [observed], self.rows - len(values))


@dataclass
class Run:
    kernel: Kernel
    observed: list[Seen]
    first: int

    def evidence(self, row: int) -> tuple[str, Position]:
        return event_id(self.first + row), Position("task-events", 0, self.first + row)

    def open_pane(self, metric: str, dimension: str, key: str, start: int) -> Pane:
        assert (metric, dimension) == (self.kernel.spec.name, self.kernel.dimension)
        self.kernel.looked.append(key)
        return self.kernel.panes.get((key, start), EMPTY)


def signal(key: str = "planner", **members: object) -> Signal:
    """An anomaly that a live detector found."""
    given = {
        "state": "firing", "metric": "response_time", "dimension": "agent", "key": key, "detector": "live",
        "severity": Severity.MEDIUM, "since": START, "at": START + 60, "value": 9_000.0, "baseline": 1_200.0, "threshold": 5.0,
        "deviation": 9.0, "unit": "ms", "window_s": 60, "summary": f"response_time of agent {key} is unusual",
        "evidence": (Evidence(event_id(1), Position("task-events", 3, 41)),),
    }  # fmt: skip
    return Signal(**{**given, **members})


@dataclass
class Remembering:
    """A sink that keeps what it is told; ``fails`` is raised instead, as long as there is something in it."""

    name: str = "memory"
    told: list[Notice] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)
    closed: bool = False
    heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def send(self, notice: Notice) -> None:
        if self.fails:
            raise self.fails.pop(0)
        async with self.heard:
            self.told.append(notice)
            self.heard.notify_all()

    async def until(self, count: int) -> list[tuple[str, str]]:
        """Waits until so many were told: states and keys."""
        async with asyncio.timeout(PATIENCE_S), self.heard:
            await self.heard.wait_for(lambda: len(self.told) >= count)
        return [(notice.state, body_of(notice).key) for notice in self.told]

    async def close(self) -> None:
        self.closed = True
