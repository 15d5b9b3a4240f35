"""Alert rules as data: what is watched, from where on it is wrong, and how loudly that is said.

Rules are frozen records that travel as TOML or JSON. Five kinds: a value beyond a bound, an anomaly that a detector has
found, a series that fell silent, an objective whose error budget burns too fast, and a number of the service itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from tallyroll.analytics.signal import Severity
from tallyroll.analytics.spec import FLEET, MINUTE_S, MetricSpec, Success

Comparison = Literal[">", ">=", "<", "<="]
Urgency = Literal["ticket", "page"]
Reads = Literal["sum", "avg", "min", "max", "count", "median", "p95", "p99", "stddev", "success_rate", "error_rate", "per_minute"]
"""What a rule reads from a window: the functions of panes, two percentages of successes, and a count per minute."""

Gauge = Literal["log_unavailable", "lag_records", "watermark_lag_seconds"]
"""Numbers of the service itself: 1 while the log does not answer, records not followed yet, seconds behind in event time."""

SERVICE: Final = "service"
"""The dimension of what is said about tallyroll itself."""

GAUGE_UNITS: Final[Mapping[str, str]] = {"log_unavailable": "", "lag_records": "records", "watermark_lag_seconds": "s"}
ANOMALY_DETECTORS: Final = ("live", "panes")
"""Who finds anomalies; no rule may have such a name."""

OF_SUCCESS: Final = ("success_rate", "error_rate")
DAY_S: Final = 86_400
_LONGEST_S: Final = 35 * DAY_S  # panes are kept no longer
_LONGEST_TEXT: Final = 200

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Seconds = Annotated[int, Meta(ge=0, le=_LONGEST_S)]
Window = Annotated[int, Meta(gt=0, le=_LONGEST_S)]
Count = Annotated[int, Meta(ge=1)]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every rule says.

    ``name`` identifies it; ``urgency`` is ``ticket`` or ``page``; ``labels`` and ``runbook`` travel with its alerts. While it
    fires, the rules named in ``inhibits`` are not told of for the same key, or for any key where it speaks for the whole.
    """

    name: Name
    urgency: Urgency = "ticket"
    labels: dict[Name, Annotated[str, Meta(max_length=_LONGEST_TEXT)]] = {}
    runbook: Annotated[str, Meta(max_length=_LONGEST_TEXT)] = ""
    inhibits: tuple[str, ...] = ()


class AnomalyRule(Rule, frozen=True, kw_only=True, tag="anomaly", tag_field="kind"):
    """Makes alerts of what the detectors find: of these metrics and dimensions (all if empty), from a severity on."""

    metrics: tuple[str, ...] = ()
    dimensions: tuple[str, ...] = ()
    min_severity: Severity = Severity.LOW


class Judged(Rule, frozen=True, kw_only=True):
    """What rules say that judge by themselves.

    It fires after the condition has held for ``for_s``, and is over after it has not held for ``keep_s``, both event time.
    """

    severity: Severity = Severity.MEDIUM
    for_s: Seconds = 0
    keep_s: Seconds = MINUTE_S


class ThresholdRule(Judged, frozen=True, kw_only=True, tag="threshold", tag_field="kind"):
    """A value over a window is beyond a bound.

    ``function`` of ``metric`` over the last ``window_s``, for each key of ``dimension``, or only for ``keys``; judged from
    ``min_count`` values on. With ``clear`` the value has to come back to there before it counts as good again. A window of
    one pane with ``for_s`` 0 is also judged while values arrive, and can fire within a tenth of a second.
    """

    metric: str
    function: Reads
    comparison: Comparison
    value: float
    dimension: str = FLEET
    keys: tuple[str, ...] = ()
    window_s: Window = MINUTE_S
    clear: float | None = None
    min_count: Count = 1


class AbsenceRule(Judged, frozen=True, kw_only=True, tag="absence", tag_field="kind"):
    """A key that had values has none for ``window_s``: one of ``keys``, else each that had any within ``seen_s`` before."""

    metric: str = "events_processed"
    dimension: str = FLEET
    keys: tuple[str, ...] = ()
    window_s: Window = 300
    seen_s: Window = 3_600


class BurnRateRule(Judged, frozen=True, kw_only=True, tag="burn_rate", tag_field="kind"):
    """Failures use up the error budget of ``objective`` (percent of successes) ``factor`` times as fast as it allows.

    It must be so over ``window_s`` and over ``short_s``, which ends the alert soon after the failures end; and there must be
    ``min_count`` ended tasks in the long window, or one failure at night would page.
    """

    window_s: Window
    short_s: Window
    factor: Annotated[float, Meta(gt=0)]
    objective: Annotated[float, Meta(gt=0, lt=100)] = 99.0
    metric: str = "success"
    dimension: str = FLEET
    keys: tuple[str, ...] = ()
    min_count: Count = 100


class GaugeRule(Judged, frozen=True, kw_only=True, tag="gauge", tag_field="kind"):
    """A number of the service itself is beyond a bound."""

    gauge: Gauge
    comparison: Comparison
    value: float


MetricRule = ThresholdRule | AbsenceRule | BurnRateRule
JudgedRule = MetricRule | GaugeRule
AnyRule = AnomalyRule | JudgedRule


_SLOWER: Final = ("success_burns_in_5_days", "success_burns_in_10_days", "success_burns_in_30_days")

