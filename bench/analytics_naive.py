"""What people write first: ``json.loads`` of each event, and a dictionary per window, agent and metric, updated one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

WIDTHS_S: Final = (60, 300, 900, 3_600, 86_400)
_ENDS: Final = ("task.completed", "task.failed")
_TOOL_ENDS: Final = ("tool.completed", "tool.failed")
_LN_GAMMA: Final = 0.0200006667


class Cell:
    """Running statistics of one metric in one window."""

    __slots__ = ("bins", "high", "low", "m2", "mean", "n")

    def __init__(self) -> None:
        self.n, self.mean, self.m2, self.low, self.high = 0, 0.0, 0.0, math.inf, -math.inf
        self.bins: dict[int, int] = {}

    def add(self, value: float) -> None:
        """One more value (Welford), with its place in the histogram."""
        self.n += 1
        delta = value - self.mean
        self.mean += delta / self.n
        self.m2 += delta * (value - self.mean)
        self.low, self.high = min(self.low, value), max(self.high, value)
        if value > 0:
            place = math.ceil(math.log(value) / _LN_GAMMA)
            self.bins[place] = self.bins.get(place, 0) + 1


class NaiveEngine:
    """Five windows of the metrics that ended tasks, tool calls and model calls have, per agent."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, int, int], Cell] = {}
        self.seen = 0

    def feed(self, values: Iterable[bytes]) -> None:
        """Records as read."""
        for value in values:
            self._event(json.loads(value))

    def _event(self, event: dict[str, Any]) -> None:
        self.seen += 1
        data = event["data"]
        agent = event["aggregateid"] if event["aggregatetype"] == "agent" else data.get("agent_id")
        if agent is None:
            return
        second = int(datetime.fromisoformat(event["time"]).timestamp())
        kind = event["type"]
        self._add("events_processed", agent, second, 1.0)
        if kind in _ENDS:
            self._add("success", agent, second, float(kind == "task.completed"))
            if (took := data.get("duration_ms")) is not None:
                self._add("response_time", agent, second, float(took))
        elif kind in _TOOL_ENDS:
            self._add("tool_success", agent, second, float(kind == "tool.completed"))
            if (took := data.get("duration_ms")) is not None:
                self._add("tool_latency", agent, second, float(took))
        if (tokens := data.get("tokens")) is not None:
            self._add("tokens", agent, second, float(tokens))
        if (cost := data.get("cost")) is not None:
            self._add("cost", agent, second, float(cost))

    def _add(self, metric: str, agent: str, second: int, value: float) -> None:
        for width in WIDTHS_S:
            place = (metric, agent, width, second - second % width)
            cell = self.cells.get(place)
            if cell is None:
                cell = self.cells[place] = Cell()
            cell.add(value)
