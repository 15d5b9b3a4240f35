"""How a metric is read from its panes: which functions it has, in which unit, and what percent and per minute mean. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from tallyroll.analytics.pane import Pane
from tallyroll.analytics.spec import QUANTILES, AggregationFunction, MetricSpec, One, Success

RATE: Final = "rate"
"""A tenth function: how many values a minute of the window had."""

_SHARES: Final = {
    "success_rate": ("success", True),
    "error_rate": ("success", False),
    "tool_success_rate": ("tool_success", True),
    "tool_error_rate": ("tool_success", False),
}

Function = AggregationFunction | str | None


class Reading(NamedTuple):
    """One way to read one metric: ``of`` gives the value from a pane and the minutes it stands for; None where there is none."""

    spec: MetricSpec
    unit: str
    of: Callable[[Pane, float], float | int | None]


class Metrics:
    """The metrics that panes hold, by name. Raises ValueError for two of one name."""

    def __init__(self, specs: Iterable[MetricSpec]) -> None:
        self.specs: Sequence[MetricSpec] = tuple(specs)
        self._by_name = {spec.name: spec for spec in self.specs}
        if len(self._by_name) < len(self.specs):
            raise ValueError("two metrics have one name")

    @property
    def names(self) -> list[str]:
        """What can be asked for: metrics, and the rates read from them."""
        return [*self._by_name, *(share for share, (name, _) in _SHARES.items() if name in self._by_name)]

    def spec(self, name: str) -> MetricSpec | None:
        """The definition, if there is one of that name."""
        return self._by_name.get(name)

    def of(self, dimension: str) -> list[MetricSpec]:
        """Those that have panes of their own per key of a dimension. Raises ValueError where there are none."""
        found = [spec for spec in self.specs if dimension in spec.per]
        if not found:
            known = sorted({one for spec in self.specs for one in spec.per})
            raise ValueError(f"no metric is kept per {dimension!r}; there are {', '.join(known)}")
        return found

    def reading(self, metric: str, function: Function = None, dimension: str | None = None) -> Reading:
        """How to read a metric; without a function in its usual way. Raises ValueError that lists what there is."""
        name, _ = _SHARES.get(metric, (metric, True))
        spec = self._by_name.get(name)
        if spec is None:
            raise ValueError(f"{metric!r} is no metric; there are {', '.join(self.names)}")
        if dimension is not None and dimension not in spec.per:
            raise ValueError(f"{name} is not kept per {dimension!r}; it is per {', '.join(spec.per)}")
        if metric in _SHARES:
            if function is not None:
                raise ValueError(f"{metric} is read in one way; give no function, or read {name}")
            return _share(spec, well=_SHARES[metric][1])
        if function is None:
            return _usual(spec)
        if function == RATE:
            return Reading(spec, f"{spec.unit} per minute" if isinstance(spec.value, One | Success) else "values per minute", _per_minute)
        try:
            return _by_function(spec, AggregationFunction(function))
        except ValueError:
            known = [one for one in AggregationFunction if spec.has_bins or one not in QUANTILES]
            raise ValueError(f"{metric} has no {function!r}; it has {', '.join(known)}, {RATE}") from None


def shown(spec: MetricSpec, function: AggregationFunction, pane: Pane) -> float | int | None:
    """What a function says of a pane, in the unit of the metric."""
    value = pane.read(function)
    if value is None or spec.scale == 1 or function is AggregationFunction.COUNT:
        return value
    return value / spec.scale


def share(pane: Pane, *, well: bool = True) -> float | None:
    """Percent of what went well, or did not; None without values."""
    return None if not pane.n else 100 * (pane.ok if well else pane.n - pane.ok) / pane.n


def _share(spec: MetricSpec, *, well: bool) -> Reading:
    return Reading(spec, "percent", lambda pane, _: share(pane, well=well))


def _per_minute(pane: Pane, minutes: float) -> float:
    return pane.n / minutes


def _by_function(spec: MetricSpec, function: AggregationFunction) -> Reading:
    if function in QUANTILES and not spec.has_bins:
        raise ValueError
    unit = "values" if function is AggregationFunction.COUNT and not isinstance(spec.value, One | Success) else spec.unit
    return Reading(spec, unit, lambda pane, _: shown(spec, function, pane))


def _usual(spec: MetricSpec) -> Reading:
    if isinstance(spec.value, Success):
        return _share(spec, well=True)
    if spec.name == "throughput":
        return Reading(spec, f"{spec.unit} per minute", _per_minute)
    if isinstance(spec.value, One):
        return _by_function(spec, AggregationFunction.COUNT)
    return _by_function(spec, AggregationFunction.SUM if spec.exact else AggregationFunction.AVG)
