"""Alerting rules for Prometheus over the metrics that tallyroll exports: made here, checked by promtool in the tests.

Only the budget of an objective pages; all else is a ticket. Source of the burn rates and their windows: Beyer et al.,
"The Site Reliability Workbook" (2018), chapter 5, multiwindow, multi-burn-rate alerts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from tallyroll.telemetry import (
    ARCHIVE_HEADROOM,
    ARCHIVE_UNARCHIVED,
    DEAD_LETTERS,
    EVENTS_PROCESSED,
    FOLLOW_FLUSH_FAILURES,
    FOLLOW_LAG,
    OUTCOMES,
    PANES_CLOSED,
    TASKS,
    WATERMARK_LAG,
)

Severity = Literal["page", "ticket"]


class RuleOptions(NamedTuple):
    """What differs from one place to the next.

    ``job``: the job under which ``tallyroll run analytics`` is scraped. ``objective``: the share of tasks that should succeed.
    ``min_tasks``: fewer ended tasks than this in the longer window of a burn rate say nothing. ``max_lag_records``,
    ``min_headroom_s``, ``max_watermark_lag_s``: when a follower, the archive, event time are late. ``runbook``: where the page
    lies that has a heading per alert.
    """

    job: str = "analytics-pipeline"
    objective: float = 0.99
    min_tasks: int = 50
    max_lag_records: int = 10_000
    min_headroom_s: int = 86_400
    max_watermark_lag_s: int = 600
    runbook: str = "docs/how-to/answer-alerts.md"


class AlertRule(NamedTuple):
    """One rule: it alerts where ``expr`` has had a value for ``hold``, both as Prometheus writes them."""

    alert: str
    expr: str
    hold: str
    severity: Severity
    summary: str


class RuleGroup(NamedTuple):
    """Rules that are evaluated together."""

    name: str
    rules: Sequence[AlertRule]


class _Burn(NamedTuple):
    rate: float
    long: str
    short: str
    hold: str
    severity: Severity


_BURNS: Final = (
    _Burn(14.4, "1h", "5m", "2m", "page"),  # 2 % of a 30-day budget in an hour
    _Burn(6, "6h", "30m", "15m", "page"),  # 5 % in six hours
    _Burn(3, "1d", "2h", "1h", "ticket"),  # 10 % in a day
    _Burn(1, "3d", "6h", "3h", "ticket"),  # 10 % in three days
)
_FAILED: Final = OUTCOMES[1]


def alert_rules(options: RuleOptions = RuleOptions()) -> Sequence[RuleGroup]:  # noqa: B008  # frozen
    """Every rule. Raises ValueError for an objective that leaves no budget or cannot be missed so fast, and for an odd job."""
    if not options.job.isprintable() or {'"', "\\"} & set(options.job):
        raise ValueError("job: expected a name without quotation marks")
    if not 0 < (1 - options.objective) * _BURNS[0].rate < 1:
        raise ValueError(f"objective: expected less than 1 and more than {1 - 1 / _BURNS[0].rate:.3f}")
    return (RuleGroup("tallyroll-pipeline", tuple(_pipeline(options))), RuleGroup("tallyroll-tasks", tuple(_burns(options))))


def _pipeline(options: RuleOptions) -> Iterator[AlertRule]:
    up = f'up{{job="{options.job}"}}'
    yield AlertRule(
        "AnomalyDetectionFailure", f"{up} == 0 or absent({up})", "2m", "ticket",
        "The analytics service cannot be scraped: nobody looks for anomalies.",
    )  # fmt: skip
    yield AlertRule(
        "AnalyticsStalled",
        f"sum(increase({EVENTS_PROCESSED.name}[10m])) > 0 and sum(increase({PANES_CLOSED.name}[10m])) == 0",
        "5m", "ticket", "Events arrive and no pane closes: windows stand still, and anomalies are not judged.",
    )  # fmt: skip
    yield AlertRule(
        "AnalyticsWatermarkLate",
        f"max by (topic) ({WATERMARK_LAG.name}) > {options.max_watermark_lag_s}"
        f" and sum by (topic) (increase({EVENTS_PROCESSED.name}[10m])) > 0",
        "5m", "ticket", "Event time in {{ $labels.topic }} is {{ $value | humanizeDuration }} behind, though events arrive.",
    )  # fmt: skip
    worst = "max by (follower, topic, partition)"  # each member of a group tells the lag of the whole group
    yield AlertRule(
        "FollowerBehind",
        f"sum by (follower) ({worst} ({FOLLOW_LAG.name})) > {options.max_lag_records}"
        f" and sum by (follower) ({worst} (delta({FOLLOW_LAG.name}[10m]))) >= 0",
        "10m", "ticket", "{{ $labels.follower }} is {{ $value }} records behind the log and does not catch up.",
    )  # fmt: skip
    yield AlertRule(
        "DeadLetters", f"sum by (follower, reason) (increase({DEAD_LETTERS.name}[15m])) > 0", "0m", "ticket",
        "{{ $labels.follower }} put records aside: {{ $labels.reason }}.",
    )  # fmt: skip
    yield AlertRule(
        "FlushFailing", f"sum by (follower) (increase({FOLLOW_FLUSH_FAILURES.name}[10m])) > 3", "5m", "ticket",
        "The store of {{ $labels.follower }} does not take results; they wait in memory.",
    )  # fmt: skip
    yield AlertRule(
        "ArchiveHeadroomLow",
        f"min by (topic) ({ARCHIVE_HEADROOM.name}) < {options.min_headroom_s} and max by (topic) ({ARCHIVE_UNARCHIVED.name}) > 0",
        "5m", "ticket",
        "The log forgets records of {{ $labels.topic }} in {{ $value | humanizeDuration }} that are not archived.",
    )  # fmt: skip


def _burns(options: RuleOptions) -> Iterator[AlertRule]:
    for burn in _BURNS:
        limit = f"{burn.rate * (1 - options.objective):.6g}"
        long, short = _failed_share(burn.long), _failed_share(burn.short)
        enough = f"sum(increase({TASKS.name}[{burn.long}])) >= {options.min_tasks}"
        yield AlertRule(
            f"TaskFailuresBurn{burn.long}", f"{long} > {limit} and {short} > {limit} and {enough}", burn.hold, burn.severity,
            f"Tasks fail {burn.rate:g} times as often as the objective allows: {{{{ $value | humanizePercentage }}}} in {burn.long}.",
        )  # fmt: skip


def _failed_share(window: str) -> str:
    return f'sum(rate({TASKS.name}{{outcome="{_FAILED}"}}[{window}])) / sum(rate({TASKS.name}[{window}]))'


def rules_document(options: RuleOptions = RuleOptions()) -> dict[str, Any]:  # noqa: B008  # frozen
    """A rule file for Prometheus as plain values; written as JSON it is one, since JSON is YAML. Raises as ``alert_rules``."""
    return {
        "groups": [
            {
                "name": group.name,
                "rules": [
                    {
                        "alert": rule.alert,
                        "expr": rule.expr,
                        "for": rule.hold,
                        "labels": {"severity": rule.severity},
                        "annotations": {"summary": rule.summary, "runbook_url": f"{options.runbook}#{rule.alert.lower()}"},
                    }
                    for rule in group.rules
                ],
            }
            for group in alert_rules(options)
        ]
    }


def rules_file(options: RuleOptions = RuleOptions()) -> str:  # noqa: B008  # frozen
    """The same as YAML, laid out for people. Raises as ``alert_rules``."""
    lines = ["# Generated from the metrics of tallyroll: change the options or the code, then make it again.", "groups:"]
    for group in rules_document(options)["groups"]:
        lines += [f"  - name: {group['name']}", "    rules:"]
        for rule in group["rules"]:
            lines += [
                f"      - alert: {rule['alert']}",
                f"        expr: {_quoted(rule['expr'])}",
                f"        for: {rule['for']}",
                "        labels:",
                f"          severity: {rule['labels']['severity']}",
                "        annotations:",
                *(f"          {name}: {_quoted(text)}" for name, text in rule["annotations"].items()),
            ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A YAML scalar in single quotes: nothing in it but the quote itself needs care."""
    return "'" + text.replace("'", "''") + "'"