DEFAULT_RULES: Final[tuple[AnyRule, ...]] = (
    AnomalyRule(name="anomalies"),
    BurnRateRule(
        name="success_burns_in_2_days", factor=14.4, window_s=3_600, short_s=300, min_count=50,
        urgency="page", severity=Severity.CRITICAL, inhibits=_SLOWER,
    ),
    BurnRateRule(
        name="success_burns_in_5_days", factor=6, window_s=21_600, short_s=1_800, min_count=100,
        urgency="page", severity=Severity.HIGH, inhibits=_SLOWER[1:],
    ),
    BurnRateRule(
        name="success_burns_in_10_days", factor=3, window_s=DAY_S, short_s=7_200, min_count=200,
        severity=Severity.MEDIUM, inhibits=_SLOWER[2:],
    ),
    BurnRateRule(
        name="success_burns_in_30_days", factor=1, window_s=3 * DAY_S, short_s=21_600, min_count=500, severity=Severity.LOW,
    ),
    GaugeRule(name="log_away", gauge="log_unavailable", comparison=">", value=0, for_s=30, severity=Severity.HIGH, inhibits=("lag",)),
    GaugeRule(name="lag", gauge="watermark_lag_seconds", comparison=">", value=300, for_s=300),
)  # fmt: skip
"""What is watched without a file: anomalies as tickets, and the success of all tasks against 99 % over 30 days.

A budget burnt 14.4 times too fast is gone in two days, 6 times in five, 3 times in ten; only the first two page.
"""


class RulesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of rules: its tables ``[[rule]]``, and whether the default rules stay (one of the same name is replaced)."""

    rule: tuple[AnyRule, ...] = ()
    defaults: bool = True


def rules_from(text: str, specs: Iterable[MetricSpec], *, toml: bool) -> tuple[AnyRule, ...]:
    """The rules of a TOML or JSON text, the defaults that stay first. Raises ValueError saying which rule and why."""
    import tomllib  # noqa: PLC0415  # only where users write rules

    try:
        found = msgspec.convert(tomllib.loads(text), RulesFile) if toml else msgspec.json.decode(text, type=RulesFile)
    except (tomllib.TOMLDecodeError, msgspec.MsgspecError) as error:
        raise ValueError(f"alert rules: {error}") from None
    own = {rule.name for rule in found.rule}
    stay = [rule for rule in DEFAULT_RULES if found.defaults and rule.name not in own]
    rules = (*stay, *found.rule)
    check_rules(rules, specs)
    return rules


def check_rules(rules: Sequence[AnyRule], specs: Iterable[MetricSpec]) -> None:
    """Nothing if the rules fit each other and the metrics; else raises ValueError saying which rule and why."""
    known = {spec.name: spec for spec in specs}
    names = [rule.name for rule in rules]
    may_inhibit = {*names, *ANOMALY_DETECTORS, *(rule.name for rule in DEFAULT_RULES)}
    for at, rule in enumerate(rules):
        if rule.name in names[:at]:
            raise ValueError(f"alert rule {rule.name}: there are two of this name")
        for problem in _problems(rule, known, may_inhibit):
            raise ValueError(f"alert rule {rule.name}: {problem}")


def told_by(rules: Iterable[AnyRule]) -> list[str]:
    """Whose names alerts carry: the rules, and for what anomaly rules make alerts of, the detectors."""
    return [*(rule.name for rule in rules if not isinstance(rule, AnomalyRule)), *ANOMALY_DETECTORS]


def _problems(rule: AnyRule, specs: Mapping[str, MetricSpec], may_inhibit: Container[str]) -> Iterator[str]:
    if rule.name in ANOMALY_DETECTORS:
        yield f"name: {' and '.join(ANOMALY_DETECTORS)} are detectors"
    for name in rule.inhibits:
        if name not in may_inhibit:
            yield f"inhibits: there is no rule {name}"
    if isinstance(rule, AnomalyRule):
        dimensions = {dimension for spec in specs.values() for dimension in spec.per}
        yield from (f"metrics: there is no {name}" for name in rule.metrics if name not in specs)
        yield from (f"dimensions: no metric is kept per {name}" for name in rule.dimensions if name not in dimensions)
    elif not isinstance(rule, GaugeRule):
        if rule.metric not in specs:
            yield f"metric: there is no {rule.metric}; there are {', '.join(sorted(specs))}"
        else:
            yield from _misfits(rule, specs[rule.metric])


def _misfits(rule: MetricRule, spec: MetricSpec) -> Iterator[str]:
    if rule.dimension not in spec.per:
        yield f"dimension: {spec.name} is kept per {', '.join(spec.per)}, not per {rule.dimension}"
    if rule.window_s % spec.pane_s or (isinstance(rule, BurnRateRule) and rule.short_s % spec.pane_s):
        yield f"windows are multiples of the panes of {spec.name}, which are of {spec.pane_s} s"
    if isinstance(rule, BurnRateRule):
        if not isinstance(spec.value, Success):
            yield f"metric: {spec.name} does not count successes"
        if rule.short_s >= rule.window_s:
            yield "short_s: expected less than window_s"
    if isinstance(rule, ThresholdRule):
        has = {"count", "per_minute", *(OF_SUCCESS if isinstance(spec.value, Success) else spec.functions)}
        if rule.function not in has:
            yield f"function: {spec.name} has {', '.join(sorted(has))}, not {rule.function}"
        if rule.clear is not None and (rule.clear > rule.value if rule.comparison[0] == ">" else rule.clear < rule.value):
            yield "clear: expected on the good side of value"


def is_live(rule: AnyRule, spec: MetricSpec) -> bool:
    """Whether a rule can be judged while the pane is still open: adding values must be able to settle it."""
    if not isinstance(rule, ThresholdRule) or rule.window_s != spec.pane_s or rule.for_s or rule.function == "stddev":
        return False
    return rule.comparison[0] == ">" or rule.function not in ("count", "sum", "per_minute")
