"""Plain records under the names that users know, for programs that pass such records on. The engine keeps none of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from tallyroll.analytics.profile import AgentPerformance


class MetricType(StrEnum):
    """What kind of number a metric is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    RATE = "rate"
    DURATION = "duration"


@dataclass
class Metric:
    """One number with its name, labels and moment."""

    name: str
    metric_type: MetricType
    description: str
    labels: dict[str, str] = field(default_factory=dict)
    value: float = 0.0
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "type": str(self.metric_type),
            "description": self.description,
            "labels": self.labels,
            "value": self.value,
            "timestamp": self.timestamp.isoformat(),
        }


@dataclass
class PerformanceProfile:
    """One agent's numbers as an object: times in ms, rates in percent, throughput per minute; None where there were no events."""

    agent_id: str
    response_time_avg: float | None = None
    response_time_p95: float | None = None
    response_time_p99: float | None = None
    success_rate: float | None = None
    error_rate: float | None = None
    throughput: float = 0.0
    resource_usage: dict[str, float] = field(default_factory=dict)
    task_completion_rate: float | None = None
    last_updated: datetime | None = None

    @classmethod
    def of(cls, found: AgentPerformance) -> PerformanceProfile:
        """From what the engine gives. ``task_completion_rate``: percent of the started tasks that were completed."""
        started = found["tasks_started"]
        return cls(
            agent_id=found["agent_id"],
            response_time_avg=found["response_time_avg"],
            response_time_p95=found["response_time_p95"],
            response_time_p99=found["response_time_p99"],
            success_rate=found["success_rate"],
            error_rate=found["error_rate"],
            throughput=found["throughput"],
            resource_usage=found["resource_usage"],
            task_completion_rate=min(100.0, 100 * found["tasks_completed"] / started) if started else None,
            last_updated=found["watermark"],
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"last_updated": None if self.last_updated is None else self.last_updated.isoformat()}
