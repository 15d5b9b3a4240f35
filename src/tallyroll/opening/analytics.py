"""What analytics counts, judges and tells by: metrics, alert rules, receivers, detectors, the store of panes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from tallyroll.adapters.extras import require
from tallyroll.analytics.spec import BUILT_IN, MetricSpec, specs_from_toml
from tallyroll.errors import SettingsError
from tallyroll.opening.declared import declared_in
from tallyroll.ports import AlertSink, Clock, Detector, WindowStore
from tallyroll.settings import Settings

if TYPE_CHECKING:
    from tallyroll.analytics.alerts.event_sink import Publish
    from tallyroll.analytics.alerts.rules import AnyRule

DETECTORS: Final = ("ensemble", "moving-average", "windowed-gaussian", "half-space-trees", "isolation-forest")
"""The detectors that can be chosen for a look at the past; the first is the one that watches."""


def window_store_file(settings: Settings) -> Path:
    """Where the store of analytics lies, whether or not there is one."""
    return settings.data_dir / "analytics.db"


async def open_window_store(settings: Settings) -> WindowStore:
    """The store of analytics: a file beside the log. Raises MissingExtra, StoreUnavailable."""
    require("analytics")
    from tallyroll.adapters.sqlite.window_store import SqliteWindowStore  # noqa: PLC0415  # opened when first needed

    return await SqliteWindowStore.open(None if settings.in_memory else window_store_file(settings))


@asynccontextmanager
async def scratch_window_store() -> AsyncIterator[WindowStore]:
    """An empty store in a file of its own, which is gone afterwards. Raises MissingExtra, StoreUnavailable."""
    require("analytics")
    from tallyroll.adapters.sqlite.window_store import SqliteWindowStore  # noqa: PLC0415  # as above

    with TemporaryDirectory(prefix="tallyroll-") as folder:
        store = await SqliteWindowStore.open(Path(folder) / "analytics.db")
        try:
            yield store
        finally:
            await store.close()


def metrics_of(settings: Settings, more: Sequence[MetricSpec] = ()) -> Sequence[MetricSpec]:
    """The built-in metrics, those of the settings' file, and more.

    Raises SettingsError naming the file for what is wrong in it; TypeError where ``more`` holds something else.
    """
    if strangers := [more] if not isinstance(more, Iterable) else [one for one in more if not isinstance(one, MetricSpec)]:
        raise TypeError(f"metrics: expected MetricSpec objects in a list, got {type(strangers[0]).__name__}")
    path = settings.metrics_file
    declared = () if path is None else declared_in(path, "TALLYROLL_METRICS_FILE", specs_from_toml)
    specs = (*BUILT_IN, *declared, *more)
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError("TALLYROLL_METRICS_FILE", f"there are two metrics of the name {', '.join(twice)}; choose another")
    return specs


def alert_rules_of(settings: Settings, specs: Sequence[MetricSpec]) -> Sequence[AnyRule]:
    """The default alert rules, or those of the settings' file. Raises SettingsError naming the file for what is wrong in it."""
    from tallyroll.analytics.alerts.rules import DEFAULT_RULES, rules_from  # noqa: PLC0415  # needs the extra

    path = settings.alerts_file
    if path is None:
        return DEFAULT_RULES
    return declared_in(path, "TALLYROLL_ALERTS_FILE", partial(rules_from, specs=specs, toml=path.suffix != ".json"))


def open_alert_sinks(settings: Settings, publish: Publish, clock: Clock) -> Sequence[AlertSink]:
    """Where alerts go: the log file, an event, and what the settings name. Nothing is connected before something is sent."""
    from tallyroll.adapters.system.alert_log import LogSink  # noqa: PLC0415  # opened when first needed
    from tallyroll.analytics.alerts.event_sink import EventSink  # noqa: PLC0415  # as above

    sinks: list[AlertSink] = [LogSink(), EventSink(publish)]
    if settings.alerts_webhook_url:
        from tallyroll.adapters.http.webhook import WebhookSink  # noqa: PLC0415  # as above

        sinks.append(WebhookSink(settings.alerts_webhook_url, settings.alerts_webhook_secret, clock=clock))
    if settings.redis_host:
        require("redis")
        from tallyroll.adapters.redis.alert_sink import RedisSink  # noqa: PLC0415  # as above

        sinks.append(RedisSink(settings.redis_host, settings.redis_port, settings.redis_password))
    if settings.nats_servers:
        require("nats")
        from tallyroll.adapters.nats.alert_sink import NatsSink  # noqa: PLC0415  # as above

        sinks.append(NatsSink(settings.nats_servers.split(",")))
    return sinks


def new_detector(name: str) -> Detector:
    """A detector that has learned nothing yet. Raises MissingExtra; ValueError for a name that is not in DETECTORS."""
    if name not in DETECTORS:
        raise ValueError(f"no detector of that name; there are {', '.join(DETECTORS)}")
    if name == "half-space-trees":
        require("ml")
        from tallyroll.adapters.ml.half_space_trees import HalfSpaceTrees  # noqa: PLC0415  # needs the extra

        return HalfSpaceTrees()
    if name == "isolation-forest":
        require("ml")
        from tallyroll.adapters.ml.isolation_forest import IsolationForest  # noqa: PLC0415  # needs the extra

        return IsolationForest()
    require("analytics")
    from tallyroll.analytics.anomalies.detectors import Ensemble  # noqa: PLC0415  # needs the extra
    from tallyroll.analytics.anomalies.plain import MovingAverage, WindowedGaussian  # noqa: PLC0415  # as above

    if name == "ensemble":
        return Ensemble()
    return MovingAverage() if name == "moving-average" else WindowedGaussian()
