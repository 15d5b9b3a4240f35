"""The engine that answers: one agent, one tool, the fleet, series for plots, rankings. Everything is a merge of stored panes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tallyroll.analytics.asked import Asked, about, left_out_of
from tallyroll.analytics.merged import MergedPanes, rolled_for, split
from tallyroll.analytics.pane import Pane, load_row, merge
from tallyroll.analytics.profile import (
    About,
    AgentPerformance,
    ModelPerformance,
    Panes,
    SystemPerformance,
    TaskTypePerformance,
    TenantPerformance,
    ToolPerformance,
    agent_standing,
    best,
    model_standings,
    performance,
    slowest,
    tenant_performance,
    tool_performance,
    tool_standings,
    work,
)
from tallyroll.analytics.showing import Function, Metrics
from tallyroll.analytics.spec import BUILT_IN, FLEET, MINUTE_S, MetricSpec
from tallyroll.analytics.windows import (
    EVER,
    USUALLY_KEPT,
    WINDOWS,
    Retention,
    Stretch,
    TimeWindow,
    moment_of,
    readable,
    rolling,
    seconds_of,
    window_named,
)
from tallyroll.events.names import OTHER_NAME
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Clock, WindowProgress, WindowStore

if TYPE_CHECKING:
    from tallyroll.analytics.correlation import Correlations

_RANKED: Final = 5  # of each kind, in what is told of the fleet
_STANDING: Final = ("success", "throughput", "response_time", "tokens", "cost")
_KEYS_PAGE: Final = 10_000
_MOST_POINTS: Final = 20_000  # of one series: a fortnight of minutes

Window = str | TimeWindow | timedelta | None


@dataclass(frozen=True, slots=True)
class Attached:
    """What an engine on a live log has beside its store.

    ``follow`` sees to it that events are being counted; ``catch_up`` waits until what this process has published is;
    ``ends`` says how far the log goes; ``alerts`` which alerts are not over.
    """

    follow: Callable[[], Awaitable[object]]
    catch_up: Callable[[], Awaitable[None]]
    ends: Callable[[], Awaitable[Mapping[TopicPartition, int] | None]]
    alerts: Callable[[], Awaitable[Sequence[dict[str, Any]]]] | None = None


class Point(NamedTuple):
    """One window of a series: its start, and the value; None where there were no events."""

    start: datetime
    value: float | None


class Ranked(NamedTuple):
    """One key in a ranking."""

    key: str
    value: float


class AnalyticsEngine:
    """Answers from the panes of a store.

    A window is rolling: whole panes that cover the last hour (day, minute, …) up to now, the open minute included, so it is
    up to a minute longer than its name; every answer says its ``window_start`` and ``window_end``. Now is the clock's. For
    histories of the past, imported or simulated, say ``at``: the window then ends with the minute that ends at or holds that moment.
    A window beyond 48 hours back begins and ends with quarter hours, since minutes are not kept for longer.

    ``time_window`` is one of the five names, a ``TimeWindow`` or a ``timedelta``, ``default_window`` without. Raises
    SettingsError, which is a ValueError, for another name, ValueError for a naive ``at``, and StoreUnavailable.
    With an attached log a query waits, at most ``read_wait_ms``, for what this process has published. Queries of one key
    cost by what is stored of it; rankings and ``get_system_analytics`` by what is stored of all keys.
    Events count however late they come. Not promised: anything of more than 35 days (a setting) before the newest event of a partition;
    what could not be counted for that, or could not be read, is told as ``left_out``, what was removed since lowers ``coverage``.
    """

    windows: Mapping[str, TimeWindow] = MappingProxyType(dict(WINDOWS))

    def __init__(  # noqa: PLR0913  # all but the store has a usual value
        self,
        store: WindowStore,
        specs: Sequence[MetricSpec] = BUILT_IN,
        *,
        clock: Clock,
        default_window: str = "1hour",
        attached: Attached | None = None,
        retention: Retention = USUALLY_KEPT,
    ) -> None:
        self.metrics = Metrics(specs)
        self._store = store
        self._merged = MergedPanes(store, self.metrics)
        self._clock = clock
        self._default = default_window
        self._attached = attached
        self._retention = retention

    async def start(self) -> None:
        """Begins to count events, where a log is attached; a query does so by itself."""
        if self._attached is not None:
            await self._attached.follow()

    async def stop(self) -> None:
        """Nothing that must be done: whoever opened the log and the store closes them. Queries go on from the store."""

    async def get_agent_analytics(self, agent_id: str, time_window: Window = None, *, at: datetime | None = None) -> AgentPerformance:
        """One agent in one window. Of an agent without events everything is 0 or None."""
        asked, panes, about = await self._one("agent", agent_id, time_window, at)
        return {"agent_id": agent_id, **performance(self._specs("agent"), panes, asked.minutes, about)}

    async def get_task_analytics(self, task_type: str, time_window: Window = None, *, at: datetime | None = None) -> TaskTypePerformance:
        """The tasks of one type (``payload.task_type``) in one window; as for an agent."""
        asked, panes, about = await self._one("task_type", task_type, time_window, at)
        return {"task_type": task_type, **work(self._specs("task_type"), panes, asked.minutes, about)}

    async def get_model_analytics(self, model: str, time_window: Window = None, *, at: datetime | None = None) -> ModelPerformance:
        """One model in one window; as for an agent."""
        asked, panes, about = await self._one("model", model, time_window, at)
        return {"model": model, **work(self._specs("model"), panes, asked.minutes, about)}

    async def get_tenant_analytics(self, tenant: str, time_window: Window = None, *, at: datetime | None = None) -> TenantPerformance:
        """One tenant in one window; as for an agent."""
        asked, panes, about = await self._one("tenant", tenant, time_window, at)
        return tenant_performance(tenant, self._specs("tenant"), panes, asked.minutes, about)

    async def get_tool_analytics(self, tool: str, time_window: Window = None, *, at: datetime | None = None) -> ToolPerformance:
        """One tool in one window."""
        asked, panes, about = await self._one("tool", tool, time_window, at)
        return tool_performance(tool, self._specs("tool"), panes, asked.minutes, about)

    async def get_system_analytics(self, time_window: Window = None, *, at: datetime | None = None) -> SystemPerformance:
        """The whole fleet in one window, with who did most, who was slowest, the tools, the models and the open alerts."""
        asked, panes, about = await self._one(FLEET, "", time_window, at)
        agents = await self._all("agent", asked.stretch, _STANDING)
        tools = await self._all("tool", asked.stretch, ("tool_success", "tool_latency"))
        models = await self._all("model", asked.stretch, ("throughput", "tokens", "cost"))
        of_agent = self._specs("agent")

        def standings(names: Sequence[str]) -> list[Any]:
            return [agent_standing(name, of_agent, agents[name]) for name in names[:_RANKED]]

        alerts = [] if self._attached is None or self._attached.alerts is None else await self._attached.alerts()
        return {
            **performance(self._specs(FLEET), panes, asked.minutes, about),
            "agents": len(await self._keys("agent", asked.stretch)),
            "top_performers": standings(best(agents)),
            "slowest": standings(slowest(agents)),
            "tools": tool_standings(tools)[:_RANKED],
            "models": model_standings(self._specs("model"), models)[:_RANKED],
            "alerts": list(alerts),
        }

    async def value(  # noqa: PLR0913  # what a number is of
        self, metric: str, function: Function = None, *, dimension: str = FLEET, key: str = "",
        time_window: Window = None, at: datetime | None = None,
    ) -> float | int | None:  # fmt: skip
        """One number: any metric, also a declared one, by any function. Without a function as the metric is usually read.

        Raises ValueError that lists what there is for an unknown metric, function or dimension.
        """
        reading = self.metrics.reading(metric, function, dimension)
        asked = await self._ask(time_window, at)
        panes = await self._merged.read(dimension, asked.stretch, [key])
        pane = panes.get(key, {}).get(reading.spec.name)
        return reading.of(merge([] if pane is None else [pane]), asked.minutes)

    async def series(  # noqa: PLR0913  # what a plot is of
        self, metric: str, function: Function = None, dimension: str = FLEET, key: str = "", *,
        start: datetime, end: datetime, step: Window = "1min",
    ) -> list[Point]:  # fmt: skip
        """One point for each window of ``step`` (side by side, or sliding) that begins in ``start`` to ``end`` (exclusive).

        Windows are aligned to the epoch. A point without events is None, of counts and rates 0. Where minutes are no longer
        kept, steps of less than a quarter hour see each quarter hour's events in the step that it begins in. Raises
        ValueError for more than 20,000 points, for a step that is no multiple of the metric's pane, and as ``value``.
        """
        reading = self.metrics.reading(metric, function, dimension)
        window, width_s = self._window(step)[1], reading.spec.pane_s
        if window.duration_s % width_s or window.slide_s % width_s:
            raise ValueError(f"a step of {metric} is a whole multiple of its pane of {width_s} s")
        since, until = seconds_of(start), seconds_of(end)
        if (until - since) // window.slide_s > _MOST_POINTS:
            raise ValueError(f"{(until - since) // window.slide_s} points are too many; ask for longer steps or less time")
        await self._catch_up()
        stretches = [one for one in window.between(since, until) if one.start >= since]
        if not stretches:
            return []
        rows, known = await self._series_rows(dimension, width_s, Stretch(stretches[0].start, stretches[-1].end), key, window)
        found = split((row for row in rows if row.partition in known), stretches, reading.spec.name)
        minutes = window.duration_s / 60
        return [Point(moment_of(one.start), reading.of(merge(panes), minutes)) for one, panes in zip(stretches, found, strict=True)]

    async def keys(
        self, dimension: str, time_window: Window = None, *, at: datetime | None = None, after: str = "", limit: int = 1_000
    ) -> Sequence[str]:
        """A page of the keys that have a value in the window, ascending; the next page starts ``after`` the last one."""
        self.metrics.of(dimension)
        asked = await self._ask(time_window, at)
        return [key for key in await self._store.keys(dimension, *asked.stretch, after=after, limit=limit) if key != OTHER_NAME]

    async def known(self, dimension: str) -> Sequence[str]:
        """All keys that have a value in any pane that is kept, ascending."""
        self.metrics.of(dimension)
        await self._catch_up()
        return await self._keys(dimension, EVER)

    async def top(  # noqa: PLR0913  # what a ranking is of
        self, metric: str, function: Function = None, dimension: str = "agent", time_window: Window = None, *,
        limit: int = 10, lowest: bool = False, at: datetime | None = None,
    ) -> list[Ranked]:  # fmt: skip
        """The keys with the highest (or lowest) value, that first; keys without a value are left out."""
        reading = self.metrics.reading(metric, function, dimension)
        asked = await self._ask(time_window, at)
        found = await self._all(dimension, asked.stretch, [reading.spec.name])
        values = {key: reading.of(panes[reading.spec.name], asked.minutes) for key, panes in found.items() if reading.spec.name in panes}
        ranked = [Ranked(key, float(value)) for key, value in values.items() if value is not None]
        return sorted(ranked, key=lambda one: (one.value if lowest else -one.value, one.key))[:limit]

    async def correlate(  # which series, in what time
        self, metric: str, function: Function = None, dimension: str = "agent", *, start: datetime, end: datetime
    ) -> Correlations:
        """Which keys' values move together, pane by pane; see ``correlation``. Raises ValueError as ``value``."""
        reading = self.metrics.reading(metric, function, dimension)
        panes = await self.panes(metric, dimension, start=start, end=end)
        width_s = reading.spec.pane_s
        first, last = (seconds_of(one) // width_s for one in (start, end))
        import numpy as np  # noqa: PLC0415  # needs the extra, which other questions do not

        from tallyroll.analytics.correlation import correlate  # noqa: PLC0415  # as above

        values = np.full((len(panes), max(0, last - first + 1)), np.nan)
        for row, of_key in zip(values, panes.values(), strict=True):
            for at, pane in of_key.items():
                value = reading.of(pane, width_s / 60)
                row[at // width_s - first] = np.nan if value is None else value
        counts = np.array([sum(pane.n for pane in of_key.values()) for of_key in panes.values()], np.int64)
        return correlate(list(panes), values, counts)

    async def panes(
        self, metric: str, dimension: str = FLEET, keys: Sequence[str] | None = None, *, start: datetime, end: datetime
    ) -> Mapping[str, Mapping[int, Pane]]:
        """Merged panes by key and begin (seconds since 1970), of those that begin in that time and have values."""
        spec = self.metrics.reading(metric, None, dimension).spec
        await self._catch_up()
        found: dict[str, dict[int, list[Pane]]] = {}
        for row in await self._store.rows(dimension, spec.pane_s, seconds_of(start), seconds_of(end), keys):
            pane = load_row(row.data).get(spec.name)
            if pane is not None and pane.n and row.at.key != OTHER_NAME:
                found.setdefault(row.at.key, {}).setdefault(row.at.start, []).append(pane)
        return {key: {at: merge(panes) for at, panes in of_key.items()} for key, of_key in found.items()}

    def now(self) -> datetime:
        """The moment at which a window without ``at`` ends."""
        return moment_of(self._clock.now_us() / 1_000_000)

    async def newest(self) -> datetime | None:
        """The event time of the newest event that is counted; None before the first."""
        newest = max((one.watermark_us for one in (await self._merged.progress()).values()), default=-1)
        return None if newest < 0 else moment_of(newest / 1_000_000)

    async def left_out(self, *, start: datetime, end: datetime) -> Mapping[str, int]:
        """How many events of the log are in no answer about that time, as far as is known, by reason; see ``LeftOut``."""
        return await left_out_of(self._store, Stretch(seconds_of(start), seconds_of(end)), await self._merged.progress())

    async def changed(self, timeout_s: float) -> None:
        """Waits until something was counted, at most so long: for pictures that are drawn anew."""
        before, until = await self._store.version(), self._clock.monotonic() + timeout_s
        await self._clock.sleep(timeout_s / 4)
        while await self._store.version() == before and self._clock.monotonic() < until:
            await self._clock.sleep(timeout_s / 4)

    # Inside

    async def _one(self, dimension: str, key: str, time_window: Window, at: datetime | None) -> tuple[Asked, Panes, About]:
        asked = await self._ask(time_window, at)
        found = await self._merged.read(dimension, asked.stretch, [key, OTHER_NAME])
        return asked, found.get(key, {}), await self._about(asked, truncated=OTHER_NAME in found)

    async def _all(self, dimension: str, stretch: Stretch, metrics: Sequence[str]) -> Mapping[str, Panes]:
        kept = {spec.name for spec in self.metrics.specs if dimension in spec.per}
        wanted = [metric for metric in metrics if metric in kept]
        found = await self._merged.read(dimension, stretch, None, wanted) if wanted else {}
        return {key: panes for key, panes in found.items() if key != OTHER_NAME and panes}

    async def _keys(self, dimension: str, stretch: Stretch) -> list[str]:
        found: list[str] = []
        while page := await self._store.keys(dimension, *stretch, after=found[-1] if found else "", limit=_KEYS_PAGE):
            found += page
        return [key for key in found if key != OTHER_NAME]

    async def _series_rows(
        self, dimension: str, width_s: int, stretch: Stretch, key: str, window: TimeWindow
    ) -> tuple[Sequence[Any], Mapping[TopicPartition, WindowProgress]]:
        progress = await self._merged.progress()
        newest = max((one.watermark_us for one in progress.values()), default=0) // 1_000_000
        rolled_s = rolled_for(width_s, (window.duration_s, window.slide_s))
        if rolled_s is None and readable(stretch, width_s, newest) != stretch:
            rolled_s = rolled_for(width_s, ())
        return await self._store.rows(dimension, width_s, *stretch, [key], rolled_s=rolled_s), progress

    async def _ask(self, time_window: Window, at: datetime | None) -> Asked:
        name, window = self._window(time_window)
        upto_s = self._clock.now_us() / 1_000_000 if at is None else float(seconds_of(at))
        await self._catch_up()
        progress = await self._merged.progress()
        newest = max((one.watermark_us for one in progress.values()), default=0) // 1_000_000
        # A moment that is asked for ends the window; at the clock's own moment a new minute has begun.
        stretch = rolling(upto_s, window.duration_s)
        if at is not None and upto_s % MINUTE_S == 0:
            stretch = stretch._replace(end=int(upto_s))
        return Asked(name, readable(stretch, MINUTE_S, newest), upto_s, progress)

    def _window(self, asked: Window) -> tuple[str, TimeWindow]:
        if asked is None:
            asked = self._default
        if isinstance(asked, str):
            return asked, window_named(asked)
        if not isinstance(asked, TimeWindow | timedelta):
            raise TypeError(f"time_window is {', '.join(WINDOWS)}, a TimeWindow or a timedelta, not a {type(asked).__name__}")
        window = asked if isinstance(asked, TimeWindow) else TimeWindow(asked)
        return next((name for name, one in self.windows.items() if one == window), f"{window.duration_s}s"), window

    async def _about(self, asked: Asked, *, truncated: bool) -> About:
        ends = None if self._attached is None else await self._attached.ends()
        return await about(self._store, asked, ends, self._retention, truncated=truncated)

    def _specs(self, dimension: str) -> Mapping[str, MetricSpec]:
        return {spec.name: spec for spec in self.metrics.specs if dimension in spec.per}

    async def _catch_up(self) -> None:
        if self._attached is not None:
            await self._attached.catch_up()
