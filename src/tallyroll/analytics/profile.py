"""What is told of one agent, task type, tool, model, tenant, or of the whole fleet. Pure: from merged panes to plain values.

Times in milliseconds, rates in percent of 0 to 100, throughput per minute of the window. Where there were no events there is no
value: None, or 0 for a count, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypedDict

from tallyroll.analytics.pane import EMPTY, Pane
from tallyroll.analytics.showing import share, shown
from tallyroll.analytics.spec import QUANTILES, AggregationFunction, MetricSpec

_F: Final = AggregationFunction
_TOLD: Final = frozenset(
    {"response_time", "success", "tasks_started", "throughput", "tokens", "cost", "events_processed"}
    | {"tool_latency", "tool_success", "cpu_percent", "memory_bytes"}
)  # what has keys of its own; all other metrics are told under "metrics"

Panes = Mapping[str, Pane]
"""Merged panes by metric."""


class About(TypedDict):
    """Which window an answer is of, and how much of it has been seen."""

    time_window: str  # its name, or its length in seconds
    window_start: datetime
    window_end: datetime  # exclusive; the open pane is in it
    watermark: datetime | None  # the newest event that was counted, of whomever
    truncated: bool  # some keys were counted under "__other__": this one's numbers may lack events
    coverage: float  # share of the window that has been seen and is kept, 0 to 1
    left_out: dict[str, int]  # reason, too_old or unreadable -> events of about this time that could not be counted; empty: none
    as_of: dict[str, int]  # topic/partition -> next offset that was not counted


class WorkPerformance(About):
    """What is told of tasks, whosever they are."""

    tasks_started: int
    tasks_completed: int
    tasks_failed: int
    response_time_avg: float | None  # ms, as are all response times
    response_time_median: float | None
    response_time_p95: float | None
    response_time_p99: float | None
    response_time_min: float | None
    response_time_max: float | None
    response_time_stddev: float | None
    success_rate: float | None  # percent of completed and failed
    error_rate: float | None
    throughput: float  # completed tasks per minute
    tokens: int
    cost: Decimal
    metrics: dict[str, dict[str, float]]  # every other metric that has values: function -> value


class TenantPerformance(WorkPerformance):
    """One tenant in one window."""

    tenant: str
    events_processed: int  # of any type
    tool_calls: int
    tool_success_rate: float | None  # percent
    tool_latency_avg: float | None  # ms
    tool_latency_p95: float | None


class Performance(WorkPerformance):
    """What is told of an agent, and of the fleet."""

    events_processed: int  # of any type
    tool_calls: int
    tool_success_rate: float | None  # percent
    tool_latency_avg: float | None  # ms
    tool_latency_p95: float | None
    resource_usage: dict[str, float]  # means of cpu_percent and memory_bytes; without heartbeats empty


class AgentPerformance(Performance):
    """One agent in one window."""

    agent_id: str


class TaskTypePerformance(WorkPerformance):
    """Tasks of one type in one window."""

    task_type: str


class ModelPerformance(WorkPerformance):
    """One model in one window."""

    model: str


class ToolPerformance(About):
    """One tool in one window."""

    tool: str
    calls: int
    calls_failed: int
    success_rate: float | None  # percent
    error_rate: float | None
    latency_avg: float | None  # ms, as are all latencies
    latency_median: float | None
    latency_p95: float | None
    latency_p99: float | None
    throughput: float  # calls per minute
    tokens: int
    cost: Decimal
    metrics: dict[str, dict[str, float]]


class AgentStanding(TypedDict):
    """One agent in a ranking."""

    agent_id: str
    tasks_completed: int
    success_rate: float | None
    response_time_avg: float | None
    response_time_p95: float | None
    tokens: int
    cost: Decimal


class ToolStanding(TypedDict):
    """One tool in a ranking."""

    tool: str
    calls: int
    success_rate: float | None
    latency_p95: float | None


class ModelStanding(TypedDict):
    """One model in a ranking."""

    model: str
    tasks_completed: int
    tokens: int
    cost: Decimal


class SystemPerformance(Performance):
    """The whole fleet in one window: merged events, never an average of averages."""

    agents: int  # that had an event in the window
    top_performers: list[AgentStanding]  # most tasks that went well, then the quicker one
    slowest: list[AgentStanding]  # largest p95 response time
    tools: list[ToolStanding]  # most calls
    models: list[ModelStanding]  # most tokens
    alerts: list[dict[str, Any]]  # not over yet


def work(specs: Mapping[str, MetricSpec], panes: Panes, minutes: float, about: About) -> WorkPerformance:
    """From merged panes. ``specs``: those of the dimension, by name."""
    ended, completed = panes.get("success", EMPTY), panes.get("throughput", EMPTY).n
    response_time = panes.get("response_time", EMPTY)
    return {
        **about,
        "tasks_started": panes.get("tasks_started", EMPTY).n,
        "tasks_completed": completed,
        "tasks_failed": max(0, ended.n - completed),
        "response_time_avg": response_time.read(_F.AVG),
        "response_time_median": response_time.read(_F.MEDIAN),
        "response_time_p95": response_time.read(_F.P95),
        "response_time_p99": response_time.read(_F.P99),
        "response_time_min": response_time.read(_F.MIN),
        "response_time_max": response_time.read(_F.MAX),
        "response_time_stddev": response_time.read(_F.STDDEV),
        "success_rate": share(ended),
        "error_rate": share(ended, well=False),
        "throughput": completed / minutes,
        "tokens": int(panes.get("tokens", EMPTY).sum),
        "cost": money(specs.get("cost"), panes),
        "metrics": others(specs, panes),
    }


def tenant_performance(tenant: str, specs: Mapping[str, MetricSpec], panes: Panes, minutes: float, about: About) -> TenantPerformance:
    """As ``work``, of a tenant, with its events and tools."""
    tools, tool_latency = panes.get("tool_success", EMPTY), panes.get("tool_latency", EMPTY)
    return {
        "tenant": tenant,
        **work(specs, panes, minutes, about),
        "events_processed": panes.get("events_processed", EMPTY).n,
        "tool_calls": tools.n,
        "tool_success_rate": share(tools),
        "tool_latency_avg": tool_latency.read(_F.AVG),
        "tool_latency_p95": tool_latency.read(_F.P95),
    }


def performance(specs: Mapping[str, MetricSpec], panes: Panes, minutes: float, about: About) -> Performance:
    """As ``work``, of an agent or the fleet, with events, tools and resources."""
    tools, tool_latency = panes.get("tool_success", EMPTY), panes.get("tool_latency", EMPTY)
    used = {name: panes[name] for name in ("cpu_percent", "memory_bytes") if panes.get(name, EMPTY).n}
    return {
        **work(specs, panes, minutes, about),
        "events_processed": panes.get("events_processed", EMPTY).n,
        "tool_calls": tools.n,
        "tool_success_rate": share(tools),
        "tool_latency_avg": tool_latency.read(_F.AVG),
        "tool_latency_p95": tool_latency.read(_F.P95),
        "resource_usage": {name: float(pane.sum / pane.n) for name, pane in used.items()},
    }


def tool_performance(tool: str, specs: Mapping[str, MetricSpec], panes: Panes, minutes: float, about: About) -> ToolPerformance:
    """As ``performance``, of a tool."""
    ended, latency = panes.get("tool_success", EMPTY), panes.get("tool_latency", EMPTY)
    return {
        **about,
        "tool": tool,
        "calls": ended.n,
        "calls_failed": ended.n - ended.ok,
        "success_rate": share(ended),
        "error_rate": share(ended, well=False),
        "latency_avg": latency.read(_F.AVG),
        "latency_median": latency.read(_F.MEDIAN),
        "latency_p95": latency.read(_F.P95),
        "latency_p99": latency.read(_F.P99),
        "throughput": ended.n / minutes,
        "tokens": int(panes.get("tokens", EMPTY).sum),
        "cost": money(specs.get("cost"), panes),
        "metrics": others(specs, panes),
    }


def money(spec: MetricSpec | None, panes: Panes) -> Decimal:
    """The cost, exact."""
    return Decimal(panes.get("cost", EMPTY).sum) / (spec.scale if spec is not None else 1)


def others(specs: Mapping[str, MetricSpec], panes: Panes) -> dict[str, dict[str, float]]:
    """Metrics without keys of their own: what each of their functions says."""
    found: dict[str, dict[str, float]] = {}
    for name in sorted(specs.keys() & panes.keys() - _TOLD):
        spec, pane = specs[name], panes[name]
        read = {one: shown(spec, one, pane) for one in spec.functions if spec.has_bins or one not in QUANTILES}
        if pane.n:
            found[name] = {str(one): value for one, value in read.items() if value is not None}
    return found


def agent_standing(agent_id: str, specs: Mapping[str, MetricSpec], panes: Panes) -> AgentStanding:
    """One agent for a ranking."""
    response_time = panes.get("response_time", EMPTY)
    return {
        "agent_id": agent_id,
        "tasks_completed": panes.get("throughput", EMPTY).n,
        "success_rate": share(panes.get("success", EMPTY)),
        "response_time_avg": response_time.read(_F.AVG),
        "response_time_p95": response_time.read(_F.P95),
        "tokens": int(panes.get("tokens", EMPTY).sum),
        "cost": money(specs.get("cost"), panes),
    }


def best(agents: Mapping[str, Panes]) -> list[str]:
    """Agents that completed tasks, by tasks that went well, the quicker of two first."""

    def rank(agent: str) -> tuple[float, float, str]:
        return -agents[agent].get("success", EMPTY).ok, agents[agent].get("response_time", EMPTY).read(_F.AVG) or 0.0, agent

    return sorted((one for one in agents if agents[one].get("success", EMPTY).ok), key=rank)


def slowest(agents: Mapping[str, Panes]) -> list[str]:
    """Agents that ended tasks, by p95 response time."""
    times = {one: panes["response_time"].read(_F.P95) or 0.0 for one, panes in agents.items() if panes.get("response_time", EMPTY).n}
    return sorted(times, key=lambda one: (-times[one], one))


def tool_standings(tools: Mapping[str, Panes]) -> list[ToolStanding]:
    """All tools that were called, most calls first."""
    found: list[ToolStanding] = [
        {
            "tool": tool,
            "calls": panes["tool_success"].n,
            "success_rate": share(panes["tool_success"]),
            "latency_p95": panes.get("tool_latency", EMPTY).read(_F.P95),
        }
        for tool, panes in tools.items()
        if panes.get("tool_success", EMPTY).n
    ]
    return sorted(found, key=lambda one: (-one["calls"], one["tool"]))


def model_standings(specs: Mapping[str, MetricSpec], models: Mapping[str, Panes]) -> list[ModelStanding]:
    """All models, most tokens first."""
    found: list[ModelStanding] = [
        {
            "model": model,
            "tasks_completed": panes.get("throughput", EMPTY).n,
            "tokens": int(panes.get("tokens", EMPTY).sum),
            "cost": money(specs.get("cost"), panes),
        }
        for model, panes in models.items()
    ]
    return sorted(found, key=lambda one: (-one["tokens"], -one["tasks_completed"], one["model"]))
