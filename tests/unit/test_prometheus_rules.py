"""The rules are about metrics that exist, and every alert leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tallyroll.analytics.prometheus_rules import AlertRule, RuleOptions, alert_rules, rules_file
from tallyroll.telemetry import METRICS, Metric

ROOT = Path(__file__).parents[2]
RULES = [rule for group in alert_rules() for rule in group.rules]
NAMES: dict[str, Metric] = {metric.name: metric for metric in METRICS}


def metrics_of(rule: AlertRule) -> set[str]:
    words = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", re.sub(r'"[^"]*"|by \([^)]*\)', "", rule.expr)))
    return words - {"humanize_duration"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert)
def test_every_metric_of_a_rule_exists(rule: AlertRule) -> None:
    assert metrics_of(rule) <= set(NAMES)
    assert metrics_of(rule) or 'up{job="' in rule.expr


def test_a_metric_that_does_not_exist_is_found() -> None:
    assert metrics_of(RULES[1]._replace(expr='sum by (no_label) (rate(no_such_total{outcome="not_this"}[5m]))')) == {"no_such_total"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert)
def test_rises_are_asked_of_counters_and_levels_of_gauges(rule: AlertRule) -> None:
    for function, name in re.findall(r"\b(rate|increase|delta)\((\w+)", rule.expr):
        assert (NAMES[name].kind == "counter") == (function != "delta")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert)
def test_a_rule_groups_by_labels_that_its_metrics_have(rule: AlertRule) -> None:
    labels = {label for name in metrics_of(rule) for label in NAMES[name].labels}
    grouped = {label for listed in re.findall(r"by \(([^)]*)\)", rule.expr) for label in listed.split(", ")}
    assert grouped <= labels
    assert set(re.findall(r"\$labels\.(\w+)", rule.summary)) <= grouped


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert)
def test_every_alert_has_its_part_of_the_runbook(rule: AlertRule) -> None:
    assert f"\n## {rule.alert}\n" in (ROOT / "docs/how-to/answer-alerts.md").read_text()


def test_only_a_budget_pages() -> None:
    assert {rule.alert for rule in RULES if rule.severity == "page"} == {"TaskFailuresBurn1h", "TaskFailuresBurn6h"}


def test_every_burn_rate_wants_a_minimum_of_tasks() -> None:
    burns = list(alert_rules(RuleOptions(min_tasks=77))[1].rules)
    assert len(burns) == 4
    assert all(rule.expr.endswith(">= 77") for rule in burns)


@pytest.mark.parametrize("options", [RuleOptions(objective=1), RuleOptions(objective=0.9), RuleOptions(job='a"b')])
def test_options_that_make_no_sense_are_refused(options: RuleOptions) -> None:
    with pytest.raises(ValueError, match="expected"):
        alert_rules(options)


def test_quotes_in_options_do_not_break_the_file() -> None:
    assert "runbook_url: 'it''s#deadletters'" in rules_file(RuleOptions(runbook="it's"))
